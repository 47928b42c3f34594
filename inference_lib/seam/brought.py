"""Models that a reader brings: a function that makes one, a name of torchvision, an ONNX file, weights trained here.

Each becomes a :class:`Model` whose ``load`` is a plain function of names and paths, so that a worker process makes it
anew. Its name ends with a part of its hash: two different models never share a record or an export.
"""

import inspect
import random
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from inference_lib.seam.model import MODELS, Model
from inference_lib.seam.onnx_file import OnnxFile
from inference_lib.seam.pictures import RANDOM
from inference_lib.seam.sources import sources
from inference_lib.support.errors import CourseError, cause_line
from inference_lib.support.failures import reason_of
from inference_lib.support.hashes import sha256_of
from inference_lib.zoo import networks
from inference_lib.zoo.backbones import as_module, cached, call, classifier, of_torchvision
from inference_lib.zoo.image_folder import Preprocessing, prepare, shape_of, shown
from inference_lib.zoo.trained import load_trained, read_facts

Make = Callable[[], object]

FORMS = (
    "package.module:function, path/file.py:function, torchvision:NAME, FILE.onnx, FILE.safetensors, or "
    "path/file.py:function@FILE.safetensors"
)


def bring(spec: str, input_shape: str | tuple[int, ...] | None = None) -> Model:
    """Return the model that ``spec`` names, or raise CourseError: see ``find_model``."""
    shape = shape_of(input_shape) if isinstance(input_shape, str) else input_shape
    if spec in MODELS:
        if shape != MODELS[spec].input_shape:
            raise CourseError(f"{spec} takes {shown(MODELS[spec].input_shape)} and no other input shape")
        return MODELS[spec]
    place, _, name = spec.rpartition(":")
    if spec.endswith(".onnx"):
        return _of_onnx(Path(spec).absolute(), shape)
    if spec.endswith(".safetensors"):
        code, path = split_code(spec)
        return _of_training(Path(path).absolute(), shape, code)
    if place == "torchvision":
        return _of_torchvision(name, shape)
    if place and name.isidentifier():
        return _of_function(str(Path(place).absolute()) if place.endswith(".py") else place, name, shape)
    raise CourseError(f"unknown model {spec!r}; choose one of: {', '.join(MODELS)}; or bring one: {FORMS}")


# A function that returns a module


def _of_function(place: str, name: str, shape: tuple[int, ...] | None) -> Model:
    title = f"{Path(place).name if place.endswith('.py') else place}:{name}"
    make = partial(call, place, name)
    shape = shape or getattr(_module(make, title), "input_shape", None)
    if shape is None:
        raise CourseError(f"{title} does not tell its input's shape; give --input-shape, such as 3x224x224")
    return _of_module(title, make, tuple(shape), code=f"{place}:{name}")


# torchvision


def _of_torchvision(name: str, shape: tuple[int, ...] | None) -> Model:
    from torchvision import models

    choices = [models.get_model_weights(classifier(name)).DEFAULT, *models.get_model_weights(name)]
    stored = next((each for each in choices if cached(each).is_file()), None)
    make = partial(of_torchvision, name, stored.name if stored else "")
    title = f"{name} (torchvision, {'weights ' + stored.name if stored else 'random weights'})"
    usual = choices[0].transforms()
    side, names = usual.crop_size[0], tuple(choices[0].meta["categories"]) if stored else ()
    shape = shape or (3, side, side)
    if len(shape) != 3 or shape[0] != 3:
        raise CourseError(f"torchvision's networks read 3 x height x width, not {shown(shape)}; give --input-shape so")
    figures = Preprocessing.of(shape, mean=usual.mean, std=usual.std, margin=usual.resize_size[0] / side)
    return _of_module(title, make, shape, name, figures=figures, class_names=names)


# What the command train wrote


def split_code(spec: str) -> tuple[str, str]:
    """Return the function and the file of ``path/file.py:function@FILE.safetensors``, the function's path absolute.

    Where no function is named it is empty.
    """
    found = re.fullmatch(r"(?P<place>.+?):(?P<name>\w+)@(?P<file>.+)", spec)
    if not found:
        return "", spec
    place = found["place"]
    return f"{Path(place).absolute() if place.endswith('.py') else place}:{found['name']}", found["file"]


