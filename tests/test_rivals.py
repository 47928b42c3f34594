"""A comparison shows the rivals in the book's order, the right machine's records, and says what it shows."""

import re
from collections.abc import Callable, Sequence

import pytest
from IPython.display import HTML

from inference_lib.records.record import Record
from inference_lib.report import words
from inference_lib.report.rivals import Rivals

MakeRecord = Callable[..., Record]

RIVALS = ("tvm", "pytorch")
TITLES = {"tvm": "TVM", "pytorch": "PyTorch (eager)", "openvino": "OpenVINO (latency)"}
PRECISIONS = ("fp16", "fp32", "bf16")


@pytest.fixture
def make_rival(make_record: MakeRecord) -> MakeRecord:
    """Return a function that makes the record of one rival; keyword arguments replace its attributes."""
    return lambda backend, **changed: make_record(backend=backend, title=TITLES[backend], **changed)


def comparison(here: Sequence[Record] = (), published: Sequence[Record] = ()) -> Rivals:
    return Rivals.of(RIVALS, here, published, PRECISIONS)


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


def test_what_is_no_rival_is_left_out_and_what_was_not_measured_keeps_its_row(make_rival: MakeRecord) -> None:
    failed = make_rival("tvm", count=0, status="failed", reason="logits differ")
    kept = make_rival("pytorch")
    others = [make_rival("openvino"), make_rival("tvm", precision="tf32")]
    assert comparison(here=[*others, failed, kept]).here == [failed, kept]
    assert comparison(here=[*others, failed, kept]).shown("resnet18", "fp32") == [kept]


def test_a_gpu_here_is_shown_before_the_published_one_and_that_before_a_cpu_here(make_rival: MakeRecord) -> None:
    cpu, here, published = make_rival("tvm", device="cpu"), make_rival("tvm", milliseconds=1.0), make_rival("tvm")
    assert comparison(here=[here], published=[published]).shown("resnet18", "fp32") == [here]
    assert comparison(here=[cpu], published=[published]).shown("resnet18", "fp32") == [published]


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
    assert comparison(here=records).verdict("tvm", precision="fp32", batch_sizes=(1, 8)) == (
        "On NVIDIA Test GPU, FP32, TVM end to end: "
        "against PyTorch (eager) it is 2.0 times faster at batch 1 and 3.0 times faster at batch 8"
    )


def test_the_verdict_leaves_out_a_batch_size_that_the_other_did_not_run(make_rival: MakeRecord) -> None:
    records = [make_rival("pytorch", milliseconds=4.0), make_rival("tvm"), make_rival("tvm", batch_size=8)]
    said = comparison(here=records).verdict("tvm", precision="fp32", batch_sizes=(1, 8))
    assert said.endswith("against PyTorch (eager) it is 2.0 times faster at batch 1")


def test_a_claim_that_holds_at_two_batch_sizes_is_made_once(make_rival: MakeRecord) -> None:
    records = [make_rival("pytorch", batch_size=size) for size in (1, 8)]
    records += [make_rival("tvm", batch_size=size) for size in (1, 8)]
    said = comparison(here=records).verdict("tvm", precision="fp32", batch_sizes=(1, 8))
    assert said.endswith("it is about as fast at batch 1 and 8")


def test_a_caveat_of_several_claims_stands_once(make_rival: MakeRecord) -> None:
    records = [make_rival("pytorch", batch_size=size, milliseconds=ms, count=1) for size, ms in ((1, 4.0), (8, 9.0))]
    records += [make_rival("tvm", batch_size=size, milliseconds=2.0, count=1) for size in (1, 8)]
    said = comparison(here=records).verdict("tvm", precision="fp32", batch_sizes=(1, 8))
    assert said.endswith(
        "2.00 times as fast here at batch 1 and 4.50 times as fast here at batch 8 (too few invocations for a verdict)"
    )


def test_there_is_no_verdict_on_what_did_not_run(make_rival: MakeRecord) -> None:
    compared = comparison(here=[make_rival("pytorch")])
    assert "nothing to compare" in compared.verdict("tvm", precision="fp32")
    missing = make_rival("tvm", count=0, status="unavailable", reason="not installed")
    named = comparison(here=[make_rival("pytorch"), missing])
    assert named.verdict("tvm", precision="fp32").startswith(f"{TITLES['tvm']} ran on none of the machines")


