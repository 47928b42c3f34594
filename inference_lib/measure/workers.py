"""Processes that hold one object each and do what they are told, one command at a time.

Every wait on one has an end: it answers, it dies, or its time is up and it is killed; each is a line of text.
"""

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, Self

import torch

from inference_lib.support.failures import told
from inference_lib.support.interrupts import uninterrupted

CLOSING_S = 5.0
"""How long a worker may take to free what it holds before it is killed."""

PRELOADED = ("inference_lib.measure.cell", "torch._dynamo", "torch._inductor.compile_fx")
"""Imported once, before any worker starts: a fork of that is ready in milliseconds. The imports of PyTorch's compiler
alone took 15 s of each start on a slow host."""

ASK_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Lets PyTorch ask NVML whether there is a GPU: the compiler asks while it is imported, and CUDA, once asked in a
process, refuses to work in its forks."""

UNGUARDED = 86
"""Exit status of a process that imported the script of its parent and, with it, started to measure a second time."""

NO_GUARD = """a script that measures starts processes, and each of them imports the script: put what it does under the \
line `if __name__ == "__main__":`"""


class WorkerError(Exception):
    """A worker did not do what it was told; the message is one line, for the record."""

    def __init__(self, reason: str, *, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


class Worker:
    """A process with one object, made there by ``make``; its public methods are the commands.

    A worker that raised, died or was too slow is ended: what it left of the device is not to be trusted.
    """

    def __init__(self, make: Callable[..., object], *arguments: Any) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            os._exit(UNGUARDED)  # this is a worker that is still importing its parent's script
        self._pipe, theirs = context().Pipe()
        self._process = context().Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        with uninterrupted():
            self._process.start()
        theirs.close()

    def tell(self, command: str, *arguments: Any) -> None:
        """Send a command; ``answer`` waits for what it returns. A dead worker says so there."""
        with suppress(OSError):
            self._pipe.send((command, arguments))

    def answer(self, limit: "Deadline") -> Any:
        """Return what the command did; WorkerError if it raised, the process died, or the ``limit`` passed."""
        try:
            if not self._pipe.poll(limit.left_s):
                self.kill()
                raise WorkerError(f"no answer within {limit.limit_s:.0f} s; the worker process was ended")
            ok, value, out_of_memory = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise WorkerError(self._how_it_died()) from error
        if not ok:
            self.kill()
            raise WorkerError(value, out_of_memory=out_of_memory)
        return value

    def ask(self, command: str, *arguments: Any, limit_s: float) -> Any:
        """Send a command and return what it returns; raise WorkerError as ``answer`` does."""
        self.tell(command, *arguments)
        return self.answer(Deadline(limit_s))

    def _how_it_died(self) -> str:
        self._process.join(CLOSING_S)
        code = self._process.exitcode
        self.kill()
        if code == UNGUARDED:
            sys.exit(f"error: {NO_GUARD}")  # nobody can catch this and go on
        if code is None:
            return "the worker process closed its pipe"
        return f"the worker process died ({f'signal {-code}' if code < 0 else f'exit code {code}'})"

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the file that can be read when there is an answer, or nobody left to give one."""
        return self._pipe.fileno()

    def kill(self) -> None:
        """End the process now, and what it started: a compiler would go on beside the next measurement."""
        self.strike()
        self._process.join(CLOSING_S)

    def strike(self) -> None:
        """Kill the process and what it started, without waiting for the end."""
        with suppress(ProcessLookupError):  # it has no group yet, or nobody is left in it
            os.killpg(self._process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        self._process.kill()

    def close(self) -> None:
        """Let the process free what it holds and end; kill it if it does not."""
        self._pipe.close()
        self._process.join(CLOSING_S)
        self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *exc: object) -> None:
        (self.close if kind is None else self.kill)()


def first_to_answer(workers: Iterable[Worker], limit_s: float) -> list[Worker]:
    """Return the workers that have answered or died, waiting for the first; none after ``limit_s`` seconds."""
    return connection.wait(list(workers), limit_s)  # type: ignore[arg-type,return-value]


def end(workers: Iterable[Worker]) -> None:
    """Kill all: a process takes a while to give back what it had on a GPU, and they do so side by side."""
    ending = list(workers)
    for worker in ending:
        worker.strike()
    for worker in ending:
        worker.kill()


def _serve(pipe: Connection, make: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """Answer commands until the parent closes the pipe, or is gone."""
    os.setpgrp()
    gc.freeze()  # what was imported before the fork stays; looking through it took a second
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    thing: object = None
    while True:
        try:
            command, given = pipe.recv()
        except (EOFError, OSError):
            break
        try:
            thing = make(*arguments) if thing is None else thing
            answer = (True, getattr(thing, command)(*given), False)
        except Exception as error:  # whatever a framework raises is the row's reason
            answer = (False, told(error), ran_out_of_memory(error))
        try:
            pipe.send(answer)
        except OSError:
            break
    if close := getattr(thing, "close", None):
        close()
    os._exit(0)  # a framework's threads may never end by themselves


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the device or the host, is what was missing."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower()


def context() -> multiprocessing.context.ForkServerContext:
    """Return what workers are started from."""
    os.environ.setdefault(ASK_NVML, "1")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(PRELOADED))
    return server


class Deadline:
    """What is left of a limit that several waits share."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s, self._end = limit_s, time.monotonic() + limit_s

    @property
    def left_s(self) -> float:
        """Seconds until the limit; never below a moment in which an answer that is there can be read."""
        return max(0.05, self._end - time.monotonic())
