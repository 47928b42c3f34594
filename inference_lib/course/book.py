"""The book: executed chapters and prose pages, staged for Jupyter Book and rendered.

The pages of a chapter take their markdown from the source and their outputs from the executed notebook. So prose may be
edited without executing anything, while a change of code makes the outputs stale. In the local edition, a chapter
without fresh outputs becomes a page that says why.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nbformat

from inference_lib.course import reference, theme
from inference_lib.course.notebook import STAMP, Notebook, clean, code_cells, code_hash, source_notebook
from inference_lib.course.pages import Marks
from inference_lib.course.run import COURSE, ESCAPES, FAILED, Chapter, Course, chapters
from inference_lib.course.site import PREVIEW, TAKEN_AWAY, Site, configured, take_away
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.report import readme
from inference_lib.report.opening import png
from inference_lib.report.words import NOT_MEASURED
from inference_lib.support.errors import CourseError
from inference_lib.support.files import make_writable, shown

PUBLISHED = "published"

THOROUGH = "full"
"""The profile of an edition, and the run that its sentences are about; others show whether they hold."""

NOT_FOR_AN_EDITION = "publish what a GPU made with --profile full, or say --any-profile"

GLUED = re.compile(r"{glue(:\w+)?}`(?P<key>[^`:]+)[^`]*`")
"""A number in a sentence, by the key under which a cell keeps it."""

RUN_AGAIN = "run `python -m inference_lib run {name}`"
PUBLISH_AGAIN = "run it on a GPU with the full profile and publish it (see the page Reproducing the numbers)"

CONFIG, TOC = Path("_config.yml"), Path("_toc.yml")

JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"
"""The command ``jupyter-book`` of this very interpreter, which may not be on the path."""

RENDER_S = 3600.0
"""How long it may take: minutes, as a rule."""


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


def publish(
    executed: Path | None = None, records: Path | None = None, any_profile: bool = False, course: Course = COURSE
) -> list[str]:
    """Put executed chapters and records into the published edition, and its results into the README.

    Everything is read and checked before anything is written, and the edition is replaced as a whole. What it has
    already and is not made anew stays, so that several runs stand side by side. Return the names of the chapters.

    Raises:
        CourseError: there is nothing to publish, a chapter's code has changed since it was executed, a file is not a
            record, or (unless ``any_profile``) something was not made on a GPU with the full profile; or the edition
            would hold the records of several GPUs.

    """
    executed, records = executed or course.executed, records or course.records
    found = [chapter for chapter in chapters(course) if (executed / f"{chapter.name}.ipynb").exists()]
    if not found:
        raise CourseError(f"no executed chapters in {shown(executed)}; run `python -m inference_lib run`")
    notebooks = {chapter.name: read_executed(chapter, executed) for chapter in found}
    measured = RecordStore(records).read()
    if not measured:
        raise CourseError(f"no records in {shown(records)}; name their folder with --records")
    if not any_profile:
        _check_thorough(notebooks, measured)
    edition = {record.key: record for record in (*RecordStore(course.published / "records").read(), *measured)}
    _check_one_gpu(edition.values())
    make_writable(course.published.parent, "publish")
    with _replacing(course.published, course.published) as folder:
        for name, notebook in notebooks.items():
            nbformat.write(clean(notebook, course.root), folder / f"{name}.ipynb")
        for record in measured:
            RecordStore(folder / "records").write(record)
        for kept in (records.parent / "ceilings").glob("cuda-*.json"):
            _write_if_changed(folder / "ceilings" / kept.name, kept.read_bytes())
    update_readme(course)
    return list(notebooks)


def update_readme(course: Course = COURSE) -> None:
    """Write the figure and the results of the published records into the README, where there is one."""
    if (course.root / "README.md").exists():
        records = RecordStore(course.published / "records").read()
        readme.update(course.root / "README.md", records, course.published / "ceilings")


def _check_thorough(notebooks: Mapping[str, Notebook], records: Sequence[Record]) -> None:
    """Raise CourseError unless everything was made on a GPU machine with the full profile."""
    for name, notebook in notebooks.items():
        stamp = notebook.metadata.get(STAMP, {})
        made = (stamp.get("profile"), stamp.get("device"))
        if made != (THOROUGH, "cuda"):
            raise CourseError(
                f"chapter {name} was executed with the {made[0]} profile on {made[1]}; {NOT_FOR_AN_EDITION}"
            )
    quick = [record for record in records if record.profile != THOROUGH or record.machine.gpu is None]
    if quick:
        where = f"the {quick[0].profile} profile on {quick[0].machine.name(quick[0].device)}"
        raise CourseError(
            f"{len(quick)} of {len(records)} records are not a GPU machine's of the {THOROUGH} profile "
            f"(the first, {quick[0].key.file_name}, has {where}); {NOT_FOR_AN_EDITION}"
        )


def _check_one_gpu(records: Iterable[Record]) -> None:
    """Raise CourseError where the records are several GPUs': a sentence could not tell which it is about."""
    names = sorted({record.machine.name("cuda") for record in records if record.device == "cuda"})
    if len(names) > 1:
        raise CourseError(
            f"the edition would hold records of {' and '.join(names)}; an edition is made on one kind of GPU: "
            "move the other's out of book/published/records, or name another folder with --records"
        )


