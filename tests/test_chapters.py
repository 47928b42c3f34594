"""The real chapters: executed here with the least profile, on the CPU, and their published outputs checked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from executed_course import NAMES, SOLUTIONS, executed_chapter, executed_course
from papermill.exceptions import PapermillExecutionError
from solutions import executing_solutions, exercises, failures, solutions
from stale import stale_published

from inference_lib.course import book, notebook
from inference_lib.course import run as course
from inference_lib.course.contents import Chapter, Course, chapters
from inference_lib.records.store import RecordStore
from inference_lib.report import readme, tables
from inference_lib.support import paths

PUBLISHED = sorted(paths.PUBLISHED.glob("*.ipynb"))
CHECKED = "nbval-check-output"
NBVAL = "10_torch_tensorrt"
BLANK = re.compile(r"<pre[^>]*>(\s|\\n)*</pre>")
"""A frame of a progress bar in ``str`` of an output, where the end of a line is a backslash and a letter."""


def checked_outputs(source: notebook.Notebook, executed: notebook.Notebook) -> dict[int, str]:
    """Return what the cells printed or showed as text whose output must be the same on every machine, by number.

    What a library logs to standard error bears the time and the number of a process.
    """
    pairs = zip(notebook.code_cells(source), notebook.code_cells(executed), strict=True)
    return {
        number: "\n".join(text_of(output) for output in cell.outputs if output.get("name") != "stderr")
        for number, (written, cell) in enumerate(pairs, 1)
        if CHECKED in written.metadata.get("tags", [])
    }


def text_of(output: notebook.Notebook) -> str:
    return str(output.get("text") or output.get("data", {}).get("text/plain", "")).strip()


WITH_CHECKED_CELLS = [c for c in chapters() if CHECKED in c.source.read_text()]


def test_every_source_is_in_the_table_of_contents() -> None:
    assert sorted(NAMES) == sorted(path.stem for path in paths.NOTEBOOKS.glob("*.py"))


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.name)
def test_a_chapter_takes_the_course_s_parameters(chapter: Chapter) -> None:
    source = notebook.source_notebook(chapter.source)
    (parameters,) = [c.source for c in notebook.code_cells(source) if "parameters" in c.metadata.get("tags", [])]
    assert re.findall(r"^(\w+) = (\S+)", parameters, re.MULTILINE) == [
        ("profile", '"quick"'),
        ("device", '"auto"'),
        ("records_dir", "None"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_runs_on_the_cpu(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    made, printed = executed_chapter(name, tmp_path_factory)
    assert (made.executed / f"{name}.ipynb").exists(), printed


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_runs_on_a_gpu(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cells that need a GPU are skipped by the test above: seen, one that nothing had run since the library changed."""
    made, printed = executed_chapter(name, tmp_path_factory, "cuda")
    assert (made.executed / f"{name}.ipynb").exists(), printed


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.name)
def test_every_exercise_has_a_solution_that_runs(chapter: Chapter) -> None:
    source = notebook.source_notebook(chapter.source)
    solved = solutions(source)
    assert len(exercises(source)) >= 3
    assert sorted(solved) == sorted(exercises(source))
    assert [label for label, code in solved.items() if not code] == [], "no python code"


@pytest.mark.slow
@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.name)
def test_the_solutions_of_a_chapter_run(chapter: Chapter, tmp_path_factory: pytest.TempPathFactory) -> None:
    """They were executed with the chapter, after its own cells."""
    made, _ = executed_chapter(chapter.name, tmp_path_factory)
    solved = made.build / SOLUTIONS / f"{chapter.name}.ipynb"
    assert solved.exists(), "the chapter itself failed"
    cells = nbformat.read(solved, as_version=4)
    assert len(cells.cells) == sum(map(bool, solutions(notebook.source_notebook(chapter.source)).values()))
    assert failures(cells) == {}


