"""Images per second of batches that are queued back to back."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from inference_lib.measure.timing import Clock, no_garbage_collection
from inference_lib.seam import Runner


@dataclass(frozen=True)
class Throughput:
    """Images per second of batches queued back to back."""

    images_per_s: float
    batches: int
    seconds: float


def time_throughput(runner: Runner, batch: np.ndarray, budget_s: float, clock: Clock = time.perf_counter) -> Throughput:
    """Queue ``compute`` back to back on a batch that is on the device; return images per second."""
    runner.upload(batch)
    runner.compute()
    runner.synchronize()
    return fill_budget(lambda _: runner.compute(), runner.synchronize, len(batch), budget_s, clock, runner.at_once)


def fill_budget(
    queue: Callable[[int], object],
    wait: Callable[[], object],
    images: int,
    budget_s: float,
    clock: Clock = time.perf_counter,
    at_once: int = 1,
) -> Throughput:
    """Call ``queue`` (it is told how many came before) for about ``budget_s`` seconds, and wait once at the end.

    Shorter queues come first, each up to GROWTH times as long as the last, to find how many calls fill the budget; they
    are not counted, because the wait after a short queue is a good part of its time. Where ``at_once`` calls are worked
    on side by side, each place gets ROUNDS of them at least, whatever the budget: one alone says nothing of the others.
    Throughput is images over wall time, never the mean of 1/t: the mean of reciprocals is larger than the reciprocal of
    the mean (Jensen's inequality).
    """
    least = ROUNDS * at_once if at_once > 1 else 1
    before, batches = 0, at_once
    with no_garbage_collection():
        while True:
            start = clock()
            for number in range(before, before + batches):
                queue(number)
            wait()
            elapsed = clock() - start
            if elapsed >= FILLED * budget_s and batches >= least:
                return Throughput(batches * images / elapsed, batches, elapsed)
            before += batches
            batches = max(least, math.ceil(batches * min(GROWTH, budget_s / max(elapsed, TICK_S))))


GROWTH = 8
ROUNDS = 16
FILLED = 0.5
"""A queue that took this part of the budget is long enough."""

TICK_S = 1e-6
"""The shortest time that is taken for one: a fake clock may stand still."""
