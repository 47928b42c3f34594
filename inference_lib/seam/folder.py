"""A reader's own pictures as a data set, and a model that is checked on them."""

import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from inference_lib.seam.dataset import Dataset
from inference_lib.seam.model import Model
from inference_lib.support.errors import CourseError
from inference_lib.support.hashes import sha256_of
from inference_lib.zoo import image_folder

MOST_PICTURES = 10_000
"""Test pictures of a folder that are used: as many as the published edition uses of its own."""


@dataclass(frozen=True)
class PictureFolder(Dataset):
    """The test pictures of a folder, made the input of one model."""

    name: str
    class_names: tuple[str, ...]
    size: int
    identity: str
    files: tuple[Path, ...] = field(compare=False, repr=False)
    known: tuple[int, ...] | None = field(compare=False, repr=False)
    """The place of each picture's class among the model's; None where the model knows other classes."""
    prepare: Callable[[Path], np.ndarray] = field(compare=False, repr=False)

    def labels(self, split: str = "test") -> np.ndarray | None:
        """Return the labels (int64, N); None where the model knows other classes."""
        return None if self.known is None else np.array(self.known, np.int64)

    def read(self, start: int, out: np.ndarray, split: str = "test") -> None:
        """Write the pictures from ``start`` on into ``out`` (N x the input's shape), one for each of its places."""
        for place, picture in enumerate(out, start):
            picture[...] = self.prepare(self.files[place % self.size])


def with_pictures(model: Model, folder: Path, *, skip_unreadable: bool = False) -> Model:
    """Return ``model``, to be checked on the test pictures in ``folder``.

    Accuracy needs classes that both know: by name, or, where the model has no names, as many as it has outputs.

    Raises:
        CourseError: the model reads no pictures, or the folder holds none that can be read.

    """
    if model.prepare is None:
        raise CourseError(f"{model.title} does not read pictures; leave --data out, and it is checked on noise")
    found = image_folder.scan(folder)
    test = image_folder.readable(found.test.first(MOST_PICTURES), skip_unreadable=skip_unreadable)
    known, places = None, places_of(found.class_names, model)
    if places is not None:
        known = tuple(places[label] for label in test.labels)
    facts = [file.read_bytes() for file in test.files]
    how = f"{known} {inspect.getsource(image_folder)}".encode()
    pictures = PictureFolder(
        name=folder.resolve().name,
        class_names=found.class_names,
        size=len(test),
        identity=sha256_of([*facts, how, pickle.dumps(model.prepare)])[:16],
        files=tuple(file.absolute() for file in test.files),
        known=known,
        prepare=model.prepare,
    )
    return replace(model, dataset=pictures)


def places_of(class_names: tuple[str, ...], model: Model) -> list[int] | None:
    """Return where the classes of a folder are among the outputs of ``model``; None where it has others."""
    if model.class_names:
        named = set(class_names) <= set(model.class_names)
        return [model.class_names.index(name) for name in class_names] if named else None
    return list(range(len(class_names))) if len(class_names) == model.outputs else None
