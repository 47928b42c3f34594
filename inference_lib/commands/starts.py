"""Time export, load and first inference of measured rows, each alone."""

import argparse

from inference_lib.commands import options as common
from inference_lib.records.runs import run_name


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--run", default="1", type=run_name, help="whose records are told")
    common.grid_options(parser)


def run(options: argparse.Namespace) -> int:
    """Time the starts at batch 1 and print them; 1 where there is no record to tell them to."""
    from inference_lib.measure.plan import grid, why_not
    from inference_lib.measure.starts import time_starts
    from inference_lib.records.store import RecordStore
    from inference_lib.report.layout import text_table
    from inference_lib.report.tables import costs

    asked, store = common.asked(options), RecordStore(options.records)
    store.check_writable()
    wanted = [rival for rival in grid(*asked, options.precision, [1]) if why_not(rival) is None]
    told = time_starts(wanted, asked[-1], store, options.run, common.say)
    if not told:
        common.say(f"no row of run {options.run} at batch 1 was measured here; run the benchmark command first")
        return common.EXIT_ERROR
    print(text_table(costs(told)))
    return 0
