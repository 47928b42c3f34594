"""The published edition: executed chapters and records of a GPU machine, checked, and put there as a whole."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat

from inference_lib.course.contents import COURSE, Chapter, Course, chapters
from inference_lib.course.contribution import THOROUGH
from inference_lib.course.notebook import STAMP, Notebook, clean, code_hash, executed_notebook, source_notebook
from inference_lib.course.parcel import without_own
from inference_lib.measure import roofline
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.report import readme
from inference_lib.support.errors import CourseError
from inference_lib.support.files import make_writable, shown

NOT_FOR_AN_EDITION = "publish what a GPU made with --profile full, or say --any-profile"

RUN_AGAIN = "run `python -m inference_lib run {name}`"


def read_executed(chapter: Chapter, folder: Path, remedy: str = RUN_AGAIN) -> Notebook:
    """Return the executed chapter in ``folder``.

    Raises:
        CourseError: it is missing or damaged, or its code has changed since; the message ends with ``remedy``.

    """
    path = folder / f"{chapter.name}.ipynb"
    remedy = remedy.format(name=chapter.name)
    if not path.exists():
        raise CourseError(f"chapter {chapter.name} has no outputs in {shown(folder)}; {remedy}")
    executed = executed_notebook(path)
    if code_hash(executed) != code_hash(source_notebook(chapter.source)):
        raise CourseError(f"the code of chapter {chapter.name} has changed since it was executed; {remedy}")
    return executed


def publish(
    executed: Path | None = None,
    records: Path | None = None,
    any_profile: bool = False,
    course: Course = COURSE,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Put executed chapters and records into the published edition, and its results into the README.

    Everything is read and checked before anything is written, and the edition is replaced as a whole. What it has
    already and is not made anew stays, so that several runs stand side by side. Records of a reader's own models, and
    (unless ``any_profile``) those that no GPU machine made with the full profile, are left out, and ``say`` tells how
    many. Return the names of the chapters.

    Raises:
        CourseError: there is nothing to publish, a chapter's code has changed since it was executed, a file is not a
            record or not a notebook, or (unless ``any_profile``) a chapter was not made on a GPU with the full
            profile; or the edition would hold the records of several GPUs.

    """
    executed, records = executed or course.executed, records or course.records
    found = [chapter for chapter in chapters(course) if (executed / f"{chapter.name}.ipynb").exists()]
    if not found:
        raise CourseError(f"no executed chapters in {shown(executed)}; run `python -m inference_lib run`")
    notebooks = {chapter.name: read_executed(chapter, executed) for chapter in found}
    measured = RecordStore(records).read()
    if not measured:
        raise CourseError(f"no records in {shown(records)}; name their folder with --records")
    measured = without_own(measured, say)
    if not any_profile:
        _check_thorough(notebooks)
        measured = _thorough(measured, say)
    if not measured:
        raise CourseError(f"no record in {shown(records)} is for an edition; {NOT_FOR_AN_EDITION}")
    edition = {record.key: record for record in (*RecordStore(course.published / "records").read(), *measured)}
    _check_one_gpu(edition.values())
    make_writable(course.published.parent, "publish")
    with replacing(course.published, course.published) as folder:
        for name, notebook in notebooks.items():
            nbformat.write(clean(notebook, course.root), folder / f"{name}.ipynb")
        for record in measured:
            RecordStore(folder / "records").write(record)
        for name, kept in _ceilings(records.parent / "ceilings", list(edition.values())).items():
            write_if_changed(folder / "ceilings" / name, kept.model_dump_json(indent=1).encode())
    update_readme(course)
    return list(notebooks)


def _ceilings(folder: Path, rows: Sequence[Record]) -> dict[str, roofline.Ceilings]:
    """Return the GPUs' ceilings in ``folder`` by their files' names, without the rates that published rows pass."""
    measured = {path.name: roofline.read(path) for path in folder.glob("cuda-*.json")}
    believed = {name: roofline.never_passed(found, rows) for name, found in measured.items() if found}
    return {name: found for name, found in believed.items() if found}


def update_readme(course: Course = COURSE) -> None:
    """Write the figure and the results of the published records into the README, where there is one."""
    if (course.root / "README.md").exists():
        records = RecordStore(course.published / "records").read()
        readme.update(course.root / "README.md", records, course.published / "ceilings")


def _check_thorough(notebooks: Mapping[str, Notebook]) -> None:
    """Raise CourseError unless every chapter was executed on a GPU with the full profile."""
    for name, notebook in notebooks.items():
        stamp = notebook.metadata.get(STAMP, {})
        made = (stamp.get("profile"), stamp.get("device"))
        if made != (THOROUGH.name, "cuda"):
            raise CourseError(
                f"chapter {name} was executed with the {made[0]} profile on {made[1]}; {NOT_FOR_AN_EDITION}"
            )


def _thorough(records: Sequence[Record], say: Callable[[str], None]) -> list[Record]:
    """Return the records that a GPU machine made with the full profile, and ``say`` how many others were left out."""
    found = [record for record in records if record.profile == THOROUGH.name and record.machine.gpu is not None]
    if left := len(records) - len(found):
        say(f"left out: {left} records of another profile than {THOROUGH.name}, or of a machine without a GPU")
    return found


def _check_one_gpu(records: Iterable[Record]) -> None:
    """Raise CourseError where the records are several GPUs': a sentence could not tell which it is about."""
    names = sorted({record.machine.name("cuda") for record in records if record.device == "cuda"})
    if len(names) > 1:
        raise CourseError(
            f"the edition would hold records of {' and '.join(names)}; an edition is made on one kind of GPU: "
            "move the other's out of book/published/records, or name another folder with --records"
        )


# Files


@contextmanager
def replacing(folder: Path, start: Path) -> Iterator[Path]:
    """Yield a copy of ``start`` to change; it takes the place of ``folder`` at the end, unless something goes wrong.

    ``folder`` is whole at any time: of its two names, it has one.
    """
    fresh, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    _put_back(old, folder)  # a process that was killed may have left it there
    try:
        if start.exists():
            shutil.copytree(start, fresh)
        fresh.mkdir(exist_ok=True)
        yield fresh
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
    finally:
        _put_back(old, folder)
        shutil.rmtree(fresh, ignore_errors=True)


def _put_back(old: Path, folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        os.replace(old, folder)


def write_if_changed(path: Path, content: bytes) -> None:
    """Write a file unless it is the same already: what is made from it would be made again for nothing."""
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
