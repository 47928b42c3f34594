"""Print what makes a shell complete inference-lib; eval "$(inference-lib completion bash)" makes it do so."""

import argparse

SCRIPT = "inference-lib"
"""The command that an installation has beside ``python -m inference_lib``, which no shell completes."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(options: argparse.Namespace) -> None:
    """Print it."""
    import argcomplete

    print(argcomplete.shellcode([SCRIPT], shell=options.shell))
