"""What a network has to do: its arithmetic and its memory traffic, counted without computing anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from inference_lib.backends.shared.fusion import CONVOLUTION_ADD_RELU, CONVOLUTION_RELU
from inference_lib.seam import find_precision


@dataclass(frozen=True)
class Work:
    """What one inference of one batch has to do."""

    batch_size: int
    operations: int
    """FLOP of convolutions and matrix products: two for each multiply-add, an addition and a multiplication."""
    bytes_unfused: int
    """Bytes that cross the memory bus when every operation reads its inputs and writes its outputs."""
    bytes_fused: int
    """Bytes that cross it when all is fused: the weights once, the input and the output."""
    calls: int
    """Operations that compute something; views are not counted."""

    @property
    def intensity_unfused(self) -> float:
        """FLOP per byte when nothing is fused."""
        return self.operations / self.bytes_unfused

    @property
    def intensity_fused(self) -> float:
        """FLOP per byte when all is fused."""
        return self.operations / self.bytes_fused


def count(model: nn.Module, shape: Sequence[int], precision: str = "fp32") -> Work:
    """Count what ``model`` has to do for one batch of ``shape`` with all tensors in ``precision``.

    The model is run on *meta* tensors, which have shapes and no memory, so that nothing is computed and any model
    fits; ``model`` itself is not changed. Operations are counted by PyTorch (``torch.utils.flop_counter``).
    """
    state = {name: _on_meta(tensor) for name, tensor in model.state_dict().items()}
    images = torch.empty(*shape, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        output = torch.func.functional_call(model, state, (images,))
    weights = [state[name] for name, _ in model.named_parameters()]
    share = find_precision(precision).bits / 32  # PyTorch has no 8-bit form of most operations, so it is run in FP32
    return Work(
        batch_size=shape[0],
        operations=flops.get_total_flops(),
        bytes_unfused=round(share * traffic.bytes),
        bytes_fused=round(share * sum(tensor.nbytes for tensor in (*weights, images, output))),
        calls=traffic.calls,
    )


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty_like(tensor, device="meta", dtype=dtype)


class _Traffic(TorchDispatchMode):
    """Adds up the tensors that operations read and write; a view moves nothing, nor does an allocation."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.calls = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = _unfused(operation, args) if operation in FUSED else operation(*args, **kwargs)
        if not operation.is_view and "empty" not in operation.name():
            self.calls += 1
            tensors = [leaf for leaf in tree_leaves((args, kwargs, output)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return output


FUSED = (CONVOLUTION_RELU, CONVOLUTION_ADD_RELU)


def _unfused(operation: Any, args: Sequence[Any]) -> torch.Tensor:
    """Return what cuDNN's fused convolution returns; it cannot run on meta tensors, the plain one can."""
    x, weight, *_ = args
    bias, stride, padding, dilation, groups = args[-5:]
    return torch.ops.aten.convolution(x, weight, bias, stride, padding, dilation, False, (0, 0), groups)
