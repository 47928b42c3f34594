"""Writing files so that a reader sees the old content or the new one, never a part."""

import fcntl
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from inference_lib.support.errors import CourseError


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` under another name beside ``path``, in a folder that is made, then put it in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    # Others may read it, if the umask lets them; what the module tempfile makes is for its owner alone.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def let_others_read(folder: Path) -> None:
    """Give ``folder`` and all in it the mode that the umask leaves: some libraries write for their owner alone."""
    umask = os.umask(0o022)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644) & ~umask)


def make_writable(folder: Path, task: str = "write", remedy: str = "make the folder writable") -> None:
    """Make ``folder`` and try to write in it, before any work is done that would be lost.

    Raise CourseError where that fails: ``cannot TASK to FOLDER: why; REMEDY``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise cannot_write(folder, error, task, remedy) from error


def cannot_write(folder: Path, error: OSError, task: str, remedy: str) -> CourseError:
    """Return the one line for a folder that cannot be written."""
    return CourseError(f"cannot {task} to {shown(folder)}: {error.strerror}; {remedy}")


def shown(path: Path) -> Path:
    """Return ``path`` as a reader at this prompt would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


LOCK_LIMIT_S, LOCK_POLL_S = 3600.0, 0.05
"""The longest wait for a lock, several exports of others included, and how often it is tried."""


@contextmanager
def locked(path: Path, how: int = 0, holder: str = "") -> Iterator[None]:
    """Hold the lock of a folder or a file; the system gives it back when the process ends, however it does.

    ``holder`` is what a process does that has it; a line says so before it is waited for. Raise CourseError where it is
    not free within LOCK_LIMIT_S; with ``fcntl.LOCK_NB`` for ``how``, OSError where it is not free now.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # it is held, or this file system has no locks
            if how:
                raise
            if isinstance(error, BlockingIOError):
                _wait(handle, f"another process {holder or f'holds {shown(path)}'}", told=bool(holder))
        yield
    finally:
        os.close(handle)


def _wait(handle: int, holder: str, *, told: bool) -> None:
    if told:
        print(f"waiting: {holder}", file=sys.stderr, flush=True)
    end = time.monotonic() + LOCK_LIMIT_S
    while time.monotonic() < end:
        time.sleep(LOCK_POLL_S)
        with suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    raise CourseError(f"{holder}; wait for it or end it")
