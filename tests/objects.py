"""What worker processes hold in tests: a fork server imports this module by its name."""

import os
import signal
import subprocess
import time

import torch

from inference_lib.support.errors import CourseError

REASON = "no data set in data; run `python -m inference_lib data`, which tells where to put it " + "and more " * 40


class Thing:
    """Does what can go wrong in a worker."""

    def __init__(self, name: str = "thing") -> None:
        self.name, self.calls = name, 0

    def called(self) -> int:
        self.calls += 1
        return self.calls

    def pid(self) -> int:
        return os.getpid()

    def fail(self, kind: type[Exception], text: str) -> None:
        raise kind(text)

    def refuse(self) -> None:
        raise CourseError(REASON)

    def run_out_of_memory(self) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    def die(self, number: int = signal.SIGKILL) -> None:
        os.kill(os.getpid(), number)

    def leave(self, code: int) -> None:
        os._exit(code)

    def hang(self) -> None:
        time.sleep(600)

    def start_a_child(self) -> int:
        return subprocess.Popen(["sleep", "600"]).pid


class Broken:
    """Cannot even be made."""

    def __init__(self) -> None:
        raise CourseError("PyTorch has no fresh export of this; make one")
