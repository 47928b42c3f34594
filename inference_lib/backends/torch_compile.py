"""torch.compile and AOTInductor: the model's operations rewritten and fused by PyTorch's own compiler, Inductor.

Both compile when the model is exported: the same compiler, and the same preparation of the model. ``torch-compile``
traces the model's code again when it is loaded, and finds what was compiled in Inductor's cache, which is a part of
the artifact; what ``aot-inductor`` loads is a library that needs no Python code.
See https://docs.pytorch.org/docs/stable/torch.compiler.html.
"""

import contextlib
import copy
import logging
import os
import re
import shlex
import shutil
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from inference_lib.backends.pytorch import PyTorchEager, load_module
from inference_lib.backends.shared import pt2e
from inference_lib.backends.shared.buffers import CudaFunctionRunner, layout, weights_channels_last
from inference_lib.backends.shared.cpu import CpuFunctionRunner, on_arrays, precision_support
from inference_lib.backends.shared.cuda import float32_products, gpu_identity
from inference_lib.backends.shared.fusion import fold_batch_norms, fuse_convolutions, trace
from inference_lib.backends.shared.graphs import GraphedRunner
from inference_lib.backends.shared.quantization import multiplies_eight_bits
from inference_lib.backends.shared.replaced import replaced
from inference_lib.seam import Artifact, Availability, Support, Workload, precision_of
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from torch._inductor.cpu_vec_isa import VecISA

PACKAGE_FILE, PROGRAM_FILE, CACHE_FOLDER = "model.pt2", "program.pt2", "inductor"

Call = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """What is done to a model before Inductor sees it, and what Inductor is told."""

    channels: int = 0
    """Fill the first convolution's input with channels of zeros up to so many; 0 for none."""
    space_to_depth: bool = False
    """Turn blocks of pixels into channels, so that the first convolution has stride 1 and more channels."""
    cudnn_fusion: bool = False
    """Leave bias, shortcut and ReLU to cuDNN's fused convolutions instead of Inductor's kernels (CUDA only)."""
    options: dict[str, Any] = field(default_factory=lambda: {"freezing": True})
    """Settings of ``torch._inductor.config``."""


PLAIN = Recipe()

RECIPES = {"cpu": PLAIN, "cuda": Recipe(channels=4, cudnn_fusion=True)}
"""What both backends use on each device; the chapter times the others."""


class TorchCompile(PyTorchEager):
    """The model compiled by ``torch.compile``; on a GPU, captured in a CUDA graph."""

    name = "torch-compile"
    title = "torch.compile"

    def availability(self, device: str) -> Availability:
        """Usable where PyTorch is, a C++ compiler too, and Triton for a GPU."""
        available = super().availability(device)
        return _missing_tool(device) or available if available.usable else available

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
        model = model.to(workload.device.torch, workload.torch_dtype)
        with float32_products(workload.precision), compiling():
            recipe = RECIPES[workload.device.kind]
            compile_ahead(prepare(model, workload), example(workload), directory / PACKAGE_FILE, recipe)

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
        with float32_products(artifact.workload.precision), quiet(), believing_the_processor():
            return _runner(artifact.workload, load_ahead(artifact.directory / PACKAGE_FILE))


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


def load_ahead(path: Path) -> Call:
    """Load what ``compile_ahead`` wrote."""
    # Otherwise the library records an event after each run and asks for it before the next, which no graph can hold.
    return torch._inductor.aoti_load_package(str(path), run_single_threaded=True)


def prepare(model: nn.Module, workload: Workload, recipe: Recipe | None = None) -> fx.GraphModule:
    """Return ``model`` as Inductor gets it: batch norms folded in FP32, images cast and made channels-last inside.

    Without a ``recipe`` it is that of the workload's device.

    The result is traced, so its code is its own: a compiled function is kept for each piece of Python code, and two
    instances of one class would compete for that place.
    """
    recipe = recipe or RECIPES[workload.device.kind]
    first: list[nn.Module] = []
    if recipe.space_to_depth:
        model, steps = space_to_depth(model)
        first += steps
    if recipe.channels:
        model, steps = pad_channels(model, recipe.channels)
        first += steps
    whole = nn.Sequential(*first, ChannelsLast(), model).eval()
    dtype = workload.torch_dtype
    folded = fuse_convolutions(whole) if recipe.cudnn_fusion else fold_batch_norms(whole, dtype)
    traced = trace(nn.Sequential(Cast(dtype), folded))
    weights_channels_last(traced)
    return traced.requires_grad_(False)


