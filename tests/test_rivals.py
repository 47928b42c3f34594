"""A comparison shows the rivals in the book's order, the right machine's records, and says what it shows."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from IPython.display import HTML

from inference_lib.lab import Lab
from inference_lib.measure.profiles import get_profile
from inference_lib.records.machine import Machine
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.report import words
from inference_lib.report.rivals import Comparison

MakeRecord = Callable[..., Record]

RIVALS = ("tvm", "pytorch")
TITLES = {"tvm": "TVM", "pytorch": "PyTorch (eager)"}
PRECISIONS = ("fp16", "fp32", "bf16")


@pytest.fixture
def make_rival(make_record: MakeRecord) -> MakeRecord:
    """Return a function that makes the record of one rival; keyword arguments replace its attributes."""
    return lambda backend, **changed: make_record(backend=backend, title=TITLES[backend], **changed)


def comparison(here: Sequence[Record] = (), published: Sequence[Record] = ()) -> Comparison:
    return Comparison.of(RIVALS, here, published, PRECISIONS)


def caption(shown: HTML) -> str:
    (text,) = re.findall(r"<(?:fig)?caption>(.*?)</", shown.data)
    return text


def description(shown: HTML) -> str:
    (text,) = re.findall(r'aria-label="(.*?)"', shown.data)
    return text


def test_records_are_ordered_by_model_then_precision_then_rival(make_rival: MakeRecord) -> None:
    expected = [
        ("vanilla_cnn", "bf16", "tvm"),
        ("resnet18", "fp32", "tvm"),
        ("resnet18", "fp32", "pytorch"),
        ("resnet18", "fp16", "tvm"),
        ("mobilenet_v2", "fp32", "pytorch"),
    ]
    records = [make_rival(rival, model=model, precision=precision) for model, precision, rival in expected]
    for shelf in (comparison(here=records[::-1]).here, comparison(published=records[::-1]).published):
        assert [(r.model, r.precision, r.backend) for r in shelf] == expected


def test_what_is_no_rival_or_was_not_measured_is_left_out(make_record: MakeRecord, make_rival: MakeRecord) -> None:
    other = make_record(backend="openvino", title="OpenVINO (latency)")
    failed = make_rival("tvm", status="failed", reason="logits differ", latency=None)
    kept = make_rival("pytorch")
    assert comparison(here=[other, failed, make_rival("tvm", precision="tf32"), kept]).here == [kept]


def test_a_gpu_s_records_are_shown_before_the_cpu_s(make_rival: MakeRecord) -> None:
    cpu, gpu = make_rival("tvm", device="cpu"), make_rival("tvm")
    assert comparison(here=[cpu], published=[gpu]).shown("resnet18", "fp32") == [gpu]


def test_a_gpu_here_is_shown_before_the_published_one(make_rival: MakeRecord) -> None:
    here, published = make_rival("tvm", milliseconds=1.0), make_rival("tvm", milliseconds=3.0)
    assert comparison(here=[here], published=[published]).shown("resnet18", "fp32") == [here]


@pytest.mark.parametrize("published", [{"precision": "fp32"}, {"model": "vanilla_cnn"}])
def test_without_a_gpu_s_records_those_measured_here_are_shown(make_rival: MakeRecord, published: dict) -> None:
    here = [make_rival("tvm", device="cpu"), make_rival("tvm", device="cpu", precision="bf16")]
    gpu = make_rival("tvm", **({"precision": "fp16"} | published))
    other_model = make_rival("tvm", device="cpu", model="mobilenet_v2")
    assert comparison(here=[*here, other_model], published=[gpu]).shown("resnet18", "fp16") == here


def test_all_precisions_are_shown_where_none_is_named(make_rival: MakeRecord) -> None:
    records = [make_rival("tvm", precision=precision) for precision in ("fp32", "fp16", "bf16")]
    assert comparison(here=records).shown("resnet18") == records
    assert comparison(here=records).shown("resnet18", "fp32", "fp16") == records[:2]


def test_a_sentence_gets_the_records_of_one_rival_in_one_cell(make_rival: MakeRecord) -> None:
    slow, fast, large = make_rival("pytorch", milliseconds=4.0), make_rival("tvm"), make_rival("tvm", batch_size=8)
    compared = comparison(published=[slow, fast, large, make_rival("tvm", precision="fp16")])
    one = compared.by_rival("resnet18", "fp32")
    assert one == {"tvm": [fast], "pytorch": [slow]}
    assert words.times_faster(one["pytorch"], one["tvm"]) == "2.0 times faster"
    assert compared.by_rival("resnet18", "fp32", batch_size=8) == {"tvm": [large], "pytorch": []}


def test_a_sentence_about_fp16_gets_no_fp32_records(make_rival: MakeRecord) -> None:
    compared = comparison(here=[make_rival("tvm", device="cpu")])
    assert compared.shown("resnet18", "fp16")
    assert compared.by_rival("resnet18", "fp16") == {"tvm": [], "pytorch": []}


def test_the_verdict_compares_with_every_rival_at_every_batch_size(make_rival: MakeRecord) -> None:
    records = [make_rival("pytorch", milliseconds=4.0), make_rival("pytorch", milliseconds=9.0, batch_size=8)]
    records += [make_rival("tvm", milliseconds=2.0), make_rival("tvm", milliseconds=3.0, batch_size=8)]
    compared = comparison(here=records)
    assert compared.verdict("tvm", {"the loop": "pytorch"}, precision="fp32", batch_sizes=(1, 8)) == (
        "On NVIDIA Test GPU, FP32, TVM end to end: "
        "against the loop it is 2.0 times faster at batch 1 and 3.0 times faster at batch 8"
    )


def test_there_is_no_verdict_on_what_did_not_run(make_rival: MakeRecord) -> None:
    compared = comparison(here=[make_rival("pytorch")])
    assert "nothing to compare" in compared.verdict("tvm", {"the loop": "pytorch"}, precision="fp32")


def test_the_table_has_this_machine_first_and_rows_in_order(make_rival: MakeRecord) -> None:
    here = make_rival("pytorch", milliseconds=20.0, device="cpu")
    published = [make_rival("pytorch", milliseconds=3.0), make_rival("tvm", milliseconds=2.5)]
    large = make_rival("pytorch", milliseconds=77.0, batch_size=8)
    html = comparison(here=[here], published=[*published, large]).table().data
    assert re.findall(r"<th [^>]*>(.*?)</th>", html)[-2:] == ["Test CPU (2 cores), ms", "NVIDIA Test GPU, ms"]
    cells = re.findall(r"<td [^>]*>(.*?)</td>", html)
    assert cells[:6] == ["TVM", "resnet18", "FP32", "1", "-", "2.500"]
    assert cells[6:] == ["PyTorch (eager)", "resnet18", "FP32", "1", "20.000", "3.000"]


def test_the_table_s_caption_names_batch_and_machines(make_rival: MakeRecord) -> None:
    compared = comparison(here=[make_rival("tvm", batch_size=8)], published=[make_rival("tvm", device="cpu")])
    assert caption(compared.table(8)).startswith(
        "Median end-to-end latency at batch 8, ms. Measured on NVIDIA Test GPU"
    )
    assert "Test CPU" not in caption(compared.table(8))


def figures(compared: Comparison, *precisions: str) -> list[HTML]:
    return [draw("resnet18", *precisions) for draw in (compared.latencies, compared.parts, compared.batches)]


def test_figures_say_model_precision_machine_and_rivals(make_rival: MakeRecord) -> None:
    records = [make_rival(rival, precision="fp16", batch_size=size) for rival in RIVALS for size in (1, 8)]
    latencies, parts, batches = figures(comparison(published=records), "fp16")
    for single in (latencies, parts):
        assert caption(single).startswith("ResNet-18 at batch 1, FP16. Measured on NVIDIA Test GPU, driver 1.2.3")
        assert description(single).endswith("TVM FP16, PyTorch (eager) FP16.")
        assert "ResNet-18 at batch 1" in description(single)
    assert caption(batches).startswith("ResNet-18, FP16; numbers beside the points are batch sizes. Measured on NVIDIA")
    assert "ResNet-18 at batch sizes 1, 8: TVM FP16, PyTorch (eager) FP16." in description(batches)


def test_figures_at_batch_1_draw_nothing_else(make_rival: MakeRecord) -> None:
    compared = comparison(here=[make_rival("tvm"), make_rival("pytorch", batch_size=8)])
    latencies, parts, batches = figures(compared)
    assert "PyTorch (eager)" not in latencies.data + parts.data
    assert "PyTorch (eager)" in batches.data


def test_captions_say_the_precisions_that_are_really_shown(make_rival: MakeRecord) -> None:
    here = [make_rival("tvm", device="cpu", precision=precision) for precision in ("fp32", "bf16")]
    for figure in figures(comparison(here=here), "fp16"):
        assert ", FP32, BF16" in caption(figure)
        assert "FP16" not in caption(figure) + description(figure)
        assert "Test CPU" in caption(figure)


def test_an_empty_comparison_says_so() -> None:
    compared = comparison()
    assert caption(compared.table()) == "Median end-to-end latency at batch 1, ms. Nothing measured yet."
    for figure in figures(compared, "fp16"):
        assert ">nothing measured yet<" in figure.data
        assert caption(figure).endswith("Nothing measured yet.")
        assert description(figure).endswith(": nothing measured yet.")
    assert compared.by_rival("resnet18", "fp16") == {"tvm": [], "pytorch": []}


def test_rows_of_another_batch_alone_leave_an_empty_figure(make_rival: MakeRecord) -> None:
    latencies, parts, batches = figures(comparison(here=[make_rival("tvm", batch_size=8)]))
    assert all(">nothing measured yet<" in figure.data for figure in (latencies, parts))
    assert ">nothing measured yet<" not in batches.data


@pytest.fixture
def lab(tmp_path: Path, machine: Machine) -> Lab:
    stores = RecordStore(tmp_path / "here"), RecordStore(tmp_path / "published")
    return Lab(get_profile("quick"), "cpu", machine, *stores)


@pytest.fixture
def filled(lab: Lab, make_rival: MakeRecord) -> Lab:
    """Return a lab on the CPU whose two shelves both have a CPU's and a GPU's record."""
    for store, milliseconds in ((lab.store, 2.0), (lab.published_store, 3.0)):
        for device in ("cpu", "cuda"):
            store.write(make_rival("tvm", milliseconds=milliseconds, device=device))
    return lab


def test_a_lab_compares_its_device_with_the_published_gpu(filled: Lab) -> None:
    compared = filled.compare(RIVALS)
    assert [(r.device, r.latency.end_to_end.p50) for r in compared.here] == [("cpu", 2.0)]
    assert [(r.device, r.latency.end_to_end.p50) for r in compared.published] == [("cuda", 3.0)]


def test_a_comparison_on_the_cpu_has_no_gpu_in_it(filled: Lab) -> None:
    compared = filled.compare(RIVALS, device="cpu")
    assert {r.device for r in (*compared.here, *compared.published)} == {"cpu"}
    assert compared.shown("resnet18", "fp32") == compared.here


def test_a_lab_compares_the_precisions_that_are_asked_for(lab: Lab, make_rival: MakeRecord) -> None:
    for precision in ("fp32", "tf32", "fp16", "bf16"):
        lab.store.write(make_rival("tvm", device="cpu", precision=precision))
    assert [r.precision for r in lab.compare(RIVALS).here] == ["fp32", "fp16", "bf16"]
    assert [r.precision for r in lab.compare(RIVALS, precisions=["tf32"]).here] == ["tf32"]
