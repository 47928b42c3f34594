"""TorchScript: the model as a graph in a file of its own, run without its Python code.

PyTorch deprecates TorchScript in favour of ``torch.export`` (https://docs.pytorch.org/docs/stable/jit.html); it is
measured because people still meet it.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from inference_lib.backends.pytorch import PyTorchEager
from inference_lib.backends.shared.buffers import BufferedRunner, CudaFunctionRunner, channels_last
from inference_lib.backends.shared.cpu import CpuFunctionRunner, on_arrays, precision_support
from inference_lib.backends.shared.cuda import float32_products, graph_support
from inference_lib.backends.shared.graphs import GraphedRunner
from inference_lib.backends.shared.programs import export_program
from inference_lib.seam import Artifact, Availability, Support, Workload, precision_of
from inference_lib.support.errors import CourseError

MODEL_FILE = "model.pt"


@dataclass
class TorchScript:
    """The traced model, loaded from its file and frozen: weights are constants, batch norms are folded.

    On a GPU the weights and images are kept channels-last (NHWC), the layout that tensor cores read.
    """

    name: str = "torchscript"
    title: str = "TorchScript"
    graphed: bool = False
    """Whether convolutions are fused with what follows them, and all kernels captured once in a CUDA graph."""
    times_kernels = False
    served_by = "libtorch (C++)"

    def availability(self, device: str) -> Availability:
        """Usable where PyTorch is, unless the environment turns TorchScript off."""
        if not torch.jit._state._enabled:
            setting = f"PYTORCH_JIT={os.environ.get('PYTORCH_JIT', '')}"
            return Availability(False, torch.__version__, f"{setting} turns TorchScript off", "unset PYTORCH_JIT")
        return PyTorchEager().availability(device)

    def supports(self, workload: Workload) -> Support:
        """Only a GPU replays CUDA graphs; otherwise FP32 everywhere, TF32 and the 16-bit types on a GPU."""
        return graph_support(workload) if self.graphed else precision_support(workload)

    def artifact_key(self, workload: Workload) -> str:
        """One file for every device and batch size. A trace records whether TF32 was allowed, so TF32 has its own."""
        return f"torchscript/{workload.model}-{workload.precision}"

    def versions(self) -> dict[str, str]:
        """Return PyTorch's version: it is the exporter."""
        return {"torch": torch.__version__}

    def export(self, model: torch.nn.Module, workload: Workload, directory: Path) -> None:
        """Write ``model.pt``: the graph and the weights, in the workload's precision."""
        with deprecations_silenced():
            trace(model, workload).save(str(directory / MODEL_FILE))

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the dtypes of the stored weight matrices and filters (parameters of rank 2 and more)."""
        with deprecations_silenced():
            stored = torch.jit.load(artifact.directory / MODEL_FILE, map_location="cpu")
        return precision_of(str(weight.dtype) for weight in stored.parameters() if weight.dim() >= 2)

    def load(self, artifact: Artifact) -> CpuFunctionRunner | BufferedRunner:
        """Return the frozen model on the workload's device, or the replayer of its graph."""
        workload = artifact.workload
        if self.graphed:
            with float32_products(workload.precision):
                call = channels_last(load_fused(artifact), workload.torch_dtype)
                return GraphedRunner(CudaFunctionRunner(workload, call))
        if not workload.on_gpu:
            return CpuFunctionRunner(workload, on_arrays(load_frozen(artifact)))
        pictures = len(workload.model.input_shape) == 3
        model = load_frozen(artifact, torch.channels_last if pictures else torch.contiguous_format)
        return CudaFunctionRunner(workload, channels_last(model, workload.torch_dtype))


@contextmanager
def deprecations_silenced() -> Iterator[None]:
    """Keep PyTorch from saying at every call that TorchScript is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        yield


def trace(model: torch.nn.Module, workload: Workload) -> torch.jit.ScriptModule:
    """Run ``model`` once, in the precision of ``workload``, and return the operations it asked for.

    A trace records PyTorch's settings of that moment too: each convolution keeps whether it may use TF32.

    Raises:
        CourseError: the model's Python code looked at the values of a tensor, so the trace may be wrong for others.

    """
    images = torch.zeros(1, *workload.model.input_shape, dtype=workload.torch_dtype)
    with float32_products(workload.precision), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", torch.jit.TracerWarning)
        # PyTorch's own check runs the model twice more; the course compares the logits of real images anyway.
        traced = torch.jit.trace(model.to(workload.torch_dtype), images, check_trace=False)
    doubts = [warning.message for warning in caught if issubclass(warning.category, torch.jit.TracerWarning)]
    if doubts and not _looks_at_sizes_alone(model, workload):
        raise CourseError(f"{workload.model} cannot be traced: {str(doubts[0]).split('. ')[0]}")
    return traced


def _looks_at_sizes_alone(model: torch.nn.Module, workload: Workload) -> bool:
    """Whether the conditions in the code of ``model`` are about the sizes of a picture: a trace is right for those.

    A trace warns of every condition. ``torch.export`` refuses those on values, and on the size of the batch.
    """
    try:
        export_program(model, workload.model.input_shape, workload.torch_dtype)
    except Exception:  # an exporter's refusal has no class of its own
        return False
    return True


def load_frozen(artifact: Artifact, layout: torch.memory_format = torch.contiguous_format) -> torch.jit.ScriptModule:
    """Return the stored model on the workload's device, its weights in ``layout`` and made constants of the graph."""
    with deprecations_silenced():
        model = torch.jit.load(artifact.directory / MODEL_FILE, map_location=artifact.workload.device.torch)
        # The layout comes first: a frozen module has no parameters left that could be converted.
        return torch.jit.freeze(model.to(memory_format=layout).eval())


def load_fused(artifact: Artifact) -> torch.jit.ScriptModule:
    """Return the frozen model with its convolutions fused, for CUDA devices, its filters channels-last.

    ``optimize_for_inference`` fuses a convolution with the ReLU that follows, and the shortcut in between, but only
    where the filters are contiguous. So the filters change their layout afterwards, inside the graph.
    """
    with deprecations_silenced():
        fused = torch.jit.optimize_for_inference(load_frozen(artifact))
    for filters in constants(fused):
        if filters.dim() == 4:
            filters.data = filters.contiguous(memory_format=torch.channels_last)
    return fused


def constants(module: torch.jit.ScriptModule) -> list[torch.Tensor]:
    """Return the tensors that the graph of a frozen module holds: not copies, but the tensors themselves."""
    nodes = (node for node in module.graph.nodes() if node.kind() == "prim::Constant" and node.hasAttribute("value"))
    return [node.t("value") for node in nodes if node.kindOf("value") == "t"]
