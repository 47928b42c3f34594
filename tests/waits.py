"""Waiting in tests: for what happens elsewhere, with an end, and for a clock that nobody has to wait for."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


def wait_until(holds: Callable[[], object], limit_s: float = 120) -> None:
    """Return as soon as ``holds``, or after ``limit_s`` seconds, whatever is asserted then."""
    deadline = time.monotonic() + limit_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)


def interrupt() -> None:
    """Send this process Ctrl-C twice, as ``timeout -s INT`` does: to the process and to its group."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)


class Answers(Generic[T]):
    """What calls back from other threads, and a way to wait for so many of them."""

    def __init__(self) -> None:
        self.came: list[T] = []
        self._changed = threading.Condition()

    def __call__(self, answer: T) -> None:
        with self._changed:
            self.came.append(answer)
            self._changed.notify()

    def wait(self, count: int) -> list[T]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.came) >= count, 40), f"{len(self.came)} of {count} came"
        return self.came


class Clock:
    """Seconds that pass only when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now
