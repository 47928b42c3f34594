"""The TorchScript backends: the file is the model, without its Python code, in the precision of its label."""

import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from inputs import CELLS, eager_logits, noise, square
from torch import nn

from inference_lib.backends import get_backend
from inference_lib.backends import torchscript as backend_module
from inference_lib.backends.torchscript import MODEL_FILE, constants, load_frozen, load_fused, trace
from inference_lib.seam import MODELS, PRECISIONS, Workload, build
from inference_lib.support import paths
from inference_lib.support.errors import CourseError

NAMES = ("torchscript", "torchscript-cudagraph")


def count_nodes(module: torch.jit.ScriptModule) -> Counter[str]:
    return Counter(node.kind() for node in module.inlined_graph.nodes())


@pytest.mark.parametrize("setting", ["0", "false", "no", "0v"])
def test_every_setting_that_turns_torchscript_off_is_noticed(setting: str) -> None:
    program = (
        "from inference_lib.backends import get_backend; print(get_backend('torchscript').availability('cpu').reason)"
    )
    environment = os.environ | {"PYTORCH_JIT": setting, "PYTHONPATH": str(paths.ROOT)}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.splitlines()[-1] == f"PYTORCH_JIT={setting} turns TorchScript off"


@pytest.mark.parametrize("model", MODELS)
def test_one_file_runs_any_batch_and_computes_what_the_model_computes(root: Path, model: str) -> None:
    backend = get_backend("torchscript")
    for batch_size in (size for name, size in CELLS if name == model):
        workload = Workload(model, batch_size, "fp32", "cpu")
        artifact = build(backend, workload, root)
        with backend.load(artifact) as runner:
            for batch in (noise(workload), square(workload)):
                expected = eager_logits(model, batch)
                logits = runner.infer(batch)
                assert np.abs(logits - expected).max() <= PRECISIONS["fp32"].tolerance * np.abs(expected).max()
                assert logits.dtype == np.float32
            runner.upload(batch)
            runner.compute()
            np.testing.assert_array_equal(runner.download(), logits)
        assert {file.name for file in artifact.directory.iterdir()} == {MODEL_FILE, "manifest.json"}


