"""Eight bits in PyTorch 2: a captured program whose products stand between quantize and dequantize operations.

torchao annotates the program for Inductor's CPU kernels, observes it on pictures, and writes the operations in.
``torch.compile`` then fuses each pattern to a product of oneDNN's in integers. See
https://docs.pytorch.org/ao/stable/pt2e_quantization/pt2e_quant_x86_inductor.html.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.profiler import ProfilerActivity, profile

from inference_lib.backends.shared.programs import export_program
from inference_lib.backends.shared.quantization import multiplies_eight_bits
from inference_lib.backends.shared.silence import silenced
from inference_lib.seam import Workload
from inference_lib.support.errors import CourseError

# Without this the profiler's library writes an error where there is no GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

PACKAGE = "torchao==0.18.0"
KERNELS = {torch.ops.aten.conv2d.default: "onednn::qconv", torch.ops.aten.linear.default: "onednn::qlinear"}
"""Convolutions and matrix products, and how the names of oneDNN's for integers begin."""
FEW_CHANNELS = 4
"""Convolutions that read no more stay in FP32."""


def quantize_program(model: nn.Module, workload: Workload) -> torch.export.ExportedProgram:
    """Return ``model`` as a program for batches of ``workload``, its scales from the workload's calibration pictures.

    The program must be captured strictly: only then do its operations tell which module they came from, by which the
    quantizer finds them, and without which it quantizes nothing and says nothing.

    Convolutions that read a picture's few channels stay in FP32. With AMX, oneDNN corrects their sums for a zero point
    in every call, which takes vanilla_cnn's longer than all of the rest.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    with silenced(stdout=False, stderr=False), torch.no_grad():
        program = export_program(model, workload.model.input_shape, strict=True).module()
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

    with silenced(stdout=False, stderr=False):
        return torch.export.load(path)


class Product(NamedTuple):
    """A convolution or matrix product of a program."""

    kernel: str
    """How the name of oneDNN's kernel for integers begins."""
    multiply_adds: int
    """Multiply-adds for one batch."""
    quantized: bool
    """Whether both factors are dequantized."""


def products(program: torch.export.ExportedProgram) -> Iterator[Product]:
    """Yield the convolutions and matrix products by weights."""
    for node in program.graph.nodes:
        if kernel := KERNELS.get(node.target):
            factors = node.args[:2]
            shape, weights = node.meta["val"].shape, factors[1].meta["val"].shape
            quantized = all("dequantize" in str(factor.target) for factor in factors)
            yield Product(kernel, prod(shape) * prod(weights[1:]), quantized)


def executed_percent(program: torch.export.ExportedProgram, call: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Return which part of the multiply-adds, percent, ``call`` (the compiled ``program``) does in integers.

    Raises:
        CourseError: of the quantized convolutions, or of the matrix products, some ran in integers; nobody knows which.

    """
    quantized = [product for product in products(program) if product.quantized]
    images = program.example_inputs[0][0]
    call(images)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        call(images)
    done = 0
    for kernel, count in Counter(product.kernel for product in quantized).items():
        ran = sum(event.count for event in profiler.key_averages() if event.key.startswith(kernel))
        if ran not in (0, count):
            raise CourseError(
                f"of {count} quantized products for {kernel}, the compiled program ran {ran} in integers, and does not "
                "tell which; measure INT8 with ONNX Runtime or OpenVINO"
            )
        done += sum(product.multiply_adds for product in quantized if ran and product.kernel == kernel)
    return 100 * done / sum(product.multiply_adds for product in products(program))
