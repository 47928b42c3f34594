"""The real chapters: executed here with the quick profile on the CPU, and their published outputs checked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from executed_course import NAMES, executed_course

from inference_lib.course import book, notebook
from inference_lib.course import run as course
from inference_lib.course.run import Course
from inference_lib.records.store import RecordStore
from inference_lib.report import readme
from inference_lib.support import paths

PUBLISHED = sorted(paths.PUBLISHED.glob("*.ipynb"))
CHECKED = "nbval-check-output"


def cells_to_check(chapter: notebook.Notebook) -> list[notebook.Notebook]:
    """Return the cells of a chapter up to the last whose output is compared; none if it has no such cell."""
    checked = [n for n, cell in enumerate(chapter.cells, 1) if CHECKED in cell.metadata.get("tags", [])]
    return chapter.cells[: max(checked, default=0)]


WITH_CHECKED_CELLS = [c for c in course.chapters() if cells_to_check(notebook.source_notebook(c.source))]


@pytest.fixture(scope="session")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Course, str]:
    return executed_course(tmp_path_factory)


def test_every_source_is_in_the_table_of_contents() -> None:
    assert sorted(NAMES) == sorted(path.stem for path in paths.NOTEBOOKS.glob("*.py"))


@pytest.mark.parametrize("chapter", course.chapters(), ids=lambda chapter: chapter.name)
def test_a_chapter_takes_the_course_s_parameters(chapter: course.Chapter) -> None:
    source = notebook.source_notebook(chapter.source)
    (parameters,) = [c.source for c in notebook.code_cells(source) if "parameters" in c.metadata.get("tags", [])]
    assert re.findall(r"^(\w+) = (\S+)", parameters, re.MULTILINE) == [
        ("profile", '"quick"'),
        ("device", '"auto"'),
        ("records_dir", "None"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_runs_on_the_cpu(name: str, executed: tuple[Course, str]) -> None:
    made, printed = executed
    lines = [line for line in printed.splitlines() if f"] {name}: " in line]
    assert (made.executed / f"{name}.ipynb").exists(), lines


@pytest.mark.slow
def test_values_glued_into_text_have_names_of_their_own(executed: tuple[Course, str]) -> None:
    seen: list[str] = []
    for path in sorted(executed[0].executed.glob("*.ipynb")):
        cells = notebook.code_cells(nbformat.read(path, as_version=4))
        glued = [output.get("metadata", {}).get("scrapbook") for cell in cells for output in cell.outputs]
        names = [each["name"] for each in glued if each]
        assert all(name.startswith(path.name[:3].replace("_", "-")) for name in names), names
        seen += names
    assert len(seen) == len(set(seen))


@pytest.mark.skipif(not PUBLISHED, reason="nothing is published yet")
def test_published_outputs_belong_to_today_s_code() -> None:
    assert {path.stem for path in PUBLISHED} <= set(NAMES)
    assert book.stale_published() == []


@pytest.mark.skipif(not PUBLISHED, reason="nothing is published yet")
def test_the_readme_shows_the_published_results() -> None:
    records = RecordStore(paths.PUBLISHED / "records").read()
    assert readme.results(records) in (paths.ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("chapter", WITH_CHECKED_CELLS, ids=lambda chapter: chapter.name)
def test_checked_cells_give_the_published_output_here(
    chapter: course.Chapter, executed: tuple[Course, str], tmp_path: Path
) -> None:
    """Run the chapter with nbval on the CPU, against the published outputs.

    What comes after its last checked cell is left out, and so is what is tagged ``nbval-skip``: that it runs, other
    tests show. Where nothing is published yet, what was executed here must come out the same a second time.
    """
    name = f"{chapter.name}.ipynb"
    folder = paths.PUBLISHED if (paths.PUBLISHED / name).exists() else executed[0].executed
    page = book.merge(notebook.source_notebook(chapter.source), nbformat.read(folder / name, as_version=4))
    page.cells = cells_to_check(page)
    for cell in page.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = f'profile, device, records_dir = "quick", "cpu", {str(executed[0].records)!r}'
    here = tmp_path / name
    nbformat.write(page, here)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
        "-c",
        os.devnull,
    ]
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600", str(here)]
    result = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(paths.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
