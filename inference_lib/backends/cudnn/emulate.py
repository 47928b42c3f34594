"""A network's numbers on any device, in plain PyTorch: what the GPU's kernels must compute, step by step."""

from collections.abc import Callable

import torch
from torch.nn import functional

from inference_lib.backends.cudnn.arithmetic import Network
from inference_lib.backends.cudnn.program import PICTURES, Convolution, MaxPool

Watch = Callable[[str, torch.Tensor], None]


@torch.inference_mode()
def emulate(
    network: Network, pictures: torch.Tensor, sums: torch.dtype = torch.float32, watch: Watch | None = None
) -> torch.Tensor:
    """Return the logits (FP32) of ``pictures``, real numbers, each step in the types of ``network``.

    Products and sums are computed in ``sums``. FP64 holds every sum of INT8 products exactly, as a GPU's INT32 does;
    FP32 is several times faster and rounds sums beyond 2^24, which moves a result by one step now and then.
    ``watch`` is called with the name and the stored numbers of each tensor.
    """
    tensors: dict[str, torch.Tensor] = {}

    def write(name: str, numbers: torch.Tensor) -> None:
        tensors[name] = network.stored[name].of(numbers)
        if watch:
            watch(name, tensors[name])

    write(PICTURES, pictures.float() / network.stored[PICTURES].scale)
    for operation in network.program.operations:
        numbers, scale = tensors[operation.reads], network.stored[operation.reads].scale
        if isinstance(operation, Convolution):
            write(operation.name, _convolve(network, operation, tensors, sums))
            continue
        if isinstance(operation, MaxPool):
            numbers = functional.max_pool2d(numbers, operation.size, operation.stride, operation.padding)
        else:
            numbers = numbers.mean((2, 3), keepdim=True)
        write(operation.name, numbers * (scale / network.stored[operation.name].scale))
    return tensors[network.program.operations[-1].name].flatten(1)


def _convolve(
    network: Network, convolution: Convolution, tensors: dict[str, torch.Tensor], sums: torch.dtype
) -> torch.Tensor:
    """Return what one convolution writes, before it is rounded."""
    fused, numbers = network.fused[convolution.name], tensors[convolution.reads]
    device = numbers.device
    found = functional.conv2d(
        numbers.to(sums),
        fused.weight.to(device, sums),
        None,
        convolution.stride,
        convolution.padding,
        groups=convolution.groups,
    ).float()
    found = found * fused.multiplier.to(device).view(-1, 1, 1) + fused.bias.to(device).view(-1, 1, 1)
    if convolution.shortcut:
        found = found + tensors[convolution.shortcut] * fused.factor
    return found if fused.ceiling is None else found.clamp(0, fused.ceiling)
