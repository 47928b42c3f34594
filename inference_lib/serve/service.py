"""How long a batch of each size takes: all that a model of a queue needs to know.

The times are those of the served path, from queue to answer. The classifier by itself is quicker: nobody hands it its
pictures from another thread, and nobody else runs Python meanwhile.
"""

import sys
import time
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

import numpy as np

from inference_lib.measure.timing import no_garbage_collection
from inference_lib.serve.classifier import PICTURE, Classifier, smallest
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.request import Request
from inference_lib.support.errors import CourseError

LEAST = 8
"""Batches of a size, whatever the budget."""

REQUESTS = 16
"""That make a batch; fewer where it has fewer pictures."""

PAUSE_S = 1e-4
BATCH_S = 30.0
"""How long a batch may take."""


@dataclass(frozen=True)
class Service:
    """Measured seconds of a batch, by its size."""

    alone: dict[int, list[float]]
    """From its arrival to its answer, with nothing else under way."""
    busy: dict[int, list[float]]
    """From one batch's answer to the next one's, where a batch always waits."""
    depth: int = 1
    """Batches that may be under way at once."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes, smallest first."""
        return tuple(sorted(self.busy))

    def size(self, count: int) -> int:
        """Return the size at which ``count`` pictures are computed."""
        return smallest(self.sizes, count)

    def occupied_s(self, count: int) -> float:
        """Return how long a batch of ``count`` pictures keeps others from being computed: the mean, seconds.

        Of many batches, the slow ones take their time as well: a rate follows from the mean, not from the median.
        """
        return fmean(self.busy[self.size(count)])

    def alone_s(self, count: int) -> float:
        """Return the time of a batch of ``count`` pictures by itself: the median, seconds."""
        return median(self.alone[self.size(count)])

    @property
    def capacity(self) -> float:
        """What a queue carries that is never empty, pictures a second: batches of the largest size."""
        return self.carried(self.sizes[-1])

    def carried(self, max_batch: int) -> float:
        """Return the same where ``max_batch`` is the largest batch: a queue that is never empty makes no others."""
        return max_batch / self.occupied_s(max_batch)


def measure_service(classifier: Classifier, budget_s: float = 0.3) -> Service:
    """Time batches of every size on their way through a queue, for about ``budget_s`` seconds each way."""
    alone, busy = {}, {}
    pictures = np.random.default_rng(0).integers(0, 256, (classifier.sizes[-1], *PICTURE), np.uint8)
    with no_garbage_collection():
        for size in classifier.sizes:
            with BatchQueue([classifier], max_batch=size, limit=sys.maxsize) as queue:
                alone[size] = _one_by_one(queue, pictures[:size], budget_s)
                busy[size] = _never_empty(queue, pictures[:size], (1 + classifier.depth) * size, budget_s)
    return Service(alone, busy, classifier.depth)


def _one_by_one(queue: BatchQueue, batch: np.ndarray, budget_s: float) -> list[float]:
    """Return the seconds from the arrival of a batch to its answer, with nothing else under way."""
    samples: list[float] = []
    ends = time.perf_counter() + budget_s
    while len(samples) <= LEAST or time.perf_counter() < ends:
        answered: Future[list[Request]] = Future()
        queue.submit_many(batch, (), answered.set_result)
        try:
            (request,) = answered.result(BATCH_S)
        except TimeoutError as error:
            raise _too_slow(batch) from error
        if request.error:
            raise request.error
        samples.append(request.finished - request.arrived)
    return samples[1:]


def _never_empty(queue: BatchQueue, batch: np.ndarray, waiting: int, budget_s: float) -> list[float]:
    """Return the seconds between one batch's answer and the next one's, where ``waiting`` pictures always wait.

    A batch comes in several requests, as under load: they are gathered, and whoever sends them needs Python, too.
    """
    ended: list[Request] = []

    def note(answered: list[Request]) -> None:
        ended.append(answered[0])  # one of each batch

    step = max(1, len(batch) // REQUESTS)
    parts = [batch[start : start + step] for start in range(0, len(batch), step)]
    ends = time.perf_counter() + budget_s
    while time.perf_counter() < ends or len(_intervals(ended, len(batch))) < LEAST:
        if ended and ended[-1].error:
            raise ended[-1].error
        if time.perf_counter() > ends + BATCH_S:
            raise _too_slow(batch)
        if queue.length < waiting:
            for part in parts:
                queue.submit_many(part, (), note)
        else:
            time.sleep(PAUSE_S)
    return _intervals(ended, len(batch))


def _too_slow(batch: np.ndarray) -> CourseError:
    return CourseError(f"batches of {len(batch)} pictures do not end within {BATCH_S:g} s; choose a smaller one")


def _intervals(ended: list[Request], size: int) -> list[float]:
    """Return the seconds from a batch's answer to that of the next one, where that had ``size`` pictures."""
    found = sorted((request.finished, request.batch) for request in list(ended))
    return [later - before for (before, _), (later, batch) in pairwise(found) if batch == size]
