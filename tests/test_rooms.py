"""The library's rooms: imports go one way, and what a reader should know of it can be read in an hour."""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from inference_lib.support import paths

LIBRARY = paths.ROOT / "inference_lib"

ROOMS = ["support", "records", "zoo", "seam", "backends", "measure", "report", "serve", "lab", "course", "cli"]
"""Each may import those before it, and itself. What is typed at a prompt (cli, commands, doctor, the package itself) is
last."""


def room(module: str) -> int:
    """Return the place of the room in which ``module`` (``inference_lib.seam.model``) lives."""
    name = [*module.split("."), "cli"][1]
    return ROOMS.index(name if name in ROOMS else "cli")


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of everything that is imported from the library, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def climbing(source: str, module: str) -> list[str]:
    """Return the imports of ``module`` that lead to a room above its own."""
    ours = ((line, name) for line, name in imports(source) if name.split(".")[0] == LIBRARY.name)
    return [f"{module}:{line} imports {name}" for line, name in ours if room(name) > room(module)]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts)


def test_no_import_climbs() -> None:
    sources = sorted(LIBRARY.rglob("*.py"))
    assert {ROOMS[room(module_of(path))] for path in sources} >= set(ROOMS) - {"serve"}
    assert [found for path in sources for found in climbing(path.read_text(), module_of(path))] == []


def test_nothing_of_the_library_is_a_mock() -> None:
    """What stands in for hardware belongs to the tests."""
    sources = {module_of(path): path.read_text() for path in sorted(LIBRARY.rglob("*.py"))}
    assert [name for name, text in sources.items() if any("mock" in found for _, found in imports(text))] == []


def test_a_climbing_import_is_found_wherever_it_stands() -> None:
    lazy = "def late():\n    from inference_lib.backends import get_backend\n"
    assert climbing(lazy, "inference_lib.seam.model") == [
        "inference_lib.seam.model:2 imports inference_lib.backends.get_backend"
    ]
    assert climbing(lazy, "inference_lib.measure.cell") == []
    assert climbing("from inference_lib import open_lab\n", "inference_lib.report.words") != []
    assert climbing("from inference_lib import cli\n", "inference_lib.__main__") == []


LONGEST_HOUR = 2000


def the_hour(page: str) -> list[Path]:
    """Return the files that the bullets under the page's heading "The hour" name."""
    part = re.split(r"^## ", page.split("## The hour\n")[1], flags=re.MULTILINE)[0]
    bullets = re.findall(r"^- .*", part, re.MULTILINE)
    return [LIBRARY / name for bullet in bullets for name in re.findall(r"`([\w/]+\.py)`", bullet)]


def lines_of_code(path: Path) -> int:
    """Count the lines that are neither blank nor comment alone nor part of a docstring."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type != tokenize.ENCODING]
    code: set[int] = set()
    at_start = True
    for token in tokens:
        if token.type not in skipped:
            alone = at_start and token.type == tokenize.STRING
            code |= set() if alone else set(range(token.start[0], token.end[0] + 1))
        at_start = token.type in skipped and (at_start or token.type != tokenize.COMMENT)
    return len(code)


def test_the_hour_is_an_hour() -> None:
    files = the_hour((paths.ROOT / "book" / "how_to_read.md").read_text())
    rooms = {path.relative_to(LIBRARY).parts[0] for path in files}
    assert rooms == {"seam", "records", "measure", "backends"}
    counted = {str(path.relative_to(LIBRARY)): lines_of_code(path) for path in files}
    assert sum(counted.values()) <= LONGEST_HOUR, counted


def test_lines_of_code_are_those_that_do_something(tmp_path: Path) -> None:
    source = '''"""A docstring
of two lines."""

# a comment

NAME = """a string
that is a value"""
"""What it is."""


def run() -> str:
    """Say it."""
    return NAME  # and no more
'''
    (tmp_path / "a.py").write_text(source)
    assert lines_of_code(tmp_path / "a.py") == 4
