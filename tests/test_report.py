"""Tables, figures and words say what the records say."""

import itertools
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import smallest_text
from matplotlib.text import Text

from inference_lib.records.record import Accuracy, Build, Record
from inference_lib.report import labels, layout, plots, readme, tables, words
from inference_lib.report.flat import flat_table
from inference_lib.seam import MODELS

MakeRecord = Callable[..., Record]


def test_the_scoreboard_keeps_a_row_that_was_not_measured_and_says_what_is_odd(make_record: MakeRecord) -> None:
    absent = make_record(status="unsupported", reason="no such kernel", count=0)
    table = tables.scoreboard([make_record(2.0, flags=["power cap"]), absent], "resnet18")
    assert table["FPS"].iloc[0] == 500
    assert pd.isna(table["FPS"].iloc[1])
    assert table["note"].tolist() == ["power cap", "unsupported: no such kernel"]


def test_every_row_of_a_scoreboard_is_there_and_what_is_to_say_of_it_stands_below(make_record: MakeRecord) -> None:
    absent = make_record(count=0, title="PyTorch (CUDA graph)", status="unsupported", reason="no <GPU>")
    flagged = make_record(2.0, flags=["clocks were held down: power cap"])
    shown = tables.show_scoreboard([flagged, absent, make_record(batch_size=8, flags=["other"])], "resnet18", "caption")
    table, notes = shown.data.split("</table>")
    for title in ("PyTorch (eager)", "PyTorch (CUDA graph)", "unsupported [2]"):
        assert title in table
    assert "<li>clocks were held down: power cap</li><li>no &lt;GPU&gt;</li>" in notes
    assert "other" not in notes


def test_a_note_that_rows_share_is_there_once(make_record: MakeRecord) -> None:
    shared = [make_record(count=0, backend=name, status="unavailable", reason="no GPU") for name in ("a", "b")]
    marks, notes = tables.noted([make_record(), *shared, make_record(flags=["slow", "hot"])])
    assert (marks, notes) == (["", "unavailable [1]", "unavailable [1]", "[2]"], ["no GPU", "slow; hot"])


def test_the_scoreboard_has_intervals_and_ties(make_record: MakeRecord) -> None:
    """One set: two rows level, one clearly slower, one that scatters too much to be told."""
    records = [
        make_record(2.0, backend="a"),
        make_record(2.01, backend="b"),
        make_record(4.0, backend="c"),
        make_record(2.5, backend="d", timing={"luck": 0.5, "seed": 3}),
    ]
    table = tables.scoreboard(records, "resnet18")
    said = table["against the quickest"].tolist()
    assert said[:3] == ["quickest", "about as fast", "2.0 times slower"]
    assert said[3].startswith("cannot tell (")
    assert table["95 %"][0] == "2.000\u20132.000"
    assert table["device ms"][2] == pytest.approx(3.2)


def test_a_column_without_measurements_is_left_out(make_record: MakeRecord) -> None:
    on_cpu = make_record(2.0, device="cpu")
    assert not {"GPU memory MiB", "GPU busy %"} & set(tables.scoreboard([on_cpu], "resnet18"))


def test_a_backend_on_two_devices_keeps_both_its_agreements(make_record: MakeRecord) -> None:
    cuda, cpu = make_record(device="cuda"), make_record(device="cpu")
    both = tables.agreement([cuda, make_record(device="cuda", batch_size=8), cpu])
    assert list(both["device"]) == ["GPU", "CPU"]
    assert not {"device", "batch"} & {*tables.agreement([cuda])}


def test_an_export_of_its_own_for_a_batch_size_keeps_its_agreement(make_record: MakeRecord) -> None:
    other = Accuracy(accuracy_percent=94.9, agreement_percent=99.2, largest_difference=0.4, images=10_000)
    rows = [make_record(batch_size=8), make_record(), make_record(batch_size=256, accuracy=other)]
    found = tables.agreement(rows)
    assert list(zip(found["batch"], found["agreement %"], strict=True)) == [("1, 8", 100), ("256", 99.2)]
    one_each = tables.agreement([rows[0], make_record(batch_size=256, precision="fp16", accuracy=other)])
    assert "batch" not in one_each  # nothing to tell apart


