"""Exported models on disk: built once, reused while nothing they depend on has changed."""

import errno
import fcntl
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from inference_lib.seam.artifact import MANIFEST, Artifact
from inference_lib.seam.backend import Backend, QuantizingBackend
from inference_lib.seam.workload import Device, Workload
from inference_lib.support import paths
from inference_lib.support.errors import CourseError
from inference_lib.support.files import let_others_read, locked, shown
from inference_lib.support.hashes import module_hash


def build(backend: Backend, workload: Workload, root: Path = paths.ARTIFACTS, *, timed: bool = True) -> Artifact:
    """Return the artifact of ``workload``, exporting it unless a fresh one is there.

    A stale artifact (other weights, another exporter or version of it, another GPU for an engine) is rebuilt, never
    used. ``manifest["build_seconds"]`` is what building it cost, whenever that was, and is missing where it was not
    ``timed``: with other exports beside it, the time would be theirs as well. Raise CourseError where the exported
    weights are not in the precision that the workload names.
    """
    directory = root / backend.artifact_key(workload)
    if found := find_artifact(backend, workload, root):
        return found
    with _current(workload.device):
        return Artifact(workload, directory, _export(backend, workload, directory, timed))


def find_artifact(backend: Backend, workload: Workload, root: Path = paths.ARTIFACTS) -> Artifact | None:
    """Return the artifact of ``workload`` if a fresh one is there."""
    directory = root / backend.artifact_key(workload)
    with _current(workload.device):
        manifest = _fresh_manifest(directory, _dependencies(backend, workload))
    return None if manifest is None else Artifact(workload, directory, manifest)


def _current(device: Device) -> AbstractContextManager[None]:
    """Make ``device`` the one that CUDA's libraries compile for, and tell the name of, unless they are asked else."""
    return torch.cuda.device(device.torch) if device.index else nullcontext()


def _dependencies(backend: Backend, workload: Workload) -> dict[str, Any]:
    """Return what the artifact is made from; a change in any of these makes it stale."""
    calibrated = {"calibration": workload.calibration.identity(workload.model)}
    return (calibrated if workload.precision.calibrated else {}) | {
        "key": backend.artifact_key(workload),
        "weights_sha256": workload.model.identity,
        "versions": backend.versions(),
        "code": module_hash(type(backend).export.__module__),
    }


def _fresh_manifest(directory: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest in ``directory`` if there is one and it says what is wanted."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):  # it is damaged, or was never there
        return None
    if not isinstance(manifest, dict) or any(manifest.get(key) != value for key, value in wanted.items()):
        return None
    return manifest


def _export(backend: Backend, workload: Workload, directory: Path, timed: bool) -> dict[str, Any]:
    """Export into a folder of this process beside the final one, then swap: a half-written artifact is never found."""
    with _scratch(directory) as scratch:
        model = workload.model.load().eval()  # whatever mode it came in: dropout would be exported, too
        with _alone(backend, directory.parent):
            start = time.perf_counter()
            backend.export(model, workload, scratch)
            seconds = time.perf_counter() - start
        wanted = _dependencies(backend, workload)
        manifest = wanted | ({"build_seconds": seconds} if timed else {})
        _check_weights(backend, workload, scratch)
        if isinstance(backend, QuantizingBackend) and workload.precision.calibrated:
            manifest["eight_bits_percent"] = backend.eight_bits_percent(Artifact(workload, scratch))
            if not manifest["eight_bits_percent"]:
                raise CourseError(f"{backend.title}'s {workload} computes nothing in eight bits; it is not used")
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=2))
        let_others_read(scratch)
        return _swap(scratch, directory, wanted) or manifest


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """Yield a folder beside ``directory``, gone at the end; remove those of processes that were killed."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locked(directory.parent):  # nobody takes a folder for left behind between its making and its lock
        for left in [*directory.parent.glob(".*.part"), *directory.parent.glob(".*.old")]:
            with suppress(OSError), locked(left, fcntl.LOCK_NB):
                shutil.rmtree(left, ignore_errors=True)
        made = ExitStack()
        scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.", suffix=".part"))
        made.callback(shutil.rmtree, scratch, ignore_errors=True)
        made.enter_context(locked(scratch))
    with made:
        yield scratch


def _alone(backend: Backend, folder: Path) -> AbstractContextManager[None]:
    """Let one process at a time export to ``folder`` where the exporter times kernels.

    Kernels that are timed beside others are chosen wrongly. The wait is over before the clock starts.
    """
    if not backend.times_kernels:
        return nullcontext()
    lock = folder / "builder.lock"
    lock.touch()
    return locked(lock, holder=f"exports to {shown(folder)}")


def _check_weights(backend: Backend, workload: Workload, directory: Path) -> None:
    """Refuse weights in another precision. A calibrated one may leave some in more bits, where eight lose too much."""
    found, wanted = backend.stored_precision(Artifact(workload, directory)), workload.precision
    if wanted.storage not in (found.split("+") if wanted.calibrated else [found]):
        raise CourseError(
            f"{backend.title} exported {workload.model} with {found} weights where {workload.precision.storage} "
            "was asked for; the export is not used"
        )


def _swap(scratch: Path, directory: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Put ``scratch`` in the place of ``directory``, unless another process did so meanwhile; return its manifest then.

    Theirs stays, because somebody may be reading it already.
    """
    old = scratch.with_suffix(".old")
    while True:
        try:
            scratch.rename(directory)  # where nothing is
            return None
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if theirs := _fresh_manifest(directory, wanted):
            return theirs
        with suppress(FileNotFoundError):
            directory.rename(old)
        shutil.rmtree(old, ignore_errors=True)
