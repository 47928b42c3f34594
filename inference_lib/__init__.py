"""The thin library behind Mastering AI Inference: the names a chapter imports.

They come when they are asked for: PyTorch and the frameworks take seconds to import, and ``--help`` needs none of them.
"""

import importlib
from typing import TYPE_CHECKING

from inference_lib.support import environment
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from inference_lib.lab import Lab, open_lab
    from inference_lib.seam import MODELS, find_model
    from inference_lib.zoo.networks import create_model, load_pretrained

__all__ = ["CourseError", "Lab", "MODELS", "create_model", "find_model", "load_pretrained", "open_lab"]

_HOMES = {"Lab": "lab", "open_lab": "lab", "MODELS": "seam", "find_model": "seam"} | dict.fromkeys(
    ("create_model", "load_pretrained"), "zoo.networks"
)

environment.complete()


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
