"""The choice is the best record within the limits, and every other one is refused with a reason that is true."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference_lib.backends import BACKENDS, SERVED_WITHOUT_PYTHON
from inference_lib.cli import main
from inference_lib.commands import choose as choosing
from inference_lib.records.record import Accuracy, Build, Record
from inference_lib.records.statistics import QUANTILES
from inference_lib.records.store import RecordStore
from inference_lib.report.choose import (
    advantage,
    break_even,
    choose,
    images_per_s,
    is_level,
    latency_ms,
    level_with,
    pareto_front,
    places,
    quickest,
    seconds_to_first_answer,
)
from inference_lib.support.errors import CourseError

MakeRecord = Callable[..., Record]


def accuracy(percent: float) -> Accuracy:
    return Accuracy(accuracy_percent=percent, agreement_percent=100, largest_difference=0, images=10_000)


def reasons(choice) -> list[str]:
    return [reason for _, reason in choice.excluded]


def test_the_quickest_record_of_the_model_is_chosen(make_record: MakeRecord) -> None:
    slow, fast, other = make_record(2.0), make_record(1.0), make_record(0.1, model="vanilla_cnn")
    choice = choose([slow, fast, other], "resnet18")
    assert choice.best == fast
    assert choice.ranked == (fast, slow)
    assert choice.excluded == ()


def test_a_row_within_the_noise_is_level_with_the_quickest(make_record: MakeRecord) -> None:
    best = make_record(1.0, backend="a")
    near, far = make_record(1.01, backend="b"), make_record(1.1, backend="c")
    assert level_with(best, [far, near, best, make_record(1.0, status="failed")]) == [near]


def test_whether_rows_are_level_is_said_by_their_rounds_and_not_by_their_medians(make_record: MakeRecord) -> None:
    """Ten percent apart in a host that drifts by twenty: clear where both drifted alike, open where they did not."""

    def noisy(milliseconds: float, **changed: object) -> Record:
        return make_record(milliseconds, timing={"luck": 0.2, "seed": 1}, **changed)

    best, slower = noisy(1.0, backend="a"), noisy(1.1, backend="b")
    apart = noisy(1.1, backend="b", rivals="another set")
    assert level_with(best, [slower]) == []
    assert level_with(best, [apart]) == [apart]


def test_from_too_few_invocations_nothing_is_level(make_record: MakeRecord) -> None:
    assert level_with(make_record(1.0, count=1, backend="a"), [make_record(1.0, count=1, backend="b")]) == []


def test_throughput_is_end_to_end_images_per_second(make_record: MakeRecord) -> None:
    single = make_record(1.0, throughput_images_per_s=1e9)
    batch = make_record(4.0, batch_size=8)
    assert choose([single, batch], "resnet18").best == single
    assert choose([single, batch], "resnet18", goal="throughput").best == batch


def test_a_long_run_has_its_slow_inferences_in_it(make_record: MakeRecord) -> None:
    """The shorter median is not the most productive row, if every other of its inferences takes three times as long."""
    steady, lame = make_record(1.1), make_record(1.0)
    for invocation in lame.invocations:
        invocation.quantiles = [1.0] * (QUANTILES // 2 + 1) + [3.0] * (QUANTILES // 2)
    assert lame.fps == pytest.approx(1000)
    assert images_per_s(lame) == pytest.approx(1e3 / (1.0 + 2.0 * (QUANTILES // 2) / QUANTILES))
    assert choose([steady, lame], "resnet18").best == lame
    assert choose([steady, lame], "resnet18", goal="throughput").best == steady
    assert pareto_front([steady, lame]) == [lame, steady]


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"max_p99_ms": 2.5}, "p99 latency 3 ms, more than 2.5 ms"),
        ({"max_p50_ms": 1.9}, "median latency 2 ms, more than 1.9 ms"),
    ],
)
def test_the_median_and_the_99th_percentile_have_limits(make_record: MakeRecord, limit: dict, reason: str) -> None:
    record = make_record(2.0)  # p99 is 3 ms
    assert choose([record], "resnet18", max_p50_ms=2.1, max_p99_ms=3.1).best == record
    choice = choose([record], "resnet18", **limit)
    assert (choice.best, reasons(choice)) == (None, [reason])


def test_a_p99_counts_only_where_the_samples_carry_it(make_record: MakeRecord) -> None:
    """From 300 inferences there is none: such a row is refused for that, however quick its quickest three were."""
    few = make_record(0.1, timing={"iterations": 100})
    assert choose([few], "resnet18").best == few
    assert choose([few], "resnet18", max_p50_ms=1.0).best == few
    assert reasons(choose([few], "resnet18", max_p99_ms=1.0)) == ["p99 latency was not measured"]


def test_every_broken_limit_is_named(make_record: MakeRecord) -> None:
    record = make_record(2.0, accuracy=accuracy(90.0), gpu_memory_mib=2048.0)
    choice = choose([record], "resnet18", 1.0, 94.5, 1024)
    assert reasons(choice) == [
        "p99 latency 3 ms, more than 1 ms; accuracy 90 %, less than 94.5 %; GPU memory 2,048 MiB, more than 1,024 MiB"
    ]


def test_a_limit_on_what_was_not_measured_excludes(make_record: MakeRecord) -> None:
    record = make_record(accuracy=None, device="cpu")
    assert choose([record], "resnet18").best == record
    assert reasons(choose([record], "resnet18", max_memory_mib=500)) == ["GPU memory was not measured"]
    assert reasons(choose([record], "resnet18", min_accuracy_percent=50)) == ["accuracy was not measured"]


def test_an_unmeasured_record_keeps_its_own_reason(make_record: MakeRecord) -> None:
    absent = make_record(status="unavailable", reason="not installed", count=0)
    full = make_record(status="out_of_memory", reason="CUDA out of memory", count=0)
    choice = choose([absent, full], "resnet18", min_accuracy_percent=99)
    assert reasons(choice) == ["unavailable: not installed", "out of memory: CUDA out of memory"]


def test_a_failed_record_is_never_chosen_however_quick(make_record: MakeRecord) -> None:
    wrong, right = make_record(0.1, status="failed", reason="logits differ"), make_record(5.0)
    assert choose([wrong, right], "resnet18").best == right
    assert pareto_front([wrong, right]) == [right]
    assert quickest([wrong, right]) == right


def test_flags_do_not_exclude_and_stay_visible(make_record: MakeRecord) -> None:
    flagged = make_record(flags=["latency varies by 20 %"])
    assert choose([flagged], "resnet18").best.flags == ["latency varies by 20 %"]


@pytest.mark.parametrize(
    ("recorded", "found"),
    [
        (["net-1", "net-1-d1"], "net-1"),
        (["net-1-d1", "net-2"], "net-1-d1"),
        (["net-1-d1", "net-1-d2"], ""),
        ([], "net-1"),
    ],
)
def test_a_reader_s_model_is_found_on_the_pictures_it_was_checked_on(
    make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch, recorded: list[str], found: str
) -> None:
    monkeypatch.setattr(choosing.common, "find_models", lambda *_: [argparse.Namespace(name="net-1")])
    records = [make_record(model=name) for name in recorded]
    asked = argparse.Namespace(model="net.py:make")
    if found:
        assert choosing._measured(asked, records) == found
    else:
        with pytest.raises(CourseError, match="several folders of pictures; choose one of: net-1-d1, net-1-d2"):
            choosing._measured(asked, records)


def test_nothing_to_choose_from(make_record: MakeRecord) -> None:
    assert choose([], "resnet18").best is None
    with pytest.raises(CourseError, match="run a framework chapter first"):
        quickest([])


def test_unknown_names_are_refused_with_the_valid_ones(make_record: MakeRecord) -> None:
    with pytest.raises(CourseError, match=r"unknown model 'resnet81'; choose one of: .*resnet18"):
        choose([make_record()], "resnet81")
    with pytest.raises(CourseError, match="unknown goal 'speed'; choose one of: latency, throughput"):
        choose([make_record()], "resnet18", goal="speed")


def test_the_front_drops_what_another_beats(make_record: MakeRecord) -> None:
    quick, dense = make_record(1.0), make_record(4.0, batch_size=8)
    beaten, tied = make_record(5.0, batch_size=8), make_record(1.0, precision="fp16")
    assert pareto_front([dense, beaten, quick, tied]) == [quick, dense]


CELLS = st.lists(st.tuples(st.integers(1, 1000), st.sampled_from([1, 8, 64, 256])), min_size=1, max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # make_record keeps no state
@given(cells=CELLS, limit=st.integers(1, 2000))
def test_choices_are_the_best_within_the_limit_and_lie_on_the_front(make_record, cells, limit) -> None:
    records = [make_record(float(ms), batch_size=b) for ms, b in cells]
    front = [(latency_ms(r), images_per_s(r)) for r in pareto_front(records)]
    assert front == sorted(set(front))
    assert [speed for _, speed in front] == sorted(speed for _, speed in front)
    for goal in ("latency", "throughput"):
        choice = choose(records, "resnet18", max_p99_ms=limit, goal=goal)
        assert len(choice.ranked) + len(choice.excluded) == len(records)
        within = [r for r in records if r.latency.end_to_end.p99.value <= limit]
        assert sorted(map(id, choice.ranked)) == sorted(map(id, within))
        if choice.best and goal == "throughput":
            assert images_per_s(choice.best) == max(map(images_per_s, within))
            assert (latency_ms(choice.best), images_per_s(choice.best)) in front
        if choice.best and goal == "latency":
            assert latency_ms(choice.best) == min(map(latency_ms, within))


def build(seconds: float) -> Build:
    return Build(export_s=seconds, load_s=0, first_inference_s=0, artifact_mib=1, alone=True)


def test_break_even_is_where_the_two_totals_meet(make_record: MakeRecord) -> None:
    eager, compiled = make_record(5.0, build=build(1)), make_record(1.0, build=build(21))
    inferences = break_even(compiled, eager)
    assert inferences == pytest.approx(5000)
    total = [seconds_to_first_answer(r) + inferences * latency_ms(r) / 1e3 for r in (eager, compiled)]
    assert total[0] == pytest.approx(total[1])


def test_a_slower_record_never_breaks_even_and_a_cheaper_one_at_once(make_record: MakeRecord) -> None:
    eager = make_record(5.0, build=build(1))
    assert break_even(make_record(6.0, build=build(0)), eager) is None
    assert break_even(eager, eager) is None
    assert break_even(make_record(1.0, build=build(0.5)), eager) == 0


def test_what_needs_python_is_refused_where_there_is_none(make_record: MakeRecord) -> None:
    eager, compiled, portable = (make_record(backend=name) for name in ("pytorch", "torch-compile", "onnxruntime"))
    choice = choose([eager, compiled, portable], "resnet18", without_python=True)
    assert choice.ranked == (portable,)
    assert choice.excluded == ((eager, "needs Python to run"), (compiled, "needs Python to run"))
    assert choose([eager], "resnet18").best == eager


def test_the_backends_that_need_python_to_run() -> None:
    need_it = {"pytorch", "pytorch-cudagraph", "torch-compile", "torch-tensorrt", "cudnn"}
    assert set(BACKENDS) - set(SERVED_WITHOUT_PYTHON) == need_it


def test_a_tie_shares_the_place_of_the_best_row_in_it(make_record: MakeRecord) -> None:
    times = {"a": 1.0, "b": 1.004, "c": 2.0, "d": 2.004}
    ranked = [make_record(ms, backend=name) for name, ms in times.items()]
    assert places(ranked, "latency") == [1, 1, 3, 3]
    assert places(ranked, "throughput") == [1, 1, 3, 3]
    assert places([make_record(ms, count=1) for ms in times.values()], "latency") == [1, 2, 3, 4]


def test_a_noisy_row_does_not_bring_rows_together_that_are_clearly_apart(make_record: MakeRecord) -> None:
    ways = {"quick": (1.0, {}), "noisy": (1.3, {"luck": 0.3, "seed": 3}), "slow": (2.0, {})}
    ranked = [make_record(ms, backend=name, rivals=name, timing=timing) for name, (ms, timing) in ways.items()]
    quick, noisy, slow = ranked = sorted(ranked, key=lambda record: record.latency.end_to_end.p50)
    assert [is_level(quick, noisy), is_level(noisy, slow), is_level(quick, slow)] == [True, True, False]
    assert places(ranked, "latency") == [1, 1, 3]


def test_for_throughput_a_batch_counts_with_its_pictures(make_record: MakeRecord) -> None:
    single, batch = make_record(1.0), make_record(4.0, batch_size=8)
    assert advantage(single, batch, "throughput").value == pytest.approx(2.0)
    assert advantage(single, batch, "latency").value == pytest.approx(0.25)
    assert places([batch, single], "throughput") == [1, 2]


@pytest.fixture
def folder(tmp_path: Path, make_record: MakeRecord) -> str:
    store = RecordStore(tmp_path)
    names = {"pytorch": 2.0, "torch-compile": 1.0, "onnxruntime": 1.004, "tvm": 1.5}
    for name, ms in names.items():
        store.write(make_record(ms, backend=name, title=name))
    store.write(make_record(count=0, backend="tensorrt", title="TensorRT", status="unavailable", reason="not there"))
    store.write(make_record(5.0, backend="openvino", title="OpenVINO", device="cpu"))
    store.write(make_record(0.1, backend="tvm", title="of another run", run="2"))
    return str(tmp_path)


def command(capsys: pytest.CaptureFixture[str], folder: str, *arguments: str) -> tuple[int, str]:
    status = main(["choose", "--model", "resnet18", "--records", folder, *arguments])
    said = capsys.readouterr()
    return status, said.out or said.err


def test_the_command_ranks_each_machine_alone_and_says_why_not(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = command(capsys, folder, "--max-latency-ms", "1.8", "--max-p99-ms", "9", "--min-accuracy", "94")
    assert status == 0
    gpu, cpu = text.split("\n\n") if text.startswith("NVIDIA") else reversed(text.split("\n\n"))
    places = [line.split()[:2] for line in gpu.splitlines() if line[:1].isdigit()]
    assert places == [["1", "(tie)"], ["1", "(tie)"], ["3", "tvm"]]
    assert "- pytorch FP32, batch 1: median latency 2 ms, more than 1.8 ms" in gpu
    assert "- TensorRT FP32, batch 1: unavailable: not there" in gpu
    assert "Test CPU (2 cores), full profile, run 1: no row meets the request" in cpu
    assert "another run" not in text


def test_the_command_answers_programs_and_ends_with_1_where_nothing_fits(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = command(capsys, folder, "--device", "cuda", "--no-python", "--max-memory-mib", "513", "--json")
    (answer,) = json.loads(text)
    assert status == 0
    assert [(row["backend"], row["place"]) for row in answer["ranked"]] == [("onnxruntime", 1), ("tvm", 2)]
    assert {row["backend"]: row["reason"] for row in answer["excluded"]} == {
        "pytorch": "needs Python to run",
        "torch-compile": "needs Python to run",
        "tensorrt": "unavailable: not there",
    }
    assert answer["machine"] == "NVIDIA Test GPU"
    assert answer["ranked"][1]["without_python"] == "TVM's runtime (C++)"
    assert "TVM's runtime (C++)" in command(capsys, folder, "--no-python")[1]
    status, text = command(capsys, folder, "--max-memory-mib", "1")
    assert status == 1
    assert "GPU memory 512 MiB, more than 1 MiB" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet19"], "unknown model 'resnet19'; choose one of: resnet18"),
        (["--run", "7"], "no records of run 7"),
        (["--records", "nowhere"], "no records in nowhere"),
    ],
)
def test_a_request_that_means_nothing_is_one_line(
    folder: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, text = command(capsys, folder, *arguments)
    assert status == 1
    assert message in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_eight_bits_are_chosen_only_where_they_are_allowed(make_record: MakeRecord, precision: str) -> None:
    quick, exact = make_record(1.0, precision=precision), make_record(2.0)
    assert choose([quick, exact], "resnet18").best == exact
    assert reasons(choose([quick, exact], "resnet18")) == ["calibrated; --allow-int8 lets it in"]
    assert choose([quick, exact], "resnet18", allow_int8=True).best == quick
