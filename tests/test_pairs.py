"""What an export lost against its reference on the same pictures, and whether that could be chance."""

from collections.abc import Callable

import numpy as np
import pytest

from inference_lib.measure.accuracy import compare
from inference_lib.records.pairs import of_all_pictures, pairs
from inference_lib.records.record import Accuracy, Record


def counted(gained: int | None, lost: int | None, images: int = 10_000) -> Accuracy:
    return Accuracy(
        accuracy_percent=95, agreement_percent=99, largest_difference=0, images=images, gained=gained, lost=lost
    )


def test_gains_and_losses_are_counted_picture_by_picture() -> None:
    labels = np.array([0, 1, 2, 3, 4])
    reference, logits = np.eye(5)[[0, 1, 2, 0, 0]], np.eye(5)[[0, 1, 1, 3, 1]]
    found = compare(logits, reference, labels)
    assert (found.gained, found.lost) == (1, 1)  # the fourth and the third; of the last, both are wrong
    assert pairs(found).difference == 0


def test_the_difference_is_that_of_the_accuracies_and_in_its_interval() -> None:
    found = pairs(counted(10, 40))
    assert found.difference == pytest.approx(-0.3)
    assert found.low < -0.3 < found.high < 0
    assert found.p < 1e-4


def test_few_decided_pictures_decide_nothing() -> None:
    found = pairs(counted(1, 4))
    assert found.low < 0 < found.high
    assert found.p == pytest.approx(2 * (1 + 5) / 2**5)  # both tails of five throws of a coin


def test_ten_answers_lost_are_evidence_only_among_few_that_changed() -> None:
    found = [pairs(counted(gained, gained + 10)) for gained in (5, 45)]
    assert [round(pair.difference, 6) for pair in found] == [-0.1, -0.1]
    assert [round(pair.p, 2) for pair in found] == [0.04, 0.37]  # as chapter 13 tells them


def test_pictures_that_both_classify_alike_bound_the_difference_by_their_number() -> None:
    few, many = (pairs(counted(0, 0, images)) for images in (64, 10_000))
    assert (few.difference, few.p) == (0.0, 1.0)
    assert few.low == pytest.approx(-few.high)
    assert 1 < few.high < 5  # with three in a hundred that differ, none of 64 does every seventh time
    assert 0.005 < many.high < 0.05
    assert pairs(counted(10, 40, 20_000)).p == pairs(counted(10, 40)).p


def test_95_of_100_intervals_hold_the_true_difference() -> None:
    random, images, held = np.random.default_rng(0), 500, 0
    for gained, lost in random.multinomial(images, [0.004, 0.012, 0.984], 2000)[:, :2]:
        found = pairs(counted(int(gained), int(lost), images))
        held += found.low <= -0.8 <= found.high
    assert 0.93 < held / 2000 < 0.99


def test_a_record_from_before_they_were_counted_has_none() -> None:
    assert pairs(counted(None, None)) is None


def test_a_row_that_saw_fewer_pictures_is_told_of_all(make_record: Callable[..., Record]) -> None:
    def accuracy(percent: float, images: int, gained: int | None, lost: int | None) -> Accuracy:
        counts = {"images": images, "gained": gained, "lost": lost}
        return Accuracy(accuracy_percent=percent, agreement_percent=99, largest_difference=0, **counts)

    rows = [
        make_record(precision="fp32", accuracy=accuracy(96.9, 1_000, 0, 1)),  # the first thousand are easy
        make_record(precision="fp16", accuracy=accuracy(95.33, 10_000, 5, 2)),
        make_record(precision="int8", accuracy=accuracy(94.0, 500, None, None)),  # from before anything was counted
        make_record(model="vanilla_cnn", accuracy=accuracy(92.0, 1_000, 0, 0)),  # no other row has seen more
        make_record(precision="tf32", accuracy=None),
    ]
    told = of_all_pictures(rows)
    percents = [record.accuracy and record.accuracy.accuracy_percent for record in told]
    assert percents == [pytest.approx(95.30 - 0.1), 95.33, 94.0, 92.0, None]
    assert [record.accuracy and record.accuracy.images for record in told] == [1_000, 10_000, 500, 1_000, None]
    assert rows[0].accuracy.accuracy_percent == 96.9  # the record itself stays what was measured
