"""Exports ahead of every measurement: which are timed, which run side by side, and what a failure costs."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import objects
import pytest

from inference_lib.backends import BACKENDS, get_backend
from inference_lib.cli import main
from inference_lib.measure import exports
from inference_lib.measure.exports import Exporter, ensure_reference, export_missing, sharing
from inference_lib.measure.plan import Rival
from inference_lib.measure.workers import WorkerError
from inference_lib.seam import Workload, find_model
from inference_lib.support.errors import CourseError


@pytest.fixture
def waves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], bool]]:
    """Let nothing be there; return what is exported together, and whether that is timed, as it happens."""
    found: list[tuple[list[str], bool]] = []

    def export(
        wave: dict[str, Rival], progress: object, shown: object, *, timed: bool, together: bool = False
    ) -> dict[str, WorkerError]:
        found.append((list(wave), timed))
        return {key: WorkerError("died") for key in wave if "openvino" in key}

    monkeypatch.setattr(exports, "find_artifact", lambda *_: None)
    monkeypatch.setattr(exports, "_export", export)
    monkeypatch.setattr(exports.os, "sched_getaffinity", lambda _: {0, 1})
    return found


def rivals(names: Iterable[str], sizes: Iterable[int] = (1,), precision: str = "fp32", device: str = "cpu"):
    return [Rival(name, Workload("resnet18", size, precision, device)) for name in names for size in sizes]


def keys(waves: list[tuple[list[str], bool]]) -> list[str]:
    return [key for wave, _ in waves for key in wave]


def test_an_artifact_that_several_cells_share_is_exported_once(waves: list) -> None:
    export_missing(rivals(["pytorch", "onnxruntime", "onnxruntime-iobinding"], sizes=(1, 8)), print)
    assert sorted(keys(waves)) == ["onnx/resnet18-fp32", "pytorch/resnet18-fp32"]


def test_the_cheapest_cells_are_exported_alone_and_timed_the_others_side_by_side(waves: list) -> None:
    export_missing(rivals(["aot-inductor"], sizes=(8, 1, 64, 2)), print)
    alone = [wave for wave, timed in waves if timed]
    assert [len(wave) for wave in alone] == [1]
    assert "b1" in alone[0][0]
    assert [len(wave) for wave, timed in waves if not timed] == [3]


def test_no_export_is_timed_where_nobody_asks_for_it(waves: list) -> None:
    export_missing(rivals(["aot-inductor", "pytorch"], sizes=(1, 8)), print, timed=False)
    assert not any(timed for _, timed in waves)
    assert len(keys(waves)) == 3


def test_a_builder_that_times_kernels_never_runs_beside_another(waves: list) -> None:
    builder = next(name for name, backend in BACKENDS.items() if backend.times_kernels and not sharing(backend))
    export_missing(rivals([builder, "pytorch"], sizes=(1, 8, 64), device="cuda"), print, timed=False)
    assert all(len(wave) == 1 for wave, _ in waves if any(builder in key for key in wave))


def test_what_could_not_be_exported_is_named_with_its_reason_and_the_others_are_exported(waves: list) -> None:
    failed = export_missing(rivals(["openvino", "pytorch", "torchscript"]), print)
    assert {key: str(error) for key, error in failed.items()} == {"openvino/resnet18-fp32": "died"}
    assert len(keys(waves)) == 3


def test_what_is_there_is_not_exported_again(waves: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "find_artifact", lambda backend, _: backend.name == "pytorch" or None)
    export_missing(rivals(["pytorch", "torchscript"]), print)
    assert keys(waves) == ["torchscript/resnet18-fp32"]


def test_the_command_says_what_failed_and_measures_nothing(
    waves: list, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["benchmark", "--export-only", "--device", "cpu", "--model", "resnet18", "--batch-size", "1"]
    command += ["--records", str(tmp_path / "records")]
    assert main([*command, "--backend", "pytorch", "openvino"]) == 1
    assert capsys.readouterr().out == "openvino/resnet18-fp32: died\n"
    assert main([*command, "--backend", "pytorch"]) == 0
    assert capsys.readouterr().out == "everything is exported\n"
    assert not list((tmp_path / "records").glob("*.json"))


# Real processes


@pytest.fixture
def nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "find_artifact", lambda *_: None)


@pytest.mark.usefixtures("nothing_there")
def test_the_next_export_starts_when_one_has_ended_and_never_more_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(exports, "Exporter", partial(objects.CountingExporter, tmp_path))
    monkeypatch.setattr(exports.os, "sched_getaffinity", lambda _: {0, 1})
    assert export_missing(rivals(["aot-inductor"], sizes=(1, 2, 3, 4, 5)), print, timed=False) == {}
    beside = [int(path.read_text()) for path in tmp_path.glob("*.ended")]
    assert len(beside) == 5
    assert max(beside) == 2


@pytest.mark.usefixtures("nothing_there")
def test_an_export_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "Exporter", objects.HungExporter)
    monkeypatch.setattr(exports, "EXPORT_LIMIT_S", 0.5)
    failed = export_missing(rivals(["pytorch", "torchscript"]), print, timed=False)
    assert all("the worker process was ended" in str(error) for error in failed.values())
    assert len(failed) == 2


@pytest.mark.usefixtures("nothing_there")
def test_exports_that_share_what_they_find_out_are_made_by_one_process_and_not_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that fails ends its process: what it left of the device is not to be trusted."""
    monkeypatch.setattr(exports, "Exporter", partial(objects.LoggingExporter, tmp_path / "log"))
    cells = rivals(["cudnn", "tensorrt"], sizes=(16, 8, 4, 2, 1), precision="fp16", device="cuda")
    failed = export_missing(cells, print)
    assert {key: str(error) for key, error in failed.items()} == {
        get_backend(name).artifact_key(Workload("resnet18", 2, "fp16", "cuda")): "cuDNN has no plan"
        for name in ("cudnn", "tensorrt")
    }
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [line[1:] for line in lines] == [
        ["cudnn", "1", "True"],
        *([["tensorrt", size, "True"] for size in ("16", "8", "4", "2", "1")]),
        *([["cudnn", size, "False"] for size in ("16", "8", "4", "2")]),
    ]
    by_process: dict[str, list[str]] = {}
    for pid, name, size, _ in lines:
        by_process.setdefault(pid, []).append(name + size)
    assert [jobs for jobs in by_process.values() if len(jobs) > 1] == [["cudnn16", "cudnn8", "cudnn4", "cudnn2"]]
    (tmp_path / "log").unlink()
    export_missing(rivals(["cudnn"], sizes=(4, 2, 1, 3), precision="fp16", device="cuda"), print, timed=False)
    pids = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_only_exports_that_are_not_timed_share(monkeypatch: pytest.MonkeyPatch) -> None:
    open_now: list[str] = []

    class Sharing:
        @contextmanager
        def exporting(self) -> Iterator[None]:
            open_now.append("shared")
            yield
            open_now.pop()

    monkeypatch.setattr(exports, "get_backend", lambda name: Sharing())
    monkeypatch.setattr(exports.logging, "disable", lambda level: None)
    seen: list[tuple[bool, int]] = []
    monkeypatch.setattr(exports, "build", lambda *_, timed: seen.append((timed, len(open_now))))
    exporter = Exporter()
    (rival,) = rivals(["cudnn"], precision="fp16", device="cuda")
    for timed in (True, False, False):
        exporter.export(rival, timed)
    assert seen == [(True, 0), (False, 1), (False, 1)]


