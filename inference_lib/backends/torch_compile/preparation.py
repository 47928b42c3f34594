"""The model as Inductor gets it: traced, batch norms folded, and what each device's recipe asks for besides."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from inference_lib.backends.shared.buffers import layout, weights_channels_last
from inference_lib.backends.shared.fusion import fold_batch_norms, fuse_convolutions, trace
from inference_lib.seam import Workload


@dataclass(frozen=True)
class Recipe:
    """What is done to a model before Inductor sees it, and what Inductor is told."""

    channels: int = 0
    """Fill the first convolution's input with channels of zeros up to so many; 0 for none."""
    space_to_depth: bool = False
    """Turn blocks of pixels into channels, so that the first convolution has stride 1 and more channels."""
    cudnn_fusion: bool = False
    """Leave bias, shortcut and ReLU to cuDNN's fused convolutions instead of Inductor's kernels (CUDA only)."""
    options: dict[str, Any] = field(default_factory=lambda: {"freezing": True})
    """Settings of ``torch._inductor.config``."""


PLAIN = Recipe()

RECIPES = {"cpu": PLAIN, "cuda": Recipe(channels=4, cudnn_fusion=True)}
"""What both backends use on each device; the chapter times the others."""


def prepare(model: nn.Module, workload: Workload, recipe: Recipe | None = None) -> fx.GraphModule:
    """Return ``model`` as Inductor gets it: batch norms folded in FP32, images cast and made channels-last inside.

    The weights end in the workload's precision: an FP32 ``model``'s are rounded once, those of a file in sixteen bits
    were before and are for a second time. Without a ``recipe`` it is that of the workload's device.

    The result is traced, so its code is its own: a compiled function is kept for each piece of Python code, and two
    instances of one class would compete for that place.
    """
    recipe = recipe or RECIPES[workload.device.kind]
    first: list[nn.Module] = []
    if recipe.space_to_depth:
        model, steps = space_to_depth(model)
        first += steps
    if recipe.channels:
        model, steps = pad_channels(model, recipe.channels)
        first += steps
    whole = nn.Sequential(*first, ChannelsLast(), model).eval()
    dtype = workload.torch_dtype
    folded = fuse_convolutions(whole, dtype) if recipe.cudnn_fusion else fold_batch_norms(whole, dtype)
    traced = trace(nn.Sequential(Cast(dtype), folded))
    weights_channels_last(traced)
    return traced.requires_grad_(False)


class Cast(nn.Module):
    """Convert images to the type of the weights."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``images`` in the wanted type."""
        return images.to(self.dtype)


class ChannelsLast(nn.Module):
    """Convert images to the layout that tensor cores and vector units read."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``images``, the channels of a pixel beside each other in memory."""
        return images.contiguous(memory_format=layout(images))


def pad_channels(model: nn.Module, channels: int) -> tuple[nn.Module, list[nn.Module]]:
    """Return a copy of ``model`` whose first convolution takes ``channels`` channels, and what makes its input.

    The added channels and their weights are zero, so the result is the same. Tensor cores read several channels at
    once, and three is not a number they like.
    """
    name, convolution = _first_convolution(model)
    extra = channels - convolution.in_channels
    if extra <= 0:
        return model, []
    weight = functional.pad(convolution.weight, (0, 0, 0, 0, 0, extra))
    changed = _with_convolution(model, name, weight, convolution.stride, convolution.padding)
    return changed, [nn.ConstantPad3d((0, 0, 0, 0, 0, extra), 0.0)]


def space_to_depth(model: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """Return a copy of ``model`` whose first convolution has stride 1, and what makes its input.

    A convolution of stride s moves by whole blocks of s x s pixels. With the pixels of a block as channels it moves by
    one block, and reads s * s times as many channels from a filter of fewer places. The filter is filled with zeros
    to whole blocks. Images whose sides are multiples of s are expected.
    """
    name, convolution = _first_convolution(model)
    stride, kernel, padding = convolution.stride[0], convolution.kernel_size[0], int(convolution.padding[0])
    before = -(-padding // stride)  # blocks of padding before the image, rounded up
    shift = before * stride - padding
    blocks = -(-(shift + kernel) // stride)
    after = blocks * stride - shift - kernel
    weight = functional.pad(convolution.weight, (shift, after, shift, after))
    changed = _with_convolution(model, name, functional.pixel_unshuffle(weight, stride), (1, 1), (0, 0))
    left, right = before * stride, (blocks - 1 - before) * stride
    return changed, [nn.ZeroPad2d((left, right, left, right)), nn.PixelUnshuffle(stride)]


def _first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def _with_convolution(
    model: nn.Module, name: str, weight: torch.Tensor, stride: tuple[int, ...], padding: Any
) -> nn.Module:
    """Return a copy of ``model`` with another convolution in place of the one called ``name``; all else is shared."""
    old = model.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    out, inside, height, width = weight.shape
    with torch.device("meta"):
        new = nn.Conv2d(inside, out, (height, width), stride, padding, bias=old.bias is not None)  # type: ignore[arg-type]
    new.weight, new.bias = nn.Parameter(weight, requires_grad=False), old.bias
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    changed = copy.deepcopy(model, shared)
    changed.set_submodule(name, new)
    return changed
