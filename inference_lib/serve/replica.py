"""A classifier in a process of its own: what kills it kills one batch, and not the server."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch

from inference_lib.measure.workers import Deadline, Worker, WorkerError
from inference_lib.support.cores import keep_to
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from inference_lib.serve.settings import Settings

START_S = 300.0
"""How long a replica may take until it is warm: some compile every size."""

BATCH_S = 30.0
"""How long a batch may take before its process is ended."""


class ModelReplica:
    """One of the replicas that ``settings`` ask for, in this process: on its cores, loaded, and warm at every size."""

    def __init__(self, settings: "Settings", number: int, hosts: int = 1) -> None:
        """Load replica ``number`` of those on one of ``hosts``; of threads, it has as many as it has cores."""
        cores = settings.cores(number, hosts)
        keep_to(cores)
        torch.set_num_threads(min(torch.get_num_threads(), len(cores)))
        self._stack = ExitStack()
        self._classifier = self._stack.enter_context(settings.loaded(number))

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

    def __init__(self, settings: "Settings", number: int) -> None:
        """Start the process of a replica and wait until it is warm; raise CourseError why it does not come up."""
        self._asked = (settings, number)
        self._worker = Worker(ModelReplica, *self._asked)
        self._alive = True
        try:
            self.sizes: tuple[int, ...] = self._worker.ask("sizes", limit_s=START_S)
        except WorkerError as error:
            raise CourseError(f"a replica does not come up: {error}") from error

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
            return self._worker.answer(Deadline(BATCH_S))
        except WorkerError:
            self._alive = False
            raise

    def alive(self) -> bool:
        """Whether the process answered last time."""
        return self._alive

    def close(self) -> None:
        """End the process."""
        self._worker.close()
