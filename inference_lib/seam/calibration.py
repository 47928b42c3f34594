"""The pictures from which an export in eight bits learns how large its numbers become."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from inference_lib.seam.model import Model
from inference_lib.support.errors import CourseError
from inference_lib.support.hashes import sha256_of


@dataclass(frozen=True)
class Calibration:
    """Some of a model's training pictures, chosen by a seed, or all if there are fewer.

    Scales that fit the test pictures would flatter them.
    """

    images: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise CourseError for a number of pictures from which nothing can be learned."""
        if self.images < 1:
            raise CourseError(f"{self.images} pictures cannot calibrate a model; choose 1 or more")

    def batches(self, model: Model, size: int = 32) -> Iterator[np.ndarray]:
        """Yield the pictures as ``model`` reads them, float32: ``size`` x ``model.input_shape``, or what is left.

        The same pictures in the same order each time, none of them twice. Raise CourseError for a model without
        pictures.
        """
        labels = model.dataset.labels("train")
        if labels is None:
            raise CourseError(f"{model.title} has no pictures to be calibrated with; name a folder of some with --data")
        count = min(self.images, len(labels))
        chosen = np.random.default_rng(self.seed).choice(len(labels), count, replace=False)
        for start in range(0, count, size):
            numbers = chosen[start : start + size]
            batch = np.empty((len(numbers), *model.input_shape), np.float32)
            for place, number in enumerate(numbers):
                model.dataset.read(int(number), batch[place : place + 1], "train")
            yield batch

    def identity(self, model: Model) -> str:
        """Hash of the pictures: an export that was calibrated with others is stale."""
        return sha256_of(part.encode() for part in (model.dataset.identity, str(self.images), str(self.seed)))[:16]


CALIBRATION = Calibration()
"""What is used unless a workload says otherwise."""
