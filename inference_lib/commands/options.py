"""Options that several commands take, and what they say while they work."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from inference_lib.support import paths
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from inference_lib.records.record import Record

EXIT_ERROR = 1

FORMATS = ("table", "markdown", "csv", "json")

NO_GRID = "do not measure the whole grid before all chapters are executed"


def device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def profile(parser: argparse.ArgumentParser) -> None:
    """Add ``--profile``."""
    parser.add_argument("--profile", default="quick", help="quick or full")


def records(parser: argparse.ArgumentParser) -> None:
    """Add ``--records``, one folder."""
    parser.add_argument("--records", type=Path, default=paths.BUILD / "records", help="folder of records")


def table_format(parser: argparse.ArgumentParser) -> None:
    """Add ``--format``, in which records are printed, and ``--json``."""
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")


def read_records(folder: Path) -> list["Record"]:
    """Return the records of ``folder``; CourseError where it has none."""
    from inference_lib.records.store import RecordStore

    found = RecordStore(folder).read()
    if not found:
        raise CourseError(f"no records in {folder}; make some with `python -m inference_lib benchmark`")
    return found


def say(line: str) -> None:
    """Print a line about the work to standard error: results alone go to standard output."""
    print(line, file=sys.stderr, flush=True)
