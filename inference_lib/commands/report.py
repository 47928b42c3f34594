"""``report``: the scoreboard of a folder of records."""

import argparse

from inference_lib.commands import options as common
from inference_lib.support.errors import CourseError

HELP = "print the scoreboard of a folder of records"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--batch-size", type=int, nargs="+", help="of these batch sizes alone")
    common.records(parser)
    common.table_format(parser)


def run(options: argparse.Namespace) -> None:
    """Print the scoreboards."""
    from inference_lib.records.store import RecordStore
    from inference_lib.report.tables import in_format

    records = RecordStore(options.records).read()
    if not records:
        raise CourseError(f"no records in {options.records}; make some with `python -m inference_lib benchmark`")
    chosen = [r for r in records if options.batch_size is None or r.batch_size in options.batch_size]
    print(in_format(chosen, options.format))