def test_profiles_and_runs_have_tables_of_their_own(make_record: MakeRecord) -> None:
    records = [make_record(2.0), make_record(4.0, profile="quick", count=1), make_record(8.0, run="2")]
    head, *tables_ = tables.in_format(records, "markdown").split("**resnet18, batch 1, NVIDIA Test GPU, ")
    assert head == ""
    assert [table.split("**")[0] for table in tables_] == [
        "full profile, run 1",
        "quick profile, run 1",
        "full profile, run 2",
    ]
    assert [len(rows_of(table)) for table in tables_] == [3, 3, 3]  # a head, a line and a row


@pytest.mark.parametrize("model", MODELS)
def test_the_reference_table_has_six_frameworks_in_two_precisions(model: str) -> None:
    table = tables.reference_table(model)
    assert len(table) == 12
    assert set(table["framework"]) >= {"PyTorch", "TensorRT", "ONNX-TensorRT", "Torch-TensorRT"}


def test_reference_rows_are_compared_with_pytorch_s_in_their_own_precision() -> None:
    rows = tables.reference_rows("TensorRT").set_index(["model", "precision"])
    assert len(rows) == 2 * len(MODELS)
    assert rows.loc[("resnet18", "FP16"), "times PyTorch"] == pytest.approx(649.792 / 76.369)
    assert tables.reference_rows("PyTorch")["times PyTorch"].tolist() == [1.0] * 2 * len(MODELS)


def test_shown_tables_format_numbers_and_mark_gaps() -> None:
    html = tables.show_table(pd.DataFrame({"framework": ["a<4>", "b"], "FPS": [1234.5, None]}), "R&D").data
    assert ">1,234<" in html
    assert "number" in html
    assert "<caption>R&amp;D</caption>" in html
    assert ">a&lt;4&gt;</td>" in html


def column(table: pd.DataFrame, name: str, **arguments: Any) -> list[str]:
    """Return the cells of one column as a reader sees them."""
    cells = re.findall(r"<td [^>]*>(.*?)</td>", tables.show_table(table, **arguments).data)
    return cells[list(table).index(name) :: len(table.columns)]


def test_rows_of_several_tables_put_together_are_shown() -> None:
    """On a GPU, chapter 12 failed: its rows came from two tables, and had the same numbers."""
    table = pd.concat([pd.DataFrame({"ms": [1.5]}), pd.DataFrame({"ms": [2.5]})])
    assert column(table, "ms") == ["1.500", "2.500"]


def test_formats_that_a_caller_asks_for_win(make_record: MakeRecord) -> None:
    """Chapters showed 0.000, 0.1 everywhere and 0.0 where they had asked for more digits."""
    table = pd.DataFrame({"load, s": [0.0123], "half, ms": [0.00042], "FPS": [1.25], "largest difference": [0.25]})
    formats = {"load, s": "{:.4f}", "half, ms": "{:.5f}", "FPS": "{:.2f}", "largest difference": "{:.3f}"}
    for name, expected in (("load, s", "0.0123"), ("half, ms", "0.00042"), ("FPS", "1.25")):
        assert column(table, name, formats=formats) == [expected]
    assert column(table, "largest difference", formats=formats) == ["0.250"]
    assert column(table, "load, s") == ["0.01"]
    assert column(table, "half, ms") == ["0.000"]


@pytest.mark.parametrize("kind", ["float64", "Float64", "object"])
def test_floats_that_nobody_gave_a_format_are_written_so_that_they_can_be_read(kind: str) -> None:
    """A chapter showed 2688.979821 images a second, and a p99 of 1.252716."""
    values = [2688.979821, 43571.812986, 1.252716, 16.6667, 999.96, 0.0123456, 0.5, 0.0, -37.25, 1.5e-7, None]
    expected = ["2,689", "43,572", "1.253", "16.67", "1,000", "0.01235", "0.5000", "0", "-37.25", "1.500e-07", "-"]
    table = pd.DataFrame({"two streams": pd.Series(values, dtype=kind), "number": range(len(values))})
    assert column(table, "two streams") == expected
    assert column(table, "number") == [str(number) for number in range(len(values))]
    rows = [line.split() for line in layout.text_table(table).splitlines()[2:]]
    assert [row[0] for row in rows] == expected


