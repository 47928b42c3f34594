"""Weights that were trained on a reader's pictures: one file holds them, what they were trained from, and the figures.

The file is a safetensors file, and loading it runs no code. Its metadata hold, as JSON, the backbone, the class names
and how a picture becomes the input. A file may come from anybody, so the backbone that it names is made where it is one
of the course or of torchvision; a function that makes another is run only where a reader names it, at the prompt, too.
"""

import os
from pathlib import Path

import safetensors
from pydantic import BaseModel, Field, ValidationError
from safetensors.torch import load_file, save
from torch import nn

from inference_lib.support.errors import CourseError, first_line
from inference_lib.support.files import shown, write_atomically
from inference_lib.zoo.backbones import TORCHVISION, backbone
from inference_lib.zoo.image_folder import Preprocessing
from inference_lib.zoo.networks import ARCHITECTURES

METADATA = "inference_lib"


class Trained(BaseModel, frozen=True):
    """What is kept with the weights."""

    backbone: str = Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,500}$")
    """As it was typed; the path of a Python file is from the folder of the weights."""
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    pictures: str
    """Name of the folder that it was trained on."""
    made_from: str = ""
    """A hash of the backbone, the folder and the input's shape: the same training may be done once more."""

    @property
    def by_code(self) -> bool:
        """Whether a function makes the backbone, which is neither the course's nor torchvision's."""
        return self.backbone not in ARCHITECTURES and not self.backbone.startswith(TORCHVISION)


def save_trained(path: Path, module: nn.Module, facts: Trained) -> None:
    """Write the weights of ``module``, in FP32, and ``facts`` to ``path``."""
    place, colon, name = facts.backbone.rpartition(":")
    if place.endswith(".py"):
        place = os.path.relpath(place, path.parent)
    facts = facts.model_copy(update={"backbone": f"{place}{colon}{name}"})
    tensors = {key: tensor.detach().cpu().clone() for key, tensor in module.state_dict().items()}
    write_atomically(path, save(tensors, {METADATA: facts.model_dump_json()}))


def read_facts(path: Path) -> Trained:
    """Return what is kept with the weights in ``path``, the path of a Python file as it is found from here.

    Raise CourseError where it is no such file.
    """
    if not path.is_file():
        raise CourseError(f"{path} does not exist; make it with: python -m inference_lib train BACKBONE --data DIR")
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = Trained.model_validate_json((file.metadata() or {}).get(METADATA, "{}"))
    except (safetensors.SafetensorError, ValidationError) as error:
        said = "it holds weights alone" if isinstance(error, ValidationError) else first_line(str(error))
        raise CourseError(f"{path} is not what the command train writes: {said}; train again") from error
    place, colon, name = facts.backbone.rpartition(":")
    found = str(shown((path.parent / place).resolve())) if place.endswith(".py") else place
    return facts.model_copy(update={"backbone": f"{found}{colon}{name}"})


def spelled(code: str, path: Path) -> str:
    """Return what is typed for weights of a network that the function ``code`` makes, and for no other: the path."""
    return f"{code}@{shown(path)}" if code else str(shown(path))


def load_trained(path: Path, code: str = "") -> nn.Module:
    """Return the trained network in ``path``; ``code`` is the function that makes it, as the reader typed it.

    Raise CourseError where it is no such file, its weights are not those of its backbone, or its backbone is made by
    code that nobody named.
    """
    facts = read_facts(path)
    if facts.by_code and not code:
        typed = spelled(facts.backbone, path)
        raise CourseError(f"{path.name} is of a network that code makes, and no file may say what is run; type {typed}")
    source = code or facts.backbone
    module = backbone(source, len(facts.class_names))
    try:
        module.load_state_dict(load_file(path))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise CourseError(f"{path} does not fit {source} ({first_line(str(error))}); train again") from error
    return module
