"""A grid of cells: what is measured, what is reused, what is measured again, and what a crash costs."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import objects
import pytest
from conftest import invocations_of

from inference_lib.measure import accuracy, exports, passes, plan, rounds
from inference_lib.measure import benchmark as module
from inference_lib.measure.benchmark import WAITED_PERCENT, Session, benchmark, flags
from inference_lib.measure.plan import Rival, RivalSet, empty_record
from inference_lib.measure.profiles import PROFILES, Profile
from inference_lib.measure.rounds import Outcome
from inference_lib.measure.workers import WorkerError
from inference_lib.records.comparison import compare
from inference_lib.records.record import Accuracy, Build, Clocks, Invocation, Load, Parts, Record
from inference_lib.records.store import RecordStore
from inference_lib.seam import Device, Workload, find_model
from inference_lib.support.errors import CourseError

MakeRecord = Callable[..., Record]

TINY = Profile(
    name="tiny",
    invocations=3,
    rounds=2,
    iterations=2,
    turn_s=0.01,
    least_iterations=1,
    sweep=(1, 2),
    sweep_cpu=(1, 2),
    budget_s=0.02,
    load_s=0.1,
    test_images=8,
    few_test_images=8,
)
GRID = {"backends": ["pytorch", "onnxruntime"], "models": ["vanilla_cnn"], "device": "cpu", "profile": TINY}


@contextmanager
def however_busy() -> Iterator[None]:
    """Take what the machine gives: a real grid is not repeated because other tests run beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WAITED_PERCENT", math.inf)
        yield


@pytest.fixture
def calm() -> Iterator[None]:
    with however_busy():
        yield


def interrupt_at(text: str, lines: list[str]) -> Callable[[str], None]:
    def progress(line: str) -> None:
        if text in line:
            raise KeyboardInterrupt
        lines.append(line)

    return progress


# A real grid, interrupted and taken up again


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RecordStore:
    return RecordStore(tmp_path_factory.mktemp("benchmark") / "records")


@pytest.fixture(scope="module")
def begun(store: RecordStore) -> list[Record]:
    """Return what is on disk when the command is interrupted before the second invocation."""
    with however_busy(), pytest.raises(KeyboardInterrupt):
        benchmark(**GRID, store=store, progress=interrupt_at("invocation 2", []))
    return store.read()


@pytest.fixture(scope="module")
def finished(store: RecordStore, begun: list[Record]) -> tuple[list[Record], list[str]]:
    """Return the records of the same command, given again, and what it said."""
    lines: list[str] = []
    with however_busy():
        return benchmark(**GRID, store=store, progress=lines.append), lines


def test_an_interrupted_grid_has_kept_the_invocations_that_were_over(begun: list[Record]) -> None:
    assert sorted((r.backend, r.batch_size) for r in begun) == [
        ("onnxruntime", 1),
        ("onnxruntime", 2),
        ("pytorch", 1),
        ("pytorch", 2),
    ]
    for record in begun:
        assert (record.status, [i.number for i in record.invocations]) == ("ok", [1])


def test_the_same_command_goes_on_with_the_second_invocation(
    begun: list[Record], finished: tuple[list[Record], list[str]]
) -> None:
    records, lines = finished
    assert not [line for line in lines if "invocation 1" in line or "export" in line]
    first = {record.key: record.invocations[0] for record in begun}
    for record in records:
        assert [i.number for i in record.invocations] == [1, 2, 3]
        assert record.invocations[0] == first[record.key]


@pytest.mark.usefixtures("calm")
def test_a_row_is_taken_on_trust_if_it_is_whole(
    begun: list[Record], finished: tuple[list[Record], list[str]], tmp_path: Path
) -> None:
    """Seen: a row with two invocations of three, shown without an interval."""
    cells = plan.grid(GRID["backends"], GRID["models"], Device("cpu"), TINY)
    for number, (rows, sets) in enumerate([(begun, 2), (finished[0], 0)]):
        there = RecordStore(tmp_path / str(number))
        for row in rows:
            there.write(row.model_copy(update={"fingerprint": "another machine's"}))
        assert len(Session(TINY, there, trust=True).prepare(cells)) == sets


def test_records_come_in_the_order_asked_and_are_what_is_on_disk(
    store: RecordStore, finished: tuple[list[Record], list[str]]
) -> None:
    records, _ = finished
    order = [("pytorch", 1), ("pytorch", 2), ("onnxruntime", 1), ("onnxruntime", 2)]
    assert [(r.backend, r.batch_size) for r in records] == order
    assert sorted(store.read(), key=lambda r: r.key) == sorted(records, key=lambda r: r.key)


