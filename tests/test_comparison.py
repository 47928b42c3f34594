"""Verdicts: no win inside the noise, no difference overlooked, and only rows of the same rounds are paired."""

import math
from collections.abc import Callable

import pytest
import simulated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference_lib.records.comparison import SAME_WITHIN, compare, verdict_of
from inference_lib.records.record import Record
from inference_lib.records.statistics import Interval

MakeRecord = Callable[..., Record]


def a_pair(make_record: MakeRecord, seed: int, ratio: float = 1.0) -> tuple[Record, Record]:
    """Return a baseline of 1 ms and a candidate ``ratio`` times as fast, from the simulated host."""
    baseline, candidate = simulated.records(make_record, {"baseline": 1.0, "candidate": 1.0 / ratio}, seed)
    return baseline, candidate


def test_the_same_backend_under_two_names_gets_at_most_five_claims_in_a_hundred(make_record: MakeRecord) -> None:
    verdicts = [compare(*a_pair(make_record, seed)).verdict for seed in range(100)]
    assert sum(verdict in ("faster", "slower") for verdict in verdicts) <= 5


def test_ten_percent_are_found_in_most_runs(make_record: MakeRecord) -> None:
    verdicts = [compare(*a_pair(make_record, seed, ratio=1.1)).verdict for seed in range(100)]
    assert verdicts.count("faster") >= 60
    assert "slower" not in verdicts


@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(make_record: MakeRecord, ratio: float) -> None:
    found = [compare(*a_pair(make_record, seed, ratio)) for seed in range(300)]
    assert sum(one.low <= ratio <= one.high for one in found) / 300 >= 0.9


def test_a_shared_disturbance_cancels_in_the_ratio(make_record: MakeRecord) -> None:
    """The host's luck moves both medians by 6 %, the ratio within rounds by none of it."""
    baseline, candidate = a_pair(make_record, seed=3)
    paired = compare(baseline, candidate)
    apart = compare(baseline, candidate.model_copy(update={"rivals": "another set"}))
    assert paired.paired
    assert not apart.paired
    assert paired.log_half_width < apart.log_half_width / 2


def test_a_clear_win_is_one_and_the_other_way_a_loss(make_record: MakeRecord) -> None:
    slow, fast = make_record(2.0, backend="a"), make_record(1.0, backend="b")
    won, lost = compare(slow, fast), compare(fast, slow)
    assert (won.verdict, lost.verdict) == ("faster", "slower")
    assert (won.ratio, lost.ratio) == (pytest.approx(2), pytest.approx(0.5))


EDGE = 1 + SAME_WITHIN


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (EDGE + 0.001, 1.2, "faster"),
        (EDGE - 0.001, 1.2, "cannot tell"),
        (0.8, 1 / EDGE - 0.001, "slower"),
        (0.8, 1 / EDGE + 0.001, "cannot tell"),
        (1 / EDGE + 0.001, EDGE - 0.001, "same"),
        (1 / EDGE - 0.001, EDGE - 0.001, "cannot tell"),
        (1.001, EDGE - 0.001, "same"),
        (0.5, 2.0, "cannot tell"),
        (None, None, "cannot tell"),
    ],
)
def test_what_an_interval_allows(low: float | None, high: float | None, verdict: str) -> None:
    assert verdict_of(Interval(1.0, low, high)) == verdict


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_invocations_claim_nothing_and_keep_the_ratio(make_record: MakeRecord, count: int) -> None:
    found = compare(make_record(4.0, count, backend="a"), make_record(2.0, count, backend="b"))
    assert (found.verdict, found.ratio, found.low) == ("cannot tell", pytest.approx(2), None)


def test_the_kinds_of_time_have_verdicts_of_their_own(make_record: MakeRecord) -> None:
    eager = make_record(4.0, backend="a", timing={"device_ms": 1.0})
    graph = make_record(2.0, backend="b", timing={"device_ms": 1.0})
    assert compare(eager, graph).verdict == "faster"
    assert compare(eager, graph, "device").verdict == "same"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # make_record keeps no state
