"""What is exported: a module's operations, captured by ``torch.export``, and the names that a graph's ends get."""

import torch
from torch import nn

INPUT, OUTPUT = "images", "logits"


def export_program(
    model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, *, strict: bool = False
) -> torch.export.ExportedProgram:
    """Return ``model`` as a program for batches of any size; ``shape`` is that of one input, without the batch.

    The example holds two, because ``torch.export`` takes a dimension of one for a constant.
    """
    batch = torch.zeros(2, *shape, dtype=dtype)
    return torch.export.export(model, (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=strict)
