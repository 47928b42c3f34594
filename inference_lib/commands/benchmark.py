"""Measure frameworks and write records."""

import argparse
from typing import TYPE_CHECKING

from inference_lib.commands import options as common
from inference_lib.records.runs import run_name

if TYPE_CHECKING:
    from inference_lib.measure.stations import Stations


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--batch-size", type=common.count, nargs="+", help="one or more; default: all of the profile's")
    parser.add_argument("--export-only", action="store_true", help="export what is missing; measure nothing")
    parser.add_argument("--untimed-exports", action="store_true", help="export all side by side; no export times then")
    parser.add_argument("--rounds-only", action="store_true", help="only what claims rest on: for a second run")
    what = "name of this pass over the grid; runs are compared with each other"
    parser.add_argument("--run", default="1", type=run_name, help=what)
    parser.add_argument("--again", action="store_true", help="measure what was measured before, too")
    parser.add_argument(
        "--cluster",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="spread the grid over the GPUs of a Ray cluster; without an address, over those of this host",
    )
    common.grid_options(parser)
    common.table_format(parser)


def run(options: argparse.Namespace) -> int:
    """Measure the grid and print its scoreboards; 1 where a cell failed."""
    if options.cluster is None or options.export_only:
        return _run(options)
    from inference_lib.measure.stations import stations

    options.device = common.kind_of(options.device)
    with stations(options.cluster, options.device) as started:  # they import side by side with this process
        return _run(options, started)


def _run(options: argparse.Namespace, stations: "Stations | None" = None) -> int:
    from inference_lib.measure.benchmark import Session, whole_grid
    from inference_lib.measure.beside import import_beside
    from inference_lib.measure.exports import export_missing
    from inference_lib.measure.plan import grid, why_not
    from inference_lib.records.store import RecordStore
    from inference_lib.report.live import Board
    from inference_lib.report.tables import in_format

    asked = common.asked(options)
    if options.precision or options.batch_size:
        rivals = grid(*asked, options.precision, options.batch_size)
    else:
        rivals = whole_grid(*asked)
    store = RecordStore(options.records)
    store.check_writable()
    if options.export_only:
        wanted = [rival for rival in rivals if why_not(rival) is None]
        failed = export_missing(wanted, common.say, timed=not options.untimed_exports)
        print("\n".join(f"{key}: {why}" for key, why in failed.items()) or "everything is exported")
        return common.EXIT_ERROR if failed else 0
    choices = {
        "reuse": not options.again,
        "time_exports": not options.untimed_exports,
        "rounds_only": options.rounds_only,
    }
    if stations:
        from inference_lib.measure.cluster import benchmark_on_cluster

        records = benchmark_on_cluster(stations, rivals, asked[-1], store, options.run, common.say, **choices)
    else:
        import_beside()
        session = Session(asked[-1], store, options.run, **choices)
        with Board(session.records, session.profile.invocations) as board:
            session.progress = board.say
            session.measure(rivals)
        records = [session.records[rival] for rival in rivals]
    print(in_format(records, options.format))
    return common.EXIT_ERROR if any(r.status in ("failed", "out_of_memory") for r in records) else 0