def test_reference_logits_that_cannot_be_computed_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(exports, "find_reference", lambda *_: None)
    monkeypatch.setattr(exports, "Exporter", objects.KilledExporter)
    with pytest.raises(CourseError) as error:
        ensure_reference(find_model("resnet18"), "cpu", 8)
    assert str(error.value) == (
        "the reference logits of resnet18 cannot be computed on cpu: the worker process died (signal 9)"
    )
    assert os.listdir(tmp_path) == []


def test_where_the_gpu_cannot_compute_the_reference_the_processor_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class FullGpu:
        def __init__(self, _: object) -> None:
            pass

        def __enter__(self) -> "FullGpu":
            return self

        def __exit__(self, *exc: object) -> None:
            pass

        def ask(self, _: str, __: object, device: str, *___: object, limit_s: float) -> None:
            asked.append(device)
            if device == "cuda":
                raise WorkerError("no room", out_of_memory=True)

    monkeypatch.setattr(exports, "find_reference", lambda *_: None)
    monkeypatch.setattr(exports, "places", lambda _: ("cuda", "cpu"))
    monkeypatch.setattr(exports, "Worker", FullGpu)
    ensure_reference(find_model("vanilla_cnn"), "cpu", 8)
    assert asked == ["cuda", "cpu"]
