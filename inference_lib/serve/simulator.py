"""A queue with dynamic batching, played through event by event with the measured times of the batches.

What is known beforehand: when requests come (Poisson: at random, at a rate) and how long a batch of each size takes
(``service.py``). What is wanted: how long requests wait. The rules are those of ``queue.py``.
"""

import heapq
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from inference_lib.serve.queue import mean_batch
from inference_lib.serve.service import Service


@dataclass(frozen=True)
class Knobs:
    """What can be set at a queue."""

    max_batch: int
    max_wait_s: float = 0.0
    limit: int = 1024
    """Requests that may wait; more are refused."""
    replicas: int = 1


@dataclass
class Outcome:
    """What became of the requests of one load."""

    latencies_s: np.ndarray
    """Of those that were answered."""
    batches: Counter[int] = field(default_factory=Counter)
    refused: int = 0

    def quantile_ms(self, percent: float) -> float:
        """Return the latency that ``percent`` percent of the answered requests did not exceed, ms."""
        return float(np.percentile(self.latencies_s, percent)) * 1e3 if len(self.latencies_s) else float("nan")

    @property
    def mean_batch(self) -> float:
        """Requests that were computed together, on average over batches."""
        return mean_batch(self.batches)


def poisson(rate: float, count: int, seed: int = 0) -> np.ndarray:
    """Return ``count`` times of arrival, seconds, ``rate`` of them a second: with exponential gaps, at random."""
    return np.random.default_rng(seed).exponential(1 / rate, count).cumsum()


def simulate(arrivals: Sequence[float] | np.ndarray, service: Service, knobs: Knobs, seed: int = 0) -> Outcome:
    """Play requests that come at ``arrivals`` (ascending, seconds) through a queue with ``knobs``.

    A replica has as many places as batches may be under way. A batch takes a place when it is submitted and leaves it
    with its logits; between the two, it is computed when the batch before it is. Its times are drawn from the measured
    ones, so that the slow ones are slow here, too. Where one batch is under way at a time, the thread that has computed
    it goes on with the next, if one waits: nobody is woken for that.
    """
    luck = iter(np.random.default_rng(seed).random(len(arrivals)).tolist())
    around = {size: max(0.0, service.alone_s(size) - median(service.busy[size])) for size in service.sizes}
    places = [(0.0, replica) for replica in range(knobs.replicas) for _ in range(service.depth)]
    free = [0.0] * knobs.replicas  # when a replica's last batch is computed
    turn = [0.0] * knobs.replicas  # when a replica's last batch was submitted: one is gathered at a time
    waiting: deque[float] = deque()
    outcome, latencies, coming = Outcome(np.empty(0)), [], deque(map(float, arrivals))

    def admit(until: float) -> None:
        while coming and coming[0] <= until:
            if len(waiting) < knobs.limit:
                waiting.append(coming.popleft())
            else:
                outcome.refused += 1
                coming.popleft()

    while coming or waiting:
        open_since, replica = heapq.heappop(places)
        now = max(open_since, turn[replica])
        admit(now)
        idle = not waiting
        if idle:
            now = coming[0]
            admit(now)
        batch = [waiting.popleft() for _ in range(min(knobs.max_batch, len(waiting)))]
        closes = batch[0] + knobs.max_wait_s
        while len(batch) < knobs.max_batch and coming and coming[0] <= closes:  # waits for company
            now = coming.popleft()
            batch.append(now)
        if len(batch) < knobs.max_batch:
            now = max(now, closes)
        turn[replica] = now
        size = service.size(len(batch))
        handed_over = 0.0 if service.depth == 1 and not idle else around[size]
        start = max(now + handed_over, free[replica])
        measured = service.busy[size]
        free[replica] = start + measured[int(next(luck) * len(measured))]
        latencies += [free[replica] - arrived for arrived in batch]
        outcome.batches[len(batch)] += 1
        heapq.heappush(places, (free[replica], replica))
    outcome.latencies_s = np.array(latencies)
    return outcome
