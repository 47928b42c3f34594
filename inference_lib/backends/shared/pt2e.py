"""Eight bits in PyTorch 2: a captured program whose products stand between quantize and dequantize operations.

torchao annotates the program for Inductor's CPU kernels, observes it on pictures, and writes the operations in.
``torch.compile`` then fuses each pattern to a product of oneDNN's in integers. See
https://docs.pytorch.org/ao/stable/pt2e_quantization/pt2e_quant_x86_inductor.html.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import torch
from torch import fx, nn
from torch.profiler import ProfilerActivity, profile

from inference_lib.backends.shared.quantization import multiplies_eight_bits
from inference_lib.seam import Workload
from inference_lib.support.errors import CourseError

# Without this the profiler's library writes an error where there is no GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

PACKAGE = "torchao==0.18.0"
PRODUCTS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
FEW_CHANNELS = 4
"""Convolutions that read no more stay in FP32."""
EXECUTED = ("onednn::qconv", "onednn::qlinear")
"""How the names of oneDNN's products in integers begin."""


def quantize_program(model: nn.Module, workload: Workload) -> torch.export.ExportedProgram:
    """Return ``model`` as a program for batches of ``workload``, its scales from the workload's calibration pictures.

    The program must be captured strictly: only then do its operations tell which module they came from, by which the
    quantizer finds them, and without which it quantizes nothing and says nothing.

    Convolutions that read a picture's few channels stay in FP32. With AMX, oneDNN corrects their sums for a zero point
    in every call, which takes vanilla_cnn's longer than all of the rest (17 ms against 0.6 on sixteen cores).
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    images = torch.zeros(2, *workload.model.input_shape)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        batch = {0: torch.export.Dim("batch")}
        program = torch.export.export(model, (images,), dynamic_shapes=(batch,), strict=True).module()
        recipe = x86.get_default_x86_inductor_quantization_config(reduce_range=not multiplies_eight_bits())
        quantizer = x86.X86InductorQuantizer().set_global(recipe)
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d) and module.in_channels <= FEW_CHANNELS:
                quantizer.set_module_name_qconfig(name, None)
        observed = prepare_pt2e(program, quantizer)
        for pictures in workload.calibration.batches(workload.model):
            observed(torch.from_numpy(pictures))
        converted = convert_pt2e(observed)
        _drop_unused(converted)
        return torch.export.export(converted, (torch.zeros(workload.input_shape),))


def _drop_unused(program: fx.GraphModule) -> None:
    """Drop the weights that quantized ones have replaced."""
    used = {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*program.named_parameters(), *program.named_buffers()) if name not in used]:
        owner, _, last = name.rpartition(".")
        delattr(program.get_submodule(owner), last)


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Return a program that was saved; the operations in it are torchao's."""
    import torchao.quantization.pt2e  # noqa: F401

    with warnings.catch_warnings(action="ignore"):
        return torch.export.load(path)


def products(program: torch.export.ExportedProgram) -> Iterator[tuple[int, bool]]:
    """Yield the multiply-adds of each convolution and matrix product, and whether both factors are dequantized."""
    for node in program.graph.nodes:
        if node.target in PRODUCTS:
            factors = node.args[:2]
            shape, weights = node.meta["val"].shape, factors[1].meta["val"].shape
            yield prod(shape) * prod(weights[1:]), all("dequantize" in str(factor.target) for factor in factors)


def executed_percent(program: torch.export.ExportedProgram, call: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Return which part of the multiply-adds, percent, ``call`` (the compiled ``program``) does in integers.

    Raises:
        CourseError: fewer products ran in integers than are quantized, so that nobody knows which.

    """
    work = list(products(program))
    images = program.example_inputs[0][0]
    call(images)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        call(images)
    ran = sum(event.count for event in profiler.key_averages() if event.key.startswith(EXECUTED))
    quantized = sum(in_integers for _, in_integers in work)
    if ran != quantized:
        raise CourseError(f"the compiled program ran {ran} products in integers, {quantized} are quantized")
    return 100 * sum(count for count, in_integers in work if in_integers) / sum(count for count, _ in work)
