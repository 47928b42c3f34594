"""Bars with the remaining time: where they are seen, what they say, and that nothing is written anywhere else."""

import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import tqdm.std
from jupyter_client.manager import KernelManager
from test_benchmark import PAIR, TINY
from torch import nn
from waits import Clock, wait_until

from inference_lib.course.kernels import ForkedKernels
from inference_lib.course.run import _line
from inference_lib.measure import exports, passes, plan, starts
from inference_lib.measure.plan import RivalSet, grid
from inference_lib.measure.rounds import Race
from inference_lib.measure.turns import ROUNDS, take_turns
from inference_lib.records.store import RecordStore
from inference_lib.seam import Device
from inference_lib.serve.loadgen import Run, highest_rate
from inference_lib.serve.loops import Sent, closed_loop, open_loop
from inference_lib.support import progress
from inference_lib.support.progress import Bar, bar, each, say, ticking, watched
from inference_lib.zoo.training import RECIPES, Checkpoint, LabelledImages, fit


class Stream(io.StringIO):
    """Standard error, at a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def drawn(self) -> list[str]:
        return [part for part in self.getvalue().split("\r") if part.strip()]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(tqdm.std, "time", found)
    return found


@contextmanager
def standard_error(terminal: bool = True, name: str = "xterm") -> Iterator[Stream]:
    with pytest.MonkeyPatch.context() as patch:
        stream = Stream(terminal)
        patch.setattr(sys, "stderr", stream)
        patch.setenv("TERM", name)
        yield stream


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the text of every bar at every step, the empty one at its end."""
    seen: list[str] = []
    monkeypatch.setattr(progress, "DELAY_S", 1e-9)
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    monkeypatch.setattr(Bar, "shown_by", seen.append)
    return seen


def test_a_bar_appears_after_three_seconds_says_what_is_left_and_vanishes(clock: Clock) -> None:
    with standard_error() as terminal:
        with bar(10, "turns") as shown:
            for _ in range(2):
                clock.now += 1
                shown.update()
            assert terminal.getvalue() == ""
            clock.now += 1
            shown.update()
            (drawn,) = terminal.drawn()
            assert drawn.startswith("turns:  30%|")
            assert drawn.endswith("| 3 of 10, 00:03 so far, 00:07 left")
            for _ in range(7):
                clock.now += 1
                shown.update()
            last = terminal.drawn()[-1]
            assert last.endswith("10 of 10, 00:10 so far, 00:00 left")
        assert terminal.getvalue().endswith("\r" + " " * len(last) + "\r")


def test_what_is_over_in_three_seconds_writes_nothing(clock: Clock, capfd: Any) -> None:
    with standard_error() as terminal:
        with bar(2, "turns") as shown:
            clock.now += 2.9
            shown.set_postfix_str("news")
            shown.update(2)
            say("a line")
        assert terminal.getvalue() == ""
        assert capfd.readouterr().out == "a line\n"


@pytest.mark.parametrize(("terminal", "name"), [(False, "xterm"), (True, "dumb")])
def test_where_nobody_watches_nothing_is_written_and_no_thread_is_started(
    clock: Clock, terminal: bool, name: str
) -> None:
    threads = set(threading.enumerate())
    with standard_error(terminal, name) as stream, ticking(60, "load"), bar(10, "turns") as shown:
        clock.now += 60
        shown.update(5)
        shown.set_postfix_str("news")
        assert list(each("ab", "letters")) == ["a", "b"]
        assert threads.issuperset(threading.enumerate())  # one of another test may have ended
        assert not watched()
    assert stream.getvalue() == ""


def test_steps_that_were_made_before_say_nothing_of_the_time_that_is_left(clock: Clock) -> None:
    with standard_error() as terminal:
        with bar(100, "training", done=90) as shown:
            clock.now += 5
            shown.update()
        assert "91 of 100, 00:05 so far, 00:45 left" in terminal.getvalue()


def test_a_bar_counts_to_its_total_and_no_further(clock: Clock) -> None:
    with standard_error() as terminal:
        with bar(2, "turns") as shown:
            clock.now += 5
            shown.update(3)
        assert "2 of 2, 00:05 so far, 00:00 left" in terminal.getvalue()


