"""What every runner takes, checked in one place: frameworks check little, and some read past the end of an array."""

from collections.abc import Callable

import numpy as np

from inference_lib.seam.workload import Workload
from inference_lib.support.errors import CourseError


class CheckedRunner:
    """The base of every runner: ``infer`` and ``upload`` check a batch before a subclass sees it.

    A batch is a NumPy array of ``workload.input_shape`` and ``workload.host_dtype`` in the machine's byte order, or it
    is refused. One that is not contiguous, or may not be written to, is copied: the subclass gets an array that every
    framework reads as it is. Its numbers are not looked at. From not-a-number, some backends answer not-a-number and
    others finite logits: a maximum (ReLU, pooling) may drop it.
    """

    at_once = 1

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self._accepted = acceptor(workload)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """Return the logits (``workload.output_shape``, float32) of one batch.

        Raise CourseError for a batch of another shape or type.
        """
        return self._infer(self._accepted(batch))

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
