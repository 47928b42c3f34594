"""Put a queue or a server under load with MLPerf LoadGen, and find the rate that it carries."""

import argparse
import signal
from typing import TYPE_CHECKING

from inference_lib.commands import options as common
from inference_lib.commands.serve import ENGINES, model_options, settings_of
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from inference_lib.serve.load import Figure

SCENARIOS = ("single_stream", "multi_stream", "server", "offline")
"""LoadGen's, see ``serve/loadgen.py``, which takes long to import."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    model_options(parser)
    parser.add_argument("--replicas", type=common.count, nargs="+", default=[1], help="copies of the model; one a GPU")
    parser.add_argument("--url", help="of a server; without it, the model runs behind a queue in this process")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, help="start these servers, one after the other")
    parser.add_argument("--scenario", choices=SCENARIOS, default="server")
    parser.add_argument(
        "--rate", type=common.positive, help="requests a second; without it, the highest rate is searched"
    )
    parser.add_argument(
        "--p99-ms", type=common.positive, help="the limit: 10 in this process, 25 over HTTP, 100 of --soak"
    )
    parser.add_argument("--seconds", type=common.positive, default=10.0, help="least length of a run")
    parser.add_argument(
        "--loads", type=common.positive, nargs="+", default=[0.3, 0.5, 0.7, 0.8, 0.9], help="parts of the capacity"
    )
    parser.add_argument("--records", type=common.folder, help="a folder for the load at the highest rate")
    parser.add_argument("--soak", action="store_true", help="one long load, a replica killed now and then")
    parser.add_argument(
        "--kill-every", type=common.positive, default=60.0, metavar="S", help="seconds between two kills"
    )


def run(options: argparse.Namespace) -> int:
    """Measure, and print what was found, with the figures at the end, whatever it is.

    Return 1 where a request was lost, a server did not work, or a run that was asked for does not count.
    """
    with common.serve_extra():
        from inference_lib.serve import load

        settings = settings_of(options, options.replicas[0])
    if len(options.replicas) > 1 and not options.engines:
        raise CourseError("several numbers of replicas are compared with --engines alone")
    over_http = options.url or options.engines
    if over_http and options.soak:
        raise CourseError("--soak kills replicas of a queue in this process; leave --url and --engines out")
    if options.url and options.engines:
        raise CourseError("--url is a server that runs, --engines starts some; give one of the two")
    options.p99_ms = options.p99_ms or (25.0 if over_http else 100.0 if options.soak else 10.0)
    figures: list[Figure] = []
    try:
        if options.url:
            figures.append(load.Figure(f"highest rate that {options.url} carries", "requests/s"))
            good = load.over_http(options, options.url.rstrip("/"), figures[0], [])
        elif options.engines:
            good = load.engines(options, settings, figures)
        else:
            good = (load.soaked if options.soak else load.in_process)(options, settings, figures)
    except KeyboardInterrupt:
        common.say("interrupted: what was measured until then is here")
        return 128 + signal.SIGINT
    finally:
        for figure in figures if options.soak or not load.one_run(options) else ():
            print(figure, flush=True)
    return 0 if good else common.EXIT_ERROR
