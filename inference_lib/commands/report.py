"""Print the scoreboard of a folder of records, or what got slower between two."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_lib.commands import options as common
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from inference_lib.records.record import Record


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--batch-size", type=common.count, nargs="+", help="of these batch sizes alone")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("BEFORE", "AFTER"),
        help="two folders of records, or two runs of the one; exit with 1 if anything got slower beyond the noise",
    )
    common.records(parser)
    common.table_format(parser)


def run(options: argparse.Namespace) -> int:
    """Print the scoreboards, or the table of changes."""
    from inference_lib.report.tables import in_format

    if options.compare:
        return _compare(options)
    print(in_format(_of_sizes(common.read_records(options.records), options), options.format))
    return 0


def _of_sizes(records: list["Record"], options: argparse.Namespace) -> list["Record"]:
    """Return the records of the batch sizes that were asked for; CourseError where there are none."""
    found = [r for r in records if options.batch_size is None or r.batch_size in options.batch_size]
    if not found:
        asked, there = (
            ", ".join(map(str, sizes)) for sizes in (options.batch_size, sorted({r.batch_size for r in records}))
        )
        raise CourseError(f"no row of batch size {asked} was measured; --batch-size may be {there}")
    return found


def _compare(options: argparse.Namespace) -> int:
    from inference_lib.records.changes import WORSE, changes

    before, after = (_of_sizes(_side(name, options.records), options) for name in options.compare)
    found = changes(before, after)
    if not found:
        named = " and ".join(options.compare)
        raise CourseError(f"{named} have no cell of one machine in common that the first of them measured")
    print(_in_format(found, options.format))
    worse = [change for change in found if change["verdict"] in WORSE]
    common.say(f"{len(worse)} of {len(found)} rows got worse")
    if untold := sum(change["ratio"] is not None and change["low"] is None for change in found):
        common.say(f"{untold} rows have too few invocations for a verdict; measure with --profile full")
    return common.EXIT_ERROR if worse else 0


def _side(name: str, folder: Path) -> list["Record"]:
    """Return the records that ``name`` means: those of a folder, in its first run, or a run of ``folder``."""
    if Path(name).is_dir():
        return next(iter(common.runs_in(Path(name)).values()))
    runs = common.runs_in(folder)
    if name not in runs:
        raise CourseError(f"{name} is neither a folder nor a run in {folder}, which has: {', '.join(runs)}")
    return runs[name]


def _in_format(rows: list[dict[str, Any]], kind: str) -> str:
    import pandas as pd

    from inference_lib.report.layout import text_table

    if kind == "json":
        return json.dumps(rows, indent=1)
    table = pd.DataFrame(rows)
    if kind == "csv":
        return table.to_csv(index=False).rstrip("\n")
    table = table.rename(columns={name: name.replace("_", " ") for name in table.columns})
    for name in ("before ms", "after ms", "ratio", "low", "high", "host"):
        table[name] = [None if pd.isna(value) else f"{value:.3f}" for value in table[name]]
    table = table.replace("", None).dropna(axis="columns", how="all")
    return text_table(table, "pipe" if kind == "markdown" else "simple")