def test_every_cell_is_measured_and_checked(finished: tuple[list[Record], list[str]]) -> None:
    for record in finished[0]:
        assert record.status == "ok"
        assert record.accuracy.images == TINY.few_test_images
        assert record.accuracy.agreement_percent == 100
        for invocation in record.invocations:
            assert len(invocation.end_to_end_ms) == len(invocation.pace_ms) == TINY.rounds
            assert invocation.iterations >= TINY.rounds
            assert min(invocation.end_to_end_ms) > 0
        assert record.throughput_images_per_s > 0
        assert record.parts.compute > 0
        assert record.build.artifact_mib > 0
        assert record.latency.end_to_end.median.low < record.latency.end_to_end.p50
        assert record.gpu_memory_mib is None


def test_rivals_of_a_batch_size_are_one_set_and_paired(finished: tuple[list[Record], list[str]]) -> None:
    eager, eager_two, ort, ort_two = finished[0]
    assert compare(eager, ort).paired
    assert compare(eager_two, ort_two).paired
    assert not compare(eager, eager_two).paired
    assert ort.invocations[0].carried["pytorch"].end_to_end_ms == eager.invocations[0].end_to_end_ms


@pytest.fixture
def no_race(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "Race", lambda *_: pytest.fail("something was measured"))


@pytest.mark.usefixtures("no_race", "calm")
def test_what_was_measured_is_not_measured_again(store: RecordStore, finished: tuple[list[Record], list[str]]) -> None:
    assert benchmark(**GRID, store=store) == finished[0]


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("profile", [replace(TINY, rounds=3), replace(TINY, few_test_images=6)])
def test_a_change_of_the_profile_measures_again(
    store: RecordStore, finished: tuple[list[Record], list[str]], profile: Profile
) -> None:
    workload = Workload("vanilla_cnn", 1)
    known = Session(profile, store)._known(Rival("pytorch", workload))
    assert known.invocations == []
    assert Session(TINY, store)._known(Rival("pytorch", workload)) == finished[0][0]


@pytest.mark.usefixtures("calm")
def test_a_rival_measured_later_is_compared_through_the_row_that_it_carries(
    store: RecordStore, finished: tuple[list[Record], list[str]]
) -> None:
    asked = GRID | {"backends": ["torchscript"], "batch_sizes": [1], "profile": replace(TINY, invocations=1)}
    (later,) = benchmark(**asked, store=RecordStore(store.directory / "later"))
    assert set(later.invocations[0].carried) == {"pytorch"}


# What goes wrong, in real processes


@pytest.fixture
def folder(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records")


ONCE = replace(TINY, invocations=1)


@pytest.mark.usefixtures("calm")
def test_an_export_that_is_killed_fails_its_cells_and_the_grid_goes_on(
    folder: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exports.find_artifact
    monkeypatch.setattr(exports, "find_artifact", lambda b, w: None if b.name == "onnxruntime" else real(b, w))
    monkeypatch.setattr(exports, "Exporter", objects.KilledExporter)
    records = benchmark(**GRID | {"profile": ONCE}, store=folder)
    assert [(r.backend, r.status) for r in records] == [("pytorch", "ok")] * 2 + [("onnxruntime", "failed")] * 2
    assert records[2].reason == "the worker process died (signal 9)"
    assert {r.key: r.status for r in folder.read()} == {r.key: r.status for r in records}


@pytest.mark.usefixtures("calm")
def test_a_rival_that_is_killed_costs_its_own_cell(folder: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "Cell", objects.KilledCell)
    records = benchmark(**GRID | {"profile": ONCE, "batch_sizes": [1]}, store=folder)
    assert [r.status for r in records] == ["ok", "failed"]
    assert records[1].reason == "the worker process died (signal 9)"


def test_the_reference_is_computed_on_as_many_images_as_rows_are_checked_on(
    folder: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, int]] = []
    monkeypatch.setattr(module, "export_missing", lambda *_, **__: {})
    monkeypatch.setattr(
        exports, "ensure_reference", lambda model, kind, images: asked.append((str(model), kind, images))
    )
    workloads = [Workload("vanilla_cnn", size, precision) for precision in ("fp32", "int8") for size in (1, 2)]
    Session(replace(TINY, test_images=12), folder).prepare([Rival("onnxruntime", workload) for workload in workloads])
    assert asked == [("vanilla_cnn", "cpu", 12)]  # those that are checked on 8 read the first of them


@pytest.mark.usefixtures("calm")
def test_a_wrong_model_is_not_timed(folder: RecordStore) -> None:
    """Logits that are not the reference's make a failed record, never a fast row."""
    path = accuracy.reference_path(find_model("vanilla_cnn"), "cpu", 7)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(0).normal(size=(7, 10)).astype("float32"))
    try:
        records = benchmark(
            **GRID | {"profile": replace(ONCE, few_test_images=7), "backends": ["pytorch"]}, store=folder
        )
    finally:
        path.unlink()
    assert {r.status for r in records} == {"failed"}
    assert all("FP32 reference" in r.reason and r.latency is None for r in records)


