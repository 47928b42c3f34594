"""Dynamic batching in one process: requests wait in a queue, and whoever is free takes as many as make a batch.

Three knobs and a limit: the largest batch, how long the first request of a batch waits for company, how many requests
may wait, and how long one may. A request is always answered: with logits, or with the reason why not.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from inference_lib.serve.classifier import Classifier
from inference_lib.support.errors import CourseError
from inference_lib.support.failures import reason_of

CLOSING_S = 30.0
"""How long the end of a queue waits for the batches under way."""

TRIES = 3
"""Starts of a replica, one after the other, before it is given up."""


class UnansweredError(CourseError):
    """A request that got no logits, and why."""


class OverloadedError(UnansweredError):
    """The queue is full; nothing was kept of the request."""


class TimedOutError(UnansweredError):
    """The request waited longer than it may, and was not computed."""


class FailedError(UnansweredError):
    """The batch of this request failed, or its worker died."""


class ClosedError(UnansweredError):
    """The queue has ended, or has nobody left who works."""


@dataclass(slots=True)
class Request:
    """A picture, and what became of it. Times are those of ``time.perf_counter``."""

    picture: np.ndarray
    done: Callable[["Request"], object]
    """Called once, in a worker's thread, with the answered request."""
    arrived: float
    taken: float = 0.0
    finished: float = 0.0
    batch: int = 0
    """Requests that were computed together."""
    logits: np.ndarray | None = None
    error: UnansweredError | None = None

    def answer(self, error: UnansweredError | None = None) -> None:
        """Hand the request back; what goes wrong with whoever asked does not concern the others."""
        self.error, self.finished = error, time.perf_counter()
        try:
            self.done(self)
        except Exception:
            logging.getLogger(__name__).exception("a request was answered, and whoever asked could not take it")


@dataclass
class Replica:
    """One who works: a classifier, and whose turn it is to take the next batch for it."""

    classifier: Classifier
    turn: threading.Lock = field(default_factory=threading.Lock)


