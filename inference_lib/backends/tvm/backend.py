"""Apache TVM: the model's loops, compiled into one shared library for one device, batch size and precision.

``export`` goes from ``torch.export`` to TVM's graph language (Relax), fuses operators into loop programs (TensorIR),
gives each a schedule and compiles them. See https://tvm.apache.org/docs/.
"""

import inspect
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from inference_lib.backends.shared.cpu import precision_support
from inference_lib.backends.shared.cuda import NO_GPU, gpu_architecture, gpu_identity, gpu_works, graph_support
from inference_lib.backends.shared.fusion import fold_batch_norms
from inference_lib.backends.shared.replaced import replaced
from inference_lib.backends.tvm.machine import SCHEDULES, cuda_toolkit, host_target, tuned_schedules, use_all_cores
from inference_lib.seam import Artifact, Availability, StagedRunner, Support, Workload, precision_of
from inference_lib.seam.onnx_file import OnnxFile
from inference_lib.support.errors import CourseError
from inference_lib.support.hashes import sha256_of

Rules = Sequence[Any]
"""What gives a loop program its schedule: TVM's ``ScheduleRule`` objects, of which the first that fits is taken."""

MODEL_FILE = "model.so"
PACKAGES = "apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post0"

Layout = tuple[str, str]
"""The order of the axes of images and of filters: batch N, channels C, height H, width W; outputs O, inputs I."""

PYTORCH_LAYOUT: Layout = ("NCHW", "OIHW")
LAYOUTS: dict[str, Layout] = {"llvm": ("NHWC", "HWIO"), "cuda": ("NHWC", "OHWI")}
"""What convolutions are compiled for, by the target's kind. On a CPU, the innermost loop runs over the last axis:
output channels, which lie side by side in memory and fill the vector units. On a GPU, a thread block fetches its tiles
along the last axes: the terms of a sum, channels first."""

CONSTANT = struct.pack("<Q", 0xDD5E40F096B4A13F)
"""What every constant in a compiled library begins with (kTVMTensorMagic in TVM's tensor.h)."""


@dataclass
class Tvm:
    """A compiled library, run by TVM's virtual machine."""

    name: str = "tvm"
    title: str = "TVM"
    cuda_graph: bool = False
    """Whether the virtual machine captures what it can of a run in a CUDA graph, and replays that."""
    times_kernels = False
    served_by = "TVM's runtime (C++)"
    from_onnx = ("fp32",)

    def availability(self, device: str) -> Availability:
        """Usable where TVM, a C++ linker and, for a GPU, CUDA's headers are installed."""
        try:
            import tvm
        except ImportError as error:
            return Availability(usable=False, reason=f"{error.name} is not installed", remedy=f"pip install {PACKAGES}")
        from tvm.support.cc import get_cc

        if get_cc() is None:
            reason, remedy = "TVM links with a C++ compiler, and there is none", "install g++"
            return Availability(usable=False, version=tvm.__version__, reason=reason, remedy=remedy)
        if device == "cuda" and not gpu_works():
            return NO_GPU
        if device == "cuda" and cuda_toolkit() is None:
            reason = "TVM compiles with CUDA's headers, and they are not found"
            remedy = "install the CUDA 13 toolkit, or set CUDA_PATH to where it is"
            return Availability(usable=False, version=tvm.__version__, reason=reason, remedy=remedy)
        return Availability(usable=True, version=tvm.__version__)

    def supports(self, workload: Workload) -> Support:
        """FP32 on a CPU; FP32 and FP16 on a GPU, which alone replays CUDA graphs."""
        if self.cuda_graph and not workload.on_gpu:
            return graph_support(workload)
        precision = workload.precision
        if precision.calibrated:
            reason = f"TVM {metadata.version('apache-tvm')} imports no {precision.title} convolution"
            return Support(ok=False, reason=f"{reason}, neither from ONNX nor from PyTorch")
        if workload.on_gpu and (precision.rounds_products or precision.dtype not in (torch.float32, torch.float16)):
            return Support(ok=False, reason=f"TVM's default schedules are not measured in {precision.title}")
        return precision_support(workload)

    def artifact_key(self, workload: Workload) -> str:
        """One library for each device, batch size and precision: all of them are compiled in, and so is the graph."""
        compiled_in = f"{workload.device.kind}-{workload.precision.storage}-batch{workload.batch_size}"
        return f"tvm/{workload.model}-{compiled_in}{'-cudagraph' if self.cuda_graph else ''}"

    def versions(self) -> dict[str, str]:
        """Return TVM's versions, the processors it compiles for, and the schedules that it may use."""
        from tvm.target.codegen import llvm_get_system_cpu

        versions = {name: metadata.version(name) for name in ("torch", "apache-tvm", "apache-tvm-ffi")}
        schedules = sha256_of(file.read_bytes() for file in sorted(SCHEDULES.rglob("*.json")))
        return versions | {"cpu": llvm_get_system_cpu(), "gpu": gpu_identity(), "schedules": schedules[:12]}

    def export(self, model: torch.nn.Module, workload: Workload, directory: Path) -> None:
        """Write the compiled library, weights included."""
        module = import_model(model, workload)
        schedules = tuned_schedules(workload.device.kind)
        executable = compile_module(module, workload.device.kind, schedules, cuda_graph=self.cuda_graph)
        executable.export_library(str(directory / MODEL_FILE))

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the dtypes of the weight matrices and filters (constants longer than one in two directions)."""
        library = artifact.directory / MODEL_FILE
        found = ((dtype, sum(size > 1 for size in shape)) for dtype, shape in constants(library))
        return precision_of(dtype for dtype, axes in found if axes >= 2 and "float" in dtype)

    def load(self, artifact: Artifact) -> StagedRunner:
        """Return the library on the workload's device."""
        from inference_lib.backends.tvm.runners import TvmCpuRunner, TvmCudaRunner

        if artifact.workload.on_gpu:
            return TvmCudaRunner(artifact)
        use_all_cores()
        return TvmCpuRunner(artifact)


