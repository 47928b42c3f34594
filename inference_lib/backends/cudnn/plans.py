"""Which of cuDNN's plans computes a convolution fastest: they are compiled, timed on the GPU, and one is kept."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Any

import torch
from torch.nn import functional

from inference_lib.backends.cudnn.compiler import (
    BIAS,
    ENGINES,
    FACTOR,
    FILTERS,
    MULTIPLIER,
    PICTURE,
    RESULT,
    SHORTCUT,
    Kernel,
    Spec,
)
from inference_lib.backends.cudnn.compilers import Compilers
from inference_lib.backends.shared.graphs import captured, in_turn

LAUNCHES, REPLAYS = 10, 3
"""A plan is launched so often in a CUDA graph, which is replayed so often; the fastest replay counts."""

PROMISING = 3
"""Plans that are timed again, side by side, after all were timed once."""

HOPELESS, SLOWER, LAUNCH_US = 3.0, 1.5, 300.0
"""A plan is not timed if one launch takes ``HOPELESS`` times as long as the best so far, and what a launch may cost; it
is not replayed again once it took ``SLOWER`` times as long, and its part of what the launch of a graph may."""

Forms = tuple[Spec, ...]
"""How one convolution may be given to cuDNN: one of them is kept."""

DTYPES = {"INT8": torch.int8, "FP8_E4M3": torch.float8_e4m3fn, "HALF": torch.float16, "FLOAT": torch.float32}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Timed:
    """The fastest plan of a specification."""

    plan: bytes
    kernel: Kernel
    microseconds: float
    first_microseconds: float
    """Of the plan that competed and that the heuristic names first."""
    tried: int
    """Plans that computed what they should, up to a step of the result's type."""
    rounding: int
    """Of these, those that round to the nearest; where there are any, they alone competed."""


def fastest_plans(
    convolutions: Iterable[Forms], compilers: Compilers, among: frozenset[Kernel] | None = None
) -> dict[Spec, Timed]:
    """Return the fastest plan of each form of ``convolutions``, without those that do not compete or have no plan.

    The kernels that the heuristic names compete, and others of their engines: all, or those in ``among``, as far as
    there is time to compile them.

    Raises:
        CourseError: nothing could be compiled; the reason is given.

    """
    convolutions = list(convolutions)
    specs = list(dict.fromkeys(spec for forms in convolutions for spec in forms))
    kernels = dict(zip(specs, compilers.kernels(specs), strict=True))
    competing = [competitors(forms, {spec: kernels[spec][0] for spec in forms}) for forms in convolutions]
    specs = list(dict.fromkeys(spec for forms in competing for spec in forms))
    pairs = [(spec, kernel) for spec in specs for kernel in kernels[spec][0]]
    needed = len(pairs)
    votes = Counter(kernel for _, kernel in pairs)  # what is named for other specifications is tried first
    others = [sorted(kernels[spec][1], key=lambda kernel: -votes[kernel]) for spec in specs]
    others = [[kernel for kernel in one if among is None or kernel in among] for one in others]
    turns = zip_longest(*others)  # if time runs out, it does for all specifications alike
    pairs += [(spec, k) for turn in turns for spec, k in zip(specs, turn, strict=True) if k is not None]
    plans: dict[Spec, dict[Kernel, bytes]] = {}
    for (spec, kernel), plan in zip(pairs, compilers.plans(pairs, needed), strict=True):
        if plan is not None:
            plans.setdefault(spec, {})[kernel] = plan
    with compilers.counting("timing"):
        timed = {spec: _fastest(spec, candidates) for spec, candidates in plans.items()}
    return {spec: fastest for spec, fastest in timed.items() if fastest}


def competitors(forms: Forms, named: Mapping[Spec, Sequence[Kernel]]) -> Forms:
    """Return ``forms`` without those that a worse engine computes than another one, going by the kernels ``named``.

    Those are forms with the fewest channels, of pictures: on an H200 engine 7's best took 1.2 to 5 times as long as
    engine 4's best for another form of the same convolution, and on an H100 none was chosen for any of 18 networks.
    """
    places = {spec: [ENGINES.index(engine) for engine, _ in named[spec] if engine in ENGINES] for spec in forms}
    best = min((place for found in places.values() for place in found), default=0)
    return tuple(spec for spec in forms if not places[spec] or best in places[spec])


class Plan:
    """A compiled plan on this process's GPU, and the memory that it works in."""

    def __init__(self, content: bytes) -> None:
        import cudnn

        self._handle = _handle(torch.cuda.current_device())
        self._graph = cudnn.pygraph(handle=self._handle)
        self._graph.deserialize(self._handle, content)
        self._workspace = torch.empty(max(self._graph.get_workspace_size(), 1), dtype=torch.uint8, device="cuda")

    def queue(self, tensors: dict[int, torch.Tensor]) -> None:
        """Queue the convolution on PyTorch's current stream; the keys are those of compiler.py.

        Kernels of cuDNN 9.19 start early, and read the shortcut without waiting for the one that writes it.
        """
        import cudnn

        stream = torch.cuda.current_stream()
        cudnn.set_stream(self._handle, stream.cuda_stream)
        addresses = {number: tensor.data_ptr() for number, tensor in tensors.items()}
        with in_turn(stream) if SHORTCUT in tensors else nullcontext():
            self._graph.execute(addresses, self._workspace, handle=self._handle)


@cache
def _handle(device: int) -> Any:
    """Return this process's handle of cuDNN's for the current GPU, which is ``device``."""
    import cudnn

    return cudnn.create_handle()


