"""Exports in eight bits: still the model, in integers as far as the label says, and refused where they are not."""

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inputs import eager_logits, largest_difference
from torch import nn

from inference_lib.backends import get_backend
from inference_lib.backends.shared import pt2e, quantization
from inference_lib.backends.shared.quantization import executed_percent, multiplies_eight_bits, quantize_onnx
from inference_lib.backends.tensorrt import build_engine, engine_layers, export_typed, why_no_build
from inference_lib.seam import PRECISIONS, Calibration, Workload, build
from inference_lib.support.errors import CourseError

onnx = pytest.importorskip("onnx")

FEW = Calibration(images=16)
ON_CPU = {"onnxruntime": "onnxruntime", "openvino": "nncf", "torch-compile": "torchao"}
"""The backends that have INT8 on a CPU, and what each quantizes with."""
IN_PART = {"torch-compile": ("fp32+int8", 44.9)}
"""The types of vanilla_cnn's weights and the part of its multiply-adds in eight bits, percent, where it is not all."""


def asked(batch_size: int = 4, device: str = "cpu") -> Workload:
    return Workload("vanilla_cnn", batch_size, "int8", device, FEW)


def pictures(workload: Workload) -> np.ndarray:
    batch = np.empty(workload.input_shape, np.float32)
    workload.model.dataset.read(0, batch)
    return batch


