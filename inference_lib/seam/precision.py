"""Precisions: one table, from which every other file reads names, types and tolerances."""

from dataclasses import dataclass

import numpy as np
import torch

from inference_lib.support.errors import named


@dataclass(frozen=True)
class Precision:
    """The arithmetic of a model's convolutions and matrix products, and what follows from it."""

    name: str
    """The key in records and on the command line."""
    title: str
    """What a reader sees."""
    dtype: torch.dtype
    """Of the stored weights; activations have it too unless ``activations`` says otherwise."""
    products: str
    """What is multiplied, in words."""
    host: str
    """Dtype of the host arrays that enter a runner, by NumPy's name."""
    tolerance: float
    """Largest logit difference, relative to the largest logit of the FP32 model, that rounding explains."""
    agreement_percent: float = 99.5
    """Share of images whose predicted class must be the FP32 model's: rounding moves only near-ties."""
    cpu: str = ""
    """Why no CPU backend has it unless it says otherwise; empty where every CPU computes in it."""
    calibrated: bool = False
    """Whether an export needs pictures to choose its scales."""

    @property
    def bits(self) -> int:
        """Bits of a stored weight."""
        return self.dtype.itemsize * 8

    def host_dtype(self, device: str) -> np.dtype:
        """Dtype of the host arrays that enter a runner on a kind of device: ``cpu`` or ``cuda``.

        A GPU reads no more bits than a calibrated row needs: what crosses the bus costs time.
        """
        return np.dtype("float16" if self.calibrated and device == "cuda" else self.host)

    @property
    def storage(self) -> str:
        """Name of the first precision with these weights: TF32 is a way to multiply, its weights are ``fp32``."""
        return next(name for name, other in PRECISIONS.items() if other.dtype == self.dtype)

    @property
    def rounds_products(self) -> bool:
        """Whether products read their factors with fewer bits than are stored: TF32 does."""
        return self.storage != self.name

    def __str__(self) -> str:
        return self.name


PRECISIONS: dict[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("fp32", "FP32", torch.float32, "IEEE single precision", "float32", 1e-3),
        Precision(
            "tf32",
            "TF32",
            torch.float32,
            "TensorFloat-32: 10 bits of mantissa, sums in FP32",
            "float32",
            1e-2,
            cpu="TF32 is an arithmetic of NVIDIA GPUs",
        ),
        Precision(
            "fp16",
            "FP16",
            torch.float16,
            "IEEE half precision",
            "float16",
            2e-2,
            cpu="most CPUs emulate FP16; the course measures it on GPUs",
        ),
        Precision(
            "bf16",
            "BF16",
            torch.bfloat16,
            "bfloat16: FP32's range, 7 bits of mantissa",
            "float32",
            1e-1,
            cpu="the course measures BF16 on CPUs with OpenVINO alone",
        ),
        Precision("int8", "INT8", torch.int8, "8-bit integers, sums in 32 bits", "float32", 0.3, 98.0, calibrated=True),
        Precision(
            "fp8",
            "FP8",
            torch.float8_e4m3fn,
            "8-bit floating point: 3 bits of mantissa, sums in FP32",
            "float32",
            0.3,
            98.0,
            cpu="no CPU of the course multiplies in FP8",
            calibrated=True,
        ),
    )
}


def find_precision(name: "str | Precision") -> Precision:
    """Return the precision called ``name``; CourseError names the valid ones."""
    return name if isinstance(name, Precision) else named("precision", name, PRECISIONS)
