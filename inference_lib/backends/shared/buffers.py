"""Pinned host memory and device memory with fixed addresses, and the runners that work on them."""

from collections.abc import Callable
from typing import Self

import numpy as np
import torch

from inference_lib.backends.shared.cuda import float32_products
from inference_lib.seam import Runner, Workload

IMAGES_PER_COPY = 16
"""A large batch is staged in pieces of this many images, so that staging one overlaps with sending the last."""

SMALL_COPY_BYTES = 4 * 2**20
"""Below this, waking PyTorch's thread pool takes longer, and varies more, than copying on one thread."""


class StaticBuffers:
    """Pinned host memory and device memory with fixed addresses for the batches of one workload.

    A CUDA graph replays kernels on the addresses it was captured with, so inputs are copied to where it reads
    and outputs from where it writes. Pinned host memory lets the copy engine work without a detour.
    """

    def __init__(self, workload: Workload, stream: torch.cuda.Stream) -> None:
        dtype = torch.from_numpy(np.empty(0, workload.host_dtype)).dtype
        self.stream = stream
        self.input = torch.zeros(workload.input_shape, dtype=dtype, device=workload.device.torch)
        logits = dtype if workload.precision.calibrated else workload.torch_dtype  # nobody rounds logits to eight bits
        self.output = torch.zeros(workload.output_shape, dtype=logits, device=workload.device.torch)
        self._staging = torch.empty(workload.input_shape, dtype=dtype, pin_memory=True)
        self._result = torch.empty(self.output.shape, dtype=logits, pin_memory=True)
        self._sent = torch.cuda.Event()
        starts = range(0, workload.batch_size, IMAGES_PER_COPY)
        self._pieces = [slice(start, start + IMAGES_PER_COPY) for start in starts]
        torch.cuda.current_stream().synchronize()

    def upload(self, batch: np.ndarray) -> None:
        """Queue the copy of ``batch`` to the device; memory that is pinned already is sent as it is."""
        source = torch.from_numpy(batch)
        with torch.cuda.stream(self.stream):
            if source.is_pinned():
                self.input.copy_(source, non_blocking=True)
                return
            self._sent.synchronize()
            for piece in self._pieces:
                _copy(self._staging[piece], source[piece])
                self.input[piece].copy_(self._staging[piece], non_blocking=True)
            self._sent.record()

    def stage(self, batch: np.ndarray) -> None:
        """Copy ``batch`` into the pinned memory that ``queue_upload`` sends."""
        self._sent.synchronize()  # it may still be on its way from the last upload
        _copy(self._staging, torch.from_numpy(batch))

    def queue_upload(self) -> None:
        """Queue the copy of the staged batch to the device, on the current stream."""
        self.input.copy_(self._staging, non_blocking=True)

    def queue_download(self) -> None:
        """Queue the copy of the output to pinned memory, on the current stream."""
        self._result.copy_(self.output, non_blocking=True)

    def fetch(self) -> np.ndarray:
        """Wait for what was queued; return the output as float32, copied: the next batch overwrites the memory."""
        self.stream.synchronize()
        return self._result.to(torch.float32, copy=True).numpy()

    def download(self) -> np.ndarray:
        """Return the output of what was queued."""
        with torch.cuda.stream(self.stream):
            self.queue_download()
        return self.fetch()


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    if source.nbytes <= SMALL_COPY_BYTES:
        np.copyto(target.numpy(), source.numpy())
    else:
        target.copy_(source)


class BufferedRunner(Runner):
    """A runner on fixed buffers and a stream of its own: an inference is a copy in, ``compute``, a copy out.

    A subclass queues its model on ``stream`` in ``compute``, from ``buffers.input`` to ``buffers.output``. While the
    runner is entered, PyTorch multiplies FP32 tensors as the workload's precision says.
    """

    stream: torch.cuda.Stream

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._products = float32_products(workload.precision)
        torch.cuda.set_device(workload.device.torch)  # a process works on one GPU
        self.stream = torch.cuda.Stream()
        self.buffers = StaticBuffers(workload, self.stream)

    def _upload(self, batch: np.ndarray) -> None:
        self.buffers.upload(batch)

    def download(self) -> np.ndarray:
        """Return the logits of the computed batch."""
        return self.buffers.download()

    def synchronize(self) -> None:
        """Wait for everything on the stream."""
        self.stream.synchronize()

    def __enter__(self) -> Self:
        self._products.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._products.__exit__(None, None, None)
        self.synchronize()
        vars(self).clear()  # whatever holds device memory goes


class CudaFunctionRunner(BufferedRunner):
    """A function from a batch to its logits, both PyTorch tensors on the device."""

    def __init__(self, workload: Workload, call: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(workload)
        self._call = call

    @torch.inference_mode()
    def compute(self) -> None:
        """Queue the function on the uploaded batch."""
        with torch.cuda.stream(self.stream):
            self.buffers.output.copy_(self._call(self.buffers.input))


def channels_last(model: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    """Return ``model`` called on images that are cast to ``dtype`` and laid out channels-last (NHWC) first."""
    return lambda images: model(images.to(dtype, memory_format=layout(images)))


def layout(tensor: torch.Tensor) -> torch.memory_format:
    """Return the channels-last layout of a picture's or a film's rank; what is neither stays as it is."""
    return {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim(), torch.contiguous_format)


def weights_channels_last(model: torch.nn.Module) -> torch.nn.Module:
    """Lay the filters of ``model`` out channels-last, in place, and return it."""
    for weights in model.parameters():
        weights.data = weights.data.contiguous(memory_format=layout(weights))
    return model
