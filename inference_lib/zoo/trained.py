"""Weights that were trained on a reader's pictures: one file holds them, what they were trained from, and the figures.

The file is a safetensors file, so loading it runs no code. Its metadata hold, as JSON, the backbone, the class names
and how a picture becomes the input.
"""

import os
from pathlib import Path

import safetensors
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file, save
from torch import nn

from inference_lib.support.errors import CourseError, first_line
from inference_lib.support.files import write_atomically
from inference_lib.zoo.backbones import backbone
from inference_lib.zoo.image_folder import Preprocessing

METADATA = "inference_lib"


class Trained(BaseModel, frozen=True):
    """What is kept with the weights."""

    backbone: str
    """As it was typed; the path of a Python file is from the folder of the weights."""
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    pictures: str
    """Name of the folder that it was trained on."""


def save_trained(path: Path, module: nn.Module, facts: Trained) -> None:
    """Write the weights of ``module``, in FP32, and ``facts`` to ``path``; the folder must exist."""
    place, colon, name = facts.backbone.rpartition(":")
    if place.endswith(".py"):
        place = os.path.relpath(place, path.parent)
    facts = facts.model_copy(update={"backbone": f"{place}{colon}{name}"})
    tensors = {key: tensor.detach().cpu().clone() for key, tensor in module.state_dict().items()}
    write_atomically(path, save(tensors, {METADATA: facts.model_dump_json()}))


def read_facts(path: Path) -> Trained:
    """Return what is kept with the weights in ``path``, the path of a Python file as it is found from here.

    Raises:
        CourseError: it is no such file.

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
    found = str((path.parent / place).resolve()) if place.endswith(".py") else place
    return facts.model_copy(update={"backbone": f"{found}{colon}{name}"})


def load_trained(path: Path) -> nn.Module:
    """Return the trained network in ``path``.

    Raises:
        CourseError: it is no such file, or its weights are not those of its backbone.

    """
    facts = read_facts(path)
    module = backbone(facts.backbone, len(facts.class_names))
    try:
        module.load_state_dict(load_file(path))
    except (RuntimeError, safetensors.SafetensorError) as error:
        said = first_line(str(error))
        raise CourseError(f"{path} does not fit {facts.backbone} any more ({said}); train again") from error
    return module
