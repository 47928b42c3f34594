"""Executing chapters: a source becomes a notebook with outputs under ``_build/executed/``.

One that is up to date is not executed again. ``inference_lib.course.book`` turns executed chapters into pages.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbformat.reader import NotJSONError
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

from inference_lib.backends import BACKENDS
from inference_lib.backends.shared.cuda import resolve_device
from inference_lib.course import kernels
from inference_lib.course.contents import (
    COURSE,
    FAILED,
    Chapter,
    Course,
    find_chapters,
    is_summary,
    is_up_to_date,
    stamp_of,
)
from inference_lib.course.notebook import ESCAPES, STAMP, Notebook, clean, code_cells, source_notebook, without_paths
from inference_lib.measure.benchmark import Session, whole_grid
from inference_lib.measure.profiles import Profile, get_profile
from inference_lib.records.machine import this_machine
from inference_lib.records.store import RecordStore
from inference_lib.seam import FASHION_MNIST, MODELS, Device, Workload
from inference_lib.support import paths, progress
from inference_lib.support.errors import CourseError
from inference_lib.support.files import make_writable, shown, write_atomically

CELL_S = 12 * 3600
"""How long a cell may take: the longest measures a part of the grid, or tunes a network."""

SAVE_S = 10.0
"""How old the file of a chapter may be while cells begin and end. To write it takes as long as many a cell."""


class SavingSeldom(NBClientEngine):
    """Executes cells as papermill does, which writes the whole notebook before and after each; so do cells of text."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **options: Any) -> Any:
        """Execute the cells; whatever ends that, the notebook is written."""
        save = nb_man.save

        def save_seldom(**_: Any) -> None:
            if (nb_man.now() - nb_man.last_save_time).total_seconds() >= SAVE_S:
                save()

        nb_man.save = save_seldom
        try:
            return super().execute_managed_notebook(nb_man, kernel_name, **options)
        finally:
            save()


papermill_engines.register(SavingSeldom.__name__, SavingSeldom)


def run_chapters(
    names: Sequence[str] | None = None,
    profile: str = "quick",
    device: str = "auto",
    force: bool = False,
    grid: bool = True,
    course: Course = COURSE,
) -> list[str]:
    """Execute the chapters that are not up to date, one after the other; return the names of those that failed.

    Where all chapters are asked for and one has to run, the whole grid is measured first, unless ``grid`` says no: in
    sets in which all rivals take turns, so that a chapter finds what it shows. A summary comes last, wherever its place
    in the book is. Each chapter prints one line. One that fails leaves ``NAME.failed.ipynb`` and does not keep the
    others from running.

    Raises:
        CourseError: an unknown chapter, profile or device, no data set, or a folder that cannot be written.

    """
    thoroughness, device = get_profile(profile), resolve_device(device)
    chosen = sorted(find_chapters(names, course), key=is_summary)
    make_writable(course.executed)
    stale = [
        chapter for chapter in chosen if force or not is_up_to_date(chapter, stamp_of(chapter, profile, device), course)
    ]
    if grid and names is None and stale:
        measure_grid(thoroughness, device, course)
    if stale:
        kernels.prepare()
    failed = []
    for number, chapter in enumerate(chosen, 1):
        said = f"[{number}/{len(chosen)}] {chapter.name}: "
        print(said, end="", flush=True)
        if not _run(chapter, profile, device, force, course, said):
            failed.append(chapter.name)
    return failed


def measure_grid(profile: Profile, device: str, course: Course = COURSE, *, time_exports: bool = True) -> None:
    """Measure all cells of ``profile`` on ``device``, and on the CPU beside a GPU; what is known is not repeated.

    Unless exports are to be timed, they are made side by side. A cell that fails has its reason in its record; what
    keeps a device's whole grid from being measured is printed, and the chapters measure what they need.

    Raises:
        CourseError: there is no data set, or the records cannot be written.

    """
    kernels.prepare()
    FASHION_MNIST.ensure()
    store = RecordStore(course.records)
    store.check_writable()
    for kind in dict.fromkeys((device, "cpu")):
        print(f"measuring the grid on {this_machine().name(kind)} ({profile.name} profile)", flush=True)
        backends = [name for name in BACKENDS if kind == device or _runs_on(name, kind)]
        try:
            cells = whole_grid(backends, list(MODELS), Device(kind), profile)
            Session(profile, store, "1", progress=_say, time_exports=time_exports).measure(cells)
        except CourseError as error:
            _say(f"not all of it: {error}")


def _runs_on(backend: str, kind: str) -> bool:
    """Whether a backend has anything to run on a kind of device: beside a GPU, a row that says why not is no news."""
    return BACKENDS[backend].supports(Workload(next(iter(MODELS.values())), 1, device=kind)).ok


def _say(line: str) -> None:
    progress.say(f"  {line}")


