"""Functions that take turns: the order, what counts, and what the interval of their ratio allows."""

import math

import pytest
from waits import Clock

from inference_lib.measure import timing
from inference_lib.measure.turns import ROUNDS, Turns, take_turns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    real_sampler, real_warm_up = timing.sampler, timing.warm_up
    monkeypatch.setattr(timing, "sampler", lambda call: real_sampler(call, found))
    monkeypatch.setattr(timing, "warm_up", lambda call, budget_s: real_warm_up(call, budget_s=budget_s, clock=found))
    return found


class Call:
    """Takes a time that is told by the number of its call."""

    def __init__(self, clock: Clock, milliseconds: float, log: list[str], name: str) -> None:
        self.clock, self.milliseconds, self.log, self.name = clock, milliseconds, log, name

    def __call__(self) -> None:
        first = not self.log or self.log[-1] != self.name
        self.log.append(self.name)
        self.clock.now += self.milliseconds * (10 if first else 1) / 1e3  # caches are cold after another's turn


def test_the_first_call_of_a_turn_does_not_count_and_ratios_are_those_of_rounds(clock: Clock) -> None:
    log: list[str] = []
    found = take_turns({"slow": Call(clock, 4.0, log, "slow"), "fast": Call(clock, 2.0, log, "fast")}, turn_s=0.02)
    assert found.ms("slow") == pytest.approx(4.0)
    assert found.ms("fast") == pytest.approx(2.0)
    assert found.ratio("fast", "slow") == pytest.approx((2, 2, 2))
    assert (found.effect("fast", "slow"), found.effect("slow", "fast")) == ("faster", "slower")
    assert [len(rounds) for rounds in found.rounds.values()] == [ROUNDS, ROUNDS]


def test_everyone_has_a_turn_in_every_round_and_the_order_changes(clock: Clock) -> None:
    log: list[str] = []
    names = ["a", "b", "c"]
    take_turns({name: Call(clock, 1.0, log, name) for name in names}, turn_s=0.005)
    played = [name for before, name in zip(["", *log], log, strict=False) if name != before][len(names) :]
    # Two turns in a row of one function, last of a round and first of the next, look like one here.
    assert len(played) >= (ROUNDS - 1) * (len(names) - 1)
    assert {name: log.count(name) for name in names}["a"] == log.count("b") == log.count("c")
    assert len({tuple(played[i : i + 3]) for i in range(0, 30, 3)}) > 1


def test_a_long_call_still_has_two_counted_calls_in_each_turn(clock: Clock) -> None:
    log: list[str] = []
    take_turns({"long": Call(clock, 1000.0, log, "long"), "short": Call(clock, 1.0, log, "short")}, turn_s=0.01)
    assert log.count("long") >= ROUNDS * 2


def drifting(ratio: float, noise: list[float]) -> Turns:
    host = [1.0, 1.5, 0.8, 1.2] * 3
    return Turns({"a": [ms * ratio * n for ms, n in zip(host, noise, strict=True)], "b": host})


def test_a_drift_that_both_share_hides_no_effect() -> None:
    assert drifting(1.05, [1.0] * 12).effect("b", "a") == "faster"


def test_an_effect_inside_the_noise_is_none() -> None:
    assert drifting(1.05, [0.8, 1.25] * 6).effect("b", "a") == "none"
    assert drifting(1.01, [1.0] * 12).effect("b", "a") == "none"


def test_too_few_rounds_have_no_effect() -> None:
    found = Turns({"a": [2.0] * 5, "b": [1.0] * 5})
    ratio, low, high = found.ratio("b", "a")
    assert (ratio, low, high) == (pytest.approx(2), 0, math.inf)
    assert found.effect("b", "a") == "none"


def test_the_table_compares_with_the_first_function_unless_asked() -> None:
    found = Turns({"plain": [4.0] * 12, "graph": [2.0] * 12})
    table = found.table()
    assert table["ms"].tolist() == [4.0, 2.0]
    assert table["times faster"].tolist() == pytest.approx([1, 2])
    assert table["effect in this process"].tolist() == ["-", "faster"]
    assert found.table("graph")["effect in this process"].tolist() == ["slower", "-"]
