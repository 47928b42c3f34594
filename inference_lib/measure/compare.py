"""Faster, slower, the same, or cannot tell: two series compared with the uncertainty of both."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from inference_lib.report.records import Distribution

Verdict = Literal["faster", "slower", "same", "cannot tell"]

SAME_WITHIN = 0.015
"""Medians of the same captured graph differ by about a percent from process to process: less is no difference."""


@dataclass(frozen=True)
class Comparison:
    """How much faster one series is than another: the ratio of medians, its 95 % interval, and what that allows."""

    ratio: float
    low: float
    high: float
    verdict: Verdict


def compare(baseline: Distribution, candidate: Distribution) -> Comparison:
    """Compare the median of ``candidate`` with that of ``baseline``; a ratio above 1 means faster.

    Each median has an interval at such a confidence that both hold together at 95 % (Bonferroni); the ratio's
    interval follows from their ends. A win is claimed only where the whole interval lies beyond ``SAME_WITHIN``.
    """
    slow_low, slow_high = _median_interval(baseline)
    fast_low, fast_high = _median_interval(candidate)
    low, high = slow_low / fast_high, slow_high / fast_low
    return Comparison(baseline.p50 / candidate.p50, low, high, _verdict(low, high))


def _verdict(low: float, high: float) -> Verdict:
    more, less = 1 + SAME_WITHIN, 1 / (1 + SAME_WITHIN)
    if low > more:
        return "faster"
    if high < less:
        return "slower"
    return "same" if less <= low and high <= more else "cannot tell"


def _median_interval(series: Distribution, confidence: float = 0.975) -> tuple[float, float]:
    """Return the order-statistics interval of the median (see timing.median_interval), read from the quantiles."""
    half = NormalDist().inv_cdf(0.5 + confidence / 2) / (2 * math.sqrt(series.samples))
    positions = np.linspace(0, 1, len(series.quantiles))
    low, high = np.interp([max(0.0, 0.5 - half), min(1.0, 0.5 + half)], positions, series.quantiles)
    return float(low), float(high)
