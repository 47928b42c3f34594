"""Two classifiers on the same pictures: what one lost against the other, and whether that could be chance."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from scipy.special import bdtr, ndtri

from inference_lib.records.record import Accuracy, Record


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
    p = min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))  # scipy.stats takes a second to import
    middle = (gained - lost) / (images + 2)
    half = ndtri(0.975) * math.sqrt((gained + lost + 1) / (images + 2) - middle**2) / math.sqrt(images + 2)
    return Pairs(100 * (gained - lost) / images, float(100 * (middle - half)), float(100 * (middle + half)), p)


def of_all_pictures(records: Iterable[Record]) -> list[Record]:
    """Return ``records`` with the accuracy of rows that saw fewer pictures told of as many as the others saw.

    The first thousand pictures may be easier than all ten thousand, so accuracies on both do not compare. What an
    export gained and lost against the reference on the same pictures does: it is added to the reference's accuracy on
    the most pictures that any row of the model was checked on (a control variate, as in Owen, "Monte Carlo theory,
    methods and examples", section 8.9). ``images`` stays what it was: how many pictures the difference rests on.
    """
    records = list(records)
    most: dict[tuple[str, ...], tuple[int, float]] = {}
    for record in records:
        if record.accuracy and (base := _reference_percent(record.accuracy)) is not None:
            most[_reference(record)] = max(most.get(_reference(record), (0, 0.0)), (record.accuracy.images, base))
    return [_told(record, *most[_reference(record)]) if _reference(record) in most else record for record in records]


def _reference(record: Record) -> tuple[str, ...]:
    return record.model, record.model_hash, record.pictures, record.device


def _reference_percent(accuracy: Accuracy) -> float | None:
    """Return the accuracy of the FP32 model on the pictures of ``accuracy``."""
    found = pairs(accuracy)
    return None if found is None or accuracy.accuracy_percent is None else accuracy.accuracy_percent - found.difference


def _told(record: Record, images: int, percent: float) -> Record:
    accuracy = record.accuracy
    found = pairs(accuracy) if accuracy and accuracy.images < images else None
    if accuracy is None or found is None:
        return record
    told = accuracy.model_copy(update={"accuracy_percent": percent + found.difference})
    return record.model_copy(update={"accuracy": told})
