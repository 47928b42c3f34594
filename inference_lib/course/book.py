"""The book: executed chapters and prose pages, staged for Jupyter Book and rendered.

The pages of a chapter take their markdown from the source and their outputs from the executed notebook. So prose may be
edited without executing anything, while a change of code makes the outputs stale, which is an error.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat

from inference_lib.course.notebook import STAMP, Notebook, clean, code_cells, code_hash, source_notebook
from inference_lib.course.run import COURSE, Chapter, Course, chapters, find_chapters
from inference_lib.records.store import RecordStore
from inference_lib.report import readme
from inference_lib.support.errors import CourseError, unknown_name
from inference_lib.support.files import shown

EDITIONS = ("local", "published")

RUN_AGAIN = "run `python -m inference_lib run {name}`"
PUBLISH_AGAIN = "run it on a GPU with the full profile and publish it (see the page Reproducing the numbers)"

TOC = Path("_toc.yml")

JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"
"""The command ``jupyter-book`` of this very interpreter, which may not be on the path."""


def read_executed(chapter: Chapter, folder: Path, remedy: str = RUN_AGAIN) -> Notebook:
    """Return the executed chapter in ``folder``.

    Raises:
        CourseError: it is missing, or its code has changed since; the message ends with ``remedy``.

    """
    path = folder / f"{chapter.name}.ipynb"
    remedy = remedy.format(name=chapter.name)
    if not path.exists():
        raise CourseError(f"chapter {chapter.name} has no outputs in {shown(folder)}; {remedy}")
    executed = nbformat.read(path, as_version=4)
    if code_hash(executed) != code_hash(source_notebook(chapter.source)):
        raise CourseError(f"the code of chapter {chapter.name} has changed since it was executed; {remedy}")
    return executed


# The published edition


def publish(executed: Path | None = None, records: Path | None = None, course: Course = COURSE) -> list[str]:
    """Copy executed chapters and records into the published edition, and their results into the README.

    Return the names of the chapters.

    Raises:
        CourseError: there is nothing to publish, or a chapter's code has changed since it was executed.

    """
    executed, records = executed or course.executed, records or course.records
    names = [chapter.name for chapter in chapters(course) if (executed / f"{chapter.name}.ipynb").exists()]
    if not names:
        raise CourseError(f"no executed chapters in {shown(executed)}; run `python -m inference_lib run`")
    notebooks = [read_executed(chapter, executed) for chapter in find_chapters(names, course)]
    course.published.mkdir(parents=True, exist_ok=True)
    for name, notebook in zip(names, notebooks, strict=True):
        nbformat.write(clean(notebook, course.root), course.published / f"{name}.ipynb")
    for kept in (*records.glob("*.json"), *(records.parent / "ceilings").glob("cuda-*.json")):
        _write_if_changed(course.published / kept.parent.name / kept.name, kept.read_bytes())
    if (course.root / "README.md").exists():
        readme.update(course.root / "README.md", RecordStore(course.published / "records").read())
    return names


def stale_published(course: Course = COURSE) -> list[str]:
    """Return the published chapters whose outputs no longer belong to their code, or whose stamp is wrong."""
    stale = []
    for chapter in chapters(course):
        path = course.published / f"{chapter.name}.ipynb"
        if path.exists():
            published = nbformat.read(path, as_version=4)
            stamped = published.metadata.get(STAMP, {}).get("code_sha256")
            if not code_hash(source_notebook(chapter.source)) == code_hash(published) == stamped:
                stale.append(chapter.name)
    return stale


# Staging


def stage(edition: str, course: Course = COURSE) -> Path:
    """Lay out what Jupyter Book renders, and return the folder. Files that did not change are not touched.

    Raises:
        CourseError: no such edition; a chapter was not executed, or its code has changed since.

    """
    if edition not in EDITIONS:
        raise unknown_name("edition", edition, EDITIONS)
    local = edition == "local"
    executed, remedy = (course.executed, RUN_AGAIN) if local else (course.published, PUBLISH_AGAIN)
    folder = course.build / "stage" / edition
    wanted = {name: (course.root / name).read_bytes() for name in (Path("_config.yml"), TOC)}
    for path in sorted((course.root / "book").rglob("*")):
        if path.is_file() and not path.is_relative_to(course.published):
            wanted[path.relative_to(course.root)] = path.read_bytes()
    for chapter in chapters(course):
        if not local and not (course.published / f"{chapter.name}.ipynb").exists():
            wanted[TOC] = _without(chapter, wanted[TOC])
            continue
        page = merge(source_notebook(chapter.source), read_executed(chapter, executed, remedy))
        _fill_in(page, run_times(chapter.name, executed, course.published))
        wanted[Path("notebooks") / f"{chapter.name}.ipynb"] = nbformat.writes(page).encode()
    for name, content in wanted.items():
        _write_if_changed(folder / name, content)
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder) not in wanted:
            path.unlink()
    return folder


def _without(chapter: Chapter, contents: bytes) -> bytes:
    """Leave a chapter that was not published yet out of the table of contents, and say so."""
    print(f"the published edition has no {chapter.name} yet: {PUBLISH_AGAIN}")
    lines = contents.decode().splitlines(keepends=True)
    return "".join(line for line in lines if line.strip() != f"- file: notebooks/{chapter.name}").encode()


def merge(source: Notebook, executed: Notebook) -> Notebook:
    """Return ``source`` with the outputs of ``executed``, whose code is the same."""
    for cell, done in zip(code_cells(source), code_cells(executed), strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    return clean(source)


RUN_TIMES = "{{ run_times }}"
"""Stands in a chapter's markdown for what executing it took, here and on the machine of the published edition."""