@pytest.mark.parametrize("name", ON_CPU)
def test_an_export_in_eight_bits_is_the_model_and_its_products_run_in_integers(name: str, tmp_path: Path) -> None:
    pytest.importorskip(ON_CPU[name])
    backend, workload = get_backend(name), asked()
    assert backend.supports(workload).ok
    artifact, batch = build(backend, workload, tmp_path), pictures(workload)
    stored, share = IN_PART.get(name, ("int8", 100))
    assert backend.stored_precision(artifact) == stored
    assert artifact.manifest["eight_bits_percent"] == pytest.approx(share, abs=0.05)
    with backend.load(artifact) as runner:
        logits = runner.infer(batch)
    difference = largest_difference(logits, eager_logits("vanilla_cnn", batch))
    assert 1e-3 < difference < PRECISIONS["int8"].tolerance
    assert (logits.argmax(axis=1) == eager_logits("vanilla_cnn", batch).argmax(axis=1)).all()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP32 graph of vanilla_cnn."""
    from inference_lib.backends.onnxruntime import export_onnx

    path = tmp_path_factory.mktemp("graphs") / "model.onnx"
    export_onnx(asked().model.load(), Workload("vanilla_cnn", 1), path)
    return path


def test_multiply_adds_are_those_of_the_layers(graph: Path) -> None:
    network, images = asked().model.load(), torch.zeros(1, 3, 224, 224)
    counted: list[int] = []

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        counted.append(output[0].numel() * layer.weight[0].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    network(images)
    found = list(quantization.products(onnx.load(graph)))
    assert sorted(product.multiply_adds for product in found) == sorted(counted)
    assert not any(product.quantized for product in found)


def test_what_is_left_in_fp32_is_not_counted(graph: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.onnx", tmp_path / "part.onnx"
    first = next(product for product in quantization.products(onnx.load(graph)))
    name = next(node.name for node in onnx.load(graph).graph.node if node.op_type == "Conv")
    quantize_onnx(graph, whole, asked())
    quantize_onnx(graph, part, asked(), nodes_to_exclude=[name])
    total = sum(product.multiply_adds for product in quantization.products(onnx.load(graph)))
    assert quantization.quantized_percent(whole) == executed_percent(whole) == 100
    expected = 100 * (1 - first.multiply_adds / total)
    assert quantization.quantized_percent(part) == pytest.approx(expected)
    assert executed_percent(part) == pytest.approx(expected)
    assert executed_percent(graph) == 0


def test_a_product_whose_result_is_wanted_in_fp32_counts_as_what_it_runs_in(graph: Path, tmp_path: Path) -> None:
    target = tmp_path / "open.onnx"
    options = {"OpTypesToExcludeOutputQuantization": ["Conv"]}
    quantize_onnx(graph, target, asked(), op_types_to_quantize=["Conv"], extra_options=options)
    assert executed_percent(target) < quantization.quantized_percent(target)  # the last one's result goes to FP32


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("processor: 0\nflags\t\t: fpu avx avx2 fma\n", False),
        ("processor: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", True),
        ("processor: 0\nflags\t\t: fpu avx2 avx_vnni\n", True),
        ("processor: 0\nFeatures\t: fp asimd asimddp\n", True),
        (None, True),
    ],
)
def test_old_processors_saturate(text: str | None, exact: bool, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert multiplies_eight_bits(path) == exact


@pytest.mark.parametrize(("exact", "largest"), [(True, 127), (False, 64)])
def test_where_the_processor_saturates_weights_have_seven_bits(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: bool, largest: int
) -> None:
    monkeypatch.setattr(quantization, "multiplies_eight_bits", lambda: exact)
    quantize_onnx(graph, tmp_path / "q.onnx", asked())
    weights = [onnx.numpy_helper.to_array(w) for w in onnx.load(tmp_path / "q.onnx").graph.initializer]
    assert max(np.abs(w.astype(int)).max() for w in weights if w.dtype == np.int8 and w.ndim >= 2) == largest


def test_a_program_that_is_not_captured_strictly_would_not_be_quantized_and_is_noticed() -> None:
    pytest.importorskip("torchao")
    program = torch.export.export(nn.Conv2d(3, 4, 3).eval(), (torch.zeros(1, 3, 8, 8),))
    assert [quantized for _, quantized in pt2e.products(program)] == [False]
    with torch.no_grad():
        assert pt2e.executed_percent(program, program.module()) == 0


def test_for_tensorrt_only_what_products_and_pools_read_is_quantized_with_zero_at_zero(tmp_path: Path) -> None:
    workload = asked(device="cuda")
    path = tmp_path / "model.onnx"
    export_typed(workload.model.load(), workload, path)
    graph = onnx.load(path).graph
    assert quantization.quantized_percent(path) == 100
    behind = {name: node.op_type for node in graph.node for name in node.output}
    rounded = Counter(behind.get(node.input[0], "input") for node in graph.node if node.op_type == "QuantizeLinear")
    assert "Conv" not in rounded  # nothing between a convolution and its ReLU
    zeros = [onnx.numpy_helper.to_array(w) for w in graph.initializer if w.name.endswith("zero_point")]
    assert zeros
    assert all(not zero.any() and zero.dtype == np.int8 for zero in zeros)


def test_pictures_cross_the_bus_to_a_gpu_in_half_as_many_bytes_and_mean_the_same(graph: Path, tmp_path: Path) -> None:
    import onnxruntime

    assert (asked().host_dtype, asked(device="cuda").host_dtype) == (np.float32, np.float16)
    halves, batch = tmp_path / "halves.onnx", pictures(asked())
    halves.write_bytes(graph.read_bytes())
    quantization.cast_ends(halves, asked(device="cuda").host_dtype)
    logits = {}
    for path, dtype in ((graph, np.float32), (halves, np.float16)):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (logits[path],) = session.run(["logits"], {"images": batch.astype(dtype)})
        assert logits[path].dtype == dtype
    assert 0 < largest_difference(logits[halves].astype(np.float32), logits[graph]) < PRECISIONS["fp16"].tolerance


def test_tensorrt_builds_an_engine_that_fuses_around_the_quantized_convolutions(tmp_path: Path) -> None:
    if reason := why_no_build():
        pytest.skip(reason)
    workload = Workload("resnet18", 2, "int8", "cuda", Calibration(2))
    path = tmp_path / "model.onnx"
    export_typed(workload.model.load(), workload, path)
    floating = sum(p.numel() for p in workload.model.load().parameters()) * 4
    assert len(build_engine(path, 2)) < 0.4 * floating
    layers = [parts for _, parts in engine_layers(path, 2)]
    fused = [parts for parts in layers if any(part.startswith("add") for part in parts)]
    assert len(fused) == 8  # the shortcuts
    assert sum(any(part.endswith("QuantizeLinear") for part in parts) for parts in fused) >= 7


@pytest.mark.parametrize(
    ("name", "device", "reason"),
    [
        ("onnxruntime", "cuda", "no 8-bit convolutions"),
        ("onnxruntime-iobinding", "cuda", "no 8-bit convolutions"),
        ("tvm", "cpu", "imports no INT8 convolution"),
        ("tvm", "cuda", "imports no INT8 convolution"),
        ("torch-tensorrt", "cuda", "compiles a PyTorch program"),
        ("aot-inductor", "cpu", "exports no INT8 with this framework"),
        ("pytorch", "cuda", "exports no INT8 with this framework"),
    ],
)
def test_what_has_no_row_in_eight_bits_says_why(name: str, device: str, reason: str) -> None:
    support = get_backend(name).supports(asked(device=device))
    assert not support.ok
    assert reason in support.reason


def test_accuracy_control_gives_back_as_much_as_is_asked_for_and_leaves_the_rest_in_eight_bits(tmp_path: Path) -> None:
    nncf = pytest.importorskip("nncf")
    openvino = importlib.import_module("inference_lib.backends.openvino")
    workload, core = asked(8), openvino.import_openvino().Core()
    path = tmp_path / "exact.xml"
    openvino.export_ir(workload.model.load(), Workload("vanilla_cnn", 8), path)
    batch = pictures(workload)
    exact = eager_logits("vanilla_cnn", batch)

    def score(compiled: Any, batches: Any) -> tuple[float, list[float]]:
        each = [-float(np.abs(compiled(images)[0] - exact).mean()) for images in batches]
        return float(np.mean(each)), each

    def quantized(name: str, **settings: Any) -> Any:
        graph = openvino.quantize_ir(core.read_model(path), workload, **settings)
        openvino.import_openvino().save_model(graph, tmp_path / name)
        return openvino.compile_ir(tmp_path / name, workload, {})

    plain = quantized("plain.xml")
    lost = -score(plain, [batch])[0]
    kept = quantized("kept.xml", validation_dataset=nncf.Dataset([batch]), validation_fn=score, max_drop=lost / 2)
    assert openvino.executed_percent(plain) == 100
    assert 0 < openvino.executed_percent(kept) < 100
    assert -score(kept, [batch])[0] < 0.6 * lost  # NNCF compiles for itself, with settings of its own


def test_integer_operations_that_fall_to_the_cpu_are_noticed(graph: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat

    from inference_lib.backends.onnxruntime import open_session
    from inference_lib.backends.shared.assignment import check_assignment

    quantize_onnx(graph, tmp_path / "operators.onnx", asked(), quant_format=QuantFormat.QOperator)
    session = open_session(tmp_path / "operators.onnx", "cpu")
    with pytest.raises(CourseError, match=r"QLinearConv .* \(CPUExecutionProvider\)"):
        check_assignment(session, "CUDAExecutionProvider")  # as if the work had been meant for a GPU
