"""The two ends between which a row is expected, against the roofline's own bounds, and the gap of invented records."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from IPython.display import HTML, Markdown

from inference_lib.measure.roofline import Ceilings, bounds, work_of
from inference_lib.records.record import Record
from inference_lib.report import bracket as module
from inference_lib.report.bracket import Bracket, glue_answer
from inference_lib.report.rivals import Rivals

MakeRecord = Callable[..., Record]


@pytest.fixture
def bracket(make_record: MakeRecord) -> Bracket:
    ceilings = Ceilings(flops={"fp32": 1e13, "fp16": 1e14}, bandwidth=1e12, machine=make_record().machine.name("cuda"))
    return Bracket("resnet18", "fp16", ceilings)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_the_ends_are_the_longer_bound_fused_and_both_bounds_unfused(bracket: Bracket, batch_size: int) -> None:
    assert bracket.ceilings
    work = work_of("resnet18", batch_size, "fp16")
    fused = bounds(work, bracket.ceilings, "fp16", "fused")
    unfused = bounds(work, bracket.ceilings, "fp16", "unfused")
    low, high = bracket.ends_ms(batch_size)
    assert low == pytest.approx(1e3 * max(fused["compute"], fused["memory"]))
    assert high == pytest.approx(1e3 * (unfused["compute"] + unfused["memory"]))
    assert low < high


def test_the_table_has_both_ends_with_three_figures(bracket: Bracket) -> None:
    shown = bracket.table([1, 64])
    assert isinstance(shown, HTML)
    for size in (1, 64):
        assert all(f">{end:.3g}<" in str(shown.data) for end in bracket.ends_ms(size))


def test_the_gap_is_told_of_rows_of_the_cell_on_the_machine_of_the_ceilings(
    bracket: Bracket, make_record: MakeRecord
) -> None:
    mine = make_record(model="resnet18", precision="fp16", batch_size=1)
    assert mine.latency
    assert mine.latency.device
    others = [make_record(model="mobilenet_v2", precision="fp16"), make_record(model="resnet18", precision="fp32")]
    times = mine.latency.device.value / bracket.ends_ms(1)[0]
    told = bracket.gap([*others, mine])
    assert re.fullmatch(rf"The time over the lower end: at batch 1, .* FP16 {times:.1f} times", told)
    assert told.count("times") == 1
    assert bracket.ceilings
    elsewhere = replace(bracket, ceilings=bracket.ceilings.model_copy(update={"machine": "another"}))
    assert "no such row" in elsewhere.gap([mine])


def test_the_band_stands_behind_the_bars_of_one_batch_size(bracket: Bracket, make_record: MakeRecord) -> None:
    drawn = bracket.figure([make_record(model="resnet18", precision="fp16", batch_size=size) for size in (1, 64)], 64)
    assert isinstance(drawn, HTML)
    assert len(re.findall("batch 64", str(drawn.data))) == 1
    assert isinstance(bracket.figure([], 64), Markdown)


def test_without_ceilings_everything_says_so(make_record: MakeRecord) -> None:
    bracket = Bracket("resnet18", "fp16", None)
    rows = [make_record(model="resnet18", precision="fp16")]
    for shown in (bracket.table([1]), bracket.figure(rows, 1)):
        assert isinstance(shown, Markdown)
        assert "ceilings" in str(shown.data)
    said = bracket.gap(rows)
    assert said.startswith("The ceilings of this GPU are not measured yet")
    assert f": at batch {rows[0].batch_size}, " in said
    assert said.endswith(f" FP16 {rows[0].median('device').value:.3f} ms")
    assert "yet" in bracket.gap([])
    assert "ms" not in bracket.gap([])


def test_an_answer_is_glued_under_the_chapter_s_number(
    bracket: Bracket, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    glued: dict[str, str] = {}
    monkeypatch.setattr(module, "glue", glued.__setitem__)
    rows = [
        make_record(1.0, model="resnet18", precision="fp16", backend="tensorrt", title="TensorRT"),
        make_record(2.0, model="resnet18", precision="fp16", backend="onnxruntime", title="ONNX Runtime"),
        make_record(2.0, model="resnet18", precision="fp16", backend="onnxruntime", batch_size=256),
    ]
    compared = Rivals.of(["onnxruntime", "tensorrt"], rows, [], ["fp16"])
    glue_answer("09", bracket, compared, "tensorrt", reference=("TensorRT", "ONNX"))
    assert glued["09-gap"] == bracket.gap([rows[1], rows[0]])
    assert glued["09-verdict"].endswith("TensorRT end to end: against ONNX Runtime it is 2.0 times faster at batch 1")
    assert glued["09-reference"] == "3.5"
