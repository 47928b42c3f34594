"""Training on a reader's own pictures: any backbone, from random or from ImageNet weights."""

import re
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
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
from inference_lib.zoo.trained import Trained, save_trained
from inference_lib.zoo.training import (
    RECIPES,
    UNWRITABLE,
    Checkpoint,
    LabelledImages,
    Recipe,
    TrainingResult,
    accuracy,
    fit,
    save_history,
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
    pictures at most. The weights are those of the best epoch by a part of the training pictures; the test pictures are
    looked at once, at the end. The same call goes on after the last epoch that was finished. Raise CourseError, before
    anything is trained, for a backbone that there is not, pictures that cannot be used, a folder that cannot be
    written, or a number that trains nothing.
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
    names = ("channels", "height", "width")
    figures = Preprocessing.model_validate(dict(zip(names, _shape(spec, module, shape), strict=True)))
    _check_outputs(spec, module, figures, len(found.class_names))
    if pretrained and (problem := _start_from_imagenet(spec, module)):
        say(f"{problem}; training starts from random weights")
        pretrained = False
    images, labels = _load(found.train.first(limit), figures, skip_unreadable)
    order = np.random.default_rng(seed).permutation(len(labels))
    aside = max(1, round(VALIDATION_PART * len(labels)))
    figures = _with_scale(figures, images[order[aside:]], pretrained)
    prepare = _preparer(figures, device)
    validation, training = (
        LabelledImages(torch.from_numpy(images[part]).to(device), torch.from_numpy(labels[part]).to(device), prepare)
        for part in (order[:aside], order[aside:])
    )
    recipe = _recipe(spec, len(training), epochs, pretrained, flip)
    name = f"{folder.resolve().name}-{spec.rpartition(':')[2]}"
    choices = [spec, asdict(recipe), seed, limit, list(figures.shape), _names(found.train)]
    kept = Checkpoint(directory / f".{name}.unfinished.pt", choices)
    model, history = fit(name, module, recipe, training, validation, progress, kept, keep_best=True)
    test_images, test_labels = _load(found.test.first(limit), figures, skip_unreadable)
    test = LabelledImages(torch.from_numpy(test_images).to(device), torch.from_numpy(test_labels).to(device), prepare)
    result = TrainingResult(
        name=name,
        model=deepcopy(model).cpu().eval(),
        recipe=recipe,
        history=history,
        validation_accuracy=accuracy(model, validation),
        test_accuracy=accuracy(model, test),
        seconds=time.perf_counter() - started,
        device=torch.cuda.get_device_name() if device == "cuda" else "CPU",
        seed=seed,
    )
    path = directory / f"{name}.safetensors"
    facts = Trained(backbone=spec, class_names=found.class_names, preprocessing=figures, pictures=folder.resolve().name)
    save_trained(path, result.model, facts)
    save_history(result, directory)
    kept.path.unlink(missing_ok=True)
    return result, path


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
    except Exception as error:  # the code is a reader's, or the size not one that it takes
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


def _load(pictures: Pictures, figures: Preprocessing, skip: bool) -> tuple[np.ndarray, np.ndarray]:
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
    return image_folder.load(pictures, figures, skip_unreadable=skip)


def _with_scale(figures: Preprocessing, images: np.ndarray, pretrained: bool) -> Preprocessing:
    """Return ``figures`` with mean and standard deviation: ImageNet's for its weights, else those of ``images``."""
    if pretrained:
        return figures.model_copy(update={"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
    sample = images[:1000] / 255  # enough to know both to a percent
    mean, std = sample.mean(axis=(0, 2, 3)), np.maximum(sample.std(axis=(0, 2, 3)), 1 / 255)
    rounded = {"mean": mean, "std": std}
    return figures.model_copy(update={k: tuple(round(float(x), 4) for x in v) for k, v in rounded.items()})


def _preparer(figures: Preprocessing, device: str) -> Callable[..., torch.Tensor]:
    """Return ``image_folder.normalize`` for tensors on ``device``."""
    mean, std = (torch.tensor(value, device=device).reshape(-1, 1, 1) for value in (figures.mean, figures.std))

    def prepare(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return ((images.float() / 255 - mean) / std).to(dtype)

    return prepare


def _recipe(spec: str, images: int, epochs: int | None, pretrained: bool, flip: bool) -> Recipe:
    """Return the recipe of the backbone for so many pictures: few of them want small batches, and smaller steps."""
    recipe = RECIPES.get(spec, Recipe(epochs=EPOCHS, weight_decay=WEIGHT_DECAY, erase=ERASE))
    batch = min(256, max(16, 2 ** round(np.log2(max(1, images / STEPS)))))
    rate = recipe.learning_rate * batch / recipe.batch_size * (FINE_TUNING if pretrained else 1)
    return replace(recipe, epochs=epochs or recipe.epochs, batch_size=batch, learning_rate=rate, flip=flip)


def _names(pictures: Pictures) -> str:
    """Return a hash of the names and classes of ``pictures``."""
    return sha256_of(f"{file} {label}".encode() for file, label in zip(pictures.files, pictures.labels, strict=True))
