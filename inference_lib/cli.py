"""The command line of the course: ``python -m inference_lib COMMAND``; ``--help`` lists the commands.

Commands are the modules of ``commands``, found by name: a new one needs no line here.
"""

import argparse
import errno
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from inference_lib import commands
from inference_lib.commands.options import EXIT_ERROR, see_one_gpu
from inference_lib.support import environment
from inference_lib.support.errors import CourseError
from inference_lib.support.interrupts import after_imports

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143

COMMANDS = sorted(module.name for module in pkgutil.iter_modules(commands.__path__) if module.name != "options")

OF_SPACE = {errno.EDQUOT, errno.EFBIG, errno.ENOSPC}
OF_RIGHTS = {errno.EACCES, errno.EPERM, errno.EROFS}
OF_A_PATH = {errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR}
"""What an operating system refuses, and no code of ours can mend: a full disk, a file where a folder is needed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status. An error is one line on standard error."""
    environment.tolerate()
    after_imports(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # what runs in the background ignores it
        after_imports(signal.SIGINT, signal.default_int_handler)
    try:
        status = _run_command(arguments)
        sys.stdout.flush()  # a disk that is full says so here, not while the interpreter ends
        return status
    except CourseError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)  # a file's name may have several
        return EXIT_ERROR
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == __package__:  # a fault of ours
            raise
        remedy = "run `make install`, then `source .venv/bin/activate`"
        print(f"error: {sys.executable} has no package {error.name}; {remedy}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; the same command goes on from there", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_ERROR
    except OSError as error:
        if error.errno not in OF_SPACE | OF_RIGHTS | OF_A_PATH:
            raise
        if not error.filename:
            _drop_output()
        where, remedy = error.filename or "the output", "free some space or " if error.errno in OF_SPACE else ""
        print(f"error: cannot use {where}: {error.strerror}; {remedy}choose another place", file=sys.stderr)
        return EXIT_ERROR


def _run_command(arguments: Sequence[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if "_ARGCOMPLETE" in os.environ:  # a shell asks how the line may go on
        import argcomplete

        argcomplete.autocomplete(parser())
    try:
        options = parser(given).parse_args(given)
    except SystemExit as done:  # help was printed, or what is wrong with the arguments
        return int(done.code or 0)
    options.given = given
    see_one_gpu(options)
    return options.run_command(options) or 0


def parser(given: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of the command that ``given`` begins with, or, where it begins with none, of them all."""
    found = Parser(prog="python -m inference_lib", description="Measure inference, run the chapters, make the book.")
    added = found.add_subparsers(metavar="COMMAND", required=True)
    for name in given[:1] if given and given[0] in COMMANDS else COMMANDS:
        command = importlib.import_module(f"{commands.__name__}.{name}")
        sub = added.add_parser(name, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(run_command=command.run)
        command.arguments(sub)
    return found


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in a line; ``--help`` tells the rest."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"error: {' '.join(message.split())}; see {self.prog} --help\n")


def _end(*_: object) -> None:
    """End by an exception when asked to terminate, so that every process that was started is ended on the way."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(EXIT_TERMINATED)


def _drop_output() -> None:
    """Let what is still to be printed go nowhere: the interpreter prints it when it ends, and would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
