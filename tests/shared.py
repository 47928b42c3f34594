"""What is made once a test session, whichever of its processes asks first."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """Return a temporary folder that all processes of this test session share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def once(folder: Path, name: str, make: Callable[[], str]) -> str:
    """Return what ``make`` returned to the first that asked in this folder; the others wait for it."""
    kept = folder / f"{name}.once"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)  # given back when the file is closed
        if not kept.exists():
            kept.write_text(make())
        return kept.read_text()
