"""PyTorch: the eager model as everybody runs it, and the same model, fused, captured in a CUDA graph."""

from pathlib import Path
from typing import Self

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file

from inference_lib.backends.shared.buffers import CudaFunctionRunner, channels_last, weights_channels_last
from inference_lib.backends.shared.cpu import precision_support
from inference_lib.backends.shared.cuda import NO_GPU, float32_products, gpu_works, graph_support
from inference_lib.backends.shared.fusion import fuse_convolutions
from inference_lib.backends.shared.graphs import GraphedRunner
from inference_lib.seam import Artifact, Availability, CheckedRunner, Support, Workload, precision_of

WEIGHTS_FILE = "weights.safetensors"


class PyTorchEager:
    """The model called as a Python function; every operation is launched by the interpreter."""

    name = "pytorch"
    title = "PyTorch (eager)"
    times_kernels = False

    def availability(self, device: str) -> Availability:
        """PyTorch is always there; a GPU may not be."""
        if device == "cuda" and not gpu_works():
            return NO_GPU
        return Availability(usable=True, version=torch.__version__)

    def supports(self, workload: Workload) -> Support:
        """FP32 everywhere; TF32 and the 16-bit types on a GPU."""
        return precision_support(workload)

    def artifact_key(self, workload: Workload) -> str:
        """One weights file for every device and batch size."""
        return f"pytorch/{workload.model}-{workload.precision.storage}"

    def versions(self) -> dict[str, str]:
        """Return nothing: a weights file depends on no version."""
        return {}

    def export(self, model: torch.nn.Module, workload: Workload, directory: Path) -> None:
        """Write the weights in the precision of the workload; the architecture stays Python code."""
        weights = model.to(workload.torch_dtype).state_dict()
        # Copies, because a file of tensors holds no two that share memory, as tied weights do.
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
        save_file(copies, directory / WEIGHTS_FILE)

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the dtypes of the stored matrices and filters (floats of rank 2 and more)."""
        with safetensors.safe_open(artifact.directory / WEIGHTS_FILE, "pt") as weights:
            tensors = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118
            dtypes = {tensor.get_dtype() for tensor in tensors if len(tensor.get_shape()) >= 2}
        return precision_of(dtype for dtype in dtypes if "F" in dtype)

    def load(self, artifact: Artifact) -> "EagerRunner":
        """Return the eager model on the workload's device."""
        return EagerRunner(artifact)


class PyTorchCudaGraph(PyTorchEager):
    """The same model with fused convolutions, captured once in a CUDA graph and replayed.

    Weights and activations are kept channels-last (NHWC), the layout that tensor cores read; inputs and outputs
    pass through pinned memory.
    """

    name = "pytorch-cudagraph"
    title = "PyTorch (CUDA graph)"

    def supports(self, workload: Workload) -> Support:
        """Only a GPU replays CUDA graphs."""
        return graph_support(workload)

    def load(self, artifact: Artifact) -> GraphedRunner:  # type: ignore[override]
        """Capture the model at the workload's batch size and return its replayer."""
        with float32_products(artifact.workload.precision):
            fused = weights_channels_last(fuse_convolutions(load_module(artifact)))
            call = channels_last(fused, artifact.workload.torch_dtype)
            return GraphedRunner(CudaFunctionRunner(artifact.workload, call))


def load_module(artifact: Artifact) -> torch.nn.Module:
    """Return the exported model on its device, in its precision, ready for inference."""
    workload = artifact.workload
    with torch.device("meta"):  # no memory and no random weights: the file brings the tensors
        model = workload.model.create()
    model.load_state_dict(load_file(artifact.directory / WEIGHTS_FILE, device=str(workload.device.torch)), assign=True)
    # What is no part of the state stays where it was made, and as it was.
    return model.to(workload.device.torch, workload.torch_dtype).eval().requires_grad_(False)


class EagerRunner(CheckedRunner):
    """The plain loop: copy to the device, call the model, copy back."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact.workload)
        self.stream = torch.cuda.current_stream() if self.workload.on_gpu else None
        self._products = float32_products(self.workload.precision)
        self._model = load_module(artifact)
        self._input = self._output = torch.empty(0)

    @torch.inference_mode()
    def _infer(self, batch: np.ndarray) -> np.ndarray:
        """Return the logits of one batch, as most applications compute them."""
        images = torch.from_numpy(batch).to(self.workload.device.torch, self.workload.torch_dtype)
        return self._model(images).float().cpu().numpy()

    def _upload(self, batch: np.ndarray) -> None:
        self._input = torch.from_numpy(batch).to(self.workload.device.torch, self.workload.torch_dtype)

    @torch.inference_mode()
    def compute(self) -> None:
        """Launch the model on the uploaded batch."""
        self._output = self._model(self._input)

    def download(self) -> np.ndarray:
        """Return the logits of the computed batch."""
        return self._output.float().cpu().numpy()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.stream is not None:
            self.stream.synchronize()

    def __enter__(self) -> Self:
        self._products.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._products.__exit__(None, None, None)
        self._model = torch.nn.Identity()
        self._input = self._output = torch.empty(0)
