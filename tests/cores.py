"""The cores of this process: where several run tests side by side, each has as many of its own.

What is imported later reads how many threads to start from them: threads of two processes that share a core wait for
each other, spinning.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference_lib.support.cores import cores_of  # imports nothing that computes

WORKER, WORKERS = (os.environ.get(f"PYTEST_XDIST_WORKER{suffix}", "") for suffix in ("", "_COUNT"))
EVERY = sorted(os.sched_getaffinity(0))


OWN = cores_of(int(WORKER.removeprefix("gw")), int(WORKERS)) if WORKER else EVERY
os.sched_setaffinity(0, OWN)


@contextmanager
def running(alone: bool, place: Path) -> Iterator[None]:
    """Run a test beside those of other processes, or ``alone``: while none of them runs one, with every core.

    They agree by a file at ``place``.
    """
    with place.open("a+") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)  # given back when the file is closed
        os.sched_setaffinity(0, EVERY if alone else OWN)
        try:
            yield
        finally:
            os.sched_setaffinity(0, OWN)