def test_what_is_whole_stays_whole_and_a_text_stays_as_it_is() -> None:
    table = pd.DataFrame({"count": [12345.0, None], "pictures": [12345, 1], "said": ["1.252716", "<b>"]})
    table.columns = pd.MultiIndex.from_product([["all"], table.columns])
    cells = re.findall(r"<td [^>]*>(.*?)</td>", tables.show_table(table).data)
    assert cells == ["12,345", "12345", "1.252716", "-", "1", "&lt;b&gt;"]


@pytest.mark.parametrize("kind", ["float64", "Float64", "object"])
def test_a_difference_that_is_no_number_is_not_shown_as_a_gap(kind: str) -> None:
    table = pd.DataFrame({"largest difference": [1e-6, float("nan")], "FPS": [1.0, None]}).astype(kind)
    assert column(table, "largest difference") == ["1.0e-06", "not a number"]
    assert column(table, "FPS")[1] == "-"


@pytest.mark.parametrize(
    ("slow", "fast", "expected"),
    [
        (4.0, 2.0, "2.0 times faster"),
        (2.0, 4.0, "2.0 times slower"),
        (2.08, 2.0, "4 % faster"),
        (2.0, 2.08, "4 % slower"),
        (2.0, 2.02, "about as fast"),
    ],
)
def test_a_comparison_reads_right_both_ways(make_record: MakeRecord, slow: float, fast: float, expected: str) -> None:
    pair = make_record(slow, backend="a"), make_record(fast, backend="b")
    assert words.times_faster([pair[0]], [pair[1]]) == expected
    assert words.times_faster([pair[0]], [pair[1]], "device") == expected
    assert words.against(*pair) == words.against(*pair, "device") == expected


def test_what_the_intervals_leave_open_is_not_claimed(make_record: MakeRecord) -> None:
    pair = make_record(2.0, backend="a"), make_record(2.5, backend="b", timing={"luck": 0.5, "seed": 3})
    assert words.times_faster([pair[0]], [pair[1]]) == "not clearly faster or slower"
    assert words.against(*pair).startswith("cannot tell (")


def test_from_too_few_invocations_only_the_ratio_is_told(make_record: MakeRecord) -> None:
    pair = make_record(4.0, count=1, backend="a"), make_record(2.0, count=1, backend="b")
    assert words.times_faster([pair[0]], [pair[1]]) == "2.00 times as fast here (too few invocations for a verdict)"
    assert words.against(*pair) == "2.00"
    assert words.tied(pair[1], list(pair)) == "(too few invocations for a verdict)"


def test_a_shared_caveat_stands_once_and_at_the_end() -> None:
    few = f"2.00 times as fast here {words.TOO_FEW}"
    assert words.once(f"{few} alone; {few} together") == (
        f"2.00 times as fast here alone; 2.00 times as fast here together {words.TOO_FEW}"
    )
    assert words.once("about as fast") == "about as fast"
    assert words.by_batch({1: "4 % slower", 8: "about as fast", 64: "4 % slower"}) == (
        "4 % slower at batch 1 and 64 and about as fast at batch 8"
    )


def test_rows_of_two_machines_are_not_compared(make_record: MakeRecord) -> None:
    here = make_record(4.0)
    elsewhere = here.model_copy(update={"machine": here.machine.model_copy(update={"cpu": "Other CPU"})})
    assert words.times_faster([here], [elsewhere]) == words.NOT_MEASURED


def test_a_number_that_is_not_there_says_so(make_record: MakeRecord) -> None:
    absent, on_cpu = make_record(count=0, status="failed"), make_record(device="cpu")
    assert words.times_faster([], [make_record()]) == words.NOT_MEASURED
    assert words.times_faster([absent], [make_record()]) == words.NOT_MEASURED
    assert words.times_faster([on_cpu], [make_record()], "device") == words.NOT_MEASURED
    assert words.number([absent], lambda r: r.fps) == words.NOT_MEASURED
    assert words.number([make_record(4.0)], lambda r: r.fps) == "250.00"