def test_only_the_outermost_bar_is_drawn(clock: Clock) -> None:
    with standard_error() as terminal:
        for _ in each("ab", "letters"):
            with bar(3, "turns") as inner:
                clock.now += 5
                inner.update()
        assert {drawn.split(":")[0] for drawn in terminal.drawn()} == {"letters"}
        with bar(3, "turns") as after:
            clock.now += 5
            after.update()
        assert terminal.drawn()[-1].startswith("turns")


def test_a_line_stands_above_the_bar(clock: Clock) -> None:
    with standard_error() as terminal:
        with bar(10, "turns") as shown:
            clock.now += 5
            shown.update()
            say("a line", terminal)
        before, after = terminal.getvalue().split("a line\n")
        assert before.endswith(" \r")  # the bar made room
        assert "turns:  10%" in after


def test_work_that_tells_nothing_is_timed(bars: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK_S", 0.02)
    with ticking(0.04, "load, s"):
        wait_until(lambda: bars and bars[-1].startswith("load, s: 100%"))
    assert bars[0].startswith("load, s:  50%")
    assert bars[-2].startswith("load, s: 100%")
    assert bars[-1] == ""


SHOWN = "from inference_lib.support.progress import watched; print(watched(), end='')"


def test_a_kernel_knows_whether_somebody_looks() -> None:
    manager = KernelManager()
    manager._kernel_spec = ForkedKernels().kernel_spec
    manager.start_kernel()
    said: list[str] = []
    try:
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(60)
        for looked_at in (True, False):  # as JupyterLab asks, and as papermill, nbconvert and nbval do
            client.execute_interactive(
                SHOWN,
                allow_stdin=looked_at,
                stdin_hook=print,
                output_hook=lambda message: said.append(message["content"].get("text", "")),
                timeout=60,
            )
        client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)
    assert [text for text in said if text] == ["True", "False"]


def test_the_line_of_a_chapter_is_restored_after_its_bar(capfd: Any) -> None:
    with standard_error():
        with _line("[1/2] 04_pytorch: ") as cells:
            assert cells == {"desc": "[1/2] 04_pytorch", "leave": False}
        assert capfd.readouterr().out == "\r[1/2] 04_pytorch: "
        with standard_error(terminal=False), _line("[1/2] 04_pytorch: ") as cells:
            assert cells is False
        assert capfd.readouterr().out == ""


# What is measured


def test_functions_that_take_turns_move_a_bar(bars: list[str]) -> None:
    take_turns({"a": bool, "b": bool}, turn_s=1e-4)
    total = (1 + ROUNDS) * 2
    assert f"| 1 of {total}, " in bars[0]
    assert f"| {total} of {total}, " in bars[-2]
    assert len(bars) == total + 1


def test_a_search_says_how_many_runs_are_left(bars: list[str]) -> None:
    def measure(rate: float) -> Run:
        return Run("server", True, [], rate, rate, {"p99": 1.0 if rate <= 730 else 50.0})

    _, runs = highest_rate(measure, 100.0, 10.0)
    assert len(bars) == len(runs) + 1
    assert f"| {len(runs)} of {len(runs)}, " in bars[-2]
    assert all(" left" in text for text in bars[:-1])


