"""What the CUDA backends share: whether a GPU works, the TF32 policy, and what CUDA answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from inference_lib.backends.shared.cpu import precision_support
from inference_lib.seam import DEVICE_KINDS, Availability, Precision, Support, Workload, find_precision
from inference_lib.support.errors import CourseError, unknown_name

NO_GPU = Availability(
    usable=False, reason="no NVIDIA GPU answers", remedy="run on a machine with an NVIDIA GPU and a driver for CUDA 13"
)


def graph_support(workload: Workload) -> Support:
    """Say whether ``workload`` can be captured in a CUDA graph."""
    if not workload.on_gpu:
        return Support(ok=False, reason="CUDA graphs exist on NVIDIA GPUs only")
    return precision_support(workload)


def gpu_works() -> bool:
    """Whether PyTorch finds a CUDA device, without starting CUDA in this process when it does not."""
    return torch.cuda.is_available()


def gpu_identity() -> str:
    """Return name and compute capability of this process's current GPU, which machine code is made for."""
    if not gpu_works():
        return "none"
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"{found.name}, compute capability {found.major}.{found.minor}"


def gpu_architecture() -> str:
    """Return the architecture of this process's current GPU, such as ``sm_90``."""
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def multiplies_fp8() -> bool:
    """Whether this process's current GPU has tensor cores for FP8: from Ada and Hopper on."""
    return torch.cuda.get_device_capability() >= (8, 9)


def set_float32_products(precision: str | Precision) -> None:
    """Let PyTorch multiply FP32 tensors in IEEE arithmetic, or in TF32 where ``precision`` is that.

    PyTorch's default differs by operation (TF32 for convolutions, IEEE for matrix products), so both are set. The
    newer ``fp32_precision`` settings say the same, but ``torch.export`` still reads these and refuses a mix.
    See https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices.
    """
    tf32 = find_precision(precision).rounds_products
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32


@contextmanager
def float32_products(precision: str | Precision) -> Iterator[None]:
    """Set the arithmetic of FP32 products (see set_float32_products) for a while."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    set_float32_products(precision)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def resolve_device(device: str) -> str:
    """Return ``cpu`` or ``cuda``: ``auto`` takes the GPU if one works."""
    if device == "auto":
        return "cuda" if gpu_works() else "cpu"
    if device not in DEVICE_KINDS:
        raise unknown_name("device", device, ("auto", *DEVICE_KINDS))
    if device == "cuda" and not gpu_works():
        raise CourseError("no NVIDIA GPU answers; use --device cpu, or install a driver for CUDA 13")
    return device


def checked(answer: tuple[Any, ...]) -> Any:
    """Return what a function of CUDA's returned beside its status: nothing, a value, or several.

    Raises:
        RuntimeError: the status is not success; it is named.

    """
    status, *values = answer
    if status:
        raise RuntimeError(f"CUDA answered {status.name}")
    return values if len(values) > 1 else next(iter(values), None)
