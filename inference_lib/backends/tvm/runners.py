"""A compiled library on a CPU and on a GPU."""

from typing import Any

import numpy as np
import torch
import tvm
import tvm_ffi

from inference_lib.backends.shared.buffers import BufferedRunner
from inference_lib.backends.shared.cpu import CpuRunner
from inference_lib.backends.tvm.backend import open_library
from inference_lib.seam import Artifact


class TvmCpuRunner(CpuRunner):
    """A library on the CPU, which reads an array of its own: aligned, as its kernels expect."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact.workload)
        self._main = open_library(artifact)["main"]
        self._input = tvm.runtime.empty(self.workload.input_shape, "float32", tvm.cpu())
        self._output: Any = None

    def _upload(self, batch: np.ndarray) -> None:
        self._input.copyfrom(batch)

    def compute(self) -> None:
        """Run the library."""
        self._output = self._main(self._input)

    def download(self) -> np.ndarray:
        """Return the logits of the last run."""
        return self._output.numpy()


class TvmCudaRunner(BufferedRunner):
    """A library on the GPU: it reads PyTorch's buffer in place and launches its kernels on the runner's stream.

    The course does not capture it in a graph of PyTorch's: every run takes memory from TVM's pool and gives it back, so
    a captured run would write to memory that the next one may be given. TVM's own graph (``Tvm.cuda_graph``) keeps it.
    """

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact.workload)
        self._main = open_library(artifact)["main"]
        self._input = tvm_ffi.from_dlpack(self.buffers.input)  # the same memory, seen by TVM
        self._device = tvm_ffi.device("cuda", self.buffers.input.device.index or 0)
        torch.cuda.synchronize()  # the weights are on the device now
        self.compute()  # loads the kernels and fills TVM's memory pool
        self.synchronize()

    def compute(self) -> None:
        """Queue the library's kernels, and the copy of their result to the buffer with the fixed address."""
        with torch.cuda.stream(self.stream), tvm_ffi.use_raw_stream(self._device, self.stream.cuda_stream):
            logits = self._main(self._input)
            self.buffers.output.copy_(torch.from_dlpack(logits))
