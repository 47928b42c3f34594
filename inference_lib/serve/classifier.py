"""One model at several batch sizes: a few pictures in, as bytes; logits out.

Most runners take one batch size, because engines and CUDA graphs have fixed shapes. So a classifier holds a runner for
each of some sizes, and a batch goes to the smallest that holds it. The places that are left over hold old pictures, and
nobody reads their logits.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from inference_lib.backends import get_backend
from inference_lib.backends.shared.buffers import BufferedRunner
from inference_lib.backends.shared.graphs import captured
from inference_lib.measure.plan import Rival, why_not
from inference_lib.seam import FASHION_MNIST, Runner, Workload, build
from inference_lib.support import paths
from inference_lib.support.errors import CourseError
from inference_lib.support.progress import each
from inference_lib.zoo.fashion_mnist import IMAGE_SIZE, enlarge, preprocess

PICTURE = (28, 28)
"""Height and width of a picture on its way to the model: uint8, grey, not yet enlarged or normalized."""

WARM_UP = 3
"""Batches of each size before the first request: the first one compiles, chooses kernels or allocates."""

HALF_STEPS = 12
"""From this size on, there is one half way between two powers of two as well."""


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """Return batch sizes up to ``largest``: powers of two and, once they lie far apart, those half way between them.

    A batch that is not one of them is padded: to less than twice its size, and to less than half as much again above
    ``HALF_STEPS``.
    """
    powers = [2**power for power in range(largest.bit_length())]
    halves = [3 * power for power in powers if 3 * power >= HALF_STEPS]
    return tuple(sorted({size for size in (*powers, *halves, largest) if size <= largest}))


class Classifier(Protocol):
    """What a queue gives its batches to."""

    sizes: tuple[int, ...]
    """Batch sizes that there is a runner for, smallest first."""
    depth: int
    """Batches that may be under way at once: while one is computed, the next is gathered and sent."""

    def submit(self, pictures: np.ndarray) -> Callable[[], np.ndarray]:
        """Start a batch (uint8, N x 28 x 28, N up to ``sizes[-1]``); return what waits for its logits (N x 10)."""
        ...

    def alive(self) -> bool:
        """Whether another batch may be submitted; what dies in this process takes it along."""
        return True

    def close(self) -> None:
        """Free what is held."""
        ...


class HostClassifier(Classifier):
    """Pictures are prepared on the host, in the memory that the runner reads."""

    depth = 1

    def __init__(self, runners: Mapping[int, Runner]) -> None:
        self.sizes = tuple(sorted(runners))
        self._runners = runners
        self._batches = {
            size: np.zeros(runner.workload.input_shape, runner.workload.host_dtype) for size, runner in runners.items()
        }

    def submit(self, pictures: np.ndarray) -> Callable[[], np.ndarray]:
        """Return a function that prepares the batch, infers and returns the logits (N x 10, float32)."""
        return partial(self.infer, pictures)

    def infer(self, pictures: np.ndarray) -> np.ndarray:
        """Return the logits of the pictures."""
        size = smallest(self.sizes, len(pictures))
        batch = self._batches[size]
        preprocess(pictures, batch.dtype, out=batch[: len(pictures)])
        return self._runners[size].infer(batch)[: len(pictures)]

    def close(self) -> None:
        """Forget the runners, which whoever entered them leaves."""
        self._runners, self._batches = {}, {}


@dataclass
class Slot:
    """Pinned host memory of one batch under way."""

    pictures: torch.Tensor
    logits: torch.Tensor
    done: torch.cuda.Event = field(default_factory=torch.cuda.Event)


class Prepared:
    """A runner, and the preparation of its input on the device, captured in a CUDA graph.

    Eight operations are one launch then. Each of them gives up Python's lock for an instant, and under load another
    thread takes it: what takes 0.3 ms for one caller took several times as long.
    """

    def __init__(self, runner: BufferedRunner, pool: Any) -> None:
        """Capture the preparation, which takes what it needs on the way from ``pool``, the memory of a graph."""
        self.runner = runner
        device = runner.buffers.input.device
        self.pictures = torch.zeros((runner.workload.batch_size, *PICTURE), dtype=torch.uint8, device=device)
        with torch.cuda.stream(runner.stream):
            self._prepare()  # libraries load their kernels at first use, and must not do so while they are captured
        self._graph = captured(self._prepare, runner.stream, pool)

    @torch.inference_mode()
    def _prepare(self) -> None:
        self.runner.buffers.input.copy_(enlarge(self.pictures, IMAGE_SIZE).expand(-1, 3, -1, -1))

    def compute(self) -> None:
        """Queue preparation and model, on the runner's stream, which is the current one."""
        self._graph.replay()
        self.runner.compute()