def cells_of(html: str) -> list[list[str]]:
    """Return the text of the table's cells, a list a row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    found = [re.findall(r"<td [^>]*>(.*?)</td>", row) for row in rows]
    return [row for row in found if row]


def test_the_table_has_this_machine_first_and_a_baseline_of_its_own_on_each(make_rival: MakeRecord) -> None:
    here = [make_rival("tvm", milliseconds=20.0, device="cpu"), make_rival("pytorch", milliseconds=40.0, device="cpu")]
    published = [make_rival("tvm", milliseconds=3.0), make_rival("pytorch", milliseconds=1.5)]
    large = make_rival("pytorch", milliseconds=77.0, batch_size=8)
    html = comparison(here=here, published=[*published, large]).table().data
    heads = [text for text in re.findall(r"<th [^>]*>(.*?)</th>", html) if "Test" in text]
    assert heads == ["Test CPU (2 cores)", "NVIDIA Test GPU"]
    ends = [f"{ms:.3f}\u2013{ms:.3f}" for ms in (20, 3, 40, 1.5)]
    assert cells_of(html) == [
        ["TVM", "resnet18", "FP32", "20.000", ends[0], "baseline", "3.000", ends[1], "baseline", "2.400"],
        ["PyTorch (eager)", "resnet18", "FP32", "40.000", ends[2], "2.0 times slower", "1.500", ends[3],
         "2.0 times faster", "1.200"],
    ]  # fmt: skip
    assert "77.000" not in html


def test_a_tie_is_shown_as_one_and_so_is_what_cannot_be_told(make_rival: MakeRecord) -> None:
    noisy = {"luck": 0.2, "seed": 1}
    records = [make_rival("tvm"), make_rival("pytorch"), make_rival("tvm", model="vanilla_cnn")]
    records.append(make_rival("pytorch", model="vanilla_cnn", timing=noisy))
    said = [row[5] for row in cells_of(comparison(here=records).table().data)]
    assert said[2:] == ["baseline", "about as fast"] or "about as fast" in said
    assert any(text.startswith("cannot tell (") for text in said)


def test_from_one_start_there_is_a_ratio_and_no_verdict(make_rival: MakeRecord) -> None:
    records = [make_rival("tvm", milliseconds=1.0, count=1), make_rival("pytorch", milliseconds=2.0, count=1)]
    html = comparison(here=records).table().data
    assert re.findall(r"<th [^>]*>(.*?)</th>", html)[-3:] == ["ms", "against TVM", "on the device, ms"]
    assert cells_of(html)[1][3:] == ["2.000", "0.50", "1.600"]


def test_a_row_that_was_not_measured_says_why_below_the_table(make_rival: MakeRecord) -> None:
    absent = make_rival("pytorch", count=0, status="unavailable", reason="not <here>")
    html = comparison(here=[make_rival("tvm"), absent]).table().data
    table, notes = html.split("</table>")
    assert "unavailable [1]" in table
    assert "<li>not &lt;here&gt;</li>" in notes


def test_a_published_row_of_this_machine_gives_way_with_its_note_and_its_day(make_rival: MakeRecord) -> None:
    old = make_rival("tvm", flags=["measured long ago"], measured_on="2026-01-01")
    shown = comparison(here=[make_rival("tvm")], published=[old]).table().data
    assert "measured long ago" not in shown
    assert "2026-01-01" not in shown
    assert "measured long ago" in comparison(published=[old]).table().data


def test_the_table_s_caption_names_batch_and_machines(make_rival: MakeRecord) -> None:
    compared = comparison(here=[make_rival("tvm", batch_size=8)], published=[make_rival("tvm", device="cpu")])
    assert caption(compared.table(8)).startswith(
        "Median end-to-end latency at batch 8, ms; rows are compared by their ratio within a round. "
        "Measured on NVIDIA Test GPU"
    )
    assert "Test CPU" not in caption(compared.table(8))


def figures(compared: Rivals, *precisions: str) -> list[HTML]:
    return [draw("resnet18", *precisions) for draw in (compared.latencies, compared.parts, compared.batches)]


def test_figures_say_model_precision_machine_and_rivals(make_rival: MakeRecord) -> None:
    records = [make_rival(rival, precision="fp16", batch_size=size) for rival in RIVALS for size in (1, 8)]
    latencies, parts, batches = figures(comparison(published=records), "fp16")
    for single, more in ((latencies, ""), (parts, "; compute includes the waits for launches")):
        assert caption(single).startswith(f"ResNet-18 at batch 1, FP16{more}. Measured on NVIDIA Test GPU, driver 1.2")
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


def test_rows_without_parts_leave_an_empty_figure_that_says_so(make_rival: MakeRecord) -> None:
    shown = comparison(here=[make_rival("tvm", parts=None)]).parts("resnet18", "fp32")
    assert "nothing measured yet" in shown.data
    assert "end to end" not in shown.data


def test_parts_of_a_gpu_say_that_launches_count(make_rival: MakeRecord) -> None:
    assert "waits for launches" in caption(comparison(here=[make_rival("tvm")]).parts("resnet18", "fp32"))
    on_cpu = comparison(here=[make_rival("tvm", device="cpu")]).parts("resnet18", "fp32")
    assert "waits for launches" not in caption(on_cpu)
