"""What a chapter opens first: the device, the profile, and the two shelves of records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from inference_lib import paths
from inference_lib.backends.base import DEVICES
from inference_lib.backends.cuda import gpu_works, set_float32_products
from inference_lib.errors import CourseError, unknown_name
from inference_lib.measure import timing
from inference_lib.measure.benchmark import benchmark
from inference_lib.measure.cell import distribution
from inference_lib.measure.machine import Machine, this_machine
from inference_lib.measure.profiles import Profile, get_profile
from inference_lib.measure.roofline import Ceilings, ceilings, published_ceilings
from inference_lib.models import MODELS
from inference_lib.report.comparison import Comparison
from inference_lib.report.records import Distribution, Record, RecordStore, select

RECORDS = paths.BUILD / "records"


@dataclass(frozen=True)
class Lab:
    """One machine, one profile, the records made here and the published ones."""

    profile: Profile
    device: str
    machine: Machine
    store: RecordStore
    published_store: RecordStore

    def benchmark(
        self,
        backends: Sequence[str],
        models: Sequence[str] = tuple(MODELS),
        precisions: Sequence[str] | None = None,
        batch_sizes: Sequence[int] | None = None,
        device: str | None = None,
    ) -> list[Record]:
        """Measure ``backends`` with the lab's profile, on its device or another; see measure.benchmark.benchmark."""
        return benchmark(backends, models, device or self.device, self.profile, self.store, precisions, batch_sizes)

    def time(self, call: Callable[[], object]) -> Distribution:
        """Time ``call`` with the host's clock, the device's work included: for the experiments inside a chapter."""

        def sample() -> None:
            call()
            if self.device == "cuda":
                torch.cuda.synchronize()

        timing.warm_up(sample, budget_s=self.profile.budget_s)
        return distribution(timing.time_call(sample, self.profile.rule))

    def records(self) -> list[Record]:
        """Return everything measured here so far."""
        return self.store.read()

    def published(self) -> list[Record]:
        """Return the published records."""
        return self.published_store.read()

    def gpu_records(self) -> list[Record]:
        """Return records from a GPU: measured here where here is one, else the published ones."""
        return self._of_a_gpu_machine("cuda")

    def host_records(self) -> list[Record]:
        """Return records from the CPU of the machine of ``gpu_records``: measured here where here is a GPU."""
        return self._of_a_gpu_machine("cpu")

    def _of_a_gpu_machine(self, device: str) -> list[Record]:
        return [r for r in (self.records() if self.device == "cuda" else self.published()) if r.device == device]

    def compare(
        self, rivals: Sequence[str], device: str | None = None, precisions: Sequence[str] = ("fp32", "fp16", "bf16")
    ) -> Comparison:
        """Return what was measured of the backends ``rivals``: on the lab's device here, on a GPU where published.

        ``device`` compares on that device alone, here and published.
        """
        here = select(self.records(), device=device or self.device)
        published = select(self.published(), device=device or "cuda")
        return Comparison.of(rivals, here, published, precisions)

    def gpu_ceilings(self) -> Ceilings | None:
        """Return what the GPU of ``gpu_records`` does at best: measured here, else published, else None."""
        if self.device == "cuda":
            return ceilings("cuda")
        names = {r.machine.name("cuda") for r in self.gpu_records()}
        return published_ceilings(names.pop()) if len(names) == 1 else None

    @property
    def machine_name(self) -> str:
        """What a caption calls this machine."""
        return self.machine.name(self.device)


def open_lab(profile: str = "quick", device: str = "auto", records_dir: str | Path | None = None) -> Lab:
    """Return the lab of a chapter, and set PyTorch's FP32 to IEEE arithmetic, which is what FP32 means in this book.

    Raises:
        CourseError: an unknown profile or device, or a GPU asked for where there is none.

    """
    set_float32_products("fp32")
    return Lab(
        profile=get_profile(profile),
        device=resolve_device(device),
        machine=this_machine(),
        store=RecordStore(Path(records_dir or RECORDS)),
        published_store=RecordStore(paths.PUBLISHED / "records"),
    )


def resolve_device(device: str) -> str:
    """Return ``cpu`` or ``cuda``: ``auto`` takes the GPU if one works."""
    if device == "auto":
        return "cuda" if gpu_works() else "cpu"
    if device not in DEVICES:
        raise unknown_name("device", device, ("auto", *DEVICES))
    if device == "cuda" and not gpu_works():
        raise CourseError("no NVIDIA GPU answers; use --device cpu, or install a driver for CUDA 13")
    return device