def import_model(model: torch.nn.Module, workload: Workload) -> Any:
    """Return ``model``, a module or an ONNX file, as TVM's IRModule in the workload's precision and shape.

    Its weights are inside as constants. The batch norms of a module are folded into the convolutions first, in FP32,
    and rounded once.
    """
    from tvm.relax.frontend.torch import from_exported_program

    from inference_lib.backends.tvm.graph import CONVERTERS

    if isinstance(model, OnnxFile):
        import onnx
        from tvm.relax.frontend.onnx import from_onnx

        graph = onnx.load(model.path)
        (read,) = {value.name for value in graph.graph.input} - {weights.name for weights in graph.graph.initializer}
        return from_onnx(graph, shape_dict={read: list(workload.input_shape)}, keep_params_in_input=False)
    folded = fold_batch_norms(model, workload.torch_dtype)
    program = torch.export.export(folded, (torch.zeros(workload.input_shape, dtype=workload.torch_dtype),))
    return from_exported_program(
        program,
        unwrap_unit_return_tuple=True,
        run_ep_decomposition=False,  # our converters take the operations as the model calls them
        custom_convert_map=CONVERTERS,
    )


def compile_module(
    module: Any,
    device: str,
    schedules: Path | None = None,
    layout: Layout | None = None,
    rules: Rules | None = None,
    *,
    cuda_graph: bool = False,
) -> Any:
    """Return the executable of an imported model: lowered, scheduled and compiled for ``device`` of this machine.

    ``layout`` is that of ``lower``; ``schedules`` and ``rules`` are those of ``schedule``. With ``cuda_graph``, TVM
    moves the kernels between the input and the output to a function of their own, whose memory is planned and kept,
    and its virtual machine captures that at the first run.
    """
    import tvm

    target = target_of(device)
    scheduled = schedule(lower(module, target, layout), target, schedules, rules)
    if device == "cuda" and (toolkit := cuda_toolkit()):
        os.environ["CUDA_PATH"] = str(toolkit)  # or TVM looks for it above nvcc, which may be a wrapper elsewhere
    with tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": cuda_graph}):
        return tvm.compile(scheduled, target)


def lower(module: Any, target: Any, layout: Layout | None = None) -> Any:
    """Return the module with every operator as a loop program, those that can share one fused.

    Convolutions are converted to ``layout`` first, or to the one that the course uses for the target (``LAYOUTS``).
    """
    from tvm import relax

    from inference_lib.backends.tvm.graph import fold_constants, spell_out_axes

    layout, module = layout or LAYOUTS[target.kind.name], spell_out_axes(copied(module))
    with target:
        if layout != PYTORCH_LAYOUT:
            module = relax.transform.ConvertLayout({"relax.nn.conv2d": list(layout)})(module)
        return relax.get_pipeline("zero")(fold_constants(copied(module)))


def schedule(module: Any, target: Any, schedules: Path | None = None, rules: Rules | None = None) -> Any:
    """Return the module with every loop program scheduled.

    ``schedules`` is a folder with tuned ones, used where a program is in it. ``rules`` give the others theirs: by
    default the course's (``course_rules``).
    """
    from tvm import relax
    from tvm.s_tir import dlight
    from tvm.s_tir.meta_schedule.database import JSONDatabase

    module = copied(module)
    with target:
        if schedules:
            with JSONDatabase(work_dir=str(schedules)):
                module = relax.transform.MetaScheduleApplyDatabase()(module)
        return dlight.ApplyDefaultSchedule(*map(Attempt, rules or course_rules(target)))(module)


