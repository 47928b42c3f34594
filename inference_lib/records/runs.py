"""The names of runs, in the order of their numbers."""

import re
from collections.abc import Iterable

from inference_lib.records.record import Record


def by_numbers(name: str) -> list[str | int]:
    """Return what sorts names by the numbers in them, as a person does: run 2 comes before run 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def runs_of(records: Iterable[Record]) -> list[str]:
    """Return the names of the runs that ``records`` are of, the first run first."""
    return sorted({record.run for record in records}, key=by_numbers)
