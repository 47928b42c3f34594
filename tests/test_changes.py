"""What got slower between two measurements: medians of different lives, never rounds that only share a name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_lib.cli import main
from inference_lib.records.changes import WORSE, changes
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore

MakeRecord = Callable[..., Record]

STEADY = {"luck": 0.002, "spread": 0.002}
NOISY = {"luck": 0.3, "spread": 0.01, "seed": 5}


def test_slower_beyond_the_noise_is_said_and_a_difference_within_it_is_not(make_record: MakeRecord) -> None:
    before = [make_record(2.0, timing=STEADY, backend=name) for name in ("pytorch", "tvm", "openvino")]
    after = [
        make_record(2.4, timing=STEADY, backend="pytorch"),
        make_record(2.4, timing=NOISY, backend="tvm"),
        make_record(1.5, timing=STEADY, backend="openvino"),
    ]
    found = changes(before, after)
    assert [change["verdict"] for change in found] == ["slower", "cannot tell", "faster"]
    assert [change["verdict"] in WORSE for change in found] == [True, False, False]
    assert found[0]["ratio"] == pytest.approx(2.0 / 2.4, rel=0.02)


def test_rounds_of_two_folders_are_not_paired_though_run_and_set_have_the_same_names(make_record: MakeRecord) -> None:
    """Paired, the luck that both lives seem to share would cancel, and leave a claim that nothing supports."""
    before, after = (make_record(ms, timing=NOISY, run="1", rivals="one set") for ms in (2.0, 2.2))
    (change,) = changes([before], [after])
    assert change["verdict"] == "cannot tell"


def test_a_row_that_is_gone_is_worse_and_one_that_was_not_there_is_no_change(make_record: MakeRecord) -> None:
    gone = make_record(count=0, status="failed", reason="no kernel")
    (change,) = changes([make_record()], [gone])
    assert (change["verdict"], change["ratio"]) == ("lost", None)
    assert changes([gone], [make_record()]) == []
    assert changes([make_record()], []) == []


def test_machines_of_different_names_are_not_compared(make_record: MakeRecord) -> None:
    here = make_record()
    other = here.model_copy(update={"machine": here.machine.model_copy(update={"gpu": "Another GPU"})})
    assert changes([here], [other]) == []


@pytest.fixture
def folders(tmp_path: Path, make_record: MakeRecord) -> dict[str, Path]:
    """Three folders: before, after (slower), and both as runs of one."""
    records = {"before": make_record(2.0, timing=STEADY), "after": make_record(3.0, timing=STEADY)}
    found = {name: tmp_path / name for name in (*records, "both")}
    for number, (name, record) in enumerate(records.items(), 1):
        RecordStore(found[name]).write(record)
        RecordStore(found["both"]).write(record.model_copy(update={"run": str(number)}))
    return found


def test_the_command_ends_with_1_where_something_got_slower(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after, both = map(str, folders.values())
    for arguments in (["--compare", before, after], ["--records", both, "--compare", "1", "2"]):
        assert main(["report", *arguments, "--json"]) == 1
        said = capsys.readouterr()
        (row,) = json.loads(said.out)
        assert (row["backend"], row["verdict"]) == ("pytorch", "slower")
        assert row["low"] < row["ratio"] < row["high"] < 1
        assert said.err == "1 of 1 rows got worse\n"
    assert main(["report", "--compare", after, before]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:4] == ["backend", "model", "precision", "batch"]
    assert table[2].endswith("faster")


def test_what_cannot_be_compared_is_one_line(
    folders: dict[str, Path], tmp_path: Path, make_record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["report", "--records", str(folders["both"]), "--compare"]
    assert main([*both, "1", "7"]) == 1
    assert "7 is neither a folder nor a run" in capsys.readouterr().err
    assert main([*both, "1", "2", "--batch-size", "64"]) == 1
    assert "no row of batch size 64 was measured; --batch-size may be 1\n" in capsys.readouterr().err
    assert main(["report", "--records", str(folders["both"]), "--batch-size", "7", "64"]) == 1
    assert "no row of batch size 7, 64 was measured" in capsys.readouterr().err
    RecordStore(tmp_path / "another").write(make_record(model="vanilla_cnn"))
    assert main(["report", "--compare", str(folders["before"]), str(tmp_path / "another")]) == 1
    assert "no cell of one machine in common" in capsys.readouterr().err


def test_one_invocation_gives_no_verdict_and_the_command_says_so(
    tmp_path: Path, make_record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, ms in (("before", 2.0), ("after", 3.0)):
        RecordStore(tmp_path / name).write(make_record(ms, count=1))
    assert main(["report", "--compare", str(tmp_path / "before"), str(tmp_path / "after")]) == 0
    assert "1 rows have too few invocations for a verdict" in capsys.readouterr().err
