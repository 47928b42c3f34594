"""Say what a model sees in pictures, with any framework: the smallest proof that an export works."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_lib.commands import options as common
from inference_lib.support import paths
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    import numpy as np

    from inference_lib.seam import Model


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", type=Path)
    parser.add_argument("--backend", default="pytorch")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--top", type=common.count, default=3, metavar="N", help="print the most probable N classes")
    parser.add_argument("--output", type=common.folder, default=paths.ARTIFACTS, help="folder of exported models")
    parser.add_argument("--json", action="store_true", help="for a program")
    common.model_options(parser, pictures=False)
    common.device(parser)


def run(options: argparse.Namespace) -> None:
    """Export the model unless that was done before, and print the classes of each picture with probabilities."""
    (model,) = common.find_models(options, [options.model])
    if model.prepare is None:
        raise CourseError(f"{model.title} does not read pictures: its input is {model.input_shape}")
    inputs = [model.prepare(path) for path in options.pictures]
    found = [_classes(model, logits, options.top) for logits in _logits(model, inputs, options)]
    told = dict(zip(map(str, options.pictures), found, strict=True))
    if options.json:
        print(json.dumps(told, indent=1))
        return
    for path, classes in told.items():
        print(f"{path}: {', '.join(f'{name} {100 * part:.1f} %' for name, part in classes.items())}")


def _logits(model: "Model", inputs: list["np.ndarray"], options: argparse.Namespace) -> list["np.ndarray"]:
    import numpy as np

    from inference_lib.backends import get_backend
    from inference_lib.backends.shared.cuda import resolve_device
    from inference_lib.commands.export import exported
    from inference_lib.seam import Workload

    workload = Workload(model, model.batch or 1, options.precision, resolve_device(options.device))
    backend, found = get_backend(options.backend), []
    with backend.load(exported(backend, workload, options.output)) as runner:
        for picture in inputs:
            batch = np.broadcast_to(picture, workload.input_shape).astype(workload.host_dtype)
            found.append(runner.infer(batch)[0])
    return found


def _classes(model: "Model", logits: Any, top: int) -> dict[str, float]:
    """Return the most probable classes and their probabilities, which are the softmax of the logits."""
    from scipy.special import softmax

    parts = softmax(logits)
    names = model.class_names or [f"class {number}" for number in range(len(logits))]
    return {names[place]: float(parts[place]) for place in (-parts).argsort()[:top]}
