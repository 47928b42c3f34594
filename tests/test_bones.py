"""The bones of a chapter: a question, a bound, a guess, the answer folded, exercises; read in the sources."""

import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from executed_course import NAMES
from prose import text_of

from inference_lib.course.notebook import Notebook, source_notebook
from inference_lib.support import paths

DROPDOWN = re.compile(r"^:::\{dropdown\} (?P<title>[^\n]+)\n(?P<inside>.*?)^:::$", re.MULTILINE | re.DOTALL)

GUESS = re.compile(r"\bguess\b|\bpredict\b", re.IGNORECASE)

UNBOUNDED = {"02_measuring_inference"}
"""Asks by which factor a mistake changes a number: no ceiling of a machine bounds that."""

chapters = pytest.mark.parametrize("name", NAMES)


def prose(name: str) -> str:
    return text_of(paths.NOTEBOOKS / f"{name}.py")


@chapters
def test_a_chapter_opens_with_a_question(name: str) -> None:
    title, first = prose(name).split("\n\n")[:2]
    assert title.startswith("# ")
    assert "?" in first


@chapters
def test_a_reader_guesses_before_the_answer_which_is_folded_and_measured(name: str) -> None:
    text = prose(name)
    answers = [found for found in DROPDOWN.finditer(text) if "{glue:" in found["inside"]]
    assert answers
    for answer in answers:
        section = text[text.rfind("\n## ", 0, answer.start()) : answer.start()]
        assert GUESS.search(section), f"nobody is asked to guess before {answer['inside']}"
    assert name in UNBOUNDED or re.search(r"\bbounds?\b", text[: answers[-1].start()], re.IGNORECASE)


@chapters
def test_a_chapter_ends_with_exercises_key_points_and_reading(name: str) -> None:
    titles = re.findall(r"^## (.+)$", prose(name), re.MULTILINE)
    assert titles[-3:] == ["Exercises", "Key points", "Further reading"]


def tags(cell: Notebook) -> set[str]:
    return set(cell.metadata.get("tags", []))


@chapters
def test_a_sentence_stands_between_any_two_listings(name: str) -> None:
    """The set-up follows its parameters at once; what draws the figure of a listing is folded below it."""
    cells = [cell for cell in source_notebook(paths.NOTEBOOKS / f"{name}.py").cells if "remove-cell" not in tags(cell)]
    pairs = [(one, other) for one, other in pairwise(cells) if one.cell_type == other.cell_type == "code"]
    bare = [other for one, other in pairs if "parameters" not in tags(one) and "hide-input" not in tags(other)]
    assert [cell.source.splitlines()[0] for cell in bare] == []
    assert cells[-1].cell_type == "markdown"


STUMBLED = (
    "the larger a part of it is the same delay", "in use may be for one node", "is not there, or was not and is",
    "pays for most of it no second time", "about manners", "most inference that nobody writes about",
    "need not make the whole quicker; where they do",
)  # fmt: skip
"""Sentences that readers stumbled over: they do not come back."""


def test_no_page_holds_a_sentence_that_readers_stumbled_over() -> None:
    pages = [*paths.NOTEBOOKS.glob("*.py"), *(paths.ROOT / "book").glob("*.md")]
    said = {page.name: re.sub(r"\s+", " ", text_of(page)) for page in pages}
    assert len(said) > 25
    assert [(name, words) for name, text in said.items() for words in STUMBLED if words in text] == []


def test_every_chapter_opens_in_jupyterlab_from_its_text(tmp_path: Path) -> None:
    """What `make lab` opens: the same cells, of which a reader touches one."""
    shutil.copy(paths.ROOT / "Makefile", tmp_path)
    shutil.copytree(paths.NOTEBOOKS, tmp_path / "notebooks")
    (tmp_path / ".venv").symlink_to(sys.prefix)  # whose own path may contain a space

    def make() -> str:
        command = ["make", "notebooks", "INSTALLED="]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    make()
    opened = {path.stem: nbformat.read(path, as_version=4) for path in (tmp_path / "_build/notebooks").glob("*.ipynb")}
    assert sorted(opened) == sorted(NAMES)
    for name, notebook in opened.items():
        cells = source_notebook(paths.NOTEBOOKS / f"{name}.py").cells
        assert [cell.source for cell in notebook.cells] == [cell.source for cell in cells]
        assert notebook.metadata.kernelspec.name == "python3"
        assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    folder, (changed, other, gone, *_) = tmp_path / "_build/notebooks", sorted(NAMES)
    (folder / f"{changed}.ipynb").write_text("a reader's own")
    (folder / f"{gone}.ipynb").unlink()
    make()
    assert (folder / f"{changed}.ipynb").read_text() == "a reader's own"
    assert (folder / f"{gone}.ipynb").exists()
    for name in (changed, other):  # chapters of a later version
        later = (folder / f"{name}.ipynb").stat().st_mtime + 5
        os.utime(tmp_path / "notebooks" / f"{name}.py", (later, later))
    assert f"{changed}.yours.ipynb now" in make()
    anew = nbformat.read(folder / f"{changed}.ipynb", as_version=4)
    assert [cell.source for cell in anew.cells] == [cell.source for cell in opened[changed].cells]
    assert [path.read_text() for path in folder.glob("*.yours*")] == ["a reader's own"]
