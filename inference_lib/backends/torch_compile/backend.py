"""torch.compile and AOTInductor: the model's operations rewritten and fused by PyTorch's own compiler, Inductor.

Both compile when the model is exported: the same compiler, and the same preparation of the model. ``torch-compile``
traces the model's code again when it is loaded, and finds what was compiled in Inductor's cache, which is a part of
the artifact; what ``aot-inductor`` loads is a library that needs no Python code.
See https://docs.pytorch.org/docs/stable/torch.compiler.html.
"""

import re
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from inference_lib.backends.pytorch import PyTorchEager, load_module
from inference_lib.backends.shared import pt2e
from inference_lib.backends.shared.buffers import CudaFunctionRunner
from inference_lib.backends.shared.cpu import CpuFunctionRunner, on_arrays, precision_support
from inference_lib.backends.shared.cuda import float32_products, gpu_identity
from inference_lib.backends.shared.graphs import GraphedRunner
from inference_lib.backends.shared.quantization import multiplies_eight_bits
from inference_lib.backends.torch_compile.inductor import (
    believing_the_processor,
    check_runtime,
    compiling,
    cuda_home,
    missing_tool,
    quiet,
)
from inference_lib.backends.torch_compile.preparation import PLAIN, RECIPES, Recipe, prepare
from inference_lib.seam import Artifact, Availability, Support, Workload, precision_of
from inference_lib.support.errors import CourseError

PACKAGE_FILE, PROGRAM_FILE, CACHE_FOLDER = "model.pt2", "program.pt2", "inductor"

Call = Callable[[torch.Tensor], torch.Tensor]


class TorchCompile(PyTorchEager):
    """The model compiled by ``torch.compile``; on a GPU, captured in a CUDA graph."""

    name = "torch-compile"
    title = "torch.compile"

    def availability(self, device: str) -> Availability:
        """Usable where PyTorch is, a C++ compiler too, and Triton for a GPU."""
        available = super().availability(device)
        return missing_tool(device) or available if available.usable else available

    def supports(self, workload: Workload) -> Support:
        """FP32 everywhere, INT8 on a CPU where torchao is installed; TF32 and the 16-bit types on a GPU."""
        if workload.torch_dtype != torch.int8 or workload.on_gpu:
            return precision_support(workload)
        ok = find_spec("torchao") is not None
        return Support(ok=ok, reason="" if ok else f"PyTorch quantizes with torchao; pip install {pt2e.PACKAGE}")

    def artifact_key(self, workload: Workload) -> str:
        """Compiled for one device, batch size and arithmetic."""
        return f"{self.name}/{workload.model}-{workload.device.kind}-{workload.precision}-b{workload.batch_size}"

    def versions(self) -> dict[str, str]:
        """Return what the machine code depends on: PyTorch, the processor and the GPU, and how it was prepared."""
        return {
            "torch": torch.__version__,
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "gpu": gpu_identity(),
            "recipes": repr(RECIPES),
            "torchao": version("torchao") if find_spec("torchao") else "none",
            "vnni": str(multiplies_eight_bits()),
        }

    def export(self, model: nn.Module, workload: Workload, directory: Path) -> None:
        """Write weights as PyTorch does, or a quantized program, and compile once: that fills Inductor's cache."""
        if workload.precision.calibrated:
            torch.export.save(pt2e.quantize_program(model, workload), directory / PROGRAM_FILE)
        else:
            super().export(model, workload, directory)
        self._compile(Artifact(workload, directory))

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the types of the weights (of rank 2 and more)."""
        if not artifact.workload.precision.calibrated:
            return super().stored_precision(artifact)
        state = _program(artifact).state_dict
        return precision_of(str(weight.dtype) for weight in state.values() if weight.dim() >= 2)

    def eight_bits_percent(self, artifact: Artifact) -> float:
        """Run the compiled program once under PyTorch's profiler, and see which kernels its products got."""
        with torch.inference_mode():
            return pt2e.executed_percent(_program(artifact), self._compile(artifact))

    def load(self, artifact: Artifact) -> "CpuFunctionRunner | GraphedRunner":  # type: ignore[override]
        """Trace the model, and take what was compiled for the workload from the artifact's cache."""
        with float32_products(artifact.workload.precision):  # the graph's kernels are chosen while it is captured
            return _runner(artifact.workload, self._compile(artifact))

    def _compile(self, artifact: Artifact) -> Call:
        workload = artifact.workload
        with float32_products(workload.precision), compiling(artifact.directory / CACHE_FOLDER):
            calibrated = workload.precision.calibrated
            model = _program(artifact).module() if calibrated else prepare(load_module(artifact), workload)
            return compiled(model, example(workload), RECIPES[workload.device.kind])


def _program(artifact: Artifact) -> torch.export.ExportedProgram:
    return pt2e.load_program(artifact.directory / PROGRAM_FILE)