class BatchQueue:
    """Requests in, batches out to one or several classifiers.

    For every batch that a classifier may have under way there is a thread. One of them holds the classifier's turn: it
    waits for requests, submits a batch, passes the turn on, and only then waits for its logits. So the next batch is
    gathered while this one is computed, and a request passes through two threads and no more: its caller's and one.

    The waiting time counts from a request's arrival. One that waited while all were busy does not wait for company too.
    """

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        remake: Callable[[], Classifier] | None = None,
        max_batch: int | None = None,
        max_wait_s: float = 0.0,
        limit: int = 1024,
        timeout_s: float = 5.0,
    ) -> None:
        """Let ``classifiers`` work. They stay the caller's, who closes them.

        Args:
            classifiers: one or several of the same sizes.
            remake: returns a classifier in the place of one that died; None: nobody takes its place.
            max_batch: requests that are computed together at most; None: the classifiers' largest size.
            max_wait_s: how long the first request of a batch waits for others, seconds.
            limit: requests that may wait; more are refused.
            timeout_s: how long a request may wait until it is taken, seconds.

        """
        self._replicas = [Replica(classifier) for classifier in classifiers]
        self._remake, self._made = remake, list[Classifier]()
        self.max_batch = max_batch or classifiers[0].sizes[-1]
        self.max_wait_s, self.limit, self.timeout_s = max_wait_s, limit, timeout_s
        self.batches: Counter[int] = Counter()
        """How many batches there were of each size."""
        self._waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._closed = False
        self._door = threading.Lock()  # nobody enters behind the end's back
        self._threads = [
            threading.Thread(target=self._work, args=(replica,), daemon=True)
            for replica in self._replicas
            for _ in range(replica.classifier.depth)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def replaced(self) -> int:
        """Replicas that died, and in whose place another one works."""
        return len(self._made)

    @property
    def length(self) -> int:
        """Requests that wait."""
        return self._waiting.qsize()

    @property
    def ready(self) -> bool:
        """Whether requests are accepted, and somebody is there who answers them."""
        return not self._closed and any(replica.classifier.alive() for replica in self._replicas)

    def submit(self, picture: np.ndarray, done: Callable[[Request], object]) -> None:
        """Queue a picture (uint8, 28 x 28) and return; ``done`` gets the answered request.

        Raises:
            OverloadedError: as many requests wait as may.
            ClosedError: the queue has ended.

        """
        with self._door:
            if self._closed:
                raise ClosedError("the queue has ended; start it again")
            if self._waiting.qsize() >= self.limit:
                raise OverloadedError(f"{self.limit} requests wait already; try again later")
            self._waiting.put(Request(picture, done, time.perf_counter()))

    def ask(self, picture: np.ndarray) -> Request:
        """Queue a picture, wait, and return the answered request; raise why there is no answer."""
        future: Future[Request] = Future()
        self.submit(picture, future.set_result)
        request = future.result(self.timeout_s + CLOSING_S)
        if request.error:
            raise request.error
        return request

    def close(self) -> None:
        """Refuse new requests, answer those that are here, and end."""
        with self._door:
            self._closed = True
        for _ in self._threads:
            self._waiting.put(None)
        ends = time.monotonic() + CLOSING_S
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        self._refuse_waiting()
        for classifier in self._made:
            classifier.close()

    def _work(self, replica: Replica) -> None:
        """Take batches for one replica until the queue ends."""
        while True:
            with replica.turn:
                taken = self._take()
                if not taken:
                    return
                batch = [request for request in taken if not self._expired(request)]
                if not batch:
                    continue
                used = replica.classifier
                try:
                    logits = used.submit([request.picture for request in batch])
                except Exception as error:  # whatever a framework raises
                    logits = _raiser(error)
            self._answer(batch, logits)
            if not used.alive() and not self._replace(replica, used):
                return

    def _take(self) -> list[Request]:
        """Return the next batch: as many as there are, or as come in time; nothing at the end."""
        first = self._waiting.get()
        if first is None:
            return []
        batch, closes = [first], first.arrived + self.max_wait_s
        while len(batch) < self.max_batch:
            left = closes - time.perf_counter()
            try:
                request = self._waiting.get(timeout=left) if left > 0 else self._waiting.get_nowait()
            except queue.Empty:
                break
            if request is None:
                self._waiting.put(None)
                break
            batch.append(request)
        now = time.perf_counter()
        for request in batch:
            request.taken, request.batch = now, len(batch)
        return batch

    def _expired(self, request: Request) -> bool:
        if request.taken - request.arrived <= self.timeout_s:
            return False
        request.answer(
            TimedOutError(f"the request waited for more than {self.timeout_s:g} s; send fewer, or wait longer")
        )
        return True

    def _answer(self, batch: Sequence[Request], logits: Callable[[], np.ndarray]) -> None:
        try:
            found = logits()
        except Exception as error:  # whatever a framework raises is answered, and the queue goes on
            failed = FailedError(f"the batch failed: {reason_of(error)}")
            for request in batch:
                request.answer(failed)
            return
        self.batches[len(batch)] += 1
        for request, row in zip(batch, found, strict=True):
            request.logits = row
            request.answer()

    def _replace(self, replica: Replica, dead: Classifier) -> bool:
        """Make a dead classifier anew, once; return whether somebody works there now."""
        with replica.turn:
            if replica.classifier is not dead or self._closed:
                return not self._closed
            dead.close()
            for make in [self._remake] * TRIES if self._remake else []:
                try:
                    replica.classifier = make()
                except Exception:  # it may have died while it started, too
                    continue
                self._made.append(replica.classifier)
                return True
            self._replicas.remove(replica)
            if not self._replicas:
                with self._door:
                    self._closed = True
                self._refuse_waiting()
            return False

    def _refuse_waiting(self) -> None:
        while True:
            try:
                request = self._waiting.get_nowait()
            except queue.Empty:
                return
            if request is not None:
                request.answer(ClosedError("the queue has ended; the request was not computed"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _raiser(error: Exception) -> Callable[[], np.ndarray]:
    def logits() -> np.ndarray:
        raise error

    return logits
