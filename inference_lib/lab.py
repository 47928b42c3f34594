"""What a chapter opens first: the device, the profile, and the two shelves of records."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from inference_lib.backends import BACKENDS
from inference_lib.backends.shared.cuda import resolve_device, set_float32_products
from inference_lib.measure import timing
from inference_lib.measure.benchmark import benchmark, whole_grid
from inference_lib.measure.plan import empty_record, why_not
from inference_lib.measure.profiles import Profile, get_profile
from inference_lib.measure.roofline import Ceilings, ceilings, published_ceilings
from inference_lib.measure.turns import ROUNDS, Turns, take_turns
from inference_lib.records.machine import Machine, this_machine
from inference_lib.records.pairs import of_all_pictures
from inference_lib.records.record import Record, Status
from inference_lib.records.store import RecordStore, select_all
from inference_lib.report.rivals import Rivals
from inference_lib.seam import DEVICE_KINDS, MODELS, PRECISIONS, Device, Model
from inference_lib.support import paths
from inference_lib.support.garbage import look_seldom

NOT_YET: tuple[Status, str] = ("left_out", "not measured here yet; run `python -m inference_lib benchmark`")

TRUST = "INFERENCE_TRUST_RECORDS"
"""Where this variable is set, chapters show the records that are there, whatever code and machine made them."""


@dataclass(frozen=True)
class Lab:
    """One machine, one profile, the records made here and the published ones."""

    profile: Profile
    device: str
    machine: Machine
    store: RecordStore
    published_store: RecordStore
    run: str = "1"

    def benchmark(
        self,
        backends: Sequence[str],
        models: Sequence[str | Model] = tuple(MODELS),
        precisions: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        batch_sizes: Sequence[int] | None = None,
        device: str | None = None,
        *,
        time_exports: bool = True,
    ) -> list[Record]:
        """Measure ``backends`` with the lab's profile, on its device or another; see measure.benchmark.benchmark.

        Exports that nobody asks the time of are made side by side.
        """
        place, trust = device or self.device, TRUST in os.environ
        asked = (backends, models, place, self.profile, self.store, precisions, batch_sizes)
        return of_all_pictures(benchmark(*asked, run=self.run, trust=trust, time_exports=time_exports))

    def time(self, call: Callable[[], object]) -> timing.Samples:
        """Time ``call`` with the host's clock, the device's work included: for the experiments inside a chapter."""
        sample = self._waited_for(call)
        timing.warm_up(sample, budget_s=self.profile.budget_s)
        return timing.time_call(sample, self.profile.rule)

    def turns(self, calls: Mapping[str, Callable[[], object]]) -> Turns:
        """Time ``calls`` in turn, each with the device's work included: what is compared is the ratio in a round."""
        waited = {name: self._waited_for(call) for name, call in calls.items()}
        return take_turns(waited, self.profile.budget_s / 10, min(ROUNDS, self.profile.rounds))

    def _waited_for(self, call: Callable[[], object]) -> Callable[[], object]:
        def sample() -> None:
            call()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return sample

    def records(self) -> list[Record]:
        """Return what was measured here so far with the lab's profile, in the lab's run, on this machine."""
        mine = {self.machine.name(device) for device in DEVICE_KINDS}
        found = select_all(self.store.read(), profile=self.profile.name, run=self.run)
        return of_all_pictures(record for record in found if record.machine.name(record.device) in mine)

    def whole_grid(self) -> list[Record]:
        """Return what was measured on the lab's device, and for every other cell of the profile's grid why not."""
        found = [record for record in self.records() if record.device == self.device]
        known = {(r.backend, r.model, r.precision, r.batch_size) for r in found}
        for rival in whole_grid(list(BACKENDS), list(MODELS), Device.of(self.device), self.profile):
            asked = rival.workload
            if (rival.backend, asked.model.name, asked.precision.name, asked.batch_size) not in known:
                found.append(empty_record(rival, self.profile, self.run, *(why_not(rival) or NOT_YET)))
        return found

    def published(self) -> list[Record]:
        """Return the records of the published edition's first run."""
        return of_all_pictures(select_all(self.published_store.read(), run=self.run))

    def gpu_records(self) -> list[Record]:
        """Return records from a GPU: measured here where here is one, else the published ones."""
        return self._of_a_gpu_machine("cuda")

    def host_records(self) -> list[Record]:
        """Return records from the CPU of the machine of ``gpu_records``: measured here where here is a GPU."""
        return self._of_a_gpu_machine("cpu")

    def _of_a_gpu_machine(self, device: str) -> list[Record]:
        return [r for r in (self.records() if self.device == "cuda" else self.published()) if r.device == device]

    def compare(
        self, rivals: Sequence[str], device: str | None = None, precisions: Sequence[str] | None = None
    ) -> Rivals:
        """Return the records of the backends ``rivals``: on the lab's device here, on a GPU where published.

        Rows that could not be measured are among them. All precisions but TF32, unless others are named.

        ``device`` compares on that device alone, here and published.
        """
        here = select_all(self.records(), device=device or self.device)
        published = select_all(self.published(), device=device or "cuda")
        precisions = precisions or [name for name in PRECISIONS if name != "tf32"]
        return Rivals.of(rivals, here, published, precisions)

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

    From then on, Python looks for garbage seldom: a chapter compiles, and no experiment should meet a pause.

    Raises:
        CourseError: an unknown profile or device, or a GPU asked for where there is none.

    """
    look_seldom()
    set_float32_products("fp32")
    return Lab(
        profile=get_profile(profile),
        device=resolve_device(device),
        machine=this_machine(),
        store=RecordStore(Path(records_dir or paths.BUILD / "records")),
        published_store=RecordStore(paths.PUBLISHED / "records"),
    )