class AotInductor(TorchCompile):
    """The model compiled ahead of time to a shared library, which runs without its Python code."""

    name = "aot-inductor"
    title = "AOTInductor"
    served_by = "libtorch (C++)"

    def availability(self, device: str) -> Availability:
        """Usable where ``torch.compile`` is, and for a GPU where CUDA's headers are: the library's host code is C++."""
        available = super().availability(device)
        if available.usable and device == "cuda" and cuda_home() is None:
            remedy = "pip install nvidia-cuda-runtime, or point CUDA_HOME to a CUDA toolkit"
            return Availability(False, torch.__version__, "CUDA's headers were not found", remedy)
        return available

    def supports(self, workload: Workload) -> Support:
        """FP32 everywhere; TF32 and the 16-bit types on a GPU. INT8 is measured with ``torch.compile``."""
        return precision_support(workload)

    def export(self, model: nn.Module, workload: Workload, directory: Path) -> None:
        """Write ``model.pt2``: the compiled library with its weights."""
        model = model.to(workload.device.torch)  # in FP32: weights are rounded once, after batch norms are folded in
        with float32_products(workload.precision), compiling():
            recipe = RECIPES[workload.device.kind]
            compile_ahead(prepare(model, workload), example(workload), directory / PACKAGE_FILE, recipe)
            check_runtime(directory / PACKAGE_FILE)

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the types of the weights (constants of rank 2 and more) from the library's own list of constants."""
        with zipfile.ZipFile(artifact.directory / PACKAGE_FILE) as package:
            (source,) = [name for name in package.namelist() if name.endswith(".wrapper.cpp")]
            listed = package.read(source).decode()
        types = dict(re.findall(r"constants_info_\[(\d+)\]\.dtype = .*?(float16|bfloat16|float32|float64)\b", listed))
        shapes = dict(re.findall(r"constants_info_\[(\d+)\]\.shape = \{([^}]*)\}", listed))
        return precision_of(types[n] for n in types if "," in shapes[n])

    def load(self, artifact: Artifact) -> "CpuFunctionRunner | GraphedRunner":  # type: ignore[override]
        """Load the library; on a GPU, capture its kernels in a CUDA graph."""
        package, workload = str(artifact.directory / PACKAGE_FILE), artifact.workload
        place = workload.device.index if workload.on_gpu else -1  # what PyTorch takes for a CPU
        with float32_products(workload.precision), quiet(), believing_the_processor():
            # Otherwise the library records an event after each run and asks for it before the next, which no graph can
            # hold.
            call = torch._inductor.aoti_load_package(package, run_single_threaded=True, device_index=place)
            return _runner(workload, call)


def compiled(model: nn.Module, images: torch.Tensor, recipe: Recipe = PLAIN) -> Call:
    """Return ``model`` compiled for batches like ``images``; compiling happens here, not at the first inference.

    Raises:
        CourseError: nothing was compiled, because an environment variable turns the compiler off.

    """
    from torch._dynamo.utils import counters
    from torch._inductor import config

    before = counters["stats"]["unique_graphs"]
    call = torch.compile(model, fullgraph=True, dynamic=False)
    # Freezing needs to know that no gradients will be asked for, and does nothing where it is given as an option of
    # torch.compile: by then Dynamo has made inputs of the weights.
    with torch.inference_mode(), config.patch(recipe.options):
        call(images)
    if counters["stats"]["unique_graphs"] == before:
        raise CourseError("torch.compile compiled nothing; unset TORCH_COMPILE_DISABLE and TORCHDYNAMO_DISABLE")
    return call


def compile_ahead(model: nn.Module, images: torch.Tensor, path: Path, recipe: Recipe = PLAIN) -> None:
    """Export ``model`` for batches like ``images``, compile it, and write library and weights to one file."""
    if images.is_cuda:  # PyTorch may not know where CUDA's headers are
        torch.utils.cpp_extension.CUDA_HOME = str(cuda_home())
    with torch.no_grad():
        program = torch.export.export(model, (images,))
        settings = dict(recipe.options)  # PyTorch adds its own to what it is given
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)


def example(workload: Workload) -> torch.Tensor:
    """Return a batch as the runner of ``workload`` will pass it."""
    dtype = torch.from_numpy(np.empty(0, workload.host_dtype)).dtype
    return torch.zeros(workload.input_shape, dtype=dtype, device=workload.device.torch)


def _runner(workload: Workload, call: Call) -> CpuFunctionRunner | GraphedRunner:
    """Return a runner of a compiled function; on a GPU, its kernels are captured in a CUDA graph."""
    if workload.on_gpu:
        return GraphedRunner(CudaFunctionRunner(workload, call))
    return CpuFunctionRunner(workload, on_arrays(call))