def test_a_row_that_cannot_be_measured_says_why(folder: RecordStore) -> None:
    records = benchmark(**GRID | {"backends": ["pytorch-cudagraph"]}, store=folder)
    assert {r.status for r in records} == {"unsupported"}
    assert "NVIDIA GPUs" in records[0].reason
    assert folder.read() == records


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": ["resnet19"]}, "unknown model 'resnet19'; choose one of: vanilla_cnn, resnet18"),
        ({"backends": ["keras"]}, "unknown backend 'keras'; choose one of: pytorch, "),
        ({"precisions": ["fp12"]}, "unknown precision 'fp12'; choose one of: fp32, "),
        ({"batch_sizes": [0]}, "batch size 0"),
    ],
)
@pytest.mark.usefixtures("no_race")
def test_an_unknown_name_is_refused_before_anything_runs(folder: RecordStore, changed: dict, message: str) -> None:
    with pytest.raises(CourseError) as error:
        benchmark(**GRID | changed, store=folder)
    assert str(error.value).startswith(message)
    assert folder.read() == []


# Outcomes that a machine gives now and then, made up


class FakeRace:
    """Stands for the machine: gives the outcomes that a test wants, by invocation and try."""

    ran: list[tuple[int, tuple[str, ...]]]
    outcome: Callable[[Rival, int, int], Outcome]
    evaluated: list[str]
    spent = ""

    def __init__(self, one: RivalSet, *_: object) -> None:
        self.set = one

    def run(self, number: int, *, phases: bool, evaluate: Any = ()) -> dict[Rival, Outcome]:
        attempt = sum(1 for before, who in self.ran if (before, who) == (number, self._names())) + 1
        self.ran.append((number, self._names()))
        self.evaluated += [str(rival) for rival in evaluate]
        found = {rival: self.outcome(rival, number, attempt) for rival in self.set.everyone}
        for rival in evaluate:
            if not found[rival].failure:
                found[rival].accuracy = GOOD
        return found

    def _names(self) -> tuple[str, ...]:
        return tuple(f"{r.backend} {r.workload.batch_size}" for r in self.set.members)


GOOD = Accuracy(accuracy_percent=95, agreement_percent=100, largest_difference=1e-6, images=8)
FAILED = WorkerError("the worker process died (signal 9)")


def outcome(number: int, milliseconds: float = 1.0, waited: float = 0.0, failure: WorkerError | None = None) -> Outcome:
    """Return what an invocation found out about one rival."""
    if failure:
        return Outcome(failure=failure)
    (made,) = invocations_of(milliseconds, 1, rounds=2)
    invocation: Invocation = made.model_copy(update={"number": number, "waited_percent": waited})
    return Outcome(
        invocation=invocation,
        build=Build(load_s=1, first_inference_s=1, artifact_mib=1),
        parts=Parts(upload=0, compute=1, download=0),
    )


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> type[FakeRace]:
    """Put the made-up machine in place of a race; tests set what it gives."""
    monkeypatch.setattr(FakeRace, "ran", [], raising=False)
    monkeypatch.setattr(FakeRace, "evaluated", [], raising=False)
    monkeypatch.setattr(
        FakeRace, "outcome", staticmethod(lambda rival, number, attempt: outcome(number)), raising=False
    )
    monkeypatch.setattr(passes, "Race", FakeRace)
    return FakeRace


PAIR = ["pytorch", "onnxruntime"]


def tiny(store: RecordStore, **changed: Any) -> list[Record]:
    return benchmark(**GRID | {"backends": PAIR, "batch_sizes": [1]} | changed, store=store)


def test_the_grid_is_passed_through_once_an_invocation(folder: RecordStore, race: type[FakeRace]) -> None:
    tiny(folder, batch_sizes=[1, 2])
    sets = [("pytorch 2", "onnxruntime 2"), ("pytorch 1", "onnxruntime 1")]
    assert race.ran == [(number, one) for number in (1, 2, 3) for one in sets]