def test_ties_are_named(make_record: MakeRecord) -> None:
    best, near = make_record(2.0, backend="a"), make_record(2.01, backend="b", title="TVM", precision="fp16")
    assert words.tied(best, [best, near, make_record(4.0, backend="c")]) == "TVM FP16"
    assert words.tied(best, [best]) == "nothing else"


def test_how_claims_held_is_told_in_counts() -> None:
    counts = {"pairs": 40, "claims": 20, "contradicted": 1, "not_confirmed": 4, "compatible_percent": 95.2}
    said = words.held(counts)
    for part in ("of 40 pairs", "calls 20 faster", "contradicts 1 of these claims (5.0 %)", "confirm 3 more", "95 of"):
        assert part in said
    assert "none is claimed" in words.held(counts | {"claims": 0, "compatible_percent": None})


def test_the_verdict_names_the_export_that_changed_the_model(make_record: MakeRecord) -> None:
    assert words.verdict([make_record()], "resnet18") == "every export agrees with the reference"
    broken = make_record(status="failed", reason="logits differ")
    assert "PyTorch (eager) fp32: logits differ" in words.verdict([make_record(), broken], "resnet18")


def test_a_figure_follows_the_page_and_describes_itself(make_record: MakeRecord) -> None:
    figure, (axes,) = plots.new_figure()
    plots.latency_ecdf([make_record()], axes)
    html = plots.show_figure(figure, alt='The "distribution" of one row', caption="A caption.").data
    assert "currentColor" in html
    assert plots.INK not in html
    assert 'aria-label="The &quot;distribution&quot; of one row"' in html
    assert "<figcaption>A caption.</figcaption>" in html


def test_of_marks_that_cover_each_other_one_is_drawn() -> None:
    figure, (axes,) = plots.new_figure()
    far = np.arange(3.0)
    for color in ("#D55E00", "#009E73"):
        near = np.random.default_rng(0).normal(0, 1e-4, 5000)
        axes.plot([*far, *near], [*far, *near], ".", color=color)
    drawn = re.findall(r"<use [^>]*fill: (#\w+)", plots.show_figure(figure, alt="points").data)
    assert {color: 3 <= drawn.count(color) < 9 for color in drawn} == {"#d55e00": True, "#009e73": True}


@pytest.mark.parametrize("draw", [plots.latency_ecdf, plots.throughput_over_latency, plots.stacked_parts])
def test_the_same_records_give_the_same_figure(make_record: MakeRecord, draw: Callable) -> None:
    def drawn() -> str:
        figure, (axes,) = plots.new_figure()
        draw([make_record(2.0), make_record(9.0, batch_size=8)], axes)
        return plots.show_figure(figure, alt="x").data

    assert drawn() == drawn()


def lines_of_long_names(make_record: MakeRecord) -> list[Record]:
    names = ("ONNX Runtime (CUDA graph)", "ONNX Runtime (IOBinding)", "TorchScript (CUDA graph)", "torch.compile")
    return [
        make_record(ms * batch**0.7, title=title, backend=f"b{ms}", batch_size=batch, precision=precision)
        for ms, title in enumerate(names, 1)
        for batch in (1, 8, 64)
        for precision in ("fp32", "fp16")
    ]


FLOW = [["FILE.py:function", "torchvision:NAME", "FILE.onnx", "FILE.safetensors"], ["find_model\nof it"], ["Model"]]


@pytest.mark.parametrize(
    "draw",
    [
        lambda records, axes: plots.latency_ecdf(records, axes),
        lambda records, axes: plots.throughput_over_latency(records, axes),
        lambda records, axes: plots.stacked_parts(records[:6], axes),
        lambda _, axes: plots.flow(FLOW, axes),
    ],
    ids=["ecdf", "throughput", "parts", "flow"],
)
def test_all_text_of_a_figure_stays_in_it_covers_no_other_and_can_be_read_on_a_phone(
    draw: Callable, make_record: MakeRecord
) -> None:
    figure, (axes,) = plots.new_figure()
    draw(lines_of_long_names(make_record), axes)
    assert 8 <= smallest_text(plots.show_figure(figure, alt="x").data) < 16
    figure.draw_without_rendering()  # an SVG has other pixels
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    ticks = [tick for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks() + axis.get_minor_ticks()]
    beyond = {text for tick in ticks if not labels._is_drawn(tick) for text in (tick.label1, tick.label2)}
    boxes = {text: text.get_window_extent() for text in shown if text not in beyond}
    assert len(boxes) > 5
    page = figure.bbox.padded(2)
    assert all(page.contains(*corner) for box in boxes.values() for corner in (box.min, box.max))
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes.values(), 2))


