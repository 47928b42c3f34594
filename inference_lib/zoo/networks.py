"""The three networks of the course, and their trained weights.

Every model takes N x 3 x 224 x 224 floats (see ``fashion_mnist.preprocess``) and returns N x 10 logits.
"""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import StringConstraints, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize_tensors
from torch import nn

from inference_lib.support.errors import CourseError, named
from inference_lib.support.files import write_atomically

NUM_CLASSES = 10
IMAGE_SHAPE = (3, 224, 224)
"""Channels, height, width of one input picture."""

TITLES = {"vanilla_cnn": "Vanilla CNN", "resnet18": "ResNet-18", "mobilenet_v2": "MobileNetV2"}
"""What a reader sees, smallest network first."""

PRETRAINED = Path(__file__).resolve().parent / "pretrained"
"""The trained weights that come with the course (safetensors), their checksums and their learning curves."""

CHECKSUMS = "checksums.json"

Checksums = TypeAdapter(dict[str, Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]])


class VanillaCNN(nn.Module):
    """Three convolutions and two linear layers: the smallest network here, about 0.9 million weights.

    Its first convolution is AlexNet's (11 x 11, stride 4). It shrinks 224 x 224 to 56 x 56 at once, so that what
    follows is cheap and a batch of one needs few kernels. The head fits an input of 224 x 224, and no other.
    """

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, 32, kernel_size=11, stride=4),
            *_block(32, 64, kernel_size=3),
            *_block(64, 128, kernel_size=3),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(128 * 7 * 7, 128),
            nn.ReLU(),
            nn.Linear(128, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (N x 10) of ``x`` (N x 3 x 224 x 224)."""
        return self.head(self.features(x))


def _block(channels_in: int, channels_out: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    """Convolve, normalize, rectify, and halve height and width."""
    # The normalization subtracts the mean, and with it any bias of the convolution.
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d(2)]


def _torchvision(name: str, num_classes: int = NUM_CLASSES) -> nn.Module:
    from torchvision import models  # takes a second, and most commands create no network

    return models.get_model(name, weights=None, num_classes=num_classes)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "vanilla_cnn": VanillaCNN,
    "resnet18": partial(_torchvision, "resnet18"),
    "mobilenet_v2": partial(_torchvision, "mobilenet_v2"),
}


def create_model(name: str, num_classes: int = NUM_CLASSES) -> nn.Module:
    """Return the model called ``name`` with random weights, in training mode; CourseError for an unknown name."""
    return named("model", name, ARCHITECTURES)(num_classes)


def load_pretrained(name: str, directory: Path = PRETRAINED) -> nn.Module:
    """Return the trained model called ``name``: evaluation mode, FP32 parameters without gradients, on the CPU.

    Raise CourseError for an unknown name, and for weights that are missing or are not those of the checksum.
    """
    expected = weights_sha256(name, directory)
    path = _weights_path(name, directory)
    if not path.is_file():
        raise CourseError(f"{path}: the weights of {name} are missing; {_remedy(name, directory)}")
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise CourseError(
            f"{path}: SHA-256 is {actual[:12]}..., expected {expected[:12]}...; {_remedy(name, directory)}"
        )
    try:
        with torch.device("meta"):  # No memory and no random numbers for weights that are replaced at once.
            model = create_model(name)
        tensors = parse_tensors(content).items()
        upcast = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors}
        model.load_state_dict(upcast, assign=True)
    except (SafetensorError, RuntimeError) as error:  # the checksum of something else is that of this file
        raise CourseError(f"{path}: not the weights of {name}; {_remedy(name, directory)}") from error
    return model.requires_grad_(False).eval()


def weights_sha256(name: str, directory: Path = PRETRAINED) -> str:
    """Return the SHA-256 (64 hexadecimal digits) that the weights file of ``name`` should have.

    Raise CourseError for an unknown name, and where ``directory`` records no checksum for it.
    """
    named("model", name, ARCHITECTURES)
    checksum = _read_checksums(directory).get(_weights_path(name, directory).name)
    if checksum is None:
        raise CourseError(f"{directory / CHECKSUMS}: no checksum for {name}; {_remedy(name, directory)}")
    return checksum


def save_pretrained(name: str, model: nn.Module, directory: Path = PRETRAINED) -> Path:
    """Store the weights of ``model`` as ``directory/name.safetensors``, update the checksums, and return the path."""
    content = serialize_tensors(_stored(model))
    path = _weights_path(name, directory)
    write_atomically(path, content)
    checksums = {**_read_checksums(directory), path.name: hashlib.sha256(content).hexdigest()}
    write_atomically(directory / CHECKSUMS, (json.dumps(checksums, indent=2, sort_keys=True) + "\n").encode())
    return path


def _stored(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of ``model`` as it is stored: weights of convolutions and linear layers FP16, all else as it is.

    One-dimensional tensors stay FP32: they take no room, and a running variance may lie outside FP16's range
    (6e-8 to 65504), where rounding would make it zero or infinite.
    """

    def stored(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor.clone()
        return tensor.to(torch.float16 if tensor.dim() > 1 else torch.float32).contiguous()

    return {key: stored(tensor.detach().cpu()) for key, tensor in model.state_dict().items()}


def _weights_path(name: str, directory: Path) -> Path:
    return directory / f"{name}.safetensors"


def _read_checksums(directory: Path) -> dict[str, str]:
    path = directory / CHECKSUMS
    if not path.is_file():
        return {}
    try:
        return Checksums.validate_json(path.read_bytes())
    except ValidationError as error:
        said = f"not valid JSON of checksums ({error.errors()[0]['msg']})"
        raise CourseError(f"{path}: {said}; restore it with: git checkout -- {path}") from error


def _remedy(name: str, directory: Path) -> str:
    path = _weights_path(name, directory)
    return (
        f"restore it with: git checkout -- {path} {directory / CHECKSUMS}; "
        f"or train again with: python -m inference_lib train {name} --output {directory}"
    )
