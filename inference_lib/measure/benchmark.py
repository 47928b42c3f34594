"""Measure a grid of cells: one worker process per backend, model and precision, one at a time.

A worker has run nothing else, so its memory is its own, and a crash in it costs one cell.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection

from inference_lib.backends import Backend, Workload, build, get_backend
from inference_lib.backends.artifacts import is_built
from inference_lib.data import ensure_fashion_mnist
from inference_lib.errors import CourseError
from inference_lib.hashes import module_hash, sha256_of
from inference_lib.measure.accuracy import reference_path, write_reference
from inference_lib.measure.cell import Job, empty_record, measure
from inference_lib.measure.machine import this_machine
from inference_lib.measure.profiles import Profile
from inference_lib.models import weights_sha256
from inference_lib.report.records import Record, RecordStore

Progress = Callable[[str], None]


def benchmark(
    backends: Sequence[str],
    models: Sequence[str],
    device: str,
    profile: Profile,
    store: RecordStore,
    precisions: Sequence[str] | None = None,
    batch_sizes: Sequence[int] | None = None,
    reuse: bool = True,
    progress: Progress = lambda line: None,
) -> list[Record]:
    """Measure every backend, model, precision and batch size; return one record a cell, in that order.

    With ``reuse``, a cell that was measured by this code, on this machine, with this profile is not measured again,
    so an interrupted run goes on where it stopped. ``progress`` is told a line after each worker.

    Raises:
        CourseError: an unknown name, no data set, or a folder that cannot be written; nothing is measured then.

    """
    store.check_writable()
    ensure_fashion_mnist()
    jobs = jobs_of(backends, models, device, profile, precisions, batch_sizes)
    missing = _missing(jobs)
    if len(missing) > 1:  # a single one is as quickly exported by its worker
        _export(missing)
    records: list[Record] = []
    for number, job in enumerate(jobs, start=1):
        start = time.perf_counter()
        records += _measure_job(job, store, reuse)
        seconds = time.perf_counter() - start
        progress(f"{number}/{len(jobs)} {job.backend} {job.model} {job.precision}: {seconds:.1f} s")
    return records


def export_ahead(jobs: Sequence[Job]) -> dict[str, bool]:
    """Export what ``jobs`` need, side by side, and measure nothing.

    Return the keys of the artifacts that were missing, and whether each is there now.
    """
    if missing := _missing(jobs):
        _export(missing)
    failed = _missing(jobs)
    return {key: key not in failed for key in missing}


def jobs_of(
    backends: Sequence[str],
    models: Sequence[str],
    device: str,
    profile: Profile,
    precisions: Sequence[str] | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> list[Job]:
    """Return what ``benchmark`` measures: one job for every backend, model and precision.

    Raises:
        CourseError: an unknown name.

    """
    jobs = [
        Job(
            get_backend(name).name,
            model,
            precision,
            device,
            tuple(sorted(batch_sizes or profile.batch_sizes.get(precision, (1,)))),
            profile,
            fingerprint(get_backend(name), model, device, profile),
        )
        for name in backends
        for model in models
        for precision in precisions or profile.precisions(device)
    ]
    for job in jobs:
        for batch_size in job.batch_sizes:
            job.workload(batch_size)  # rejects unknown names before anything runs
    return jobs


def fingerprint(backend: Backend, model: str, device: str, profile: Profile) -> str:
    """Hash what two repetitions of a measurement share.

    That is the code that measures and the backend's own, so that a change elsewhere leaves the records valid; what
    the backend's artifacts depend on; the weights, the machine and the profile.
    """
    code = module_hash(measure.__module__, build.__module__, type(backend).__module__)
    versions = repr(backend.versions() if backend.availability(device).usable else {})
    machine = this_machine().model_dump_json(exclude={"commit"})
    parts = [code, versions, weights_sha256(model), machine, repr(profile)]
    return sha256_of(part.encode() for part in parts)[:16]


def _missing(jobs: Sequence[Job]) -> dict[str, tuple[str, Workload]]:
    """Return what to export before ``jobs`` can be measured: backend and workload by the artifact's key."""
    possible = [job for job in jobs if _why_not(job) is None]
    return {
        get_backend(job.backend).artifact_key(workload): (job.backend, workload)
        for job in possible
        for batch_size in job.batch_sizes
        if not is_built(get_backend(job.backend), workload := job.workload(batch_size))
    }


