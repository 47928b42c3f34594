"""``starts``: time what comes before a framework's first answer."""

import argparse

from inference_lib.commands import options as common

HELP = "time export, load and first inference of measured rows, each alone"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    for name in ("backend", "model", "precision"):
        parser.add_argument(f"--{name}", nargs="+", help="one or more; default: all of the profile's")
    parser.add_argument("--run", default="1", help="whose records are told")
    common.model_options(parser)
    common.device(parser)
    common.profile(parser)
    common.records(parser)


def run(options: argparse.Namespace) -> int:
    """Time the starts at batch 1 and print them; 1 where there is no record to tell them to."""
    from inference_lib.backends import BACKENDS
    from inference_lib.backends.shared.cuda import resolve_device
    from inference_lib.measure.plan import grid, why_not
    from inference_lib.measure.profiles import get_profile
    from inference_lib.measure.starts import time_starts
    from inference_lib.records.store import RecordStore
    from inference_lib.report.layout import text_table
    from inference_lib.report.tables import costs
    from inference_lib.seam import MODELS, Device

    device, profile = Device.of(resolve_device(options.device)), get_profile(options.profile)
    models = common.find_models(options, options.model or list(MODELS))
    cells = grid(options.backend or list(BACKENDS), models, device, profile, options.precision, [1])
    store = RecordStore(options.records)
    store.check_writable()
    wanted = [rival for rival in cells if why_not(rival) is None]
    told = time_starts(wanted, profile, store, options.run, common.say)
    if not told:
        common.say(f"no row of run {options.run} at batch 1 was measured here; run the benchmark command first")
        return common.EXIT_ERROR
    print(text_table(costs(told)))
    return 0