@pytest.mark.slow
def test_values_glued_into_text_have_names_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    seen: list[str] = []
    for path in sorted(executed_course(tmp_path_factory).executed.glob("*.ipynb")):
        cells = notebook.code_cells(nbformat.read(path, as_version=4))
        glued = [output.get("metadata", {}).get("scrapbook") for cell in cells for output in cell.outputs]
        names = [each["name"] for each in glued if each]
        assert all(name.startswith(path.name[:3].replace("_", "-")) for name in names), names
        seen += names
    assert len(seen) == len(set(seen))


@pytest.mark.skipif(not PUBLISHED, reason="nothing is published yet")
def test_published_outputs_belong_to_today_s_code() -> None:
    assert {path.stem for path in PUBLISHED} <= set(NAMES)
    assert stale_published() == []


@pytest.mark.skipif(not PUBLISHED, reason="nothing is published yet")
def test_no_published_page_shows_what_a_library_warns_of_or_the_frames_of_its_progress_bar() -> None:
    outputs = {
        f"{path.stem}, cell {number}": str(output)
        for path in PUBLISHED
        for number, cell in enumerate(notebook.code_cells(nbformat.read(path, as_version=4)), 1)
        for output in cell.outputs
    }
    assert outputs
    assert [where for where, output in outputs.items() if re.search(r"\b\w+Warning: ", output)] == []
    assert [where for where, output in outputs.items() if BLANK.search(output)] == []


def test_the_frame_that_a_progress_bar_leaves_is_found_in_an_output() -> None:
    shown = nbformat.v4.new_output("display_data", {"text/html": '<pre style="x">\n   \n</pre>'})
    assert BLANK.search(str(shown))


@pytest.mark.skipif(not PUBLISHED, reason="nothing is published yet")
def test_the_edition_is_one_gpu_s_and_was_measured_twice() -> None:
    records = RecordStore(paths.PUBLISHED / "records")
    assert len({record.machine.name("cuda") for record in records.read() if record.device == "cuda"}) == 1
    assert len({record.run for record in records.read()}) == 2


@pytest.mark.skipif(not PUBLISHED, reason="nothing is published yet")
def test_no_published_accuracy_is_another_precision_s() -> None:
    """Seen: TF32 rows shared an artifact with FP32 ones, and were given their figures, digit for digit."""
    of: dict[tuple[str, str, float], set[str]] = {}
    for record in RecordStore(paths.PUBLISHED / "records").read():
        if record.accuracy and record.accuracy.largest_difference:
            found = (record.backend, record.model, record.accuracy.largest_difference)
            of.setdefault(found, set()).add(record.precision)
    assert [found for found, precisions in of.items() if len(precisions) > 1] == []


@pytest.mark.skipif(not PUBLISHED, reason="nothing is published yet")
def test_the_readme_shows_the_published_results() -> None:
    records = RecordStore(paths.PUBLISHED / "records").read()
    page = (paths.ROOT / "README.md").read_text()
    assert readme.results(records) in page
    drawing, shown = readme.figure(records)
    assert shown in page
    assert drawing == (paths.ROOT / readme.FIGURE).read_text()


@pytest.mark.skipif(not PUBLISHED, reason="nothing is published yet")
def test_the_scoreboard_was_executed_with_the_published_records() -> None:
    records = [record for record in RecordStore(paths.PUBLISHED / "records").read() if record.device == "cuda"]
    page = (paths.PUBLISHED / "16_scoreboard.ipynb").read_text()
    assert tables.measured_twice(records) in page