def _export(missing: Mapping[str, tuple[str, Workload]]) -> None:
    """Export as many at a time as there are cores: an export keeps one busy for most of its time.

    Nothing is measured meanwhile. An export that fails is tried again by its worker, whose record says why.
    """
    processes = min(len(missing), os.cpu_count() or 1)
    with _context().Pool(processes, initializer=_leave_interrupts_to_the_parent) as pool:
        pool.starmap(_try_export, missing.values())


def _try_export(backend: str, workload: Workload) -> None:
    with contextlib.suppress(Exception):
        build(get_backend(backend), workload)


def _measure_job(job: Job, store: RecordStore, reuse: bool) -> list[Record]:
    blocked = _why_not(job)
    if blocked is not None:
        for record in blocked:
            store.write(record)
        return blocked
    pending = [b for b in job.batch_sizes if not (reuse and _measured(job, b, store))]
    if pending:
        _ensure_reference(job)
    while pending:
        crashed_at = run_worker(measure, replace(job, batch_sizes=tuple(pending)), store)
        if crashed_at is None:
            break
        batch_size, reason = crashed_at
        store.write(empty_record(job, batch_size, "failed", reason))
        pending = [b for b in pending if b > batch_size]
    return [_stored(job, b, store) for b in job.batch_sizes]


def _why_not(job: Job) -> list[Record] | None:
    """Return records that say why the job cannot run here, or None if it can."""
    backend = get_backend(job.backend)
    available = backend.availability(job.device)
    if not available.usable:
        reason = f"{available.reason}; {available.remedy}"
        return [empty_record(job, b, "unavailable", reason) for b in job.batch_sizes]
    support = {b: backend.supports(job.workload(b)) for b in job.batch_sizes}
    if all(s.ok for s in support.values()):
        return None
    return [empty_record(job, b, "unsupported", s.reason) for b, s in support.items()]


def _stored(job: Job, batch_size: int, store: RecordStore) -> Record:
    found = store.find(empty_record(job, batch_size, "ok"))
    return found or empty_record(job, batch_size, "failed", "the worker ended without a record")


def _measured(job: Job, batch_size: int, store: RecordStore) -> bool:
    found = store.find(empty_record(job, batch_size, "ok"))
    return found is not None and found.ok and found.fingerprint == job.fingerprint and found.accuracy is not None


def _ensure_reference(job: Job) -> None:
    """Compute the reference logits in a process of their own, so that no measured process ran them."""
    images = job.profile.images(job.device)
    if reference_path(job.model, job.device, images).exists():
        return
    worker = _context().Process(target=write_reference, args=(job.model, job.device, images))
    worker.start()
    worker.join()
    if worker.exitcode != 0:
        raise CourseError(
            f"the reference logits of {job.model} could not be computed on {job.device}; see the error above"
        )


def run_worker(
    target: Callable[[Job, RecordStore, Callable[[int], None]], None], job: Job, store: RecordStore
) -> tuple[int, str] | None:
    """Run ``target`` in a fresh process; return the batch size it died in and how, or None if it ended well."""
    receiver, sender = _context().Pipe(duplex=False)
    worker = _context().Process(target=_work, args=(target, job, store, sender))
    worker.start()
    sender.close()
    current = job.batch_sizes[0]
    try:
        while True:
            current = receiver.recv()
    except EOFError:
        worker.join()
    finally:
        if worker.is_alive():
            worker.kill()
            worker.join()
    code = worker.exitcode or 0
    if code == 0:
        return None
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return current, f"the worker process died ({how})"


def _work(
    target: Callable[[Job, RecordStore, Callable[[int], None]], None],
    job: Job,
    store: RecordStore,
    sender: Connection,
) -> None:
    _leave_interrupts_to_the_parent()
    target(job, store, sender.send)
    sender.close()


def _leave_interrupts_to_the_parent() -> None:
    """Ignore Ctrl-C: it reaches the parent too, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _context() -> multiprocessing.context.ForkServerContext:
    """Return a context whose workers start with PyTorch imported and CUDA untouched: a fraction of a second each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["inference_lib.measure.cell"])
    return context
