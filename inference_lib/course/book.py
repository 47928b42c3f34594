"""The book: executed chapters and prose pages, staged for Jupyter Book and rendered.

The pages of a chapter take their markdown from the source and their outputs from the executed notebook. So prose may be
edited without executing anything, while a change of code makes the outputs stale. In the local edition, a chapter
without fresh outputs becomes a page that says why.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nbformat

from inference_lib.course import reference, theme
from inference_lib.course.contents import COURSE, FAILED, Chapter, Course, chapters
from inference_lib.course.edition import RUN_AGAIN, read_executed, replacing, write_if_changed
from inference_lib.course.notebook import ESCAPES, STAMP, Notebook, clean, code_cells, source_notebook
from inference_lib.course.pages import Marks
from inference_lib.course.site import PREVIEW, TAKEN_AWAY, Site, configured, take_away
from inference_lib.report.opening import png
from inference_lib.report.words import NOT_MEASURED
from inference_lib.support.errors import CourseError
from inference_lib.support.files import make_writable, shown

GLUED = re.compile(r"{glue(:\w+)?}`(?P<key>[^`:]+)[^`]*`")
"""A number in a sentence, by the key under which a cell keeps it."""

PUBLISHED = "published"

PUBLISH_AGAIN = "run it on a GPU with the full profile and publish it (see the page Reproducing the numbers)"

CONFIG, TOC = Path("_config.yml"), Path("_toc.yml")

JUPYTER_BOOK = """
import functools, gc, importlib.metadata as installed
gc.disable()
installed.entry_points = functools.cache(installed.entry_points)
from jupyter_book.cli.main import main
main()
"""
"""The command ``jupyter-book`` of this very interpreter, which may not be on the path.

Each citation asks for the plug-ins among all installed packages: they are read once. Garbage is not looked for: among
the trees of all pages that takes seconds, and what it would free is 0.3 GB until the process ends.
"""

RENDER_S = 3600.0
"""How long it may take: minutes, as a rule."""


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
        write_if_changed(staged.folder / name, content)
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
    with replacing(target, work / "_build" / "html") as rendered:
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
