"""Measure one cell: load, check, time, sample. It runs in a worker process that does nothing else."""

import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch

from inference_lib.backends import Artifact, Backend, Runner, Workload, build, get_backend
from inference_lib.backends.cuda import BufferedRunner
from inference_lib.data import preprocess
from inference_lib.measure import accuracy, device, timing
from inference_lib.measure.machine import this_machine
from inference_lib.measure.pipeline import time_overlapped
from inference_lib.measure.profiles import Profile
from inference_lib.report.records import (
    Accuracy,
    Build,
    Distribution,
    Latency,
    Record,
    RecordStore,
    Status,
)

CHECKED_IMAGES = 64
"""Images whose logits are compared with the reference before a cell is timed."""

INPUT_IMAGES, MIN_INPUT_BUFFERS = 8, 2
"""Different batches take turns as input: enough for this many images, two at least."""

HIGH_CV_PERCENT = 10.0

LOW_THROUGHPUT = 0.9
"""A full queue cannot serve fewer images per second than one caller who waits and copies. If it did, by a tenth, the
machine was busy with something else."""


@dataclass(frozen=True)
class Job:
    """What one worker process measures: one backend, model, precision and device, batch sizes in rising order."""

    backend: str
    model: str
    precision: str
    device: str
    batch_sizes: tuple[int, ...]
    profile: Profile
    fingerprint: str

    def workload(self, batch_size: int) -> Workload:
        """Return the workload of one batch size."""
        return Workload(self.model, batch_size, self.precision, self.device)


def empty_record(job: Job, batch_size: int, status: Status, reason: str = "") -> Record:
    """Return a record that holds no measurement, with the reason."""
    backend = get_backend(job.backend)
    return Record(
        status=status,
        reason=reason,
        backend=backend.name,
        title=backend.title,
        version=backend.availability(job.device).version,
        model=job.model,
        batch_size=batch_size,
        precision=job.precision,
        device=job.device,
        machine=this_machine(),
        profile=job.profile.name,
        measured_on=datetime.now(UTC).date(),
        fingerprint=job.fingerprint,
    )


def measure(job: Job, store: RecordStore, announce: Callable[[int], None]) -> None:
    """Measure every batch size of ``job`` and write its records.

    ``announce`` is told each batch size before it is measured, so that a parent knows which one a crash belongs to.
    Accuracy on the whole test set comes last, at the largest batch size that ran, because memory figures must not
    include anything larger.
    """
    backend = get_backend(job.backend)
    memory_before = device.memory_used_mib() if job.device == "cuda" else 0.0
    reference = accuracy.read_reference(job.model, job.device, job.profile.images(job.device))
    measured: list[Record] = []
    compared: Accuracy | None = None
    for batch_size in job.batch_sizes:
        announce(batch_size)
        record = empty_record(job, batch_size, "ok")
        try:
            artifact = build(backend, job.workload(batch_size))
            with _loaded(backend, artifact, record) as runner:
                _measure_runner(job, runner, artifact.workload, record, reference, memory_before)
                store.write(record)
                measured.append(record)
                if batch_size == job.batch_sizes[-1]:
                    compared = _evaluate(job, runner, artifact.workload, reference)
        except Exception as error:
            store.write(_failure(job, batch_size, error))
        _free_memory()
    if measured and compared is None:
        workload = job.workload(measured[-1].batch_size)
        with backend.load(build(backend, workload)) as runner:
            compared = _evaluate(job, runner, workload, reference)
    for record in measured:
        store.write(_with_accuracy(record, compared))


def _loaded(backend: Backend, artifact: Artifact, record: Record) -> Runner:
    start = time.perf_counter()
    runner = backend.load(artifact)
    record.build = Build(
        export_s=artifact.manifest["build_seconds"],
        load_s=time.perf_counter() - start,
        first_inference_s=0.0,
        artifact_mib=artifact.size_bytes / 2**20,
    )
    return runner