def _run(chapter: Chapter, profile: str, device: str, force: bool, course: Course, said: str) -> bool:
    """Execute one chapter if need be, print the rest of the line that begins with ``said``; say whether it is fine."""
    notebook, stamp = source_notebook(chapter.source), stamp_of(chapter, profile, device)
    if not force and is_up_to_date(chapter, stamp, course):
        print("up to date")
        return True
    finished, failed = course.executed / f"{chapter.name}.ipynb", course.executed / f"{chapter.name}{FAILED}"
    part = course.executed / f".{chapter.name}.part.ipynb"
    spent = course.executed / f".{chapter.name}.{profile}-{device}.seconds"
    # What interrupted attempts measured is used again, so their time counts, too.
    start = time.monotonic() - (float(spent.read_text()) if spent.exists() else 0.0)
    try:
        with _line(said) as cells:
            executed = _execute(notebook, part, profile, device, course, cells)
    except (KeyboardInterrupt, SystemExit):
        write_atomically(spent, f"{time.monotonic() - start:.1f}".encode())
        print("interrupted" + (f"; what ran is in {shown(part)}" if part.exists() else ""))
        raise
    except Exception as error:  # whatever went wrong in one chapter, the others can still run
        print(f"failed {_keep(part, failed, error, course)}; see {shown(failed)}")
        return False
    seconds = round(time.monotonic() - start, 1)
    spent.unlink(missing_ok=True)
    where = {"seconds": seconds, "machine": this_machine().name(device)}
    executed.metadata[STAMP] = {**executed.metadata.get(STAMP, {}), **stamp, **where}
    nbformat.write(clean(executed, course.root), part)
    os.replace(part, finished)
    failed.unlink(missing_ok=True)
    print(f"{seconds:.1f} s")
    return True


@contextmanager
def _line(said: str) -> Iterator[dict[str, Any] | bool]:
    """Give what papermill is told of a bar of cells. At a terminal it takes the line of ``said``, which is restored."""
    if not progress.watched():
        yield False
        return
    try:
        yield {"desc": said.strip(" :"), "leave": False}
    finally:
        print(f"\r{said}", end="", flush=True)


def _execute(
    notebook: Notebook, output: Path, profile: str, device: str, course: Course, cells: dict[str, Any] | bool = False
) -> Notebook:
    """Execute ``notebook`` in the course's folder; what ran is in ``output``, from time to time and at the end."""
    for log in ("papermill", "asyncio"):  # a failure has its own line; after Ctrl-C, nobody waits for a cell's any more
        logging.getLogger(log).setLevel(logging.CRITICAL)
    own_records = None if course.build == paths.BUILD else str(course.records)
    return papermill.execute_notebook(
        notebook,
        str(output),
        parameters={"profile": profile, "device": device, "records_dir": own_records},
        engine_name=SavingSeldom.__name__,
        kernel_name="python3",
        language="python",
        progress_bar=cells,
        cwd=str(course.root),
        execution_timeout=CELL_S,
        kernel_manager_class=kernels.ForkedKernels,
    )


def _keep(part: Path, failed: Path, error: Exception, course: Course) -> str:
    """Keep what was executed of a chapter that failed, and in its stamp where and why it did, which is returned."""
    try:
        notebook = nbformat.read(part, as_version=4)
    except (FileNotFoundError, NotJSONError):  # papermill did not come to write it, or not to the end
        notebook = nbformat.v4.new_notebook()
    failure = _failure(code_cells(notebook), error)
    notebook.metadata[STAMP] = {"failure": failure}
    nbformat.write(clean(notebook, course.root), part)
    os.replace(part, failed)
    return failure["said"]


def _failure(cells: list[Notebook], error: Exception) -> dict[str, Any]:
    """Return the number of the code cell that failed (0: none was begun), where and why in a line, a traceback."""
    begun = [n for n, cell in enumerate(cells, 1) if cell.metadata.get("papermill", {}).get("start_time")]
    reason, traceback = f"{type(error).__name__}: {_last_line(str(error))}", ""
    if isinstance(error, DeadKernelError):
        reason = "the kernel died, perhaps for want of memory"
    if not begun:
        return {"cell": 0, "said": f"before its first cell: {reason}", "traceback": ""}
    cell = cells[begun[-1] - 1]
    for output in cell.outputs:
        if output.output_type == "error":
            reason = f"{output.ename}: {_last_line(output.evalue)}"
            if output.ename == "KeyboardInterrupt":  # by nobody at a keyboard: that ends all of them
                reason = f"it did not end within {CELL_S:,} s"
            traceback = without_paths(ESCAPES.sub("", "\n".join(output.traceback)))
    first_line = cell.source.strip().splitlines()[0]
    said = f"at code cell {begun[-1]} (`{first_line}`): {reason}"
    return {"cell": begun[-1], "said": said, "traceback": traceback}


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()
