"""A stand-in for the GPU: kernels.cu compiled as C++ for the host, and cuDNN's plans as PyTorch's convolutions."""

import ctypes
import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from inference_lib.backends.cudnn import compiler
from inference_lib.backends.cudnn.arithmetic import Stored
from inference_lib.backends.cudnn.compiler import Spec
from inference_lib.backends.cudnn.kernels import SOURCE, Scalar
from inference_lib.backends.cudnn.plans import DTYPES, Timed, reference

CONVERSIONS = {
    "cvt.f32.f16": "found = from_half(x.bits);",
    "cvt.rn.f16x2.e4m3x2": "two = to_half(eights[x.bits]);",
    "cvt.rni.sat.s8.f32": "rounded = (int)std::nearbyint(min(max(x, -128.0f), 127.0f));",
    "cvt.rn.f16.f32": "to.bits = to_half(x);",
    "cvt.rn.satfinite.e4m3x2.f32": "two = to_eight(x);",
}
"""What each instruction of a GPU's is on the host."""

HOST = """
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#define __device__ static inline
#define __global__ static
using std::max, std::min;
struct Place { unsigned x; };
static Place blockIdx, blockDim, threadIdx;
static float eights[256];  // what each FP8 number is worth

static float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }
static float from_half(unsigned short bits) { _Float16 x; memcpy(&x, &bits, 2); return x; }
static unsigned short to_half(float x) { _Float16 half = x; unsigned short bits; memcpy(&bits, &half, 2); return bits; }
static unsigned char to_eight(float x) {  // the nearest, of two as near the even one
  int best = std::signbit(x) ? 128 : 0;
  for (int b = best; b < best + 127; ++b) {
    float now = std::fabs(eights[b] - x), before = std::fabs(eights[best] - x);
    if (now < before || (now == before && b % 2 == 0)) best = b;
    else if (now > before) break;
  }
  return best;
}

template <typename... A, size_t... I>
static void all(void (*kernel)(A...), void **arguments, long long count, std::index_sequence<I...>) {
  blockDim.x = 1 << 20;
  for (long long t = 0; t < count; ++t) {
    blockIdx.x = t >> 20, threadIdx.x = t & ((1 << 20) - 1);
    kernel(*(A *)arguments[I]...);
  }
}
template <typename... A> static void launch(void (*kernel)(A...), void **arguments, long long count) {
  all(kernel, arguments, count, std::index_sequence_for<A...>());
}
extern "C" void give_eights(const float *table) { memcpy(eights, table, sizeof eights); }
"""


def host_source(names: list[str]) -> str:
    """Return kernels.cu as C++, with a function ``run<number>`` for each of ``names`` that does all of its threads."""
    source = SOURCE.read_text()
    for instruction, instead in CONVERSIONS.items():
        source, count = re.subn(rf'asm\("{re.escape(instruction)} [^;]*;"[^;]*;', instead, source)
        assert count == 1, instruction
    runs = [
        f'extern "C" void run{number}(void **arguments, long long count) {{ launch({name}, arguments, count); }}'
        for number, name in enumerate(names)
    ]
    return "\n".join([HOST, source.replace("#pragma unroll", ""), *runs])


class HostKernels:
    """Stands in for ``Kernels``: its machine code is a library of the host's, its names are ``run0`` and so on."""

    def __init__(self, content: bytes, called: dict[str, str]) -> None:
        self._library = ctypes.CDLL(content.decode())
        self._called = called
        table = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().contiguous()
        self._library.give_eights(ctypes.c_void_p(table.data_ptr()))

    def queue(self, name: str, tensors: list[torch.Tensor], scalars: list[Scalar]) -> None:
        assert all(tensor.is_contiguous() for tensor in tensors)
        kinds = [ctypes.c_uint, *(ctypes.c_float if isinstance(s, float) else ctypes.c_int for s in scalars[1:])]
        values = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        values += [kind(scalar) for kind, scalar in zip(kinds, scalars, strict=True)]  # type: ignore[misc, arg-type]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        getattr(self._library, self._called[name])(addresses, ctypes.c_longlong(int(scalars[0])))


def compile_on_host(folder: Path, names: Iterable[str], architecture: str) -> tuple[bytes, dict[str, str]]:
    """Stand in for ``compile_kernels``: the machine code is the path of a library in ``folder``."""
    names = list(dict.fromkeys(names))
    source = folder / f"kernels{len(list(folder.iterdir()))}.cpp"  # a library that is loaded must not be overwritten
    library = source.with_suffix(".so")
    source.write_text(host_source(names))
    options = ["-w", "-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
    command = ["g++", *options, str(source), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return str(library).encode(), {name: f"run{number}" for number, name in enumerate(names)}


class HostPlan:
    """Stands in for ``Plan``: its content is the specification."""

    def __init__(self, content: bytes) -> None:
        self._spec = Spec.of(json.loads(content))

    def queue(self, tensors: dict[int, torch.Tensor]) -> None:
        """Compute what graph_of describes, on memory laid out as it says."""
        spec, result = self._spec, tensors[compiler.RESULT]
        for number, dtype in ((compiler.PICTURE, spec.reads), (compiler.FILTERS, spec.reads), (compiler.BIAS, "FLOAT")):
            assert tensors[number].dtype == DTYPES[dtype]
        exact = Stored(result.dtype).of(reference(spec, tensors, spec.batch))
        result.copy_(exact.reshape(result.shape).to(result.dtype))


def timed_on_host(specs: Iterable[Spec], channels: int) -> dict[Spec, Timed]:
    """Stand in for ``fastest_plans``: a convolution is the faster, the nearer its pixels come to ``channels``."""
    return {
        spec: Timed(json.dumps(asdict(spec)).encode(), (7, 0), 1.0 + abs(spec.channels - channels), 9.0, 2, 2)
        for spec in specs
    }
