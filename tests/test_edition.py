"""What the pages say of an edition: every row or its reason, intervals, ties, and how the claims of one run held."""

import html
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_lib.backends import get_backend
from inference_lib.records.machine import Machine
from inference_lib.records.record import Build, Invocation, Parts, Record
from inference_lib.records.store import RecordStore
from inference_lib.report import readme, tables, words
from inference_lib.report.choose import choose, level_with
from inference_lib.report.rivals import Rivals

MACHINE = Machine(
    gpu="NVIDIA Test GPU",
    driver="1.2",
    cpu="Test CPU",
    cores=2,
    threads=2,
    memory_gib=8,
    system="Linux",
    python="3.12",
    packages={"torch": "2.11.0"},
)


def row(ms: float = 2.0, backend: str = "pytorch", starts: int = 3, iterations: int = 400, **changed: Any) -> Record:
    """Return a measured record of ``ms`` whose starts and rounds lie a little apart."""
    rounds = [[ms * (1 + 0.002 * start + 0.001 * (n % 3)) for n in range(12)] for start in range(starts)]
    lives = [
        Invocation(
            number=number,
            end_to_end_ms=times,
            device_ms=[t / 2 for t in times],
            iterations=iterations,
            quantiles=list(np.linspace(ms, 1.5 * ms, 201)),
        )
        for number, times in enumerate(rounds, 1)
    ]
    fields: dict[str, Any] = {
        "status": "ok",
        "backend": backend,
        "title": get_backend(backend).title,
        "model": "resnet18",
        "model_title": "ResNet-18",
        "batch_size": 1,
        "precision": "fp32",
        "device": "cuda",
        "machine": MACHINE,
        "profile": "full",
        "rivals": "a set",
        "measured_on": date(2026, 1, 2),
        "invocations": lives,
        "parts": Parts(upload=0.1, compute=ms - 0.2, download=0.1),
        "throughput_images_per_s": 1000.0,
    }
    return Record(**(fields | changed))


def absent(backend: str = "tensorrt", **changed: Any) -> Record:
    """Return the record of a row whose library is missing."""
    why: dict[str, Any] = {"status": "unavailable", "reason": "no <library>; install it"}
    return row(backend=backend, **(why | {"invocations": [], "parts": None} | changed))


