"""Compare two runs of one grid: which claims held."""

import argparse
import json

from inference_lib.commands import options as common
from inference_lib.support import paths
from inference_lib.support.errors import CourseError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    here = [paths.BUILD / "records"]
    parser.add_argument("--records", type=common.folder, nargs="+", default=here, help="with two runs, or two folders")
    common.table_format(parser, ("table", "json"))
    parser.add_argument("--max-contradicted", type=common.not_negative, default=2.0, help="percent; above, exit with 1")


def run(options: argparse.Namespace) -> int:
    """Compare two runs of one folder, or the first of each of two; 1 where too many claims were contradicted."""
    from inference_lib.records.replication import replication
    from inference_lib.records.runs import runs_of
    from inference_lib.records.store import RecordStore, select

    named, of_each = " and ".join(map(str, options.records)), 1 if len(options.records) == 2 else 2
    shelves = [RecordStore(folder).read() for folder in options.records]
    found = [select(shelf, run=run) for shelf in shelves for run in runs_of(shelf)[:of_each]]
    if len(found) < 2:
        raise CourseError(f"{named}: two runs are needed; measure again with `benchmark --run 2`")
    if found[0] == found[1]:
        raise CourseError(f"{named}: a run would be compared with itself; name two, or one folder that holds two")
    told = replication(*found[:2])
    if options.format == "json":
        print(json.dumps(told, indent=1))
    else:
        from inference_lib.report.tables import text_replication

        print(text_replication(told))
    worst = max(100 * counts["contradicted"] / max(1, counts["claims"]) for counts in told.values())
    return common.EXIT_ERROR if worst > options.max_contradicted else 0
