"""Options that several commands take, and what they say while they work."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inference_lib.support import paths
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from inference_lib.records.record import Record
    from inference_lib.seam import Model

EXIT_ERROR = 1

FORMATS = ("table", "markdown", "csv", "json")

NO_GRID = "do not measure the whole grid before all chapters are executed"


def device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def profile(parser: argparse.ArgumentParser) -> None:
    """Add ``--profile``."""
    parser.add_argument("--profile", default="quick", help="quick or full")


def model_options(parser: argparse.ArgumentParser, *, pictures: bool = True) -> None:
    """Add what a reader's own model may need: ``--input-shape``, ``--data`` and ``--skip-unreadable``."""
    parser.add_argument("--input-shape", metavar="3x160x160", help="of one picture, for a model that does not tell")
    if pictures:
        parser.add_argument("--data", type=Path, help="folder of pictures (train/CLASS and test/CLASS) to check it on")
        skip_unreadable(parser)


def skip_unreadable(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip-unreadable``."""
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out pictures that cannot be read")


def records(parser: argparse.ArgumentParser) -> None:
    """Add ``--records``, one folder."""
    parser.add_argument("--records", type=Path, default=paths.BUILD / "records", help="folder of records")


def table_format(parser: argparse.ArgumentParser) -> None:
    """Add ``--format``, in which records are printed, and ``--json``."""
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")


def find_models(options: argparse.Namespace, names: Sequence[str]) -> list["Model"]:
    """Return the models called ``names``, to be checked on the pictures in ``--data`` where there are some."""
    from inference_lib.seam import find_model
    from inference_lib.seam.folder import with_pictures

    models = [find_model(name, options.input_shape) for name in names]
    if folder := getattr(options, "data", None):
        models = [with_pictures(model, folder, skip_unreadable=options.skip_unreadable) for model in models]
        for model in models:
            if model.dataset.labels() is None:
                say(f"{model.title} knows other classes than {folder}: agreement is checked, accuracy is not")
    return models


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
