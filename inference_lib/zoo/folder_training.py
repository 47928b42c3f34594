"""Training on a reader's own pictures: any backbone, from random or from ImageNet weights."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from inference_lib.support.errors import CourseError, first_line
from inference_lib.support.files import make_writable
from inference_lib.support.hashes import sha256_of
from inference_lib.zoo import image_folder
from inference_lib.zoo.backbones import TORCHVISION, backbone, classifier, imagenet_state
from inference_lib.zoo.image_folder import IMAGENET_MEAN, IMAGENET_STD, Pictures, Preprocessing
from inference_lib.zoo.networks import ARCHITECTURES, IMAGE_SHAPE
from inference_lib.zoo.trained import Trained, read_facts, save_trained
from inference_lib.zoo.training import (
    RECIPES,
    UNWRITABLE,
    Checkpoint,
    LabelledImages,
    Recipe,
    TrainingResult,
    fit,
    save_history,
    split,
    tested,
)

VALIDATION_PART = 0.15
"""Of the training pictures, set aside: the best epoch is chosen by them, never by the test set."""

EPOCHS, WEIGHT_DECAY, ERASE = 15, 5e-4, 8
"""Of a backbone that has no recipe of its own."""

STEPS = 40
"""Steps of an epoch that a batch size is chosen for, between 16 and 256 pictures."""

MEMINFO = Path("/proc/meminfo")

FINE_TUNING = 0.2
"""The learning rate where the weights know pictures already, as a part of what it is otherwise."""


def train_on(
    spec: str,
    folder: Path,
    *,
    directory: Path,
    shape: tuple[int, ...] | None = None,
    pretrained: bool = False,
    flip: bool = False,
    epochs: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    limit: int | None = None,
    skip_unreadable: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> tuple[TrainingResult, Path]:
    """Train the backbone ``spec`` on the pictures in ``folder``; return the result and the file of its weights.

    ``shape`` is that of the input, by default the backbone's usual one. ``limit`` uses so many training and test
    pictures at most, a trial whose accuracies are not kept. The weights are those of the best epoch by a part of the
    training pictures; the test pictures are looked at once, at the end. The same call goes on after the last epoch that
    was finished. Raise CourseError, before anything is trained, for a backbone that there is not, pictures that cannot
    be used, a folder that cannot be written, a file of weights that another training left there, or a number that
    trains nothing.
    """
    if (epochs is not None and epochs < 1) or (limit is not None and limit < 2):
        raise CourseError("nothing can be trained in so few epochs, or with so few pictures; choose larger numbers")
    make_writable(directory, *UNWRITABLE)
    started = time.perf_counter()
    found = image_folder.scan(folder)
    if not found.train.files:
        raise CourseError(f"{folder} has test pictures alone; put others into {folder / 'train'}")
    torch.manual_seed(seed)
    module = backbone(spec, len(found.class_names))
    figures = Preprocessing.of(_shape(spec, module, shape))
    _check_outputs(spec, module, figures, len(found.class_names))
    name = f"{folder.resolve().name}-{spec.rpartition(':')[2]}"
    path, made_from = directory / f"{name}.safetensors", _made_from(spec, folder, figures.shape)
    _check_free(path, made_from)
    if pretrained and (problem := _start_from_imagenet(spec, module)):
        say(f"{problem}; training starts from random weights")
        pretrained = False
    pictures = _load(found.train.first(limit), figures, skip_unreadable, device)
    parts = split(pictures, max(1, round(VALIDATION_PART * len(pictures))), seed)
    if len(parts[0]) < 2:
        raise CourseError(
            f"{folder} leaves {len(parts[0])} pictures to train on, and 2 are needed; add some, or allow more"
        )
    figures = _with_scale(figures, parts[0].images, pretrained)
    training, validation = (replace(part, prepare=partial(_prepare, figures)) for part in parts)
    recipe = _recipe(spec, len(training), epochs, pretrained, flip)
    choices = [spec, asdict(recipe), seed, limit, list(figures.shape), _names(found.train)]
    kept = Checkpoint(directory / f".{name}.unfinished.pt", choices)
    model, history = fit(name, module, recipe, training, validation, kept, keep_best=True, progress=progress)
    test = replace(_load(found.test.first(limit), figures, skip_unreadable, device), prepare=training.prepare)
    result = tested(name, model.cpu().eval(), recipe, history, validation, test, seed, started, limit)
    facts = Trained(
        backbone=spec,
        class_names=found.class_names,
        preprocessing=figures,
        pictures=folder.resolve().name,
        made_from=made_from,
    )
    save_trained(path, result.model, facts)
    save_history(result, directory)
    kept.path.unlink(missing_ok=True)
    return result, path


def _made_from(spec: str, folder: Path, shape: tuple[int, ...]) -> str:
    """Return a hash of what a training is of, whatever its pictures are called today."""
    place, _, name = spec.rpartition(":")
    place = str(Path(place).resolve()) if place.endswith(".py") else place
    return sha256_of(os.fsencode(part) for part in (place, name, str(folder.resolve()), image_folder.shown(shape)))


def _check_free(path: Path, made_from: str) -> None:
    """Raise CourseError where ``path`` holds another training's: names of backbones and folders may be alike."""
    try:
        taken = path.exists() and read_facts(path).made_from != made_from
    except CourseError:
        taken = True
    if taken:
        raise CourseError(
            f"{path} is there already, of another backbone, folder or input shape; choose another --output or move it"
        )


