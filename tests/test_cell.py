"""What a worker process holds: its turns, and that it leaves the cores to others between them."""

import fcntl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from inference_lib.backends import BACKENDS
from inference_lib.measure import cell
from inference_lib.measure.cell import Cell, exported, inputs_of
from inference_lib.measure.exports import ensure_reference, export_missing
from inference_lib.measure.plan import Rival, why_not
from inference_lib.measure.threads import Scheduled
from inference_lib.measure.workers import Worker
from inference_lib.seam import FASHION_MNIST, Workload, find_model
from inference_lib.support.errors import CourseError
from inference_lib.support.files import locked

IMAGES = 8
NEVER_EXPORTED = replace(find_model("vanilla_cnn"), name="never_exported")
WORKLOAD = Workload("vanilla_cnn", 2)
LIMIT_S = 300.0
REST_S = 0.2

SPINNING = ("pytorch", "torchscript", "onnxruntime", "openvino", "openvino-throughput", "tvm")
"""One of every kind of thread pool: OpenMP, ONNX Runtime's, TBB, TVM's."""


@pytest.fixture(scope="module")
def artifacts() -> None:
    """Export what the cells of this file load, and compute the reference."""
    rivals = [Rival(name, WORKLOAD) for name in SPINNING if name in BACKENDS]
    export_missing([rival for rival in rivals if why_not(rival) is None], print, timed=False)
    ensure_reference(WORKLOAD.model, "cpu", IMAGES)


