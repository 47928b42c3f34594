"""A stand-in for the GPU: kernels.cu compiled as C++ for the host, and cuDNN's plans as PyTorch's convolutions."""

import ctypes
import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.nn import functional

from inference_lib.backends.cudnn import compiler
from inference_lib.backends.cudnn.arithmetic import Stored
from inference_lib.backends.cudnn.compiler import Spec
from inference_lib.backends.cudnn.kernels import SOURCE, Scalar
from inference_lib.backends.cudnn.plans import DTYPES, Timed

CONVERSIONS = {
    "cvt.f32.f16": "found = half_to_float(x.bits);",
    "cvt.rn.f16x2.e4m3x2": "two = eight_to_half(x.bits);",
    "cvt.rni.sat.s8.f32": "rounded = x < -128 ? -128 : x > 127 ? 127 : (int)std::nearbyint(x);",
    "cvt.rn.f16.f32": "to.bits = float_to_half(x);",
    "cvt.rn.satfinite.e4m3x2.f32": "two = float_to_eight(x);",
}
"""What each instruction of a GPU's is on the host; the functions look up or search tables that PyTorch made."""

HOST = """
#include <algorithm>
#include <cmath>
#include <cstring>
#define __device__ static inline
#define __global__ static
struct Place { unsigned x; };
static thread_local Place blockIdx, blockDim, threadIdx;
using std::max; using std::min;
static unsigned short half_to_float_input;
static float half_to_float(unsigned short bits) { _Float16 x; memcpy(&x, &bits, 2); return x; }
static unsigned short float_to_half(float x) { _Float16 h = x; unsigned short b; memcpy(&b, &h, 2); return b; }
static float eights[256];
static unsigned short eight_to_half(unsigned char bits) { return float_to_half(eights[bits]); }
static unsigned char float_to_eight(float x) {
  int best = 0;
  for (int b = 0; b < 256; ++b) {
    if (std::isnan(eights[b]) || std::signbit(eights[b]) != std::signbit(x)) continue;
    float now = std::fabs(eights[b] - x), before = std::fabs(eights[best] - x);
    if (std::signbit(eights[best]) != std::signbit(x) || now < before || (now == before && b % 2 == 0)) best = b;
  }
  return best;
}
extern "C" void give_eights(const float *table) { memcpy(eights, table, sizeof eights); }
"""


def host_source(names: list[str]) -> str:
    """Return kernels.cu as C++, and a function ``run<number>`` for each kernel in ``names``, which does all threads."""
    source = SOURCE.read_text()
    for instruction, instead in CONVERSIONS.items():
        source, count = re.subn(rf'asm\("{re.escape(instruction)} [^;]*;"[^;]*;', instead, source)
        assert count == 1, instruction
    parts = [HOST, re.sub(r"#pragma unroll", "", source)]
    for number, name in enumerate(names):
        kind = name.split("<")[0]
        parameters = re.search(rf"void {kind}\((.*?)\)\s*{{", source, re.DOTALL)
        assert parameters
        types, call = [], []
        for place, parameter in enumerate(re.split(r",\s*(?![^<]*>)", parameters[1])):
            of, what = parameter.rsplit(" ", 1)
            pointer = "*" in what
            types.append(f"{'void*' if pointer else of} a{place}")
            call.append(f"(decltype(argument<{place}>({name})))a{place}")
        count = next(place for place, one in enumerate(types) if one.startswith("long long"))
        parts.append(
            "template <int N, typename... A> std::tuple_element_t<N, std::tuple<A...>> argument(void (*)(A...));"
            if number == 0
            else ""
        )
        parts.append(
            f'extern "C" void run{number}({", ".join(types)}) {{ blockDim.x = 1 << 20; for (long long t = 0; t < a{count}; '
            f"++t) {{ blockIdx.x = t >> 20; threadIdx.x = t & ((1 << 20) - 1); {name}({', '.join(call)}); }} }}"
        )
    return "#include <tuple>\n" + "\n".join(parts)


class HostKernels:
    """Stands in for ``Kernels``: its machine code is a library of the host's, its names are ``run0`` and so on."""

    def __init__(self, content: bytes, called: dict[str, str]) -> None:
        self._library = ctypes.CDLL(content.decode())
        self._called = called
        table = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().contiguous()
        self._library.give_eights(ctypes.c_void_p(table.data_ptr()))

    def queue(self, name: str, tensors: list[torch.Tensor], scalars: list[Scalar]) -> None:
        assert all(tensor.is_contiguous() for tensor in tensors)
        kinds = [ctypes.c_longlong, *(ctypes.c_float if isinstance(s, float) else ctypes.c_int for s in scalars[1:])]
        values = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        values += [kind(scalar) for kind, scalar in zip(kinds, scalars, strict=True)]  # type: ignore[misc]
        getattr(self._library, self._called[name])(*values)


def compile_on_host(folder: Path, names: Iterable[str], architecture: str) -> tuple[bytes, dict[str, str]]:
    """Stand in for ``compile_kernels``: the machine code is the path of a library in ``folder``."""
    names = list(dict.fromkeys(names))
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(host_source(names))
    command = ["g++", "-w", "-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return str(library).encode(), {name: f"run{number}" for number, name in enumerate(names)}


class HostPlan:
    """Stands in for ``Plan``: its content is the specification."""

    def __init__(self, content: bytes) -> None:
        self._spec = Spec.of(json.loads(content))

    def queue(self, tensors: dict[int, torch.Tensor]) -> None:
        """Compute what graph_of describes, on memory laid out as it says."""
        spec = self._spec
        (rows, columns), (height, width) = spec.result_size, spec.size
        picture = _seen(tensors[compiler.PICTURE], (spec.batch, height, width, spec.channels), spec.reads)
        filters = _seen(tensors[compiler.FILTERS], (spec.outputs, *spec.kernel, spec.channels), spec.reads)
        padding = (spec.before[1], spec.after[1], spec.before[0], spec.after[0])
        picture = functional.pad(picture.double().permute(0, 3, 1, 2), padding)
        found = functional.conv2d(picture, filters.double().permute(0, 3, 1, 2), None, spec.stride).float()
        found = found.permute(0, 2, 3, 1)
        if spec.rescaled:
            found = found * _seen(tensors[compiler.MULTIPLIER], (spec.outputs,), "FLOAT")
        found = found + _seen(tensors[compiler.BIAS], (spec.outputs,), "FLOAT")
        if spec.shortcut:
            shortcut = _seen(tensors[compiler.SHORTCUT], (spec.batch, rows, columns, spec.outputs), spec.shortcut)
            found = found + shortcut.float() * tensors[compiler.FACTOR]
        if spec.ceiling is not None:
            found = found.clamp(0, spec.ceiling)
        result = tensors[compiler.RESULT]
        result.copy_(Stored(DTYPES[spec.writes]).of(found).view(result.shape).to(result.dtype))


def _seen(tensor: torch.Tensor, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    assert tensor.dtype == DTYPES[dtype]
    assert tensor.is_contiguous()
    return tensor.view(shape)


def timed_on_host(specs: Iterable[Spec], prefer: int) -> dict[Spec, Timed]:
    """Stand in for ``fastest_plans``: of each convolution's forms, the one with the channels nearest to ``prefer`` wins."""
    return {
        spec: Timed(json.dumps(spec.__dict__).encode(), (7, 0), 1.0 + abs(spec.channels - prefer), 9.0, 2)
        for spec in specs
    }