@pytest.mark.parametrize("width", [5.4, 8.0])
def test_text_that_is_too_small_for_a_phone_is_enlarged(width: float) -> None:
    figure, (axes,) = plots.new_figure(width)
    axes.plot([1, 2], label="a line")
    axes.text(1, 1, "tiny", fontsize=4)
    axes.set_title("large", fontsize=20)
    axes.legend(fontsize="x-small")
    assert smallest_text(plots.show_figure(figure, alt="x").data) >= 8
    assert axes.title.get_fontsize() == 20


def test_panels_side_by_side_break_a_long_unit() -> None:
    _, (first, *_) = plots.new_figure(columns=3)
    plots.bars(["a"], [1.0], "#999933", "multiply-adds, millions", first)
    assert first.get_xlabel() == "multiply-adds,\nmillions"
    _, (alone,) = plots.new_figure()
    plots.bars(["a"], [1.0], "#999933", "multiply-adds, millions", alone)
    assert alone.get_xlabel() == "multiply-adds, millions"


def test_a_caption_names_machine_software_and_day(make_record: MakeRecord) -> None:
    caption = plots.provenance([make_record()])
    for part in ("NVIDIA Test GPU", "driver 1.2.3", "torch 2.11.0", "2026-01-02"):
        assert part in caption
    assert "driver" not in plots.provenance([make_record(device="cpu")])


def test_a_caption_names_what_differs_only_in_the_day_once(make_record: MakeRecord) -> None:
    on_gpu = [make_record(measured_on=date(2026, 1, day)) for day in (3, 2, 3)]
    caption = plots.provenance([*on_gpu, make_record(device="cpu", measured_on=date(2026, 1, 4))])
    gpu, cpu = sorted(caption.removeprefix("Measured on ").split("; "), key=lambda source: "GPU" not in source)
    assert gpu.rstrip(".") == "NVIDIA Test GPU, driver 1.2.3, torch 2.11.0, 2026-01-02 and 2026-01-03"
    assert cpu.rstrip(".").endswith("torch 2.11.0, 2026-01-04")


def graph_of(make_record: MakeRecord, milliseconds: float = 0.5, **changed: object) -> Record:
    return make_record(
        milliseconds, backend="pytorch-cudagraph", title="PyTorch (CUDA graph)", precision="fp16", **changed
    )


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of every line of Markdown tables."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_the_readme_s_results_are_the_records_and_nothing_else_changes(tmp_path: Path, make_record: MakeRecord) -> None:
    page = tmp_path / "README.md"
    page.write_text("a\n<!-- figure -->\n<!-- /figure -->\nb\n<!-- results -->\nold\n<!-- /results -->\nc\n")
    absent = make_record(count=0, backend="tensorrt", title="TensorRT", status="unavailable", reason="not installed")
    wide = make_record(count=0, backend="pytorch", precision="tf32", status="unsupported", reason="has other rows")
    many = graph_of(make_record, 8.0, batch_size=64, rivals="of 64")
    loop_of_64 = make_record(24.0, batch_size=64, rivals="of 64")
    everything = [make_record(2.0), graph_of(make_record), loop_of_64, many, absent, wide]
    readme.update(page, [*everything, make_record(9.0, device="cpu")])
    text = page.read_text()
    assert text.startswith("a\n<!-- figure -->\n![Bars: one picture through ResNet-18")
    assert "(book/_static/opening.svg)" in text
    assert text.endswith("<!-- /results -->\nc\n")
    assert "\nold\n" not in text
    assert rows_of(text)[2:5] == [
        ["the plain loop", "PyTorch (eager) FP32", "1", "2.000 (2.000\u20132.000)", "496", "-", "-"],
        [
            "quickest",
            "PyTorch (CUDA graph) FP16",
            "1",
            "0.500 (0.500\u20130.500)",
            "1,985",
            "4.0 times as fast (4.0\u20134.0)",
            "nothing else",
        ],
        [
            "most productive",
            "PyTorch (CUDA graph) FP16",
            "64",
            "8.000 (8.000\u20138.000)",
            "7,941",
            "3.0 times as fast (3.0\u20133.0)",
            "nothing else",
        ],
    ]
    assert "- TensorRT: unavailable: not installed" in text
    assert "has other rows" not in text
    assert "9.000" not in text
    assert readme.ONE_RUN in text
    assert "prefers-color-scheme: dark" in (tmp_path / readme.FIGURE).read_text()


