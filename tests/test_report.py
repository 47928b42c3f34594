"""Tables, figures and words say what the records say."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from inference_lib.records.record import Record
from inference_lib.report import plots, readme, tables, words
from inference_lib.zoo.networks import MODELS

MakeRecord = Callable[..., Record]


def test_the_scoreboard_keeps_a_row_that_was_not_measured(make_record: MakeRecord) -> None:
    absent = make_record(status="unsupported", reason="no such kernel", latency=None, accuracy=None)
    table = tables.scoreboard([make_record(2.0), absent], "resnet18")
    assert table["FPS"].iloc[0] == 500
    assert pd.isna(table["FPS"].iloc[1])
    assert table["note"].iloc[1] == "unsupported: no such kernel"


def test_a_flagged_row_is_shown_as_flagged(make_record: MakeRecord) -> None:
    table = tables.scoreboard([make_record(flags=["clocks were held down: power cap"])], "resnet18")
    assert "clocks were held down" in table["note"].iloc[0]


def test_what_could_not_be_measured_is_listed_below_the_table(make_record: MakeRecord) -> None:
    absent = make_record(
        title="PyTorch (CUDA graph)", status="unsupported", reason="no <GPU>", latency=None, accuracy=None
    )
    shown = tables.show_scoreboard([make_record(2.0, flags=["latency varies"]), absent], "resnet18", "caption").data
    table, notes = shown.split("</table>")
    assert "PyTorch (eager)" in table
    assert "PyTorch (CUDA graph)" not in table
    assert "PyTorch (CUDA graph) FP32: unsupported: no &lt;GPU&gt;" in notes
    assert "PyTorch (eager) FP32: latency varies" in notes


def test_a_column_without_measurements_is_left_out(make_record: MakeRecord) -> None:
    on_cpu = make_record(2.0, device="cpu", gpu_memory_mib=None, load=None)
    assert not {"GPU memory MiB", "GPU busy %"} & set(tables.scoreboard([on_cpu], "resnet18"))


def test_side_by_side_has_a_column_a_machine(make_record: MakeRecord) -> None:
    here = make_record(20.0, device="cpu")
    machines = ["Test CPU (2 cores)", "NVIDIA Test GPU"]
    table = tables.side_by_side([make_record(2.0), here], machines)
    assert list(table)[-2:] == [f"{machine}, ms" for machine in machines]
    assert table["Test CPU (2 cores), ms"].tolist() == [20.0]
    assert table["NVIDIA Test GPU, ms"].tolist() == [2.0]


def test_a_backend_on_two_devices_keeps_both_its_agreements(make_record: MakeRecord) -> None:
    cuda, cpu = make_record(device="cuda"), make_record(device="cpu")
    both = tables.agreement([cuda, make_record(device="cuda", batch_size=8), cpu])
    assert list(both["device"]) == ["GPU", "CPU"]
    assert "device" not in tables.agreement([cuda]).columns


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
    html = tables.show_table(pd.DataFrame({"framework": ["a", "b"], "FPS": [1234.5, None]}), "caption").data
    assert ">1,234<" in html
    assert "number" in html
    assert "<caption>caption</caption>" in html


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
    assert words.times_faster([make_record(slow)], [make_record(fast)]) == expected


def test_a_number_that_is_not_there_says_so(make_record: MakeRecord) -> None:
    assert words.times_faster([], [make_record()]) == words.NOT_MEASURED
    assert words.number([make_record(latency=None)], lambda r: r.fps) == words.NOT_MEASURED


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


@pytest.mark.parametrize("draw", [plots.latency_ecdf, plots.throughput_over_latency, plots.stacked_parts])
def test_the_same_records_give_the_same_figure(make_record: MakeRecord, draw: Callable) -> None:
    def drawn() -> str:
        figure, (axes,) = plots.new_figure()
        draw([make_record(2.0), make_record(9.0, batch_size=8)], axes)
        return plots.show_figure(figure, alt="x").data

    assert drawn() == drawn()


def test_a_caption_names_machine_software_and_day(make_record: MakeRecord) -> None:
    caption = plots.provenance([make_record()])
    for part in ("NVIDIA Test GPU", "driver 1.2.3", "torch 2.11.0", "2026-01-02"):
        assert part in caption
    assert "driver" not in plots.provenance([make_record(device="cpu")])


def test_the_readme_s_results_are_the_records_and_nothing_else_changes(tmp_path: Path, make_record: MakeRecord) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    graph = make_record(0.5, backend="pytorch-cudagraph", title="PyTorch (CUDA graph)", precision="fp16")
    readme.update(page, [make_record(2.0), graph, make_record(9.0, device="cpu")])
    text = page.read_text()
    assert text.startswith("before\n<!-- results -->\n")
    assert text.endswith("<!-- /results -->\nafter\n")
    assert "old" not in text
    (best,) = [line.split("|") for line in text.splitlines() if "PyTorch (CUDA graph) FP16" in line]
    assert [cell.strip() for cell in best[1:6]] == [
        "resnet18",
        "2.000",
        "PyTorch (CUDA graph) FP16",
        "0.500",
        "4.0 times faster",
    ]
    assert "9.000" not in text


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
