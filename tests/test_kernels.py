"""Kernels that are forked are like fresh ones, but for the time that their imports take."""

import ast
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import papermill
import pytest
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from test_course import course_in, write_chapter
from waits import wait_until

from inference_lib.course import kernels
from inference_lib.support import paths


class FreshKernels(AsyncKernelManager):
    """What starts a kernel as Jupyter does: a new interpreter, whose own log nobody reads."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())

    def start_kernel(self, *arguments: Any, **options: Any) -> Any:
        return super().start_kernel(*arguments, **options, stderr=subprocess.DEVNULL)


FACTS = """
import gc, logging, multiprocessing, os, random, signal, sys
import matplotlib, numpy, torch

left, right = torch.ones(2, 512, 512)
{
    "folder": os.getcwd(),
    "environment": {name: value for name, value in os.environ.items() if "PARENT_PID" not in name},
    "leads its processes": os.getpid() == os.getpgrp() == os.getsid(0),
    "arguments": (len(sys.argv), sys.argv[1]),
    "answers signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    "standard error": os.readlink("/proc/self/fd/2") != os.devnull,
    "logs of PyTorch": [log.stream is sys.stderr for log in logging.getLogger("torch").handlers],
    "main module": sys.modules["__main__"].__dict__ is globals(),
    "starts processes": multiprocessing.get_start_method(),
    "is called": multiprocessing.current_process().name,
    "put aside": gc.get_freeze_count(),
    "window system": matplotlib.get_backend(),
    "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
    "product": (left @ right)[0, 0].item(),
    "CUDA": (torch.cuda.is_initialized(), torch.cuda.is_available() and torch.cuda._is_in_bad_fork()),
}
"""

DRAWN = "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])"

DICE = "import random, numpy, torch\n[random.random(), numpy.random.random(), torch.rand(1).item()]"


@pytest.fixture(autouse=True)
def _prepared() -> None:
    kernels.prepare()


def value_of(code: str, folder: Path, manager: type[AsyncKernelManager]) -> object:
    """Return the value of what a cell of ``code`` ends with, in a new kernel of ``manager``."""
    source = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in (DRAWN, code)])
    options = {"kernel_name": "python3", "language": "python", "progress_bar": False, "cwd": str(folder)}
    executed = papermill.execute_notebook(source, None, kernel_manager_class=manager, **options)
    drawn, said = executed.cells
    assert "image/png" in drawn.outputs[-1].data
    return ast.literal_eval(said.outputs[-1].data["text/plain"])


def test_a_forked_kernel_is_like_a_fresh_one(tmp_path: Path) -> None:
    with patch.dict(os.environ, {"SET_LATER": "yes"}):
        os.environ.pop("HOSTNAME", None)  # what was taken away since is gone, too
        found = [value_of(FACTS, tmp_path, manager) for manager in (FreshKernels, kernels.ForkedKernels)]
    assert found[1]["environment"]["SET_LATER"] == "yes"
    assert found[1] == found[0]


def test_each_forked_kernel_throws_its_own_dice(tmp_path: Path) -> None:
    thrown = [value_of(DICE, tmp_path, kernels.ForkedKernels) for _ in range(2)]
    assert not set(thrown[0]) & set(thrown[1])


def test_workers_come_from_where_the_kernel_came_from(tmp_path: Path) -> None:
    """Another process that imports PyTorch for them would take seconds; they work in the folder of the kernel."""
    code = """
    import os
    from pathlib import Path
    from inference_lib.measure.workers import Worker
    with Worker(Path) as worker:
        folder = worker.ask("cwd", limit_s=60)
        status = Path(f"/proc/{worker.pid}/status").read_text()
    [str(folder), f"PPid:\\t{os.getppid()}\\n" in status]
    """
    assert value_of(textwrap.dedent(code), tmp_path, kernels.ForkedKernels) == [str(tmp_path), True]


WAITING = """
import os, subprocess, time
from pathlib import Path
from inference_lib.measure.workers import Worker
child = subprocess.Popen(["sleep", "1000"])
worker = Worker(Path)
Path("part").write_text(f"{os.getpid()} {worker.pid} {child.pid}")
os.rename("part", "started")
time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kernel_and_what_it_started_end_with_the_command(tmp_path: Path, number: int) -> None:
    course = course_in(tmp_path)
    write_chapter(course, "01_first", WAITING)
    command = [sys.executable, "-m", "inference_lib", "run", "01", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "INFERENCE_ROOT": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: (tmp_path / "started").exists() or process.poll() is not None)
        started = [int(pid) for pid in (tmp_path / "started").read_text().split()]
        process.send_signal(number)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
