"""The seam that every framework fits.

A backend turns a model and a :class:`Workload` into an :class:`Artifact` on disk (``export``), and an artifact
into a :class:`Runner` (``load``). The two are separate so that building, storing and loading are measured too, and
so that an artifact is built once and used by many measurements.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from inference_lib.seam.artifact import Artifact
from inference_lib.seam.contract import Runner
from inference_lib.seam.pictures import RANDOM
from inference_lib.seam.workload import Workload


@dataclass(frozen=True)
class Availability:
    """Whether a framework can be used here: its version, or why not and what would mend it."""

    usable: bool
    version: str = ""
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Support:
    """Whether a usable framework can run one workload, and why not."""

    ok: bool
    reason: str = ""


class Backend(Protocol):
    """One way to run a model with one framework."""

    name: str
    """The key in records and on the command line."""
    title: str
    """What a reader sees."""
    times_kernels: bool
    """Whether an export chooses kernels by timing them, and must have the machine for itself."""

    def availability(self, device: str) -> Availability:
        """Say whether the framework is usable on a kind of device: ``cpu`` or ``cuda``."""

    def supports(self, workload: Workload) -> Support:
        """Say whether a usable framework can run ``workload``."""

    def artifact_key(self, workload: Workload) -> str:
        """Name the artifact of ``workload``: workloads and backends with the same key share it."""

    def versions(self) -> dict[str, str]:
        """Versions (and, for an engine, the GPU) that the exported artifact depends on."""

    def export(self, model: torch.nn.Module, workload: Workload, directory: Path) -> None:
        """Write the artifact into the empty ``directory``, its scales from the pictures of ``workload.calibration``."""

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the precision of the exported weights back from disk; several are joined with a plus."""

    def load(self, artifact: Artifact) -> Runner:
        """Return a runner for ``artifact.workload``."""


@runtime_checkable
class QuantizingBackend(Backend, Protocol):
    """A backend with a calibrated precision: it can tell how much of the work is really done in eight bits."""

    def eight_bits_percent(self, artifact: Artifact) -> float:
        """Read from the artifact, or what it becomes when loaded, which part of the multiply-adds has 8-bit factors."""


def supports(backend: Backend, workload: Workload) -> Support:
    """Say whether ``backend`` can run ``workload``, what a reader's own model allows included.

    A backend that exports from an ONNX file names the precisions in which it does in ``from_onnx``.
    """
    model, precisions = workload.model, getattr(backend, "from_onnx", ())
    if model.file and not precisions:
        return Support(ok=False, reason=f"{backend.title} needs a PyTorch module, and an ONNX file has none")
    if model.file and workload.precision.name not in precisions:
        return Support(ok=False, reason=f"{backend.title} runs an ONNX file in {' or '.join(precisions)}")
    if workload.precision.calibrated and model.dataset == RANDOM:
        return Support(ok=False, reason=f"{model.title} has no pictures to be calibrated with; name some with --data")
    if model.batch not in (None, workload.batch_size):
        return Support(ok=False, reason=f"{model.title} takes batches of {model.batch} and no others")
    return backend.supports(workload)