def _shape(spec: str, module: nn.Module, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the shape of the input: as asked for, or the usual one of the backbone."""
    usual = getattr(module, "input_shape", None)
    if spec in ARCHITECTURES:
        usual = IMAGE_SHAPE
    elif spec.startswith(TORCHVISION):
        from torchvision import models

        side = models.get_model_weights(classifier(spec.removeprefix(TORCHVISION))).DEFAULT.transforms().crop_size[0]
        usual = (3, side, side)
    shape = shape or usual
    if shape is None:
        raise CourseError(f"{spec} does not tell its input's shape; give --input-shape, such as 3x64x64")
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise CourseError("pictures have 1 or 3 channels, a height and a width; give --input-shape, such as 3x64x64")
    return tuple(shape)


@torch.no_grad()
def _check_outputs(spec: str, module: nn.Module, figures: Preprocessing, classes: int) -> None:
    module.eval()
    try:
        found = module(torch.zeros(2, *figures.shape))
    except (Exception, SystemExit) as error:  # the code is a reader's, or the size not one that it takes
        size = image_folder.shown(figures.shape)
        raise CourseError(f"{spec} does not run on {size}: {first_line(str(error))}; give --input-shape") from error
    if not isinstance(found, torch.Tensor) or found.shape != (2, classes):
        raise CourseError(
            f"{spec} does not return one logit for each of the {classes} classes; give its function the argument "
            "num_classes, and return as many"
        )


def _start_from_imagenet(spec: str, module: nn.Module) -> str:
    """Load ImageNet's weights into all layers but the last; return why not, where they cannot be had."""
    try:
        state = imagenet_state(spec)
    except CourseError as error:
        return str(error)
    mine = module.state_dict()
    module.load_state_dict({name: tensor for name, tensor in state.items() if tensor.shape == mine[name].shape}, False)
    return ""


def _load(pictures: Pictures, figures: Preprocessing, skip: bool, device: str) -> LabelledImages:
    """Return pictures and labels in memory, if they fit in half of what is free.

    What keeps a copy of files counts as free, as the kernel counts it: pictures that were just unpacked fill it.
    """
    needed, said = len(pictures) * np.prod(figures.shape), MEMINFO.read_text()
    free = 1024 * int(re.findall(r"^MemAvailable: +(\d+) kB$", said, re.MULTILINE)[0])
    if needed > free / 2:
        size, gib = image_folder.shown(figures.shape), 2**30
        raise CourseError(
            f"{len(pictures):,} pictures of {size} take {needed / gib:.1f} GiB of memory, and {free / gib:.1f} are "
            "free; use fewer with --limit, or smaller ones with --input-shape"
        )
    images, labels = map(torch.from_numpy, image_folder.load(pictures, figures, skip_unreadable=skip))
    return LabelledImages(images.to(device), labels.to(device))


def _with_scale(figures: Preprocessing, images: torch.Tensor, pretrained: bool) -> Preprocessing:
    """Return ``figures`` with mean and standard deviation: ImageNet's for its weights, else those of ``images``."""
    if pretrained:
        return figures.model_copy(update={"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
    std, mean = torch.std_mean(images[:1000] / 255, (0, 2, 3))  # enough to know both to a percent
    scale = {"mean": mean, "std": std.clamp(min=1 / 255)}
    return figures.model_copy(update={name: tuple(round(x, 4) for x in each.tolist()) for name, each in scale.items()})


def _prepare(figures: Preprocessing, images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Do what ``image_folder.normalize`` does."""
    from torchvision.transforms.functional import normalize

    return normalize(images / 255, figures.mean, figures.std).to(dtype)


def _recipe(spec: str, images: int, epochs: int | None, pretrained: bool, flip: bool) -> Recipe:
    """Return the recipe of the backbone for so many pictures: few of them want small batches, and smaller steps."""
    recipe = RECIPES.get(spec, Recipe(epochs=EPOCHS, weight_decay=WEIGHT_DECAY, erase=ERASE))
    batch = min(256, max(16, 2 ** round(np.log2(max(1, images / STEPS)))))
    rate = recipe.learning_rate * batch / recipe.batch_size * (FINE_TUNING if pretrained else 1)
    return replace(recipe, epochs=epochs or recipe.epochs, batch_size=batch, learning_rate=rate, flip=flip)


def _names(pictures: Pictures) -> str:
    """Return a hash of the names and classes of ``pictures``."""
    return sha256_of(
        os.fsencode(f"{file} {label}") for file, label in zip(pictures.files, pictures.labels, strict=True)
    )
