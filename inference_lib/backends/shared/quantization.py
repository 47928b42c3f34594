"""Eight bits in ONNX graphs: where quantized numbers begin and end, and how much of the work lies between.

A graph in QDQ form stays a graph of floating-point operations. Around each that shall compute in integers stand nodes
that round its inputs (``QuantizeLinear``) and give them back (``DequantizeLinear``); a runtime that knows the pattern
fuses it to one integer operation. See https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

import tempfile
from collections.abc import Iterator
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from inference_lib.backends.shared.programs import INPUT
from inference_lib.backends.shared.silence import silenced
from inference_lib.seam import Workload

PRODUCTS = ("Conv", "Gemm", "MatMul")
INTEGER_PRODUCTS = ("QLinearConv", "QGemm", "QLinearMatMul")
"""What ONNX Runtime makes of them between quantized numbers."""


@cache
def multiplies_eight_bits() -> bool:
    """Whether this CPU adds products of 8-bit numbers in 32 bits (VNNI, AMX, or an ARM processor).

    Older x86 processors have an instruction that adds two products in 16 bits, and 2 * 255 * 127 does not fit: the
    result saturates, silently (https://github.com/microsoft/onnxruntime/issues/12072). Weights of seven bits fit.
    """
    found = torch.cpu.get_capabilities()
    x86 = found["architecture"] in ("x86", "x86_64")
    return not x86 or any(found[name] for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def quantize_onnx(graph: Path, target: Path, workload: Workload, **settings: Any) -> None:
    """Write ``graph`` (FP32) in QDQ form: activations unsigned, weights signed with a scale for each output channel.

    Its scales are the extremes on the workload's calibration pictures. ``settings`` replace arguments of
    ``onnxruntime.quantization.quantize_static``.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    arguments = {
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "reduce_range": not multiplies_eight_bits(),
        "calibrate_method": CalibrationMethod.MinMax,
    } | settings
    with tempfile.TemporaryDirectory() as scratch, silenced("", stderr=False):
        prepared = Path(scratch) / graph.name
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        quantize_static(str(prepared), str(target), Reader(workload), **arguments)


class Reader:
    """A workload's calibration pictures as ONNX Runtime's calibrators read them."""

    def __init__(self, workload: Workload) -> None:
        self._batches = workload.calibration.batches(workload.model)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch by the name of the graph's input, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def cast_ends(path: Path, dtype: np.dtype) -> None:
    """Let an FP32 graph with one input and one output read and write arrays of ``dtype``."""
    import onnx

    model = onnx.load(path)
    graph, kind = model.graph, onnx.helper.np_dtype_to_tensor_dtype(dtype)
    (first,), (last,) = graph.input, graph.output
    inside = {value.name: f"{value.name}_fp32" for value in (first, last)}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inside.get(name, name) for name in names]
    widened = onnx.helper.make_node("Cast", [first.name], [inside[first.name]], to=onnx.TensorProto.FLOAT)
    graph.node.insert(0, widened)
    graph.node.append(onnx.helper.make_node("Cast", [inside[last.name]], [last.name], to=kind))
    for value in (first, last):
        value.type.tensor_type.elem_type = kind
    onnx.save(model, path)


def quantized_percent(path: Path) -> float:
    """Return which part of the multiply-adds in a QDQ graph, percent, has two dequantized factors."""
    import onnx

    work = list(products(onnx.load(path)))
    quantized = sum(product.multiply_adds for product in work if product.quantized)
    return 100 * quantized / sum(product.multiply_adds for product in work)


def executed_percent(path: Path) -> float:
    """Return which part of a graph's multiply-adds, percent, ONNX Runtime does in integer operations on this CPU.

    It is read from the graph that a session made of it: an operation whose neighbours do not fit stays in FP32. What
    ONNX Runtime makes of an operation has its name, or begins with it.
    """
    import onnx
    import onnxruntime

    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = str(number)  # a file's names may be missing, or there twice
    with tempfile.TemporaryDirectory() as scratch:
        named, optimized = Path(scratch) / "named.onnx", Path(scratch) / "optimized.onnx"
        onnx.save(model, named)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.optimized_model_filepath = str(optimized)
        onnxruntime.InferenceSession(str(named), settings, providers=["CPUExecutionProvider"])
        nodes = onnx.load(optimized).graph.node
    integer = {node.name.split("_")[0] for node in nodes if node.op_type in INTEGER_PRODUCTS}
    work = list(products(model))
    done = sum(product.multiply_adds for product in work if product.name in integer)
    return 100 * done / sum(product.multiply_adds for product in work)


class Product(NamedTuple):
    """A convolution or matrix product of a graph."""

    name: str
    """Of its node, which the file may leave empty."""
    multiply_adds: int
    """Multiply-adds for one picture."""
    quantized: bool
    """Whether both factors come from 8-bit numbers."""


def products(model: Any) -> Iterator[Product]:
    """Yield the convolutions and matrix products of an ONNX model with a dynamic batch, those of activations too."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {weights.name: list(weights.dims) for weights in graph.initializer}
    dequantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type in PRODUCTS:
            shape = shapes[dequantized.get(node.input[1], node.input[1])]
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            inner = prod(shape[1:]) if node.op_type == "Conv" or transposed else shape[-2]
            count = prod(shapes[node.output[0]][1:]) * inner
            yield Product(node.name, count, set(node.input[:2]) <= dequantized.keys())
