"""Two runs of one grid: what is counted, and what the command line makes of it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from inference_lib.cli import main
from inference_lib.records.record import Record
from inference_lib.records.replication import honest_percent, pairs, replication, summary
from inference_lib.records.store import RecordStore
from inference_lib.report.readme import results
from inference_lib.report.tables import measured_by_other_code, measured_twice, replicated

MakeRecord = Callable[..., Record]
COUNTS = ["pairs", "claims", "contradicted", "not_confirmed", "compatible_percent"]

FIRST = {"a": 4.0, "b": 2.0, "c": 2.0, "d": 1.0}
SECOND = {"a": 2.0, "b": 4.0, "c": 4.0, "d": 1.0}
"""In the first run b, c and d beat a, d beats b and c, and b and c are level. In the second a beats b and c, d beats
everyone, b and c are level."""


def a_run(make_record: MakeRecord, times: dict[str, float], run: str, **changed: object) -> list[Record]:
    """Return the records of one set: exact times, so that every claim is one."""
    return [make_record(ms, backend=name, run=run, **changed) for name, ms in times.items()]


def test_every_pair_is_counted_once_and_claims_are_held_against_the_second_run(make_record: MakeRecord) -> None:
    found = replication(a_run(make_record, FIRST, "1"), a_run(make_record, SECOND, "2"))
    assert list(found) == ["end_to_end", "device"]
    for counts in found.values():
        assert [counts[key] for key in COUNTS[:4]] == [6, 5, 2, 2]
        # b and c are level in both runs, all other ratios moved, by a factor and not by their intervals of nothing
        assert counts["compatible_percent"] == pytest.approx(100 / 6)


def test_a_claim_that_the_second_run_cannot_tell_is_not_confirmed_and_not_contradicted(make_record: MakeRecord) -> None:
    noisy = {"luck": 0.5, "seed": 3}
    second = [make_record(4.0, backend="a", run="2"), make_record(2.0, backend="b", run="2", timing=noisy)]
    counts = summary(pairs(a_run(make_record, {"a": 4.0, "b": 2.0}, "1"), second, "end_to_end"))
    assert [counts[key] for key in COUNTS] == [1, 1, 0, 1, 100]


def test_the_same_run_twice_is_compatible_with_itself_in_all(make_record: MakeRecord) -> None:
    timing = {"spread": 0.1, "luck": 0.1}
    run = [make_record(ms, backend=name, timing=timing | {"seed": n}) for n, (name, ms) in enumerate(FIRST.items())]
    counts = replication(run, run)["end_to_end"]
    assert (counts["contradicted"], counts["not_confirmed"], counts["compatible_percent"]) == (0, 0, 100)


def test_ratios_are_compatible_within_the_root_of_the_summed_squares(make_record: MakeRecord) -> None:
    def pair(ratio: float) -> bool:
        first = a_run(make_record, {"a": 2.0, "b": 1.0}, "1", timing={"luck": 0.1, "seed": 1})
        first[0] = make_record(2.0, backend="a", run="1")
        second = a_run(make_record, {"a": 2.0, "b": 1.0}, "2", timing={"luck": 0.1, "seed": 1})
        second[0] = make_record(2.0 * ratio, backend="a", run="2")
        (found,) = pairs(first, second, "end_to_end")
        half = found.first.log_half_width
        assert found.second.log_half_width == pytest.approx(half)
        return found.compatible, half

    _, half = pair(1.0)
    allowed = 2**0.5 * half
    assert pair(2.718281828 ** (0.99 * allowed))[0]
    assert not pair(2.718281828 ** (1.01 * allowed))[0]


def test_honest_intervals_of_few_invocations_leave_more_than_95_compatible() -> None:
    """Seen: 96.9 of 100 were read as intervals wider than they need to be."""
    random, invocations, tries = np.random.default_rng(0), 3, 40_000
    runs = random.normal(size=(2, tries, invocations))
    reach = special.stdtrit(invocations - 1, 0.975) / invocations**0.5
    half = reach * runs.std(axis=2, ddof=1)
    assert 100 * np.mean(np.abs(runs[0].mean(axis=1)) <= half[0]) == pytest.approx(95, abs=0.5)  # honest
    apart = np.abs(runs[0].mean(axis=1) - runs[1].mean(axis=1))
    compatible = 100 * np.mean(apart <= np.hypot(*half))
    assert honest_percent(invocations) == pytest.approx(compatible, abs=0.3)
    assert honest_percent(invocations) > 98 > honest_percent(50) > 95


def test_the_readme_says_how_many_honest_intervals_leave_compatible(make_record: MakeRecord) -> None:
    runs = [a_run(make_record, FIRST, run, count=4) for run in "12"]
    said = f"of 4 starts each, are honest, {honest_percent(4):.1f} of 100 are"
    assert said in results([*runs[0], *runs[1]])


def test_what_only_one_run_measured_or_another_set_did_is_no_pair(make_record: MakeRecord) -> None:
    first = a_run(make_record, FIRST, "1")
    second = a_run(make_record, {"a": 4.0, "b": 2.0}, "2")
    second += [make_record(2.0, backend="c", run="2", rivals="apart"), make_record(backend="d", run="2", count=0)]
    assert [(p.baseline.backend, p.candidate.backend) for p in pairs(first, second, "end_to_end")] == [("a", "b")]


def test_profiles_are_not_mixed(make_record: MakeRecord) -> None:
    quick = [a_run(make_record, FIRST, run, profile="quick", count=1) for run in "12"]
    full = a_run(make_record, FIRST, "1"), a_run(make_record, SECOND, "2")
    for first, second in ((quick[0] + full[0], quick[1] + full[1]), (full[0] + quick[0], full[1] + quick[1])):
        counts = replication(first, second)["end_to_end"]
        assert [counts[key] for key in COUNTS[1:]] == [5, 2, 2, pytest.approx(100 / 6)]
        for pair in pairs(first, second, "end_to_end"):
            assert pair.baseline.profile == pair.candidate.profile


def test_a_cpu_has_no_device_times(make_record: MakeRecord) -> None:
    first, second = (a_run(make_record, FIRST, run, device="cpu") for run in "12")
    counts = replication(first, second)
    assert (counts["end_to_end"]["pairs"], counts["device"]["pairs"]) == (6, 0)
    assert counts["device"]["compatible_percent"] is None


# The command


def stored(folder: Path, *runs: list[Record]) -> Path:
    for record in (record for run in runs for record in run):
        RecordStore(folder).write(record)
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["replicate", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def two_runs(tmp_path: Path, make_record: MakeRecord) -> Path:
    return stored(tmp_path / "both", a_run(make_record, FIRST, "1"), a_run(make_record, SECOND, "2"))


@pytest.mark.parametrize(("limit", "status"), [("39.9", 1), ("40", 0), ("100", 0)])
def test_the_exit_status_says_whether_too_many_claims_were_contradicted(
    two_runs: Path, capsys: pytest.CaptureFixture[str], limit: str, status: int
) -> None:
    found, text, _ = printed(
        capsys, "--records", str(two_runs), "--format", "json", "--max-contradicted", limit
    )  # 2 of 5 claims
    assert found == status
    counts = json.loads(text)
    assert set(counts) == {"end_to_end", "device"}
    for kind in counts.values():
        assert set(COUNTS) <= set(kind)
        assert kind["contradicted"] == 2


def test_the_second_run_is_compared_with_the_tenth_and_not_the_other_way_round(
    tmp_path: Path, make_record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = a_run(make_record, FIRST, "2"), a_run(make_record, FIRST | {"d": 2.0}, "10")
    _, text, _ = printed(capsys, "--records", str(stored(tmp_path, second, first)), "--format", "json")
    counts = json.loads(text)["end_to_end"]
    assert (counts["claims"], counts["not_confirmed"]) == (5, 2)
    assert replicated([*second, *first]) == replication(first, second)


def test_the_limit_is_two_percent_unless_asked(two_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--records", str(two_runs))[0] == 1


def test_runs_in_two_folders_are_compared_in_that_order(
    tmp_path: Path, make_record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    one = stored(tmp_path / "one", a_run(make_record, FIRST, "1"))
    other = stored(tmp_path / "other", a_run(make_record, FIRST | {"d": 2.0}, "1"))
    status, text, _ = printed(capsys, "--records", str(one), str(other), "--format", "json")
    assert status == 0
    counts = json.loads(text)["end_to_end"]
    assert (counts["claims"], counts["not_confirmed"]) == (5, 2)
    _, text, _ = printed(capsys, "--records", str(other), str(one), "--format", "json")
    counts = json.loads(text)["end_to_end"]
    assert (counts["claims"], counts["not_confirmed"]) == (3, 0)


def test_the_table_has_the_counts_and_the_worst_pairs(two_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text, _ = printed(capsys, "--records", str(two_runs))
    for word in ("end to end", "device", "contradicted", "not confirmed", "b fp32 / a fp32, resnet18 batch 1 on cuda"):
        assert word in text


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["one"], "two runs are needed"),
        (["one", "empty"], "no records in"),
        (["empty"], "no records in"),
        (["one", "other", "one"], "two folders are compared, not 3"),
        (["one", "other"], "no two rivals were measured in both runs"),
        (["one", "one"], "compared with itself"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(
    tmp_path: Path, make_record: MakeRecord, capsys: pytest.CaptureFixture[str], folders: list[str], said: str
) -> None:
    stored(tmp_path / "one", a_run(make_record, FIRST, "1"))
    stored(tmp_path / "other", [make_record(1.0, model="vanilla_cnn")])
    status, text, errors = printed(capsys, "--records", *(str(tmp_path / name) for name in folders))
    assert (status, text) == (1, "")
    assert errors.count("\n") == 1
    assert said in errors


def test_how_many_rows_the_second_run_measured_is_said_whichever_run_comes_first(make_record: MakeRecord) -> None:
    first, second = a_run(make_record, FIRST, "1"), a_run(make_record, FIRST, "2")
    assert measured_twice([*second[:3], *first]) == "3 of the 4 rows"
    assert measured_twice([*first, *second]) == "all 4 rows"
    host = make_record(1.0, backend="a", device="cpu", run="1")
    assert measured_twice([host, *first, *second]) == "all 4 rows"


def test_rows_that_other_code_measured_in_the_second_run_are_counted(make_record: MakeRecord) -> None:
    first, second = a_run(make_record, FIRST, "1"), a_run(make_record, FIRST, "2")
    assert measured_by_other_code([*first, *second]) == 0
    second[1] = second[1].model_copy(update={"fingerprint": "another"})
    assert measured_by_other_code([*second, *first]) == 1
    alone = make_record(1.0, backend="z", run="2", fingerprint="another")
    assert measured_by_other_code([*first, *second, alone]) == 1
    assert "measured all 4 rows, 1 of them with other code or versions than the first. A pair" in results(
        [*first, *second]
    )
    assert "measured all 4 rows. A pair" in results([*first, *a_run(make_record, FIRST, "2")])
