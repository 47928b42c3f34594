"""The names of runs, in the order of their numbers."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from inference_lib.support.errors import CourseError

if TYPE_CHECKING:  # a command that reads its options has no time for the rest
    from inference_lib.records.record import Record


def run_name(text: str) -> str:
    """Return ``text`` if it can name a run; raise CourseError where it would share its files with another name."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        raise CourseError(f"{text!r} does not name a run; use small letters and digits, and single hyphens inside")
    return text


def by_numbers(name: str) -> list[str | int]:
    """Return what sorts names by the numbers in them, as a person does: run 2 comes before run 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def runs_of(records: "Iterable[Record]") -> list[str]:
    """Return the names of the runs that ``records`` are of, the first run first."""
    return sorted({record.run for record in records}, key=by_numbers)
