"""Pauses of the machine: found by a process that sleeps, and told as what a request would have waited."""

import time

import psutil
import pytest

from inference_lib.measure.pauses import SLEEPER, held_up_s, watched_pauses
from inference_lib.serve.loadgen import Run


def the_sleeper() -> psutil.Process:
    (found,) = (child for child in psutil.Process().children() if SLEEPER in child.cmdline())
    return found


def test_a_quantile_is_that_of_moments_not_of_pauses() -> None:
    assert held_up_s([0.02] * 10, 10.0, 99) == pytest.approx(0.01)  # 2 % of the time: half of it is late by more
    assert held_up_s([0.001, 0.02] * 10, 10.0, 99) == pytest.approx(0.01)
    assert held_up_s([0.05], 10.0, 99) == 0.0
    assert held_up_s([0.05], 10.0, 99.9) == pytest.approx(0.04)
    assert held_up_s([], 10.0, 99) == 0.0


def test_a_process_that_is_held_up_is_noticed() -> None:
    with watched_pauses() as pauses:
        sleeper = the_sleeper()
        time.sleep(0.3)  # until it sleeps
        sleeper.suspend()
        time.sleep(0.5)
        sleeper.resume()
    held_up = pauses.quantile_ms()
    assert held_up is not None
    assert 300 < held_up < 1e3 * pauses.whole_s, pauses


def test_without_a_sleeper_nothing_is_said() -> None:
    with watched_pauses() as pauses:
        sleeper = the_sleeper()
        sleeper.kill()
    assert pauses.quantile_ms() is None


@pytest.mark.parametrize(("held_up_ms", "disturbed"), [(None, False), (0.9, False), (1.1, True)])
def test_a_run_whose_latencies_are_the_machine_s_says_so(held_up_ms: float | None, disturbed: bool) -> None:
    run = Run("server", True, [], 100.0, 100.0, {"p99": 4.0}, held_up_ms=held_up_ms)
    assert run.verdict == ("valid; disturbed: the machine held programs up for 1.1 ms" if disturbed else "valid")
