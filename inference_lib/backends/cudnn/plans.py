"""Which of cuDNN's plans computes a convolution fastest: all of them are compiled, timed on the GPU, and one is kept."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inference_lib.backends.cudnn import compiler
from inference_lib.backends.cudnn.compiler import BIAS, FACTOR, FILTERS, MULTIPLIER, PICTURE, RESULT, SHORTCUT, Kernel, Spec
from inference_lib.support.errors import CourseError, first_line

COMPILE_LIMIT_S = 1800.0
"""All plans of a network together."""

LAUNCHES, REPLAYS = 10, 3
"""A plan is launched so often in a CUDA graph, which is replayed so often; the fastest replay counts."""

PROMISING = 3
"""Plans that are timed again, side by side, after all were timed once."""

DTYPES = {"INT8": torch.int8, "FP8_E4M3": torch.float8_e4m3fn, "HALF": torch.float16, "FLOAT": torch.float32}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Timed:
    """The fastest plan of a specification."""

    plan: bytes
    kernel: Kernel
    microseconds: float
    first_microseconds: float
    """Of the plan that the heuristic names first."""
    tried: int


def fastest_plans(specs: Iterable[Spec]) -> dict[Spec, Timed]:
    """Return the fastest plan of each of ``specs``; those for which cuDNN has none are left out.

    Raises:
        CourseError: no plan could be compiled at all, or the time for it is over.

    """
    specs = list(dict.fromkeys(specs))
    found: dict[Spec, Timed] = {}
    with tempfile.TemporaryDirectory() as folder, Clock() as clock:
        numbered: dict[Spec, list[tuple[Kernel, Path]]] = {}
        tasks = []
        for spec, kernels in zip(specs, _kernels(specs, Path(folder)), strict=True):
            for kernel in kernels:
                path = Path(folder, f"{len(tasks)}.plan")
                numbered.setdefault(spec, []).append((kernel, path))
                tasks.append(compiler.task(len(tasks), spec, kernel))
        _in_processes(tasks, Path(folder))
        for spec, candidates in numbered.items():
            plans = {kernel: path.read_bytes() for kernel, path in candidates if path.exists()}
            if plans:
                found[spec] = clock.fastest(spec, plans)
    return found


def _kernels(specs: list[Spec], folder: Path) -> list[list[Kernel]]:
    """Return the kernels of each specification."""
    said = _in_processes([compiler.task(number, spec, None) for number, spec in enumerate(specs)], folder)
    answers = dict(json.loads(line) for line in said)
    return [[(engine, number) for engine, number in answers[place]] for place in range(len(specs))]


def _in_processes(tasks: list[list[Any]], folder: Path) -> list[str]:
    """Let as many processes as there are cores do ``tasks``; return the lines that they print."""
    import cudnn

    properties = cudnn.create_device_properties(torch.cuda.current_device()).serialize()
    if not isinstance(properties, str):
        properties = bytes(properties).decode()
    workers = min(len(os.sched_getaffinity(0)), len(tasks))
    deadline = time.monotonic() + COMPILE_LIMIT_S
    running: list[tuple[subprocess.Popen[str], Path, Path]] = []
    try:
        for worker in range(workers):
            # every so-manieth: neighbours are alike, and take as long
            order = {"properties": properties, "folder": str(folder), "tasks": tasks[worker::workers]}
            said, errors = folder / f"worker{worker}.out", folder / f"worker{worker}.err"
            with said.open("w") as out, errors.open("w") as err:
                command = [sys.executable, "-P", compiler.__file__]
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err, text=True)
            running.append((process, said, errors))
            assert process.stdin
            process.stdin.write(json.dumps(order))
            process.stdin.close()
        for process, _, errors in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise CourseError(f"cuDNN's plans were not compiled within {COMPILE_LIMIT_S:.0f} s") from None
            if process.returncode:
                last = errors.read_text().strip().splitlines()[-1:]
                raise CourseError(f"compiling cuDNN's plans failed: {first_line(''.join(last)) or process.returncode}")
    finally:
        for process, _, _ in running:
            process.kill()
            process.wait()
    return [line for _, said, _ in running for line in said.read_text().splitlines()]


class Plan:
    """A compiled plan on this process's GPU, and the memory that it works in."""

    def __init__(self, handle: Any, content: bytes) -> None:
        import cudnn

        self._handle = handle
        self._graph = cudnn.pygraph(handle=handle)
        self._graph.deserialize(handle, content)
        self._workspace = torch.empty(max(self._graph.get_workspace_size(), 1), dtype=torch.uint8, device="cuda")

    def queue(self, tensors: dict[int, torch.Tensor]) -> None:
        """Queue the convolution on the handle's stream; ``tensors`` are what the numbers in compiler.py name."""
        self._graph.execute(tensors, self._workspace, handle=self._handle)


