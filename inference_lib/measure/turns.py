"""Functions of one process that take turns: for the experiments inside a chapter."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import pandas as pd

from inference_lib.measure import timing
from inference_lib.records.comparison import verdict_of
from inference_lib.records.statistics import Interval, log_ratios, median_interval
from inference_lib.support.progress import bar

ROUNDS = 10
"""Enough for an interval of the median of their ratios (records.statistics.median_interval)."""


@dataclass(frozen=True)
class Turns:
    """The median of every turn, ms: a list a function, a number a round."""

    rounds: dict[str, list[float]]

    def ms(self, name: str) -> float:
        """Return the median over rounds."""
        return median(self.rounds[name])

    def ratio(self, name: str, baseline: str) -> tuple[float, float, float]:
        """Return how many times faster ``name`` is than ``baseline``, with a 95 % interval over rounds.

        The interval is that of this process: another start may place memory, or choose kernels, otherwise.
        """
        logs = log_ratios(self.rounds[baseline], self.rounds[name])
        low, high = median_interval(logs)
        return math.exp(median(logs)), math.exp(low), math.exp(high)

    def effect(self, name: str, baseline: str) -> str:
        """Say what the interval of the ratio allows: ``faster``, ``slower``, or ``none`` inside the noise."""
        verdict = verdict_of(Interval(*self.ratio(name, baseline)))
        return verdict if verdict in ("faster", "slower") else "none"

    def table(self, baseline: str = "") -> pd.DataFrame:
        """Return a row a function: ``ms``, ``times faster`` than the baseline (the first function), and the effect."""
        baseline = baseline or next(iter(self.rounds))
        rows = [
            {"": name, "ms": self.ms(name), "times faster": self.ratio(name, baseline)[0]}
            | {"effect in this process": "-" if name == baseline else self.effect(name, baseline)}
            for name in self.rounds
        ]
        return pd.DataFrame(rows)


def take_turns(calls: Mapping[str, Callable[[], object]], turn_s: float, rounds: int = ROUNDS, seed: int = 0) -> Turns:
    """Time ``calls``, each of which waits for what it starts, in ``rounds`` of random order.

    A turn lasts about ``turn_s`` seconds, one call at least, after a first one that does not count.
    """
    samplers = {name: timing.sampler(call) for name, call in calls.items()}
    counts = {}
    order = random.Random(seed)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with bar((1 + rounds) * len(calls), "turns") as shown:
        for name, sample in samplers.items():
            timing.warm_up(sample, budget_s=turn_s)
            counts[name] = max(1, round(turn_s * 1e3 / max(timing.take(sample, 1)[0], 1e-3)))
            shown.update()
        for _ in range(rounds):
            for name in order.sample(list(calls), len(calls)):
                samplers[name]()
                taken[name].append(median(timing.take(samplers[name], counts[name])))
                shown.update()
    return Turns(taken)
