"""Kernels for chapters in the tests, forked from a process that has imported what all of them import.

A kernel's imports take seconds, and those of the workers that it measures with once more; a test session executes
seventeen chapters. The kernel is ipykernel's own; test_course.py runs small chapters in kernels of their own
interpreters, as readers do.
"""

import atexit
import gc
import multiprocessing
import os
import threading
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import LocalProvisioner

from inference_lib.course.run import ThisInterpreter
from inference_lib.measure import workers

INLINE = "module://matplotlib_inline.backend_inline"
"""Matplotlib's window system in a notebook. It asks for that when it is imported, which is before there is a kernel."""


class ForkedKernels(ThisInterpreter):
    """Forks kernels from the process that has imported what they need."""

    def start_kernel(self, *arguments: Any, **options: Any) -> Any:
        """Start a kernel."""
        if self.provisioner is None:  # the manager finds its own only where there is none
            self.provisioner = _Forking(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        return super().start_kernel(*arguments, **options)


class _Forking(LocalProvisioner):
    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        workers.context()  # names what is imported where it is forked from
        kernel = _Kernel(cmd[cmd.index("-f") :], options.get("cwd", os.getcwd()), options["env"])
        kernel.start()
        self.process = kernel  # type: ignore[assignment]
        self.pid = self.pgid = kernel.pid
        return self.connection_info


class _Kernel(ForkServerProcess):
    """A kernel, with the methods of a ``subprocess.Popen``, which Jupyter expects."""

    stdin = stdout = stderr = None

    def __init__(self, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
        super().__init__()
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
        import matplotlib
        from ipykernel.kernelapp import IPKernelApp

        arguments, folder, environment = self._given
        os.setsid()  # the manager ends it with all that it started
        os.chdir(folder)
        os.environ.update(environment)
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        matplotlib.rcParams["backend"] = INLINE
        multiprocessing.set_start_method(None, force=True)  # as in a process that was not forked
        forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]  # its workers are forked there, too
        threading.Thread(target=_end_with_parent, daemon=True).start()
        gc.freeze()
        IPKernelApp.launch_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
