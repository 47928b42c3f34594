"""Processes that compile cuDNN's plans for the current GPU, kept as long as networks are searched.

Each imports cuDNN and opens a handle, which takes seconds, and then answers one task after the other (compiler.py).
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from inference_lib.backends.cudnn import compiler
from inference_lib.backends.cudnn.compiler import Kernel, Spec
from inference_lib.support.errors import CourseError, first_line

COMPILE_LIMIT_S = 300.0
"""For everything that is asked at a time."""

SPARE_S = 8.0
"""In which plans are begun that the heuristic does not name."""

CONTEXT_BYTES = 2**30
"""Memory of the GPU's that a process needs which compiles: a context of CUDA's and a handle of cuDNN's."""


class Compilers:
    """As many processes as there are cores, and as the GPU's memory has room for."""

    def __init__(self) -> None:
        fit = torch.cuda.mem_get_info()[0] // CONTEXT_BYTES
        count = max(1, min(len(os.sched_getaffinity(0)), fit))
        self._own = threading.local()
        self._device = torch.cuda.current_device()  # of this thread: each has its own
        self._idle = [_Process(self._device) for _ in range(count)]  # they start while the caller goes on
        self._every = list(self._idle)
        self._threads = ThreadPoolExecutor(count, initializer=self._take)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """What each part of the searches took so far."""

    def __enter__(self) -> "Compilers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._every:
            process.kill()
        self._threads.shutdown(cancel_futures=True)

    @contextmanager
    def counting(self, part: str) -> Iterator[None]:
        """Add the seconds of a block to those of a part of the search."""
        start = time.monotonic()
        yield
        self.seconds[part] += time.monotonic() - start

    def kernels(self, specs: Sequence[Spec]) -> list[tuple[list[Kernel], list[Kernel]]]:
        """Return for each of ``specs`` the kernels that the heuristic names, and the others.

        Raises:
            CourseError: cuDNN cannot be asked; the reason is given.

        """
        with self.counting("asking"):
            answers, failure = self._answers([[asdict(spec), None] for spec in specs], len(specs))
        if failure:
            raise CourseError(f"asking cuDNN for its kernels failed: {failure}")
        return [tuple([(engine, number) for engine, number in part] for part in answer) for answer in answers]  # type: ignore[misc]

    def plans(self, pairs: Sequence[tuple[Spec, Kernel]], needed: int) -> list[bytes | None]:
        """Return the plan of each pair, None where there is none; all but the first ``needed`` only as time allows.

        Raises:
            CourseError: nothing could be compiled; the reason is given.

        """
        with self.counting("compiling"):
            answers, failure = self._answers([[asdict(spec), kernel] for spec, kernel in pairs], needed)
        if failure and not any(answers):
            raise CourseError(f"compiling cuDNN's plans failed: {failure}")
        return [base64.b64decode(answer) if answer else None for answer in answers]

    def _answers(self, tasks: Sequence[list[Any]], needed: int) -> tuple[list[Any], str]:
        """Return the answer to each task, None where there is none, and what went wrong."""
        started = time.monotonic()

        def left(limit_s: float) -> float:
            return max(0.0, limit_s - (time.monotonic() - started))

        futures = [self._threads.submit(self._ask, task) for task in tasks]
        wait(futures[:needed], COMPILE_LIMIT_S)
        wait(futures[needed:], left(SPARE_S))
        begun = [future for future in futures if not future.cancel()]
        if wait(begun, left(COMPILE_LIMIT_S)).not_done:
            for process in self._every:  # one of them is stuck; those that wait are told that theirs has ended
                process.kill()
        failures: list[str] = []
        answers = []
        for future in futures:
            try:
                answers.append(None if future.cancelled() else future.result())
            except EOFError as error:
                answers.append(None)
                failures.append(str(error))
        if not left(COMPILE_LIMIT_S):
            failures = [f"it took more than {COMPILE_LIMIT_S:.0f} s"]
        return answers, next(iter(failures), "")

    def _take(self) -> None:
        self._own.process = self._idle.pop()

    def _ask(self, task: list[Any]) -> Any:
        """Let this thread's process do ``task``; one that has ended meanwhile is replaced first.

        It may have been killed while it waited, for the sake of another that was stuck.
        """
        if self._own.process.ended:
            self._own.process = _Process(self._device)
            self._every.append(self._own.process)
        return self._own.process.ask(task)


class _Process:
    """One process that answers tasks, line by line."""

    def __init__(self, device: int) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, "-P", compiler.__file__, str(device)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def ask(self, task: list[Any]) -> Any:
        """Return the answer; EOFError, with the last line that it wrote, if the process ends instead."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (BrokenPipeError, ValueError):  # it has ended
            line = ""
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            said = "".join(self._errors.read().strip().splitlines()[-1:])
            raise EOFError(first_line(said) or f"a process ended with {code}")
        return json.loads(line)

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