class DeviceClassifier(Classifier):
    """Pictures go to the GPU as bytes, in one copy a batch, and are enlarged and normalized there.

    Enlarged to the model's input, a picture has 384 times as many bytes in FP16, and the bus would carry them all.
    Two batches may be under way, each in host memory of its own; the GPU computes them one after the other.
    """

    depth = 2

    def __init__(self, runners: Mapping[int, BufferedRunner]) -> None:
        self.sizes = tuple(sorted(runners))
        output = runners[self.sizes[-1]].buffers.output
        self._slots = deque(
            Slot(
                torch.zeros((self.sizes[-1], *PICTURE), dtype=torch.uint8, pin_memory=True),
                torch.zeros(output.shape, dtype=output.dtype, pin_memory=True),
            )
            for _ in range(self.depth)
        )
        pool = torch.cuda.graph_pool_handle()  # one for all: two of the graphs never run side by side
        self._prepared = {size: Prepared(runner, pool) for size, runner in runners.items()}
        self._last = torch.cuda.Event()
        torch.cuda.synchronize()

    @torch.inference_mode()
    def submit(self, pictures: np.ndarray) -> Callable[[], np.ndarray]:
        """Queue copy, preparation, model and copy back; nothing is waited for. There must be a slot left."""
        count = len(pictures)
        prepared, slot = self._prepared[smallest(self.sizes, count)], self._slots[0]
        runner = prepared.runner
        slot.pictures.numpy()[:count] = pictures
        with torch.cuda.stream(runner.stream):
            prepared.pictures[:count].copy_(slot.pictures[:count], non_blocking=True)
            runner.stream.wait_event(self._last)  # another size has another stream, and would run beside it
            prepared.compute()
            slot.logits[:count].copy_(runner.buffers.output[:count], non_blocking=True)
            slot.done.record(runner.stream)
        self._last = slot.done
        self._slots.popleft()  # last: a batch that failed to start keeps none
        return partial(self._logits, slot, count)

    def _logits(self, slot: Slot, count: int) -> np.ndarray:
        slot.done.synchronize()
        logits = slot.logits[:count].to(torch.float32, copy=True).numpy()
        self._slots.append(slot)
        return logits

    def close(self) -> None:
        """Forget the runners, which whoever entered them leaves."""
        torch.cuda.synchronize()
        self._prepared = {}
        self._slots.clear()


def smallest(sizes: Sequence[int], count: int) -> int:
    """Return the smallest of ``sizes`` (ascending) that holds ``count`` pictures.

    Raises:
        CourseError: none does.

    """
    for size in sizes:
        if size >= count:
            return size
    raise CourseError(f"a batch of {count} pictures is larger than the largest runner, {sizes[-1]}; cut it in two")


class Loaded:
    """A backend's model, loaded and warm at every batch size. A context manager that gives out the classifier."""

    def __init__(self, backend: str, workload: Workload, sizes: Sequence[int], root: Path = paths.ARTIFACTS) -> None:
        """Export what is missing.

        Raises:
            CourseError: the backend cannot run the workload here, or the model takes other pictures than the course's.

        """
        self._backend = get_backend(backend)
        self.title = self._backend.title
        if found := why_not(Rival(backend, workload)):
            raise CourseError(f"{self.title} cannot run {workload}: {found[1]}")
        if workload.model.dataset != FASHION_MNIST:
            raise CourseError(
                f"{workload.model} does not take the pictures of Fashion-MNIST; serve one of the course's models"
            )
        self._stack = ExitStack()
        shown = each(sizes, f"exporting {workload.model} at each batch size")
        self._artifacts = {size: build(self._backend, replace(workload, batch_size=size), root) for size in shown}
        self.runners: dict[int, Runner] = {}

    def __enter__(self) -> HostClassifier | DeviceClassifier:
        with ExitStack() as stack:
            for size, artifact in self._artifacts.items():
                self.runners[size] = stack.enter_context(self._backend.load(artifact))
            buffered = {size: r for size, r in self.runners.items() if isinstance(r, BufferedRunner)}
            whole = len(buffered) == len(self.runners)
            classifier = DeviceClassifier(buffered) if whole else HostClassifier(self.runners)
            stack.callback(classifier.close)
            warm(classifier)
            stack.enter_context(out_of_the_collectors_way())
            self._stack = stack.pop_all()
        return classifier

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        self.runners.clear()


@contextmanager
def out_of_the_collectors_way() -> Iterator[None]:
    """Collect the garbage that there is, and keep CPython's collector from walking through all that is left. Nests.

    Of a few hundred thousand objects, which imports alone leave, a full collection takes a large part of a second, and
    every request waits for it. https://docs.python.org/3/library/gc.html#gc.freeze
    """
    outermost = not gc.get_freeze_count()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if outermost:
            gc.unfreeze()


def warm(classifier: Classifier) -> None:
    """Infer a few batches of every size."""
    for size in classifier.sizes:
        for _ in range(WARM_UP):
            classifier.submit(np.zeros((size, *PICTURE), np.uint8))()
