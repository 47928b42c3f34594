"""Verdicts: no win inside the noise, and no difference overlooked."""

import numpy as np
import pytest

from inference_lib.measure.cell import distribution
from inference_lib.measure.compare import compare
from inference_lib.measure.timing import Samples


def series(median: float, scatter: float, samples: int, seed: int):
    times = median * np.random.default_rng(seed).lognormal(sigma=scatter, size=samples)
    return distribution(Samples(times, "precise"))


def test_a_clear_win_is_one_and_the_other_way_a_loss() -> None:
    slow, fast = series(2.0, 0.05, 200, 1), series(1.0, 0.05, 200, 2)
    won, lost = compare(slow, fast), compare(fast, slow)
    assert (won.verdict, lost.verdict) == ("faster", "slower")
    assert won.ratio == pytest.approx(2.0, rel=0.03)
    assert won.low < won.ratio < won.high
    assert won.ratio == pytest.approx(1 / lost.ratio)


def test_steady_equals_are_the_same() -> None:
    assert compare(series(1.0, 0.01, 400, 1), series(1.0, 0.01, 400, 2)).verdict == "same"


def test_few_scattered_samples_cannot_tell() -> None:
    assert compare(series(1.0, 0.3, 9, 1), series(1.1, 0.3, 9, 2)).verdict == "cannot tell"


def test_the_same_work_twice_is_no_win_in_95_of_100() -> None:
    verdicts = [compare(series(1.0, 0.15, 100, n), series(1.0, 0.15, 100, 1000 + n)).verdict for n in range(100)]
    assert sum(verdict in ("same", "cannot tell") for verdict in verdicts) >= 95


def test_a_tenth_more_is_found_in_90_of_100() -> None:
    verdicts = [compare(series(1.0, 0.05, 400, n), series(1.1, 0.05, 400, 1000 + n)).verdict for n in range(100)]
    assert sum(verdict == "slower" for verdict in verdicts) >= 90


def test_a_single_sample_claims_nothing_but_its_own_value() -> None:
    one = series(1.0, 0.0, 1, 1)
    assert compare(one, one).verdict == "same"
