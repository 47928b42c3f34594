"""The roofline: what a machine can do at best, and the bound that follows for what a network has to do.

A network takes at least the time of its arithmetic at the machine's highest rate, and at least the time of its memory
traffic at the machine's highest rate; the longer of the two is the bound (Williams, Waterman and Patterson, "Roofline:
an Insightful Visual Performance Model for Multicore Architectures", CACM 52(4), 2009).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, Field, ValidationError

from inference_lib.backends.shared.cuda import float32_products, multiplies_fp8
from inference_lib.measure.timing import mark, milliseconds_between
from inference_lib.measure.work import Work, count
from inference_lib.records.machine import this_machine
from inference_lib.records.record import Record
from inference_lib.seam import MODELS, PRECISIONS, Model, find_model, find_precision
from inference_lib.support import paths
from inference_lib.support.errors import named
from inference_lib.support.files import write_atomically
from inference_lib.support.hashes import sha256_of

Traffic = Literal["unfused", "fused"]
"""Whose memory traffic: that of operations run one by one, or the least that any program needs."""


class Ceilings(BaseModel):
    """What a device was measured to do at best."""

    flops: dict[str, float] = Field(min_length=1)
    """Large matrix products in each precision, FLOP/s; on a CPU, a convolution where that is quicker."""
    bandwidth: float = Field(gt=0)
    """A large copy within the device's memory, bytes/s, bytes read and bytes written added up."""
    machine: str
    """The name of the machine, for captions."""
    code: str = ""
    """The hash of the code that measured it."""


CODE = sha256_of([Path(__file__).read_bytes()])[:12]

MATRIX_SIZE = {"cuda": 8192, "cpu": 1024}
COPY_BYTES = {"cuda": 2**30, "cpu": 64 * 2**20}
"""Larger than any cache, so that the copy is one from memory to memory."""

REPETITIONS = 7

LONG_S = 10e-3
"""How long a product on a CPU takes at least: of a shorter one, many cores spend a part on beginning and ending."""


def measure_ceilings(device: str) -> Ceilings:
    """Measure the peak of products in each precision and of a copy on ``device``, in a second or a few."""
    source = torch.ones(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    flops = {precision: _product_rate(precision, device) for precision in multiplied(device)}
    if device == "cpu":
        flops = {precision: max(rate, _convolution_rate(precision)) for precision, rate in flops.items()}
    return Ceilings(
        flops=flops,
        bandwidth=2 * source.nbytes / _seconds(lambda: target.copy_(source), device),
        machine=this_machine().name(device),
        code=CODE,
    )


def multiplied(device: str) -> list[str]:
    """Return the precisions in which ``device`` multiplies."""
    if device == "cpu":
        return [name for name, found in PRECISIONS.items() if not found.cpu]
    return [name for name in PRECISIONS if name != "fp8" or multiplies_fp8()]


def _highest_rate(measure: Callable[[int], tuple[float, float]], device: str) -> float:
    """Return the highest rate, operations/s; ``measure`` returns operations and seconds of a product by its scale.

    A GPU is asked at the first scale. On a CPU, which may have any number of cores, the scale doubles until the product
    takes ``LONG_S``. Seen, at the first scale alone on 16 cores: a rate in eight bits that a network's exceeded.
    """
    best, scale = 0.0, 1
    while True:
        operations, seconds = measure(scale)
        best = max(best, operations / seconds)
        if device != "cpu" or seconds >= LONG_S:
            return best
        scale *= 2


def _product_rate(precision: str, device: str) -> float:
    """Return the rate of products of square matrices, operations/s."""

    def measure(scale: int) -> tuple[float, float]:
        n = scale * MATRIX_SIZE[device]
        a, b = (_factor(precision, n, device) for _ in range(2))
        return 2 * n**3, min(_seconds(product, device) for product in _products(a, b))

    with float32_products(precision), torch.no_grad():
        return _highest_rate(measure, device)


def _products(a: torch.Tensor, b: torch.Tensor) -> list[Callable[[], torch.Tensor]]:
    """Return the ways to multiply ``a`` with ``b`` or, where a library is quick for one layout alone, its transpose."""
    if a.dtype == torch.int8:
        return _integer_products(a, b) if a.is_cuda else [_quantized_product(a, b, engine) for engine in _engines()]
    if a.dtype == torch.float8_e4m3fn:
        one = torch.ones((), device=a.device)
        return [lambda: torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16)]
    out = torch.empty_like(a)
    return [lambda: torch.matmul(a, b, out=out)]


def _integer_products(a: torch.Tensor, b: torch.Tensor) -> list[Callable[[], torch.Tensor]]:
    # a row-major second factor may be far from the tensor cores (pytorch/pytorch#165230)
    return [lambda: torch._int_mm(a, b), lambda: torch._int_mm(a, b.t())]


