"""What frameworks call the types of stored weights, in the course's words."""

from collections.abc import Iterable

import torch

from inference_lib.seam.precision import PRECISIONS
from inference_lib.support.errors import CourseError

SPELLINGS = {
    torch.float32: {"f32", "float"},
    torch.float16: {"f16", "half"},
    torch.bfloat16: {"bf16"},
    torch.int8: {"i8"},
    torch.float8_e4m3fn: {"f8e4m3", "f8_e4m3", "float8e4m3fn"},
}
"""What frameworks call a type beside PyTorch's own name, in lower case."""


def dtype_named(name: str) -> torch.dtype:
    """Return PyTorch's type for its name elsewhere (``torch.float16``, ``F16``, ``HALF``); CourseError for others."""
    short = name.lower().removeprefix("torch.")
    for dtype, spellings in SPELLINGS.items():
        if short in spellings or str(dtype) == f"torch.{short}":
            return dtype
    raise CourseError(f"the type {name!r} is unknown to the course")


def precision_of(dtypes: Iterable[str]) -> str:
    """Return the course's name for the types of stored weights (``F16``: ``fp16``); several are joined with a plus."""
    names = {precision.dtype: precision.storage for precision in PRECISIONS.values()}
    found = {dtype_named(name) for name in dtypes}
    return "+".join(sorted(names.get(dtype, str(dtype).removeprefix("torch.")) for dtype in found))
