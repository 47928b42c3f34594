"""Measure a grid of cells: everything is exported first, then the grid is passed through once an invocation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from inference_lib.backends import get_backend
from inference_lib.measure import accuracy
from inference_lib.measure.exports import ensure_references, export_missing
from inference_lib.measure.passes import Passes
from inference_lib.measure.plan import BASELINE, QUIET, Rival, RivalSet, empty_record, grid, sets_of, why_not
from inference_lib.measure.profiles import Profile
from inference_lib.measure.rounds import Outcome
from inference_lib.measure.workers import WorkerError
from inference_lib.records.record import Accuracy, Invocation, Record, Status
from inference_lib.records.runs import run_name
from inference_lib.records.statistics import LEAST_INVOCATIONS
from inference_lib.records.store import RecordStore, Shelf
from inference_lib.seam import PRECISIONS, Device, Model, supports

Progress = Callable[[str], None]

WAITED_PERCENT = 30.0
"""A row whose threads were kept from a core for so long shared the machine with other work. Where a framework has more
threads than there are cores they wait for each other, too: seen, up to 16 % on two idle cores."""

HOST_BF16 = ("openvino", "openvino-throughput")
"""On a CPU, BF16 is measured where a framework computes in it by itself unless told otherwise."""

LOW_THROUGHPUT = 0.9
"""A full queue cannot serve fewer images per second than one caller who waits and copies. If it did, by a tenth, the
machine was busy with something else."""

FOUND_ONCE = {field.name for field in fields(Outcome)} & Record.model_fields.keys() - {"clocks"}
"""What the first invocation finds out; the later ones leave it as it is."""


def benchmark(
    backends: Sequence[str],
    models: Sequence[str | Model],
    device: str | Device,
    profile: Profile,
    store: RecordStore,
    precisions: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    batch_sizes: Sequence[int] | None = None,
    **options: Any,
) -> list[Record]:
    """Measure every backend, model, precision and batch size; return one record a cell, in that order.

    ``options`` are those of ``Session``. Raise CourseError, before anything is measured, for an unknown name, no data
    set, or a folder that cannot be written.
    """
    rivals = grid(backends, models, Device.of(device), profile, precisions, batch_sizes)
    store.check_writable()
    session = Session(profile, store, **options)
    session.measure(rivals)
    return [session.records[rival] for rival in rivals]


def whole_grid(backends: Sequence[str], models: Sequence[str | Model], device: Device, profile: Profile) -> list[Rival]:
    """Return the cells of an edition: the profile's, a large batch in FP32 and TF32 by PyTorch, BF16 on CPUs.

    Eight bits are among them where claims are made: calibrating every model takes minutes.
    """
    cells = grid(backends, models, device, profile)
    if device.kind == "cuda":
        ends = profile.ends(device.kind)
        both, quiet = ([name for name in names if name in backends] for names in ((BASELINE, QUIET), (QUIET,)))
        cells += grid(both, models, device, profile, ["fp32"], ends[1:])
        cells += grid(quiet, models, device, profile, ["tf32"], ends)
    if device.kind == "cpu":
        cells += grid([name for name in backends if name in HOST_BF16], models, device, profile, ["bf16"])
    if profile.invocations >= LEAST_INVOCATIONS:
        asked = grid(backends, models, device, profile, [name for name in PRECISIONS if PRECISIONS[name].calibrated])
        cells += [cell for cell in asked if supports(get_backend(cell.backend), cell.workload).ok]
    return cells


@dataclass
class Session:
    """One call of ``benchmark``: the records so far, by rival."""

    profile: Profile
    store: Shelf
    run: str = "1"
    reuse: bool = True
    """What was measured by this code, on this machine, with this profile is not measured again; an interrupted run goes
    on with the invocation where it stopped."""
    progress: Progress = lambda line: None
    time_exports: bool = True
    rounds_only: bool = False
    """Leave out throughput, load, parts and the whole test set: a second run repeats what claims rest on."""
    trust: bool = False
    """Take the whole rows that are there whatever code and machine of this name made them; a part of one is not mixed
    with what this code measures."""
    records: dict[Rival, Record] = field(default_factory=dict)
    passes: Passes = field(default_factory=Passes)

    def __post_init__(self) -> None:
        run_name(self.run)

    def measure(self, rivals: Sequence[Rival]) -> None:
        """Fill ``records`` for ``rivals``, writing each record whenever it gains something."""
        sets = self.prepare(rivals)
        for one, number, place in self.passes.over(sets, self.profile, rounds_only=self.rounds_only):
            self.invocation(one, number, place)

    def prepare(self, rivals: Sequence[Rival]) -> list[RivalSet]:
        """Take what is known of ``rivals`` already, export what is missing; return the sets that are to be measured."""
        for model in dict.fromkeys(rival.workload.model for rival in rivals):
            model.dataset.ensure()
        for rival in rivals:
            self.records[rival] = self._known(rival)
        pending = [rival for rival in rivals if not self._finished(self.records[rival])]
        sets = sets_of(pending)
        everyone = [rival for one in sets for rival in one.everyone]
        failures = export_missing(everyone, self.progress, timed=self.time_exports)
        ensure_references(pending, self.profile)
        for rival in pending:
            if failure := failures.get(rival.key[1]):
                self.fail(rival, failure)
        return sets

    def _known(self, rival: Rival) -> Record:
        """Return what is known already: a reason why not, a record of this very measurement, or an empty one."""
        if reason := why_not(rival):
            blocked = empty_record(rival, self.profile, self.run, *reason)
            self.store.keep(blocked, self.profile.invocations)
            return blocked
        fresh = empty_record(rival, self.profile, self.run, "ok")
        found = self.store.find(fresh.key) if self.reuse else None
        if not found or not found.ok:
            return fresh
        trusted = self.trust and self._whole(found)
        return found if trusted or (found.fingerprint == fresh.fingerprint and self._believed(found)) else fresh

    def _believed(self, record: Record) -> bool:
        """Whether a record is no reason to measure again; a profile that tries once has no use for a quieter moment."""
        return self.profile.tries == 1 or _waited(record.invocations) <= WAITED_PERCENT

    def _whole(self, record: Record) -> bool:
        return len(record.invocations) >= self.profile.invocations

    def _finished(self, record: Record) -> bool:
        return not record.ok or (self._whole(record) and not self._lacks_phases(record))

    def _lacks_phases(self, record: Record) -> bool:
        """Whether phases are wanted, of which the test set is the last, and the first invocation had none."""
        return record.accuracy is None and not (self.rounds_only or self.trust)

    def _has(self, number: int, record: Record) -> bool:
        there = number in (invocation.number for invocation in record.invocations)
        return there and not (number == 1 and self._lacks_phases(record))

    def invocation(self, one: RivalSet, number: int, place: str) -> None:
        """Run invocation ``number`` of a set, unless an earlier run of this command did."""
        left = [rival for rival in one.members if self.records[rival].ok]
        if all(self._has(number, self.records[rival]) for rival in left):
            return
        alive = RivalSet(one.name, tuple(left), one.carried)
        outcomes = self._undisturbed(alive, number, place)
        for rival in left:
            self._take(rival, one.name, outcomes[rival])

    def _undisturbed(self, one: RivalSet, number: int, place: str) -> dict[Rival, Outcome]:
        """Return the outcomes of an invocation; one that other work disturbed is tried again."""
        tries: list[dict[Rival, Outcome]] = []
        while not tries or (len(tries) < self.profile.tries and _longest_wait(tries[-1]) > WAITED_PERCENT):
            again = f", again: waited {_longest_wait(tries[-1]):.0f} % for a core" if tries else ""
            self.progress(f"invocation {number}, set {place}: {one.name}, {len(one.members)} rivals{again}")
            race = self.passes.race(one, self.profile, seed=number)
            whole = number == 1 and not self.rounds_only
            tries.append(race.run(number, phases=whole, evaluate=self._to_evaluate(one) if whole else ()))
            self.progress(f"  {race.spent}")
        return min(tries, key=lambda found: (sum(o.failure is not None for o in found.values()), _longest_wait(found)))

    def _to_evaluate(self, one: RivalSet) -> list[Rival]:
        """Return the members whose artifact was not checked on all test pictures yet by their backend."""
        known = {rival.key for rival, record in self.records.items() if record.accuracy}
        return [rival for rival in one.members if rival.key not in known]

    def _take(self, rival: Rival, name: str, outcome: Outcome) -> None:
        """Add what an invocation found out to the record of a rival, and write it.

        A model that is not the reference's on the whole test set is a failure.
        """
        record = self.records[rival]
        if outcome.failure is not None:
            self.fail(rival, outcome.failure)
            return
        assert outcome.invocation is not None
        others = [i for i in record.invocations if i.number != outcome.invocation.number]  # written before a crash
        found = {each: getattr(record, each) or getattr(outcome, each) for each in FOUND_ONCE}
        invocations = sorted([*others, outcome.invocation], key=lambda invocation: invocation.number)
        found |= {"rivals": name, "invocations": invocations, "clocks": outcome.clocks}
        found["accuracy"] = found["accuracy"] or self._accuracy_of(rival)
        record = record.model_copy(update=found)
        record = record.model_copy(update={"flags": flags(record)})
        if record.accuracy and (problem := accuracy.problem(record.accuracy, rival.workload.precision)):
            record = record.model_copy(update={"status": "failed", "reason": problem})
        self.records[rival] = record
        self.store.keep(record, self.profile.invocations)

    def _accuracy_of(self, rival: Rival) -> Accuracy | None:
        """Return the accuracy of the same artifact in the same backend, where another batch size has it."""
        same = (record.accuracy for other, record in self.records.items() if other.key == rival.key)
        return next(filter(None, same), None)

    def fail(self, rival: Rival, failure: WorkerError) -> None:
        """Record that a rival has no measurement, and why."""
        self.progress(f"  {rival}: {failure}")
        status: Status = "out_of_memory" if failure.out_of_memory else "failed"
        self.records[rival] = empty_record(rival, self.profile, self.run, status, str(failure))
        self.store.keep(self.records[rival], self.profile.invocations)


def _longest_wait(outcomes: dict[Rival, Outcome]) -> float:
    return _waited(outcome.invocation for outcome in outcomes.values() if outcome.invocation)


def _waited(invocations: Iterable[Invocation]) -> float:
    """Return the longest that threads were kept from a core, percent of an invocation's turns."""
    return max((invocation.waited_percent for invocation in invocations), default=0.0)


def flags(record: Record) -> list[str]:
    """Say what makes the record less trustworthy than its neighbours."""
    found = []
    if (waited := _waited(record.invocations)) > WAITED_PERCENT:
        found.append(f"other work kept it from a core for {waited:.0f} % of its time")
    if record.fps and record.throughput_images_per_s is not None:
        part = record.throughput_images_per_s / record.fps
        if part < LOW_THROUGHPUT:
            found.append(f"throughput is {100 * (1 - part):.0f} % below FPS")
    held_down = {reason for phase in (record.clocks, record.load) if phase for reason in phase.throttle_reasons}
    if held_down:
        found.append(f"clocks were held down: {', '.join(sorted(held_down))}")
    return found