class Attempt:
    """A rule that steps aside where it fails, for a size that it was not written for: the next rule is asked then.

    A program that no rule schedules is compiled as it is, right and slow, on a CPU; on a GPU the last rule fits all.
    """

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def apply(self, func: Any, target: Any, tunable: bool) -> Any:
        """Return the schedule of ``func``, or None where the rule is not meant for it."""
        from tvm.s_tir import ScheduleError

        try:
            return self.rule.apply(func, target, tunable)
        except ScheduleError:
            return None


def course_rules(target: Any) -> Rules:
    """Return the rules that the course schedules with: its own first, on a GPU dlight's for the rest."""
    if target.kind.name == "llvm":
        from inference_lib.backends.tvm.cpu import VectorTiles

        return [VectorTiles()]
    from inference_lib.backends.tvm.gpu import FilledMatmul, ShortSums
    from inference_lib.backends.tvm.tensor_cores import TensorCores

    return [ShortSums(), TensorCores(), FilledMatmul(), *dlight_rules()]


def dlight_rules() -> Rules:
    """Return TVM's own rules for a GPU, in the order of its documentation."""
    from tvm.s_tir.dlight import gpu

    import_tensor_programs()
    return [gpu.Matmul(), gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction(), gpu.Fallback()]


def copied(module: Any) -> Any:
    """Return a module that can be changed without changing ``module``: some passes work in place."""
    import tvm

    return tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)


def import_tensor_programs() -> None:
    """Import TVM's several hundred little programs for tensor units in seconds instead of most of a minute.

    Each asks ``inspect`` for the module of every caller on the stack, and with PyTorch imported there are thousands of
    modules to search. Nobody reads the answers.
    """
    with replaced(inspect, "getmodule", lambda *_, **__: None):
        import tvm.s_tir.tensor_intrin  # noqa: F401


def target_of(device: str) -> Any:
    """Return the TVM target for ``device`` of this machine."""
    return cuda_target(gpu_architecture()) if device == "cuda" else host_target()


def cuda_target(architecture: str) -> Any:
    """Return the TVM target for GPUs of ``architecture``.

    It is written out: TVM's own tag for an H100 says ``sm_90a``, and dlight leaves tensor cores alone then.
    """
    import tvm

    limits = {"max_threads_per_block": 1024, "max_shared_memory_per_block": 49152, "thread_warp_size": 32}
    return tvm.target.Target({"kind": "cuda", "arch": architecture, "host": {"kind": "llvm"}} | limits)


def constants(library: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of every constant in a compiled library, read from its bytes.

    A constant is a magic number, 8 bytes reserved, the device (two int32), rank (int32), dtype (kind and bits, a byte
    each, lanes in two), the shape (int64 each) and the data.
    """
    content, found = library.read_bytes(), []
    kinds = {0: "int", 1: "uint", 2: "float", 4: "bfloat"}
    position = content.find(CONSTANT)
    while position >= 0:
        rank, kind, bits = struct.unpack_from("<iBB", content, position + 24)
        shape = struct.unpack_from(f"<{rank}q", content, position + 32)
        found.append((f"{kinds.get(kind, kind)}{bits}", shape))
        position = content.find(CONSTANT, position + len(CONSTANT))
    return found


def open_library(artifact: Artifact) -> Any:
    """Return the virtual machine that runs an exported library.

    Raises:
        CourseError: this TVM has no runtime for the device.

    """
    import tvm
    from tvm import relax

    device = tvm.device(artifact.workload.device.kind, artifact.workload.device.index)
    if not device.exist:
        raise CourseError(f"TVM finds no device {device}; install a build with it: pip install {PACKAGES}")
    return relax.VirtualMachine(tvm.runtime.load_module(str(artifact.directory / MODEL_FILE)), device)


def program_times(machine: Any, images: Any) -> pd.DataFrame:
    """Return how long each loop program of one run takes: ``program``, ``calls``, ``ms``, the slowest first.

    The virtual machine tells a function before and after every call; each is waited for, so the sum is more than a run
    takes. The times are medians of ten runs. The function stays with the machine: do not time it afterwards.
    """
    times: dict[str, list[float]] = {}
    started, repeats = 0.0, 10

    def observe(_: Any, name: str, before: bool, *__: Any) -> int:
        nonlocal started
        if not name.startswith("vm.builtin"):
            if images.device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            if before:
                started = now
            else:
                times.setdefault(name, []).append((now - started) * 1e3)
        return 0  # go on with the call

    machine["main"](images)
    machine.set_instrument(observe)
    for _ in range(repeats):
        machine["main"](images)
    rows = [
        {"program": name, "calls": len(each) // repeats, "ms": float(np.median(each)) * (len(each) // repeats)}
        for name, each in times.items()
    ]
    return pd.DataFrame(rows).sort_values("ms", ascending=False, ignore_index=True)
