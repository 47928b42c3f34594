"""A loaded model, and what it takes, checked in one place: frameworks check little, some read past an array's end."""

from collections.abc import Callable, Iterable, Iterator
from typing import Self

import numpy as np
import torch

from inference_lib.seam.workload import Workload
from inference_lib.support.errors import CourseError


class Runner:
    """A loaded model for one workload, of any framework. A context manager: leaving it frees what it holds.

    An application needs ``infer``. The three parts of an inference can be run apart, too; the first two may return
    before the device is done.

    A batch is a NumPy array of ``workload.input_shape`` and ``workload.host_dtype`` in the machine's byte order, or it
    is refused. One that is not contiguous, or may not be written to, is copied: the subclass gets an array that every
    framework reads as it is. Its numbers are not looked at. From not-a-number, some backends answer not-a-number and
    others finite logits: a maximum (ReLU, pooling) may drop it.
    """

    at_once = 1
    """How many computations run side by side if that many are queued: 1, unless the framework has a queue."""
    stream: torch.cuda.Stream | None = None
    """The CUDA stream on which the parts are queued; None on a CPU."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self._accepted = acceptor(workload)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """Return the logits (``workload.output_shape``, float32) of one batch.

        Raise CourseError for a batch of another shape or type.
        """
        return self._infer(self._accepted(batch))

    def answers(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the logits of each batch, where nobody times them: a framework with a queue keeps it full.

        A batch may be overwritten as soon as the next one is asked for.
        """
        return map(self.infer, batches)

    def upload(self, batch: np.ndarray) -> None:
        """Queue the copy of one batch to where the model reads it; raise CourseError as ``infer`` does."""
        self._upload(self._accepted(batch))

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        self._upload(batch)
        self.compute()
        return self.download()

    def _upload(self, batch: np.ndarray) -> None:
        raise NotImplementedError

    def compute(self) -> None:
        """Queue the model on the uploaded batch."""
        raise NotImplementedError

    def download(self) -> np.ndarray:
        """Return the logits of the computed batch, waiting for them."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        raise NotImplementedError


def acceptor(workload: Workload) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that returns a batch for ``workload``, copied where need be, or raises CourseError.

    It is called in every inference that is timed, and takes a few hundred nanoseconds where nothing is wrong.
    """
    shape, dtype = workload.input_shape, workload.host_dtype

    def accepted(batch: np.ndarray) -> np.ndarray:
        if type(batch) is not np.ndarray or batch.shape != shape or batch.dtype != dtype:
            batch = _plain(batch, workload)
        return batch if batch.flags.carray else batch.copy(order="C")

    return accepted


def _plain(batch: object, workload: Workload) -> np.ndarray:
    """Return an array of a subclass (a file in memory) as a plain one; refuse what does not fit."""
    shape, dtype = workload.input_shape, workload.host_dtype
    wanted = f"{workload.model.title} takes a NumPy array of shape {shape} and type {dtype}"
    if not isinstance(batch, np.ndarray) or isinstance(batch, np.ma.MaskedArray):
        raise CourseError(f"{wanted}, got a {type(batch).__name__}")
    if batch.shape != shape:
        raise CourseError(f"{wanted}, got shape {batch.shape}")
    if batch.dtype != dtype:
        order = "" if batch.dtype.isnative else " in another byte order than this machine's"
        raise CourseError(f"{wanted}, got {batch.dtype.name}{order}")
    return np.asarray(batch)
