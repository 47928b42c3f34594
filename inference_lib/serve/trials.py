"""Experiments in this process: what the simulator said against what the queue did, and the rate that a limit allows."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from inference_lib.measure.turns import Turns, take_turns
from inference_lib.serve.classifier import PICTURE, Classifier
from inference_lib.serve.loadgen import Run, highest_rate, run_loadgen
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.queueing import slowest_s
from inference_lib.serve.service import Service
from inference_lib.serve.simulator import Knobs, Outcome, poisson, simulate

SIMULATED = 20_000
"""Requests of a simulation: 200 of them lie beyond the 99th percentile."""


@dataclass(frozen=True)
class Trial:
    """One load: predicted by arithmetic, by simulation, and measured."""

    load: float
    """Part of the capacity."""
    rate: float
    """Requests a second."""
    law_ms: float
    """What two batches take, see ``queueing.py``."""
    simulated: Outcome
    run: Run
    mean_batch: float
    """Requests that the queue computed together, on average."""

    @property
    def off_percent(self) -> float:
        """How far the simulated p99 is from the measured one, percent of the measured."""
        measured = self.run.latency_ms["p99"]
        return 100 * (self.simulated.quantile_ms(99) - measured) / measured


@contextmanager
def queued(classifier: Classifier, knobs: Knobs) -> Iterator[BatchQueue]:
    """Put a queue with ``knobs`` before a classifier; the garbage of before is collected first, and not meanwhile."""
    gc.collect()
    gc.freeze()  # a collection walks through all objects that there are, a server's requests wait for it
    try:
        with BatchQueue([classifier], None, knobs.max_batch, knobs.max_wait_s, knobs.limit) as queue:
            yield queue
    finally:
        gc.unfreeze()


def predict_and_measure(
    classifier: Classifier,
    service: Service,
    knobs: Knobs,
    pictures: Sequence[np.ndarray],
    seconds: float,
    loads: Sequence[float] = (0.3, 0.5, 0.7, 0.8, 0.9),
    limit_ms: float = 100.0,
) -> Iterator[Trial]:
    """Simulate a queue at parts of its capacity, then put the real one under the same loads with LoadGen."""
    for load in loads:
        rate = load * service.capacity
        simulated = simulate(poisson(rate, SIMULATED), service, knobs)
        law = slowest_s(rate, service, knobs.max_batch, knobs.max_wait_s) * 1e3
        with queued(classifier, knobs) as queue:
            run = run_loadgen(queue, pictures, "server", seconds, rate, limit_ms)
            batches = queue.batches
        mean = sum(size * count for size, count in batches.items()) / max(1, batches.total())
        yield Trial(load, rate, law, simulated, run, mean)


def simulated_rate(service: Service, knobs: Knobs, limit_ms: float, precision: float = 0.02) -> float:
    """Return the highest rate at which the simulated p99 stays within ``limit_ms``; 0 where none does."""
    low, high = 0.0, service.capacity
    while high - low > precision * service.capacity:
        middle = (low + high) / 2
        found = simulate(poisson(middle, SIMULATED), service, knobs)
        low, high = (middle, high) if found.quantile_ms(99) <= limit_ms and not found.refused else (low, middle)
    return low


def measured_rate(
    classifier: Classifier,
    service: Service,
    knobs: Knobs,
    pictures: Sequence[np.ndarray],
    seconds: float,
    limit_ms: float,
) -> tuple[float, list[Run]]:
    """Search the highest rate at which the real queue's p99 stays within ``limit_ms``; return it and all runs."""

    def measure(rate: float) -> Run:
        with queued(classifier, knobs) as queue:
            return run_loadgen(queue, pictures, "server", seconds, rate, limit_ms)

    start = simulated_rate(service, knobs, limit_ms) or service.capacity / 10
    return highest_rate(measure, start, limit_ms)


def offline_rate(
    classifier: Classifier, knobs: Knobs, pictures: Sequence[np.ndarray], seconds: float, service: Service
) -> Run:
    """Send everything at once, through the same queue: how much it does where nobody minds the latency."""
    with queued(classifier, knobs) as queue:
        return run_loadgen(queue, pictures, "offline", seconds, service.capacity)


def queue_overhead(classifier: Classifier, turn_s: float = 0.1) -> Turns:
    """Time one picture with and without a queue that does not wait, in turns."""
    picture = np.zeros(PICTURE, np.uint8)
    with BatchQueue([classifier], max_batch=1) as queue:
        return take_turns(
            {"classifier": lambda: classifier.submit([picture])(), "queue": lambda: queue.ask(picture)}, turn_s
        )
