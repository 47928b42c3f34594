"""Intervals: known values, and how often they are right where the noise is known."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_lib.records.comparison import verdict_of
from inference_lib.records.statistics import (
    QUANTILES,
    Interval,
    log_ratios,
    median_interval,
    over_invocations,
    quantile_sketch,
)

T_OF_TWO_DEGREES = 4.302653
"""Student's t at 97.5 % with two degrees of freedom, from a printed table."""


def test_the_interval_over_three_invocations_is_the_one_computed_by_hand() -> None:
    centres = [math.log(ms) for ms in (0.9, 1.0, 1.2)]
    mean = sum(centres) / 3
    deviation = math.sqrt(sum((c - mean) ** 2 for c in centres) / 2)
    half = T_OF_TWO_DEGREES * deviation / math.sqrt(3)
    found = over_invocations([[c] for c in centres])
    assert found.value == pytest.approx((0.9 * 1.0 * 1.2) ** (1 / 3))
    assert found.low == pytest.approx(found.value * math.exp(-half), rel=1e-6)
    assert found.high == pytest.approx(found.value * math.exp(half), rel=1e-6)
    assert found.log_half_width == pytest.approx(half, rel=1e-6)


def test_an_invocation_is_the_median_of_its_rounds() -> None:
    calm, jerky = [0.0, 0.1, 0.2], [0.0, 0.1, 9.0]
    assert over_invocations([calm, jerky, calm]).value == pytest.approx(math.exp(0.1))


def test_the_interval_is_never_narrower_than_the_rounds_explain() -> None:
    rounds = [-0.3, -0.1, 0.0, 0.1, 0.3]  # three invocations of them agree exactly, by chance
    found = over_invocations([rounds] * 3)
    of_a_median = math.pi / 2 * np.var(rounds, ddof=1) / len(rounds)
    assert found.log_half_width == pytest.approx(T_OF_TWO_DEGREES * math.sqrt(of_a_median / 3), rel=1e-6)


@pytest.mark.parametrize("invocations", [1, 2])
def test_fewer_than_three_invocations_have_no_interval(invocations: int) -> None:
    found = over_invocations([[0.0, 0.1, 0.2]] * invocations)
    assert found == Interval(math.exp(0.1))
    assert found.log_half_width is None
    assert verdict_of(found) == "cannot tell"


def test_ratios_are_taken_within_a_round() -> None:
    assert log_ratios([2.0, 30.0], [1.0, 10.0]) == pytest.approx([math.log(2), math.log(3)])
    with pytest.raises(ValueError, match="zip"):
        log_ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize("count", range(1, 8))
def test_fewer_than_eight_samples_have_no_interval_of_their_median(count: int) -> None:
    assert median_interval([1.0] * count) == (-math.inf, math.inf)


def test_eight_samples_have_an_interval_of_their_median() -> None:
    assert median_interval(range(8)) == (1, 7)


def test_the_interval_of_a_median_ends_at_the_ranks_of_the_textbook() -> None:
    # n = 100: 50 -+ 1.96 * 10 / 2 = 40.2 and 59.8, rounded outwards, counted from 0
    assert median_interval(range(100)) == (40, 60)


@given(st.lists(st.floats(0.01, 1e4), min_size=6, max_size=300))
def test_the_interval_holds_the_median(samples: list[float]) -> None:
    low, high = median_interval(samples)
    assert low <= np.median(samples) <= high
    assert {low, high} <= {*samples, -math.inf, math.inf}


def test_the_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        low, high = median_interval(random.lognormal(size=101))
        hits += low <= 1.0 <= high
    assert 0.93 <= hits / 1000 <= 0.985


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=300))
def test_the_quantile_sketch_is_sorted_and_spans_the_samples(samples: list[float]) -> None:
    sketch = quantile_sketch(np.array(samples))
    assert len(sketch) == QUANTILES
    assert all(a <= b or math.isclose(a, b, rel_tol=1e-4) for a, b in itertools.pairwise(sketch))
    assert sketch[0] == pytest.approx(min(samples), rel=1e-4)
    assert sketch[-1] == pytest.approx(max(samples), rel=1e-4)
