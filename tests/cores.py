"""The cores of this process: where several run tests side by side, each has as many of its own.

What is imported later reads how many threads to start from them: threads of two processes that share a core wait for
each other, spinning.
"""

import os

WORKER, WORKERS = (os.environ.get(f"PYTEST_XDIST_WORKER{suffix}", "") for suffix in ("", "_COUNT"))

if WORKER and (share := len(cores := sorted(os.sched_getaffinity(0))) // int(WORKERS)):
    first = share * int(WORKER.removeprefix("gw"))
    os.sched_setaffinity(0, cores[first : first + share])
