"""Intervals from few invocations of many rounds: plain functions of numbers.

Rounds of one invocation share its luck (addresses, clocks, neighbours), so they cannot count as repetitions of the
experiment; invocations can. Their mean has Student's t interval, on logarithms because times are positive and skewed
(Kalibera and Jones, "Rigorous benchmarking in reasonable time", 2013; Georges, Buytaert and Eeckhout, 2007).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, median, variance

import numpy as np
from scipy import special  # scipy.stats has the same functions, and takes a second to import

CONFIDENCE = 0.95
LEAST_INVOCATIONS = 3
"""From fewer, the spread between invocations cannot be told, and there is no interval."""

LEAST_FOR_P99 = 1000
"""Ten samples lie beyond the 99th percentile of so many."""

QUANTILES = 201
"""Points of the stored distribution: one every half percent."""


@dataclass(frozen=True)
class Interval:
    """An estimate, and the ends of its 95 % interval where there are invocations enough."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def log_half_width(self) -> float | None:
        """Half the width of the interval of the logarithm; None where there is none."""
        return None if self.low is None or self.high is None else math.log(self.high / self.low) / 2


def over_invocations(rounds: Sequence[Sequence[float]]) -> Interval:
    """Return the mean over invocations of a logarithm, given for each round of each invocation, as exp(mean).

    An invocation is the median of its rounds. The variance between invocations is estimated from them, but never as
    less than what their rounds explain: three values lie close together by chance more often than their rounds do.
    """
    centres = [median(values) for values in rounds]
    centre = fmean(centres)
    if len(centres) < LEAST_INVOCATIONS:
        return Interval(math.exp(centre))
    spread = max(variance(centres), fmean(_variance_of_median(values) for values in rounds))
    half = _student_t(len(centres) - 1) * math.sqrt(spread / len(centres))
    return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half))


@cache
def _student_t(degrees: int) -> float:
    return float(special.stdtrit(degrees, 0.5 + CONFIDENCE / 2))


def _variance_of_median(values: Sequence[float]) -> float:
    """Return the variance of the median of independent values: pi/2 times that of their mean, if they are normal."""
    if len(values) < 2:
        return 0.0
    mean = fmean(values)  # statistics.variance is exact, and takes fifty times as long
    return math.pi / 2 * math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)


def log_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Return the logarithm of the ratio within each round."""
    return [math.log(a / b) for a, b in zip(numerator, denominator, strict=True)]


def median_interval(samples: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return a 95 % confidence interval of the median of independent samples, free of any assumed distribution.

    The ranks are n/2 -+ z sqrt(n)/2, the normal approximation of the binomial count of samples below the median
    (Conover, Practical Nonparametric Statistics, section 3.2). Fewer than eight samples have none: it would end beyond
    their extremes. Its ends are infinite then.
    """
    ordered = np.sort(np.asarray(samples, dtype=float))
    n = len(ordered)
    half = float(special.ndtri(0.5 + CONFIDENCE / 2)) * math.sqrt(n) / 2
    low, high = math.floor(n / 2 - half), math.ceil(n / 2 + half)
    if low < 0 or high > n - 1:
        return -math.inf, math.inf
    return float(ordered[low]), float(ordered[high])


def quantile_sketch(samples: np.ndarray) -> list[float]:
    """Return the samples' quantiles at 0, 0.5, ..., 100 percent: a distribution small enough to publish."""
    return [float(f"{q:.5g}") for q in np.quantile(samples, np.linspace(0, 1, QUANTILES))]
