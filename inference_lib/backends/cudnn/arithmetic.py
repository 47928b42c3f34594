"""Which numbers a program computes with: the type and scale of each tensor, the weights, and what rescales a sum.

A tensor in eight bits holds ``real / scale``, rounded. A convolution multiplies in the type of the tensor that it
reads, sums in 32 bits, and turns the sum ``s`` of channel ``k`` into what its reader expects:

    stored = round(min(max(s * multiplier[k] + bias[k] + shortcut * factor, 0), ceiling))

with one multiplier for each channel, because each filter has a scale of its own. Everything is symmetric: zero is
stored as zero, so that padding is exact. See Jacob et al. 2018 (https://arxiv.org/abs/1712.05877), section 2.
"""

from dataclasses import dataclass

import torch

from inference_lib.backends.cudnn.program import Convolution, Program
from inference_lib.support.errors import CourseError

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The largest number of each type that needs a scale. Scales leave out INT8's -128, so that its range is symmetric."""


@dataclass(frozen=True)
class Stored:
    """How a tensor is stored."""

    dtype: torch.dtype
    scale: float = 1.0

    def of(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return ``numbers`` (already divided by the scale) as the type can hold them, in their own dtype."""
        if self.dtype == torch.int8:
            return numbers.round().clamp(-128, 127)
        if self.dtype in LARGEST:
            numbers = numbers.clamp(-LARGEST[self.dtype], LARGEST[self.dtype])
        return numbers.to(self.dtype).to(numbers.dtype)


@dataclass
class Fused:
    """The numbers of one convolution, linear layers among them."""

    weight: torch.Tensor  # as stored, outputs x inputs of a group x height x width
    multiplier: torch.Tensor  # FP32, outputs
    bias: torch.Tensor  # FP32, outputs, in steps of the tensor that is written
    factor: float  # of the shortcut, from its steps to those of the tensor that is written
    ceiling: float | None  # in steps of the tensor that is written


@dataclass
class Network:
    """A program with its numbers: all that is needed to run it, here or on a GPU."""

    program: Program
    stored: dict[str, Stored]
    fused: dict[str, Fused]

    def share_in_eight_bits(self) -> float:
        """Return the part of the multiply-adds whose factors both have eight bits."""
        products = {c.name: self.program.products(c) for c in self.program.convolutions}
        within = [name for name in products if self.fused[name].weight.dtype in LARGEST]
        return sum(products[name] for name in within) / sum(products.values())

    def widened(self, tensor: str) -> "Network":
        """Return the same network with ``tensor`` in FP16, and its readers with it."""
        stored = self.stored | {tensor: Stored(torch.float16)}
        touching = [c for c in self.program.convolutions if tensor in (c.reads, c.shortcut, c.name)]
        return Network(self.program, stored, self.fused | {c.name: _fused(c, stored) for c in touching})


def network_of(
    program: Program, dtype: torch.dtype, scales: dict[str, float], wide: frozenset[str] = frozenset()
) -> Network:
    """Return ``program`` in ``dtype``; the tensors in ``wide`` stay in FP16 where ``dtype`` is one of eight bits.

    ``scales`` says what one step of each tensor is worth in eight bits. Linear layers, which round the logits, read
    and write FP16 in any case: they are a small part of the work.
    """
    linear = {tensor for c in program.convolutions if c.linear for tensor in (c.reads, c.name)}
    stored = {
        tensor: Stored(dtype, scales[tensor])
        if dtype in LARGEST and tensor not in wide | linear
        else Stored(torch.float16 if dtype in LARGEST else dtype)
        for tensor in program.shapes
    }
    return Network(program, stored, {c.name: _fused(c, stored) for c in program.convolutions})


def is_depthwise(convolution: Convolution) -> bool:
    """Whether each filter reads one channel, its own."""
    return convolution.groups > 1 and convolution.groups == len(convolution.weight) and convolution.weight.shape[1] == 1


def _fused(convolution: Convolution, stored: dict[str, Stored]) -> Fused:
    """Return the numbers of ``convolution``, its weights rounded to the type of the tensor that it reads.

    Depthwise filters stay in FP16: they are few, and few products are summed in which their rounding could average out.
    """
    if convolution.groups > 1 and not is_depthwise(convolution):
        raise CourseError(f"{convolution.name} has {convolution.groups} groups; this backend knows one or depthwise")
    reads, writes = stored[convolution.reads], stored[convolution.name]
    weight, scale = convolution.weight, torch.ones(len(convolution.weight))
    dtype = torch.float16 if reads.dtype in LARGEST and is_depthwise(convolution) else reads.dtype
    if dtype in LARGEST:
        scale = weight.abs().amax((1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST[dtype]
        weight = weight / scale.view(-1, 1, 1, 1)
    return Fused(
        weight=Stored(dtype).of(weight).to(dtype),
        multiplier=scale * (reads.scale / writes.scale),
        bias=convolution.bias / writes.scale,
        factor=stored[convolution.shortcut].scale / writes.scale if convolution.shortcut else 0.0,
        ceiling=convolution.ceiling and convolution.ceiling / writes.scale,
    )
