"""What one step of each tensor is worth in eight bits: chosen from pictures, by what it does to the logits."""

import math
from collections.abc import Iterable

import torch

from inference_lib.backends.cudnn.arithmetic import LARGEST, Network, network_of
from inference_lib.backends.cudnn.emulate import emulate
from inference_lib.backends.cudnn.program import PICTURES, Convolution, MaxPool, Program

QUANTILES = (1.0, 0.99999, 0.9999, 0.999)
"""Of a tensor's absolute numbers: which of them is the largest that fits. Cutting off the rarest makes finer steps."""


def observe(program: Program, batches: Iterable[torch.Tensor]) -> list[dict[str, float]]:
    """Return for each of ``QUANTILES`` that quantile of every tensor's absolute numbers, the mean over ``batches``."""
    seen: dict[str, list[list[float]]] = {}

    def watch(name: str, numbers: torch.Tensor) -> None:
        sorted_ = numbers.abs().flatten().sort().values
        places = [math.ceil(quantile * len(sorted_)) - 1 for quantile in QUANTILES]
        seen.setdefault(name, []).append([float(sorted_[place]) for place in places])

    exact = network_of(program, torch.float32, {})
    for batch in batches:
        emulate(exact, batch, watch=watch)
    means = {name: torch.tensor(rows, dtype=torch.float64).mean(0).tolist() for name, rows in seen.items()}
    return [{name: values[place] for name, values in means.items()} for place in range(len(QUANTILES))]


def calibrated(
    program: Program, dtype: torch.dtype, batches: list[torch.Tensor], wide: frozenset[str] = frozenset()
) -> Network:
    """Return ``program`` in ``dtype`` (INT8 or FP8), with the quantile whose logits on ``batches`` are the nearest.

    The nearest to those in FP32, by the mean of the squared differences. ``batches`` are pictures as the network reads
    them (N x channels x height x width, FP32); the tensors in ``wide`` stay in FP16.
    """
    exact = network_of(program, torch.float32, {})
    wanted = [emulate(exact, batch) for batch in batches]
    found = []
    for largest in observe(program, batches):
        network = network_of(program, dtype, scales_of(program, dtype, largest), wide)
        errors = [
            (emulate(network, batch) - logits).square().mean() for batch, logits in zip(batches, wanted, strict=True)
        ]
        found.append((float(torch.stack(errors).mean()), network))
    return min(found, key=lambda pair: pair[0])[1]


def scales_of(program: Program, dtype: torch.dtype, largest: dict[str, float]) -> dict[str, float]:
    """Return the scale of each tensor whose ``largest`` numbers shall just fit into ``dtype``.

    A max pool writes some of the numbers that it reads, so it keeps their scale.
    """
    scales = {PICTURES: largest[PICTURES] / LARGEST[dtype]}
    for operation in program.operations:
        found = largest[operation.name]
        if isinstance(operation, Convolution) and operation.ceiling is not None:
            found = min(found, operation.ceiling)  # a ReLU6 leaves no number above 6
        fits = found / LARGEST[dtype] or 1.0
        scales[operation.name] = scales[operation.reads] if isinstance(operation, MaxPool) else fits
    return scales
