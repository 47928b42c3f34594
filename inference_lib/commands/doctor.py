"""``doctor``: what works on this machine."""

import argparse

HELP = "say which frameworks work here, and what would mend the others"


def arguments(_: argparse.ArgumentParser) -> None:
    """Declare the options: there are none."""


def run(_: argparse.Namespace) -> None:
    """Print the machine and a line a framework."""
    from inference_lib.doctor import report

    print(report())
