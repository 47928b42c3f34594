"""Dynamic batching in one process: requests wait in a queue, and whoever is free takes as many as make a batch.

Three knobs and a limit: the largest batch, how long the first request of a batch waits for company, how many requests
may wait, and how long one may. A request is always answered: with logits, or with the reason why not.

A request may be of several pictures that came together. They wait as one, and whoever asked is called once for all that
were computed together: what Python does for each of them is what limits the rate.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np

from inference_lib.serve.classifier import PICTURE, Classifier, smallest
from inference_lib.serve.request import ClosedError, FailedError, OverloadedError, Request, TimedOutError
from inference_lib.support.errors import CourseError
from inference_lib.support.failures import reason_of

CLOSING_S = 30.0
"""How long the end of a queue waits for the batches under way."""

TRIES = 3
"""Starts of a replica, one after the other, before it is given up."""


@dataclass(eq=False)
class Replica:
    """One who works: a classifier, and whose turn it is to take the next batch for it."""

    classifier: Classifier
    turn: threading.Lock = field(default_factory=threading.Lock)
    under_way: int = 0
    """Batches."""
    led: bool = False
    """Whether a caller computes his own request, and nobody else may submit."""


class BatchQueue(AbstractContextManager["BatchQueue"]):
    """Requests in, batches out to one or several classifiers.

    For every batch that a classifier may have under way there is a thread. One of them holds the classifier's turn: it
    waits for requests, submits a batch, passes the turn on, and only then waits for its logits. So the next batch is
    gathered while this one is computed, and a request passes through two threads and no more: its caller's and one.

    A caller who waits for his answer anyway (``ask``), and finds a classifier that has nothing to do, computes his
    request himself: to wake another thread, and to be woken by it, takes longer than a small batch.

    The waiting time counts from a request's arrival. One that waited while all were busy does not wait for company too.
    """

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        remake: Callable[[Any], Classifier] | None = None,
        max_batch: int | None = None,
        max_wait_s: float = 0.0,
        limit: int = 1024,
        timeout_s: float = 5.0,
    ) -> None:
        """Let ``classifiers`` work. They stay the caller's, who closes them. Raise CourseError for too large a batch.

        Args:
            classifiers: one or several of the same sizes.
            remake: gets one that died, and returns another for its place; None: nobody takes it.
            max_batch: pictures that are computed together at most; None: the classifiers' largest size.
            max_wait_s: how long the first request of a batch waits for others, seconds.
            limit: pictures that may wait; more are refused. While a replica is dead, its share of them is, too: those
                who are left answer fewer in the same time.
            timeout_s: how long a request may wait until it is taken, seconds.

        """
        self._replicas = [Replica(classifier) for classifier in classifiers]
        self._count = len(classifiers)
        self._remake, self._made = remake, list[Classifier]()
        self.max_batch = max_batch or classifiers[0].sizes[-1]
        smallest(classifiers[0].sizes, self.max_batch)
        self.max_wait_s, self.limit, self.timeout_s = max_wait_s, limit, timeout_s
        self.batches: Counter[int] = Counter()
        """How many batches there were of each size."""
        self._waiting: deque[Request] = deque()
        self.length = 0
        """Pictures that wait."""
        self._closed = self._ended = False
        self._changed = threading.Condition()
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
    def ready(self) -> bool:
        """Whether requests are accepted, and somebody is there who answers them."""
        return not self._closed and any(replica.classifier.alive() for replica in self._replicas)

    def submit(self, picture: np.ndarray, done: Callable[[Request], object]) -> None:
        """Queue a picture (uint8, 28 x 28) and return; ``done`` gets the answered request. See ``submit_many``."""
        self.submit_many(picture[None], (), lambda answered: done(answered[0]))

    def submit_many(self, pictures: np.ndarray, tags: Sequence[Any], done: Callable[[list[Request]], object]) -> None:
        """Queue pictures (uint8, N x 28 x 28), each known by its tag, and return.

        ``done`` gets them back in requests of one or several, those that do not fit at once, with an OverloadedError.

        Raises:
            ClosedError: the queue has ended.
            CourseError: they are another kind of array.

        """
        self._enter(_request(pictures, done, tags))

    def ask(self, picture: np.ndarray) -> Request:
        """Compute a picture, or queue it and wait; return the answered request, or raise why there is no answer."""
        answer: Future[Request] = Future()
        request = _request(picture[None], lambda answered: answer.set_result(answered[0]))
        if replica := self._idle():
            request.taken = request.arrived
            try:
                self._start(replica, [request])()
            finally:
                with self._changed:
                    replica.led = False
                    self._changed.notify_all()
        else:
            self._enter(request)
        try:
            answer.result(self.timeout_s + CLOSING_S)
        except TimeoutError as error:
            raise TimedOutError("the batch of this request did not end") from error
        if request.error:
            raise request.error
        return request

    def close(self) -> None:
        """Refuse new requests, answer those that are here, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not any(replica.led for replica in self._replicas), CLOSING_S)
        ends = time.monotonic() + CLOSING_S
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        self._refuse_waiting()
        with self._changed:
            self._ended = True  # what is made from now on is closed by whoever made it
        for classifier in self._made:
            classifier.close()

    def _enter(self, request: Request) -> None:
        """Let in what fits, and refuse what does not."""
        with self._changed:
            if self._closed:
                raise ClosedError("the queue has ended; start it again")
            alive = sum(replica.classifier.alive() for replica in self._replicas)
            allowed = self.limit * max(1, alive) // self._count
            room = max(0, allowed - self.length)
            fitting = request if len(request.pictures) <= room else request.cut(room)
            if room > 0:
                self._waiting.append(fitting)
                self.length += len(fitting.pictures)
                self._changed.notify_all()  # of each classifier, one thread at most waits here
        if fitting is not request:
            self._answer([request], OverloadedError(f"{allowed} requests wait already; try again later"))

    def _idle(self) -> Replica | None:
        """Return a replica that has nothing to do, for a caller who need not wait for company, to be led by him."""
        with self._changed:
            if self._closed or self._waiting or (self.max_wait_s and self.max_batch > 1):
                return None
            for replica in self._replicas:
                if not replica.led and not replica.under_way and replica.classifier.alive():
                    replica.led, replica.under_way = True, 1
                    return replica
        return None

    def _work(self, replica: Replica) -> None:
        """Take batches for one replica until the queue ends."""
        while True:
            with replica.turn:
                taken = self._take(replica)
                if taken:
                    answer = self._start(replica, taken)
                elif self._closed or not self._replace(replica):
                    return
            if taken:
                answer()

    def _take(self, replica: Replica) -> list[Request]:
        """Return the next batch: as many as there are, or as come in time; nothing at the end, or for a dead one."""
        with self._changed:
            while replica.classifier.alive() and not (self._closed and not self._waiting):
                if not self._waiting or replica.led:
                    self._changed.wait()
                    continue
                left = self._waiting[0].arrived + self.max_wait_s - time.perf_counter()
                if self.length >= self.max_batch or left <= 0 or self._closed:
                    return self._cut(replica)
                self._changed.wait(left)
        return []

    def _cut(self, replica: Replica) -> list[Request]:
        """Return the first who wait, up to the largest batch."""
        size, now, batch = min(self.length, self.max_batch), time.perf_counter(), list[Request]()
        self.length -= size
        replica.under_way += 1
        left = size
        while left:
            first = self._waiting[0]
            batch.append(self._waiting.popleft() if len(first.pictures) <= left else first.cut(left))
            left -= len(batch[-1].pictures)
            batch[-1].taken = now
        return batch

    def _start(self, replica: Replica, taken: list[Request]) -> Callable[[], None]:
        """Submit a batch; return what waits for its logits and answers it."""
        late = [request for request in taken if request.taken - request.arrived > self.timeout_s]
        if late:
            why = f"the request waited for more than {self.timeout_s:g} s; send fewer, or wait longer"
            self._answer(late, TimedOutError(why))
        batch = [request for request in taken if request not in late] if late else taken
        size = sum(len(request.pictures) for request in batch)
        for request in batch:
            request.batch = size
        logits: Callable[[], np.ndarray] = partial(np.empty, 0)
        try:
            if batch:
                logits = replica.classifier.submit(np.concatenate([request.pictures for request in batch]))
        except Exception as error:  # whatever a framework raises is answered, and the queue goes on
            failed: Future[np.ndarray] = Future()
            failed.set_exception(error)
            logits = failed.result
        return partial(self._finish, replica, batch, logits)

    def _finish(self, replica: Replica, batch: list[Request], logits: Callable[[], np.ndarray]) -> None:
        failed = None
        try:
            found, end = logits(), 0
            for request in batch:
                start, end = end, end + len(request.pictures)
                request.logits = found[start:end]
            if end != len(found):
                raise ValueError(f"{len(found)} rows of logits for {end} pictures")
        except Exception as error:
            failed = FailedError(f"the batch failed: {reason_of(error)}")
        with self._changed:
            replica.under_way -= 1
            if batch and not failed:
                self.batches[end] += 1
            if not replica.classifier.alive():
                self._changed.notify_all()  # who has the turn replaces it
        self._answer(batch, failed)

    def _answer(self, batch: list[Request], error: CourseError | None = None) -> None:
        """Hand requests back; what goes wrong with whoever asked does not concern the others."""
        now = time.perf_counter()
        for request in batch:
            request.error, request.finished = error, now
        for done, together in groupby(batch, attrgetter("done")):
            try:
                done(list(together))
            except Exception:
                logging.getLogger(__name__).exception("a request was answered, and whoever asked could not take it")

    def _replace(self, replica: Replica) -> bool:
        """Make a dead classifier anew; return whether somebody works there now."""
        if replica not in self._replicas:  # given up before
            return False
        replica.classifier.close()
        for make in [self._remake] * TRIES if self._remake else []:
            try:
                replica.classifier = make(replica.classifier)
            except Exception as error:  # it may have died while it started, too
                logging.getLogger(__name__).warning("a replica does not come up: %s", reason_of(error))
                continue
            with self._changed:
                if not self._ended:
                    self._made.append(replica.classifier)
                    return True
            replica.classifier.close()
            return False
        with self._changed:
            self._replicas.remove(replica)
            self._closed = self._closed or not self._replicas
            self._changed.notify_all()
        if not self._replicas:
            self._refuse_waiting()
        return False

    def _refuse_waiting(self) -> None:
        with self._changed:
            refused, self.length = list(self._waiting), 0
            self._waiting.clear()
        self._answer(refused, ClosedError("the queue has ended; the request was not computed"))

    def __exit__(self, *exc: object) -> None:
        self.close()


def mean_batch(batches: Counter[int]) -> float:
    """Return how many pictures were computed together, on average over batches: how many there were of each size."""
    return sum(size * count for size, count in batches.items()) / max(1, batches.total())


def _request(pictures: np.ndarray, done: Callable[[list[Request]], object], tags: Sequence[Any] = ()) -> Request:
    """Return a request of now; an array of another kind would fail all that it is computed with."""
    if pictures.dtype != np.uint8 or pictures.shape[1:] != PICTURE:
        kind = f"{pictures.dtype}, {' x '.join(map(str, pictures.shape[1:]))}"
        raise CourseError(f"the queue takes pictures of uint8, {PICTURE[0]} x {PICTURE[1]}, not of {kind}")
    return Request(pictures, done, time.perf_counter(), tags)
