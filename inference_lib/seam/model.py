"""Models as values: the networks of the course, and whatever a reader brings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from inference_lib.seam.dataset import FASHION_MNIST, Dataset
from inference_lib.support.errors import unknown_name
from inference_lib.zoo import networks


@dataclass(frozen=True)
class Model:
    """A network with its weights: what an export starts from."""

    name: str
    """The key in records, file names and on the command line."""
    title: str
    """What a reader sees."""
    input_shape: tuple[int, ...]
    """Of one picture, without the batch: channels, height, width."""
    outputs: int
    """Logits of one picture."""
    load: Callable[[], nn.Module] = field(compare=False, repr=False)
    """Return the network in evaluation mode: FP32 parameters without gradients, on the CPU."""
    create: Callable[[], nn.Module] = field(compare=False, repr=False)
    """Return its architecture alone, with any weights."""
    hashed: Callable[[], str] = field(compare=False, repr=False)
    dataset: Dataset | None = FASHION_MNIST
    """The labelled pictures that it was trained for; None where nobody knows."""

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
    )


MODELS = {name: _of_the_course(name, title) for name, title in networks.TITLES.items()}


def find_model(name: "str | Model") -> Model:
    """Return the model called ``name``; CourseError names the valid ones."""
    if isinstance(name, Model):
        return name
    if name not in MODELS:
        raise unknown_name("model", name, tuple(MODELS))
    return MODELS[name]
