"""List the trained weights, or verify that each file is what it says."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from inference_lib.commands import options as common
from inference_lib.support import paths
from inference_lib.support.errors import CourseError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", nargs="?", choices=("list", "verify"), default="list")
    trained = paths.BUILD / "trained"
    parser.add_argument("--directory", type=common.folder, default=trained, help="folder of your own weights")


def run(options: argparse.Namespace) -> int:
    """Print a line a file; 1 where one is not what it says."""
    bad = 0
    for path in _files(options.directory):
        said = ""
        if options.action == "verify":
            try:
                said = f"  {_verified(path)}"
            except CourseError as error:
                bad, said = bad + 1, f"  {error}"
        print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB  {_accuracy(path)}{said}")
    return common.EXIT_ERROR if bad else 0


def _files(own: Path) -> Iterator[Path]:
    from inference_lib.support.files import shown
    from inference_lib.zoo.networks import PRETRAINED

    for folder in dict.fromkeys((PRETRAINED, own)):
        yield from (shown(path) for path in sorted(folder.glob("*.safetensors")))


def _accuracy(path: Path) -> str:
    try:
        told = json.loads(path.with_suffix(".history.json").read_text())
        test = "a trial" if told.get("limit") else f"test {told['test_accuracy']:.2f} %"
        return f"{test}, {len(told['history'])} epochs on {told['device']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "no learning curve"


def _verified(path: Path) -> str:
    """Return what is right about the file; CourseError where it is not what it says: checksum, backbone, form."""
    from inference_lib.zoo.networks import ARCHITECTURES, CHECKSUMS, load_pretrained
    from inference_lib.zoo.trained import load_trained, read_facts

    if path.stem in ARCHITECTURES and (path.parent / CHECKSUMS).is_file():
        load_pretrained(path.stem, path.parent)
    elif read_facts(path).by_code:
        return "whole; its network is made by code, which is not run here"
    else:
        load_trained(path)
    return "verified"
