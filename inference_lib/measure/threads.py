"""The threads of this process: how long they ran and waited for a core, and waiting until they sleep."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Scheduled(NamedTuple):
    """What the kernel counted for all threads of this process so far, ms (0 where it does not count)."""

    ran_ms: float
    waited_ms: float
    """Ready to run, without a core."""


def scheduled() -> Scheduled:
    """Read the counters (https://docs.kernel.org/scheduler/sched-stats.html)."""
    ran = waited = 0
    for task in Path(f"/proc/{os.getpid()}/task").glob("*/schedstat"):
        with GONE:
            fields = task.read_text().split()
            ran, waited = ran + int(fields[0]), waited + int(fields[1])
    return Scheduled(ran / 1e6, waited / 1e6)


def settle(window_s: float = 0.01, limit_s: float = 1.0) -> None:
    """Wait until the threads of this process sleep: none ran for a while, and none waits for a core to run on.

    A framework's threads look for more work before they do: seen, 8 ms in OpenMP, 40 in ONNX Runtime, 150 in TVM. The
    next rival would share its cores with them.
    """
    end, before = time.perf_counter() + limit_s, scheduled().ran_ms
    while time.perf_counter() < end:
        time.sleep(window_s)
        now = scheduled().ran_ms
        if now - before < IDLE_SHARE * window_s * 1e3 and not _others_would_run():
            return
        before = now


def _others_would_run() -> bool:
    """Whether another thread of this process is running or ready to: state R (https://docs.kernel.org/filesystems/proc.html)."""
    me, states = str(threading.get_native_id()), []
    for task in Path(f"/proc/{os.getpid()}/task").glob("*/stat"):
        with GONE:
            states += [task.read_text().rpartition(")")[2].split()[0]] if task.parent.name != me else []
    return "R" in states


IDLE_SHARE = 0.25
"""Of a window: reading the counters takes time, too. They move every 4 ms, so a window must be longer."""

GONE = suppress(OSError, IndexError, ValueError)
"""A thread has ended, or the kernel does not count."""
