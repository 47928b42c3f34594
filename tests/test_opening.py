"""The figure that opens the course says what the records say."""

from collections.abc import Callable
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from drawn import smallest_text

from inference_lib.measure.roofline import Ceilings, bounds, work_of
from inference_lib.records.record import Record
from inference_lib.report import opening as figure
from inference_lib.report.opening import opening

MakeRecord = Callable[..., Record]


def rows(make_record: MakeRecord) -> list[Record]:
    """Return one network's rows: the loop, two ways that are level, one in two precisions, and what has no place."""
    return [
        make_record(2.0),
        make_record(1.5, precision="fp16"),
        make_record(0.5, backend="tvm", title="TVM", precision="fp16"),
        make_record(0.502, backend="aot-inductor", title="AOTInductor", precision="fp16"),
        make_record(1.2, backend="onnxruntime", title="ONNX Runtime"),
        make_record(0.9, backend="onnxruntime", title="ONNX Runtime", precision="fp16"),
        make_record(0.1, backend="cudnn", title="cuDNN", precision="int8"),
        make_record(0.1, backend="tvm", title="TVM", precision="fp16", run="2"),
        make_record(0.1, backend="tvm", title="TVM", precision="fp16", batch_size=8),
        make_record(9.0, backend="openvino", title="OpenVINO", device="cpu"),
        make_record(0.2, model="vanilla_cnn"),
        make_record(count=0, backend="tensorrt", title="TensorRT", status="unavailable", reason="none"),
    ]


def test_a_bar_is_a_way_in_its_quickest_precision_and_the_first_is_the_loop(
    make_record: MakeRecord, tmp_path: Path
) -> None:
    found = opening(rows(make_record), tmp_path)
    assert found
    assert [(r.title, r.precision, r.median("end_to_end").value) for r in found.records] == [
        ("PyTorch (eager)", "fp32", pytest.approx(2.0)),
        ("ONNX Runtime", "fp16", pytest.approx(0.9)),
        ("AOTInductor", "fp16", pytest.approx(0.502)),
        ("TVM", "fp16", pytest.approx(0.5)),
    ]
    assert found.bound_ms is None
    drawn = BeautifulSoup(figure.figure(found).data, "html.parser")
    texts = [text.get_text() for text in drawn.select("svg text")]
    for part in ("the loop everybody writes, FP32", "TVM FP16", "0.5 ms", "0.502 ms", "2 ms"):
        assert part in texts
    assert "PyTorch (eager) FP32 2.00 ms; ONNX Runtime FP16 0.90 ms" in drawn.svg["aria-label"]
    assert "hollow ones are not clearly slower than TVM FP16" in drawn.figcaption.get_text()


def test_the_bound_is_the_roofline_s_of_this_very_machine(make_record: MakeRecord, tmp_path: Path) -> None:
    ceilings = Ceilings(flops={"fp16": 1e14, "fp32": 1e13}, bandwidth=1e12, machine="NVIDIA Test GPU")
    (tmp_path / "cuda-1.json").write_text(ceilings.model_dump_json())
    found = opening(rows(make_record), tmp_path)
    assert found
    expected = 1e3 * max(bounds(work_of("resnet18", 1, "fp16"), ceilings, "fp16", "fused").values())
    assert found.bound_ms == pytest.approx(expected)
    assert "what the hardware allows, FP16" in figure.svg(found)
    assert f"{expected:.3f} ms" in found.alt
    other = ceilings.model_copy(update={"machine": "another"})
    (tmp_path / "cuda-1.json").write_text(other.model_dump_json())
    assert opening(rows(make_record), tmp_path).bound_ms is None


def test_its_text_is_large_enough_on_a_phone(make_record: MakeRecord, tmp_path: Path) -> None:
    found = opening(rows(make_record), tmp_path)
    assert found
    assert 8.7 <= smallest_text(figure.svg(found)) < 16


def test_without_a_gpu_it_is_the_cpu_s_and_without_intervals_nothing_is_said_to_be_level(
    make_record: MakeRecord, tmp_path: Path
) -> None:
    quick = [make_record(2.0, count=1, device="cpu"), make_record(2.0, count=1, device="cpu", title="B", backend="tvm")]
    found = opening(quick, tmp_path)
    assert found
    assert {record.device for record in found.records} == {"cpu"}
    assert "hollow" not in found.caption
    assert opening([], tmp_path) is None


def test_what_makes_a_row_doubtful_is_said_below(make_record: MakeRecord, tmp_path: Path) -> None:
    kinds = {"A": ["hot"], "B": ["hot"], "C": []}
    found = opening(
        [make_record(2.0, title=title, backend=title, flags=flags) for title, flags in kinds.items()], tmp_path
    )
    assert found
    assert " A FP32 and B FP32: hot. " in found.caption


def test_the_same_records_give_the_same_file(make_record: MakeRecord, tmp_path: Path) -> None:
    first, second = (figure.svg(opening(rows(make_record), tmp_path)) for _ in range(2))
    assert first == second
    assert "currentColor" in first
    assert figure.png(opening(rows(make_record), tmp_path)).startswith(b"\x89PNG")
