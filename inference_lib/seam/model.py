"""Models as values: the networks of the course, and whatever a reader brings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
from torch import nn

from inference_lib.seam.dataset import Dataset
from inference_lib.seam.pictures import FASHION_MNIST, prepare_fashion
from inference_lib.zoo import networks


@dataclass(frozen=True)
class Model:
    """A network with its weights: what an export starts from. Workers get copies: what it holds can be pickled."""

    name: str
    """The key in records, file names and on the command line."""
    title: str
    """What a reader sees."""
    input_shape: tuple[int, ...]
    """Of one picture, without the batch: channels, height, width; any sizes for a network that is not for pictures."""
    outputs: int
    """Logits of one picture."""
    load: Callable[[], nn.Module] = field(compare=False, repr=False)
    """Return the network in evaluation mode: FP32 parameters without gradients, on the CPU."""
    create: Callable[[], nn.Module] = field(compare=False, repr=False)
    """Return its architecture alone, with any weights."""
    hashed: Callable[[], str] = field(compare=False, repr=False)
    dataset: Dataset = FASHION_MNIST
    """The pictures that answers are checked on."""
    class_names: tuple[str, ...] = ()
    """What the logits stand for; empty where nobody knows."""
    prepare: Callable[[Path], np.ndarray] | None = field(default=None, compare=False, repr=False)
    """Return the input (float32) that a picture's file becomes; None for a network that is not for pictures."""
    file: Path | None = field(default=None, compare=False)
    """The ONNX file that it is; None where it has a PyTorch module."""
    batch: int | None = None
    """The only batch size it takes; None for any."""

    @property
    def identity(self) -> str:
        """Hash of the weights (and, for a network that is not the course's, of its code)."""
        return self.hashed()

    def __str__(self) -> str:
        return self.name


def _of_the_course(name: str, title: str) -> Model:
    return Model(
        name,
        title,
        networks.IMAGE_SHAPE,
        networks.NUM_CLASSES,
        load=partial(networks.load_pretrained, name),
        create=partial(networks.create_model, name),
        hashed=partial(networks.weights_sha256, name),
        class_names=FASHION_MNIST.class_names,
        prepare=prepare_fashion,
    )


MODELS = {name: _of_the_course(name, title) for name, title in networks.TITLES.items()}


def find_model(name: "str | Model", input_shape: str | tuple[int, ...] | None = None) -> Model:
    """Return the model called ``name``, one of the course or one that a reader brings.

    That is ``package.module:function`` or ``path/file.py:function`` (which returns a network), ``torchvision:NAME``,
    ``FILE.onnx``, or ``FILE.safetensors`` as the command train writes it, with ``path/file.py:function@`` before it
    where that function makes the network. Where a model does not tell the shape of its input, ``input_shape`` does,
    without the batch: ``3x160x160``. Raise CourseError, which says why, where there is no such model or it cannot be
    measured.
    """
    if isinstance(name, Model):
        return name
    if name in MODELS and input_shape is None:
        return MODELS[name]
    # Imported by name: how a model was found is no part of how it is measured, and of no record's fingerprint.
    return import_module("inference_lib.seam.brought").bring(name, input_shape)