@pytest.mark.slow
@pytest.mark.parametrize("chapter", WITH_CHECKED_CELLS, ids=lambda chapter: chapter.name)
def test_checked_cells_give_the_published_output_here(
    chapter: Chapter, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What was executed here on the CPU is compared; nothing is executed a second time."""
    made, _ = executed_chapter(chapter.name, tmp_path_factory)
    published, here = (folder / f"{chapter.name}.ipynb" for folder in (paths.PUBLISHED, made.executed))
    if not published.exists():
        pytest.skip("not published yet")
    source = notebook.source_notebook(chapter.source)
    expected, found = (checked_outputs(source, nbformat.read(path, as_version=4)) for path in (published, here))
    assert expected
    assert found == expected


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED, reason="nothing is published yet")
def test_nbval_finds_the_published_outputs_again(tmp_path: Path) -> None:
    """A reader's own tool, on the shortest chapter with checked cells, up to the last of them."""
    chapter = next(c for c in WITH_CHECKED_CELLS if c.name == NBVAL)
    published = nbformat.read(paths.PUBLISHED / f"{NBVAL}.ipynb", as_version=4)
    page = book.merge(notebook.source_notebook(chapter.source), published)
    last = max(n for n, cell in enumerate(page.cells, 1) if CHECKED in cell.metadata.get("tags", []))
    page.cells = page.cells[:last]
    for cell in page.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = f'profile, device, records_dir = "smoke", "cpu", {str(tmp_path)!r}'
    nbformat.write(page, tmp_path / "page.ipynb")
    options = ["-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]
    command = [sys.executable, "-m", "pytest", *options, "-c", os.devnull, f"--rootdir={tmp_path}", "page.ipynb"]
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


def test_only_the_text_of_checked_cells_is_compared() -> None:
    cells = [nbformat.v4.new_code_cell(str(number)) for number in range(3)]
    cells[1].metadata["tags"] = [CHECKED]
    source = nbformat.v4.new_notebook(cells=cells)
    executed = nbformat.from_dict(source)
    for cell in executed.cells:
        cell.outputs = [
            nbformat.v4.new_output("stream", text="printed\n"),
            nbformat.v4.new_output("display_data", {"text/plain": "shown", "text/html": "<b>"}),
        ]
    assert checked_outputs(source, executed) == {2: "printed\nshown"}


CHAPTER = """
```{exercise}
:label: ex-01-sum
Add.
```

````{solution} ex-01-sum
:class: dropdown
```python
print(1 + x)
```
Then in a shell, which no test runs:
```bash
exit 1
```
```python
print(2 + x)
```
````

```{exercise}
:label: ex-01-wrong
Divide.
```

````{solution} ex-01-wrong
```python
1 / 0
```
````

```{solution} ex-01-word
Words alone.
```
"""


def chapter_of(code: str) -> notebook.Notebook:
    cells = [nbformat.v4.new_markdown_cell(CHAPTER), nbformat.v4.new_code_cell(code)]
    kernel = {"name": "python3", "display_name": "Python", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def test_solutions_run_after_the_chapter_and_leave_it_as_it_was(tmp_path: Path) -> None:
    made = Course(tmp_path, tmp_path / "build")
    chapter = chapter_of("x = 1")
    assert exercises(chapter) == ["ex-01-sum", "ex-01-wrong"]
    assert solutions(chapter) == {
        "ex-01-sum": "print(1 + x)\n\nprint(2 + x)",
        "ex-01-wrong": "1 / 0",
        "ex-01-word": "",
    }
    with executing_solutions(tmp_path):
        executed = course._execute(chapter, tmp_path / ".01_name.part.ipynb", "quick", "cpu", made)
    assert [cell.source for cell in notebook.code_cells(executed)] == ["x = 1"]
    solved = nbformat.read(tmp_path / "01_name.ipynb", as_version=4)
    assert solved.cells[0].outputs[0].text == "2\n3\n"
    assert failures(solved) == {"ex-01-wrong": "ZeroDivisionError: division by zero"}


def test_a_chapter_that_fails_is_not_mistaken_for_a_solution_that_fails(tmp_path: Path) -> None:
    made = Course(tmp_path, tmp_path / "build")
    with executing_solutions(tmp_path), pytest.raises(PapermillExecutionError):
        course._execute(chapter_of("x = 1 / 0"), tmp_path / ".01_name.part.ipynb", "quick", "cpu", made)
    assert not (tmp_path / "01_name.ipynb").exists()