def test_every_export_is_a_step_whether_it_succeeds_or_not(bars: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Exporting:
        def __init__(self, _: object) -> None: ...
        def tell(self, *_: object) -> None: ...
        def kill(self) -> None: ...
        def answer(self, _: float) -> None:
            raise exports.WorkerError("died")

    monkeypatch.setattr(exports, "find_artifact", lambda *_: None)
    monkeypatch.setattr(exports, "Worker", Exporting)
    monkeypatch.setattr(exports, "first_to_answer", lambda running, _: list(running)[:1])
    failed = exports.export_missing(grid(["aot-inductor"], ["vanilla_cnn"], Device("cpu"), TINY), bars.append)
    assert len(failed) == 2
    assert "| 1 of 2, " in bars[0]
    assert "| 2 of 2, " in "".join(bars)


def test_every_start_is_a_step(bars: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rivals = grid(PAIR, ["vanilla_cnn"], Device("cpu"), TINY, ["fp32"], [1])
    store, died = RecordStore(tmp_path), Mock(side_effect=starts.WorkerError("died"))
    for rival in rivals:
        store.write(plan.empty_record(rival, TINY, "1", "ok"))
    monkeypatch.setattr(starts, "_alone", died)
    assert starts.time_starts(rivals, TINY, store, "1", lambda _: None) == []
    assert len(rivals) == 2
    assert "starts:  50%" in bars[0]
    assert "| 1 of 2, " in bars[0]
    assert "| 2 of 2, " in bars[-2]


SETS = [
    RivalSet(f"set {size}", tuple(grid(PAIR, ["vanilla_cnn"], Device("cpu"), TINY, ["fp32"], [size])))
    for size in (2, 1)
]


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> type[Race]:
    """Return races whose parts do nothing but ask everyone once, or in each round."""

    def ask(self: Race, times: int = 1) -> None:
        for rival in list(self.outcomes) * times:
            with self._failing(rival):
                pass

    monkeypatch.setattr(Race, "_start", ask)
    monkeypatch.setattr(Race, "_rounds", lambda self: ask(self, 1 + TINY.rounds_at(2, "cpu")))
    monkeypatch.setattr(Race, "_conclude", lambda self, number: None)
    monkeypatch.setattr(Race, "_phases", ask)
    monkeypatch.setattr(Race, "_evaluate", lambda self, chosen: ask(self) if chosen else None)
    return Race


@pytest.mark.usefixtures("race")
def test_a_grid_moves_a_bar_in_each_part_of_each_invocation(bars: list[str]) -> None:
    walk, places = passes.Passes(), []
    for one, number, place in walk.over(SETS, TINY, rounds_only=False):
        places.append((one.name, number, place))
        first = number == 1
        walk.race(one, TINY, number).run(number, phases=first, evaluate=one.members if first else ())
    assert places == [(one.name, number, f"{n}/2") for number in (1, 2, 3) for n, one in enumerate(SETS, 1)]
    total = 2 * 2 * (passes.PARTS + 2 * passes.FEWER_PARTS)
    assert bars[0].endswith(f"| 0 of {total}, 00:00 so far, ? left, vanilla_cnn, batch 2")
    assert f"| 1 of {total}, " in bars[1]
    assert f"| {total} of {total}, " in bars[-2]
    assert any(f"| {2 * passes.PARTS} of {total}, " in text and text.endswith("batch 1") for text in bars)


def test_an_invocation_that_was_measured_before_does_not_make_the_others_look_quick(clock: Clock) -> None:
    with standard_error() as terminal:
        walk = passes.Passes()
        for one, number, _ in walk.over(SETS, TINY, rounds_only=True):
            if number == 3:
                clock.now += 10
                walk.race(one, TINY, number)._timed("rounds", bool)
        assert "18 of 24, 00:10 so far, 00:30 left, vanilla_cnn, batch 2" in terminal.getvalue()


class Answering:
    """A target that answers at once."""

    error = None

    def submit(self, picture: np.ndarray, done: Callable[[Any], object]) -> None:
        done(self)


@pytest.mark.parametrize(
    "load",
    [
        lambda picture: open_loop(Answering(), picture, [0.0, 0.05, 0.1]),
        lambda picture: closed_loop(Answering(), picture, callers=1, seconds=0.1),
    ],
)
def test_a_load_says_how_many_of_its_seconds_are_left(
    bars: list[str], monkeypatch: pytest.MonkeyPatch, load: Callable[[np.ndarray], list[Sent]]
) -> None:
    monkeypatch.setattr(progress, "TICK_S", 0.02)
    assert load(np.zeros((28, 28), np.uint8))
    assert "loop, s: " in bars[0]
    assert all(" left" in text for text in bars[:-1])
    assert bars[-1] == ""


@pytest.mark.parametrize("asked", [True, False])
def test_training_has_a_bar_unless_it_is_told_not_to(bars: list[str], asked: bool, tmp_path: Path) -> None:
    images = LabelledImages(torch.zeros(64, 28, 28, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64))
    recipe = replace(RECIPES["vanilla_cnn"], epochs=2, batch_size=16)
    tiny = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    fit("tiny", tiny, recipe, images, images, Checkpoint(tmp_path / "kept.pt", []), progress=asked)
    assert any("| 8 of 8, " in text and "epoch=2, validation=" in text for text in bars) is asked
    assert bool(bars) is asked
