"""The files that a reader's network is written in: what changes there makes another network of it."""

import ast
import inspect
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import resolve_name
from pathlib import Path

from torch import nn

INSTALLED = {"site-packages", "dist-packages"}
"""Folders of packages, which have versions, and whose files nobody edits."""

OTHERS = {Path(inspect.__file__).parent, Path(__file__).parents[1]}
"""The folders of Python's own modules, and of the course's library."""


def sources(module: nn.Module, code: str) -> list[Path]:
    """Return the files of the classes inside ``module`` and of the function ``code`` (``place:function``; or empty).

    PyTorch's own are left out. What these files import is among them, and what that imports, where a reader may have
    written it: it is neither Python's, nor the course's, nor in an installed package.
    """
    kinds = {type(part) for part in module.modules() if not type(part).__module__.startswith("torch.")}
    files = {inspect.getsourcefile(kind) for kind in kinds} | {_source_of(code)}
    found = {Path(file) for file in files if file}
    waiting = [path for path in found if _may_be_edited(path)]
    loaded = {getattr(each, "__file__", None): each for each in list(sys.modules.values())}
    while waiting:
        path = waiting.pop()
        package = getattr(loaded.get(str(path)), "__package__", None) or ""
        imported = set(_imports(path, package)) - found
        found |= imported
        waiting += imported
    return sorted(found)


def _source_of(code: str) -> str | None:
    """Return the file that the function ``place:function`` is written in; None where it is not in Python."""
    place, _, name = code.rpartition(":")
    if not place or place.endswith(".py"):
        return place
    with suppress(TypeError, AttributeError):  # no function and no class, or one of torchvision
        return inspect.getsourcefile(inspect.unwrap(getattr(sys.modules[place], name)))
    return sys.modules[place].__file__


def _imports(path: Path, package: str) -> Iterator[Path]:
    """Yield the files of the loaded modules that are imported anywhere in the file at ``path``, of a ``package``."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        for name in _names(node, package):
            file = getattr(sys.modules.get(name), "__file__", None)
            if file and _may_be_edited(Path(file)):
                yield Path(file)


def _names(node: ast.AST, package: str) -> list[str]:
    """Return the modules that a statement may import: ``from a import b`` has b from a, or the module a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom) or (node.level and not package):
        return []
    base = resolve_name("." * node.level + (node.module or ""), package)
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def _may_be_edited(path: Path) -> bool:
    return path.suffix == ".py" and not INSTALLED & set(path.parts) and not OTHERS & set(path.parents)
