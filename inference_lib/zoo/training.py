"""How the models were trained: a recipe for each, and one loop for all.

The whole data set lives on the device as 8-bit images of 28 x 28 pixels. Each batch is augmented at that size and
enlarged on the device, so that no data loader is needed.
"""

import io
import json
import pickle
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from inference_lib.support.errors import CourseError, named
from inference_lib.support.files import make_writable, write_atomically
from inference_lib.support.progress import bar, no_bar
from inference_lib.zoo.fashion_mnist import IMAGE_SIZE, enlarge, load_fashion_mnist
from inference_lib.zoo.networks import create_model, load_pretrained, save_pretrained

VALIDATION_IMAGES = 5_000
"""Training images set aside: recipes are chosen by them, never by the test set."""

EVALUATION_BATCH = 500

UNWRITABLE = ("write weights", "make the folder writable or choose another with --output")


@dataclass(frozen=True)
class Recipe:
    """The choices behind one trained model.

    Stochastic gradient descent with Nesterov momentum, a one-cycle learning rate, label smoothing, an exponential
    moving average of the weights, and augmentation by flips, shifts and erased squares (https://arxiv.org/abs/1708.04896).
    """

    epochs: int
    weight_decay: float
    erase: int
    """Largest side in pixels (of 28) of the erased square."""
    batch_size: int = 256
    learning_rate: float = 0.1
    """The peak of the one-cycle schedule."""
    warmup: float = 0.15
    """Part of all steps before the peak."""
    momentum: float = 0.9
    label_smoothing: float = 0.1
    shift: int = 2
    """Largest shift in pixels (of 28), in both directions."""
    average_decay: float = 0.998
    """Of the moving average, per step."""
    flip: bool = True
    """Whether a mirror image is one of the same class."""


RECIPES = {
    "vanilla_cnn": Recipe(epochs=48, weight_decay=5e-4, erase=8),
    "resnet18": Recipe(epochs=24, weight_decay=5e-4, erase=12),
    "mobilenet_v2": Recipe(epochs=25, weight_decay=2e-4, erase=10),
}


@dataclass(frozen=True)
class TrainingResult:
    """A trained model (CPU, evaluation mode, weights as stored) and how it came about. Accuracies in percent."""

    name: str
    model: nn.Module
    recipe: Recipe
    history: list[dict[str, float]]
    """One entry an epoch: epoch, lr, train_loss, validation_accuracy (of the averaged weights), seconds."""
    validation_accuracy: float
    test_accuracy: float
    seconds: float
    device: str
    seed: int
    limit: int | None = None
    """The most pictures of each part that were used: of a trial, whose accuracies are no measurement."""


