"""Data sets as values: labelled test pictures, already in the shape that a model reads."""

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from inference_lib.support.hashes import sha256_of
from inference_lib.zoo import fashion_mnist

READ_TOGETHER = 64
"""Pictures that are prepared at once: one at a time costs several times as much."""


@dataclass(frozen=True)
class Dataset:
    """Fashion-MNIST: the pictures of each split, their labels, and how they become a model's input.

    A second kind of data set has the same four members: ``name``, ``identity``, ``labels`` and ``read``.
    """

    name: str = "fashion-mnist"
    class_names: tuple[str, ...] = fashion_mnist.CLASS_NAMES

    @cached_property
    def identity(self) -> str:
        """Hash of the files and of the preprocessing: a change in either makes what was computed from it stale."""
        code = (inspect.getsource(fashion_mnist.preprocess), inspect.getsource(fashion_mnist.enlarge))
        facts = (*fashion_mnist.SHA256.values(), *code, str((fashion_mnist.MEAN, fashion_mnist.STD)))
        return sha256_of(fact.encode() for fact in facts)[:16]

    def ensure(self) -> None:
        """Find or download the files; CourseError says why they cannot be had."""
        fashion_mnist.ensure_fashion_mnist()

    def labels(self, split: str = "test") -> np.ndarray:
        """Return the labels (int64, N) of ``split``."""
        return fashion_mnist.split_of(split)[1]

    def read(self, start: int, out: np.ndarray, split: str = "test") -> None:
        """Write the pictures from ``start`` on into ``out`` (N x 3 x 224 x 224), one for each of its places."""
        pictures = fashion_mnist.split_of(split)[0]
        fashion_mnist.preprocess(pictures[start : start + len(out)], out.dtype, out=out)

    def batches(self, images: int, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
        """Yield the first ``images`` test pictures in batches of ``shape``; a short last one is filled with zeros.

        Two arrays take turns: a batch is overwritten when the next but one of them is filled.
        """
        size = shape[0]
        together = size * math.ceil(READ_TOGETHER / size)
        arrays = [np.empty((together, *shape[1:]), dtype) for _ in range(2)]
        for number, start in enumerate(range(0, images, together)):
            block, filled = arrays[number % 2], min(together, images - start)
            self.read(start, block[:filled])
            block[filled:] = 0
            yield from (block[first : first + size] for first in range(0, filled, size))


FASHION_MNIST = Dataset()