def text(page: str) -> list[list[str]]:
    """Return the cells of an HTML table, a list a row."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [[html.unescape(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", each)] for each in rows]


def test_the_table_of_rivals_has_intervals_verdicts_and_the_row_that_is_not_there() -> None:
    published = [row(2.0), row(1.0, "pytorch-cudagraph"), row(1.004, "tvm-cudagraph"), absent()]
    rivals = ["pytorch-cudagraph", "tvm-cudagraph", "pytorch", "tensorrt"]
    page = Rivals.of(rivals, [], published, ["fp32"]).table().data
    machine, head, graph, tvm, loop, missing = text(page)
    assert machine[-1] == "NVIDIA Test GPU"
    assert head[3:] == ["ms", "95 %", "against PyTorch (CUDA graph)", "on the device, ms"]
    low, high = map(float, graph[4].split("\u2013"))
    assert low < float(graph[3]) < high
    assert (graph[5], float(graph[6])) == ("baseline", pytest.approx(float(graph[3]) / 2, abs=1e-3))
    assert tvm[5] == "about as fast"
    assert loop[5] == "2.0 times slower"
    assert missing == ["TensorRT", "resnet18", "FP32", "-", "-", "unavailable [1]", "-"]
    assert "<li>no &lt;library&gt;; install it</li>" in page


def test_a_quick_row_has_a_ratio_and_no_verdict() -> None:
    page = Rivals.of(["pytorch", "tvm"], [row(2.0, starts=1), row(1.0, "tvm", starts=1)], [], ["fp32"]).table().data
    assert text(page)[1][3:] == ["ms", "against PyTorch (eager)", "on the device, ms"]
    assert text(page)[3][4] == "2.00"


def test_a_rival_that_ran_nowhere_is_not_compared() -> None:
    compared = Rivals.of(["pytorch", "tensorrt"], [], [row(), absent()], ["fp32"])
    assert "nothing to compare" in compared.verdict("tensorrt", precision="fp32")
    assert compared.shown("resnet18", "fp32") == [compared.published[0]]


def test_a_sentence_names_every_other_rival_that_was_measured() -> None:
    compared = Rivals.of(["pytorch", "tvm", "tensorrt"], [], [row(2.0), row(1.0, "tvm"), absent()], ["fp32"])
    assert compared.verdict("tvm", precision="fp32", batch_sizes=(1, 256)) == (
        "On NVIDIA Test GPU, FP32, TVM end to end: against PyTorch (eager) it is 2.0 times faster at batch 1"
    )


def test_the_scoreboard_shows_a_row_for_every_record_and_each_note_once() -> None:
    records = [row(), row(1.0, "tvm", flags=["busy"]), absent(), absent("torch-tensorrt")]
    page = tables.show_scoreboard(records, "resnet18", "caption").data
    notes = {cells[0]: cells[-1] for cells in text(page)[1:]}
    assert notes == {
        "PyTorch (eager)": "-",
        "TVM": "[1]",
        "TensorRT": "unavailable [2]",
        "Torch-TensorRT": "unavailable [2]",
    }
    assert page.count("<li>") == 2


def test_a_record_whose_export_was_not_timed_can_be_read_again(tmp_path: Path) -> None:
    untimed = row(build=Build(export_s=None, load_s=1, first_inference_s=1, artifact_mib=1))
    store = RecordStore(tmp_path)
    store.write(untimed)
    assert store.read() == [untimed]


def test_a_limit_on_p99_needs_a_p99_and_one_on_the_median_does_not() -> None:
    few, many = row(1.0), row(2.0, "tvm")
    many = many.model_copy(update={"invocations": [i.model_copy(update={"iterations": 500}) for i in many.invocations]})
    few = few.model_copy(update={"invocations": [i.model_copy(update={"iterations": 100}) for i in few.invocations]})
    assert choose([few, many], "resnet18", max_p50_ms=3).best == few
    choice = choose([few, many], "resnet18", max_p99_ms=10)
    assert (choice.best, choice.excluded) == (many, ((few, "p99 latency was not measured"),))
    assert "median latency" in choose([many], "resnet18", max_p50_ms=1).excluded[0][1]


def test_ties_are_named_and_one_start_gives_none() -> None:
    best, near, far = row(1.0), row(1.004, "tvm"), row(2.0, "torchscript")
    assert words.tied(best, [best, near, far]) == "TVM FP32"
    assert words.tied(best, [best, far]) == "nothing else"
    single = [row(1.0, starts=1), row(1.004, "tvm", starts=1)]
    assert level_with(single[0], single) == []
    assert "too few" in words.tied(single[0], single)


def test_the_readme_has_a_row_a_model_what_is_missing_and_how_the_claims_held() -> None:
    first = [row(2.0), row(1.0, "tvm", precision="fp16"), absent(), row(9.0, "tvm", device="cpu")]
    second = [row(2.0, run="2"), row(4.0, "tvm", precision="fp16", run="2")]
    page = readme.results([*first, *second])
    loop, quickest = (line for line in page.splitlines() if line.startswith(("| the plain loop", "| quickest")))
    assert "2.006 (1.996" in loop
    assert "TVM FP16" in quickest
    assert "2.0 times as fast" in quickest
    assert "- TensorRT: unavailable: no <library>; install it" in page
    assert re.search(r"\| end to end +\| +1 \| +1 \| +1 \| +1 \| +0\.0 \|", page)
    assert readme.ONE_RUN in readme.results(first)
    assert readme.results([]) == readme.results([absent()]) == "Nothing published yet."


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (
            {"claims": 50, "contradicted": 1, "not_confirmed": 6, "compatible_percent": 94.6},
            "1 of these claims (2.0 %)",
        ),
        ({"claims": 0, "contradicted": 0, "not_confirmed": 0, "compatible_percent": None}, "none is claimed"),
    ],
)
def test_how_claims_held_is_said_in_words(counts: dict, said: str) -> None:
    assert said in words.held({"pairs": 60} | counts)