def test_the_readme_has_a_row_in_eight_bits_where_one_was_measured(make_record: MakeRecord) -> None:
    small = make_record(4.0, backend="cudnn", title="cuDNN", precision="int8", batch_size=64, rivals="of 64")
    table = readme.best_rows([make_record(2.0), graph_of(make_record), small], "resnet18")
    assert list(table[""]) == ["the plain loop", "quickest", "most productive", "in eight bits"]
    assert "INT8" not in table["row"].iloc[2]
    assert table["row"].iloc[3] == "cuDNN INT8"
    assert table["images/s"].iloc[3] == "15,881"
    assert pd.isna(table[readme.AGAINST].iloc[3]), "there is no loop of 64 pictures, and one picture's is none"


def test_the_readme_names_what_is_level_and_claims_nothing_from_one_start(make_record: MakeRecord) -> None:
    level = [make_record(2.0), graph_of(make_record), graph_of(make_record, 0.501).model_copy(update={"title": "B"})]
    assert rows_of(readme.results(level))[3][-1] == "B FP16"
    twice = make_record(1.0, batch_size=2, rivals="of 2", title="C")
    assert rows_of(readme.results([*level, twice]))[4][-1] == "C FP32 (batch 2), B FP16"
    single = [make_record(2.0, count=1), graph_of(make_record, count=1)]
    gain, level_with_it = rows_of(readme.results(single))[3][-2:]
    assert (gain, level_with_it) == ("4.0 times as fast (too few starts to tell)", words.TOO_FEW)


def test_the_readme_tells_how_the_claims_of_two_runs_held(make_record: MakeRecord) -> None:
    first = [make_record(2.0, run="1"), graph_of(make_record, run="1")]
    second = [make_record(2.0, run="2"), graph_of(make_record, 8.0, run="2")]
    text = readme.results([*second, *first])
    assert "0.500" in text
    assert "8.000" not in text  # the second run checks the first, and is not mixed with it
    row = next(line for line in text.splitlines() if line.startswith("| end to end"))
    assert [cell.strip() for cell in row.split("|")[1:7]] == ["end to end", "1", "1", "1", "1", "0.0"]


def test_a_readme_without_records_says_so(make_record: MakeRecord) -> None:
    absent = make_record(count=0, status="unavailable", reason="not there")
    assert readme.results([]) == readme.results([absent]) == "Nothing published yet."


# The flat table


COLUMNS = [
    "machine", "backend", "model", "device", "precision", "batch_size", "status", "reason", "accuracy_percent",
    "agreement_percent", "latency_p50_ms", "latency_p99_ms", "upload_ms", "compute_ms", "download_ms", "fps",
    "throughput_images_per_s", "gpu_memory_mib", "gpu_busy_percent",
]  # fmt: skip
NEW_COLUMNS = [
    "invocations", "iterations", "latency_low_ms", "latency_high_ms", "device_ms", "device_low_ms", "device_high_ms",
    "host_pace", "run", "eight_bits_percent",
]  # fmt: skip


