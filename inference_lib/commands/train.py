"""``train``: the networks of the course, once more."""

import argparse
import sys
from pathlib import Path

from inference_lib.commands import options as common
from inference_lib.support import paths

HELP = "train models and store their weights"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use so many training images only")
    parser.add_argument("--output", type=Path, default=paths.BUILD / "trained", help="folder of the weights")
    common.device(parser)


def run(options: argparse.Namespace) -> None:
    """Train one model after the other."""
    from inference_lib.backends.shared.cuda import resolve_device
    from inference_lib.zoo.training import train

    for model in options.models:
        result = train(
            model,
            epochs=options.epochs,
            device=resolve_device(options.device),
            seed=options.seed,
            limit=options.limit,
            directory=options.output,
            progress=sys.stderr.isatty(),
        )
        print(
            f"{model}: validation {result.validation_accuracy:.2f} %, test {result.test_accuracy:.2f} %, "
            f"weights in {options.output}"
        )
