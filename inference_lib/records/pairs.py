"""Two classifiers on the same pictures: what one lost against the other, and whether that could be chance."""

from typing import NamedTuple

from scipy.stats import binomtest

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
    Psychometrika 12(2), 1947). The interval is that distribution's exact one (Clopper and Pearson), the number of such
    pictures taken as it was found.
    """
    if accuracy.gained is None or accuracy.lost is None:
        return None
    decided = accuracy.gained + accuracy.lost
    if not decided:
        return Pairs(0.0, 0.0, 0.0, 1.0)
    test = binomtest(accuracy.gained, decided)
    ends = test.proportion_ci(0.95)
    low, middle, high = (
        100 * decided * (2 * share - 1) / accuracy.images for share in (ends.low, test.statistic, ends.high)
    )
    return Pairs(middle, low, high, test.pvalue)
