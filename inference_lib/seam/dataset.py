"""Data sets as values: test pictures, already in the shape that a model reads, and what they show."""

import math
from collections.abc import Iterator

import numpy as np

READ_TOGETHER = 64
"""Pictures that are prepared at once: one at a time costs several times as much."""


class Dataset:
    """The pictures of each split, their labels, and how they become a model's input. A kind of them is a subclass."""

    name: str
    class_names: tuple[str, ...]
    size: int | None
    """Test pictures; None where there is no end to them."""
    identity: str
    """Hash of the files and of the preprocessing: a change in either makes what was computed from it stale."""

    def ensure(self) -> None:
        """Find or download the files; CourseError says why they cannot be had."""

    def labels(self, split: str = "test") -> np.ndarray | None:
        """Return the labels (int64, N) of ``split``; None where nobody knows what the pictures show."""
        return None

    def read(self, start: int, out: np.ndarray, split: str = "test") -> None:
        """Write the pictures from ``start`` on into ``out`` (N x the input's shape), one for each of its places.

        After the last comes the first again.
        """
        raise NotImplementedError

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