def _of_training(path: Path, shape: tuple[int, ...] | None, code: str = "") -> Model:
    if path.stem in MODELS and (path.parent / networks.CHECKSUMS).is_file():
        return _retrained(MODELS[path.stem], path.parent)
    facts = read_facts(path)
    figures, title = facts.preprocessing, path.name
    if shape not in (None, figures.shape):
        raise CourseError(f"{title} was trained on {shown(figures.shape)}; leave --input-shape out, or train again")
    make = partial(load_trained, path, code)
    names = facts.class_names
    return _of_module(title, make, figures.shape, path.stem, figures=figures, class_names=names, code=code)


def _retrained(model: Model, folder: Path) -> Model:
    """Return a network of the course with the weights that its training put into ``folder``."""
    return replace(
        model,
        name=_name(model.name, networks.weights_sha256(model.name, folder)),
        title=f"{model.title} (trained once more)",
        load=partial(networks.load_pretrained, model.name, folder),
        hashed=partial(networks.weights_sha256, model.name, folder),
    )


# Any module


def _of_module(
    title: str,
    make: Make,
    shape: tuple[int, ...],
    label: str = "",
    figures: Preprocessing | None = None,
    class_names: tuple[str, ...] = (),
    file: Path | None = None,
    batch: int | None = None,
    code: str = "",
) -> Model:
    """Return the model that ``make`` makes, of an ONNX ``file``, or by the reader's ``code`` (``place:function``)."""
    module = _module(make, title, shape)
    outputs = _outputs(module, title, shape, batch or 1)
    class_names = class_names or tuple(getattr(module, "class_names", ()))
    if len(class_names) not in (0, outputs):
        raise CourseError(
            f"{title} has {outputs} outputs and {len(class_names)} class_names; name each output, or none"
        )
    try:
        weights = state_hash(module)
    except Exception as error:  # packed integers have neither shape nor bytes
        said = f"{title} has weights that are no plain tensors: {reason_of(error)}"
        raise CourseError(f"{said}; bring it before it is quantized") from error
    files = (each.read_bytes() for each in (_files(file) if file else sources(module, code)))
    identity = sha256_of([weights.encode(), shown(shape).encode(), _layers(module).encode(), *files])
    return Model(
        _name(label or title, identity),
        title,
        shape,
        outputs,
        load=partial(load, make, title, shape, weights),
        create=partial(_module, make, title),
        hashed=partial(str, identity),
        dataset=RANDOM,
        class_names=class_names,
        prepare=_prepare(module, shape, title, figures),
        file=file,
        batch=batch,
    )


def _prepare(
    module: nn.Module, shape: tuple[int, ...], title: str, figures: Preprocessing | None
) -> Callable[[Path], np.ndarray] | None:
    """Return how pictures become the input: scaled to 0..1, unless ``figures`` or ``module.preprocessing`` say more."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        return None
    try:
        figures = figures or Preprocessing.of(shape, **getattr(module, "preprocessing", {}))
    except (TypeError, ValidationError) as error:
        said = cause_line(str(error))
        raise CourseError(f"{title}: its preprocessing may have mean, std and margin: {said}") from error
    return partial(prepare, figures=figures)


def _name(label: str, identity: str) -> str:
    """Return a key for records, file names and folders, which no other model has."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', label)}-{identity[:8]}"


def load(make: Make, title: str, shape: tuple[int, ...], weights: str) -> nn.Module:
    """Make the network once more, in evaluation mode, FP32, on the CPU; raise CourseError if its weights are others."""
    module = _module(make, title, shape)
    if state_hash(module) != weights:
        raise CourseError(f"{title} returns other weights at every call; load them from a file, or set a seed in it")
    return module


def _module(make: Make, title: str, shape: tuple[int, ...] | None = None) -> nn.Module:
    """Return the network, in evaluation mode, FP32 without gradients, on the CPU; random weights come from one seed.

    With the ``shape`` of its input, batch norms that have seen nothing yet see some noise first. Raise CourseError
    where making it failed, or it is no network.
    """
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            module = as_module(make(), title).cpu().float().eval().requires_grad_(False)
    except CourseError:
        raise
    except (Exception, SystemExit) as error:  # it is the reader's code, or torchvision's
        raise CourseError(f"{title} cannot be made: {reason_of(error)}") from error
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    if shape is not None:
        _settle(module, shape)
    return module


