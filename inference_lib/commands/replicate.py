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
    limit = "percent; above, exit with 1 (default: what a contribution may have)"
    parser.add_argument("--max-contradicted", type=common.not_negative, help=limit)


def run(options: argparse.Namespace) -> int:
    """Compare two runs of one folder, or the first of each of two; 1 where too many claims were contradicted."""
    from inference_lib.records.replication import MOST_CONTRADICTED, contradicted_percent, replication

    named = " and ".join(map(str, options.records))
    if len(options.records) > 2:
        raise CourseError(f"{named}: two folders are compared, not {len(options.records)}; name one or two")
    shelves = [[*common.runs_in(folder).values()] for folder in options.records]
    found = shelves[0][:2] if len(shelves) == 1 else [runs[0] for runs in shelves]
    if len(found) < 2:
        raise CourseError(f"{named}: two runs are needed; measure again with `benchmark --run 2`")
    if found[0] == found[1]:
        raise CourseError(f"{named}: a run would be compared with itself; name two, or one folder that holds two")
    told = replication(*found)
    if not any(counts["pairs"] for counts in told.values()):
        raise CourseError(f"{named}: no two rivals were measured in both runs; measure the same grid twice")
    if options.format == "json":
        print(json.dumps(told, indent=1))
    else:
        from inference_lib.report.tables import text_replication

        print(text_replication(told))
    limit = MOST_CONTRADICTED if options.max_contradicted is None else options.max_contradicted
    return common.EXIT_ERROR if max(map(contradicted_percent, told.values())) > limit else 0
