"""Workers answer, raise, die or hang, and every one of these is an answer in the end."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import objects
import preloading
import pytest
import torch
from processes import alive, ends

from inference_lib.course.kernels import IMPORTED
from inference_lib.measure import workers
from inference_lib.measure.beside import import_beside
from inference_lib.measure.workers import Deadline, Worker, WorkerError, ran_out_of_memory
from inference_lib.support.errors import CourseError
from inference_lib.support.failures import reason_of

LIMIT_S = 120.0
"""The fork server's first start imports PyTorch: slow on a busy machine, and never waited for in full."""


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return tmp_path / "_build"


@pytest.fixture
def worker(build: Path) -> Iterator[Worker]:
    with Worker(objects.Thing, build) as started:
        started.ask("called", limit_s=LIMIT_S)
        yield started


def test_a_worker_holds_one_object_in_a_process_of_its_own(worker: Worker) -> None:
    assert worker.ask("called", limit_s=LIMIT_S) == 2
    assert worker.ask("called", limit_s=LIMIT_S) == 3
    assert worker.ask("pid", limit_s=LIMIT_S) == worker.pid != os.getpid()


@pytest.mark.parametrize("start", [import_beside, workers.context], ids=["by a command", "by a worker"])
def test_a_session_s_workers_and_kernels_are_forked_with_all_imports(start: Callable[[], object]) -> None:
    """Seen: a command began it without those of kernels, and each chapter imported them again."""
    start()
    wanted = {*workers.PRELOADED, *IMPORTED, *preloading.FRAMEWORKS}
    with Worker(importlib.import_module, "builtins") as forked:
        assert wanted <= set(forked.ask("eval", "list(__import__('sys').modules)", limit_s=LIMIT_S))


def failure(worker: Worker, command: str, *arguments: object, limit_s: float = LIMIT_S) -> WorkerError:
    pid = worker.pid
    with pytest.raises(WorkerError) as error:
        worker.ask(command, *arguments, limit_s=limit_s)
    assert ends(pid)  # what it left of the device is not to be trusted
    assert "\n" not in str(error.value)
    return error.value


def whole_text(build: Path, found: WorkerError, reason: str) -> str:
    """Return what is in the one file that the line names after ``reason``, as from the folder of the build."""
    said, named = str(found).split("; the whole text is in ")
    assert said == reason
    assert [path.relative_to(build.parent) for path in build.rglob("*.txt")] == [Path(named)]
    return (build.parent / named).read_text()


def test_a_command_that_raises_says_why_in_one_line_and_the_whole_text_is_in_a_file(
    worker: Worker, build: Path
) -> None:
    found = failure(worker, "fail", RuntimeError, "CUDA error: an illegal memory access\nCompile with DSA")
    text = whole_text(build, found, "CUDA error: an illegal memory access")
    assert text.startswith("Traceback")
    assert "in fail\n" in text
    assert text.endswith("an illegal memory access\nCompile with DSA\n")
    assert not found.out_of_memory


def test_a_line_that_was_cut_is_whole_in_the_file(worker: Worker, build: Path) -> None:
    line = "unsupported operator " + "x" * 1000
    found = failure(worker, "fail", TypeError, line)
    assert line in whole_text(build, found, f"TypeError: {line[:300]}")


@pytest.mark.parametrize("command", [("fail", RuntimeError, "one line\n"), ("fail", KeyError, "features"), ("refuse",)])
def test_what_is_told_in_full_has_no_file(worker: Worker, build: Path, command: tuple) -> None:
    assert "the whole text" not in str(failure(worker, *command))
    assert not build.exists()


def test_where_the_text_cannot_be_kept_the_reason_is_told_all_the_same(worker: Worker, build: Path) -> None:
    build.write_text("a file where the folder would be")
    assert str(failure(worker, "fail", RuntimeError, "No space left on device\nmore")) == "No space left on device"


def test_an_error_of_the_course_is_the_reason_word_for_word(worker: Worker) -> None:
    assert str(failure(worker, "refuse")) == objects.REASON


def test_an_object_that_cannot_be_made_says_why_at_the_first_command() -> None:
    with Worker(objects.Broken) as worker:
        assert str(failure(worker, "anything")) == "PyTorch has no fresh export of this; make one"


def test_a_worker_that_is_killed_says_by_what(worker: Worker) -> None:
    assert str(failure(worker, "die")) == "the worker process died (signal 9)"


def test_a_worker_that_leaves_says_with_what(worker: Worker) -> None:
    assert str(failure(worker, "leave", 7)) == "the worker process died (exit code 7)"


def test_a_worker_that_hangs_is_ended_at_its_limit(worker: Worker) -> None:
    assert str(failure(worker, "hang", limit_s=1)) == "no answer within 1 s; the worker process was ended"


def test_a_command_to_a_dead_worker_is_answered_by_its_death(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    assert ends(worker.pid)
    worker.tell("called")
    with pytest.raises(WorkerError, match="died"):
        worker.answer(Deadline(LIMIT_S))


def test_memory_that_ran_out_is_told_apart(worker: Worker, build: Path) -> None:
    found = failure(worker, "run_out_of_memory")
    assert found.out_of_memory
    assert "GPU 0 has" in whole_text(build, found, "CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[ONNXRuntimeError] : 6 : ... Out of memory on GPU"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (CourseError("no data set"), False),
    ],
)
def test_what_is_a_lack_of_memory(error: Exception, is_one: bool) -> None:
    assert ran_out_of_memory(error) == is_one


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CourseError("one line"), "one line"),
        (ValueError("logits differ"), "logits differ"),
        (RuntimeError("\n  CUDA error\nmore"), "CUDA error"),
        (KeyError("features"), "KeyError: 'features'"),
        (AssertionError(), "AssertionError"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_reason_is_one_line_that_tells_something(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_leaving_lets_the_worker_end_by_itself() -> None:
    with Worker(objects.Thing) as worker:
        pid = worker.ask("pid", limit_s=LIMIT_S)
    assert ends(pid)
    assert worker._process.exitcode == 0


def test_killing_a_worker_ends_what_it_started(worker: Worker) -> None:
    """A compiler that a hung export was waiting for would go on beside the next measurement."""
    child = worker.ask("start_a_child", limit_s=LIMIT_S)
    assert alive(child)
    failure(worker, "hang", limit_s=0.1)
    assert ends(child)


ORPHAN = """
import os, sys
sys.path.insert(0, sys.argv[1])
import objects
from inference_lib.measure.workers import Worker
if __name__ == "__main__":
    waiting, busy = Worker(objects.Thing), Worker(objects.Thing)
    print(*(worker.ask("pid", limit_s=300) for worker in (waiting, busy)), flush=True)
    busy.tell(sys.argv[2])
    os.read(0, 1)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    command = [sys.executable, str(script), str(Path(__file__).parent), "called"]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
    finally:
        parent.kill()
        parent.communicate()
    assert all(map(ends, pids))


def test_a_worker_that_is_late_says_how_long_it_had_and_not_what_was_left() -> None:
    """Seen: no answer within 0 s."""
    limit = Deadline(2.0)
    workers = [Worker(objects.Thing) for _ in range(2)]
    for worker in workers:
        worker.tell("hang")
    for worker in workers:
        with pytest.raises(WorkerError, match=r"^no answer within 2 s; the worker process was ended$"):
            worker.answer(limit)


def test_a_deadline_is_shared_and_never_below_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limit = Deadline(10)
    now[0] = 104.0
    assert limit.left_s == pytest.approx(6)
    now[0] = 1000.0
    assert 0 < limit.left_s < 1
