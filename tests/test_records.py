"""Records survive the way to disk and back; a reader never sees half of one."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import P99_OVER_MEDIAN

from inference_lib.records.machine import Machine
from inference_lib.records.record import Accuracy, Build, Record
from inference_lib.records.runs import run_name, runs_of
from inference_lib.records.statistics import LEAST_FOR_P99
from inference_lib.records.store import RecordStore, select, select_all
from inference_lib.support import paths
from inference_lib.support.errors import CourseError

MakeRecord = Callable[..., Record]


@pytest.mark.parametrize("export_s", [None, 1.0])  # None: the export was not timed
def test_a_record_comes_back_as_it_was(tmp_path: Path, make_record: MakeRecord, export_s: float | None) -> None:
    build = Build(export_s=export_s, load_s=1, first_inference_s=1, artifact_mib=1)
    store, record = RecordStore(tmp_path), make_record(build=build)
    store.write(record)
    assert store.read() == [record]
    assert store.find(record.key) == record


def test_the_same_cell_replaces_its_record(tmp_path: Path, make_record: MakeRecord) -> None:
    store = RecordStore(tmp_path)
    store.write(make_record(2.0))
    store.write(make_record(3.0))
    (record,) = store.read()
    assert record.latency.end_to_end.p50 == pytest.approx(3)


OTHERS = [
    {"batch_size": 8},
    {"precision": "fp16"},
    {"backend": "x"},
    {"model": "vanilla_cnn"},
    {"device": "cpu"},
    {"profile": "quick"},
    {"run": "2"},
]


@pytest.mark.parametrize("changed", OTHERS)
def test_other_cells_have_files_of_their_own(tmp_path: Path, make_record: MakeRecord, changed: dict) -> None:
    store = RecordStore(tmp_path)
    first, other = make_record(), make_record(**changed)
    assert first.key != other.key
    store.write(first)
    store.write(other)
    assert len(store.read()) == 2
    assert (store.find(first.key), store.find(other.key)) == (first, other)


def test_runs_are_in_the_order_of_their_numbers(tmp_path: Path, make_record: MakeRecord) -> None:
    names = ["1", "2", "10", "cool 9", "cool 11"]
    store = RecordStore(tmp_path)
    for run in reversed(names):
        store.write(make_record(run=run))
    assert [record.run for record in store.read()] == runs_of(store.read()) == names
    assert runs_of([]) == []


def test_nothing_else_puts_runs_in_an_order() -> None:
    as_text = re.compile(r"\b(?:sorted|min|max)\([^\n]*\.run\b(?!\.)")
    files = {path.stem: path.read_text() for path in (paths.ROOT / "inference_lib").rglob("*.py")}
    assert [name for name, text in files.items() if as_text.search(text)] == ["runs"]


def test_two_machines_have_files_of_their_own(tmp_path: Path, make_record: MakeRecord, machine: Machine) -> None:
    store = RecordStore(tmp_path)
    store.write(make_record())
    store.write(make_record(machine=machine.model_copy(update={"gpu": "Another GPU"})))
    assert len(store.read()) == 2


@pytest.mark.parametrize("status", ["unavailable", "unsupported", "failed", "out_of_memory", "left_out"])
def test_a_row_that_could_not_be_measured_never_replaces_one_that_was(
    tmp_path: Path, make_record: MakeRecord, status: str
) -> None:
    store, measured = RecordStore(tmp_path), make_record()
    broken = make_record(count=0, status=status, reason="no compiler")
    for record, there in ((broken, broken), (measured, measured), (broken, measured)):
        store.keep(record, whole=3)
        assert store.read() == [there]


@pytest.mark.parametrize(("status", "replaced"), [("unavailable", False), ("failed", True), ("out_of_memory", True)])
def test_a_part_of_a_row_is_replaced_by_a_failure_to_go_on_alone(
    tmp_path: Path, make_record: MakeRecord, status: str, replaced: bool
) -> None:
    store, part = RecordStore(tmp_path), make_record(count=2)
    broken = make_record(count=0, status=status, reason="no compiler")
    for record in (part, broken):
        store.keep(record, whole=3)
    assert store.read() == [broken if replaced else part]


def test_a_whole_row_comes_back_when_measuring_it_again_fails(tmp_path: Path, make_record: MakeRecord) -> None:
    store, whole, again = RecordStore(tmp_path), make_record(2.0), make_record(3.0, count=1)
    store.keep(whole, whole=3)
    store.keep(again, whole=3)
    assert store.read() == [again]  # what is measured can be gone on with after an interrupt
    store = RecordStore(tmp_path)
    store.keep(make_record(3.0, count=2), whole=3)
    store.keep(make_record(count=0, status="failed", reason="died"), whole=3)
    assert store.read() == [whole]
    for count in (1, 3):
        store.keep(make_record(3.0, count=count), whole=3)
    assert store.read() == [make_record(3.0)]
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]  # nothing waits to come back


def test_a_record_is_found_by_its_own_key_alone(tmp_path: Path, make_record: MakeRecord) -> None:
    """Names that differ by a capital or a dot have one file."""
    store, record = RecordStore(tmp_path), make_record(run="Base")
    store.write(record)
    assert store.find(record.key) == record
    assert store.find(make_record(run="base").key) is None


@pytest.mark.parametrize("name", ["Base", "v1.0", "v1-0-", "-1", "a--b", "a b", "", "1\n"])
def test_a_run_whose_file_another_could_have_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(CourseError, match="does not name a run; use small letters and digits") as error:
        run_name(name)
    assert "\n" not in str(error.value)


def test_a_run_may_have_a_number_or_a_word() -> None:
    assert [run_name(name) for name in ("1", "10", "cool-9")] == ["1", "10", "cool-9"]


# What is derived


def test_the_parts_of_a_latency_come_from_the_invocations(make_record: MakeRecord) -> None:
    record = make_record(4.0, timing={"device_ms": 3.0, "iterations": 400})
    found = record.latency
    assert (found.end_to_end.p50, found.device.value) == (pytest.approx(4), pytest.approx(3))
    assert found.end_to_end.iterations == 1200
    assert found.end_to_end.p90.value == pytest.approx(4)
    assert record.parts.compute == pytest.approx(3.8)
    assert make_record(device="cpu").latency.device is None
    assert make_record(count=0).latency is None


@pytest.mark.parametrize(("iterations", "there"), [(LEAST_FOR_P99 // 4, True), (LEAST_FOR_P99 // 4 - 1, False)])
def test_a_p99_needs_a_thousand_iterations(make_record: MakeRecord, iterations: int, there: bool) -> None:
    found = make_record(2.0, count=4, timing={"iterations": iterations}).latency.end_to_end.p99
    assert (found is not None) == there
    if there:
        assert found.value == pytest.approx(2.0 * P99_OVER_MEDIAN)
        assert found.low <= found.value <= found.high


def test_the_spread_of_single_inferences_is_that_between_the_outer_sixths(make_record: MakeRecord) -> None:
    record = make_record(1.0)
    for invocation in record.invocations:
        invocation.quantiles = [0.5 + n / 200 for n in range(201)]  # evenly from 0.5 to 1.5
    assert record.latency.end_to_end.cv_percent == pytest.approx(34)


def test_the_host_s_pace_is_the_median_over_all_rounds(make_record: MakeRecord) -> None:
    record = make_record()
    for invocation, pace in zip(record.invocations, (0.01, 0.03, 0.9), strict=True):
        invocation.pace_ms = [pace] * 5
    assert record.host_pace_ms == 0.03
    assert make_record(count=0).host_pace_ms is None


@pytest.mark.parametrize("difference", [float("nan"), float("inf")])
def test_a_difference_that_is_no_number_survives_the_way_to_disk(
    tmp_path: Path, make_record: MakeRecord, difference: float
) -> None:
    wrong = Accuracy(accuracy_percent=10, agreement_percent=10, largest_difference=difference, images=100)
    RecordStore(tmp_path).write(make_record(status="failed", reason="logits differ", accuracy=wrong))
    (record,) = RecordStore(tmp_path).read()
    assert str(record.accuracy.largest_difference) == str(difference)


def test_a_reason_why_not_starts_with_the_status(make_record: MakeRecord) -> None:
    assert make_record(count=0, status="out_of_memory", reason="too large").why_not == "out of memory: too large"
    assert make_record(reason="leftover").why_not == ""


def test_fps_is_the_batch_over_the_median_latency(make_record: MakeRecord) -> None:
    assert make_record(4.0, batch_size=8).fps == pytest.approx(2000)


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, make_record: MakeRecord) -> None:
    path = RecordStore(tmp_path).write(make_record())
    path.write_text(path.read_text()[:100])
    with pytest.raises(CourseError, match=rf"{path.name}.*delete it") as error:
        RecordStore(tmp_path).read()
    assert "\n" not in str(error.value)


def test_another_schema_version_is_refused(tmp_path: Path, make_record: MakeRecord) -> None:
    RecordStore(tmp_path).write(make_record(schema_version=99))
    with pytest.raises(CourseError, match="schema 99"):
        RecordStore(tmp_path).read()


def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(CourseError, match=r"cannot write records to .*file"):
        RecordStore(blocker / "records").check_writable()


def test_select_takes_measured_records_with_the_wanted_attributes(make_record: MakeRecord) -> None:
    fast, slow = make_record(1.0, batch_size=1), make_record(2.0, batch_size=8)
    absent = make_record(count=0, status="unavailable", batch_size=8)
    assert select([fast, slow, absent], batch_size=[1, 8]) == [fast, slow]
    assert select([fast, slow, absent], batch_size=8, backend="pytorch") == [slow]
    assert select_all([fast, slow, absent], batch_size=8) == [slow, absent]


WRITER = """
import sys
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
store = RecordStore(sys.argv[1])
record = Record.model_validate_json(open(sys.argv[2]).read())
print("ready", flush=True)
while True:
    for batch_size in range(1, 20):
        store.write(record.model_copy(update={"batch_size": batch_size}))
"""


def test_killing_a_writer_leaves_a_readable_store(tmp_path: Path, make_record: MakeRecord) -> None:
    seed = tmp_path / "seed.json"
    seed.write_text(make_record().model_dump_json())
    for attempt in range(3):
        store = RecordStore(tmp_path / "records")
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.directory), str(seed)], stdout=subprocess.PIPE
        )
        writer.stdout.readline()
        time.sleep(0.05 + 0.03 * attempt)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        assert store.read()
