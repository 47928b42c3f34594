"""The data sets that are always there: Fashion-MNIST, and random numbers for a model that nobody has pictures for."""

import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from inference_lib.seam.dataset import Dataset
from inference_lib.support.hashes import sha256_of
from inference_lib.zoo import fashion_files, fashion_mnist, image_folder


@dataclass(frozen=True)
class FashionMnist(Dataset):
    """Fashion-MNIST, enlarged to 3 x 224 x 224."""

    name: str = "fashion-mnist"
    class_names: tuple[str, ...] = fashion_mnist.CLASS_NAMES
    size: int = 10_000

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """Hash of the files and of the preprocessing."""
        code = (inspect.getsource(fashion_mnist.preprocess), inspect.getsource(fashion_mnist.enlarge))
        facts = (*fashion_files.SHA256.values(), *code, str((fashion_mnist.MEAN, fashion_mnist.STD)))
        return sha256_of(fact.encode() for fact in facts)[:16]

    def ensure(self) -> None:
        """Find or download the files; CourseError says why they cannot be had."""
        fashion_files.ensure_fashion_mnist()

    def labels(self, split: str = "test") -> np.ndarray:
        """Return the labels (int64, N) of ``split``."""
        return fashion_mnist.split_of(split)[1]

    def read(self, start: int, out: np.ndarray, split: str = "test") -> None:
        """Write the pictures from ``start`` on into ``out`` (N x 3 x 224 x 224), one for each of its places."""
        pictures = fashion_mnist.split_of(split)[0]
        fashion_mnist.preprocess(pictures[start : start + len(out)], out.dtype, out=out)


def prepare_fashion(path: Path) -> np.ndarray:
    """Return the input (float32, 3 x 224 x 224) that a picture's file becomes: grey, as small as the data set's."""
    grey = image_folder.fitted(image_folder.decode(path), image_folder.Preprocessing(height=28, width=28, channels=1))
    return fashion_mnist.preprocess(grey)[0]


@dataclass(frozen=True)
class RandomPictures(Dataset):
    """Noise of a colour of its own, seeded by its place: the same for every backend, and without labels.

    Noise alone would look alike to a network that averages over the picture, whatever it is a picture of.
    """

    name: str = "random"
    class_names: tuple[str, ...] = ()
    size: None = None
    identity: str = "noise-1"

    def labels(self, split: str = "test") -> None:
        """Nobody knows what noise shows."""

    def read(self, start: int, out: np.ndarray, split: str = "test") -> None:
        """Write the pictures from ``start`` on into ``out``, whatever shape they have."""
        for place, picture in enumerate(out, start):
            normal = np.random.default_rng(place).standard_normal
            picture[...] = normal(picture.shape, np.float32) + normal((len(picture), *[1] * (picture.ndim - 1)))


FASHION_MNIST, RANDOM = FashionMnist(), RandomPictures()