def run_times(name: str, *folders: Path) -> str:
    """Return how long the chapter called ``name`` ran on each machine that executed it."""
    found = (folder / f"{name}.ipynb" for folder in dict.fromkeys(folders))
    stamps = [nbformat.read(path, as_version=4).metadata.get(STAMP, {}) for path in found if path.exists()]
    return "; ".join(f"{s['seconds']:.0f} s on {s['machine']} ({s['profile']} profile)" for s in stamps)


def _fill_in(page: Notebook, times: str) -> None:
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace(RUN_TIMES, times)


def _write_if_changed(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# Rendering


def render(edition: str = "local", strict: bool = True, course: Course = COURSE) -> Path:
    """Render an edition with Jupyter Book, print where it is, and return its first page.

    Pages that did not change since the last time are not built again. ``strict`` makes warnings errors.

    Raises:
        CourseError: a chapter's outputs are missing or stale, or Jupyter Book fails; what was rendered before stays.

    """
    source = stage(edition, course)
    work, log = course.build / "render" / edition, course.build / "render" / f"{edition}.log"
    target = course.build / ("html" if edition == "local" else "published/html")
    if _static_files_changed(source, work):
        shutil.rmtree(work)  # Sphinx copies them only where it builds a page again
    work.mkdir(parents=True, exist_ok=True)
    print(f"rendering the {edition} edition: ", end="", flush=True)
    start = time.monotonic()
    if not _jupyter_book(source, work, log, strict):
        shutil.rmtree(work)  # a page that is not built again would not repeat its warnings
        print("failed")
        complaints = _first_complaints(log).replace(f"{source}/", "")
        raise CourseError(f"the {edition} edition cannot be rendered, see {shown(log)}: {complaints}")
    _replace_tree(work / "_build" / "html", target)
    print(f"{time.monotonic() - start:.1f} s")
    print(target / "index.html")
    return target / "index.html"


def _static_files_changed(source: Path, work: Path) -> bool:
    rendered = work / "_build" / "html" / "_static"
    pairs = [(path, rendered / path.name) for path in (source / "book" / "_static").glob("*")]
    return any(old.exists() and old.read_bytes() != path.read_bytes() for path, old in pairs)


def _jupyter_book(source: Path, work: Path, log: Path, strict: bool) -> bool:
    flags = ["-W", "-n"] if strict else []
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(source), "--path-output", str(work)]
    with log.open("w") as output:
        result = subprocess.run(
            [*command, "--keep-going", *flags], stdout=output, stderr=subprocess.STDOUT, check=False
        )
    return result.returncode == 0


def _first_complaints(log: Path, limit: int = 3) -> str:
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in log.read_text().splitlines()]
    found = [line for line in lines if "WARNING" in line or "ERROR" in line] or [line for line in lines[-1:] if line]
    return " | ".join(found[:limit]) + (f" | and {len(found) - limit} more" if len(found) > limit else "")


def _replace_tree(source: Path, target: Path) -> None:
    """Put a copy of ``source`` in place of ``target``, which is whole at any time."""
    fresh = target.with_name(target.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(fresh, target)