@contextmanager
def handle_on(stream: torch.cuda.Stream) -> Iterator[Any]:
    """Give a handle of cuDNN's that works on ``stream``."""
    import cudnn

    handle = cudnn.create_handle()
    try:
        cudnn.set_stream(handle, stream.cuda_stream)
        yield handle
    finally:
        cudnn.destroy_handle(handle)


class Clock:
    """Times plans on a stream of its own."""

    def __enter__(self) -> "Clock":
        self._stream = torch.cuda.Stream()
        self._context = handle_on(self._stream)
        self._handle = self._context.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.synchronize()
        self._context.__exit__(None, None, None)

    def fastest(self, spec: Spec, plans: dict[Kernel, bytes]) -> Timed:
        """Return the fastest of ``plans``, the heuristic's choice being the first of them."""
        tensors = example(spec)
        times = {kernel: self.microseconds(content, tensors) for kernel, content in plans.items()}
        best = sorted(times, key=times.__getitem__)[:PROMISING]
        again = {kernel: min(times[kernel], self.microseconds(plans[kernel], tensors)) for kernel in best}
        kernel = min(again, key=again.__getitem__)
        first = next(iter(plans))
        return Timed(plans[kernel], kernel, again[kernel], again.get(first, times[first]), len(times))

    def microseconds(self, content: bytes, tensors: dict[int, torch.Tensor]) -> float:
        """Return what one launch takes, launches following each other in a CUDA graph."""
        plan, graph = Plan(self._handle, content), torch.cuda.CUDAGraph()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self._stream):
            plan.queue(tensors)
            self._stream.synchronize()
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="relaxed"):
                for _ in range(LAUNCHES):
                    plan.queue(tensors)
            found = []
            for _ in range(REPLAYS):
                start.record()
                graph.replay()
                end.record()
                end.synchronize()
                found.append(start.elapsed_time(end) * 1e3 / LAUNCHES)
        return min(found)


def example(spec: Spec) -> dict[int, torch.Tensor]:
    """Return tensors for ``spec``, of numbers that leave no sum and no type: a chip draws less power for zeros."""
    generator = torch.Generator("cuda").manual_seed(0)

    def numbers(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        found = torch.randint(-8, 9, shape, device="cuda", generator=generator)
        return found.to(torch.float16).to(DTYPES[dtype])

    (rows, columns), (height, width) = spec.result_size, spec.size
    tensors = {
        PICTURE: numbers((spec.batch, height, width, spec.channels), spec.reads),
        FILTERS: numbers((spec.outputs, *spec.kernel, spec.channels), spec.reads),
        BIAS: numbers((spec.outputs,), "FLOAT"),
        RESULT: torch.empty(spec.batch, rows, columns, spec.outputs, dtype=DTYPES[spec.writes], device="cuda"),
    }
    if spec.rescaled:
        tensors[MULTIPLIER] = torch.full((spec.outputs,), 1e-3, device="cuda")
    if spec.shortcut:
        tensors[SHORTCUT] = numbers((spec.batch, rows, columns, spec.outputs), spec.shortcut)
        tensors[FACTOR] = torch.ones(1, device="cuda")
    return tensors