def test_the_file_runs_where_the_models_code_is_not(root: Path, tmp_path: Path) -> None:
    workload = Workload("resnet18", 2, "fp32", "cpu")
    artifact = build(get_backend("torchscript"), workload, root)
    np.save(tmp_path / "batch.npy", noise(workload))
    program = f"""
import sys
sys.modules["inference_lib"] = sys.modules["torchvision"] = None  # importing them raises from here on
import numpy as np, torch
model = torch.jit.load({str(artifact.directory / MODEL_FILE)!r})
np.save("logits.npy", model(torch.from_numpy(np.load("batch.npy"))).detach().numpy())
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    expected = eager_logits("resnet18", noise(workload))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_the_stored_precision_is_read_from_the_file(root: Path, precision: str) -> None:
    backend, workload = get_backend("torchscript"), Workload("vanilla_cnn", 1, precision, "cuda")
    assert backend.stored_precision(build(backend, workload, root)) == workload.precision.storage


def test_an_fp32_file_under_an_fp16_label_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trace_fp32(model: nn.Module, workload: Workload) -> torch.jit.ScriptModule:
        return trace(model, Workload(workload.model, workload.batch_size, "fp32", workload.device))

    monkeypatch.setattr(backend_module, "trace", trace_fp32)
    with pytest.raises(CourseError, match="fp32 weights where fp16 was asked for"):
        build(get_backend("torchscript"), Workload("vanilla_cnn", 1, "fp16", "cuda"), tmp_path)
    assert not (tmp_path / "torchscript" / "vanilla_cnn-fp16").exists()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_a_trace_allows_tf32_where_its_label_does_and_nowhere_else(root: Path, model: str, precision: str) -> None:
    artifact = build(get_backend("torchscript"), Workload(model, 1, precision, "cuda"), root)
    graph = torch.jit.load(artifact.directory / MODEL_FILE, map_location="cpu").inlined_graph
    convolutions = [node for node in graph.nodes() if node.kind() == "aten::_convolution"]
    allowed = {list(node.inputs())[-1].toIValue() for node in convolutions}  # the last argument is allow_tf32
    assert convolutions
    assert allowed == {precision == "tf32"}


@pytest.mark.parametrize("model", MODELS)
def test_no_trace_remembers_the_device_it_was_made_on(root: Path, model: str) -> None:
    artifact = build(get_backend("torchscript"), Workload(model, 1, "fp32", "cpu"), root)
    module = torch.jit.load(artifact.directory / MODEL_FILE, map_location="meta")
    nodes = list(module.inlined_graph.nodes())
    assert "DeviceObjType" not in {output.type().kind() for node in nodes for output in node.outputs()}
    made_here = [node for node in nodes if node.kind() == "prim::Constant"]
    assert "TensorType" not in {node.output().type().kind() for node in made_here}
    assert {tensor.device.type for tensor in (*module.parameters(), *module.buffers())} == {"meta"}


def test_freezing_folds_every_batch_norm(root: Path) -> None:
    artifact = build(get_backend("torchscript"), Workload("resnet18", 1, "fp32", "cpu"), root)
    stored = torch.jit.load(artifact.directory / MODEL_FILE)
    frozen = load_frozen(artifact)
    assert count_nodes(stored)["aten::batch_norm"] == 20
    assert count_nodes(frozen)["aten::batch_norm"] == 0
    assert count_nodes(frozen)["aten::_convolution"] == 20
    assert not list(frozen.parameters())


def test_filters_are_loaded_in_the_layout_asked_for(root: Path) -> None:
    artifact = build(get_backend("torchscript"), Workload("resnet18", 1, "fp32", "cpu"), root)
    wide = [filters for filters in constants(load_frozen(artifact)) if filters.dim() == 4 and filters.shape[-1] > 1]
    last = [filters for filters in constants(load_frozen(artifact, torch.channels_last)) if filters.dim() == 4]
    assert wide
    assert not any(filters.is_contiguous(memory_format=torch.channels_last) for filters in wide)
    assert all(filters.is_contiguous(memory_format=torch.channels_last) for filters in last)


def test_the_constants_of_a_graph_are_what_it_computes_with(root: Path) -> None:
    artifact = build(get_backend("torchscript"), Workload("vanilla_cnn", 1, "fp32", "cpu"), root)
    images, module, untouched = torch.ones(1, 3, 224, 224), load_frozen(artifact), load_frozen(artifact)
    filters = [constant for constant in constants(module) if constant.dim() == 4]
    for constant in filters:
        constant.data = constant.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(module(images), untouched(images), atol=1e-4)
    filters[0].data = filters[0] * 2
    assert not torch.allclose(module(images), untouched(images), atol=1e-2)


class TakesABranch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.mean() > 0 else -x


def test_a_trace_that_took_a_branch_is_refused_in_one_line() -> None:
    with pytest.raises(CourseError, match="cannot be traced: Converting a tensor to a Python boolean") as refused:
        trace(TakesABranch(), Workload("vanilla_cnn", 1))
    assert "\n" not in str(refused.value)


def test_the_backend_keeps_the_deprecation_to_itself(tmp_path: Path) -> None:
    workload = Workload("vanilla_cnn", 1, "fp32", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with get_backend("torchscript").load(build(get_backend("torchscript"), workload, tmp_path)) as runner:
            assert runner.infer(noise(workload)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "precision", "device", "reason"),
    [
        ("torchscript", "fp16", "cpu", "FP16"),
        ("torchscript", "tf32", "cpu", "TF32"),
        ("torchscript-cudagraph", "fp32", "cpu", "CUDA graphs"),
    ],
)
def test_what_is_not_measured_says_why(name: str, precision: str, device: str, reason: str) -> None:
    support = get_backend(name).supports(Workload("vanilla_cnn", 1, precision, device))
    assert not support.ok
    assert reason in support.reason


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_that_is_captured_holds_fused_convolutions_in_channels_last(root: Path, precision: str) -> None:
    artifact = build(get_backend("torchscript"), Workload("resnet18", 1, precision, "cuda"), root)
    fused = load_fused(artifact)
    counts = count_nodes(fused)
    assert counts["aten::cudnn_convolution_relu"] == 9
    assert counts["aten::cudnn_convolution_add_relu"] == 8
    assert counts["aten::conv2d"] == 3  # the shortcuts that change their size have no ReLU
    filters = [constant for constant in constants(fused) if constant.dim() == 4]
    assert len(filters) == 20
    assert all(constant.is_contiguous(memory_format=torch.channels_last) for constant in filters)
