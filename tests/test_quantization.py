"""Exports in eight bits: still the model, in integers as far as the label says, and refused where they are not."""

import copy
import dataclasses
import importlib
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from inputs import eager_logits, largest_difference
from torch import nn

from inference_lib.backends import get_backend
from inference_lib.backends import onnxruntime as backend_module
from inference_lib.backends.shared import pt2e, quantization
from inference_lib.backends.shared.quantization import executed_percent, multiplies_eight_bits, quantize_onnx
from inference_lib.backends.tensorrt import build_engine, engine_layers, export_typed, why_no_build
from inference_lib.seam import PRECISIONS, Artifact, Calibration, Model, Workload, build, find_model
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


class Twice(nn.Module):
    """A convolution that is called twice, on images of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = torch.relu(self.conv(torch.relu(self.conv(torch.relu(self.stem(images))))))
        return self.head(seen.mean((2, 3)))

    multiply_adds = 14**2 * 27 * 8 + (12**2 + 10**2) * 72 * 8 + 80


class Attention(nn.Module):
    """Two products of activations between two with weights, on sixteen tokens of 32 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        mixed = torch.softmax(tokens @ tokens.transpose(1, 2) / 6, -1) @ tokens
        return self.head(mixed).mean(1)

    multiply_adds = 16 * 48 * 32 + 2 * 16 * 16 * 32 + 16 * 32 * 10


class Noise(Calibration):
    """Any numbers."""

    def batches(self, model: Model, size: int = 32) -> Iterator[np.ndarray]:
        yield np.random.default_rng(0).random((4, *model.input_shape), dtype=np.float32)


def brought(network: type[nn.Module], precision: str = "int8") -> Workload:
    """Return a workload of a made-up network for pictures of 16 x 16."""
    torch.manual_seed(0)
    module = network().eval()
    model = dataclasses.replace(
        find_model("vanilla_cnn"), name=network.__name__, input_shape=(3, 16, 16), load=lambda: copy.deepcopy(module)
    )
    return Workload(model, 1, precision, "cpu", Noise())


@pytest.mark.parametrize("network", [Twice, Attention])
def test_every_product_counts_once_whether_its_weights_are_shared_or_it_has_none(
    network: type[nn.Module], tmp_path: Path
) -> None:
    backend, workload = get_backend("onnxruntime"), brought(network)
    backend.export(workload.model.load(), workload, tmp_path)
    found = list(quantization.products(onnx.load(tmp_path / "model.onnx")))
    assert sum(product.multiply_adds for product in found) == network.multiply_adds
    assert backend.eight_bits_percent(Artifact(workload, tmp_path)) == 100
    names = [node.name for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type in ("Conv", "MatMul")]
    exact = tmp_path / "exact.onnx"
    backend_module.export_onnx(workload.model.load(), brought(network, "fp32"), exact)
    quantize_onnx(exact, exact, workload, nodes_to_exclude=[names[-1]])
    left = next(product for product in found if product.name == names[-1])
    assert executed_percent(exact) == pytest.approx(100 * (1 - left.multiply_adds / network.multiply_adds))


@pytest.mark.parametrize("network", [Twice, Attention])
def test_openvino_s_compiled_model_does_the_multiply_adds_of_the_layers(
    network: type[nn.Module], tmp_path: Path
) -> None:
    openvino = importlib.import_module("inference_lib.backends.openvino")
    pytest.importorskip("openvino")
    workload = brought(network, "fp32")
    openvino.export_ir(workload.model.load(), workload, tmp_path / "model.xml")
    compiled = openvino.compile_ir(tmp_path / "model.xml", workload, {})
    nodes = zip(compiled.get_runtime_model().get_ordered_ops(), openvino.layers(compiled), strict=True)
    kinds = [(node, layer["layerType"]) for node, layer in nodes if layer["layerType"] in openvino.PRODUCTS]
    assert sum(openvino._multiply_adds(node, kind) for node, kind in kinds) == network.multiply_adds


@pytest.mark.parametrize(
    ("convolutions", "matrices", "percent"),
    [(1, 1, 100), (1, 0, 100 * 800 / 880), (0, 1, 100 * 80 / 880), (2, 1, None)],
)
def test_a_kind_of_product_that_ran_in_integers_throughout_or_never_is_known(
    convolutions: int, matrices: int, percent: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"onednn::qconv_pointwise": convolutions, "onednn::qlinear_pointwise": matrices}
    events = [SimpleNamespace(key=key, count=count) for key, count in counts.items()]
    profiler = SimpleNamespace(key_averages=lambda: events)
    monkeypatch.setattr(pt2e, "profile", lambda **_: nullcontext(profiler))
    work = [pt2e.Product("onednn::qconv", 800, quantized=True), pt2e.Product("onednn::qlinear", 80, quantized=True)]
    monkeypatch.setattr(pt2e, "products", lambda _: iter(work))
    program = SimpleNamespace(example_inputs=[[torch.zeros(1)]])
    if percent is None:
        with pytest.raises(CourseError, match="measure INT8 with ONNX Runtime or OpenVINO"):
            pt2e.executed_percent(program, abs)
    else:
        assert pt2e.executed_percent(program, abs) == pytest.approx(percent)


def test_a_reader_s_logging_is_as_it_was_after_an_export(graph: Path, tmp_path: Path) -> None:
    logging.disable(logging.INFO)
    quantize_onnx(graph, tmp_path / "q.onnx", asked())
    assert logging.root.manager.disable == logging.INFO
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("architecture", "has", "exact"),
    [
        ("x86_64", (), False),
        ("x86_64", ("avx512_vnni",), True),
        ("x86_64", ("avx_vnni",), True),
        ("x86_64", ("amx_int8",), True),
        ("arm64", (), True),
    ],
)
def test_old_processors_saturate(
    architecture: str, has: tuple[str, ...], exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name for name, value in torch.cpu.get_capabilities().items() if isinstance(value, bool)}
    assert set(has) <= known or torch.cpu.get_capabilities()["architecture"] != "x86_64"
    found = dict.fromkeys(known, False) | dict.fromkeys(has, True) | {"architecture": architecture}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    multiplies_eight_bits.cache_clear()
    assert multiplies_eight_bits() == exact
    multiplies_eight_bits.cache_clear()


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
    assert [product.quantized for product in pt2e.products(program)] == [False]
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
