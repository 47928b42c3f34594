"""Find or download Fashion-MNIST and check it."""

import argparse

from inference_lib.commands import options as common


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--directory", type=common.folder, help="where to keep it")


def run(options: argparse.Namespace) -> None:
    """Print the folder of the data set, once it is complete."""
    from inference_lib.support.paths import DATA
    from inference_lib.zoo.fashion_files import check, ensure_fashion_mnist

    folder = ensure_fashion_mnist(options.directory or DATA)
    check(folder)
    print(folder)
