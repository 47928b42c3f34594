"""What the CUDA backends share: whether a GPU works, the TF32 policy, buffers with fixed addresses, CUDA graphs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch

from inference_lib.backends.base import Availability, Support, Workload
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


def graph_support(workload: Workload) -> Support:
    """Say whether ``workload`` can be captured in a CUDA graph."""
    if workload.device != "cuda":
        return Support(ok=False, reason="CUDA graphs exist on NVIDIA GPUs only")
    return Support(ok=True)


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


class BufferedRunner:
    """A runner on fixed buffers and a stream of its own: an inference is a copy in, ``compute``, a copy out.

    A subclass queues its model on ``stream`` in ``compute``, from ``buffers.input`` to ``buffers.output``. While the
    runner is entered, PyTorch multiplies FP32 tensors as the workload's precision says.
    """

    at_once = 1

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self._products = float32_products(workload.precision)
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
    return lambda images: model(images.to(dtype, memory_format=torch.channels_last))


class GraphedRunner(BufferedRunner):
    """Another runner's kernels, captured in a CUDA graph: one launch instead of one an operation.

    The copies of a small batch are captured too, in a second graph: an inference is then a copy into pinned memory,
    one launch, and a wait. A large batch is sent in pieces instead, each while the next is staged.
    """

    def __init__(self, runner: BufferedRunner) -> None:
        self.workload, self.stream, self.buffers = runner.workload, runner.stream, runner.buffers
        self._products = float32_products(self.workload.precision)
        self._captured = runner  # its weights and workspaces are what the graph's kernels use
        for _ in range(3):  # libraries choose their kernels at first use, and must not do so while they are captured
            runner.compute()
        self.synchronize()
        self._graph = self._capture(runner.compute)
        self._whole = self._capture(self._queue_all) if self.workload.batch_size <= IMAGES_PER_COPY else None

    def _queue_all(self) -> None:
        self.buffers.queue_upload()
        self._captured.compute()
        self.buffers.queue_download()

    def _capture(self, queue: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Record what ``queue`` puts on the stream, without running it."""
        graph = torch.cuda.CUDAGraph()
        # "relaxed": a library may ask the driver something while it queues its kernels
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="relaxed"):
            queue()
        return graph

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """Return the logits of one batch."""
        if self._whole is None:
            return super().infer(batch)
        self.buffers.stage(batch)
        self._replay(self._whole)
        return self.buffers.fetch()

    def compute(self) -> None:
        """Queue one replay of the model's kernels."""
        self._replay(self._graph)

    def _replay(self, graph: torch.cuda.CUDAGraph) -> None:
        with torch.cuda.stream(self.stream):
            graph.replay()
