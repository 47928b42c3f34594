"""The fused network computes what the plain one does, with fewer operations."""

import copy
import operator
import random
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
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


class Random(nn.Module):
    """A few layers wired at random: shared, tied, read twice, normalized before, after and in between."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = self.draw = random.Random(seed)
        torch.manual_seed(seed)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(4, 4, kernel, padding=kernel // 2, bias=draw.random() < 0.5, groups=draw.choice([1, 1, 4]))
            for kernel in draw.choices([1, 3], k=3)
        )
        self.convolutions.append(copy.deepcopy(self.convolutions[0]))
        self.convolutions[3].weight = self.convolutions[0].weight
        self.convolutions.append(self.convolutions[1])
        self.norms = nn.ModuleList(nn.BatchNorm2d(4, affine=affine) for affine in (True, True, False))
        for norm in self.norms:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
        self.activations = nn.ModuleList([nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6()])
        self.narrow = nn.Conv2d(4, 4, 1, stride=2, padding=draw.choice([0, 0, 1]))
        self.steps = [self.step() for _ in range(draw.randint(4, 12))]

    def step(self) -> tuple[str, int, float, float]:
        kinds = ["convolution", "convolution and norm", "norm", "activation", "add", "weight", "function"]
        return self.draw.choice(kinds), self.draw.randrange(60), self.draw.random() ** 0.3, self.draw.random()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for kind, number, one, other in self.steps:
            first, second = (values[int(place * len(values))] for place in (one, other))
            convolution, norm = self.convolutions[number % 5], self.norms[number % 3]
            if kind == "convolution":
                values.append(convolution(first))
            elif kind == "convolution and norm":
                values.append(norm(convolution(first)))
            elif kind == "norm":
                values.append(norm(first))
            elif kind == "activation":
                values.append(self.activations[number % 3](first + 0 if number % 2 else first))
            elif kind == "add":
                values.append(first + second)
            elif kind == "weight":
                values.append(first * self.convolutions[0].weight.mean())
            else:
                values.append(nn.functional.relu(first))
        return self.narrow(values[-1]) + self.narrow(values[-2])


@pytest.mark.parametrize("fold", [lambda m: fusion.fold_batch_norms(m, torch.float32), fusion.fuse_convolutions])
def test_any_graph_computes_the_same_when_it_is_folded(fold: Callable[[nn.Module], nn.Module], on_cpu: None) -> None:
    folded_norms = 0
    for seed in range(150):
        model = Random(seed).eval().requires_grad_(False)
        images = torch.randn(2, 4, 6, 6)
        folded = fold(model)
        folded_norms += count(fx.symbolic_trace(model), nn.BatchNorm2d) - count(folded, nn.BatchNorm2d)
        expected = model(images.clone())
        torch.testing.assert_close(folded(images.clone()), expected, rtol=1e-3, atol=1e-3, msg=f"seed {seed}")
    assert folded_norms > 100


class CalledTwice(nn.Module):
    """What PyTorch's own folding gets wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(x)) + self.convolution(x.flip(3))


class ReadTwice(CalledTwice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolution(x)
        return self.norm(y) + y


class NormBefore(CalledTwice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(self.norm(x))


def weight_normed() -> nn.Module:
    model = CalledTwice().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model.convolution)  # a hook that computes the weights anew at every call
    model.eval().requires_grad_(False)(torch.zeros(1, 3, 8, 8))  # PyTorch copies no weights with a gradient
    return model


def statistics_of_the_batch() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False))


@pytest.mark.parametrize(
    ("make", "norms_left"),
    [(CalledTwice, 0), (ReadTwice, 1), (NormBefore, 1), (weight_normed, 1), (statistics_of_the_batch, 1)],
)
def test_where_folding_is_not_allowed_it_is_left(make: Callable[[], nn.Module], norms_left: int) -> None:
    model = make().eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded, images = fusion.fold_batch_norms(model, torch.float32), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-4)
    assert count(folded, nn.BatchNorm2d) == norms_left
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)  # the model itself is left alone


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
