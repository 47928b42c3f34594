"""Exports ahead of every measurement: in processes of their own, the timed ones with nothing else running."""

import os
from collections.abc import Callable, Sequence

from inference_lib.backends import get_backend
from inference_lib.measure.accuracy import reference_path, write_reference
from inference_lib.measure.plan import Rival
from inference_lib.measure.workers import Deadline, Worker, WorkerError
from inference_lib.seam import Model, build, find_artifact
from inference_lib.support.errors import CourseError

EXPORT_LIMIT_S = 900.0
"""A compiler that has not finished by then is taken for one that never does."""


class Exporter:
    """What a worker process exports with."""

    def export(self, rival: Rival, timed: bool) -> None:
        """Build the artifact of ``rival``; its manifest says how long it took, where that was ``timed`` alone."""
        build(get_backend(rival.backend), rival.workload, timed=timed)

    def reference(self, model: Model, device: str, images: int) -> None:
        """Compute the reference logits."""
        write_reference(model, device, images)


def export_missing(
    rivals: Sequence[Rival], progress: Callable[[str], None], *, timed: bool = True
) -> dict[str, WorkerError]:
    """Export what ``rivals`` lack; return why the artifacts with these keys could not be.

    Those of the smallest batch in the fewest bits are timed, one after the other, unless ``timed`` is False. The others
    are made as many at a time as there are cores, except those of builders that choose kernels by timing them, and
    their times are not kept.
    """
    missing: dict[str, Rival] = {}
    for rival in rivals:
        if find_artifact(get_backend(rival.backend), rival.workload) is None:
            missing.setdefault(rival.key[1], rival)
    cheapest = min((_size(rival) for rival in rivals), default=None)
    alone = {k: r for k, r in missing.items() if _alone(r) or (timed and _size(r) == cheapest)}
    failures: dict[str, WorkerError] = {}
    for key, rival in alone.items():
        progress(f"exporting {rival}")
        failures |= _export({key: rival}, timed=True)
    others = [key for key in missing if key not in alone]
    together = os.cpu_count() or 1
    for start in range(0, len(others), together):
        wave = {key: missing[key] for key in others[start : start + together]}
        progress(f"exporting {len(wave)} artifacts side by side")
        failures |= _export(wave, timed=False)
    return failures


def _size(rival: Rival) -> tuple[int, int]:
    return rival.workload.precision.bits, rival.workload.batch_size


def _alone(rival: Rival) -> bool:
    return getattr(get_backend(rival.backend), "times_kernels", False)


def _export(wave: dict[str, Rival], *, timed: bool) -> dict[str, WorkerError]:
    workers = {key: Worker(Exporter) for key in wave}
    failures = {}
    try:
        for key, worker in workers.items():
            worker.tell("export", wave[key], timed)
        limit = Deadline(EXPORT_LIMIT_S)
        for key, worker in workers.items():
            try:
                worker.answer(limit.left_s)
            except WorkerError as error:
                failures[key] = error
    finally:
        for worker in workers.values():
            worker.kill()
    return failures


def ensure_reference(model: Model, device: str, images: int) -> None:
    """Compute the reference logits in a process of their own, so that no measured process ran them.

    Raises:
        CourseError: they cannot be computed; the reason is in the line.

    """
    if reference_path(model, device, images).exists():
        return
    with Worker(Exporter) as worker:
        try:
            worker.ask("reference", model, device, images, limit_s=EXPORT_LIMIT_S)
        except WorkerError as error:
            raise CourseError(f"the reference logits of {model} cannot be computed on {device}: {error}") from error
