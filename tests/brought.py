"""Networks of a reader, each with one trait that exporters, or measurements, stumble over."""

import torch
from torch import nn


def grey() -> nn.Module:
    """Read 1 x 28 x 28."""
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 13 * 13, 10))


def sequence() -> nn.Module:
    """Read 4 x 64: not pictures at all."""
    return nn.Sequential(nn.Conv1d(4, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 60, 5))


def film() -> nn.Module:
    """Read 3 x 4 x 8 x 8: pictures in time."""
    return nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 2 * 6 * 6, 5))


class TwoOutputs(nn.Module):
    """A class where a function is asked for: calling it makes the network."""

    input_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits, and what they were made from."""
        flat = x.flatten(1)
        return self.body(flat), flat


class Branch(nn.Module):
    """Do one of two things, as the values of the input say."""

    input_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.bright, self.dark = nn.Linear(64, 4), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        flat = x.flatten(1)
        return self.bright(flat) if flat.mean() > 0 else self.dark(flat)


class Dropout(nn.Module):
    """Dropout, left in training mode."""

    input_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.9), nn.Linear(32, 4)).train()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.body(x)


class AlwaysRandom(Dropout):
    """Dropout that no mode turns off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.body[3](torch.dropout(self.body[1](self.body[0](x)), 0.5, train=True))


class Overflow(nn.Module):
    """Logits of some hundred thousand: more than FP16 holds."""

    input_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 4)
        nn.init.constant_(self.body.weight, 5e4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.body(x.flatten(1))


class Tied(nn.Module):
    """Two layers that share their weights, and a buffer that is no part of the state."""

    input_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)
        self.two.weight = self.one.weight
        self.register_buffer("scale", torch.linspace(0, 1, 64), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.two(self.one(x.flatten(1)) * self.scale)


class Picky(nn.Module):
    """A loop over a Python condition on the input's size, which torch.fx does not follow."""

    input_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        if x.shape[-1] != 8:
            raise ValueError("eight pixels a side")
        for _ in range(x.dim()):
            x = x * 1.5
        return self.body(x.flatten(1))


def no_network() -> dict[str, torch.Tensor]:
    """Return a state, where a network is asked for."""
    return grey().state_dict()


def unseeded() -> nn.Module:
    """Return other weights at each call, seed or not."""
    network = grey()
    generator = torch.Generator()
    generator.seed()
    nn.init.normal_(network[0].weight, generator=generator)
    return network


def broken() -> nn.Module:
    """Fail."""
    raise RuntimeError("no such checkpoint: best.pt\nand a long story")


class TwoInputs(Tied):
    """Read two pictures."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return the logits."""
        return self.two((x + y).flatten(1))


class NotANumber(Tied):
    """Weights of a training that diverged."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return super().forward(x) * torch.nan


class Unmade(nn.Sequential):
    """Layers that learn their sizes from the first input."""

    input_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.LazyLinear(4))


def on_no_device() -> nn.Module:
    """Leave the weights without values."""
    return nn.Linear(64, 4, device="meta")


def quantized() -> nn.Module:
    """Hold weights in packed integers."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    made = torch.ao.quantization.quantize_dynamic(made, {nn.Linear}, dtype=torch.qint8)
    made.input_shape = (1, 8, 8)
    return made


def ends_the_process() -> nn.Module:
    """Do what scripts do that miss something."""
    raise SystemExit("no checkpoint")


def scripted() -> nn.Module:
    """Return what TorchScript made of a network."""
    return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))


def misnamed() -> nn.Module:
    """Name two of four outputs."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    made.input_shape, made.class_names = (1, 8, 8), ("a", "b")
    return made