@torch.no_grad()
def _settle(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Let the batch norms of a network that was never trained see a batch of noise.

    Without, they normalize nothing, the signal fades from layer to layer, and the answers are the last layer's biases,
    whatever the input: no comparison of answers would find a wrong export.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if not norms or not all(_is_new(norm) for norm in norms):
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the mean of all that was seen, instead of a tenth of it
    with suppress(Exception):  # an input of the wrong shape is named by the next call
        module(_noise(8, shape))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum


def _is_new(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    """Whether the statistics are those of a layer that was just made; what counts its batches may not be kept."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not mean.any() and bool((variance == 1).all())


def _noise(batch: int, shape: tuple[int, ...], start: int = 0) -> torch.Tensor:
    images = np.empty((batch, *shape), np.float32)
    RANDOM.read(start, images)
    return torch.from_numpy(images)


@torch.inference_mode()
def _outputs(module: nn.Module, title: str, shape: tuple[int, ...], batch: int) -> int:
    """Return the number of logits, from answers to noise.

    Raise CourseError where it does not answer, or not with one tensor of logits, or the same input not twice alike, or
    all inputs alike.
    """
    if (needs := _inputs(module)) > 1:
        raise CourseError(f"{title} reads {needs} inputs; wrap it in a module that reads one, the pictures")
    try:
        found, again, other = (module(_noise(batch, shape, start)) for start in (0, 0, batch))
    except (Exception, SystemExit) as error:
        said = f"{title} does not run on {shown((batch, *shape))}: {reason_of(error)}"
        raise CourseError(f"{said}; give the shape of its input with --input-shape") from error
    if not isinstance(found, torch.Tensor):
        several = f"{len(found)} outputs" if isinstance(found, tuple | list) else f"a {type(found).__name__}"
        raise CourseError(f"{title} returns {several}; wrap it in a module that returns one tensor, the logits")
    if found.dim() != 2 or len(found) != batch:
        raise CourseError(f"{title} returns {shown(found.shape)}; the course measures logits, {batch} x classes")
    if not found.isfinite().all():
        raise CourseError(f"{title} answers noise with numbers that are not finite, so that nothing can be compared")
    if not torch.allclose(found, again):
        said = "it draws random numbers, as dropout does, or counts its calls"
        raise CourseError(f"{title} answers the same input differently each time: {said}")
    if torch.allclose(found, other, rtol=0, atol=1e-5 * float(found.abs().max())):
        raise CourseError(f"{title} answers every input alike, so that a wrong export would pass; give it weights")
    return found.shape[1]


def _inputs(module: nn.Module) -> int:
    """Return how many inputs a network cannot do without."""
    given = inspect.signature(module.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in kinds and each.default is inspect.Parameter.empty for each in given)


def state_hash(module: nn.Module) -> str:
    """Return a hash of the names, types, shapes and values of all weights."""
    return sha256_of(
        part
        for name, tensor in module.state_dict().items()
        for part in (
            f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(),
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
    )


def _layers(module: nn.Module) -> str:
    """Return what a network prints of itself: PyTorch's own layers with their options, without places in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(module))


# An ONNX file


def _of_onnx(path: Path, shape: tuple[int, ...] | None) -> Model:
    if not path.is_file():
        raise CourseError(f"{path} does not exist; give the path of an ONNX file")
    session = OnnxFile(path).session
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for ends, what in ((inputs, "inputs"), (outputs, "outputs")):
        if len(ends) != 1:
            names = ", ".join(end.name for end in ends)
            raise CourseError(f"{path.name} has {len(ends)} {what} ({names}); the course measures networks with one")
    if inputs[0].type != "tensor(float)":
        raise CourseError(f"{path.name} reads {inputs[0].type}; the course measures networks that read 32-bit floats")
    batch, *sizes = inputs[0].shape
    told = tuple(size for size in sizes if isinstance(size, int))
    if shape is None and len(told) < len(sizes):
        raise CourseError(f"{path.name} leaves its input's sizes open ({shown(sizes)}); give --input-shape")
    fixed = batch if isinstance(batch, int) else None
    return _of_module(path.name, partial(OnnxFile, path), shape or told, path.stem, file=path, batch=fixed)


def _files(path: Path) -> list[Path]:
    """Return the ONNX file and those that hold its weights."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo

    graph = onnx.load(path, load_external_data=False).graph
    outside = {ExternalDataInfo(t).location for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
    return [path, *(path.parent / name for name in sorted(outside))]
