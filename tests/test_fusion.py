"""The fused network computes what the plain one does, with fewer operations."""

import copy
import operator

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from inference_lib.backends.shared import fusion
from inference_lib.seam import MODELS
from inference_lib.zoo.networks import load_pretrained


def convolution_relu(x, weight, bias, *geometry):
    """What cuDNN's fused operation computes, on any device."""
    return conv2d(x, weight, bias, *geometry).relu()


def convolution_add_relu(x, weight, shortcut, alpha, bias, *geometry):
    return (conv2d(x, weight, bias, *geometry) + alpha * shortcut).relu()


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "CONVOLUTION_RELU", convolution_relu)
    monkeypatch.setattr(fusion, "CONVOLUTION_ADD_RELU", convolution_add_relu)


def count(model: torch.fx.GraphModule, wanted: object) -> int:
    """Count the nodes that call a function or a module of a kind."""
    if isinstance(wanted, type):
        calls = [n for n in model.graph.nodes if n.op == "call_module"]
        return sum(isinstance(model.get_submodule(n.target), wanted) for n in calls)
    return sum(n.target is wanted for n in model.graph.nodes)


@pytest.mark.parametrize("name", MODELS)
def test_the_fused_model_agrees_with_the_plain_one(name: str, on_cpu: None) -> None:
    model = load_pretrained(name)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    fused = fusion.fuse_convolutions(copy.deepcopy(model))
    torch.testing.assert_close(fused(images), expected, rtol=1e-4, atol=1e-4)
    assert count(fused, nn.BatchNorm2d) == 0


def test_resnet_keeps_only_convolutions_without_a_relu_of_their_own(on_cpu: None) -> None:
    fused = fusion.fuse_convolutions(load_pretrained("resnet18"))
    assert count(fused, convolution_relu) == 9  # the first, and the first of eight blocks
    assert count(fused, convolution_add_relu) == 8  # the second of eight blocks, with its shortcut
    assert count(fused, nn.Conv2d) == 3  # the shortcuts that change the shape
    assert count(fused, nn.ReLU) == 0


def test_a_pointwise_convolution_with_a_stride_reads_its_pixels_first(on_cpu: None) -> None:
    plain, fused = load_pretrained("resnet18"), fusion.fuse_convolutions(load_pretrained("resnet18"))
    strides = [m.stride for m in plain.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert strides == [(2, 2)] * 3  # of the plain model, which is left alone
    assert {m.stride for m in fused.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)} == {(1, 1)}
    assert count(fused, operator.getitem) == 3


def test_mobilenet_keeps_the_bound_of_relu6_and_its_depthwise_convolutions(on_cpu: None) -> None:
    fused = fusion.fuse_convolutions(load_pretrained("mobilenet_v2"))
    assert count(fused, convolution_relu) == count(fused, torch.clamp_max) == 18
    assert count(fused, nn.ReLU6) == 17  # after the depthwise convolutions
    assert count(fused, nn.Conv2d) == 17 + 17  # depthwise ones, and those that no activation follows


def test_a_convolution_that_is_read_twice_is_left_alone(on_cpu: None) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.convolution(x)
            return self.relu(y) + y

    fused = fusion.fuse_convolutions(Twice().eval())
    assert count(fused, convolution_relu) == 0
    assert count(fused, nn.ReLU) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_cudnn_has_the_fused_kernels(name: str, dtype: torch.dtype) -> None:
    model = load_pretrained(name)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    fused = fusion.fuse_convolutions(model.to(dtype)).cuda().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        logits = fused(images.to("cuda", dtype, memory_format=torch.channels_last)).float().cpu()
    assert (logits - expected).abs().max() <= 2e-2 * expected.abs().max()