@contextmanager
def _replacing(folder: Path, start: Path) -> Iterator[Path]:
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


@dataclass(frozen=True)
class Edition:
    """A book that was laid out or rendered, and which of its chapters have no outputs to show."""

    folder: Path
    broken: list[str]


def stage(edition: str, course: Course = COURSE) -> Edition:
    """Lay out what Jupyter Book renders. Files that did not change are not touched.

    Raises:
        CourseError: the code of a published chapter has changed since.

    """
    staged = Edition(course.build / "stage" / edition, [])
    marks, site = Marks(edition, course), Site.of_environment()
    wanted = {name: (course.root / name).read_bytes() for name in (CONFIG, TOC)}
    opened = marks.opening if site.address else None
    wanted[CONFIG] = configured(wanted[CONFIG], site, opened.alt if opened else "")
    if opened:
        wanted[Path("book/_static") / PREVIEW] = png(opened)
    for path in sorted((course.root / "book").rglob("*")):
        name = path.relative_to(course.root)
        if path.is_file() and not name.parts[1].startswith((PUBLISHED, f".{PUBLISHED}")):
            wanted[name] = marks.fill(path.read_text()).encode() if path.suffix == ".md" else path.read_bytes()
    for room in reference.ROOMS:
        name = Path("book", f"{reference.page_name(room)}.md")
        if str(name.with_suffix("")).encode() in wanted[TOC]:
            wanted[name] = reference.page_of(room).encode()
    for chapter in chapters(course):
        published = (course.published / f"{chapter.name}.ipynb").exists()
        if edition == PUBLISHED and not published:
            wanted[TOC] = _without(chapter, wanted[TOC])
            continue
        page, whole = _page(chapter, edition, course)
        page = _reworded(page, partial(marks.fill, chapter=chapter.name))
        if whole:
            page.cells.append(nbformat.v4.new_markdown_cell(take_away(chapter, site, published), id="take-away"))
        else:
            staged.broken.append(chapter.name)
        wanted[Path("notebooks") / f"{chapter.name}.ipynb"] = nbformat.writes(page).encode()
        wanted[Path(TAKEN_AWAY) / f"{chapter.name}.py"] = chapter.source.read_bytes()
        wanted[Path(TAKEN_AWAY) / f"{chapter.name}.ipynb"] = nbformat.writes(source_notebook(chapter.source)).encode()
    for name, content in wanted.items():
        _write_if_changed(staged.folder / name, content)
    for path in staged.folder.rglob("*"):
        if path.is_file() and path.relative_to(staged.folder) not in wanted:
            path.unlink()
    return staged


def _page(chapter: Chapter, edition: str, course: Course) -> tuple[Notebook, bool]:
    """Return the page of a chapter, and whether it has the outputs that it should; if not, it says why."""
    source, failed = source_notebook(chapter.source), course.executed / f"{chapter.name}{FAILED}"
    if edition == PUBLISHED:
        return merge(source, read_executed(chapter, course.published, PUBLISH_AGAIN)), True
    if failed.exists():
        return _failed_page(chapter, source, nbformat.read(failed, as_version=4)), False
    try:
        return merge(source, read_executed(chapter, course.executed)), True
    except CourseError as error:
        return _broken_page(source.cells[:1], f"This chapter was not executed: {error}."), False


