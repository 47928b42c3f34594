"""Records survive the way to disk and back; a reader never sees half of one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from inference_lib.records.store import RecordStore, select

from inference_lib.records.record import Record
from inference_lib.support.errors import CourseError

MakeRecord = Callable[..., Record]


def test_a_record_comes_back_as_it_was(tmp_path: Path, make_record: MakeRecord) -> None:
    store, record = RecordStore(tmp_path), make_record()
    store.write(record)
    assert store.read() == [record]
    assert store.find(record) == record


def test_the_same_cell_replaces_its_record(tmp_path: Path, make_record: MakeRecord) -> None:
    store = RecordStore(tmp_path)
    store.write(make_record(2.0))
    store.write(make_record(3.0))
    (record,) = store.read()
    assert record.latency.end_to_end.p50 == 3.0


@pytest.mark.parametrize("changed", [{"batch_size": 8}, {"precision": "fp16"}, {"backend": "x"}, {"device": "cpu"}])
def test_other_cells_have_files_of_their_own(tmp_path: Path, make_record: MakeRecord, changed: dict) -> None:
    store = RecordStore(tmp_path)
    store.write(make_record())
    store.write(make_record(**changed))
    assert len(store.read()) == 2


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
    absent = make_record(status="unavailable", latency=None)
    assert select([fast, slow, absent], batch_size=[1, 8]) == [fast, slow]
    assert select([fast, slow, absent], batch_size=8, backend="pytorch") == [slow]


WRITER = """
import sys
from inference_lib.report.records import Record, RecordStore
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
    for attempt in range(5):
        store = RecordStore(tmp_path / "records")
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.directory), str(seed)], stdout=subprocess.PIPE
        )
        writer.stdout.readline()
        time.sleep(0.05 + 0.03 * attempt)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        assert store.read()
