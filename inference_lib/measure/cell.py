"""One cell of the tables, measured: an artifact loaded in a process of its own, and the commands that time it."""

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from inference_lib.backends import get_backend
from inference_lib.backends.shared.buffers import BufferedRunner
from inference_lib.measure import accuracy, gpu, timing
from inference_lib.measure.pipeline import time_overlapped
from inference_lib.measure.threads import scheduled, settle
from inference_lib.measure.throughput import time_throughput
from inference_lib.records.record import Accuracy, Build, Clocks, Load
from inference_lib.seam import Artifact, Backend, Runner, Workload, find_artifact
from inference_lib.support import paths
from inference_lib.support.errors import CourseError
from inference_lib.support.files import locked

CHECKED_IMAGES = 64
"""Images whose logits are compared with the reference before a cell is timed."""

HOST_LOCK = paths.BUILD / "host.lock"
"""Held by the rival on the processor that computes while others are still loading."""

EVALUATED_AT = 8
"""Images at a time that a processor answers of the whole test set, where one artifact serves every batch size: one by
one, its cores wait for each other, and for the next picture."""

INPUT_IMAGES, MIN_INPUT_BUFFERS = 8, 2
"""Different batches take turns as input: enough for this many images, two at least."""

HEAD_START, LAUNCHES, MOST_FLUSHES = 1.5, 5, 200
"""The device is kept busy for so many times the longest of some launches before a run is timed on it."""


class Turn(NamedTuple):
    """What one turn of a round gave, milliseconds."""

    samples: list[float]
    waited_percent: float
    """Of the time in which threads of this process ran or could have run, the part in which they had no core."""


