"""Whether processes are there."""

import time
from pathlib import Path


def alive(pid: int) -> bool:
    """Say whether a process is there and not only its last trace."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int, within_s: float = 20.0) -> bool:
    """Say whether a process that is to end does so in time."""
    deadline = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)
