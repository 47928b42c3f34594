"""How long a classifier takes for a batch of each size: all that a model of a queue needs to know of it."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from inference_lib.measure.timing import no_garbage_collection
from inference_lib.serve.classifier import Classifier, smallest
from inference_lib.serve.queue import BatchQueue, Request

LEAST = 8
"""Batches of a size, whatever the budget."""


@dataclass(frozen=True)
class Service:
    """Measured seconds of a batch, by its size."""

    alone: dict[int, list[float]]
    """From its pictures to its logits, with nothing else under way."""
    busy: dict[int, list[float]]
    """From one batch's logits to the next one's, with as many under way as the classifier takes."""
    depth: int = 1
    overhead_s: float = 0.0
    """What a queue adds to a batch of one that does not wait, and that one of its threads computes."""

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
    """Time batches of every size, for about ``budget_s`` seconds each way."""
    alone, busy = {}, {}
    pictures = np.random.default_rng(0).integers(0, 256, (classifier.sizes[-1], 28, 28), np.uint8)
    with no_garbage_collection():
        for size in classifier.sizes:
            batch = pictures[:size]
            alone[size] = _series(lambda b=batch: classifier.submit(b)(), budget_s)  # type: ignore[misc]
            busy[size] = _back_to_back(classifier, batch, budget_s) if classifier.depth > 1 else alone[size]
        with BatchQueue([classifier], max_batch=1) as waiting:
            queued = _through(waiting, pictures[0], budget_s)
    return Service(alone, busy, classifier.depth, max(0.0, median(queued) - median(alone[classifier.sizes[0]])))


def _through(waiting: BatchQueue, picture: np.ndarray, budget_s: float) -> list[float]:
    """Return the seconds from arrival to answer of single requests that one of the queue's threads computes."""

    def step() -> None:
        answered: Future[Request] = Future()
        waiting.submit(picture, answered.set_result)
        request = answered.result()
        samples.append(request.finished - request.arrived)

    samples: list[float] = []
    _series(step, budget_s)
    return samples


def _series(step: Callable[[], object], budget_s: float) -> list[float]:
    """Return the seconds of single calls; the first does not count."""
    step()
    samples: list[float] = []
    begin = time.perf_counter()
    while len(samples) < LEAST or time.perf_counter() - begin < budget_s:
        start = time.perf_counter()
        step()
        samples.append(time.perf_counter() - start)
    return samples


def _back_to_back(classifier: Classifier, batch: np.ndarray, budget_s: float) -> list[float]:
    """Return the seconds between one batch's logits and the next one's, with ``depth`` batches under way."""
    under_way = deque(classifier.submit(batch) for _ in range(classifier.depth))

    def step() -> None:
        under_way.popleft()()
        under_way.append(classifier.submit(batch))

    samples = _series(step, budget_s)
    for logits in under_way:
        logits()
    return samples
