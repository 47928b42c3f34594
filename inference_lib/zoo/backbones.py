"""Networks by what a reader types: a function of a module or a file, a name of torchvision, a network of the course."""

import importlib
import importlib.util
import inspect
import sys
import warnings
from difflib import get_close_matches
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import nn

from inference_lib.support.errors import CourseError
from inference_lib.support.failures import reason_of
from inference_lib.support.hashes import sha256_of
from inference_lib.zoo.fashion_files import patience
from inference_lib.zoo.networks import ARCHITECTURES, create_model

TORCHVISION = "torchvision:"
"""What a name of torchvision begins with."""


def call(place: str, name: str, classes: int | None = None) -> object:
    """Return what the function ``name`` of a module, or of a file that ends with ``.py``, returns.

    One that has an argument ``num_classes`` gets ``classes`` there, if that is given. Raise CourseError where there is
    no such function.
    """
    module = _file(Path(place)) if place.endswith(".py") else _imported(place)
    if not callable(found := getattr(module, name, None)):
        raise CourseError(f"{Path(place).name} has no function {name!r}; name one that returns the network")
    takes = classes is not None and "num_classes" in inspect.signature(found).parameters
    return found(num_classes=classes) if takes else found()


class _FromSource(SourceFileLoader):
    """Compiles the file each time: Python's cache knows it by size and second, and an edit may change neither."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _file(path: Path) -> ModuleType:
    """Import the file at ``path`` under a name of its own; what lies beside it is within reach, as for a script."""
    if not path.is_file():
        raise CourseError(f"{path} does not exist; give the path of a Python file, then a colon and its function")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = f"brought_{sha256_of([str(path).encode()])[:8]}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass in it looks there
    spec.loader.exec_module(module)
    return module


def _imported(name: str) -> ModuleType:
    """Import a module by its name, from the folder of the prompt, too."""
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))
    return importlib.import_module(name)


def as_module(made: object, title: str) -> nn.Module:
    """Return what a function returned; raise CourseError where that is no network, or none that exporters read."""
    if not isinstance(made, nn.Module):
        raise CourseError(f"{title} returns a {type(made).__name__}; let it return a torch.nn.Module")
    if isinstance(made, torch.jit.ScriptModule):
        raise CourseError(f"{title} returns what TorchScript made; let it return the torch.nn.Module itself")
    return made


def classifier(name: str) -> str:
    """Return ``name``, if torchvision has a classifier that is called so; raise CourseError that names similar ones."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = get_close_matches(name, known, 5, 0.5) or known[:5]
        raise CourseError(f"torchvision has no classifier {name!r}; it has {', '.join(close)} and others")
    return name


def cached(weights: Any) -> Path:
    """Return where PyTorch's hub keeps ``weights`` of torchvision once they were downloaded."""
    return Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[-1])


def of_torchvision(name: str, weights: str = "", classes: int | None = None) -> nn.Module:
    """Return a network of torchvision, with the weights of that name from the hub's cache, or with random ones.

    Raise CourseError where the file in the cache is not one of its weights.
    """
    from torchvision import models

    options = {} if classes is None else {"num_classes": classes}
    with warnings.catch_warnings(action="ignore"):  # how it will fill weights in a later version
        module = models.get_model(classifier(name), weights=None, **options)
    for tensor in module.parameters():
        if tensor.dim() > 1 and not tensor.any():
            nn.init.normal_(tensor, std=0.02)  # a last layer of zeros would answer everything with zero
    if weights:
        path = cached(models.get_model_weights(name)[weights])
        try:
            module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise CourseError(f"{path} does not hold the weights of {name}; delete it") from error
    return module


# Backbones: networks to be trained on other classes


def backbone(spec: str, classes: int) -> nn.Module:
    """Return a network with random weights and ``classes`` outputs: of the course, ``torchvision:NAME``, or a function.

    Raise CourseError where there is no such network, or it cannot have so many outputs.
    """
    if spec in ARCHITECTURES:
        return create_model(spec, classes)
    place, _, name = spec.rpartition(":")
    if place == "torchvision":
        return of_torchvision(name, classes=classes)
    if place and name.isidentifier():
        try:
            return as_module(call(place, name, classes), spec)
        except CourseError:
            raise
        except (Exception, SystemExit) as error:  # it is the reader's code
            raise CourseError(f"{spec} cannot be made: {reason_of(error)}") from error
    raise CourseError(
        f"unknown backbone {spec!r}; choose one of: {', '.join(ARCHITECTURES)}; or torchvision:NAME, "
        "package.module:function, path/file.py:function"
    )


def imagenet_state(spec: str) -> dict[str, torch.Tensor]:
    """Return the ImageNet weights of a backbone of torchvision, from the hub's cache or downloaded into it.

    Raise CourseError where it has none, or they cannot be had.
    """
    from torchvision import models

    name = spec.removeprefix(TORCHVISION)
    if name not in models.list_models(module=models):
        raise CourseError(f"there are no ImageNet weights of {spec}")
    weights = models.get_model_weights(name).DEFAULT
    try:
        with patience():
            return torch.hub.load_state_dict_from_url(weights.url, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CourseError(f"the ImageNet weights of {name} cannot be had: {reason_of(error)}") from error
