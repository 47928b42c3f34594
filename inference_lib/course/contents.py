"""What a course consists of: its folders, its chapters, and which of these are up to date.

A chapter is a text file under ``notebooks/`` in jupytext's percent format. Executed, it carries a stamp: the hashes of
the code that made it and of what else its outputs depend on. It is up to date until one of these changes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from inference_lib.backends import BACKENDS
from inference_lib.course.notebook import STAMP, code_hash, executed_notebook, source_notebook
from inference_lib.records.machine import this_machine
from inference_lib.seam import DEVICE_KINDS
from inference_lib.support import paths
from inference_lib.support.errors import CourseError, unknown_name
from inference_lib.support.hashes import library_hash, sha256_of


@dataclass(frozen=True)
class Course:
    """The folders of one course: what people edit is under ``root``, what is made at run time under ``build``."""

    root: Path = paths.ROOT
    build: Path = paths.BUILD

    @property
    def executed(self) -> Path:
        """Chapters executed on this machine."""
        return self.build / "executed"

    @property
    def records(self) -> Path:
        """Measurement records made on this machine."""
        return self.build / "records"

    @property
    def published(self) -> Path:
        """Chapters and records of the published edition."""
        return self.root / "book" / "published"


COURSE = Course()

FAILED = ".failed.ipynb"
"""How the file of a chapter ends that failed: what was executed of it, and its failure in the stamp."""


@dataclass(frozen=True)
class Chapter:
    """One chapter: its name (``04_pytorch``) and its source."""

    name: str
    source: Path


def chapters(course: Course = COURSE) -> list[Chapter]:
    """Return the chapters of the table of contents that have a source, in reading order."""
    listed = re.findall(r"^ *- file: (notebooks/\S+)$", (course.root / "_toc.yml").read_text(), re.MULTILINE)
    sources = [course.root / f"{name}.py" for name in listed]
    return [Chapter(source.stem, source) for source in sources if source.exists()]


def find_chapters(names: Sequence[str] | None, course: Course = COURSE) -> list[Chapter]:
    """Return the chapters called ``names`` (``04_pytorch``, or just ``04``), all of them for None.

    Raises:
        CourseError: a name is not a chapter's.

    """
    known = chapters(course)
    by_name = {chapter.name.split("_")[0]: chapter for chapter in known} | {chapter.name: chapter for chapter in known}
    wanted = [Path(name).stem for name in names] if names is not None else [chapter.name for chapter in known]
    for name in wanted:
        if name not in by_name:
            raise unknown_name("chapter", name, [chapter.name for chapter in known])
    return [by_name[name] for name in wanted]


@cache
def environment_hash() -> str:
    """Return the SHA-256 of what else a chapter's outputs depend on: the machine, its packages, what works there."""
    works = [f"{name} {kind} {BACKENDS[name].availability(kind)}" for name in BACKENDS for kind in DEVICE_KINDS]
    return sha256_of(fact.encode() for fact in (this_machine().model_dump_json(exclude={"commit"}), *works))


def stamp_of(chapter: Chapter, profile: str, device: str) -> dict[str, str]:
    """Return what the outputs of ``chapter`` would be made by now."""
    return {
        "code_sha256": code_hash(source_notebook(chapter.source)),
        "library_sha256": library_hash(),
        "environment_sha256": environment_hash(),
        "profile": profile,
        "device": device,
    }


def is_summary(chapter: Chapter) -> bool:
    """Whether a chapter shows the records of all others: its source says ``summary: true`` under ``inference_lib``."""
    return bool(source_notebook(chapter.source).metadata.get(STAMP, {}).get("summary"))


def is_up_to_date(chapter: Chapter, stamp: dict[str, str], course: Course = COURSE) -> bool:
    """Whether the chapter was executed here by the same code, with the same profile and on the same device.

    One that failed since then is not: the code that failed may have been taken back. A summary must also be the last
    that was executed.
    """
    path = course.executed / f"{chapter.name}.ipynb"
    if not path.exists() or (course.executed / f"{chapter.name}{FAILED}").exists():
        return False
    try:
        made_by = executed_notebook(path).metadata.get(STAMP, {})
    except CourseError:  # a damaged one is made anew
        return False
    if any(made_by.get(key) != value for key, value in stamp.items()):
        return False
    if not is_summary(chapter):
        return True
    others = [course.executed / f"{other.name}.ipynb" for other in chapters(course)]
    return all(path.stat().st_mtime >= other.stat().st_mtime for other in others if other.exists())