def _engines() -> list[str]:
    """Return the libraries that may multiply integers on this CPU: PyTorch's choice, and the one that knows AMX."""
    own, there = torch.backends.quantized.engine, torch.backends.quantized.supported_engines
    return list(dict.fromkeys([own, "onednn"])) if "onednn" in there else [own]


@contextmanager
def _packed_by(engine: str) -> Iterator[None]:
    """Let weights that are packed in the block be multiplied by a library, there and later."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


MIDDLE = 128
"""The unsigned integer that stands for zero."""


def _quantized(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.quantize_per_tensor(numbers.float(), 1.0, MIDDLE if dtype == torch.quint8 else 0, dtype)


def _quantized_product(a: torch.Tensor, b: torch.Tensor, engine: str) -> Callable[[], torch.Tensor]:
    """Return the product of integers as PyTorch's quantized layers multiply them on a CPU.

    ``torch._int_mm`` is a plain loop where the processor has no VNNI: seen, at a thirtieth of the rate in FP32.
    """
    left, right = _quantized(a, torch.quint8), _quantized(b.t(), torch.qint8)
    with _packed_by(engine):
        packed = torch.ops.quantized.linear_prepack(right, None)
    return lambda: torch.ops.quantized.linear(left, packed, 1.0, MIDDLE)


def _convolution_rate(precision: str) -> float:
    """Return the rate of a dense 3 x 3 convolution on the CPU in ``precision`` (fp32 or int8), operations/s.

    PyTorch asks other libraries for convolutions than for matrix products, and they may be the quicker. Nothing is
    padded, so no product that is counted can be left out.
    """
    weights = torch.randn(256, 256, 3, 3)

    def measure(scale: int) -> tuple[float, float]:
        images = torch.randn(8 * scale, 256, 16, 16)
        if find_precision(precision).dtype == torch.int8:
            convolutions = [_quantized_convolution(images * 32, weights * 32, engine) for engine in _engines()]
        else:
            convolutions = [lambda: torch.conv2d(images, weights)]
        return 2 * len(images) * 14 * 14 * weights.numel(), min(_seconds(call, "cpu") for call in convolutions)

    with torch.inference_mode():
        return _highest_rate(measure, "cpu")


def _quantized_convolution(images: torch.Tensor, weights: torch.Tensor, engine: str) -> Callable[[], torch.Tensor]:
    """Return a convolution of integers, without a bias and padding, by a library."""
    left = _quantized(images, torch.quint8).contiguous(memory_format=torch.channels_last)
    with _packed_by(engine):
        packed = torch.ops.quantized.conv2d_prepack(_quantized(weights, torch.qint8), None, [1, 1], [0, 0], [1, 1], 1)
    return lambda: torch.ops.quantized.conv2d(left, packed, 1.0, MIDDLE)


def _factor(precision: str, n: int, device: str) -> torch.Tensor:
    """Return n x n random numbers: a GPU draws less power, and clocks higher, on zeros."""
    numbers = torch.randn(n, n, device=device)
    dtype = find_precision(precision).dtype
    return (numbers * 32).clamp(-128, 127).to(dtype) if dtype == torch.int8 else numbers.to(dtype)


def _seconds(call: Callable[[], object], device: str) -> float:
    """Return the shortest time of ``call`` in seconds: whatever else the machine does must not lower a ceiling."""
    call(), call()  # not counted: clocks wake up, libraries choose their kernels
    stream = torch.cuda.current_stream() if device == "cuda" else None
    times = []
    for _ in range(REPETITIONS):
        start = mark(stream)
        call()
        times.append(milliseconds_between(start, mark(stream)))
    return min(times) / 1e3


def ceilings(device: str, directory: Path | None = None, again: bool = False) -> Ceilings:
    """Return the ceilings of ``device`` on this machine; they are measured once and kept in ``directory``.

    Another GPU, driver or version of a package is another machine. A damaged file is measured again, as is what other
    code than this measured. ``again`` measures in any case, and keeps of each rate the higher one: a machine that was
    busy then had lower ones.
    """
    directory = directory or paths.BUILD / "ceilings"
    machine = this_machine().model_dump_json(exclude={"commit", "memory_gib", "gpu_memory_mib"})
    path = directory / f"{device}-{sha256_of([machine.encode()])[:12]}.json"
    kept = read(path)
    if kept is not None and (kept.code != CODE or not kept.flops.keys() >= set(multiplied(device))):
        kept = None
    if kept is not None and not again:
        return kept
    found = measure_ceilings(device)
    if kept is not None:
        found = _higher(kept, found)
    write_atomically(path, found.model_dump_json(indent=1).encode())
    return found


def _higher(one: Ceilings, other: Ceilings) -> Ceilings:
    flops = {precision: max(rate, one.flops.get(precision, 0.0)) for precision, rate in other.flops.items()}
    return other.model_copy(update={"flops": flops, "bandwidth": max(one.bandwidth, other.bandwidth)})


def published_ceilings(machine: str, directory: Path | None = None) -> Ceilings | None:
    """Return the published ceilings of the GPU called ``machine``, None if there are none."""
    found = map(read, sorted((directory or paths.PUBLISHED / "ceilings").glob("*.json")))
    return next((kept for kept in found if kept is not None and kept.machine == machine), None)


def read(path: Path) -> Ceilings | None:
    """Return the ceilings in a file; None where there is none, or it is damaged."""
    try:
        return Ceilings.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def bounds(work: Work, ceilings: Ceilings, precision: str, traffic: Traffic = "unfused") -> dict[str, float]:
    """Return the seconds that a batch takes at least for its arithmetic (``compute``) and its traffic (``memory``)."""
    rate = named("precision", precision, ceilings.flops)
    moved = {"unfused": work.bytes_unfused, "fused": work.bytes_fused}[traffic]
    return {"compute": work.operations / rate, "memory": moved / ceilings.bandwidth}


def attainable(work: Work, ceilings: Ceilings, precision: str, traffic: Traffic = "unfused") -> float:
    """Return the images per second that the roofline allows: the batch over the longer of the two bounds."""
    return work.batch_size / max(bounds(work, ceilings, precision, traffic).values())


def limited_by(work: Work, ceilings: Ceilings, precision: str, traffic: Traffic = "unfused") -> str:
    """Return which bound holds: ``compute`` or ``memory``."""
    times = bounds(work, ceilings, precision, traffic)
    return max(times, key=times.__getitem__)


@dataclass(frozen=True)
class Measured:
    """A throughput with what it belongs to: as much of a record as the roofline needs."""

    backend: str
    title: str
    model: str
    batch_size: int
    precision: str
    throughput_images_per_s: float | None


def roofline_table(records: Sequence[Record | Measured], ceilings: Ceilings) -> pd.DataFrame:
    """Return a row for each record with a throughput and a ceiling: its work, what is attainable and was achieved.

    Of the course's models: the record of a reader's own does not tell where its network is.

    The columns ``unfused images/s`` and ``fused images/s`` are attainable throughputs, ``% of unfused`` and ``% of
    fused`` what was achieved of them. ``FLOP/byte`` is the unfused intensity, ``FLOP/s`` what was achieved.
    """
    measured = (record for record in records if record.throughput_images_per_s and record.model in MODELS)
    return pd.DataFrame([_row(record, ceilings) for record in measured if record.precision in ceilings.flops])


def never_passed(ceilings: Ceilings, records: Sequence[Record]) -> Ceilings | None:
    """Return ``ceilings`` without the rates that a row of their machine passes; None where no rate is left.

    Such a rate is no ceiling. Seen: an integer product that did not reach the tensor cores, and a network that did.
    """
    table = roofline_table([r for r in records if r.machine.name(r.device) == ceilings.machine], ceilings)
    best = table.groupby("precision")["FLOP/s"].max().to_dict() if len(table) else {}
    kept = {name: rate for name, rate in ceilings.flops.items() if best.get(name, 0.0) <= rate}
    return ceilings.model_copy(update={"flops": kept}) if kept else None


def _row(record: Record | Measured, ceilings: Ceilings) -> dict[str, Any]:
    work = work_of(record.model, record.batch_size, record.precision)
    achieved = record.throughput_images_per_s or 0.0
    unfused, fused = (attainable(work, ceilings, record.precision, traffic) for traffic in ("unfused", "fused"))
    return {
        "backend": record.backend,
        "framework": record.title,
        "model": record.model,
        "precision": record.precision,
        "batch": record.batch_size,
        "operations": work.operations,
        "bytes unfused": work.bytes_unfused,
        "bytes fused": work.bytes_fused,
        "FLOP/byte": work.intensity_unfused,
        "limited by": limited_by(work, ceilings, record.precision),
        "unfused images/s": unfused,
        "fused images/s": fused,
        "achieved images/s": achieved,
        "% of unfused": achieved / unfused * 100,
        "% of fused": achieved / fused * 100,
        "FLOP/s": achieved * work.operations / work.batch_size,
    }


@cache
def work_of(model: str | Model, batch_size: int, precision: str) -> Work:
    """Return what ``model``, or the one called so, has to do, as :func:`count` counts it."""
    found = find_model(model)
    with torch.device("meta"):
        network = found.create().eval()
    return count(network, (batch_size, *found.input_shape), precision)