def ran_ms(pid: int) -> float:
    """Return the time that all threads of a process have run, by the kernel's count."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e6


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not count")
@pytest.mark.parametrize("name", SPINNING)
def test_a_rival_that_waits_uses_less_than_one_percent_of_a_core(artifacts: None, name: str) -> None:
    rival = Rival(name, WORKLOAD)
    if why_not(rival):
        pytest.skip(str(why_not(rival)))
    with Worker(Cell, name, WORKLOAD, IMAGES) as worker:
        worker.ask("load", 0.1, limit_s=LIMIT_S)
        used = []
        for _ in range(3):
            before = ran_ms(worker.pid)
            worker.ask("turn", 5, 1, limit_s=LIMIT_S)
            after = ran_ms(worker.pid)
            assert after > before  # the counters do count; how much, others on these cores decide
            time.sleep(REST_S)
            used.append(ran_ms(worker.pid) - after)
    assert median(used) < 0.01 * REST_S * 1e3  # once, the kernel may have had work of its own for a thread


@pytest.fixture(scope="module")
def loaded(artifacts: None) -> Iterator[Cell]:
    """Return a cell in this process."""
    found = Cell("pytorch", WORKLOAD, IMAGES)
    found.load(0.05)
    yield found
    found.close()


def test_loading_says_what_it_cost(loaded: Cell) -> None:
    build, one_s = loaded.load(0.05)
    assert build.load_s > 0
    assert build.first_inference_s > 0
    assert build.artifact_mib > 0.1
    assert 0 < one_s < 60


def test_answers_that_change_are_refused_on_a_gpu(loaded: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = iter([loaded._reference, loaded._reference + 1.0] * 2)
    monkeypatch.setattr(cell.accuracy, "logits_of", lambda runner, images: next(passes))
    loaded._check()
    next(passes)
    monkeypatch.setattr(loaded, "workload", replace(WORKLOAD, device="cuda"))
    with pytest.raises(ValueError, match="other logits the second time"):
        loaded._check()


def test_a_turn_has_the_samples_asked_for_and_discards_the_first(loaded: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(100))
    monkeypatch.setattr(loaded, "_infer", lambda: float(next(times)))
    turn = loaded.turn(5, 2)
    assert turn.samples == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_a_turn_tells_how_long_its_threads_waited_for_a_core(loaded: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "_settle", lambda: None)
    for after, percent in ((Scheduled(9_030.0, 1_005.0), 10.0), (Scheduled(30.0, 5.0), 0.0)):  # many threads, none
        counters = iter([Scheduled(30.0, 5.0), after])
        monkeypatch.setattr(cell, "scheduled", lambda left=counters: next(left))
        assert loaded.turn(2, 1).waited_percent == pytest.approx(percent)


def test_all_pictures_are_answered_and_compared(loaded: Cell) -> None:
    found = loaded.evaluate(IMAGES)
    assert (found.images, found.agreement_percent) == (IMAGES, 100)
    assert found.largest_difference < 1e-5


def test_rivals_on_a_processor_check_and_warm_up_one_at_a_time(
    artifacts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = []

    def check(self: Cell) -> None:
        with pytest.raises(OSError, match="temporarily unavailable"), locked(cell.HOST_LOCK, fcntl.LOCK_NB):
            pass
        alone.append(self.backend.name)

    monkeypatch.setattr(cell, "HOST_LOCK", tmp_path / "made" / "host.lock")
    monkeypatch.setattr(Cell, "_check", check)
    holder = Cell("pytorch", WORKLOAD, IMAGES)
    holder.load(0.0)
    holder.close()
    assert alone == ["pytorch"]
    with locked(cell.HOST_LOCK, fcntl.LOCK_NB):
        pass


@pytest.mark.parametrize("name", ["onnxruntime", "openvino-throughput", "tvm"])
def test_a_processor_answers_many_pictures_by_several_where_its_artifact_can(
    artifacts: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rival = Rival(name, WORKLOAD)
    if why_not(rival):
        pytest.skip(str(why_not(rival)))
    ensure_reference(WORKLOAD.model, "cpu", IMAGES + 3)
    holder = Cell(name, WORKLOAD, IMAGES + 3)
    holder.load(0.0)
    holder._checked, sizes = None, []
    logits_of = cell.accuracy.logits_of
    monkeypatch.setattr(
        cell.accuracy, "logits_of", lambda runner, n: sizes.append(runner.workload.batch_size) or logits_of(runner, n)
    )
    found = holder.evaluate(IMAGES + 3)
    holder.close()
    assert sizes == [WORKLOAD.batch_size if name == "tvm" else cell.EVALUATED_AT]  # TVM compiles the batch in
    assert (found.images, found.agreement_percent) == (IMAGES + 3, 100)
    assert found.largest_difference < 1e-4


def test_parts_and_throughput_are_there(loaded: Cell) -> None:
    assert set(loaded.parts(0.02)) == {"upload", "compute", "download"}
    assert loaded.throughput(0.02) > 0
    assert loaded.overlapped(0.02) is None  # nothing to overlap on a CPU


def test_logits_that_are_not_the_reference_s_are_refused_before_anything_is_timed(
    artifacts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = np.random.default_rng(0).normal(size=(IMAGES, 10)).astype(np.float32)
    monkeypatch.setattr(cell.accuracy, "read_reference", lambda *_: wrong)
    monkeypatch.setattr(cell.timing, "warm_up", lambda *_, **__: pytest.fail("it was warmed up"))
    refused = Cell("pytorch", WORKLOAD, IMAGES)
    with pytest.raises(ValueError, match="logits differ from the FP32 reference"):
        refused.load(0.05)
    refused.close()


def test_a_measuring_process_exports_nothing() -> None:
    backend = BACKENDS["pytorch"]
    with pytest.raises(CourseError, match=r"PyTorch .* has no fresh export of .*; run the benchmark command"):
        exported(backend, Workload(NEVER_EXPORTED, 1))


def test_inputs_are_different_pictures_of_the_test_set() -> None:
    for size, batches in ((1, 8), (2, 4), (16, 2)):
        found = inputs_of(Workload("vanilla_cnn", size))
        assert len(found) == batches
        for number, batch in enumerate(found):
            expected = np.empty_like(batch)
            FASHION_MNIST.read(number * size, expected)
            np.testing.assert_array_equal(batch, expected)
        assert not np.array_equal(found[0], found[1])