def test_an_invocation_that_other_work_disturbed_is_repeated_and_the_best_is_kept(
    folder: RecordStore, race: type[FakeRace]
) -> None:
    waits = {(2, 1): 80.0, (2, 2): 40.0, (2, 3): 60.0}
    race.outcome = staticmethod(
        lambda rival, number, attempt: outcome(number, attempt, waited=waits.get((number, attempt), 1.0))
    )
    records = tiny(folder)
    assert [number for number, _ in race.ran] == [1] + [2] * TINY.tries + [3]
    for record in records:
        assert [i.end_to_end_ms[0] for i in record.invocations] == [1, 2, 1]
        assert record.flags == ["other work kept it from a core for 40 % of its time"]


def test_a_repetition_that_was_left_alone_makes_an_unmarked_row(folder: RecordStore, race: type[FakeRace]) -> None:
    race.outcome = staticmethod(
        lambda rival, number, attempt: outcome(number, waited=WAITED_PERCENT + 1 if attempt == 1 else 0.0)
    )
    assert [record.flags for record in tiny(folder)] == [[], []]
    assert [number for number, _ in race.ran] == [1, 1, 2, 2, 3, 3]


def test_a_profile_that_tries_once_takes_a_marked_row(folder: RecordStore, race: type[FakeRace]) -> None:
    race.outcome = staticmethod(lambda rival, number, attempt: outcome(number, waited=50.0))
    once = replace(TINY, tries=1)
    assert all(record.flags for record in tiny(folder, profile=once))
    race.ran.clear()
    assert all(record.flags for record in tiny(folder, profile=once))
    assert race.ran == []


def test_a_marked_row_is_measured_again_before_it_is_believed(folder: RecordStore, race: type[FakeRace]) -> None:
    race.outcome = staticmethod(lambda rival, number, attempt: outcome(number, 9.0, waited=50.0))
    assert all(record.flags for record in tiny(folder))
    race.ran.clear()
    race.outcome = staticmethod(lambda rival, number, attempt: outcome(number, 1.0))
    again = tiny(folder)
    assert [number for number, _ in race.ran] == [1, 2, 3]
    for record in again:
        assert record.flags == []
        assert record.latency.end_to_end.p50 == pytest.approx(1)
    race.ran.clear()
    assert tiny(folder) == again
    assert race.ran == []


def test_a_quiet_try_in_which_somebody_died_is_not_the_best(folder: RecordStore, race: type[FakeRace]) -> None:
    def disturbed_then_dead(rival: Rival, number: int, attempt: int) -> Outcome:
        if rival.backend == "onnxruntime" and attempt > 1:
            return outcome(number, failure=FAILED)
        return outcome(number, waited=20.0 if attempt == 1 else 0.0)

    race.outcome = staticmethod(disturbed_then_dead)
    assert [record.status for record in tiny(folder)] == ["ok", "ok"]


def test_a_rival_that_dies_later_is_a_failed_row_and_the_others_go_on(
    folder: RecordStore, race: type[FakeRace]
) -> None:
    race.outcome = staticmethod(
        lambda rival, number, attempt: outcome(
            number, failure=FAILED if (rival.backend, number) == ("onnxruntime", 2) else None
        )
    )
    eager, ort = tiny(folder)
    assert (eager.status, len(eager.invocations)) == ("ok", 3)
    assert (ort.status, ort.reason, ort.invocations) == ("failed", str(FAILED), [])
    assert [who for _, who in race.ran] == [("pytorch 1", "onnxruntime 1")] * 2 + [("pytorch 1",)]
    assert {r.backend: r.status for r in folder.read()} == {"pytorch": "ok", "onnxruntime": "failed"}


def test_memory_that_ran_out_is_a_status_of_its_own(folder: RecordStore, race: type[FakeRace]) -> None:
    full = WorkerError("CUDA out of memory.", out_of_memory=True)
    race.outcome = staticmethod(lambda rival, number, attempt: outcome(number, failure=full))
    assert {(r.status, r.reason) for r in tiny(folder)} == {("out_of_memory", "CUDA out of memory.")}


def test_a_failure_now_leaves_what_was_measured_before_on_disk(folder: RecordStore, race: type[FakeRace]) -> None:
    before = tiny(folder)
    race.outcome = staticmethod(lambda rival, number, attempt: outcome(number, failure=FAILED))
    again = tiny(folder, reuse=False)
    assert {record.status for record in again} == {"failed"}  # what the command says of itself
    assert sorted(folder.read(), key=lambda r: r.key) == sorted(before, key=lambda r: r.key)


