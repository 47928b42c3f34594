"""One fused convolution as a graph of cuDNN's, and its execution plans, compiled in processes of their own.

For a graph, cuDNN has engines, and an engine has kernels that its ``KERNEL_CFG`` numbers. The heuristic names a few;
the fastest is often another. Compiling one takes most of a second on one core, whatever the threads, so this file is
also a script: it imports nothing of the library, reads a task from a line and answers it in one (compilers.py).

cuDNN also compiles for a description of a GPU, without one; but cuDNN 9.19's says nothing of clusters, so the kernels
for Hopper's tensor cores then refuse ("No GPC available"), and those for Ampere's do half as much. A process therefore
opens a handle on the GPU itself. See https://docs.nvidia.com/deeplearning/cudnn/frontend/.
"""

import base64
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PICTURE, FILTERS, MULTIPLIER, BIAS, SHORTCUT, FACTOR, RESULT = range(1, 8)
"""What each tensor of the graph is called when it is executed."""

Pair = tuple[int, int]
Kernel = tuple[int, int | None]
"""An engine's number, and that of its kernel; None leaves the kernel to the engine."""

ENGINES = (4, 7, 2)
"""From the best to the last resort; one competes only where no better one is named. Engine 4 has the kernels for
Hopper's tensor cores: on an H200 its best took 0.4 to 0.7 times as long as engine 7's for each convolution of ResNet-18
that reads 32 channels or more, and on an H100 engine 2's took 2.7 to 7 times as long as engine 7's."""

SHORTLISTS = {4: (0, 1, 2, 4, 6, 9, 10, 21, 22, 26), 7: (17, 26, 27, 1, 21, 14)}
"""The kernels of an engine that compete where the heuristic does not name them; other engines are tried whole.
The best of these was within 2 % of the best of all for each convolution that was then chosen in these networks."""


