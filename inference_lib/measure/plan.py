"""What is measured: the cells of a grid, the sets of rivals that take turns, and which cells cannot run, and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from inference_lib.backends import get_backend
from inference_lib.measure import memory
from inference_lib.measure.cell import Cell
from inference_lib.measure.profiles import Profile
from inference_lib.records.machine import this_machine
from inference_lib.records.record import Record, Status
from inference_lib.seam import PRECISIONS, Device, Model, Workload, build, find_model, supports
from inference_lib.support.hashes import module_hash, sha256_of

BASELINE, QUIET = "pytorch", "pytorch-cudagraph"
"""The rows that every set has or carries along: what readers compare with, and one whose times hardly vary."""

AT_THE_ENDS = ("cudnn",)
"""What searches its kernels anew for each batch size is measured at the ends of a curve: it takes half a minute."""


@dataclass(frozen=True)
class Rival:
    """One cell of the grid: a backend and its workload."""

    backend: str
    workload: Workload

    @property
    def key(self) -> tuple[str, str, str]:
        """What an accuracy belongs to: the backend, the artifact, and the precision: TF32 runs that of FP32."""
        return (self.backend, get_backend(self.backend).artifact_key(self.workload), self.workload.precision.name)

    def images(self, profile: Profile) -> int:
        """Return on how many test images it is checked."""
        asked = self.workload
        return profile.images(asked.device.kind, asked.model.dataset.size, asked.precision)

    def __str__(self) -> str:
        return f"{self.backend} {self.workload}"


@dataclass(frozen=True)
class RivalSet:
    """Rivals that are alive together and take turns, and the rows that go along without being published."""

    name: str
    members: tuple[Rival, ...]
    carried: tuple[Rival, ...] = ()

    @property
    def everyone(self) -> tuple[Rival, ...]:
        """Members and carried rows."""
        return self.members + self.carried


def grid(
    backends: Sequence[str],
    models: Sequence[str | Model],
    device: Device,
    profile: Profile,
    precisions: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> list[Rival]:
    """Return one rival for every backend, model, precision and batch size; CourseError for an unknown name.

    A mapping has the precisions of each backend by its name.
    """

    def wanted(backend: str) -> Sequence[str]:
        given = precisions[backend] if isinstance(precisions, Mapping) else precisions
        return given or profile.precisions(device.kind)

    def sizes(backend: str, precision: str) -> Sequence[int]:
        of_all = profile.batch_sizes(precision, device.kind)
        few = profile.ends(device.kind) if backend in AT_THE_ENDS and len(of_all) > 1 else of_all
        return sorted(batch_sizes or few)

    return [
        Rival(name, Workload(find_model(model), size, precision, device))
        for name in (get_backend(backend).name for backend in backends)
        for model in models
        for precision in wanted(name)
        for size in sizes(name, precision)
    ]


def empty_record(rival: Rival, profile: Profile, run: str, status: Status, reason: str = "") -> Record:
    """Return a record that holds no measurement, with the reason."""
    backend, asked = get_backend(rival.backend), rival.workload
    return Record(
        status=status,
        reason=reason,
        backend=backend.name,
        title=backend.title,
        version=backend.availability(asked.device.kind).version,
        model=asked.model.name,
        model_title=asked.model.title,
        batch_size=asked.batch_size,
        precision=asked.precision.name,
        device=asked.device.kind,
        machine=this_machine(asked.device.index),
        profile=profile.name,
        run=run,
        measured_on=datetime.now(UTC).date(),
        pictures=asked.model.dataset.name,
        model_hash=asked.model.identity[:16],
        fingerprint=fingerprint(rival.backend, asked.model, asked.device, profile),
    )


def why_not(rival: Rival) -> tuple[Status, str] | None:
    """Say why a cell cannot run here, or None if it can. Each cell has its own answer, each batch size too."""
    backend = get_backend(rival.backend)
    available = backend.availability(rival.workload.device.kind)
    if not available.usable:
        return "unavailable", f"{available.reason}; {available.remedy}"
    support = supports(backend, rival.workload)
    return None if support.ok else ("unsupported", support.reason)


@cache
def fingerprint(backend: str, model: Model, device: Device, profile: Profile) -> str:
    """Hash what two repetitions of a measurement share.

    That is the code that measures and the backend's own, so that a change elsewhere leaves the records valid; how the
    backend was made, and what its artifacts depend on; the weights, the pictures, the machine with its threads, and the
    profile.
    """
    found = get_backend(backend)
    options = {name: value for name, value in vars(found).items() if name != "title" and not name.startswith("_")}
    made = f"{found.name} {type(found).__qualname__} {options}"
    measure = (Cell.__module__, "inference_lib.measure.threads", "inference_lib.measure.rounds")
    code = module_hash(*measure, build.__module__, type(found).__module__)
    versions = repr(found.versions() if found.availability(device.kind).usable else {})
    machine = this_machine(device.index).model_dump_json(exclude={"commit"})
    parts = [code, made, versions, model.identity, model.dataset.identity, machine, repr(profile)]
    return sha256_of(part.encode() for part in parts)[:16]


def sets_of(rivals: Iterable[Rival]) -> list[RivalSet]:
    """Return ``rivals`` in sets that share model, batch size and device, the largest batches of a model first.

    Where the memory is too small, a set is split by precision, then by number. A set without the baseline or the quiet
    row of a precision carries them along.
    """
    groups: dict[tuple[Model, int, Device], list[Rival]] = {}
    for rival in rivals:
        asked = rival.workload
        groups.setdefault((asked.model, asked.batch_size, asked.device), []).append(rival)
    order = list(dict.fromkeys(model for model, *_ in groups))
    found = []
    for model, size, device in sorted(groups, key=lambda group: (order.index(group[0]), -group[1])):
        members = groups[model, size, device]
        for part in _parts(members):
            digest = sha256_of(sorted(f"{r.backend} {r.workload.precision}".encode() for r in part))[:8]
            found.append(RivalSet(f"{model}-b{size}-{device.kind}-{digest}", tuple(part), tuple(_carried(part))))
    return found


def _parts(members: list[Rival]) -> list[list[Rival]]:
    """Return ``members`` in parts that fit, a precision in one part where that is possible; two always fit."""

    def fit(part: list[Rival]) -> bool:
        return len(part) <= 2 or memory.fits([*part, *_carried(part)])

    parts: list[list[Rival]] = [[]]
    for name in PRECISIONS:
        group = [rival for rival in members if rival.workload.precision.name == name]
        if not fit(parts[-1] + group):
            parts.append([])
        for rival in group:
            if parts[-1] and not fit([*parts[-1], rival]):
                parts.append([])
            parts[-1].append(rival)
    return [part for part in parts if part]


def _carried(members: Sequence[Rival]) -> list[Rival]:
    """Return the rows that a set lacks: the baseline's and the quiet one's, in each precision of its members."""
    asked = dict.fromkeys(rival.workload for rival in members)
    wanted = [Rival(name, workload) for workload in asked for name in (BASELINE, QUIET)]
    return [rival for rival in wanted if rival not in members and why_not(rival) is None]


def references_of(rival: Rival, everyone: Iterable[Rival]) -> list[Rival]:
    """Return those of ``everyone`` through which the sets of ``rival`` are compared."""
    return [r for r in everyone if r.backend in (BASELINE, QUIET) and r.workload == rival.workload and r != rival]
