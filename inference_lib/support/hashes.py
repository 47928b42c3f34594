"""Hashes that say whether something was made by the code that is here now."""

import ast
import hashlib
import re
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

MESSAGES = frozenset(f"{ROOT.name}.support.{name}" for name in ("errors", "failures", "interrupts"))
"""Modules that tell what went wrong, or when to stop: nothing that was made or measured depends on them."""

IMPORTS = re.compile(r"^[ \t]*(?:from[ \t]+[\w.]+[ \t]+import[ \t]*(?:\([^)]*\)|[^(\n]*)|import[ \t].*)", re.MULTILINE)
"""What looks like an import. Only these lines are parsed: all of every file took eight times as long."""


def sha256_of(parts: Iterable[bytes]) -> str:
    """Return one SHA-256 for ``parts``; where one ends and the next begins counts, too."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


@cache
def library_hash() -> str:
    """Return the SHA-256 of the library's sources."""
    return sha256_of(source.read_bytes() for source in sorted(ROOT.rglob("*.py")))


@cache
def module_hash(*names: str) -> str:
    """Return the SHA-256 of the library's modules called ``names`` and of all that they import from it, in turn.

    ``MESSAGES`` are left out: a message in other words would make every export and measurement stale.
    """
    found = sources_of(*names)
    return sha256_of(found[name] for name in sorted(found.keys() - MESSAGES))


def sources_of(*names: str, root: Path = ROOT) -> dict[str, bytes]:
    """Return the sources of the modules called ``names``, and of all that they import from their package, in turn.

    A name that a package hands out (``from library.seam import Workload``) leads to the module that defines it. The
    file of a package itself (``__init__.py``) is left out: it gathers what others define.
    """
    found: dict[str, bytes] = {}
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        place = root.joinpath(*name.split(".")[1:])
        source, package = place.with_suffix(".py"), place.parent / "__init__.py"
        if source.is_file():
            found[name] = source.read_bytes()
            waiting += _imported(found[name], root.name)
        elif package.is_file() and not place.is_dir():
            waiting += _imported(package.read_bytes(), root.name, handed_out=place.name)
    return found


def _imported(source: bytes, package: str, handed_out: str = "") -> Iterator[str]:
    """Yield the names that ``source`` imports from ``package``, wherever it does; only one, if it is ``handed_out``."""
    for node in imports_of(source.decode()):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            chosen = [a.name for a in node.names if handed_out in ("", a.asname or a.name)]
            yield from (f"{node.module}.{name}" for name in chosen)
            if chosen:
                yield str(node.module)
        elif isinstance(node, ast.Import) and not handed_out:
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == package)


def imports_of(source: str) -> Iterator[ast.stmt]:
    """Yield the import statements of ``source``, in a text of which a line begins like one, too, where it is one."""
    for found in IMPORTS.finditer(source):
        try:
            yield from ast.parse(textwrap.dedent(found.group())).body
        except SyntaxError:
            continue  # a sentence that begins with "import" or "from"
