"""Experiments in this process: what the simulator said against what the queue did, and the rate that a limit allows."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median

import numpy as np

from inference_lib.backends.shared.buffers import BufferedRunner
from inference_lib.measure.pipeline import time_overlapped
from inference_lib.measure.turns import Turns, take_turns
from inference_lib.records.record import Load
from inference_lib.records.serving import LatencyQuantile, Serving
from inference_lib.records.statistics import over_invocations
from inference_lib.seam import FASHION_MNIST
from inference_lib.serve.classifier import PICTURE, Classifier, out_of_the_collectors_way
from inference_lib.serve.loadgen import Run, outside_s, run_loadgen
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.queueing import slowest_s
from inference_lib.serve.request import Request
from inference_lib.serve.service import Service
from inference_lib.serve.settings import Settings
from inference_lib.serve.simulator import Knobs, Outcome, poisson, simulate
from inference_lib.support.progress import each

SIMULATED = 20_000
"""Requests of a simulation: 200 of them lie beyond the 99th percentile."""

LEAST, LONGEST = 100, 200_000
"""Requests of one that stands beside a measurement: as many as are measured, within these."""

CALIBRATED = 0.15
"""Part of the capacity at which the way to the queue and back is timed: below any load that is worth a prediction."""


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

    @property
    def off_percent(self) -> float:
        """How far the simulated p99 is from the measured one, percent of the measured."""
        measured = self.run.latency_ms["p99"]
        return 100 * (self.simulated.quantile_ms(99) - measured) / measured


@dataclass(frozen=True)
class LoadTest:
    """A queue before a classifier, and what it is put under load with."""

    classifier: Classifier
    service: Service
    """Measured times of the classifier's batches."""
    knobs: Knobs
    pictures: Sequence[np.ndarray]
    seconds: float
    """Least length of a run."""
    limit_ms: float
    """For the 99th percentile of the latencies."""

    def run(self, scenario: str, rate: float, seed: int = 0) -> Run:
        """Put a new queue under load with LoadGen (``run_loadgen``)."""
        with queued(self.classifier, self.knobs) as queue:
            return run_loadgen(queue, self.pictures, scenario, self.seconds, rate, self.limit_ms, seed=seed)

    def predict_and_measure(self, loads: Sequence[float]) -> Iterator[Trial]:
        """Simulate the queue at parts of its capacity, and put the real one under the same loads."""
        service, knobs = self.service, self.knobs
        for load in each(loads, "loads"):
            rate = load * service.carried(knobs.max_batch)
            count = min(LONGEST, max(LEAST, round(rate * self.seconds)))  # near its capacity, a queue grows with time
            simulated = predicted(rate, count, service, knobs, self.outside)
            law = slowest_s(rate, service, knobs.max_batch, knobs.max_wait_s) * 1e3
            yield Trial(load, rate, law, simulated, self.run("server", rate))

    @cached_property
    def outside(self) -> float:
        """The median of what ``outside_s`` finds where requests come at random, at ``CALIBRATED``, in seconds.

        The median, for the machine's hiccups were of that moment, and of all requests that waited for their end.
        """
        rate = CALIBRATED * self.service.carried(self.knobs.max_batch)
        due = poisson(rate, min(SIMULATED, max(LEAST, round(rate * self.seconds))))
        with out_of_the_collectors_way(), queued(self.classifier, self.knobs) as queue:
            return median(outside_s(queue, self.pictures, due.tolist()))


def queued(classifier: Classifier, knobs: Knobs) -> BatchQueue:
    """Return a queue with ``knobs`` before a classifier, to be entered."""
    return BatchQueue([classifier], None, knobs.max_batch, knobs.max_wait_s, knobs.limit)


def predicted(rate: float, count: int, service: Service, knobs: Knobs, outside: float) -> Outcome:
    """Simulate ``count`` requests, and give each the time, in seconds, that it takes ``outside`` of the queue.

    There, threads wait for Python's lock; a model of the queue knows nothing of that.
    """
    found = simulate(poisson(rate, count), service, knobs)
    found.latencies_s += outside
    return found


def simulated_rate(
    service: Service, knobs: Knobs, limit_ms: float, precision: float = 0.02, outside: float = 0.0
) -> float:
    """Return the highest rate at which the p99 that is ``predicted`` stays within ``limit_ms``; 0 where none does."""
    low, high = 0.0, knobs.replicas * max(service.carried(size) for size in range(1, knobs.max_batch + 1))
    close = precision * high
    while high - low > close:
        middle = (low + high) / 2
        found = predicted(middle, SIMULATED, service, knobs, outside)
        low, high = (middle, high) if found.quantile_ms(99) <= limit_ms and not found.refused else (low, middle)
    return low


def overlapped_rate(runner: BufferedRunner, budget_s: float) -> float:
    """Return images a second from pinned memory to pinned memory, the model's input sent as it is, no queue."""
    workload = runner.workload
    images = FASHION_MNIST.batches(4 * workload.batch_size, workload.input_shape, workload.host_dtype)
    return time_overlapped(runner, [batch.copy() for batch in images], budget_s).images_per_s


def queue_overhead(classifier: Classifier, turn_s: float = 0.1) -> Turns:
    """Time one picture in turns: without a queue, through one that does not wait, and handed to a thread of its own."""
    pictures = np.zeros((1, *PICTURE), np.uint8)

    def hand_over() -> None:
        answer: Future[Request] = Future()
        queue.submit(pictures[0], answer.set_result)
        answer.result()

    with BatchQueue([classifier], max_batch=1) as queue:
        return take_turns(
            {
                "classifier": lambda: classifier.submit(pictures)(),
                "queue": lambda: queue.ask(pictures[0]),
                "thread": hand_over,
            },
            turn_s,
        )


def serving_of(
    engine: str, settings: Settings, runs: Sequence[Run], limit_ms: float, gpu: Load | None = None
) -> Serving:
    """Return what runs at the highest rate say, as a record keeps it: quantiles with intervals over the runs.

    ``gpu`` is what the GPU reported meanwhile, an image being a request.
    """
    quantiles = {}
    for name in runs[0].latency_ms:
        found = over_invocations([[math.log(run.latency_ms[name])] for run in runs])
        quantiles[name] = LatencyQuantile(ms=found.value, low_ms=found.low, high_ms=found.high)
    return Serving(
        engine=engine,
        replicas=settings.replicas,
        max_batch=settings.max_batch,
        max_wait_ms=settings.max_wait_s * 1e3,
        scenario=runs[0].scenario,
        valid=all(run.valid for run in runs),
        reasons=sorted({reason for run in runs for reason in run.reasons}),
        arrival_rate=runs[0].rate,
        answered_per_s=fmean(run.samples_per_s for run in runs),
        latency=quantiles,
        limit_ms=limit_ms,
        goodput_per_s=runs[0].rate if all(run.keeps(limit_ms) for run in runs) else None,
        batches=dict(sum((run.batches for run in runs), Counter())),
        errors=dict(sum((run.errors for run in runs), Counter())),
        longest_queue=max((run.longest_queue for run in runs), default=None),
        gpu_busy_percent=gpu.busy_percent if gpu else None,
        energy_mj_per_request=gpu.energy_mj_per_image if gpu else None,
    )
