"""Two kinds of load: callers who wait for an answer before they ask again, and callers who know nothing of each other.

The first, a closed loop, slows down with the server: while it stands still, nobody asks, and the requests that would
have suffered are never sent, nor counted ("coordinated omission"; Gil Tene, "How NOT to measure latency", 2013). The
second, an open loop, keeps its times, and measures each request from the time at which it was due.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from inference_lib.serve.loadgen import Target
from inference_lib.support.errors import CourseError
from inference_lib.support.progress import ticking

DRAINED_S = 60.0
"""How long the last answers are waited for."""


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
    """Send a picture at each of the times ``due`` (ascending, seconds), whatever became of those before.

    Raises:
        CourseError: some were not answered within a minute after the last was sent.

    """
    with ticking(float(due[-1]) if len(due) else 0.0, "open loop, s"):
        load = _Load()
        for when in due:
            if (left := when - load.now()) > 0:
                time.sleep(left)
            load.send(target, picture, float(when))
        return load.answered()


def closed_loop(target: Target, picture: np.ndarray, callers: int, seconds: float) -> list[Sent]:
    """Let each of ``callers`` send, wait for the answer, and send again, for ``seconds`` seconds.

    A request counts as due when it was sent: that is what most load tools measure.

    Raises:
        CourseError: some were not answered within a minute after the last was sent.

    """
    load = _Load()

    def call() -> None:
        while (now := load.now()) < seconds:
            answered = threading.Event()
            load.send(target, picture, now, answered.set)
            if not answered.wait(DRAINED_S):
                return

    threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
    with ticking(seconds, "closed loop, s"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + DRAINED_S)
        return load.answered()


class _Load:
    """Requests on their way, and a clock that starts at 0."""

    def __init__(self) -> None:
        self.requests: list[Sent] = []
        self._open = 0
        self._changed = threading.Condition()
        self._start = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._start

    def send(self, target: Target, picture: np.ndarray, due: float, then: Callable[[], object] = bool) -> None:
        sent = self.now()
        with self._changed:
            self._open += 1

        def note(error: Exception | None) -> None:
            with self._changed:
                self.requests.append(Sent(due, sent, self.now(), type(error).__name__ if error else ""))
                self._open -= 1
                self._changed.notify()
            then()

        try:
            target.submit(picture, lambda answered: note(answered.error))
        except Exception as error:  # a refusal is an answer
            note(error)

    def answered(self) -> list[Sent]:
        with self._changed:
            if not self._changed.wait_for(lambda: self._open == 0, DRAINED_S):  # they would be the slowest of all
                raise CourseError(
                    f"{self._open} requests got no answer within {DRAINED_S:g} s; send fewer, or look why"
                )
            return self.requests
