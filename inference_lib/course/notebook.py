"""Chapters as notebooks: read from their source, identified by their code, and cleaned of where they ran."""

import os
import re
import sysconfig
import tempfile
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from inference_lib.support import paths
from inference_lib.support.errors import CourseError
from inference_lib.support.failures import reason_of
from inference_lib.support.files import shown
from inference_lib.support.hashes import sha256_of

Notebook = nbformat.NotebookNode

INJECTED = "injected-parameters"
"""papermill's tag of the cell that holds the parameters of one run."""

STAMP = "inference_lib"
"""The key of a notebook's metadata that says what produced its outputs."""

ESCAPES = re.compile(r"\x1b\[[\d;]*m")
"""Colours of a terminal."""

PYTHON = {
    place(sysconfig.get_path(folder)): name
    for folder, name in (("purelib", "site-packages"), ("stdlib", "python"))
    for place in (str, os.path.realpath)  # PyTorch's log names the latter
}
"""What this interpreter's folders are called in a notebook; looked up once, for every string of every output."""


def source_notebook(source: Path) -> Notebook:
    """Read a chapter's source; its cells are numbered, so that equal sources give equal notebooks."""
    return deepcopy(_parsed(source.read_text(encoding="utf-8")))


@lru_cache(maxsize=64)  # a book's, each of which is asked for several times
def _parsed(text: str) -> Notebook:
    notebook = jupytext.reads(text, fmt="py")
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number}"
    return notebook


def executed_notebook(path: Path) -> Notebook:
    """Read an executed chapter.

    Raises:
        CourseError: it is damaged.

    """
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # of JSON that is no notebook, nbformat raises whatever it stumbles over
        said = f"{shown(path)} is no notebook ({reason_of(error)})"
        raise CourseError(f"{said}; delete it and execute the chapter again") from error


def code_cells(notebook: Notebook) -> list[Notebook]:
    """Return the code cells that a person wrote: all but papermill's parameters."""
    return [
        cell for cell in notebook.cells if cell.cell_type == "code" and INJECTED not in cell.metadata.get("tags", [])
    ]


def code_hash(notebook: Notebook) -> str:
    """Return the SHA-256 of a notebook's code; markdown, outputs and injected parameters do not count."""
    return sha256_of(cell.source.encode() for cell in code_cells(notebook))


def raw_html(page: str) -> str:
    """Return HTML as a block of a Markdown page: in one line, so that no line of it ends the block."""
    return f"```{{raw}} html\n{' '.join(page.splitlines())}\n```"


# What an executed chapter must not tell: where it ran


def clean(notebook: Notebook, root: Path = paths.ROOT) -> Notebook:
    """Return an executed notebook without papermill's notes and without this machine's paths."""
    kept = ("kernelspec", STAMP)
    notebook.metadata = Notebook({key: notebook.metadata[key] for key in kept if key in notebook.metadata})
    notebook.metadata.language_info = Notebook(name="python", file_extension=".py", mimetype="text/x-python")
    notebook.cells = [c for c in notebook.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        tags = cell.metadata.get("tags", [])
        if INJECTED in tags:
            cell.id = INJECTED
            cell.source = without_paths(cell.source, root)
            cell.metadata.tags = [INJECTED, "remove-cell"]
        if not tags:
            cell.metadata.pop("tags", None)
        if cell.cell_type == "code":
            cell.outputs = [_without_paths(output, root) for output in _merge_streams(cell.outputs)]
    return notebook


def _merge_streams(outputs: list[Notebook]) -> list[Notebook]:
    """Join neighbouring pieces of one stream: where it is cut depends on timing alone."""
    merged: list[Notebook] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def _without_paths(value: Any, root: Path) -> Any:
    if isinstance(value, str):
        return without_paths(value, root)
    if isinstance(value, dict):
        return Notebook(
            {k: v if k.startswith("image/") and "svg" not in k else _without_paths(v, root) for k, v in value.items()}
        )
    return [_without_paths(item, root) for item in value] if isinstance(value, list) else value


def without_paths(text: str, root: Path = paths.ROOT) -> str:
    """Return ``text`` with paths relative to the course, and other machine paths cut to what a reader needs."""
    if "/ipykernel_" in text:  # seconds for a drawing, else: the pattern may begin anywhere
        text = re.sub(r"[^\s'\"]*/ipykernel_\d+/\d+\.py", "cell.py", text)
    folders = PYTHON | {str(root): ".", tempfile.gettempdir(): "tmp", str(Path.home()): "home"}
    for folder in sorted((f for f in folders if len(f) > 1), key=len, reverse=True):
        text = text.replace(f"{root}/", "") if folder == str(root) else text
        text = re.sub(re.escape(folder) + r"(?![\w.-])", folders[folder], text)
    return text