def test_the_flat_table_keeps_its_columns_and_gains_those_of_the_design(make_record: MakeRecord) -> None:
    noisy = {"luck": 0.1, "seed": 1, "device_ms": 1.0}
    measured, absent = make_record(2.0, timing=noisy, run="2"), make_record(count=0, status="failed", reason="why")
    table = flat_table([measured, absent])
    assert list(table) == COLUMNS + NEW_COLUMNS
    row, empty = table.iloc[0], table.iloc[1]
    median, device = measured.median("end_to_end"), measured.median("device")
    assert (row["latency_p50_ms"], row["latency_low_ms"], row["latency_high_ms"]) == (
        median.value,
        median.low,
        median.high,
    )
    assert (row["device_ms"], row["device_low_ms"], row["device_high_ms"]) == (device.value, device.low, device.high)
    assert (row["invocations"], row["iterations"], row["host_pace"], row["run"]) == (3, 1200, 0.04, "2")
    assert row["latency_p99_ms"] > row["latency_p50_ms"]
    assert (empty["status"], empty["reason"]) == ("failed", "why")
    assert empty[[*COLUMNS[8:], *(name for name in NEW_COLUMNS if name != "run")]].isna().all()


@pytest.mark.parametrize(
    ("count", "iterations", "empty"),
    [
        (1, 2000, {"latency_low_ms", "latency_high_ms", "device_low_ms", "device_high_ms"}),
        (3, 100, {"latency_p99_ms"}),
    ],
)
def test_what_too_few_invocations_or_iterations_do_not_carry_is_empty(
    make_record: MakeRecord, count: int, iterations: int, empty: set[str]
) -> None:
    row = flat_table([make_record(2.0, count=count, timing={"iterations": iterations})]).iloc[0]
    assert {name for name in COLUMNS + NEW_COLUMNS if pd.isna(row[name])} == empty | {"eight_bits_percent"}


def test_a_cpu_has_no_device_columns_of_its_own(make_record: MakeRecord) -> None:
    row = flat_table([make_record(device="cpu")]).iloc[0]
    assert row[["device_ms", "device_low_ms", "device_high_ms", "gpu_memory_mib", "gpu_busy_percent"]].isna().all()


def test_a_record_without_parts_still_has_its_times_and_a_figure(make_record: MakeRecord) -> None:
    """A second run repeats the rounds alone."""
    rounds_only = make_record(2.0, parts=None)
    assert flat_table([rounds_only]).iloc[0]["latency_p50_ms"] == pytest.approx(2)
    _, (axes,) = plots.new_figure()
    plots.stacked_parts([rounds_only, make_record(3.0, title="TVM")], axes)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["TVM FP32"]


@pytest.mark.parametrize(("precisions", "strengths"), [(["fp32"], [1]), (["fp32", "fp16"], [0.45, 1])])
def test_fewer_bits_are_drawn_stronger_where_there_is_something_to_tell_apart(
    precisions: list[str], strengths: list[float], make_record: MakeRecord
) -> None:
    _, (axes,) = plots.new_figure()
    plots.latency_ecdf([make_record(2.0, precision=precision) for precision in precisions], axes)
    assert [line.get_alpha() for line in axes.lines] == strengths


def test_a_figure_of_bars_names_and_numbers_each() -> None:
    page = plots.show_bars({"cold": 12.5, "warm": 3.25}, "#999933", "seconds", alt="Two starts.", caption="Here.").data
    for part in ("cold", "warm", "12.5", "3.25", "seconds", "Two starts.", "Here."):
        assert part in page


def test_what_eight_bits_lost_has_an_interval_and_a_test_and_other_rows_are_no_part_of_it(
    make_record: MakeRecord,
) -> None:
    def row(gained: int | None, lost: int | None, precision: str = "int8", title: str = "A") -> Record:
        counted = Accuracy(
            accuracy_percent=94.7, agreement_percent=99, largest_difference=0, images=10_000, gained=gained, lost=lost
        )
        build = Build(load_s=1, first_inference_s=1, artifact_mib=1, eight_bits_percent=87.5)
        return make_record(precision=precision, title=title, accuracy=counted, build=build)

    records = [
        row(10, 40),
        row(3, 5, title="B"),
        row(40, 10, title="C"),
        row(10, 40, "fp16"),
        row(None, None, title="D"),
    ]
    table = tables.accuracy_lost(records).set_index("framework")
    assert table["so"].to_dict() == {"A": "loses", "B": "cannot tell", "C": "gains"}
    assert table.loc["A", "points"] == pytest.approx(-0.3)
    assert table.loc["A", tables.EIGHT_BITS] == 87.5
    assert tables.accuracy_lost([]).empty