def as_input(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return pictures of Fashion-MNIST (uint8, N x 28 x 28) as the course's networks read them."""
    return enlarge(images, IMAGE_SIZE, dtype).expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class LabelledImages:
    """Images (uint8, N x 28 x 28, or N x channels x height x width) and labels (int64, N) on one device."""

    images: torch.Tensor
    labels: torch.Tensor
    prepare: Callable[..., torch.Tensor] = as_input
    """Return the input, of the type that is named, which some of the images become."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: torch.Tensor) -> "LabelledImages":
        """Return the chosen images."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def first(self, count: int | None) -> "LabelledImages":
        """Return the first ``count``, all where that is None."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])


def train(
    name: str,
    *,
    directory: Path,
    epochs: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    limit: int | None = None,
) -> TrainingResult:
    """Train the model called ``name`` by its recipe, and store weights and learning curve in ``directory``.

    ``epochs`` shortens the recipe. ``limit`` uses so many training, validation and test images at most. The same seed
    gives the same weights on a CPU; on a GPU some sums are made in no fixed order. Seeds PyTorch's global generators.
    Each epoch is kept in ``directory`` until the last: the same call goes on after the last one that was finished.
    Raise CourseError, before anything is trained, for an unknown model, data that cannot be had, or a folder that
    cannot be written.
    """
    recipe = named("model", name, RECIPES)
    recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
    make_writable(directory, *UNWRITABLE)
    started = time.perf_counter()
    training, validation = (part.first(limit) for part in split(_load("train", device), VALIDATION_IMAGES, seed))
    test = _load("test", device).first(limit)
    torch.manual_seed(seed)
    # FP32 means IEEE arithmetic in this course; training itself computes in BF16 on a GPU.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    kept = Checkpoint(directory / f".{name}.unfinished.pt", [asdict(recipe), seed, limit])
    averaged, history = fit(name, create_model(name), recipe, training, validation, kept)
    save_pretrained(name, averaged, directory)
    result = tested(name, load_pretrained(name, directory), recipe, history, validation, test, seed, started, limit)
    save_history(result, directory)
    kept.path.unlink(missing_ok=True)
    return result


def split(data: LabelledImages, aside: int, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Set so many images aside at random, the same for the same seed; return the others, and them."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).to(data.labels.device)
    return data.take(order[aside:]), data.take(order[:aside])


def tested(
    name: str,
    model: nn.Module,
    recipe: Recipe,
    history: list[dict[str, float]],
    validation: LabelledImages,
    test: LabelledImages,
    seed: int,
    started: float,
    limit: int | None,
) -> TrainingResult:
    """Return what the training of ``model`` (CPU, as stored) came to that ``started`` then, by time.perf_counter."""
    there = deepcopy(model).to(test.labels.device)
    return TrainingResult(
        name=name,
        model=model,
        recipe=recipe,
        history=history,
        validation_accuracy=accuracy(there, validation),
        test_accuracy=accuracy(there, test),
        seconds=time.perf_counter() - started,
        device=torch.cuda.get_device_name() if test.labels.is_cuda else "CPU",
        seed=seed,
        limit=limit,
    )


@torch.no_grad()
def accuracy(model: nn.Module, data: LabelledImages) -> float:
    """Return the percentage of ``data`` that ``model`` (FP32) classifies correctly."""
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.labels.device)
    for images, labels in zip(data.images.split(EVALUATION_BATCH), data.labels.split(EVALUATION_BATCH), strict=True):
        logits = model(data.prepare(images))
        correct += (logits.argmax(1) == labels).sum()
    return 100 * correct.item() / len(data)


def augment(images: torch.Tensor, shift: int, erase: int, flip: bool = True) -> torch.Tensor:
    """Return ``images``, each flipped or not, shifted, and with a square erased or not.

    They are uint8, N x height x width, or N x channels x height x width.
    """
    planes = images if images.dim() == 4 else images[:, None]
    count, device = len(images), images.device
    down, across = (torch.arange(size, device=device) for size in planes.shape[-2:])

    def draw(high: int) -> torch.Tensor:
        return torch.randint(high, (count, 1), device=device)

    rows = down + draw(2 * shift + 1)
    mirrored = (draw(2) == 1) & flip
    columns = torch.where(mirrored, across.flip(0), across) + draw(2 * shift + 1)
    padded = F.pad(planes, (shift,) * 4).permute(0, 2, 3, 1)
    moved = padded[torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]
    half = draw(2) * draw(erase + 1) / 2  # Half of the images keep everything.
    hidden_rows, hidden_columns = ((line - draw(len(line))).abs() < half for line in (down, across))
    hidden = hidden_rows[:, :, None] & hidden_columns[:, None, :]
    erased = torch.where(hidden[..., None], draw(256)[:, :, None, None].to(torch.uint8), moved)
    return erased.permute(0, 3, 1, 2).reshape(images.shape)


def save_history(result: TrainingResult, directory: Path) -> None:
    """Write the learning curve and its circumstances as ``directory/NAME.history.json``; of a trial, no accuracies."""
    left_out = {"model", "recipe"} | (set() if result.limit is None else {"validation_accuracy", "test_accuracy"})
    fields = {key: value for key, value in vars(result).items() if key not in left_out}
    content: dict[str, Any] = {**fields, "recipe": asdict(result.recipe), "torch": torch.__version__}
    write_atomically(directory / f"{result.name}.history.json", (json.dumps(content, indent=1) + "\n").encode())


def _load(part: str, device: str) -> LabelledImages:
    images, labels = load_fashion_mnist(part)
    return LabelledImages(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after its last finished epoch, on disk."""

    path: Path
    choices: list[Any]
    """What must be the same for a training to go on: recipe, seed, limit."""

    def save(self, parts: Mapping[str, Any], history: list[dict[str, float]], device: torch.device) -> None:
        """Keep the state of ``parts``, the learning curve and the random generators, in place of the epoch before."""
        random = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if device.type == "cuda" else [])]
        states = {name: part.state_dict() for name, part in parts.items()}
        content = io.BytesIO()
        torch.save({"made_by": [*self.choices, device.type], "random": random, "history": history, **states}, content)
        write_atomically(self.path, content.getvalue())

    def load(self, parts: Mapping[str, Any], device: torch.device) -> list[dict[str, float]]:
        """Set ``parts`` and the generators to what was kept of this very training; return its learning curve so far."""
        if not self.path.exists():
            return []
        try:
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise CourseError(f"{self.path} is damaged; delete it, then train again") from error
        if kept["made_by"] != [*self.choices, device.type] or _shapes(kept["model"]) != _shapes(
            parts["model"].state_dict()
        ):
            return []  # another training, or its network was changed since
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        torch.set_rng_state(kept["random"][0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(kept["random"][1])
        return kept["history"]


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def fit(
    name: str,
    model: nn.Module,
    recipe: Recipe,
    training: LabelledImages,
    validation: LabelledImages,
    kept: Checkpoint,
    *,
    keep_best: bool = False,
    progress: bool = True,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train ``model``, from the epoch on that was ``kept``; return it with averaged weights, and the learning curve.

    With ``keep_best`` the weights are those of the best epoch by the validation images, else those of the last.
    """
    device = training.labels.device
    model = model.to(device)
    if device.type == "cuda":
        # Tensor cores want channels last.
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = deepcopy(model).requires_grad_(False)
    average, latest = _floats(averaged), _floats(model)
    batch_size = min(recipe.batch_size, len(training))
    steps = len(training) // batch_size
    optimizer = _optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=steps * recipe.epochs + 1,
        pct_start=recipe.warmup,
        cycle_momentum=False,
    )
    parts: dict[str, Any] = {"model": model, "averaged": averaged, "optimizer": optimizer, "schedule": schedule}
    parts |= {"best": deepcopy(averaged)} if keep_best else {}
    history = kept.load(parts, device)
    total_steps, done_steps = steps * recipe.epochs, steps * len(history)
    with bar(total_steps, name, done_steps) if progress else no_bar() as shown:
        for epoch in range(len(history) + 1, recipe.epochs + 1):
            started, rate = time.perf_counter(), float(schedule.get_last_lr()[0])
            total = torch.zeros((), device=device)
            order = torch.randperm(len(training), device=device)
            model.train()
            for step in range(steps):
                batch = training.take(order[step * batch_size : (step + 1) * batch_size])
                total += _step(model, optimizer, batch, recipe)
                schedule.step()
                done = (epoch - 1) * steps + step + 1
                # A short average first: the first weights are random. Both lists hold the same tensors all along.
                torch._foreach_lerp_(average, latest, 1 - min(recipe.average_decay, done / (done + 10)))
                shown.update()
            entry = {
                "epoch": epoch,
                "lr": float(rate),
                "train_loss": float(total) / steps,
                "validation_accuracy": accuracy(averaged, validation),
                "seconds": time.perf_counter() - started,
            }
            if keep_best and all(entry["validation_accuracy"] > before["validation_accuracy"] for before in history):
                parts["best"].load_state_dict(averaged.state_dict())
            history.append(entry)
            kept.save(parts, history, device)
            shown.set_postfix(epoch=epoch, validation=f"{entry['validation_accuracy']:.2f} %")
    return parts["best" if keep_best else "averaged"], history


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimizer; biases and normalization do not decay, since they cannot overfit much."""
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: LabelledImages, recipe: Recipe) -> torch.Tensor:
    """Take one step of the optimizer, and return the loss without waiting for it."""
    device = batch.labels.device.type
    scale = max(batch.images.shape[-2:]) / 28  # what the recipe's pixels are of
    images = augment(batch.images, round(recipe.shift * scale), round(recipe.erase * scale), recipe.flip)
    inputs = batch.prepare(images, torch.bfloat16 if device == "cuda" else torch.float32)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        answer = model(inputs.contiguous(memory_format=torch.channels_last))
    logits = getattr(answer, "logits", answer)  # some of torchvision's answer with auxiliary logits, too, in training
    loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=recipe.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _floats(model: nn.Module) -> list[torch.Tensor]:
    """Return the tensors of ``model`` that an average takes in: parameters and normalization statistics."""
    tensors = [*model.parameters(), *model.buffers()]
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
