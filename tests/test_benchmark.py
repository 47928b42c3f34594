"""A grid of cells: what is measured, what is reused, and what a crash costs."""

import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from inference_lib.records.store import RecordStore

from inference_lib.cli import main
from inference_lib.measure import accuracy
from inference_lib.measure import benchmark as module
from inference_lib.measure.benchmark import benchmark, run_worker
from inference_lib.measure.cell import Job, empty_record
from inference_lib.measure.profiles import PROFILES
from inference_lib.seam import Workload
from inference_lib.support.errors import CourseError

TINY = replace(
    PROFILES["quick"], name="tiny", batch_sizes={"fp32": (1, 2)}, budget_s=0.02, min_samples=3, cpu_test_images=8
)


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records")


def tiny(store: RecordStore, **changed: object) -> list:
    asked = {"backends": ["pytorch"], "models": ["vanilla_cnn"], "device": "cpu", "profile": TINY, "store": store}
    return benchmark(**(asked | changed))


def test_every_cell_is_measured_checked_and_stored(store: RecordStore) -> None:
    records = tiny(store)
    assert [(r.status, r.batch_size) for r in records] == [("ok", 1), ("ok", 2)]
    for record in records:
        assert record.accuracy.images == TINY.cpu_test_images
        assert record.accuracy.agreement_percent == 100
        assert record.latency.end_to_end.samples >= 3
        assert record.throughput_images_per_s > 0
        assert record.build.artifact_mib > 0
    assert store.read() == records


def test_what_was_measured_is_not_measured_again(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny(store)
    monkeypatch.setattr(module, "run_worker", lambda *_: pytest.fail("a worker was started"))
    assert tiny(store) == first


def test_a_change_of_the_profile_measures_again(store: RecordStore) -> None:
    first = tiny(store)
    again = tiny(store, profile=replace(TINY, cpu_test_images=6))
    assert first[0].fingerprint != again[0].fingerprint
    assert again[0].accuracy.images == 6


def test_a_row_that_cannot_be_measured_says_why(store: RecordStore) -> None:
    records = tiny(store, backends=["pytorch-cudagraph"])
    assert {r.status for r in records} == {"unsupported"}
    assert "NVIDIA GPUs" in records[0].reason
    assert store.read() == records


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": ["resnet19"]}, "unknown model 'resnet19'; choose one of: vanilla_cnn, resnet18"),
        ({"backends": ["keras"]}, "unknown backend 'keras'; choose one of: pytorch, "),
        ({"precisions": ["fp12"]}, "unknown precision 'fp12'; choose one of: fp32, "),
        ({"batch_sizes": [0]}, "batch size 0"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_runs(store: RecordStore, changed: dict, message: str) -> None:
    with pytest.raises(CourseError) as error:
        tiny(store, **changed)
    assert str(error.value).startswith(message)
    assert store.read() == []


JOB = Job("pytorch", "vanilla_cnn", "fp32", "cpu", (1, 2, 4), TINY, "f")


def _die_at_two(job: Job, store: RecordStore, announce: Callable[[int], None]) -> None:
    for batch_size in job.batch_sizes:
        announce(batch_size)
        if batch_size == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        store.write(empty_record(job, batch_size, "ok"))


def test_a_crash_is_reported_with_the_batch_size_it_happened_at(store: RecordStore) -> None:
    assert run_worker(_die_at_two, JOB, store) == (2, "the worker process died (signal 9)")
    assert [r.batch_size for r in store.read()] == [1]


def test_a_crash_costs_one_cell(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", _die_at_two)
    records = tiny(store, batch_sizes=[1, 2, 4])
    assert [(r.batch_size, r.status) for r in records] == [(1, "ok"), (2, "failed"), (4, "ok")]
    assert "signal 9" in records[1].reason


def test_a_wrong_model_is_not_timed(store: RecordStore) -> None:
    """Logits that are not the reference's make a failed record, never a fast row."""
    path = accuracy.reference_path("vanilla_cnn", "cpu", 7)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(0).normal(size=(7, 10)).astype("float32"))
    try:
        records = tiny(store, profile=replace(TINY, cpu_test_images=7))
    finally:
        path.unlink()
    assert {r.status for r in records} == {"failed"}
    assert all("FP32 reference" in r.reason and r.latency is None for r in records)


def test_missing_artifacts_are_exported_side_by_side_before_anything_is_measured(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exported = []

    class Pool:
        """A pool of processes that works in this one."""

        def __init__(self, processes: int, initializer: object) -> None:
            assert processes == 2

        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *exc: object) -> None:
            pass

        def starmap(self, call: Callable, arguments: Iterable[tuple]) -> None:
            exported.extend(arguments)

    def measured(job: Job, *_: object) -> list:
        assert len(exported) == 2
        return [job.model]

    monkeypatch.setattr(module, "_context", lambda: SimpleNamespace(Pool=Pool))
    monkeypatch.setattr(module, "is_built", lambda *_: False)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(module, "_measure_job", measured)
    assert tiny(store, models=["vanilla_cnn", "resnet18"]) == ["vanilla_cnn", "resnet18"]
    assert [(backend, workload.model) for backend, workload in exported] == [
        ("pytorch", "vanilla_cnn"),
        ("pytorch", "resnet18"),
    ]


def test_exporting_ahead_measures_nothing_and_says_what_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exported(backend: str, workload: Workload) -> None:
        if workload.model != "resnet18":
            there.add(workload.model)

    there: set[str] = set()
    monkeypatch.setattr(module, "is_built", lambda _, workload: workload.model in there)
    monkeypatch.setattr(module, "_export", lambda missing: [exported(*each) for each in missing.values()])
    monkeypatch.setattr(module, "_measure_job", None)
    command = ["benchmark", "--export-only", "--device", "cpu", "--backend", "pytorch", "--batch-size", "1"]
    assert main([*command, "--model", "vanilla_cnn", "resnet18"]) == 1
    assert capsys.readouterr().out == "exported 1, failed: pytorch/resnet18-fp32\n"
    assert main([*command, "--model", "vanilla_cnn"]) == 0
    assert capsys.readouterr().out == "exported 0\n"
