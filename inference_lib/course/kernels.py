"""Kernels for chapters, forked from a process that has imported what all of them import.

These imports take seconds, and those of the workers that a chapter measures with once more; a book has seventeen
chapters. A kernel is ipykernel's own, and but for what is imported it is like one of a new interpreter.
"""

import atexit
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from inference_lib.measure.beside import import_beside
from inference_lib.support.interrupts import uninterrupted

IMPORTED = (
    "ipykernel.kernelapp",
    "scipy.stats",
    "torchvision",
    "inference_lib.lab",
    "inference_lib.report.plots",
    "inference_lib.report.tables",
)
"""What kernels, and the first cells of chapters, ask for beside what workers need."""

INLINE = "module://matplotlib_inline.backend_inline"
"""Matplotlib's window system in a notebook. It asks for that when it is imported, which is before there is a kernel."""


def prepare() -> None:
    """Start what workers and kernels are forked from, unless it runs."""
    import_beside(*IMPORTED)


class ForkedKernels(AsyncKernelManager):
    """Starts kernels with the interpreter that runs now, whatever kernels are installed on the machine."""

    transport_encryption = "auto"  # else each kernel warns that others on this machine could listen

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel to start."""
        return KernelSpec(**get_kernel_dict())

    def start_kernel(self, *arguments: Any, **options: Any) -> Any:
        """Start a kernel."""
        if self.provisioner is None:  # the manager finds its own only where there is none
            self.provisioner = _Forking(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        return super().start_kernel(*arguments, **options)


class _Forking(LocalProvisioner):
    """Forks a kernel where Jupyter would start an interpreter."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        kernel = _Kernel(cmd[cmd.index("-f") :], options.get("cwd") or os.getcwd(), options["env"])
        with uninterrupted():
            kernel.start()
        self.process = kernel  # type: ignore[assignment]
        self.pid = self.pgid = kernel.pid
        return self.connection_info


class _Kernel(ForkServerProcess):
    """A kernel, with the methods of a ``subprocess.Popen``, which Jupyter expects."""

    stdin = stdout = stderr = None

    def __init__(self, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
        super().__init__(name="MainProcess")
        self._given = arguments, folder, environment

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)  # type: ignore[arg-type]

    def run(self) -> None:
        """Be a kernel until told to end."""
        arguments, folder, environment = self._given
        _begin_anew(["ipykernel_launcher.py", *arguments], folder, environment)
        from ipykernel.kernelapp import IPKernelApp

        threading.Thread(target=_end_with_parent, daemon=True).start()
        logs = _logs_on_standard_error()
        kernel = IPKernelApp.instance()
        kernel.initialize([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
        for log in logs:  # what libraries say goes to the cell, in its place
            log.setStream(sys.stderr)
        kernel.start()
        gc.freeze()  # what is left ends with the process, and IPython would look through it
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def _begin_anew(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Let this process be as one that was not forked: on its own, in ``folder``, with dice of its own.

    Its own log, on standard error, would mix with the progress lines; a cell's output is not affected.
    """
    import matplotlib
    import numpy as np
    import torch

    os.setsid()  # the manager ends it with all that it started
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    np.random.seed()  # Python's own dice are thrown anew by themselves
    torch.default_generator.seed()
    matplotlib.rcParams["backend"] = INLINE
    multiprocessing.set_start_method(None, force=True)
    # Its workers come from where it came from, as multiprocessing says that they do: it would start one more.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]


def _logs_on_standard_error() -> list[logging.StreamHandler]:
    """Return what writes logs to standard error by now: libraries take what that is when they are imported."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    return [each for each in handlers if isinstance(each, logging.StreamHandler) and each.stream is sys.stderr]


def _end_with_parent() -> None:
    """End this process, and what it started, as soon as the one that asked for it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(os.getpgrp(), signal.SIGKILL)