def _failed_page(chapter: Chapter, source: Notebook, executed: Notebook) -> Notebook:
    """Return what was executed of a chapter before it failed, with the failing cell, the reason and its traceback."""
    failure = executed.metadata[STAMP]["failure"]
    done, left, shown_cells = code_cells(executed), failure["cell"], []
    for cell in clean(executed).cells:
        shown_cells += [cell]
        if left and cell is done[left - 1]:
            cell.outputs = [output for output in cell.outputs if output.output_type != "error"]
            break
    text = f"This chapter failed {failure['said']}."
    if failure["traceback"]:
        text += f"\n\n:::{{dropdown}} The traceback\n```text\n{failure['traceback']}\n```\n:::"
    text += f"\n\nMend the cause, then {RUN_AGAIN.format(name=chapter.name)}."
    return _broken_page(shown_cells if left else source.cells[:1], text)


def _broken_page(cells: list[Notebook], text: str) -> Notebook:
    """Return a page of ``cells``, with a note that says what is wrong after the first, which has the title."""
    note = nbformat.v4.new_markdown_cell(f"::::{{error}}\n{text}\n::::", id="failure")
    page = clean(nbformat.v4.new_notebook(cells=[cells[0], note, *cells[1:]]))
    keys = {
        output.metadata["scrapbook"]["name"]
        for cell in code_cells(page)
        for output in cell.outputs
        if "scrapbook" in output.get("metadata", {})
    }
    return _reworded(
        page, lambda text: GLUED.sub(lambda found: found[0] if found["key"] in keys else NOT_MEASURED, text)
    )


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


def _reworded(page: Notebook, change: Callable[[str], str]) -> Notebook:
    """Return ``page`` with every text changed."""
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = change(cell.source)
    return page


def _write_if_changed(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# Rendering


def render(edition: str = "local", course: Course = COURSE) -> Edition:
    """Render an edition with Jupyter Book and print where it is.

    Pages that did not change since the last time are not built again. Warnings are errors, unless a chapter is broken:
    others refer to what it would have.

    Raises:
        CourseError: a published chapter's outputs are stale, or Jupyter Book fails; what was rendered before stays.

    """
    make_writable(course.build / "render", "render")
    staged = stage(edition, course)
    source = staged.folder
    work, log = course.build / "render" / edition, course.build / "render" / f"{edition}.log"
    target = course.build / ("html" if edition == "local" else "published/html")
    work.mkdir(parents=True, exist_ok=True)
    print(f"rendering the {edition} edition: ", end="", flush=True)
    start = time.monotonic()
    if not _jupyter_book(source, work, log, strict=not staged.broken):
        shutil.rmtree(work)  # a page that is not built again would not repeat its warnings
        print("failed")
        complaints = _first_complaints(log).replace(f"{source}/", "")
        raise CourseError(f"the {edition} edition cannot be rendered, see {shown(log)}: {complaints}")
    with _replacing(target, work / "_build" / "html") as rendered:
        theme.mend_pages(rendered)
        for path in (source / "book" / "_static").glob("*"):
            shutil.copy(path, rendered / "_static")  # Sphinx does so only where it builds a page again
    print(f"{time.monotonic() - start:.1f} s")
    print(target / "index.html")
    return Edition(target, staged.broken)


def _jupyter_book(source: Path, work: Path, log: Path, strict: bool) -> bool:
    flags = ["--keep-going", *(["-W", "-n"] if strict else [])]
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(source), "--path-output", str(work), *flags]
    with log.open("w") as output:
        try:
            return subprocess.call(command, stdout=output, stderr=subprocess.STDOUT, timeout=RENDER_S) == 0
        except subprocess.TimeoutExpired:
            print(f"ERROR: Jupyter Book did not end within {RENDER_S:g} s", file=output)
            return False


def _first_complaints(log: Path) -> str:
    lines = [ESCAPES.sub("", line).strip() for line in log.read_text().splitlines()]
    found = [line for line in lines if "WARNING" in line or "ERROR" in line] or [line for line in lines[-1:] if line]
    return " | ".join(found[:3]) + (f" | and {len(found) - 3} more" if len(found) > 3 else "")
