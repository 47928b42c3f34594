"""Two kinds of load: callers who wait for an answer before they ask again, and callers who know nothing of each other.

The first, a closed loop, slows down with the server: while it stands still, nobody asks, and the requests that would
have suffered are never sent, nor counted ("coordinated omission"; Gil Tene, "How NOT to measure latency", 2013). The
second, an open loop, keeps its times, and measures each request from the time at which it was due.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np

from inference_lib.serve.client import Reply, kind_of
from inference_lib.serve.loadgen import Target
from inference_lib.serve.request import Request
from inference_lib.support.errors import CourseError
from inference_lib.support.progress import ticking

DRAINED_S = 60.0
"""How long the last answers are waited for."""

LOOK_S = 0.01
"""How often it is looked whether they came."""


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


class OpenLoop:
    """Requests that are due at known times, and what became of them.

    All is in arrays that are as large in the beginning as in the end: a load may be watched for memory that grows.
    """

    def __init__(self, target: Target, picture: np.ndarray, due: Sequence[float] | np.ndarray) -> None:
        """Prepare to send ``picture`` at each of the times ``due`` (ascending, seconds)."""
        self._target, self._picture = target, picture
        self.due = np.asarray(due, np.float64)
        self.sent, self.answered = np.full(len(self.due), np.nan), np.full(len(self.due), np.nan)
        """Seconds from the beginning; nan: not yet."""
        self.errors = np.full(len(self.due), "", object)
        """The kind of error that a request got instead of logits."""
        self._ended, self._start = threading.Event(), time.perf_counter()

    def now(self) -> float:
        """Return the seconds since the beginning."""
        return time.perf_counter() - self._start

    def run(self) -> None:
        """Send each request at its time, whatever became of those before, and wait for the last answers."""
        self._start = time.perf_counter()
        for number, when in enumerate(self.due):
            if self._ended.wait(max(0.0, when - self.now())):
                break
            self._send(number)
        deadline = time.monotonic() + DRAINED_S
        while self.under_way and time.monotonic() < deadline:
            time.sleep(LOOK_S)

    def end(self) -> None:
        """Let nothing more be sent."""
        self._ended.set()

    @property
    def under_way(self) -> int:
        """Requests that were sent, and not answered yet."""
        return int((~np.isnan(self.sent) & np.isnan(self.answered)).sum())

    def _send(self, number: int) -> None:
        self.sent[number] = self.now()
        try:
            self._target.submit(self._picture, lambda answered: self._note(number, answered.error))
        except Exception as error:  # a refusal is an answer
            self._note(number, error)

    def _note(self, number: int, error: Exception | None) -> None:
        self.errors[number] = kind_of(error) if error else ""
        self.answered[number] = self.now()


def open_loop(target: Target, picture: np.ndarray, due: Sequence[float] | np.ndarray) -> list[Sent]:
    """Send a picture at each of the times ``due`` (ascending, seconds), whatever became of those before.

    Raises:
        CourseError: some were not answered within a minute after the last was sent.

    """
    load = OpenLoop(target, picture, due)
    with ticking(float(due[-1]) if len(due) else 0.0, "open loop, s"):
        load.run()
    if load.under_way:
        raise _unanswered(f"{load.under_way} requests")
    return list(map(Sent, load.due.tolist(), load.sent.tolist(), load.answered.tolist(), load.errors))


def closed_loop(target: Target, picture: np.ndarray, callers: int, seconds: float) -> list[Sent]:
    """Let each of ``callers`` send, wait for the answer, and send again, for ``seconds`` seconds.

    A request counts as due when it was sent: that is what most load tools measure.

    Raises:
        CourseError: some were not answered within a minute after the last was sent.

    """
    start = time.perf_counter()

    def call(_: int) -> list[Sent]:
        requests: list[Sent] = []
        while (sent := time.perf_counter() - start) < seconds:
            answer: Future[Request | Reply] = Future()
            try:
                target.submit(picture, answer.set_result)
                error = answer.result(DRAINED_S).error
            except TimeoutError:
                raise _unanswered("a caller's request") from None
            except Exception as refused:  # a refusal is an answer
                error = refused
            requests.append(Sent(sent, sent, time.perf_counter() - start, kind_of(error) if error else ""))
        return requests

    with ticking(seconds, "closed loop, s"), ThreadPoolExecutor(callers) as pool:
        return list(chain.from_iterable(pool.map(call, range(callers))))


def _unanswered(what: str) -> CourseError:
    """Return the error: they would be the slowest of all."""
    return CourseError(f"{what} got no answer within {DRAINED_S:g} s; send fewer, or look why")
