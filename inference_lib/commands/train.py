"""Train networks of the course, or with --data a backbone on your own pictures, and store their weights."""

import argparse
from pathlib import Path
from typing import Any

from inference_lib.commands import options as common
from inference_lib.support import paths
from inference_lib.support.errors import CourseError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="with --data, torchvision:NAME or FILE.py:NAME, too")
    parser.add_argument("--data", type=Path, help="folder of pictures: train/CLASS and test/CLASS, or CLASS alone")
    common.skip_unreadable(parser)
    parser.add_argument("--input-shape", metavar="3x160x160", help="what --data's pictures become (default: as usual)")
    parser.add_argument("--pretrained", action="store_true", help="start from torchvision's ImageNet weights")
    parser.add_argument("--flip", action="store_true", help="a mirror image of --data is one of the same class")
    parser.add_argument("--epochs", type=common.count)
    parser.add_argument("--seed", type=common.seed, default=0)
    parser.add_argument("--limit", type=common.count, help="a trial: so many pictures at most, to train and to test")
    parser.add_argument("--output", type=common.folder, default=paths.BUILD / "trained", help="folder of the weights")
    common.device(parser)


def run(options: argparse.Namespace) -> None:
    """Train one model after the other."""
    from inference_lib.backends.shared.cuda import resolve_device

    only_with_data = ("pretrained", "flip", "skip_unreadable", "input_shape")
    if options.data is None and (stray := [name for name in only_with_data if getattr(options, name)]):
        raise CourseError(f"--{stray[0].replace('_', '-')} is for your own pictures; give them with --data DIR")
    given: dict[str, Any] = {name: getattr(options, name) for name in ("epochs", "seed", "limit")}
    given |= {"directory": options.output, "device": resolve_device(options.device)}
    for model in options.models:
        print(_of_the_course(model, given) if options.data is None else _own(model, options, given))


def _of_the_course(model: str, given: dict[str, Any]) -> str:
    from inference_lib.zoo.training import train

    return f"{model}: {_accuracies(train(model, **given))}, weights in {given['directory']}"


def _own(model: str, options: argparse.Namespace, given: dict[str, Any]) -> str:
    from inference_lib.zoo.folder_training import train_on
    from inference_lib.zoo.image_folder import shape_of
    from inference_lib.zoo.trained import read_facts, spelled

    result, path = train_on(
        model,
        options.data,
        shape=shape_of(options.input_shape) if options.input_shape else None,
        pretrained=options.pretrained,
        flip=options.flip,
        skip_unreadable=options.skip_unreadable,
        say=common.say,
        **given,
    )
    named = spelled(model if read_facts(path).by_code else "", path)
    return f"{model} on {options.data}: {_accuracies(result)}\n{named}"


def _accuracies(result: Any) -> str:
    trial = "" if result.limit is None else f" (a trial: of {result.limit} pictures at most)"
    return f"validation {result.validation_accuracy:.2f} %, test {result.test_accuracy:.2f} %{trial}"