class Cell:
    """One rival: what a worker process holds. Public methods are the commands that its parent sends."""

    def __init__(self, backend: str, workload: Workload, checked_images: int) -> None:
        self.backend, self.workload = get_backend(backend), workload
        self._index = workload.device.index
        self._reference = accuracy.read_reference(workload.model, workload.device.kind, checked_images)
        self._artifact = exported(self.backend, workload)
        self._inputs: list[np.ndarray] = []
        self._rotation: Iterator[np.ndarray] = iter(())
        self._runner: Any = None
        self._checked: Accuracy | None = None

    def load(self, warm_up_s: float) -> tuple[Build, float]:
        """Load, answer once, check the answers, warm up; return what it cost and the seconds that an inference takes.

        Raise ValueError where the logits are not the reference's, or on a GPU others at the second time.
        """
        self._inputs = inputs_of(self.workload)
        self._rotation = itertools.cycle(self._inputs)
        self._runner, build = started(self.backend, self._artifact, self._inputs[0])
        with self._alone():
            self._check()
            timing.warm_up(lambda: self._runner.infer(self._inputs[0]), budget_s=warm_up_s)
            once = timing.take(self._infer, 3)
        gc.collect()
        return build, float(np.median(once)) / 1e3

    @cached_property
    def _flush(self) -> Callable[[], object]:
        """What overwrites the cache before a run: so often that the host has queued all of it by then.

        How often is found out at first use, in a turn that does not count: the device is this rival's alone then.
        Otherwise a model whose launches take longer than its kernels would be timed with the gaps between them, which
        are the host's. A framework that waits for the device while it launches keeps its gaps.
        """
        flush = timing.cache_flush(self._runner.stream)
        launches, flushes = (timing.take(call, LAUNCHES) for call in (self._launch_ms, lambda: self._flush_ms(flush)))
        repeats = 1 + math.ceil(HEAD_START * max(launches[1:]) / min(flushes[1:]))  # a first time does more
        return lambda: [flush() for _ in range(min(repeats, MOST_FLUSHES))]

    def _alone(self) -> AbstractContextManager[None]:
        """Compute while no other rival on this processor does: each takes all cores, whose threads wait by spinning."""
        if self.workload.on_gpu:
            return nullcontext()
        HOST_LOCK.parent.mkdir(parents=True, exist_ok=True)
        HOST_LOCK.touch()
        return locked(HOST_LOCK)

    def _launch_ms(self) -> float:
        start = time.perf_counter()
        self._runner.compute()
        launched = time.perf_counter()
        self._runner.synchronize()
        return (launched - start) * 1e3

    def _flush_ms(self, flush: Callable[[], object]) -> float:
        start = timing.mark(self._runner.stream)
        flush()
        return timing.milliseconds_between(start, timing.mark(self._runner.stream))

    def _check(self) -> None:
        images = min(max(CHECKED_IMAGES, self.workload.batch_size), len(self._reference))
        logits, precision = accuracy.logits_of(self._runner, images), self.workload.precision
        self._checked = self._compare(logits)
        found = accuracy.problem(self._checked, precision)
        if not found and self.workload.on_gpu:  # where kernels may overlap
            found = accuracy.changed(logits, accuracy.logits_of(self._runner, images), precision)
        if found:
            raise ValueError(found)

    def _compare(self, logits: np.ndarray) -> Accuracy:
        return accuracy.compare(logits, self._reference, self.workload.model.dataset.labels())

    def wake(self) -> None:
        """Keep the GPU busy until its clocks are up."""
        gpu.wake_clocks(self._index, self._infer)

    def turn(self, iterations: int, discarded: int) -> Turn:
        """Time inferences end to end, after ``discarded`` that do not count."""
        return self._turn(self._infer, iterations, discarded)

    def device_turn(self, iterations: int, discarded: int) -> Turn:
        """Time the model alone on the device, its cache flushed before each run."""
        self._runner.upload(self._inputs[0])
        return self._turn(self._device_time, iterations, discarded)

    def _turn(self, sample: Callable[[], float], iterations: int, discarded: int) -> Turn:
        timing.take(sample, discarded)
        start, before = time.perf_counter(), scheduled()
        samples = timing.take(sample, iterations)
        elapsed_ms, after = (time.perf_counter() - start) * 1e3, scheduled()
        self._settle()
        ran, waited = after.ran_ms - before.ran_ms, after.waited_ms - before.waited_ms
        return Turn(samples, 100 * waited / max(elapsed_ms, ran + waited))

    def _settle(self) -> None:
        if not self.workload.on_gpu:  # there, threads only queue work, and stop when they have
            settle()

    def _infer(self) -> float:
        batch = next(self._rotation)
        start = time.perf_counter()
        self._runner.infer(batch)
        return (time.perf_counter() - start) * 1e3

    def _device_time(self) -> float:
        self._flush()
        start = timing.mark(self._runner.stream)
        self._runner.compute()
        end = timing.mark(self._runner.stream)
        self._runner.synchronize()
        return timing.milliseconds_between(start, end)

    def parts(self, budget_s: float) -> dict[str, float]:
        """Return the medians of upload, compute and download, ms."""
        parts = timing.time_parts(self._runner, self._inputs, timing.StoppingRule(budget_s))
        self._settle()
        return {name: series.p50 for name, series in parts.items()}

    def throughput(self, budget_s: float) -> float:
        """Return images per second, batches computed back to back."""
        found = time_throughput(self._runner, self._inputs[0], budget_s).images_per_s
        self._settle()
        return found

    def overlapped(self, budget_s: float) -> float | None:
        """Return images per second with copies and computation overlapped; None for a runner without fixed buffers."""
        if not isinstance(self._runner, BufferedRunner):
            return None
        return time_overlapped(self._runner, self._inputs, budget_s).images_per_s

    def memory_mib(self) -> float | None:
        """Return the GPU memory of this process, MiB; None where NVML does not tell processes apart."""
        return gpu.process_memory_mib(self._index)

    def clocks(self) -> Clocks:
        """Return the GPU's clock of this moment and what holds it down."""
        return gpu.clocks(self._index)

    def steady_load(self, seconds: float) -> Load:
        """Infer back to back for ``seconds`` under NVML's eyes."""

        def step() -> int:
            batch = next(self._rotation)
            self._runner.infer(batch)
            return len(batch)

        return gpu.sample_load(self._index, step, seconds)

    def evaluate(self, images: int) -> Accuracy:
        """Return accuracy and agreement on the first ``images`` test pictures; nothing is timed here afterwards.

        On a GPU, one thread prepares the pictures: as many processes do so at once as there are rivals.
        """
        if self._checked is not None and self._checked.images == images:
            return self._checked
        if self.workload.on_gpu:
            torch.set_num_threads(1)
            return self._compare(accuracy.logits_of(self._runner, images, ahead=True))
        larger = replace(self.workload, batch_size=EVALUATED_AT)
        same = self.backend.artifact_key(larger) == self.backend.artifact_key(self.workload)
        if larger.model.batch or self.workload.batch_size >= EVALUATED_AT or not same:
            return self._compare(accuracy.logits_of(self._runner, images))
        with self.backend.load(replace(self._artifact, workload=larger)) as runner:
            return self._compare(accuracy.logits_of(runner, images))

    def close(self) -> None:
        """Free the runner."""
        if self._runner is not None:
            self._runner.__exit__(None, None, None)


def exported(backend: Backend, workload: Workload) -> Artifact:
    """Return the artifact of ``workload``: a process that measures exports nothing, for its memory's sake.

    Raise CourseError where it was not exported before.
    """
    found = find_artifact(backend, workload)
    if found is None:
        raise CourseError(f"{backend.title} has no fresh export of {workload}; run the benchmark command, it makes one")
    return found


def started(backend: Backend, artifact: Artifact, batch: np.ndarray) -> tuple[Runner, Build]:
    """Load ``artifact`` and infer ``batch``; return the runner, entered, and what that cost."""
    start = time.perf_counter()
    runner = backend.load(artifact).__enter__()
    loaded = time.perf_counter()
    runner.infer(batch)
    return runner, Build(
        export_s=artifact.manifest.get("build_seconds"),
        load_s=loaded - start,
        first_inference_s=time.perf_counter() - loaded,
        artifact_mib=artifact.size_bytes / 2**20,
        eight_bits_percent=artifact.manifest.get("eight_bits_percent"),
    )


def inputs_of(workload: Workload) -> list[np.ndarray]:
    """Return different batches (``workload.input_shape``) from the start of the test set."""
    images = workload.batch_size * max(MIN_INPUT_BUFFERS, INPUT_IMAGES // workload.batch_size)
    batches = workload.model.dataset.batches(images, workload.input_shape, workload.host_dtype)
    return [batch.copy() for batch in batches]  # the data set uses its arrays again
