"""What libraries expect of the process that they are imported into, and some machines do not give."""

import getpass
import io
import os
import sys
import tempfile
import warnings
from pathlib import Path


def complete() -> None:
    """Give a user without a name one, and a home: a container that was started with a bare number has neither.

    PyTorch asks for the name when it is imported, Jupyter for the home.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir(), f"home-of-user{os.getuid()}")
        home.mkdir(mode=0o700, exist_ok=True)
        os.environ["HOME"] = str(home)


def tolerate() -> None:
    """Leave aside, for this process and those it starts, settings that would end an import of somebody else's code.

    PYTHONWARNINGS=error makes every deprecation in a dependency an error, and Matplotlib refuses to be imported where
    MPLBACKEND is no window system that it knows; the course's figures need none. A terminal that lacks a letter of a
    file's name gets its number instead. That the semaphores of a process that was ended are removed is no news to
    anybody: Python would warn of them.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    os.environ.pop("MPLBACKEND", None)
    if any(action.startswith("error") for action in sys.warnoptions):
        os.environ.pop("PYTHONWARNINGS", None)
        sys.warnoptions.clear()
        warnings.filters[:] = [each for each in warnings.filters if each[0] != "error"]  # type: ignore[index]
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
