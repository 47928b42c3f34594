"""The library's reference: a page a room, read from the docstrings in the source, so that nothing is imported."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

LIBRARY = Path(__file__).resolve().parents[1]

ROOMS = {
    "seam": "models, data sets, precisions, workloads, artifacts",
    "records": "measurement records, and comparing them",
    "measure": "how a number comes about",
    "report": "tables, figures, words and choices",
    "backends": "one module a framework",
    "serve": "a model behind a queue and HTTP, and its load",
    "zoo": "the networks, their weights and the pictures",
    "course": "executing chapters, rendering the book",
    "support": "errors, files, hashes, paths",
    "lab": "what a chapter opens first",
}
"""The rooms that have a page, in the order in which a reader needs them."""


def page_name(room: str) -> str:
    """Return the name of a room's page, under ``book/``."""
    return f"library_{room}"


def page_of(room: str, library: Path = LIBRARY) -> str:
    """Return the Markdown of a room's page: its modules, and what is public in them."""
    folder = library / room
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    parts = [f"# inference_lib: {room}", f"{ROOMS[room].capitalize()}."]
    for path in files:
        parts += _module(ast.parse(path.read_text()), ".".join(path.relative_to(library.parent).with_suffix("").parts))
    return "\n\n".join(parts) + "\n"


def _module(tree: ast.Module, name: str) -> Iterator[str]:
    name, public = name.removesuffix(".__init__"), [*_public(tree.body)]
    if public or ast.get_docstring(tree):
        yield f"## `{name.removeprefix('inference_lib.')}`"
        yield _prose(ast.get_docstring(tree))
        for node in public:
            yield from _definition(node)


def _public(body: Sequence[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def _definition(node: ast.FunctionDef | ast.ClassDef, within: str = "") -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        yield f"```python\n{within}{_signature(node)}\n```\n\n{_prose(ast.get_docstring(node))}"
        return
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    yield f"### `{node.name}`"
    yield f"```python\nclass {node.name}{bases}\n```\n\n{_prose(ast.get_docstring(node))}"
    fields = [*_fields(node.body)]
    if fields:
        yield "\n".join(fields)
    for inner in _public(node.body):
        yield from _definition(inner, f"{node.name}.")


def _signature(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if any(ast.unparse(decorator).endswith("property") for decorator in node.decorator_list):
        return f"{node.name}{returns}"
    arguments = re.sub(r"(?<=[\w\]])=", " = ", ast.unparse(node.args))
    if len(f"{node.name}({arguments}){returns}") > 88:
        each = re.sub(r", (?=[*]|\w+: )", ",\n    ", arguments)
        arguments = f"\n    {each},\n"
    return f"{node.name}({arguments}){returns}"


def _fields(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield a list item for each public field of a class, with the text that stands below it."""
    for node, below in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
            value = getattr(getattr(below, "value", None), "value", None)
            said = f": {_prose(value)}" if isinstance(below, ast.Expr) and isinstance(value, str) else ""
            yield f"- `{ast.unparse(node.target)}: {ast.unparse(node.annotation)}`{' '.join(said.split())}"


def _prose(docstring: str | None) -> str:
    """Return a docstring as Markdown: roles become code, the list of what is raised a list."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring or "")
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    head, raised, below = text.partition("Raises:\n")
    return f"{_escaped(head).strip()}{_raises(below) if raised else ''}"


def _raises(text: str) -> str:
    lines = re.sub(r"\n\s{8,}", " ", text).splitlines()
    items = [f"- {line.strip()}" for line in lines if line.strip()]
    return "\n\nRaises:\n\n" + "\n".join(map(_escaped, items))


def _escaped(text: str) -> str:
    """Return text in which nothing outside of code is taken for markup, and an address is a short link."""
    parts = re.split(r"(`[^`]*`|https?://[^\s)>]*[\w/])", text)
    return "".join(map(_part, parts))


def _part(text: str) -> str:
    if text.startswith("`"):
        return text
    if text.startswith("http"):
        return f"[{urlsplit(text).netloc}]({text})"
    return re.sub(r"([*_$<\[\]{}|])", r"\\\1", text)
