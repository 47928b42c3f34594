"""Compare two runs of one grid: which claims held."""

import argparse
import json
from pathlib import Path

from inference_lib.commands import options as common
from inference_lib.support import paths
from inference_lib.support.errors import CourseError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--records",
        type=common.folder,
        nargs="+",
        default=[paths.BUILD / "records"],
        help="with two runs, or two folders",
    )
    common.table_format(parser, ("table", "json"))
    parser.add_argument(
        "--max-contradicted",
        type=common.not_negative,
        default=2.0,
        metavar="PERCENT",
        help="exit with 1 above (default: 2)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the counts of both kinds of time; 1 where too many claims were contradicted."""
    from inference_lib.records.replication import replication
    from inference_lib.records.store import RecordStore, select

    first, second = (select(RecordStore(folder).read(), run=run) for folder, run in _two_runs(options.records))
    if first == second:
        named = " and ".join(map(str, options.records))
        raise CourseError(f"{named}: a run would be compared with itself; name two, or one folder that holds two")
    found = replication(first, second)
    if options.format == "json":
        print(json.dumps(found, indent=1))
    else:
        from inference_lib.report.tables import text_replication

        print(text_replication(found))
    worst = max(100 * counts["contradicted"] / max(1, counts["claims"]) for counts in found.values())
    return common.EXIT_ERROR if worst > options.max_contradicted else 0


def _two_runs(folders: list[Path]) -> list[tuple[Path, str]]:
    """Return folder and name of two runs: two of one folder, or the first of each of two folders."""
    from inference_lib.records.store import RecordStore

    of_each = 1 if len(folders) == 2 else 2
    found = [(folder, run) for folder in folders for run in RecordStore(folder).runs()[:of_each]]
    if len(found) < 2:
        named = " and ".join(map(str, folders))
        raise CourseError(f"{named}: two runs are needed; measure again with `benchmark --run 2`")
    return found[:2]
