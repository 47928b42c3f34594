"""A classifier in a process of its own: what kills it kills one batch, and not the server."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from inference_lib.measure.workers import Worker, WorkerError
from inference_lib.seam import Workload
from inference_lib.serve.classifier import Loaded
from inference_lib.support.cores import keep_to

START_S = 300.0
"""How long a replica may take until it is warm: some compile every size."""

BATCH_S = 30.0
"""How long a batch may take before its process is ended."""


def compute_on(cores: Collection[int]) -> None:
    """Keep this process, which holds a replica, to ``cores``, with no more threads than that."""
    keep_to(cores)
    torch.set_num_threads(min(torch.get_num_threads(), len(cores)))


class Held:
    """What the process holds, and answers with."""

    def __init__(
        self, backend: str, workload: Workload, sizes: Sequence[int], root: Path, cores: Collection[int]
    ) -> None:
        compute_on(cores)
        self._stack = ExitStack()
        self._classifier = self._stack.enter_context(Loaded(backend, workload, sizes, root))

    def sizes(self) -> tuple[int, ...]:
        """Return the batch sizes."""
        return self._classifier.sizes

    def infer(self, pictures: np.ndarray) -> np.ndarray:
        """Return the logits of a batch (uint8, N x 28 x 28)."""
        return self._classifier.submit(pictures)()

    def close(self) -> None:
        """Free what is held."""
        self._stack.close()


class RemoteClassifier:
    """The same classifier, behind a pipe. A picture of 784 bytes makes a cheap journey, its enlargement would not."""

    depth = 1

    def __init__(
        self, backend: str, workload: Workload, sizes: Sequence[int], root: Path, cores: Collection[int]
    ) -> None:
        """Start the process on ``cores``, wait until every size is warm; raise WorkerError why it does not come up."""
        self._asked = (backend, workload, sizes, root, cores)
        self._worker = Worker(Held, *self._asked)
        self._alive = True
        self.sizes: tuple[int, ...] = self._worker.ask("sizes", limit_s=START_S)

    def again(self) -> "RemoteClassifier":
        """Return the same in another process, to take the place of this one."""
        return RemoteClassifier(*self._asked)

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._worker.pid

    def submit(self, pictures: np.ndarray) -> Callable[[], np.ndarray]:
        """Send a batch; return what waits for its logits, and raises WorkerError where the process died."""
        self._worker.tell("infer", pictures)
        return self._answer

    def _answer(self) -> np.ndarray:
        try:
            return self._worker.answer(BATCH_S)
        except WorkerError:
            self._alive = False
            raise

    def alive(self) -> bool:
        """Whether the process answered last time."""
        return self._alive

    def close(self) -> None:
        """End the process."""
        self._worker.close()
