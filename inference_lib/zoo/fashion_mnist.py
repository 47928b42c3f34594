"""Fashion-MNIST: its images, and how they become the input of the models.

70,000 grey images of 28 x 28 pixels in ten classes (https://github.com/zalandoresearch/fashion-mnist).
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from inference_lib.support.errors import CourseError, named
from inference_lib.support.paths import DATA
from inference_lib.zoo.fashion_files import IMAGES_HEADER, LABELS_HEADER, ensure_fashion_mnist, read

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

IMAGE_SIZE = 224
"""Height and width of the models' input in pixels: eight times the 28 of the data set."""

MEAN, STD = 0.2860, 0.3530
"""Of the training images, scaled to 0..1."""

PREFIXES = {"train": "train", "test": "t10k"}


def load_fashion_mnist(split: str, directory: Path = DATA) -> tuple[np.ndarray, np.ndarray]:
    """Return images (uint8, N x 28 x 28) and labels (int64, N) of ``split``: "train" (60,000) or "test" (10,000).

    Downloads what is missing (see :func:`ensure_fashion_mnist`). Raise CourseError for an unknown split, for a file
    that is cut short or corrupt, and for data that can neither be found nor downloaded.
    """
    prefix, folder = named("split", split, PREFIXES), ensure_fashion_mnist(directory)
    pixels = read(folder, f"{prefix}-images-idx3-ubyte")[IMAGES_HEADER:]
    labels = read(folder, f"{prefix}-labels-idx1-ubyte")[LABELS_HEADER:]
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28).copy()  # A copy, because bytes are read-only.
    return images, np.frombuffer(labels, np.uint8).astype(np.int64)


@cache
def split_of(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what load_fashion_mnist does, read once per process."""
    return load_fashion_mnist(split)


def preprocess(
    images: np.ndarray, dtype: np.typing.DTypeLike = np.float32, out: np.ndarray | None = None
) -> np.ndarray:
    """Return the models' input (``dtype``, N x 3 x 224 x 224, contiguous) for ``images`` (uint8, N x 28 x 28).

    Scaled to 0..1, normalized, enlarged bilinearly by eight, and repeated for the three colour channels. The values
    are computed in FP32 and rounded to ``dtype`` (float16 or float32) last. They are written to ``out`` if it is given
    (in ``dtype``, of the result's shape): new memory costs more time than what is written to it.

    Raise CourseError for anything else: a picture in floats or with other levels would be classified wrongly without
    a word.
    """
    _check_pictures(images)
    grey = enlarge(torch.from_numpy(np.ascontiguousarray(images)), IMAGE_SIZE)
    out = np.empty((len(images), 3, IMAGE_SIZE, IMAGE_SIZE), dtype) if out is None else out
    # Rounding one channel before repeating it moves a third of the bytes.
    target = torch.from_numpy(out)
    target.copy_(grey.to(target.dtype).expand_as(target))
    return out


def _check_pictures(images: np.ndarray) -> None:
    """Raise CourseError, with what would mend it, for anything but 8-bit grey pictures of 28 x 28 pixels."""
    side = IMAGE_SIZE // 8
    pillow = f'with Pillow, np.stack([np.asarray(p.convert("L").resize(({side}, {side}))) for p in pictures])'
    if not isinstance(images, np.ndarray):
        raise CourseError(f"{type(images).__name__} is not a NumPy array of pictures; {pillow}")
    if images.dtype != np.uint8:
        remedies = {"f": "multiply 0..1 by 255 and round", "u": "divide 16 bits by 257", "b": "multiply by 255"}
        first = remedies.get(images.dtype.kind, "bring them to 0..255")
        raise CourseError(f"pictures of type {images.dtype} cannot be prepared; {first}, then use .astype(np.uint8)")
    if images.ndim != 3 or images.shape[1:] != (side, side):
        shape = " x ".join(map(str, images.shape))
        raise CourseError(f"pictures of shape {shape} cannot be prepared; give N x {side} x {side} grey ones: {pillow}")


def enlarge(images: torch.Tensor, size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return ``images`` (uint8, N x 28 x 28) normalized and resized (``dtype``, N x 1 x size x size)."""
    # Normalizing first gives the same values (bilinear weights sum to one) and touches fewer pixels.
    normalized = (images.float() / 255 - MEAN) / STD
    return F.interpolate(normalized[:, None].to(dtype), (size, size), mode="bilinear", align_corners=False)
