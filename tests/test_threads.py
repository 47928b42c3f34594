"""The threads of a process: what the kernel counts, and waiting until they sleep."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from inference_lib.measure import threads
from inference_lib.measure.threads import Scheduled, scheduled, settle


def test_settling_waits_until_the_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    readings, ready = iter([0.0, 10.0, 20.0, 20.1, 20.1, 50.0]), iter([True, False])
    now = [0.0]
    monkeypatch.setattr(threads, "_others_would_run", lambda: next(ready))  # one waits for a core that is taken
    monkeypatch.setattr(threads, "scheduled", lambda: Scheduled(next(readings), 0.0))
    monkeypatch.setattr(threads.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])
    settle(window_s=0.01)
    assert now[0] == pytest.approx(0.04)
    assert next(readings) == 50.0


def test_threads_that_never_sleep_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(threads, "scheduled", lambda: Scheduled(now[0] * 1e3, 0.0))
    monkeypatch.setattr(threads.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])
    settle(window_s=0.01, limit_s=0.5)
    assert now[0] == pytest.approx(0.5, abs=0.02)


def test_a_thread_that_spins_would_run_and_one_that_sleeps_would_not() -> None:
    """In NumPy's loops, which let go of Python's lock."""
    stop, numbers = threading.Event(), np.ones(200_000)

    def spin() -> None:
        while not stop.is_set():
            np.sort(np.sqrt(numbers))

    spinning = threading.Thread(target=spin)
    spinning.start()
    try:
        assert any(threads._others_would_run() or time.sleep(0.001) for _ in range(2000))
    finally:
        stop.set()
        spinning.join()
    settle()
    assert not threads._others_would_run()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not count")
def test_the_kernel_s_counters_are_read_for_all_threads() -> None:
    before = scheduled()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert scheduled().ran_ms - before.ran_ms > 20
    assert scheduled().waited_ms >= before.waited_ms


def test_a_kernel_that_counts_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.os, "getpid", lambda: 2**30)
    assert scheduled() == Scheduled(0.0, 0.0)
