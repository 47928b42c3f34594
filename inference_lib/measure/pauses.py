"""How long this machine holds programs up: what no queue, no server and no simulation can be blamed for.

A process of its own asks to be woken every millisecond, and notes how late it was. The way is that of jHiccup
(https://github.com/giltene/jHiccup).
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

SLEEPER = """
import json, select, sys, time
late, start = [], time.perf_counter()
due = start
while True:
    due = max(due, time.perf_counter()) + 0.001
    ended = select.select([sys.stdin], [], [], max(0.0, due - time.perf_counter()))[0]
    late.append(time.perf_counter() - due)
    if ended:
        break
print(json.dumps([time.perf_counter() - start, [seconds for seconds in late if seconds > 0.0002]]))
"""
"""Sleeps until its input ends; of what it notes, what is as short as any wake-up is left out."""

END_S = 10.0


@dataclass
class Pauses:
    """What the sleeper noted, once it has ended; nothing before, and nothing where it could not work."""

    whole_s: float = 0.0
    late_s: list[float] = field(default_factory=list)

    def quantile_ms(self, percent: float = 99.0) -> float | None:
        """Return what ``percent`` of requests at random times waited at most, if they waited for the machine alone."""
        return held_up_s(self.late_s, self.whole_s, percent) * 1e3 if self.whole_s else None


def held_up_s(late_s: Sequence[float], whole_s: float, percent: float) -> float:
    """Return the quantile of the rest of a pause at a random moment of ``whole_s``; 0 where there was none.

    More than x is left of a pause of l seconds for l - x of them. So x is sought where the sum of these, over all that
    are longer, is the part of the time that the quantile leaves.
    """
    longest = np.sort(np.asarray(late_s, float))[::-1]
    left = (np.cumsum(longest) - (1 - percent / 100) * whole_s) / np.arange(1, len(longest) + 1)
    return max(0.0, float(left.max(initial=0.0)))


@contextmanager
def watched_pauses() -> Iterator[Pauses]:
    """Let a process sleep and wake meanwhile; what it noted is there at the end."""
    found = Pauses()
    words, pipe = [sys.executable, "-I", "-S", "-c", SLEEPER], subprocess.PIPE
    # in a session of its own: Ctrl-C is not for the sleeper
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as process:
        try:
            yield found
        finally:
            try:
                said, _ = process.communicate(timeout=END_S)
                found.whole_s, found.late_s = json.loads(said or "[0, []]")
            except subprocess.TimeoutExpired:
                process.kill()
