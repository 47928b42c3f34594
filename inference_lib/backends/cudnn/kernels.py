"""The kernels of kernels.cu: compiled by NVRTC at export, loaded and launched through CUDA's driver."""

import ctypes
from collections.abc import Iterable
from pathlib import Path

import torch

from inference_lib.backends.shared.cuda import checked
from inference_lib.support.errors import CourseError, first_line

SOURCE = Path(__file__).with_name("kernels.cu")
TYPES = {torch.int8: "Int8", torch.float8_e4m3fn: "Float8", torch.float16: "Float16", torch.float32: "Float32"}
"""What kernels.cu calls the types of tensors."""

THREADS = 256
"""In a block."""

Scalar = int | float


def compile_kernels(names: Iterable[str], architecture: str) -> tuple[bytes, dict[str, str]]:
    """Return machine code for ``architecture`` (``sm_90``), and what it calls each of the kernels in ``names``.

    A name holds the template's arguments: ``mean<Int8, Float16>``.

    Raises:
        CourseError: the compiler refuses them.

    """
    from cuda.bindings import nvrtc

    names = list(dict.fromkeys(names))
    program = checked(nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), SOURCE.name.encode(), 0, [], []))
    for name in names:
        checked(nvrtc.nvrtcAddNameExpression(program, name.encode()))
    options = [f"--gpu-architecture={architecture}".encode()]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytearray(checked(nvrtc.nvrtcGetProgramLogSize(program)))
        checked(nvrtc.nvrtcGetProgramLog(program, log))
        raise CourseError(f"{SOURCE.name} cannot be compiled for {architecture}: {first_line(log.decode())}")
    content = bytearray(checked(nvrtc.nvrtcGetCUBINSize(program)))
    checked(nvrtc.nvrtcGetCUBIN(program, content))
    called = {name: checked(nvrtc.nvrtcGetLoweredName(program, name.encode())).decode() for name in names}
    checked(nvrtc.nvrtcDestroyProgram(program))
    return bytes(content), called


class Kernels:
    """Compiled kernels on this process's current GPU."""

    def __init__(self, content: bytes, called: dict[str, str]) -> None:
        from cuda.bindings import driver

        self._driver = driver
        torch.cuda.current_stream()  # PyTorch makes its context the current one
        self._module = checked(driver.cuModuleLoadData(content))
        self._functions = {
            name: checked(driver.cuModuleGetFunction(self._module, theirs.encode())) for name, theirs in called.items()
        }

    def queue(self, name: str, tensors: list[torch.Tensor], scalars: list[Scalar]) -> None:
        """Queue a kernel on PyTorch's current stream; its arguments are ``tensors``, then ``scalars``.

        The first scalar is how many threads there are.
        """
        kinds = [ctypes.c_uint, *(ctypes.c_float if isinstance(s, float) else ctypes.c_int for s in scalars[1:])]
        values = (*(tensor.data_ptr() for tensor in tensors), *scalars)
        types = (*(ctypes.c_void_p for _ in tensors), *kinds)
        blocks, stream = -(-int(scalars[0]) // THREADS), torch.cuda.current_stream().cuda_stream
        launch = (blocks, 1, 1, THREADS, 1, 1, 0, stream, (values, types), 0)
        checked(self._driver.cuLaunchKernel(self._functions[name], *launch))
