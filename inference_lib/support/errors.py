"""The one exception that the command line and the chapters show as a single line."""

import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class CourseError(Exception):
    """Something the reader can mend: the message is one line that names the cause and the remedy."""


def unknown_name(kind: str, name: str, valid: list[str] | tuple[str, ...]) -> CourseError:
    """Return the error for a name that is not one of the valid ones, which it lists."""
    return CourseError(f"unknown {kind} {name!r}; choose one of: {', '.join(valid)}")


def named(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return what ``table`` has by this name; CourseError lists the names that it has."""
    if name not in table:
        raise unknown_name(kind, name, tuple(table))
    return table[name]


CAUSES = (
    r"No space left on device.*",
    r"cannot find -l\S+.*",
    r"undefined reference to .+",
    r"command not found.*",
    r"fatal error: .+",
    r"(?<![A-Za-z])error: .+",
    r"Could not guard on data-dependent expression .+",
    r"No ONNX function found for .+",
    r"(?:not implemented|unsupported|Unsupported|not supported|No decompositions registered)\b.+",
)
"""What the line that names a cause holds, the most telling first: of compilers, linkers, exporters."""


def cause_line(text: str, longest: int = 300) -> str:
    """Return the line of a compiler's or an exporter's long message that names the cause, else its first line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours
    for cause in CAUSES:
        if found := re.search(rf"^.*{cause}$", text, re.MULTILINE):
            return found[0].strip()[:longest]
    return first_line(text, longest)


def first_line(text: str, longest: int = 300) -> str:
    """Return the first line of ``text`` that says something, cut to ``longest`` characters."""
    lines = (line.strip() for line in text.splitlines())
    return next((line[:longest] for line in lines if line), "")
