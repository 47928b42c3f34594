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
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from inference_lib.course import contribution, pages, reference, theme
from inference_lib.course.notebook import STAMP, Notebook, clean, code_cells, code_hash, source_notebook
from inference_lib.course.run import COURSE, FAILED, Chapter, Course, Failure, chapters, find_chapters
from inference_lib.course.site import PREVIEW, TAKEN_AWAY, Site, configured, take_away
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.report import readme
from inference_lib.report.opening import png
from inference_lib.report.words import NOT_MEASURED
from inference_lib.support.errors import CourseError, unknown_name
from inference_lib.support.files import make_writable, shown

PUBLISHED = "published"
EDITIONS = ("local", PUBLISHED)

THOROUGH = "full"
"""The profile of an edition, and the run that its sentences are about; others show whether they hold."""

NOT_FOR_AN_EDITION = "publish what a GPU made with --profile full, or say --any-profile"

BROKEN = "broken"
"""Marks, while a book is staged, a page without the outputs that it should have."""

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
    names = [chapter.name for chapter in chapters(course) if (executed / f"{chapter.name}.ipynb").exists()]
    if not names:
        raise CourseError(f"no executed chapters in {shown(executed)}; run `python -m inference_lib run`")
    notebooks = {chapter.name: read_executed(chapter, executed) for chapter in find_chapters(names, course)}
    measured = RecordStore(records).read()
    if not measured:
        raise CourseError(f"no records in {shown(records)}; name their folder with --records")
    if not any_profile:
        _check_thorough(notebooks, measured)
    edition = {record.key: record for record in (*RecordStore(course.published / "records").read(), *measured)}
    _check_one_gpu(edition.values())
    with _replacing(course.published) as folder:
        for name, notebook in notebooks.items():
            nbformat.write(clean(notebook, course.root), folder / f"{name}.ipynb")
        for record in measured:
            RecordStore(folder / "records").write(record)
        for kept in (records.parent / "ceilings").glob("cuda-*.json"):
            _write_if_changed(folder / "ceilings" / kept.name, kept.read_bytes())
    update_readme(course)
    return names


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
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a copy of ``folder`` to change; it takes the folder's place at the end, unless something goes wrong."""
    fresh = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    make_writable(folder.parent, "publish")
    _put_back(folder)
    if folder.exists():
        shutil.copytree(folder, fresh)
    fresh.mkdir(exist_ok=True)
    try:
        yield fresh
        _put_in_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Let ``fresh`` take the place of ``folder``, which is whole at any time: of two names, it has one."""
    old = _put_back(folder)
    try:
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
    finally:
        _put_back(folder)


def _put_back(folder: Path) -> Path:
    """Return where ``folder`` waits while it is replaced: empty now, whatever a process that was killed left there."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        os.replace(old, folder)
    return old


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
class Staged:
    """What Jupyter Book renders, and which chapters have no outputs to show there."""

    folder: Path
    broken: list[str] = field(default_factory=list)


