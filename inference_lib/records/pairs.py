"""Two classifiers on the same pictures: what one lost against the other, and whether that could be chance."""

import math
from typing import NamedTuple

from scipy.stats import binomtest, norm

from inference_lib.records.record import Accuracy


class Pairs(NamedTuple):
    """An export's accuracy beside its reference's, percentage points."""

    difference: float
    """Negative where the export is right less often."""
    low: float
    high: float
    """Ends of the 95 % interval."""
    p: float
    """How often two equally good classifiers would differ by as much, or more (McNemar's exact test)."""


def pairs(accuracy: Accuracy) -> Pairs | None:
    """Compare an export with the reference on the pictures that both saw; None where these were not counted.

    Most pictures are classified alike by both, and say nothing about a difference. Among those that exactly one of
    them gets right, equally good classifiers win as often as they lose, so the wins have a binomial distribution
    (McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12(2), 1947). The interval adds half a picture to each of the four kinds, which makes it hold for few
    pictures, too (Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24(5), 2005).
    """
    if accuracy.gained is None or accuracy.lost is None:
        return None
    gained, lost, images = accuracy.gained, accuracy.lost, accuracy.images
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    middle = (gained - lost) / (images + 2)
    half = norm.ppf(0.975) * math.sqrt((gained + lost + 1) / (images + 2) - middle**2) / math.sqrt(images + 2)
    return Pairs(100 * (gained - lost) / images, float(100 * (middle - half)), float(100 * (middle + half)), p)
