"""Whether processes are there."""

from pathlib import Path

from waits import wait_until


def alive(pid: int) -> bool:
    """Say whether a process is there and not only its last trace."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int, within_s: float = 20.0) -> bool:
    """Say whether a process that is to end does so in time."""
    wait_until(lambda: not alive(pid), within_s)
    return not alive(pid)