def stage(edition: str, course: Course = COURSE) -> Staged:
    """Lay out what Jupyter Book renders. Files that did not change are not touched.

    Raises:
        CourseError: no such edition; or the code of a published chapter has changed since.

    """
    if edition not in EDITIONS:
        raise unknown_name("edition", edition, EDITIONS)
    staged = Staged(course.build / "stage" / edition)
    site = Site.of_environment()
    wanted = {name: (course.root / name).read_bytes() for name in (CONFIG, TOC)}
    opened = pages.opening_of(edition, course) if site.address else None
    wanted[CONFIG] = configured(wanted[CONFIG], site, opened.alt if opened else "")
    if opened:
        wanted[Path("book/_static") / PREVIEW] = png(opened)
    for path in sorted((course.root / "book").rglob("*")):
        if path.is_file() and not path.relative_to(course.root / "book").parts[0].startswith(
            (PUBLISHED, f".{PUBLISHED}")
        ):
            content = path.read_bytes()
            filled = pages.fill(content.decode(), edition, course).encode() if path.suffix == ".md" else content
            wanted[path.relative_to(course.root)] = filled
    wanted |= _library_pages(wanted[TOC])
    brought = contribution.machines(course.published / "machines")

    def shown_machines(found: re.Match[str]) -> str:
        return contribution.as_markdown(brought, found["rivals"].split())

    for chapter in chapters(course):
        page = _local_page(chapter, course) if edition == "local" else _published_page(chapter, course)
        if page is None:
            wanted[TOC] = _without(chapter, wanted[TOC])
            continue
        page = _reworded(page, lambda text: MACHINES.sub(shown_machines, text))
        if page.metadata.pop(BROKEN, False):
            staged.broken.append(chapter.name)
        else:
            ending = take_away(chapter, site, (course.published / f"{chapter.name}.ipynb").exists())
            page.cells.append(nbformat.v4.new_markdown_cell(ending, id="take-away"))
        wanted[Path("notebooks") / f"{chapter.name}.ipynb"] = nbformat.writes(page).encode()
        wanted[Path(TAKEN_AWAY) / f"{chapter.name}.py"] = chapter.source.read_bytes()
        wanted[Path(TAKEN_AWAY) / f"{chapter.name}.ipynb"] = nbformat.writes(source_notebook(chapter.source)).encode()
    for name, content in wanted.items():
        _write_if_changed(staged.folder / name, content)
    for path in staged.folder.rglob("*"):
        if path.is_file() and path.relative_to(staged.folder) not in wanted:
            path.unlink()
    return staged


def _library_pages(contents: bytes) -> dict[Path, bytes]:
    """Return the pages of the library's reference that the table of contents names."""
    found = reference.pages().items()
    return {Path("book") / f"{name}.md": text.encode() for name, text in found if f"book/{name}".encode() in contents}


def _published_page(chapter: Chapter, course: Course) -> Notebook | None:
    """Return the page of a chapter in the published edition, None where it has none."""
    if not (course.published / f"{chapter.name}.ipynb").exists():
        return None
    page = merge(source_notebook(chapter.source), read_executed(chapter, course.published, PUBLISH_AGAIN))
    return _fill_in(page, run_times(chapter.name, course.published))


def _local_page(chapter: Chapter, course: Course) -> Notebook:
    """Return the page of a chapter in the local edition; without fresh outputs, it says why there are none."""
    times = run_times(chapter.name, course.executed, course.published)
    failed = course.executed / f"{chapter.name}{FAILED}"
    if failed.exists():
        return _fill_in(_failed_page(chapter, nbformat.read(failed, as_version=4)), times)
    try:
        return _fill_in(merge(source_notebook(chapter.source), read_executed(chapter, course.executed)), times)
    except CourseError as error:
        return _broken_page(chapter.title, [], f"This chapter was not executed: {error}.")


def _failed_page(chapter: Chapter, executed: Notebook) -> Notebook:
    """Return what was executed of a chapter before it failed, with the failing cell, the reason and its traceback."""
    failure = executed.metadata.get(STAMP, {}).get("failure", {})
    done, left, shown_cells = code_cells(executed), failure.get("cell", 0), []
    for cell in clean(executed).cells:
        shown_cells += [cell]
        if left and cell is done[left - 1]:
            cell.outputs = [output for output in cell.outputs if output.output_type != "error"]
            break
    text = f"This chapter failed {Failure(**failure)}." if failure else "This chapter failed."
    if failure.get("traceback"):
        text += f"\n\n:::{{dropdown}} The traceback\n```text\n{failure['traceback']}\n```\n:::"
    text += f"\n\nMend the cause, then {RUN_AGAIN.format(name=chapter.name)}."
    return _broken_page(chapter.title, shown_cells if left else [], text)


