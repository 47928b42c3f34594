"""Exported models on disk: built once, reused while nothing they depend on has changed."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from inference_lib import paths
from inference_lib.backends.base import Artifact, Backend, Workload
from inference_lib.errors import CourseError
from inference_lib.hashes import module_hash
from inference_lib.models import load_pretrained, weights_sha256


def build(backend: Backend, workload: Workload, root: Path = paths.ARTIFACTS) -> Artifact:
    """Return the artifact of ``workload``, exporting it unless a fresh one is there.

    A stale artifact (other weights, another exporter or version of it, another GPU for an engine) is rebuilt, never
    used.
    ``manifest["build_seconds"]`` is what building it cost, whenever that was.

    Raises:
        CourseError: the exported weights are not in the precision that the workload names.

    """
    directory = root / backend.artifact_key(workload)
    wanted = _dependencies(backend, workload)
    manifest = _fresh_manifest(directory, wanted) or _export(backend, workload, directory, wanted)
    return Artifact(workload, directory, manifest)


def is_built(backend: Backend, workload: Workload, root: Path = paths.ARTIFACTS) -> bool:
    """Whether ``build`` would find a fresh artifact."""
    wanted = _dependencies(backend, workload)
    return _fresh_manifest(root / backend.artifact_key(workload), wanted) is not None


def _dependencies(backend: Backend, workload: Workload) -> dict[str, Any]:
    """Return what the artifact is made from; a change in any of these makes it stale."""
    return {
        "key": backend.artifact_key(workload),
        "weights_sha256": weights_sha256(workload.model),
        "versions": backend.versions(),
        "code": module_hash(type(backend).export.__module__),
    }


def _fresh_manifest(directory: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest in ``directory`` if there is one and it says what is wanted."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return manifest if all(manifest.get(key) == value for key, value in wanted.items()) else None


def _export(backend: Backend, workload: Workload, directory: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Export into a folder beside the final one, then swap: a half-written artifact is never found."""
    scratch = directory.with_name(directory.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    model = load_pretrained(workload.model)
    start = time.perf_counter()
    backend.export(model, workload, scratch)
    manifest = wanted | {"build_seconds": time.perf_counter() - start}
    found = backend.stored_precision(Artifact(workload, scratch))
    if found != workload.storage:
        raise CourseError(
            f"{backend.title} exported {workload.model} with {found} weights where {workload.storage} was asked for; "
            "the export is not used"
        )
    (scratch / "manifest.json").write_text(json.dumps(manifest, indent=2))
    shutil.rmtree(directory, ignore_errors=True)
    scratch.rename(directory)
    return manifest