@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0, 0.2), st.integers(0, 99), st.sampled_from(["one", "two"]))
def test_swapping_the_two_turns_the_verdict_round(
    make_record: MakeRecord, one: float, other: float, spread: float, seed: int, rivals: str
) -> None:
    noise = {"spread": spread, "luck": spread}
    first = make_record(one, backend="a", rivals="one", timing=noise | {"seed": seed})
    second = make_record(other, backend="b", rivals=rivals, timing=noise | {"seed": seed + 1})
    forth, back = compare(first, second), compare(second, first)
    assert back.verdict == {"faster": "slower", "slower": "faster"}.get(forth.verdict, forth.verdict)
    assert back.low == pytest.approx(1 / forth.high)


# Which rows are paired


def drifting(make_record: MakeRecord, milliseconds: float, **changed: object) -> Record:
    """Return a record whose rounds drift; rounds of the same seed drift alike."""
    return make_record(milliseconds, timing={"spread": 0.2, "seed": 1}, **changed)


def test_rivals_of_one_set_are_compared_within_their_rounds(make_record: MakeRecord) -> None:
    found = compare(drifting(make_record, 4.0, backend="a"), drifting(make_record, 2.0, backend="b"))
    assert found.paired
    assert (found.low, found.high) == (pytest.approx(2), pytest.approx(2))


def test_rounds_of_another_life_of_the_same_set_are_not_the_same_rounds(make_record: MakeRecord) -> None:
    """Seen: one failed when all were measured again, kept its old row, and was called five times as fast."""
    old, new = drifting(make_record, 4.0, backend="a"), drifting(make_record, 2.0, backend="b")
    assert compare(old, new).paired
    for invocation in new.invocations:
        invocation.pace_ms = [0.05] * len(invocation.pace_ms)
    found = compare(old, new)
    assert not found.paired
    assert found.low < found.ratio < found.high


def test_of_a_set_measured_again_in_part_the_common_invocations_are_paired(make_record: MakeRecord) -> None:
    one, other = make_record(4.0, backend="a"), make_record(2.0, backend="b")
    other.invocations[0].end_to_end_ms = [1.0] * len(other.invocations[0].end_to_end_ms)
    other.invocations[0].pace_ms = [0.05] * len(other.invocations[0].pace_ms)
    found = compare(one, other)
    assert found.paired
    assert (found.ratio, found.verdict) == (pytest.approx(2), "cannot tell")  # two invocations of three


@pytest.mark.parametrize("changed", [{"run": "2"}, {"profile": "quick"}, {"rivals": "other"}, {"rivals": ""}])
def test_rounds_of_another_set_run_or_profile_are_not_the_same_rounds(make_record: MakeRecord, changed: dict) -> None:
    found = compare(drifting(make_record, 4.0, backend="a"), drifting(make_record, 2.0, backend="b", **changed))
    assert not found.paired
    assert found.ratio == pytest.approx(2)
    assert found.low < 2 < found.high


def test_rounds_of_another_machine_are_not_the_same_rounds(make_record: MakeRecord) -> None:
    here = drifting(make_record, 4.0, backend="a")
    elsewhere = here.machine.model_copy(update={"gpu": "Another GPU"})
    assert not compare(here, drifting(make_record, 2.0, backend="b", machine=elsewhere)).paired


def carrying(make_record: MakeRecord, milliseconds: float, carried: dict[str, float], **changed: object) -> Record:
    """Return a record that was measured in a set of its own, other rows alongside."""
    attributes = {"backend": "tvm", "rivals": "apart"} | changed
    return make_record(milliseconds, timing={"carried": carried, "spread": 0.001}, **attributes)


def test_a_row_that_went_along_is_compared_in_its_rounds(make_record: MakeRecord) -> None:
    """The baseline took 6 ms where the two took turns, whatever it took in a set of its own."""
    apart = carrying(make_record, 3.0, {"pytorch": 6.0})
    baseline = make_record(4.0)
    for found, ratio in ((compare(baseline, apart), 2.0), (compare(apart, baseline), 0.5)):
        assert found.paired
        assert found.ratio == pytest.approx(ratio, rel=0.01)


