"""Pixels side by side, taken for channels of one: few channels become as many as tensor cores want.

Channels lie innermost in memory (NHWC), so the same bytes are a picture of W pixels with C channels and one of W / n
pixels with n * C. A convolution on the second is the same as one on the first with other filters: each computes some
neighbouring outputs, and most of its taps in the new pixels are those of the old filter, the others zero. That costs
products, and pays where a kernel is slow because it has few channels: with 3 of a picture, or with 64.

The network's input is written by a kernel of ours, which can put pixels of two rows beside each other as well: a
convolution that skips every other row then needs no zeros for it.
"""

from dataclasses import dataclass

import torch

from inference_lib.backends.cudnn.program import Convolution, Pair

ENOUGH_CHANNELS = 128
"""No kernel is faster with more: a convolution that reads as many is left as it is, and no new pixel gets more, but for
the picture's: two of its rows with eight pixels each were the quickest stem of ResNet-18 in INT8 on an H200."""


@dataclass(frozen=True)
class Form:
    """How a convolution is given to cuDNN: ``outputs`` neighbours are one new pixel; with 0 the pixels stay."""

    outputs: int
    inputs: int
    """Old pixels of a row in a new one of the tensor that is read."""
    kernel: Pair
    stride: Pair
    before: Pair
    """Zeros above and left of the picture, in new pixels."""
    after: Pair
    """Zeros below and right of it."""
    rows: int = 1
    """Old rows in a new pixel, of which each old pixel of a row holds one after the other."""


def forms(convolution: Convolution, channels: int, size: Pair, result: Pair, rows: bool = False) -> list[Form]:
    """Return how ``convolution`` may be computed: on the pixels as they are, then on ever wider ones.

    A pixel that is read has ``channels`` in memory; ``size`` is that of the picture that is read, ``result`` of the
    one that is written. ``rows`` says whether the one that is read may hold several rows in a pixel.
    """
    found = []
    for height in dict.fromkeys((1, convolution.stride[0])) if rows else (1,):
        vertical = _axis(convolution, 0, size[0], result[0], height, height // convolution.stride[0])
        most = ENOUGH_CHANNELS * (2 if height > 1 else 1)
        for outputs in (0, 1, 2, 4) if channels * height < ENOUGH_CHANNELS else (0,):
            inputs = max(convolution.stride[1] * outputs, 1)
            if outputs * len(convolution.weight) > most or (outputs and inputs == 1):
                continue
            horizontal = _axis(convolution, 1, size[1], result[1], inputs, outputs)
            if vertical and horizontal:
                kernel, stride, before, after = zip(vertical, horizontal, strict=True)
                found.append(Form(outputs, inputs, kernel, stride, before, after, height))
    return found


def _axis(
    convolution: Convolution, axis: int, size: int, result: int, inputs: int, outputs: int
) -> tuple[int, int, int, int] | None:
    """Return taps, stride and zeros before and after in new pixels, which hold ``inputs`` old ones and ``outputs``.

    None where pixels would be left over.
    """
    taps, stride, padding = convolution.weight.shape[2 + axis], convolution.stride[axis], convolution.padding[axis]
    if not outputs:  # the results stay as they are, and so does what is read
        return (taps, stride, padding, padding) if inputs == 1 else None
    if size % inputs or result % outputs:
        return None
    first, last = -padding // inputs, (stride * (outputs - 1) + taps - 1 - padding) // inputs
    after = result // outputs + last - size // inputs
    return (last - first + 1, 1, -first, after) if after >= 0 else None


def filters(convolution: Convolution, form: Form, weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Return ``weight`` (outputs x channels x height x width) for ``form``, channels last and filled up with zeros.

    Of shape outputs x height x width x channels, each in the new pixels; ``channels`` is how many an old pixel that is
    read has in memory.
    """
    outputs, inside, height, width = weight.shape
    wide = weight.new_zeros(max(form.outputs, 1), outputs, *form.kernel, form.inputs, form.rows, channels)
    for neighbour in range(max(form.outputs, 1)):
        for line in range(height):
            down, row = divmod(line - convolution.padding[0], form.rows)
            for tap in range(width):
                pixel, old = divmod(convolution.stride[1] * neighbour + tap - convolution.padding[1], form.inputs)
                place = (neighbour, slice(None), down + form.before[0], pixel + form.before[1], old, row)
                wide[place][:, :inside] = weight[:, :, line, tap]
    return wide.flatten(4).flatten(0, 1)
