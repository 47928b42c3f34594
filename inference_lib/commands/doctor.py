"""Say which frameworks work here, and what would mend the others."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--verbose", action="store_true", help="tell the whole reasons, and what would mend them")


def run(options: argparse.Namespace) -> None:
    """Print the machine and a line a framework."""
    from inference_lib.doctor import report

    print(report(options.verbose))