def test_a_rival_that_failed_is_not_tried_again_and_mixed_with_what_was_there(
    folder: RecordStore, race: type[FakeRace]
) -> None:
    tiny(folder)
    race.ran.clear()
    race.outcome = staticmethod(
        lambda rival, number, attempt: outcome(
            number, 5.0, failure=FAILED if (rival.backend, number) == ("onnxruntime", 1) else None
        )
    )
    tiny(folder, reuse=False)
    assert [who for _, who in race.ran] == [("pytorch 1", "onnxruntime 1")] + [("pytorch 1",)] * 2
    assert all(len(record.invocations) == 3 for record in folder.read())


def test_a_failure_late_in_a_second_measurement_leaves_the_whole_row(folder: RecordStore, race: type[FakeRace]) -> None:
    before = tiny(folder)
    race.outcome = staticmethod(lambda rival, number, attempt: outcome(number, failure=FAILED if number == 2 else None))
    assert {record.status for record in tiny(folder, reuse=False)} == {"failed"}
    assert sorted(folder.read(), key=lambda r: r.key) == sorted(before, key=lambda r: r.key)


def test_a_second_measurement_that_was_interrupted_is_gone_on_with(folder: RecordStore, race: type[FakeRace]) -> None:
    tiny(folder)
    race.outcome = staticmethod(lambda rival, number, attempt: outcome(number, 5.0))
    with pytest.raises(KeyboardInterrupt):
        tiny(folder, reuse=False, progress=interrupt_at("invocation 2", []))
    race.ran.clear()
    for record in tiny(folder):
        assert record.latency.end_to_end.p50 == pytest.approx(5)
    assert [number for number, _ in race.ran] == [2, 3]


def test_phases_that_a_run_of_rounds_left_out_are_made_up_for(folder: RecordStore, race: type[FakeRace]) -> None:
    """Seen: nothing was measured, nothing was said, and the rows had no accuracy."""
    assert all(record.accuracy is None for record in tiny(folder, rounds_only=True))
    race.ran.clear()
    for record in tiny(folder):
        assert record.accuracy == GOOD
        assert [i.number for i in record.invocations] == [1, 2, 3]
    assert [number for number, _ in race.ran] == [1]
    race.ran.clear()
    for asked in ({}, {"rounds_only": True}):
        assert all(record.accuracy == GOOD for record in tiny(folder, **asked))
    assert race.ran == []


def test_a_part_of_a_row_of_other_code_is_not_gone_on_with_on_trust(folder: RecordStore, race: type[FakeRace]) -> None:
    for record in tiny(folder):
        folder.write(record.model_copy(update={"fingerprint": "other", "invocations": record.invocations[:1]}))
    race.outcome = staticmethod(lambda rival, number, attempt: outcome(number, 9.0))
    for record in tiny(folder, trust=True):
        assert [i.end_to_end_ms[0] for i in record.invocations] == [9.0] * 3


@pytest.mark.usefixtures("no_race")
def test_a_run_whose_name_is_none_is_refused_before_anything_runs(folder: RecordStore) -> None:
    with pytest.raises(CourseError, match="'Base' does not name a run"):
        tiny(folder, run="Base")


@pytest.mark.parametrize("invocations", [1, 3])
def test_a_framework_that_went_away_leaves_its_measured_row_alone(
    folder: RecordStore, race: type[FakeRace], monkeypatch: pytest.MonkeyPatch, invocations: int
) -> None:
    measured = tiny(folder, profile=replace(TINY, invocations=invocations))
    monkeypatch.setattr(
        module,
        "why_not",
        lambda rival: ("unavailable", "no compiler; install one") if rival.backend == "onnxruntime" else None,
    )
    race.ran.clear()
    tiny(folder)
    assert all("onnxruntime 1" not in who for _, who in race.ran)
    (kept,) = [record for record in folder.read() if record.backend == "onnxruntime"]
    assert kept == measured[1]


def test_a_set_that_was_written_in_part_is_measured_again_as_a_whole(folder: RecordStore, race: type[FakeRace]) -> None:
    """Killed between two files: one rival has the invocation already, and must not have it twice."""
    tiny(folder)
    (late,) = [record for record in folder.read() if record.backend == "onnxruntime"]
    (early,) = [record for record in folder.read() if record.backend == "pytorch"]
    folder.write(late.model_copy(update={"invocations": late.invocations[:1]}))
    folder.write(early.model_copy(update={"invocations": early.invocations[:2]}))
    for record in tiny(folder):
        assert [i.number for i in record.invocations] == [1, 2, 3]


