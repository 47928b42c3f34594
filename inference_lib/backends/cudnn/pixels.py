"""Pixels side by side, taken for channels of one: few channels become as many as tensor cores want.

Channels lie innermost in memory (NHWC), so the same bytes are a picture of W pixels with C channels and one of W / n
pixels with n * C. A convolution on the second is the same as one on the first with other filters: each computes some
neighbouring outputs, and most of its taps in the new pixels are those of the old filter, the others zero. That costs
products, and pays where a kernel is slow because it has few channels: with 3 of a picture, or with 64.
"""

from dataclasses import dataclass

import torch

from inference_lib.backends.cudnn.program import Convolution, Pair

ENOUGH_CHANNELS = 128
"""No kernel is faster with more: a convolution that reads as many is left as it is, and no new pixel gets more."""


@dataclass(frozen=True)
class Form:
    """How a convolution is given to cuDNN: ``outputs`` neighbours are one new pixel; with 0 the pixels stay."""

    outputs: int
    inputs: int
    """Old pixels in a new one of the tensor that is read."""
    kernel: Pair
    stride: Pair
    before: Pair
    """Zeros above and left of the picture, in new pixels."""
    after: Pair
    """Zeros below and right of it."""


def forms(convolution: Convolution, channels: int, width: int, columns: int) -> list[Form]:
    """Return how ``convolution`` may be computed: on the pixels as they are, then on ever wider ones.

    A pixel that is read has ``channels`` in memory; ``width`` is that of the picture that is read, ``columns`` that of
    the one that is written.
    """
    (height_step, step), (above, left) = convolution.stride, convolution.padding
    rows, taps = convolution.weight.shape[2:]
    found = [Form(0, 1, (rows, taps), convolution.stride, convolution.padding, convolution.padding)]
    for outputs in (1, 2, 4) if channels < ENOUGH_CHANNELS else ():
        inputs = step * outputs
        if inputs == 1 or width % inputs or columns % outputs or outputs * len(convolution.weight) > ENOUGH_CHANNELS:
            continue
        first, last = -left // inputs, (step * (outputs - 1) + taps - 1 - left) // inputs
        after = columns // outputs + (last - first) + first - width // inputs
        if after >= 0:
            kernel = (rows, last - first + 1)
            found.append(Form(outputs, inputs, kernel, (height_step, 1), (above, -first), (above, after)))
    return found


def filters(convolution: Convolution, form: Form, weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Return ``weight`` (outputs x channels x height x width) for ``form``, channels last and filled up with zeros.

    Of shape outputs x height x width x channels, each in the new pixels; ``channels`` is how many a pixel that is read
    has in memory.
    """
    outputs, inside, rows, taps = weight.shape
    if not form.outputs:
        wide = weight.new_zeros(outputs, rows, taps, channels)
        wide[..., :inside] = weight.permute(0, 2, 3, 1)
        return wide
    wide = weight.new_zeros(form.outputs, outputs, rows, form.kernel[1], form.inputs, channels)
    for neighbour in range(form.outputs):
        for tap in range(taps):
            pixel, old = divmod(convolution.stride[1] * neighbour + tap - convolution.padding[1], form.inputs)
            wide[neighbour, :, :, pixel + form.before[1], old, :inside] = weight[..., tap].transpose(1, 2)
    return wide.reshape(form.outputs * outputs, rows, form.kernel[1], form.inputs * channels)
