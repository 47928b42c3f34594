"""What the CPU backends share: which precisions are measured, and runners that have nothing to copy."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from inference_lib.seam import Runner, Support, Workload


def precision_support(workload: Workload) -> Support:
    """Say whether every framework computes in the precision of ``workload`` on its kind of device."""
    precision = workload.precision
    reason = "" if workload.on_gpu else precision.cpu
    if precision.calibrated:
        reason = reason or f"the course exports no {precision.title} with this framework for this device"
    return Support(ok=not reason, reason=reason)


def threads_asked_for() -> int:
    """Return how many threads ``OMP_NUM_THREADS`` asks for, which frameworks without OpenMP do not read; 0 for none."""
    return torch.get_num_threads() if os.environ.get("OMP_NUM_THREADS") else 0


def thread_limit() -> int:
    """Return how many threads a framework may have that would start one on each core of the machine; 0 where it may.

    Some cores may not be given to this process, and ``OMP_NUM_THREADS`` may ask for fewer.
    """
    has_all = len(os.sched_getaffinity(0)) == os.cpu_count()
    return threads_asked_for() if has_all else torch.get_num_threads()


class CpuRunner(Runner):
    """A runner on the CPU, which reads the caller's array where it is.

    A subclass runs its model in ``compute``, from ``_batch`` to ``_logits``.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._batch = self._logits = np.empty(0)

    def _upload(self, batch: np.ndarray) -> None:
        self._batch = batch

    def download(self) -> np.ndarray:
        """Return the logits of the last run."""
        return self._logits

    def synchronize(self) -> None:
        """Nothing is asynchronous on the CPU."""

    def __exit__(self, *exc: object) -> None:
        self.synchronize()
        vars(self).clear()  # whatever holds the model and its threads goes


class CpuFunctionRunner(CpuRunner):
    """A function from a batch to its logits, both NumPy arrays on the host."""

    def __init__(self, workload: Workload, call: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(workload)
        self._call = call

    def compute(self) -> None:
        """Call the function."""
        self._logits = self._call(self._batch)


def in_parts(call: Callable[[np.ndarray], np.ndarray], parts: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return ``call``, from a batch to its logits, as a function that calls it on ``parts`` of a batch at once.

    Each part has a thread of its own, which sleeps between batches; ``call`` must not need Python while it computes.
    """
    threads = ThreadPoolExecutor(parts, "part of a batch")
    return lambda batch: np.concatenate([*threads.map(call, np.array_split(batch, parts))])


def on_arrays(model: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    """Return ``model``, which maps a PyTorch tensor to float logits, as a function of NumPy arrays.

    The tensor is made outside of inference mode: one that is made inside is of another kind, for which torch.compile
    would compile once more.
    """

    def call(batch: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(batch)
        with torch.inference_mode():
            return model(images).float().numpy()

    return call
