"""The seam that every framework fits: what is asked for, what is exported, what is run.

A backend turns a model and a :class:`Workload` into an :class:`Artifact` on disk (``export``), and an artifact
into a :class:`Runner` (``load``). The two are separate so that building, storing and loading are measured too, and
so that an artifact is built once and used by many measurements.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch

from inference_lib.errors import CourseError, unknown_name
from inference_lib.models import MODELS

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
DEVICES = ("cpu", "cuda")
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
IMAGE_SHAPE = (3, 224, 224)
"""Channels, height, width of one input image."""


@dataclass(frozen=True, order=True)
class Workload:
    """What is asked for: one cell of the tables.

    ``precision`` is the arithmetic of the convolutions and matrix products: ``fp32`` means IEEE single precision,
    ``tf32`` means single-precision storage with TensorFloat-32 products, ``fp16`` and ``bf16`` mean 16-bit storage
    and products.
    """

    model: str
    batch_size: int
    precision: str = "fp32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Raise CourseError for a name or a number that cannot be measured."""
        if self.model not in MODELS:
            raise unknown_name("model", self.model, tuple(MODELS))
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.device not in DEVICES:
            raise unknown_name("device", self.device, DEVICES)
        if self.batch_size < 1:
            raise CourseError(f"batch size {self.batch_size} is not a positive number; choose 1 or more")

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of one batch: N x 3 x 224 x 224."""
        return (self.batch_size, *IMAGE_SHAPE)

    @property
    def host_dtype(self) -> np.dtype:
        """Dtype of the host arrays that enter a runner: float16 for ``fp16``, else float32."""
        return np.dtype(np.float16 if self.precision == "fp16" else np.float32)

    @property
    def storage(self) -> str:
        """Precision of the stored weights: TF32 is a way to multiply, its weights are stored as ``fp32``."""
        return "fp32" if self.precision == "tf32" else self.precision

    @property
    def torch_dtype(self) -> torch.dtype:
        """Dtype of the weights and activations in PyTorch."""
        return DTYPES[self.precision]

    def __str__(self) -> str:
        return f"{self.model} {self.precision} batch {self.batch_size} on {self.device}"


@dataclass(frozen=True)
class Style:
    """How a backend is drawn in the whole book: a colour per framework, a marker and a dash per way of using it.

    The colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), told apart by colour-blind readers.
    """

    color: str
    marker: str = "o"
    dash: str = "-"


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


def precision_of(dtypes: Iterable[str]) -> str:
    """Return what the course calls dtypes (``torch.float16``: ``fp16``); several are joined with a plus."""
    names = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    return "+".join(sorted({names.get(dtype.removeprefix("torch."), dtype) for dtype in dtypes}))


@dataclass(frozen=True)
class Artifact:
    """An exported model on disk, and the manifest that says what it was made from."""

    workload: Workload
    directory: Path
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of everything that was exported."""
        return sum(f.stat().st_size for f in self.directory.rglob("*") if f.is_file() and f.name != "manifest.json")


class Runner(Protocol):
    """A loaded model for one workload. A context manager: leaving it frees what it holds.

    ``infer`` is what an application calls: host array in (N x 3 x 224 x 224, ``workload.host_dtype``), host array of
    logits out (N x 10, float32). ``upload``, ``compute`` and ``download`` are the same work in three parts; the
    first two may return before the device is done.
    """

    at_once: int
    """How many computations run side by side if that many are queued: 1, unless the framework has a queue."""

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """The CUDA stream on which the parts are queued; None on a CPU."""
        ...

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """Return the logits of one batch."""
        ...

    def upload(self, batch: np.ndarray) -> None:
        """Queue the copy of one batch to where the model reads it."""
        ...

    def compute(self) -> None:
        """Queue the model on the uploaded batch."""
        ...

    def download(self) -> np.ndarray:
        """Return the logits of the computed batch, waiting for them."""
        ...

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Backend(Protocol):
    """One way to run a model with one framework."""

    name: str
    """The key in records and on the command line."""
    title: str
    """What a reader sees."""
    style: Style
    """How it is drawn."""

    def availability(self, device: str) -> Availability:
        """Say whether the framework is usable on ``device``."""
        ...

    def supports(self, workload: Workload) -> Support:
        """Say whether a usable framework can run ``workload``."""
        ...

    def artifact_key(self, workload: Workload) -> str:
        """Name the artifact of ``workload``: workloads and backends with the same key share it."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions (and, for an engine, the GPU) that the exported artifact depends on."""
        ...

    def export(self, model: torch.nn.Module, workload: Workload, directory: Path) -> None:
        """Write the artifact into the empty ``directory``."""
        ...

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the precision of the exported weights back from disk: ``fp32``, ``fp16`` or ``bf16``."""
        ...

    def load(self, artifact: Artifact) -> Runner:
        """Return a runner for ``artifact.workload``."""
        ...
