"""What a measurement shows while it runs: a table on a terminal that vanishes, lines anywhere else."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from inference_lib.measure.plan import Rival
from inference_lib.records.record import Record
from inference_lib.report.live import Board
from inference_lib.seam import Workload
from inference_lib.support import progress

MakeRecord = Callable[..., Record]


def rival(name: str) -> Rival:
    return Rival(name, Workload("resnet18", 1))


def console(**options: object) -> Console:
    return Console(file=io.StringIO(), width=100, height=14, **options)


def drawn(board: Board, line: str = "") -> list[str]:
    seen = console()
    seen.print(board.table(line))
    return seen.file.getvalue().splitlines()


def test_rows_appear_when_there_is_news_of_them_the_latest_last(make_record: MakeRecord) -> None:
    names = ("pytorch", "tvm", "tensorrt")
    records = {rival(name): make_record(count=0, backend=name, title=name) for name in names}
    board = Board(records, 3, console(force_terminal=True))
    assert not any(name in line for line in drawn(board) for name in names)
    records[rival("tvm")] = make_record(2.0, count=2, title="tvm")
    records[rival("tensorrt")] = make_record(count=0, title="tensorrt", status="unavailable", reason="[1] not there")
    assert "1 of 3 rows done; exporting [x]" in drawn(board, "  exporting [x]")[-1]
    records[rival("pytorch")] = make_record(3.0, title="pytorch")
    drawn(board)
    records[rival("tvm")] = make_record(2.0, count=3, title="tvm")
    rows = [line for line in drawn(board) if "resnet18" in line]
    assert [row.split()[1] for row in rows] == ["tensorrt", "pytorch", "tvm"]
    assert "unavailable: [1] not there" in rows[0]
    assert [word for word in rows[1].split() if word[0] == "3"] == ["3/3", "3.000"]
    assert max(map(len, rows)) <= 100


def test_a_grid_that_is_higher_than_the_terminal_shows_its_last_rows(make_record: MakeRecord) -> None:
    records = {Rival("pytorch", Workload("resnet18", n)): make_record(batch_size=n) for n in range(1, 50)}
    lines = drawn(Board(records, 3, console(force_terminal=True)))
    assert len(lines) < 14
    assert any(" 49 " in line for line in lines)


def test_a_terminal_is_left_as_it_was_and_a_file_gets_the_lines(
    make_record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = console(force_terminal=True, legacy_windows=False)
    with Board({rival("pytorch"): make_record()}, 3, terminal) as board:
        board.say("invocation 1")
    text = terminal.file.getvalue()
    assert "1 of 1 rows done; invocation 1" in text
    assert text.endswith("\x1b[2K")  # what was drawn is erased
    with Board({}, 3, console()) as board:
        board.say("invocation 1")
    assert capsys.readouterr().err == "invocation 1\n"


def test_what_is_left_stands_below_the_table_as_long_as_something_is(
    make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "DELAY_S", 1e-9)
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    terminal = console(force_terminal=True, legacy_windows=False)
    with Board({rival("pytorch"): make_record()}, 3, terminal) as board:
        board.say("invocation 1")
        with progress.bar(4, "measuring") as shown:
            shown.update()
            assert "| 1 of 4, 00:00 so far, 00:00 left" in terminal.file.getvalue()
        terminal.file.truncate(0)
        board.say("the end")
        assert " left" not in terminal.file.getvalue()
    with progress.bar(4, "measuring") as shown:
        assert shown.disable  # nobody watches any more
    assert capsys.readouterr().err == ""
