"""Latency and throughput of a runner.

Two metrics that are not each other's inverse: *latency* is the time of one call whose result is waited for,
*throughput* is images per second when batches are queued back to back. End-to-end times are read from the host's
clock, device parts from CUDA events on the runner's own stream (on a CPU, from the host's clock).
"""

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from inference_lib.records.statistics import median_interval
from inference_lib.seam import Runner

Clock = Callable[[], float]
"""Seconds from an arbitrary start, monotonic."""


@dataclass(frozen=True)
class StoppingRule:
    """When a series of samples is long enough.

    It stops after ``min_samples`` once the 95 % confidence interval of the median is narrower than
    ``relative_width`` of the median, or when ``budget_s`` seconds are spent (after ``floor_samples`` at least).
    """

    budget_s: float
    relative_width: float = 0.01
    min_samples: int = 200
    floor_samples: int = 3
    max_samples: int = 20_000

    def reason_to_stop(self, samples: Sequence[float], elapsed_s: float) -> str | None:
        """Return ``precise``, ``time budget`` or ``sample limit``, or None to go on."""
        if len(samples) >= self.max_samples:
            return "sample limit"
        if len(samples) >= self.floor_samples and elapsed_s >= self.budget_s:
            return "time budget"
        if len(samples) >= self.min_samples and len(samples) % 50 == 0:
            low, high = median_interval(samples)
            if high - low <= self.relative_width * median(samples):
                return "precise"
        return None


@dataclass(frozen=True)
class Samples:
    """Times in milliseconds, in the order they were taken, and why the series ended."""

    milliseconds: np.ndarray
    stop_reason: str

    @property
    def p50(self) -> float:
        """The median."""
        return float(np.median(self.milliseconds))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep CPython's collector from stopping the world between two readings of the clock, as ``timeit`` does."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def warm_up(
    call: Callable[[], object],
    *,
    budget_s: float = 1.0,
    window: int = 10,
    tolerance: float = 0.05,
    clock: Clock = time.perf_counter,
) -> int:
    """Call until the medians of two successive windows differ by less than ``tolerance``; return the calls made.

    A fixed number of calls is too few for a library that tries kernels at first use, and too many for a model that
    takes a second. At most ``budget_s`` seconds are spent, and two calls at least are made.
    """
    start, calls, previous = clock(), 0, math.inf
    while True:
        times = []
        for _ in range(window):
            before = clock()
            call()
            times.append(clock() - before)
            calls += 1
            if clock() - start >= budget_s and calls >= 2:
                return calls
        current = median(times)
        if abs(current - previous) <= tolerance * current:
            return calls
        previous = current


def collect(sample: Callable[[], float], rule: StoppingRule, clock: Clock = time.perf_counter) -> Samples:
    """Take samples (milliseconds each) until ``rule`` ends the series."""
    samples: list[float] = []
    with no_garbage_collection():
        start = clock()
        while (reason := rule.reason_to_stop(samples, clock() - start)) is None:
            samples.append(sample())
    return Samples(np.asarray(samples), reason)


def take(sample: Callable[[], float], count: int) -> list[float]:
    """Take ``count`` samples (milliseconds each)."""
    with no_garbage_collection():
        return [sample() for _ in range(count)]


def time_call(call: Callable[[], object], rule: StoppingRule, clock: Clock = time.perf_counter) -> Samples:
    """Time ``call`` with the host's clock; it must wait for whatever it starts."""
    return collect(sampler(call, clock), rule, clock)


def sampler(call: Callable[[], object], clock: Clock = time.perf_counter) -> Callable[[], float]:
    """Return a function that calls ``call`` and returns the milliseconds that it took."""

    def sample() -> float:
        start = clock()
        call()
        return (clock() - start) * 1e3

    return sample


def time_parts(runner: Runner, inputs: Sequence[np.ndarray], rule: StoppingRule) -> dict[str, Samples]:
    """Time upload, compute and download apart; ``inputs`` are used in turn, so that no cache holds the next one."""
    rotation = itertools.cycle(inputs)
    rows: list[list[float]] = []

    def sample() -> float:
        batch = next(rotation)
        marks = [_mark_of(runner)]
        for part in (lambda: runner.upload(batch), runner.compute, runner.download):
            part()
            marks.append(_mark_of(runner))
        runner.synchronize()
        times = [milliseconds_between(before, after) for before, after in itertools.pairwise(marks)]
        rows.append(times)
        return sum(times)

    reason = collect(sample, rule).stop_reason
    parts = zip(("upload", "compute", "download"), np.asarray(rows).T, strict=True)
    return {name: Samples(column, reason) for name, column in parts}


def time_compute(runner: Runner, rule: StoppingRule, before_each: Callable[[], object] | None = None) -> Samples:
    """Time ``runner.compute`` alone on the batch that was uploaded last.

    ``before_each`` runs before every inference, outside the timed part (to flush a cache, for example).
    """

    def sample() -> float:
        if before_each is not None:
            before_each()
        start = _mark_of(runner)
        runner.compute()
        end = _mark_of(runner)
        runner.synchronize()
        return milliseconds_between(start, end)

    return collect(sample, rule)


FLUSH_BYTES = 256 * 2**20
"""Several times the L2 cache of any GPU of today."""


def cache_flush(stream: torch.cuda.Stream | None) -> Callable[[], object]:
    """Return a function that overwrites the cache, for ``before_each``: the next run finds none of its data there.

    ``stream`` is the runner's; None stands for a CPU. An application that does other work between two inferences sees
    that case; back-to-back inferences of a small model do not. ``triton.testing.do_bench`` always flushes.
    """
    scratch = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cpu" if stream is None else "cuda")

    def flush() -> None:
        with torch.cuda.stream(stream):
            scratch.zero_()

    return flush


Mark = float | torch.cuda.Event
"""A point in time: milliseconds on the host's clock, or an event of a CUDA stream."""


def mark(stream: torch.cuda.Stream | None) -> Mark:
    """Return this moment on the host's clock, or, given a stream, the moment when the work queued on it is done."""
    if stream is None:
        return time.perf_counter() * 1e3
    event = torch.cuda.Event(enable_timing=True)
    event.record(stream)
    return event


def milliseconds_between(start: Mark, end: Mark) -> float:
    """Return the milliseconds from one mark to a later one of the same clock; waits for an event to complete."""
    if isinstance(start, torch.cuda.Event):
        end.synchronize()  # type: ignore[union-attr]
        return start.elapsed_time(end)  # type: ignore[arg-type]
    return end - start  # type: ignore[operator]


def _mark_of(runner: Runner) -> Mark:
    """Mark a point on the runner's clock; on the host's, once the runner's own queue, if it has one, is empty."""
    if runner.stream is None:
        runner.synchronize()
    return mark(runner.stream)
