"""Verdicts: no win inside the noise, and no difference overlooked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_lib.measure.cell import distribution
from inference_lib.measure.timing import Samples
from inference_lib.records.comparison import compare


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


def test_three_percent_more_is_found_in_90_of_100() -> None:
    verdicts = [compare(series(1.0, 0.02, 200, n), series(1.03, 0.02, 200, 1000 + n)).verdict for n in range(100)]
    assert sum(verdict == "slower" for verdict in verdicts) >= 90


def test_one_percent_more_is_no_loss() -> None:
    verdicts = [compare(series(1.0, 0.02, 200, n), series(1.01, 0.02, 200, 1000 + n)).verdict for n in range(100)]
    assert sum(verdict == "slower" for verdict in verdicts) <= 5


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0, 0.2), st.integers(0, 99))
def test_swapping_the_two_turns_the_verdict_round(one: float, other: float, scatter: float, seed: int) -> None:
    first, second = series(one, scatter, 60, seed), series(other, scatter, 60, seed + 1)
    forth, back = compare(first, second), compare(second, first)
    assert back.verdict == {"faster": "slower", "slower": "faster"}.get(forth.verdict, forth.verdict)
    assert back.low == pytest.approx(1 / forth.high)


@given(st.floats(0.1, 10), st.floats(0, 0.3), st.floats(0.01, 100), st.integers(0, 99))
def test_the_unit_of_time_does_not_matter(ratio: float, scatter: float, unit: float, seed: int) -> None:
    def verdict(scale: float) -> str:
        return compare(series(scale, scatter, 60, seed), series(scale * ratio, scatter, 60, seed + 1)).verdict

    assert verdict(1.0) == verdict(unit)


def test_a_single_sample_claims_nothing_but_its_own_value() -> None:
    one = series(1.0, 0.0, 1, 1)
    assert compare(one, one).verdict == "same"