def _measure_runner(
    job: Job, runner: Runner, workload: Workload, record: Record, reference: np.ndarray, memory_before: float
) -> None:
    """Fill ``record``: first inference, agreement, times, clocks, memory, load, overlap; in this order."""
    inputs = test_inputs(workload)
    start = time.perf_counter()
    runner.infer(inputs[0])
    began = time.perf_counter()
    assert record.build is not None
    record.build.first_inference_s = began - start

    images = min(max(CHECKED_IMAGES, workload.batch_size), len(reference))
    checked = accuracy.compare(accuracy.logits_of(runner, workload, images), reference)
    if problem := accuracy.problem(checked, workload.precision):
        raise ValueError(problem)

    if workload.device == "cuda":
        device.wake_clocks(lambda: runner.infer(inputs[0]))
    _time(job.profile, runner, inputs, record)
    if workload.device == "cuda":
        record.clocks = device.clocks()
        peak = device.memory_used_mib()
        if (workload.precision, workload.batch_size) in job.profile.load_cells:
            record.load = device.sample_load(_load_step(runner, inputs), job.profile.load_s)
            peak = max(peak, record.load.peak_memory_mib)
        record.gpu_memory_baseline_mib, record.gpu_memory_mib = memory_before, peak - memory_before
    if isinstance(runner, BufferedRunner) and workload.batch_size == job.batch_sizes[-1]:  # it takes memory of its own
        record.overlapped_images_per_s = time_overlapped(runner, inputs, job.profile.budget_s).images_per_s
    record.flags = flags(record)
    record.measuring_s = time.perf_counter() - began


def _time(profile: Profile, runner: Runner, inputs: list[np.ndarray], record: Record) -> None:
    """Warm up, then fill in latency and throughput, ``profile.budget_s`` seconds at most for each."""
    timing.warm_up(lambda: runner.infer(inputs[0]), budget_s=profile.budget_s)
    end_to_end = timing.time_end_to_end(runner, inputs, profile.rule)
    parts = timing.time_parts(runner, inputs, profile.rule)
    record.latency = Latency(
        end_to_end=distribution(end_to_end),
        upload=distribution(parts.upload),
        compute=distribution(parts.compute),
        download=distribution(parts.download),
    )
    record.throughput_images_per_s = timing.time_throughput(runner, inputs[0], profile.budget_s).images_per_s


def test_inputs(workload: Workload) -> list[np.ndarray]:
    """Return different batches (N x 3 x 224 x 224) from the start of the test set."""
    pictures, _ = accuracy.test_set()
    buffers = max(MIN_INPUT_BUFFERS, INPUT_IMAGES // workload.batch_size)
    chosen = pictures[np.arange(buffers * workload.batch_size) % len(pictures)]
    return [preprocess(part, workload.host_dtype) for part in np.split(chosen, buffers)]


def distribution(samples: timing.Samples) -> Distribution:
    """Summarize a series of milliseconds."""
    times = samples.milliseconds
    p50, p90, p95, p99 = np.percentile(times, [50, 90, 95, 99])
    low, high = timing.median_interval(times)
    return Distribution(
        median_low=low,
        median_high=high,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        mean=times.mean(),
        cv_percent=times.std() / times.mean() * 100 if times.mean() > 0 else 0.0,
        samples=len(times),
        stop_reason=samples.stop_reason,
        quantiles=timing.quantile_sketch(times),
    )


def _load_step(runner: Runner, inputs: list[np.ndarray]) -> Callable[[], int]:
    """Return one end-to-end inference, as the FPS column counts it."""
    rotation = itertools.cycle(inputs)

    def step() -> int:
        batch = next(rotation)
        runner.infer(batch)
        return len(batch)

    return step


def flags(record: Record) -> list[str]:
    """Say what makes the record less trustworthy than its neighbours."""
    found = []
    if record.latency and record.latency.end_to_end.cv_percent > HIGH_CV_PERCENT:
        found.append(f"latency varies by {record.latency.end_to_end.cv_percent:.0f} %")
    if record.fps and record.throughput_images_per_s is not None:
        part = record.throughput_images_per_s / record.fps
        if part < LOW_THROUGHPUT:
            found.append(f"throughput is {100 * (1 - part):.0f} % below FPS")
    held_down = {reason for phase in (record.clocks, record.load) if phase for reason in phase.throttle_reasons}
    if held_down:
        found.append(f"clocks were held down: {', '.join(sorted(held_down))}")
    return found


def _evaluate(job: Job, runner: Runner, workload: Workload, reference: np.ndarray) -> Accuracy:
    images = job.profile.images(job.device)
    logits = accuracy.logits_of(runner, workload, images, ahead=job.device == "cuda")
    return accuracy.compare(logits, reference)


def _with_accuracy(record: Record, compared: Accuracy | None) -> Record:
    """Return the record with its accuracy; a model that is not the reference's any more is a failure."""
    if compared is None:
        return record
    problem = accuracy.problem(compared, record.precision)
    update = {"accuracy": compared}
    return record.model_copy(update=update | ({"status": "failed", "reason": problem} if problem else {}))


def _failure(job: Job, batch_size: int, error: Exception) -> Record:
    message = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    out_of_memory = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "out of memory" in str(error)
    return empty_record(job, batch_size, "out_of_memory" if out_of_memory else "failed", message)


def _free_memory() -> None:
    """Give cached memory back, so that the next batch size starts from an empty process."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
