"""Which processes a load keeps busy: one whose Python needs a whole core is the limit."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

SHOWN = 0.05
"""Cores; what is busy for less is not told."""


@contextmanager
def cores_busy(pid: int | None) -> Iterator[dict[str, float]]:
    """Give out what is filled at the end: the cores that this process and ``pid``'s kept busy, on average.

    What ``pid`` started counts by itself, with its name and number; nothing is told where ``pid`` is None.
    """
    busy: dict[str, float] = {}
    before, start = _cpu_seconds(pid), time.perf_counter()
    yield busy
    seconds, spent = time.perf_counter() - start, _cpu_seconds(pid) - before
    busy |= {name: used / seconds for name, used in spent.most_common() if used > SHOWN * seconds}


def _cpu_seconds(pid: int | None) -> Counter[str]:
    found = Counter[str]()
    with suppress(psutil.NoSuchProcess):
        servers = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)] if pid else []
        for process in [psutil.Process(), *servers] if servers else []:
            times = process.cpu_times()
            name = "the load" if process.pid == os.getpid() else f"{process.name()} {process.pid}"
            found[name] = times.user + times.system
    return found
