"""Two kinds of load: callers who wait for an answer before they ask again, and callers who know nothing of each other.

The first, a closed loop, slows down with the server: while it stands still, nobody asks, and the requests that would
have suffered are never sent, nor counted ("coordinated omission"; Gil Tene, "How NOT to measure latency", 2013). The
second, an open loop, keeps its times, and measures each request from the time at which it was due.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference_lib.serve.loadgen import Target
from inference_lib.support.progress import ticking

DRAINED_S = 60.0
"""How long the last answers are waited for."""


@dataclass(frozen=True)
class Refused:
    """A request that was not even taken."""

    error: Exception


@dataclass(frozen=True)
class Sent:
    """One request of a load, times in seconds from its beginning."""

    due: float
    sent: float
    answered: float
    error: str = ""

    @property
    def latency_s(self) -> float:
        """From the time at which it was due to its answer."""
        return self.answered - self.due


def open_loop(target: Target, picture: np.ndarray, due: Sequence[float] | np.ndarray) -> list[Sent]:
    """Send a picture at each of the times ``due`` (ascending, seconds), whatever became of those before."""
    with ticking(max(due, default=0.0), "open loop, s"):
        load = _Load()
        for when in due:
            load.sleep_until(when)
            load.send(target, picture, float(when))
        load.wait()
    return load.requests


def closed_loop(target: Target, picture: np.ndarray, callers: int, seconds: float, every_s: float = 0.0) -> list[Sent]:
    """Let each of ``callers`` send, wait for the answer, and send again, for ``seconds`` seconds.

    A caller who has an interval (``every_s``) wants to send at its multiples, and is late where an answer is. A late
    request counts as due when it was sent: that is what most load tools measure.
    """
    load = _Load()

    def call() -> None:
        number = 0
        while (now := load.now()) < seconds:
            load.sleep_until(number * every_s)
            answered = threading.Event()
            load.send(target, picture, max(now, number * every_s), answered.set)
            if not answered.wait(DRAINED_S):
                return
            number = max(number + 1, int(load.now() / every_s)) if every_s else 0

    threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
    with ticking(seconds, "closed loop, s"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + DRAINED_S)
        load.wait()
    return load.requests


class _Load:
    """Requests on their way, and a clock that starts at 0."""

    def __init__(self) -> None:
        self.requests: list[Sent] = []
        self._open = 0
        self._changed = threading.Condition()
        self._start = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._start

    def sleep_until(self, when: float) -> None:
        left = when - self.now()
        if left > 0:
            time.sleep(left)

    def send(self, target: Target, picture: np.ndarray, due: float, then: Callable[[], object] = bool) -> None:
        sent = self.now()
        with self._changed:
            self._open += 1

        def done(answered: Any) -> None:
            error = type(answered.error).__name__ if answered.error else ""
            with self._changed:
                self.requests.append(Sent(due, sent, self.now(), error))
                self._open -= 1
                self._changed.notify()
            then()

        try:
            target.submit(picture, done)
        except Exception as error:  # a refusal is an answer
            done(Refused(error))

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._open == 0, DRAINED_S)