def _fastest(spec: Spec, plans: dict[Kernel, bytes]) -> Timed | None:
    """Return the fastest of ``plans`` that compute what they should; the heuristic's choice is the first of them."""
    nearest, others = times_of(spec, plans)
    times = nearest or others
    if not times:
        return None
    kernel, first = min(times, key=times.__getitem__), next(iter(times))
    return Timed(plans[kernel], kernel, times[kernel], times[first], tried=len(nearest | others), rounding=len(nearest))


def times_of(spec: Spec, plans: dict[Kernel, bytes]) -> tuple[dict[Kernel, float], dict[Kernel, float]]:
    """Return the microseconds of ``plans`` that round to the nearest, and of those that are up to a step off.

    Plans that fail or compute something else are in neither. The second kind competes only where there is none of the
    first: in eight bits the answers show it. Emulated: with what ResNet-18's convolutions write cut off, one in twenty
    changes.
    """
    tensors, stream = example(spec), torch.cuda.Stream()
    wanted = reference(spec, tensors)
    nearest: dict[Kernel, float] = {}
    others: dict[Kernel, float] = {}

    def measure(kernel: Kernel) -> None:
        tensors[RESULT].zero_()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                found = _microseconds(Plan(plans[kernel]), tensors, stream, min(nearest.values(), default=math.inf))
        except (RuntimeError, ValueError):  # it was compiled, and cannot be launched here
            return
        for kept, steps in ((nearest, 0.5), (others, 1.0)):
            if agrees(tensors[RESULT][:1], wanted, steps):
                kept[kernel] = min(found, kept.get(kernel, found))
                return

    for kernel in plans:
        measure(kernel)
    times = nearest or others
    for kernel in sorted(times, key=times.__getitem__)[:PROMISING]:
        measure(kernel)
    return nearest, others


def _microseconds(
    plan: Plan, tensors: dict[int, torch.Tensor], stream: torch.cuda.Stream, best: float = math.inf
) -> float:
    """Return what one launch takes, launches following each other in a CUDA graph.

    Infinity where that cannot be less than ``best``; less precisely where it is clearly more.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def microseconds(launch: Callable[[], None]) -> float:
        start.record()
        launch()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3

    def launches() -> None:
        for _ in range(LAUNCHES):
            plan.queue(tensors)

    plan.queue(tensors)
    stream.synchronize()
    if microseconds(lambda: plan.queue(tensors)) > HOPELESS * best + LAUNCH_US:
        return math.inf
    graph = captured(launches, stream)
    found = math.inf
    for _ in range(REPLAYS):
        found = min(found, microseconds(graph.replay) / LAUNCHES)
        if found > SLOWER * best + LAUNCH_US / LAUNCHES:
            break
    return found


def example(spec: Spec) -> dict[int, torch.Tensor]:
    """Return tensors for ``spec``, of numbers that leave no sum and no type: a chip draws less power for zeros."""
    generator = torch.Generator("cuda").manual_seed(0)

    def numbers(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        found = torch.randint(-8, 9, shape, device="cuda", generator=generator)
        return found.to(torch.float16).to(DTYPES[dtype])

    (rows, columns), (height, width) = spec.result_size, spec.size
    tensors = {
        PICTURE: numbers((spec.batch, height, width, spec.channels), spec.reads),
        FILTERS: numbers((spec.outputs, *spec.kernel, spec.channels), spec.reads),
        BIAS: numbers((spec.outputs,), "FLOAT"),
        RESULT: torch.empty(spec.batch, rows, columns, spec.outputs, dtype=DTYPES[spec.writes], device="cuda"),
    }
    if spec.rescaled:
        tensors[MULTIPLIER] = torch.full((spec.outputs,), 1e-3, device="cuda")
    if spec.shortcut:
        tensors[SHORTCUT] = numbers((spec.batch, rows, columns, spec.outputs), spec.shortcut)
        tensors[FACTOR] = torch.ones(1, device="cuda")
    return tensors


def reference(spec: Spec, tensors: dict[int, torch.Tensor], pictures: int = 1) -> torch.Tensor:
    """Return what ``spec`` makes of the first ``pictures``, by PyTorch: FP32, before the result's type rounds it."""

    def seen(number: int, shape: tuple[int, ...]) -> torch.Tensor:
        return tensors[number].view(shape)[:pictures].permute(0, 3, 1, 2).double()

    (height, width), (rows, columns) = spec.size, spec.result_size
    picture = seen(PICTURE, (spec.batch, height, width, spec.channels))
    filters = tensors[FILTERS].view(spec.outputs, *spec.kernel, spec.channels).permute(0, 3, 1, 2).double()
    picture = functional.pad(picture, (spec.before[1], spec.after[1], spec.before[0], spec.after[0]))
    found = functional.conv2d(picture, filters, None, spec.stride).float()
    if spec.rescaled:
        found = found * tensors[MULTIPLIER].view(-1, 1, 1)
    found = found + tensors[BIAS].view(-1, 1, 1)
    if spec.shortcut:
        found = found + seen(SHORTCUT, (spec.batch, rows, columns, spec.outputs)).float() * tensors[FACTOR]
    if spec.ceiling is not None:
        found = found.clamp(0, spec.ceiling)
    return found.permute(0, 2, 3, 1)


def agrees(found: torch.Tensor, wanted: torch.Tensor, steps: float) -> bool:
    """Whether ``found`` is at most so many steps of its type from ``wanted`` (FP32): half a step, if it was rounded.

    A hundredth more is allowed, for sums in another order.
    """
    step = torch.ones_like(wanted) if found.dtype == torch.int8 else wanted.abs() * torch.finfo(found.dtype).eps
    return bool(((found.float() - wanted).abs() <= steps * step + 1e-2).all())
