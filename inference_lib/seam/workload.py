"""What is asked for: one cell of the tables."""

from dataclasses import dataclass

import numpy as np
import torch

from inference_lib.seam.calibration import CALIBRATION, Calibration
from inference_lib.seam.model import Model, find_model
from inference_lib.seam.precision import Precision, find_precision
from inference_lib.support.errors import CourseError, unknown_name

DEVICE_KINDS = ("cpu", "cuda")


@dataclass(frozen=True, order=True)
class Device:
    """Where a model runs: its kind, and which one of that kind, as this process sees them."""

    kind: str
    index: int = 0

    @classmethod
    def of(cls, text: "str | Device") -> "Device":
        """Return the device called ``cpu``, ``cuda`` or ``cuda:1``; CourseError names these for another."""
        if isinstance(text, Device):
            return text
        kind, _, index = text.partition(":")
        if kind not in DEVICE_KINDS or not (index.isdecimal() or text == kind):
            raise unknown_name("device", text, (*DEVICE_KINDS, "cuda:1"))
        return cls(kind, int(index or 0))

    @property
    def torch(self) -> torch.device:
        """The same device in PyTorch's words."""
        return torch.device("cpu") if self.kind == "cpu" else torch.device(self.kind, self.index)

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.index else self.kind


CPU = Device("cpu")


@dataclass(frozen=True, init=False)
class Workload:
    """One model, batch size, precision and device."""

    model: Model
    batch_size: int
    precision: Precision
    device: Device
    calibration: Calibration
    """Read where the precision is a calibrated one."""

    def __init__(
        self,
        model: str | Model,
        batch_size: int,
        precision: str | Precision = "fp32",
        device: str | Device = "cpu",
        calibration: Calibration = CALIBRATION,
    ) -> None:
        """Take values or their names; raise CourseError for a name or a number that cannot be measured."""
        if batch_size < 1:
            raise CourseError(f"batch size {batch_size} is not a positive number; choose 1 or more")
        object.__setattr__(self, "model", find_model(model))
        object.__setattr__(self, "batch_size", batch_size)
        object.__setattr__(self, "precision", find_precision(precision))
        object.__setattr__(self, "device", Device.of(device))
        object.__setattr__(self, "calibration", calibration)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one batch: N x channels x height x width."""
        return (self.batch_size, *self.model.input_shape)

    @property
    def output_shape(self) -> tuple[int, int]:
        """Shape of the logits of one batch."""
        return (self.batch_size, self.model.outputs)

    @property
    def host_dtype(self) -> np.dtype:
        """Dtype of the host arrays that enter a runner."""
        return self.precision.host_dtype(self.device.kind)

    @property
    def torch_dtype(self) -> torch.dtype:
        """Dtype of the weights and activations in PyTorch."""
        return self.precision.dtype

    @property
    def on_gpu(self) -> bool:
        """Whether an NVIDIA GPU does the work."""
        return self.device.kind == "cuda"

    def __str__(self) -> str:
        return f"{self.model} {self.precision} batch {self.batch_size} on {self.device}"
