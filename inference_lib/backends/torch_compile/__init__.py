"""torch.compile and AOTInductor: PyTorch's own compiler, Inductor, at run time and ahead of time."""

# ruff: noqa: F401 (the names are for others)

from inference_lib.backends.torch_compile.backend import AotInductor, TorchCompile, compiled, example
from inference_lib.backends.torch_compile.inductor import (
    believing_the_processor,
    compiling,
    cuda_home,
    quiet,
    quoting_paths,
)
from inference_lib.backends.torch_compile.preparation import RECIPES, Recipe, pad_channels, prepare, space_to_depth
