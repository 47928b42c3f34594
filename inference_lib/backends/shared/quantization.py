"""Eight bits in ONNX graphs: where quantized numbers begin and end, and how much of the work lies between.

A graph in QDQ form stays a graph of floating-point operations. Around each that shall compute in integers stand nodes
that round its inputs (``QuantizeLinear``) and give them back (``DequantizeLinear``); a runtime that knows the pattern
fuses it to one integer operation. See https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from io import StringIO
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inference_lib.seam import Workload

PRODUCTS = ("Conv", "Gemm", "MatMul")
INTEGER_PRODUCTS = ("QLinearConv", "QGemm", "QLinearMatMul")
"""What ONNX Runtime makes of them between quantized numbers."""


@cache
def multiplies_eight_bits(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU adds products of 8-bit numbers in 32 bits (VNNI, AMX, or an ARM processor).

    Older x86 processors have an instruction that adds two products in 16 bits, and 2 * 255 * 127 does not fit: the
    result saturates, silently (https://github.com/microsoft/onnxruntime/issues/12072). Weights of seven bits fit.
    """
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return not flags or any(name in flags for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


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
    with tempfile.TemporaryDirectory() as scratch, _silent():
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
        return None if batch is None else {"images": batch}


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


@contextmanager
def _silent() -> Iterator[None]:
    """Keep hints out of the reader's way; errors still raise."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def quantized_percent(path: Path) -> float:
    """Return which part of the multiply-adds in a QDQ graph, percent, has two dequantized factors."""
    import onnx

    work = list(products(onnx.load(path)))
    quantized = sum(product.multiply_adds for product in work if product.quantized)
    return 100 * quantized / sum(product.multiply_adds for product in work)


def executed_percent(path: Path) -> float:
    """Return which part of a graph's multiply-adds, percent, ONNX Runtime does in integer operations on this CPU.

    It is read from the graph that a session made of it: an operation whose neighbours do not fit stays in FP32.
    """
    import onnx
    import onnxruntime

    work = {product.weights: product.multiply_adds for product in products(onnx.load(path))}
    with tempfile.TemporaryDirectory() as scratch:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.optimized_model_filepath = str(Path(scratch) / path.name)
        onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        nodes = onnx.load(settings.optimized_model_filepath).graph.node
    integer = [node.input[3] for node in nodes if node.op_type in INTEGER_PRODUCTS]  # their fourth input: the weights
    return 100 * sum(work[weights] for weights in integer) / sum(work.values())


class Product(NamedTuple):
    """A convolution or matrix product of a graph."""

    weights: str
    """Name of the initializer, whatever dequantizes it."""
    multiply_adds: int
    """Multiply-adds for one picture."""
    quantized: bool
    """Whether both factors come from 8-bit numbers."""


def products(model: Any) -> Iterator[Product]:
    """Yield the convolutions and matrix products of an ONNX model with a dynamic batch."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.output)}
    shapes |= {weights.name: weights.dims for weights in graph.initializer}
    dequantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type in PRODUCTS:
            weights = dequantized.get(node.input[1], node.input[1])
            shape, outputs = [int(size) for size in shapes[weights]], shapes[node.output[0]][1:]
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            inner = prod(shape[1:]) if node.op_type == "Conv" or transposed else shape[-2]
            count = prod(size.dim_value for size in outputs) * inner
            yield Product(weights, count, set(node.input[:2]) <= dequantized.keys())
