"""Exports ahead of every measurement: in processes of their own, the timed ones with nothing else running."""

import io
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

from inference_lib.backends import get_backend
from inference_lib.measure.accuracy import find_reference, places, write_reference
from inference_lib.measure.plan import Rival
from inference_lib.measure.profiles import Profile
from inference_lib.measure.workers import Deadline, Worker, WorkerError, end, first_to_answer
from inference_lib.seam import Backend, Device, Model, build, find_artifact
from inference_lib.support import paths
from inference_lib.support.errors import CourseError
from inference_lib.support.progress import Bar, bar, each

EXPORT_LIMIT_S = 900.0
"""A compiler that has not finished by then is taken for one that never does."""


class Exporter:
    """What a worker process exports with."""

    def __init__(self) -> None:
        self._sharing: set[str] = set()
        self._shared = ExitStack()  # as long as the process

    def export(self, rival: Rival, timed: bool, root: Path = paths.ARTIFACTS) -> None:
        """Build the artifact of ``rival``; its manifest says how long it took, where that was ``timed`` alone.

        One that is not may use what the exports before it in this process have left, where the backend can.
        """
        if not timed and rival.backend not in self._sharing and (exporting := sharing(get_backend(rival.backend))):
            self._sharing.add(rival.backend)
            self._shared.enter_context(exporting())
        logging.disable(logging.WARNING)  # what fails is told by what it raises, once, in the row
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            build(get_backend(rival.backend), rival.workload, root, timed=timed)

    def reference(self, model: Model, device: str, images: int) -> None:
        """Compute the reference logits."""
        write_reference(model, device, images)


def sharing(backend: Backend) -> Callable[[], AbstractContextManager[None]] | None:
    """Return the ``exporting`` of a backend whose exports are quicker one after the other in one process, or None.

    What it gives is a block in which they share what they can.
    """
    return getattr(backend, "exporting", None)


def export_missing(
    rivals: Sequence[Rival], progress: Callable[[str], None], *, timed: bool = True
) -> dict[str, WorkerError]:
    """Export what ``rivals`` lack; return why the artifacts with these keys could not be.

    Those of the smallest batch in the fewest bits are timed, one after the other, unless ``timed`` is False. The others
    are made as many at a time as there are cores, and their times are not kept. Builders that choose kernels by timing
    them are left alone: each export has a process of its own and is timed, or all share one and are not.
    """
    missing: dict[str, Rival] = {}
    for rival in rivals:
        if find_artifact(get_backend(rival.backend), rival.workload) is None:
            missing.setdefault(rival.key[1], rival)
    cheapest = min((_size(rival) for rival in rivals), default=None)
    one_by_one: dict[str, Rival] = {}
    others: dict[str, Rival] = {}
    together: dict[tuple[str, Device], dict[str, Rival]] = {}
    for key, rival in missing.items():
        backend = get_backend(rival.backend)
        if timed and _size(rival) == cheapest:
            one_by_one[key] = rival
        elif backend.times_kernels and sharing(backend):
            together.setdefault((rival.backend, rival.workload.device), {})[key] = rival
        else:
            (one_by_one if backend.times_kernels else others)[key] = rival
    failures: dict[str, WorkerError] = {}
    with bar(len(missing), "exporting") as shown:
        for key, rival in one_by_one.items():
            failures |= _export({key: rival}, progress, shown, timed=True)
        for jobs in together.values():
            failures |= _export(jobs, progress, shown, timed=False, together=True)
        if others:
            progress(f"exporting {len(others)} artifacts, as many at a time as there are cores")
            # the compilers stand last among the backends, and take longest: begun last, they would be waited for alone
            failures |= _export(dict(reversed(others.items())), progress, shown, timed=False)
    return failures


def _size(rival: Rival) -> tuple[int, int]:
    return rival.workload.precision.bits, rival.workload.batch_size


def _export(
    jobs: dict[str, Rival], progress: Callable[[str], None], shown: Bar, *, timed: bool, together: bool = False
) -> dict[str, WorkerError]:
    """Export in processes, the next one started when one has ended; return why some could not be.

    ``together``, in one process, one after the other: another takes its place after an export that failed.
    """
    waiting, failures = list(jobs.items()), {}
    running: dict[Worker, tuple[str, Deadline]] = {}
    idle: list[Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < (1 if together else len(os.sched_getaffinity(0))):
                key, rival = waiting.pop(0)
                worker = idle.pop() if idle else Worker(Exporter)
                running[worker] = key, Deadline(EXPORT_LIMIT_S)
                worker.tell("export", rival, timed)
            oldest = next(iter(running))
            for worker in first_to_answer(running, running[oldest][1].left_s) or [oldest]:
                key, limit = running.pop(worker)
                try:
                    worker.answer(limit)
                    progress(f"exported {jobs[key]}, {EXPORT_LIMIT_S - limit.left_s:.0f} s")
                except WorkerError as error:
                    failures[key] = error
                if together and key not in failures:
                    idle.append(worker)
                else:
                    worker.kill()
                shown.update()
    finally:
        end([*running, *idle])
    return failures


def ensure_references(rivals: Iterable[Rival], profile: Profile) -> None:
    """Compute the reference logits that ``rivals`` are checked with, see ``ensure_reference``.

    Once for each model and kind of device: who is checked on few images reads the first of the many.
    """
    checks: dict[tuple[Model, str], int] = {}
    for rival in rivals:
        key = rival.workload.model, rival.workload.device.kind
        checks[key] = max(checks.get(key, 0), rival.images(profile))
    for (model, kind), images in each(checks.items(), "reference logits"):
        ensure_reference(model, kind, images)


def ensure_reference(model: Model, device: str, images: int) -> None:
    """Compute the reference logits in a process of their own, so that no measured process ran them.

    Raise CourseError, which says why, where they cannot be computed.
    """
    if find_reference(model, device, images):
        return
    for place in places(device):
        with Worker(Exporter) as worker:
            try:
                worker.ask("reference", model, place, images, limit_s=EXPORT_LIMIT_S)
                return
            except WorkerError as error:
                failure = error  # of the last place: a GPU may be full
    raise CourseError(f"the reference logits of {model} cannot be computed on {device}: {failure}") from failure