@dataclass(frozen=True)
class Spec:
    """A fused convolution: shapes, and types by cuDNN's names (``INT8``, ``FP8_E4M3``, ``HALF``)."""

    batch: int
    channels: int
    size: Pair
    outputs: int
    kernel: Pair
    stride: Pair
    before: Pair
    after: Pair
    reads: str
    writes: str
    shortcut: str | None = None
    rescaled: bool = True
    """Whether each channel has a multiplier of its own."""
    ceiling: float | None = None
    """Where the ReLU ends; infinity for a plain one, None where there is none."""

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Spec":
        """Return the specification that ``asdict`` made ``values`` of, lists for tuples."""
        pairs = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**(values | pairs))

    @property
    def result_size(self) -> Pair:
        """Height and width of the result."""
        axes = zip(self.size, self.before, self.after, self.kernel, self.stride, strict=True)
        height, width = ((size + above + below - taps) // step + 1 for size, above, below, taps, step in axes)
        return height, width


def graph_of(spec: Spec, **target: Any) -> Any:
    """Return the graph of ``spec``, checked and lowered; ``target`` is a ``handle`` or a ``device_property``.

    Sums are INT32 for INT8 and FP32 for the other types; everything after the sum is FP32.
    """
    import cudnn

    types = cudnn.data_type
    graph = cudnn.pygraph(intermediate_data_type=types.FLOAT, compute_data_type=types.FLOAT, **target)

    def tensor(uid: int, shape: tuple[int, ...], dtype: str) -> Any:
        _, channels, height, width = shape
        strides = [channels * height * width, 1, channels * width, channels]  # channels last
        return graph.tensor(dim=list(shape), stride=strides, data_type=types.__members__[dtype], uid=uid)

    picture = tensor(PICTURE, (spec.batch, spec.channels, *spec.size), spec.reads)
    filters = tensor(FILTERS, (spec.outputs, spec.channels, *spec.kernel), spec.reads)
    result = graph.conv_fprop(
        picture,
        filters,
        pre_padding=list(spec.before),
        post_padding=list(spec.after),
        stride=list(spec.stride),
        dilation=[1, 1],
        compute_data_type=types.INT32 if spec.reads == "INT8" else types.FLOAT,
    ).set_data_type(types.FLOAT)
    if spec.rescaled:
        result = graph.mul(result, tensor(MULTIPLIER, (1, spec.outputs, 1, 1), "FLOAT"))
    result = graph.add(result, tensor(BIAS, (1, spec.outputs, 1, 1), "FLOAT"))
    if spec.shortcut:
        shortcut = tensor(SHORTCUT, (spec.batch, spec.outputs, *spec.result_size), spec.shortcut)
        result = graph.add(result, graph.mul(shortcut, tensor(FACTOR, (1, 1, 1, 1), "FLOAT")))
    if spec.ceiling is not None:
        limit = {} if spec.ceiling == float("inf") else {"upper_clip": spec.ceiling}
        result = graph.relu(result, **limit)
    result.set_output(True).set_data_type(types.__members__[spec.writes]).set_uid(RESULT)
    graph.validate()
    graph.build_operation_graph()
    return graph


def kernels_of(spec: Spec, **target: Any) -> tuple[list[Kernel], list[Kernel]]:
    """Return the kernels that the heuristic names for ``spec``, in its order, and others of their engines to try.

    Both are empty where cuDNN has none.
    """
    import cudnn

    graph, configuration = graph_of(spec, **target), cudnn.knob_type.KERNEL_CFG
    for mode in (cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK):
        try:
            graph.create_execution_plans([mode])
        except cudnn.cudnnGraphNotSupportedError:
            continue
        break
    plans = [graph.get_engine_and_knobs_at_index(index) for index in range(graph.get_execution_plan_count())]
    named = of_the_best_engine((engine, knobs.get(configuration)) for engine, knobs in plans)
    others = [
        (engine, number)
        for engine in dict.fromkeys(engine for engine, _ in named)
        for knob in graph.get_knobs_for_engine(engine)
        if knob.type == configuration
        for number in SHORTLISTS.get(engine, range(knob.min_value, knob.max_value + 1, knob.stride))
    ]
    return named, [kernel for kernel in others if kernel not in named]


def of_the_best_engine(named: Iterable[Kernel]) -> list[Kernel]:
    """Return each of ``named`` once: those of the best of ``ENGINES``, and of engines that are not among them."""
    every = list(dict.fromkeys(named))
    best = next((engine for engine in ENGINES if any(kernel[0] == engine for kernel in every)), None)
    return [kernel for kernel in every if kernel[0] == best or kernel[0] not in ENGINES]


def compiled(spec: Spec, kernel: Kernel, **target: Any) -> bytes | None:
    """Return the plan of ``spec`` with ``kernel``, ready to be loaded; None where the engine has no such kernel."""
    import cudnn

    engine, number = kernel
    graph = graph_of(spec, **target)
    try:
        graph.create_execution_plan(engine, {} if number is None else {cudnn.knob_type.KERNEL_CFG: number})
        graph.build_plan_at_index(0)
        return graph.serialize(as_bytes=True)
    except (cudnn.cudnnGraphNotSupportedError, RuntimeError):  # the second where a kernel does not fit the shape
        return None


def find_compiler() -> None:
    """Load NVRTC from where pip put it: cuDNN looks for it in the system's folders alone, and compiles nothing then."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    load_nvidia_dynamic_lib("nvrtc")


def main(device: int) -> None:
    """Answer tasks, one a line, until there are no more: a specification, and a kernel or null.

    With a kernel the answer is the plan in base 64, or null where there is none; without, the kernels as ``kernels_of``
    returns them.
    """
    import cudnn
    from cuda.bindings import runtime

    find_compiler()
    (status,) = runtime.cudaSetDevice(device)
    if status:
        raise RuntimeError(f"CUDA answered {status.name}")
    handle = cudnn.create_handle()
    for line in sys.stdin:
        values, kernel = json.loads(line)
        print(json.dumps(answer(Spec.of(values), kernel, handle)), flush=True)


def answer(spec: Spec, kernel: list[Any] | None, handle: Any) -> Any:
    """Return what ``main`` answers to one task."""
    if kernel is None:
        return kernels_of(spec, handle=handle)
    plan = compiled(spec, (kernel[0], kernel[1]), handle=handle)
    return plan and base64.b64encode(plan).decode()


if __name__ == "__main__":
    main(int(sys.argv[1]))
