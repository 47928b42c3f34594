"""The cores of a host among processes that compute at once: threads of two that share a core wait for each other."""

import os
from collections.abc import Collection
from contextlib import suppress


def cores_of(number: int, count: int) -> list[int]:
    """Return the cores for process ``number`` of ``count``, of this one's: as many for each; too few serve several."""
    every = sorted(os.sched_getaffinity(0))
    each = max(1, len(every) // count)
    first = each * number % len(every)
    return every[first : first + each]


def keep_to(cores: Collection[int]) -> None:
    """Keep this process, each of its threads and what it starts to ``cores``."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), cores)
