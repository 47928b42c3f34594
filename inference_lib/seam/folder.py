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
from inference_lib.zoo.image_folder import Pictures

MOST_TEST, MOST_TRAINING = 10_000, 1_000
"""Pictures of a folder that are used: to be checked on as many as the published edition, to calibrate with, some."""


@dataclass(frozen=True)
class PictureFolder(Dataset):
    """The pictures of a folder, made the input of one model: those for testing, and some of those for training."""

    name: str
    class_names: tuple[str, ...]
    size: int
    identity: str
    pictures: dict[str, Pictures] = field(compare=False, repr=False)
    """Of each split."""
    places: tuple[int, ...] | None = field(compare=False, repr=False)
    """Where the classes are among the model's outputs; None where the model knows others."""
    prepare: Callable[[Path], np.ndarray] = field(compare=False, repr=False)

    def labels(self, split: str = "test") -> np.ndarray | None:
        """Return the labels (int64, N) of ``split``; None for testing a model that knows other classes.

        For training it does not matter which outputs they are.
        """
        places = self.places or (range(len(self.class_names)) if split == "train" else None)
        return None if places is None else np.array([places[at] for at in self.pictures[split].labels], np.int64)

    def read(self, start: int, out: np.ndarray, split: str = "test") -> None:
        """Write the pictures from ``start`` on into ``out`` (N x the input's shape), one for each of its places."""
        for place, picture in enumerate(out, start):
            files = self.pictures[split].files
            picture[...] = self.prepare(files[place % len(files)])


def with_pictures(model: Model, folder: Path, *, skip_unreadable: bool = False) -> Model:
    """Return ``model``, to be checked on the test pictures in ``folder``.

    Its name ends with a part of the pictures' hash: on others it has other records and scales.

    Accuracy needs classes that both know: by name, or, where the model has no names, as many as it has outputs. Raise
    CourseError where the model reads no pictures, or the folder holds none that can be read.
    """
    if model.prepare is None:
        raise CourseError(f"{model.title} does not read pictures; leave --data out, and it is checked on noise")
    found = image_folder.scan(folder.absolute())
    chosen = {"test": found.test.first(MOST_TEST), "train": found.train.first(MOST_TRAINING)}
    pictures = {split: image_folder.readable(some, skip_unreadable=skip_unreadable) for split, some in chosen.items()}
    places = places_of(found.class_names, model)
    files = (file.read_bytes() for some in pictures.values() for file in some.files)
    labels = repr((places, [some.labels for some in pictures.values()]))
    how = (labels.encode(), inspect.getsource(image_folder).encode(), pickle.dumps(model.prepare))
    own = PictureFolder(
        name=folder.resolve().name,
        class_names=found.class_names,
        size=len(pictures["test"]),
        identity=sha256_of([*how, *files])[:16],
        pictures=pictures,
        places=places,
        prepare=model.prepare,
    )
    return replace(model, name=f"{model.name}-{own.identity[:8]}", dataset=own)


def places_of(class_names: tuple[str, ...], model: Model) -> tuple[int, ...] | None:
    """Return where the classes of a folder are among the outputs of ``model``; None where it has others."""
    if model.class_names:
        named = set(class_names) <= set(model.class_names)
        return tuple(model.class_names.index(name) for name in class_names) if named else None
    return tuple(range(len(class_names))) if len(class_names) == model.outputs else None
