"""What comes before the first answer: a framework's export, load and first inference, with nothing else running.

The grid's rivals load side by side, which is quick for all of them together and tells little of one.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from inference_lib.backends import get_backend
from inference_lib.measure.cell import inputs_of, started
from inference_lib.measure.exports import EXPORT_LIMIT_S, Exporter
from inference_lib.measure.plan import Rival, empty_record
from inference_lib.measure.profiles import Profile
from inference_lib.measure.rounds import LOAD_LIMIT_S
from inference_lib.measure.workers import Worker, WorkerError
from inference_lib.records.record import Build, Record
from inference_lib.records.store import RecordStore
from inference_lib.seam import build
from inference_lib.support.progress import each


class Starter:
    """What a worker process starts with: another one has exported, since what that has loaded would help."""

    def start(self, rival: Rival, root: Path) -> Build:
        """Load what was exported to ``root``, and infer once."""
        backend, workload = get_backend(rival.backend), rival.workload
        runner, took = started(backend, build(backend, workload, root), inputs_of(workload)[0])
        runner.__exit__(None, None, None)
        return took.model_copy(update={"alone": True})


def time_starts(
    rivals: Sequence[Rival], profile: Profile, store: RecordStore, run: str, progress: Callable[[str], None]
) -> list[Record]:
    """Export and start each of ``rivals`` alone; return their records, which say from now on what that took.

    Those without a measured record in ``store`` are left out. One that fails keeps the record that it had.
    """
    kept = [(rival, store.find(empty_record(rival, profile, run, "ok").key)) for rival in rivals]
    measured = [(rival, record) for rival, record in kept if record is not None and record.ok]
    told = []
    for rival, record in each(measured, "starts"):
        try:
            took = _alone(rival)
        except WorkerError as error:
            progress(f"{rival}: {error}")
            continue
        told.append(record.model_copy(update={"build": took}))
        store.write(told[-1])
        progress(f"{rival}: exported in {took.export_s:.1f} s, loaded in {took.load_s:.1f} s")
    return told


def _alone(rival: Rival) -> Build:
    with tempfile.TemporaryDirectory(prefix="starts-") as root:
        with Worker(Exporter) as worker:
            worker.ask("export", rival, True, Path(root), limit_s=EXPORT_LIMIT_S)
        with Worker(Starter) as worker:
            return worker.ask("start", rival, Path(root), limit_s=LOAD_LIMIT_S)