def test_a_carried_row_has_a_device_time_too(make_record: MakeRecord) -> None:
    timing = {"carried": {"pytorch": 6.0}, "device_ms": 1.5}
    apart = make_record(3.0, backend="tvm", rivals="apart", timing=timing)
    found = compare(make_record(4.0), apart, "device")
    assert found.paired
    assert found.ratio == pytest.approx(3.0 / 1.5)


@pytest.mark.parametrize("changed", [{"run": "2"}, {"profile": "quick"}, {"model": "vanilla_cnn"}, {"device": "cpu"}])
def test_a_carried_row_stands_for_no_other_cell_than_its_own(make_record: MakeRecord, changed: dict) -> None:
    apart, baseline = carrying(make_record, 3.0, {"pytorch": 6.0}), make_record(4.0, **changed)
    for found, ratio in ((compare(baseline, apart), 4 / 3), (compare(apart, baseline), 3 / 4)):
        assert not found.paired
        assert found.ratio == pytest.approx(ratio, rel=0.01)


def test_two_sets_are_compared_through_a_row_that_both_carry(make_record: MakeRecord) -> None:
    """The second set ran while the host was twice as slow: the carried row says so."""
    one = carrying(make_record, 2.0, {"pytorch": 4.0})
    other = carrying(make_record, 4.0, {"pytorch": 8.0}, backend="openvino", rivals="later")
    found = compare(one, other)
    assert not found.paired
    assert found.ratio == pytest.approx(1, rel=0.01)
    assert found.verdict == "same"


@pytest.mark.parametrize("changed", [{"run": "2"}, {"model": "vanilla_cnn"}, {"batch_size": 8}, {"precision": "fp16"}])
def test_a_link_holds_within_one_cell_of_one_run_alone(make_record: MakeRecord, changed: dict) -> None:
    one = carrying(make_record, 2.0, {"pytorch": 4.0})
    other = carrying(make_record, 4.0, {"pytorch": 8.0}, backend="openvino", rivals="later", **changed)
    assert compare(one, other).ratio == pytest.approx(0.5, rel=0.01)


def test_of_several_links_the_quietest_is_taken(make_record: MakeRecord) -> None:
    def apart(milliseconds: float, graph_ms: float, **changed: object) -> Record:
        record = carrying(make_record, milliseconds, {"pytorch": 9.0, "pytorch-cudagraph": graph_ms}, **changed)
        for invocation, factor in zip(record.invocations, (0.5, 1.0, 2.0), strict=True):
            noisy = invocation.carried["pytorch"]
            noisy.end_to_end_ms = [ms * factor for ms in noisy.end_to_end_ms]
        return record

    found = compare(apart(2.0, 1.0), apart(4.0, 1.0, backend="openvino", rivals="later"))
    assert found.ratio == pytest.approx(0.5, rel=0.01)
    assert found.log_half_width < 0.02


def test_a_link_without_this_kind_of_time_is_none(make_record: MakeRecord) -> None:
    def apart(**changed: object) -> Record:
        record = carrying(make_record, 2.0, {"pytorch": 4.0}, **changed)
        for invocation in record.invocations:
            invocation.carried["pytorch"].device_ms = []
        return record

    fast = apart(backend="openvino", rivals="later")
    for invocation in fast.invocations:
        invocation.device_ms = [ms / 2 for ms in invocation.device_ms]
    found = compare(apart(), fast, "device")
    assert found.ratio == pytest.approx(2, rel=0.01)


def test_what_shares_nothing_is_compared_by_its_medians_with_both_uncertainties(make_record: MakeRecord) -> None:
    one = make_record(4.0, rivals="one", timing={"luck": 0.1, "seed": 1})
    other = make_record(2.0, rivals="other", timing={"luck": 0.1, "seed": 2})
    halves = [record.median("end_to_end").log_half_width for record in (one, other)]
    assert compare(one, other).log_half_width == pytest.approx(math.hypot(*halves))