def test_an_export_of_its_own_for_a_batch_size_or_a_device_has_a_row_of_its_own(make_record: MakeRecord) -> None:
    def row(share: float, lost: int, **changed: object) -> Record:
        counted = Accuracy(
            accuracy_percent=94.7, agreement_percent=99, largest_difference=0, images=1_000, gained=0, lost=lost
        )
        build = Build(load_s=1, first_inference_s=1, artifact_mib=1, eight_bits_percent=share)
        return make_record(precision="int8", accuracy=counted, build=build, **changed)

    shared = [row(50, 1), row(50, 1, batch_size=8)]
    table = tables.accuracy_lost([*shared, row(99, 2, batch_size=256), row(99, 2, device="cpu")])
    found = list(zip(table["device"], table["batch"], table[tables.EIGHT_BITS], strict=True))
    assert found == [("GPU", "1, 8", 50), ("GPU", "256", 99), ("CPU", "1", 99)]
    assert "device" not in tables.accuracy_lost(shared)


def test_accuracies_of_a_report_are_told_of_as_many_pictures(make_record: MakeRecord) -> None:
    def row(precision: str, percent: float, images: int) -> Record:
        counts = {"agreement_percent": 100, "largest_difference": 0, "gained": 0, "lost": 0}
        return make_record(precision=precision, accuracy=Accuracy(accuracy_percent=percent, images=images, **counts))

    lines = tables.in_format([row("fp32", 96.9, 1_000), row("fp16", 95.3, 10_000)], "csv").splitlines()
    column = lines[0].split(",").index("accuracy_percent")
    assert [float(line.split(",")[column]) for line in lines[1:]] == [95.3, 95.3]


def test_what_a_row_costs_beside_time_is_read_from_its_record(make_record: MakeRecord) -> None:
    build = Build(export_s=40, load_s=1, first_inference_s=1, artifact_mib=11, alone=True)
    here = make_record(device="cpu", precision="int8", build=build)
    absent = make_record(count=0, device="cpu", status="failed", reason="no kernel")
    table = tables.costs([here, absent])
    assert table.drop(columns=["framework", "model"]).to_dict("records") == [
        {"batch": 1, "precision": "INT8", "export, s": 40, "load, s": 1, "file MB": pytest.approx(11.534, abs=1e-3)}
    ]
    both = tables.costs([here, make_record()]).set_index("device")
    assert both.loc["GPU", "mJ per image"] == make_record().load.energy_mj_per_image
    assert pd.isna(both.loc["CPU", "mJ per image"])
    assert tables.costs([absent]).empty


def test_a_load_beside_others_is_not_told_though_the_export_was_alone(make_record: MakeRecord) -> None:
    """A builder that times kernels exports alone in every grid; the grid's rivals load side by side."""
    searched = Build(export_s=20, load_s=5, first_inference_s=1, artifact_mib=1)
    assert searched.start_s is None
    found = tables.costs([make_record(build=searched)])
    assert found["export, s"].to_list() == [20]
    assert "load, s" not in found
    started = searched.model_copy(update={"alone": True})
    assert started.start_s == 26
    assert tables.costs([make_record(build=searched), make_record(build=started)])["load, s"].dropna().to_list() == [5]


def test_accuracies_on_different_numbers_of_images_say_so(make_record: MakeRecord) -> None:
    few = Accuracy(accuracy_percent=95, agreement_percent=100, largest_difference=0, images=512)
    rows = [make_record(), make_record(precision="fp16", accuracy=few)]
    assert tables.scoreboard(rows, "resnet18")["on images"].tolist() == [10_000, 512]
    assert "on images" not in tables.scoreboard(rows[:1], "resnet18")


def test_the_share_in_eight_bits_is_a_column_where_there_is_one(make_record: MakeRecord) -> None:
    build = Build(load_s=1, first_inference_s=1, artifact_mib=1, eight_bits_percent=87.5)
    exact, eight = make_record(2.0), make_record(1.0, precision="int8", build=build)
    assert tables.EIGHT_BITS not in tables.scoreboard([exact], "resnet18")
    shares = tables.scoreboard([exact, eight], "resnet18").set_index("precision")[tables.EIGHT_BITS]
    assert shares["INT8"] == 87.5
    assert pd.isna(shares["FP32"])