class Cast(nn.Module):
    """Convert images to the type of the weights."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``images`` in the wanted type."""
        return images.to(self.dtype)


class ChannelsLast(nn.Module):
    """Convert images to the layout that tensor cores and vector units read."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``images``, the channels of a pixel beside each other in memory."""
        return images.contiguous(memory_format=layout(images))


def pad_channels(model: nn.Module, channels: int) -> tuple[nn.Module, list[nn.Module]]:
    """Return a copy of ``model`` whose first convolution takes ``channels`` channels, and what makes its input.

    The added channels and their weights are zero, so the result is the same. Tensor cores read several channels at
    once, and three is not a number they like.
    """
    name, convolution = _first_convolution(model)
    extra = channels - convolution.in_channels
    if extra <= 0:
        return model, []
    weight = functional.pad(convolution.weight, (0, 0, 0, 0, 0, extra))
    changed = _with_convolution(model, name, weight, convolution.stride, convolution.padding)
    return changed, [nn.ConstantPad3d((0, 0, 0, 0, 0, extra), 0.0)]


def space_to_depth(model: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """Return a copy of ``model`` whose first convolution has stride 1, and what makes its input.

    A convolution of stride s moves by whole blocks of s x s pixels. With the pixels of a block as channels it moves by
    one block, and reads s * s times as many channels from a filter of fewer places. The filter is filled with zeros
    to whole blocks. Images whose sides are multiples of s are expected.
    """
    name, convolution = _first_convolution(model)
    stride, kernel, padding = convolution.stride[0], convolution.kernel_size[0], int(convolution.padding[0])
    before = -(-padding // stride)  # blocks of padding before the image, rounded up
    shift = before * stride - padding
    blocks = -(-(shift + kernel) // stride)
    after = blocks * stride - shift - kernel
    weight = functional.pad(convolution.weight, (shift, after, shift, after))
    changed = _with_convolution(model, name, functional.pixel_unshuffle(weight, stride), (1, 1), (0, 0))
    left, right = before * stride, (blocks - 1 - before) * stride
    return changed, [nn.ZeroPad2d((left, right, left, right)), nn.PixelUnshuffle(stride)]


def _first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def _with_convolution(
    model: nn.Module, name: str, weight: torch.Tensor, stride: tuple[int, ...], padding: Any
) -> nn.Module:
    """Return a copy of ``model`` with another convolution in place of the one called ``name``; all else is shared."""
    old = model.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    out, inside, height, width = weight.shape
    with torch.device("meta"):
        new = nn.Conv2d(inside, out, (height, width), stride, padding, bias=old.bias is not None)  # type: ignore[arg-type]
    new.weight, new.bias = nn.Parameter(weight, requires_grad=False), old.bias
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    changed = copy.deepcopy(model, shared)
    changed.set_submodule(name, new)
    return changed


def example(workload: Workload) -> torch.Tensor:
    """Return a batch as the runner of ``workload`` will pass it."""
    dtype = torch.from_numpy(np.empty(0, workload.host_dtype)).dtype
    return torch.zeros(workload.input_shape, dtype=dtype, device=workload.device.torch)


@contextlib.contextmanager
def compiling(cache: Path | None = None) -> Iterator[None]:
    """Compile quietly, with Inductor's cache in the folder ``cache``; without one, from nothing, and nothing is kept.

    What is found there is not compiled again, and no processes are started that would help. On a GPU that is the whole
    program; on a CPU it is every compiled library, while the graph, whose packed weights PyTorch does not store, is
    lowered anew.

    Headers are not compiled ahead: that is done outside of the cache, and looked at again by every process that loads.
    """
    from torch._inductor import config

    settings: dict[str, Any] = {"cpp_cache_precompile_headers": False, "aot_inductor.precompile_headers": False}
    if cache is not None and cache.exists():
        settings["compile_threads"] = 1
    with quiet(), believing_the_processor(), quoting_paths(), config.patch(settings), _cache_in(cache):
        yield


@contextlib.contextmanager
def _cache_in(folder: Path | None) -> Iterator[None]:
    from torch._inductor import utils

    if folder is None:
        with utils.fresh_cache():
            yield
        return
    kept = {"TORCHINDUCTOR_CACHE_DIR": str(folder), "TRITON_CACHE_DIR": str(folder / "triton")}
    before = {name: os.environ.get(name) for name in kept}
    os.environ.update(kept)
    utils.clear_caches()  # what this process remembers of another folder
    try:
        with _tuned_in(folder):
            yield
    finally:
        utils.clear_caches()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _tuned_in(folder: Path) -> Iterator[None]:
    """Let Inductor look in ``folder`` for which variant of a kernel was the fastest when it was tuned.

    By itself it looks where the kernel was compiled. An artifact is moved once it is whole, so each load would tune all
    of its kernels again, beside whatever else is on the GPU.
    """
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    recheck = CachingAutotuner.recheck_autotune_cache

    def recheck_here(self: Any, *given: Any, **named: Any) -> None:
        if self.filename is not None:  # the cache keeps a kernel in a folder of two letters
            self.filename = str(folder.joinpath(*Path(self.filename).parts[-2:]))
        recheck(self, *given, **named)

    with replaced(CachingAutotuner, "recheck_autotune_cache", recheck_here):
        yield


@contextlib.contextmanager
def quoting_paths() -> Iterator[None]:
    """Let Inductor's C++ builder quote every path in a command, which it splits at spaces again.

    By itself it quotes the folders of headers alone: an environment, a cache or a temporary folder with a space in its
    path ends in "cannot find -ltorch" or "No such file".
    """
    from torch._inductor.cpp_builder import CppBuilder

    prepare_command = CppBuilder.__init__

    def prepare_quoted(self: Any, name: str, sources: str | list[str], *rest: Any, **named: Any) -> None:
        prepare_command(self, name, sources, *rest, **named)
        folders = self._build_option.get_libraries_dirs()
        self._libraries_dirs_args = "".join(f"-L{shlex.quote(folder)} " for folder in folders)
        self._output = self._output.replace(self._target_file, shlex.quote(self._target_file))
        for source in [sources] if isinstance(sources, str) else sources:
            self._sources_args = self._sources_args.replace(source, shlex.quote(source))

    with replaced(CppBuilder, "__init__", prepare_quoted):
        yield


@contextlib.contextmanager
def believing_the_processor() -> Iterator[None]:
    """Let Inductor use the vector instructions that the processor reports, if the C++ compiler knows them.

    By itself, Inductor compiles a small library for each set of instructions, and loads it in another process, which
    imports PyTorch: seconds in every process that compiles for a CPU, or loads what was compiled for one.
    """
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import VecISA

    with config.patch({"cpp.vec_isa_ok": True}), replaced(VecISA, "check_build", _compiler_knows):
        yield


def _compiler_knows(instructions: "VecISA", code: str) -> bool:
    """Say whether Inductor's C++ compiler takes the flags of a set of vector instructions; ``code`` uses them."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    flags = instructions.build_arch_flags().split()
    command = [get_cpp_compiler(), *flags, "-fsyntax-only", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep hints out of the reader's way (TF32 is off on purpose, an operation is a library's); errors still raise."""
    names = ("torch.utils.cpp_extension", "torch._inductor.utils", "torch._inductor.ir")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _missing_tool(device: str) -> Availability | None:
    """Say which tool Inductor lacks, if it lacks one."""
    compiler = os.environ.get("CXX", "g++")  # as Inductor chooses it
    if shutil.which(compiler) is None:
        remedy = "apt-get install g++ (or conda install gxx), or set CXX to the one you have"
        return Availability(False, torch.__version__, f"the C++ compiler {compiler} was not found", remedy)
    if device == "cuda" and find_spec("triton") is None:
        return Availability(False, torch.__version__, "triton is not installed", "pip install triton==3.6.0")
    return None


def cuda_home() -> Path | None:
    """Return a folder with CUDA's headers: the toolkit that PyTorch finds, or what PyTorch was installed with."""
    with quiet():
        from torch.utils import cpp_extension
    nvidia = find_spec("nvidia")
    wheels = [Path(place) / "cu13" for place in (nvidia.submodule_search_locations or [])] if nvidia else []
    toolkit = [Path(cpp_extension.CUDA_HOME)] if cpp_extension.CUDA_HOME else []
    return next((home for home in (*toolkit, *wheels) if (home / "include" / "cuda_runtime_api.h").exists()), None)


def _runner(workload: Workload, call: Call) -> CpuFunctionRunner | GraphedRunner:
    """Return a runner of a compiled function; on a GPU, its kernels are captured in a CUDA graph."""
    if workload.on_gpu:
        return GraphedRunner(CudaFunctionRunner(workload, call))
    return CpuFunctionRunner(workload, on_arrays(call))
