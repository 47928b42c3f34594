"""What the CUDA backends share: whether a GPU works, the TF32 policy, and buffers with fixed addresses."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch

from inference_lib.backends.base import Availability, Workload
from inference_lib.models import NUM_CLASSES

IMAGES_PER_COPY = 16
"""A large batch is staged in pieces of this many images, so that staging one overlaps with sending the last."""

SMALL_COPY_BYTES = 4 * 2**20
"""Below this, waking PyTorch's thread pool takes longer, and varies more, than copying on one thread."""

NO_GPU = Availability(
    usable=False,
    reason="no NVIDIA GPU answers",
    remedy="run on a machine with an NVIDIA GPU and a driver for CUDA 13",
)


def gpu_works() -> bool:
    """Whether PyTorch finds a CUDA device, without starting CUDA in this process when it does not."""
    return torch.cuda.is_available()


def set_float32_products(precision: str) -> None:
    """Let PyTorch multiply FP32 tensors in IEEE arithmetic, or in TF32 where ``precision`` is ``tf32``.

    PyTorch's default differs by operation (TF32 for convolutions, IEEE for matrix products), so both are set. The
    newer ``fp32_precision`` settings say the same, but ``torch.export`` still reads these and refuses a mix.
    See https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices.
    """
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Set the arithmetic of FP32 products (see set_float32_products) for a while."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    set_float32_products(precision)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


class StaticBuffers:
    """Pinned host memory and device memory with fixed addresses for the batches of one workload.

    A CUDA graph replays kernels on the addresses it was captured with, so inputs are copied to where it reads
    and outputs from where it writes. Pinned host memory lets the copy engine work without a detour.
    """

    def __init__(self, workload: Workload, stream: torch.cuda.Stream) -> None:
        dtype = torch.from_numpy(np.empty(0, workload.host_dtype)).dtype
        self.stream = stream
        self.input = torch.zeros(workload.input_shape, dtype=dtype, device="cuda")
        self.output = torch.zeros((workload.batch_size, NUM_CLASSES), dtype=workload.torch_dtype, device="cuda")
        self._staging = torch.empty(workload.input_shape, dtype=dtype, pin_memory=True)
        self._result = torch.empty(self.output.shape, dtype=workload.torch_dtype, pin_memory=True)
        self._sent = torch.cuda.Event()
        torch.cuda.current_stream().synchronize()

    def upload(self, batch: np.ndarray) -> None:
        """Queue the copy of ``batch`` to the device; memory that is pinned already is sent as it is."""
        source = torch.from_numpy(batch)
        with torch.cuda.stream(self.stream):
            if source.is_pinned():
                self.input.copy_(source, non_blocking=True)
                return
            self._sent.synchronize()  # the staging memory may still be on its way from the last upload
            for piece in range(0, len(batch), IMAGES_PER_COPY):
                part = slice(piece, piece + IMAGES_PER_COPY)
                self._stage(part, source[part])
                self.input[part].copy_(self._staging[part], non_blocking=True)
            self._sent.record()

    def _stage(self, part: slice, source: torch.Tensor) -> None:
        if source.nbytes <= SMALL_COPY_BYTES:
            np.copyto(self._staging[part].numpy(), source.numpy())
        else:
            self._staging[part].copy_(source)

    def download(self) -> np.ndarray:
        """Return the output as float32, copied: the next batch overwrites the device memory."""
        with torch.cuda.stream(self.stream):
            self._result.copy_(self.output, non_blocking=True)
        self.stream.synchronize()
        return self._result.float().numpy().copy()


class BufferedRunner:
    """A runner on fixed buffers and a stream of its own: an inference is a copy in, ``compute``, a copy out.

    A subclass queues its model on ``stream`` in ``compute``, from ``buffers.input`` to ``buffers.output``.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.stream = torch.cuda.Stream()
        self.buffers = StaticBuffers(workload, self.stream)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """Return the logits of one batch."""
        self.upload(batch)
        self.compute()
        return self.download()

    def upload(self, batch: np.ndarray) -> None:
        """Queue the copy of one batch to the device."""
        self.buffers.upload(batch)

    def compute(self) -> None:
        """Queue the model on the uploaded batch."""
        raise NotImplementedError

    def download(self) -> np.ndarray:
        """Return the logits of the computed batch."""
        return self.buffers.download()

    def synchronize(self) -> None:
        """Wait for everything on the stream."""
        self.stream.synchronize()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.synchronize()
        vars(self).clear()  # whatever holds device memory goes
