"""What a server is asked to be: a plain value that travels to its processes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch

from inference_lib.seam import CPU, Device, Workload
from inference_lib.serve.application import Limits
from inference_lib.serve.classifier import Classifier, Loaded, sizes_up_to
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.replica import RemoteClassifier
from inference_lib.support import paths
from inference_lib.support.cores import cores_of

SERVED = {"cuda": ("pytorch-cudagraph", "resnet18", "fp16"), "cpu": ("onnxruntime", "vanilla_cnn", "fp32")}
"""What the chapters on serving serve, by the kind of device: backend, model, precision."""


@dataclass(frozen=True)
class Settings:
    """One model behind one server."""

    backend: str
    workload: Workload
    """Model, precision and device; its batch size does not count."""
    replicas: int = 1
    max_batch: int = 32
    max_wait_s: float = 0.002
    limits: Limits = field(default_factory=Limits)
    host: str = "127.0.0.1"
    port: int = 8000
    root: Path = paths.ARTIFACTS

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes that are made warm."""
        return sizes_up_to(self.max_batch)

    def loaded(self, number: int = 0) -> Loaded:
        """Return replica ``number`` of the model, to be entered: replicas take turns on the GPUs that there are."""
        return Loaded(self.backend, self._on_its_gpu(number), self.sizes, self.root)

    def remote(self, number: int = 0) -> RemoteClassifier:
        """Return replica ``number`` in a process of its own, warm."""
        return RemoteClassifier(self, number)

    @contextmanager
    def remotes(self) -> Iterator[list[RemoteClassifier]]:
        """Start all replicas side by side, each in a process of its own: one takes seconds until it is warm."""
        with ThreadPoolExecutor(self.replicas) as pool, ExitStack() as stack:
            starting = [pool.submit(self.remote, number) for number in range(self.replicas)]
            yield [stack.enter_context(closing(each.result())) for each in starting]

    def cores(self, number: int, hosts: int = 1) -> list[int]:
        """Return the cores of replica ``number`` on one of ``hosts``: on a CPU, those on a host share them."""
        return cores_of(number, 1 if self.workload.on_gpu else ceil(self.replicas / hosts))

    def queue(self, classifiers: Sequence[Classifier], remake: Callable[[Any], Classifier] | None = None) -> BatchQueue:
        """Return the queue before ``classifiers``, to be entered; for ``remake`` see there."""
        limits = self.limits
        return BatchQueue(classifiers, remake, self.max_batch, self.max_wait_s, limits.under_way, limits.timeout_s)

    def _on_its_gpu(self, number: int) -> Workload:
        on_gpu = self.workload.on_gpu
        return replace(self.workload, device=Device("cuda", number % torch.cuda.device_count()) if on_gpu else CPU)
