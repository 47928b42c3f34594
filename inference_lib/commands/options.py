"""Options that several commands take, and what they say while they work."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_lib.support import paths
from inference_lib.support.errors import CourseError, unknown_name

if TYPE_CHECKING:
    from inference_lib.measure.profiles import Profile
    from inference_lib.records.record import Record
    from inference_lib.seam import Device, Model

EXIT_ERROR = 1

DEVICES, PROFILES = ("auto", "cpu", "cuda"), ("smoke", "quick", "full")

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The GPUs that CUDA shows to a process, in the order of their numbers there."""

FORMATS = ("table", "markdown", "csv", "json")

NO_GRID = "do not measure the whole grid before all chapters are executed"


def device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    what = "auto, cpu, cuda, or cuda:1 for the second GPU"
    parser.add_argument("--device", default="auto", type=_device, help=what)


def _device(text: str) -> str:
    """Return ``text``, which names a device as the rest of the course calls it, or one of several GPUs."""
    if text not in DEVICES and not re.fullmatch(r"cuda:[0-9]{1,3}", text):
        raise unknown_name("device", text, (*DEVICES, "cuda:1"))
    return text


def see_one_gpu(options: argparse.Namespace) -> None:
    """Where ``--device`` names one of several GPUs, let this process, and all that it starts, see that one alone.

    It is ``cuda`` from here on, for every framework, for NVML and for chapters: none can take another by mistake. Raise
    CourseError where there is no such GPU, or CUDA has started in this process and sees them all.
    """
    kind, _, index = (getattr(options, "device", None) or "").partition(":")
    if not index:
        return
    seen = [each for each in os.environ.get(VISIBLE, "").split(",") if each] or [str(n) for n in range(_gpus())]
    if int(index) >= len(seen):
        here = f"the GPUs here are cuda:0 to cuda:{len(seen) - 1}" if seen else "no NVIDIA GPU answers"
        raise CourseError(f"there is no {options.device}: {here}; choose another --device")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized() and len(seen) > 1:
        raise CourseError(f"CUDA has started in this process, with all GPUs; set {VISIBLE} before it does")
    os.environ[VISIBLE] = seen[int(index)]
    options.device = kind


def kind_of(device: str) -> str:
    """Return the kind of ``device``, ``auto`` by what NVML says: before PyTorch is imported, which is asked later."""
    return ("cuda" if _gpus() else "cpu") if device == "auto" else device


def _gpus() -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return 0


def profile(parser: argparse.ArgumentParser) -> None:
    """Add ``--profile``."""
    parser.add_argument("--profile", default="quick", choices=PROFILES, help="how thorough (default: quick)")


def folder(text: str) -> Path:
    """Return the folder that ``text`` names, whether it is there or will be made; a file is refused."""
    if Path(text).is_file():
        raise CourseError(f"{text} is a file; give a folder")
    return Path(text)


def _number(kind: type, least: float, most: float, wrong: str) -> Callable[[str], Any]:
    """Return what takes a number from ``least`` to ``most`` from a command line; of another, it says what is wrong."""

    def read(text: str) -> Any:
        number = kind(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text:.40} {wrong}")
        return number

    read.__name__ = "whole number" if kind is int else "number"  # named where the text is no number at all
    return read


count = _number(int, 1, 2**31 - 1, "is not a number from 1 on")
seed = _number(int, 0, 2**31 - 1, "is not a number from 0 on")
port = _number(int, 1, 65535, "is not a port; choose one up to 65535")
positive = _number(float, 1e-9, sys.float_info.max, "is not a number above 0")
not_negative = _number(float, 0, sys.float_info.max, "is not a number from 0")


def model_options(parser: argparse.ArgumentParser, *, pictures: bool = True) -> None:
    """Add what a reader's own model may need: ``--input-shape``, ``--data`` and ``--skip-unreadable``."""
    parser.add_argument("--input-shape", metavar="3x160x160", help="of one picture, for a model that does not tell")
    if pictures:
        parser.add_argument("--data", type=Path, help="folder of pictures (train/CLASS and test/CLASS) to check it on")
        skip_unreadable(parser)


def skip_unreadable(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip-unreadable``."""
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out pictures that cannot be read")


def grid_options(parser: argparse.ArgumentParser) -> None:
    """Add what names the cells of a grid, and where their records are."""
    defaults = {"backend": "all", "model": "the course's networks", "precision": "all of the profile's"}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", nargs="+", help=f"one or more (default: {default})")
    model_options(parser)
    device(parser)
    profile(parser)
    records(parser)


def asked(options: argparse.Namespace) -> tuple[list[str], list["Model"], "Device", "Profile"]:
    """Return the backends, models, device and profile that ``grid_options`` name."""
    from inference_lib.backends import BACKENDS
    from inference_lib.backends.shared.cuda import resolve_device
    from inference_lib.measure.profiles import get_profile
    from inference_lib.seam import MODELS, Device

    models = find_models(options, options.model or list(MODELS))
    device = Device.of(resolve_device(options.device))
    return options.backend or list(BACKENDS), models, device, get_profile(options.profile)


def records(parser: argparse.ArgumentParser) -> None:
    """Add ``--records``, one folder."""
    parser.add_argument("--records", type=folder, default=paths.BUILD / "records", help="folder of records")


def table_format(parser: argparse.ArgumentParser, formats: Sequence[str] = FORMATS) -> None:
    """Add ``--format``, in which records are printed, and ``--json``."""
    parser.add_argument("--format", choices=formats, default="table")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")


def find_models(options: argparse.Namespace, names: Sequence[str]) -> list["Model"]:
    """Return the models called ``names``, to be checked on the pictures in ``--data`` where there are some."""
    from inference_lib.seam import find_model
    from inference_lib.seam.folder import with_pictures

    models = [find_model(name, options.input_shape) for name in names]
    if folder := getattr(options, "data", None):
        models = [with_pictures(model, folder, skip_unreadable=options.skip_unreadable) for model in models]
        for model in models:
            if model.dataset.labels() is None:
                say(f"{model.title} knows other classes than {folder}: agreement is checked, accuracy is not")
    return models


def read_records(folder: Path) -> list["Record"]:
    """Return the records of ``folder``; CourseError where it has none."""
    from inference_lib.records.store import RecordStore

    found = RecordStore(folder).read()
    if not found:
        raise CourseError(f"no records in {folder}; make some with `python -m inference_lib benchmark`")
    return found


def runs_in(folder: Path) -> dict[str, list["Record"]]:
    """Return the records of ``folder`` by their runs, the first run first; CourseError where it has none."""
    from inference_lib.records.runs import runs_of

    found = read_records(folder)
    return {run: [record for record in found if record.run == run] for run in runs_of(found)}


@contextmanager
def serve_extra() -> Iterator[None]:
    """Let a package be missing that is imported inside: CourseError says what brings it."""
    try:
        yield
    except ImportError as error:
        raise CourseError(f"{error}; run `pip install -c constraints.txt -e .[serve]`") from error


def say(line: str) -> None:
    """Print a line about the work to standard error: results alone go to standard output."""
    from inference_lib.support import progress

    progress.say(line, sys.stderr)
