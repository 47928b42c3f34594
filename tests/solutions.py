"""The exercises of a chapter, and the code of their solutions, which runs after the chapter's own cells.

An exercise stands in the markdown of a chapter, and so does its solution: readers copy its fences of ``python`` into
the notebook that they have just run. The tests do the same, in the same kernel of the same execution.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers

from inference_lib.course import run as course
from inference_lib.course.notebook import Notebook

DIRECTIVE = r"^(?P<fence>`{{3,}}|:{{3,}})\{{{kind}\}}(?P<inside>.*?)^(?P=fence)$"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LABEL = re.compile(r"^:label: (\S+)$", re.MULTILINE)
SOLVES = "solves"
"""The key of a cell's metadata that names the exercise."""


def _inside(notebook: Notebook, kind: str) -> list[str]:
    """Return what stands in the directives called ``kind``, from their argument on."""
    pattern = re.compile(DIRECTIVE.format(kind=kind), re.MULTILINE | re.DOTALL)
    markdown = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return [found["inside"] for source in markdown for found in pattern.finditer(source)]


def exercises(notebook: Notebook) -> list[str]:
    """Return the labels of a chapter's exercises."""
    return [label for block in _inside(notebook, "exercise") for label in LABEL.findall(block)]


def solutions(notebook: Notebook) -> dict[str, str]:
    """Return the code of a chapter's solutions by label, empty where a solution has none."""
    blocks = _inside(notebook, "solution")
    return {block.split()[0]: "\n\n".join(code.strip() for code in PYTHON.findall(block)) for block in blocks}


def with_solutions(notebook: Notebook) -> Notebook:
    """Return a chapter with its solutions after its own cells; one that fails does not keep the next from running."""
    cells = [
        nbformat.v4.new_code_cell(f"# {label}\n{code}", metadata={SOLVES: label, "tags": ["raises-exception"]})
        for label, code in solutions(notebook).items()
        if code
    ]
    return nbformat.from_dict(notebook | {"cells": [*notebook.cells, *cells]})


def split(executed: Notebook) -> tuple[Notebook, Notebook]:
    """Return the chapter as it would be without solutions, and a notebook of the solutions."""
    own = [cell for cell in executed.cells if SOLVES not in cell.metadata]
    solved = [cell for cell in executed.cells if SOLVES in cell.metadata]
    return nbformat.from_dict(executed | {"cells": own}), nbformat.v4.new_notebook(cells=solved)


def failures(solved: Notebook) -> dict[str, str]:
    """Return what went wrong in a notebook's cells, by the label of the exercise, "" for the chapter's own."""
    return {
        cell.metadata.get(SOLVES, ""): f"{output.ename}: {output.evalue}"
        for cell in solved.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    }


def executing_solutions(folder: Path) -> Any:
    """Return a context in which a chapter that is executed runs its solutions, too, and leaves them in ``folder``."""
    return patch.object(course, "_execute", _and_solutions(course._execute, folder))


def _and_solutions(execute: Callable[..., Notebook], folder: Path) -> Callable[..., Notebook]:
    folder.mkdir(parents=True, exist_ok=True)

    def execute_both(notebook: Notebook, part: Path, *arguments: Any) -> Notebook:
        try:
            executed = execute(with_solutions(notebook), part, *arguments)
        except PapermillExecutionError:
            executed = remove_error_markers(nbformat.read(part, as_version=4))
            if "" in failures(executed):
                raise
        chapter, solved = split(executed)
        nbformat.write(solved, folder / f"{part.name.split('.')[1]}.ipynb")
        return chapter

    return execute_both