def _broken_page(title: str, cells: list[Notebook], text: str) -> Notebook:
    """Return a page that opens with an admonition, then shows the cells there are."""
    note = nbformat.v4.new_markdown_cell(f"::::{{error}}\n{text}\n::::", id="failure")
    if not cells:
        cells = [nbformat.v4.new_markdown_cell(f"# {title}", id="title")]
    page = clean(nbformat.v4.new_notebook(cells=[cells[0], note, *cells[1:]]))
    keys = {
        output.metadata["scrapbook"]["name"]
        for cell in code_cells(page)
        for output in cell.outputs
        if "scrapbook" in output.get("metadata", {})
    }
    page.metadata[BROKEN] = True
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


RUN_TIMES = "{{ run_times }}"
"""Stands in a chapter's markdown for what executing it took, here and on the machine of the published edition."""


def run_times(name: str, *folders: Path) -> str:
    """Return how long the chapter called ``name`` ran on each machine that executed it."""
    found = (folder / f"{name}.ipynb" for folder in dict.fromkeys(folders))
    stamps = (nbformat.read(path, as_version=4).metadata.get(STAMP, {}) for path in found if path.exists())
    return "; ".join(f"{s['seconds']:.0f} s on {s['machine']} ({s['profile']} profile)" for s in stamps)


def _fill_in(page: Notebook, times: str) -> Notebook:
    return _reworded(page, lambda text: text.replace(RUN_TIMES, times or "not executed yet"))


def _reworded(page: Notebook, change: Callable[[str], str]) -> Notebook:
    """Return ``page`` with every text changed."""
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = change(cell.source)
    return page


MACHINES = re.compile(r"{{ machines:(?P<rivals>[\w -]*)}}")
"""Stands where a chapter shows what machines that readers brought measured of some backends, or, named none, of all."""


def _write_if_changed(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# Rendering


@dataclass(frozen=True)
class Rendered:
    """A rendered edition: its first page, and the chapters that have no outputs to show."""

    first_page: Path
    broken: list[str]


def render(edition: str = "local", strict: bool = True, course: Course = COURSE) -> Rendered:
    """Render an edition with Jupyter Book and print where it is.

    Pages that did not change since the last time are not built again. ``strict`` makes warnings errors, unless a
    chapter is broken: others refer to what it would have.

    Raises:
        CourseError: a published chapter's outputs are stale, or Jupyter Book fails; what was rendered before stays.

    """
    make_writable(course.build / "render", "render")
    staged = stage(edition, course)
    source = staged.folder
    work, log = course.build / "render" / edition, course.build / "render" / f"{edition}.log"
    target = course.build / ("html" if edition == "local" else "published/html")
    if _static_files_changed(source, work):
        shutil.rmtree(work)  # Sphinx copies them only where it builds a page again
    work.mkdir(parents=True, exist_ok=True)
    print(f"rendering the {edition} edition: ", end="", flush=True)
    start = time.monotonic()
    if not _jupyter_book(source, work, log, strict and not staged.broken):
        shutil.rmtree(work)  # a page that is not built again would not repeat its warnings
        print("failed")
        complaints = _first_complaints(log).replace(f"{source}/", "")
        raise CourseError(f"the {edition} edition cannot be rendered, see {shown(log)}: {complaints}")
    _replace_tree(work / "_build" / "html", target)
    print(f"{time.monotonic() - start:.1f} s")
    print(target / "index.html")
    return Rendered(target / "index.html", staged.broken)


def _static_files_changed(source: Path, work: Path) -> bool:
    rendered = work / "_build" / "html" / "_static"
    pairs = [(path, rendered / path.name) for path in (source / "book" / "_static").glob("*")]
    return any(old.exists() and old.read_bytes() != path.read_bytes() for path, old in pairs)


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
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in log.read_text().splitlines()]
    found = [line for line in lines if "WARNING" in line or "ERROR" in line] or [line for line in lines[-1:] if line]
    return " | ".join(found[:3]) + (f" | and {len(found) - 3} more" if len(found) > 3 else "")


def _replace_tree(source: Path, target: Path) -> None:
    """Put a copy of ``source``, mended, in place of ``target``."""
    fresh = target.with_name(target.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh)
    theme.mend_pages(fresh)
    _put_in_place(fresh, target)