def test_quick_and_full_records_and_runs_live_side_by_side(folder: RecordStore, race: type[FakeRace]) -> None:
    for asked in ({}, {"profile": replace(TINY, name="quick")}, {"run": "2"}):
        tiny(folder, **asked)
    found = {(r.backend, r.profile, r.run) for r in folder.read()}
    assert found == {(b, *which) for b in PAIR for which in (("tiny", "1"), ("quick", "1"), ("tiny", "2"))}


def test_an_accuracy_belongs_to_the_artifact_that_it_was_computed_with(
    folder: RecordStore, race: type[FakeRace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One artifact for all batch sizes is checked once; an engine for each is checked each time."""
    shared, own = Rival("pytorch", Workload("vanilla_cnn", 1)), Rival("aot-inductor", Workload("vanilla_cnn", 1))
    other = [Rival(r.backend, Workload("vanilla_cnn", 2)) for r in (shared, own)]
    assert shared.key == other[0].key
    assert own.key != other[1].key
    monkeypatch.setattr(module, "export_missing", lambda *_, **__: {})  # compiling takes a minute and tells nothing
    records = tiny(folder, backends=["pytorch", "aot-inductor"], batch_sizes=[1, 2])
    assert sorted(race.evaluated) == sorted(map(str, [other[0], own, other[1]]))
    assert all(record.accuracy == GOOD for record in records)


def test_a_model_that_is_wrong_on_the_whole_test_set_is_a_failed_row(folder: RecordStore, race: type[FakeRace]) -> None:
    wrong = GOOD.model_copy(update={"largest_difference": float("nan")})

    def found(rival: Rival, number: int, attempt: int) -> Outcome:
        made = outcome(number)
        made.accuracy = wrong if rival.backend == "onnxruntime" else GOOD
        return made

    race.outcome = staticmethod(found)
    race_run = race.run

    def run(self: FakeRace, number: int, *, phases: bool, evaluate: Any = ()) -> dict[Rival, Outcome]:
        return race_run(self, number, phases=phases)

    race.run = run
    try:
        eager, ort = tiny(folder)
    finally:
        race.run = race_run
    assert (eager.status, ort.status) == ("ok", "failed")
    assert "some logits are not finite numbers" in ort.reason
    assert {r.status for r in folder.read()} == {"ok", "failed"}


# What makes a record less trustworthy


@pytest.mark.parametrize(
    ("clocks", "under_load", "found"),
    [
        ([], [], []),
        (["power cap"], [], ["clocks were held down: power cap"]),
        ([], ["power cap"], ["clocks were held down: power cap"]),
        (["power cap"], ["power cap"], ["clocks were held down: power cap"]),
        (["temperature"], ["power cap"], ["clocks were held down: power cap, temperature"]),
    ],
)
def test_clocks_held_down_in_either_phase_flag_the_record_with_each_reason_once(
    make_record: MakeRecord, clocks: list, under_load: list, found: list
) -> None:
    load = Load(busy_percent=90, throttle_reasons=under_load, samples=4, seconds=1.2)
    assert flags(make_record(clocks=Clocks(sm_mhz=1200, throttle_reasons=clocks), load=load)) == found


@pytest.mark.parametrize(
    ("waited", "found"),
    [(WAITED_PERCENT, []), (45.0, ["other work kept it from a core for 45 % of its time"])],
)
def test_a_row_that_was_kept_from_a_core_is_flagged(make_record: MakeRecord, waited: float, found: list) -> None:
    record = make_record()
    record.invocations[1].waited_percent = waited
    assert flags(record) == found


@pytest.mark.parametrize(("images_per_s", "found"), [(750.0, ["throughput is 25 % below FPS"]), (960.0, [])])
def test_a_queue_slower_than_one_caller_flags_the_record(
    make_record: MakeRecord, images_per_s: float, found: list
) -> None:
    assert flags(make_record(4.0, batch_size=4, throughput_images_per_s=images_per_s)) == found


def test_an_empty_record_is_not_flagged() -> None:
    rival = Rival("pytorch", Workload("vanilla_cnn", 1))
    assert flags(empty_record(rival, PROFILES["quick"], "1", "failed", "why")) == []
    assert plan.why_not(rival) is None
