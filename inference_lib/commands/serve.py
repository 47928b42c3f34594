"""Put a model behind HTTP: pictures in, classes out."""

import argparse
from typing import TYPE_CHECKING

from inference_lib.commands import options as common
from inference_lib.support.errors import CourseError, unknown_name

if TYPE_CHECKING:
    from inference_lib.serve.settings import Settings

ENGINES = ("litserve", "ray", "local")
"""LitServe: processes on one machine. Ray Serve: the same on several. Local: our queue, in the server's process."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    model_options(parser)
    parser.add_argument("--replicas", type=common.count, default=1, help="copies of the model; one a GPU")
    parser.add_argument("--engine", choices=ENGINES, default="litserve", help="what serves (default: litserve)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: 127.0.0.1)")
    parser.add_argument("--port", type=common.port, default=8000)


def model_options(parser: argparse.ArgumentParser) -> None:
    """Add what names a model and how its batches are made."""
    parser.add_argument("--backend", default="onnxruntime", help="what runs the model (default: onnxruntime)")
    parser.add_argument("--model", default="resnet18", help="a network of the course (default: resnet18)")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--max-batch", type=common.count, default=32, help="pictures computed together at most")
    parser.add_argument(
        "--max-wait-ms", type=common.not_negative, default=2.0, help="how long the first of a batch waits for others"
    )
    parser.add_argument(
        "--max-queue", type=common.count, default=1024, help="requests under way; more are refused (429)"
    )
    parser.add_argument("--timeout-s", type=common.positive, default=5.0, help="how long a request may take")
    common.device(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C, then answer what is under way and end."""
    import importlib

    from inference_lib.serve.server_process import at_a_terminal, end_with_the_holder, out_of_its_reach

    if at_a_terminal():
        return out_of_its_reach(options.given[1:])
    end_with_the_holder()
    with common.serve_extra():
        settings = settings_of(options, options.replicas)
        engine = importlib.import_module(f"inference_lib.serve.{options.engine}_engine")
    if options.engine != "ray":  # whose proxy may be there already
        _check_free(settings.host, settings.port)
    settings.loaded()  # exports what is missing, once, before replicas look for it side by side
    routes = "GET /ready says when, POST /classify takes a picture"
    common.say(f"{settings.workload.model} on {options.engine}: http://{settings.host}:{settings.port} ({routes})")
    engine.serve(settings)
    return 0


def _check_free(host: str, port: int) -> None:
    """Raise CourseError, before anything is loaded, where nothing can listen there."""
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        said = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise CourseError(f"{said}; choose another --port or --host") from error


def settings_of(options: argparse.Namespace, replicas: int) -> "Settings":
    """Return the server's settings, as asked for on the command line.

    Raises:
        CourseError: the model is not one of the course, whose pictures clients send.

    """
    from inference_lib.backends.shared.cuda import resolve_device
    from inference_lib.seam import MODELS, Workload
    from inference_lib.serve.application import Limits
    from inference_lib.serve.settings import Settings

    if options.model not in MODELS:
        raise unknown_name("model", options.model, tuple(MODELS))
    return Settings(
        options.backend,
        Workload(options.model, 1, options.precision, resolve_device(options.device)),
        replicas,
        options.max_batch,
        options.max_wait_ms / 1e3,
        Limits(under_way=options.max_queue, timeout_s=options.timeout_s),
        getattr(options, "host", "127.0.0.1"),
        getattr(options, "port", 8000),
    )
