"""One fused convolution as a graph of cuDNN's, and its execution plans, compiled in processes of their own.

For a graph, cuDNN has engines, and an engine has kernels that its ``KERNEL_CFG`` numbers. The heuristic names a few;
the fastest is often another. Compiling one takes most of a second on one core, whatever the threads, so this file is
also a script: it imports nothing of the library, reads tasks from a file and writes plans beside it.
A plan is compiled for a GPU's properties and needs no GPU. See https://docs.nvidia.com/deeplearning/cudnn/frontend/.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PICTURE, FILTERS, MULTIPLIER, BIAS, SHORTCUT, FACTOR, RESULT = range(1, 8)
"""What each tensor of the graph is called when it is executed."""

Pair = tuple[int, int]
Kernel = tuple[int, int | None]
"""An engine's number, and that of its kernel; None leaves the kernel to the engine."""


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
        tuples: dict[str, Any] = {
            name: tuple(value) for name, value in values.items() if isinstance(value, list | tuple)
        }
        return cls(**(values | tuples))

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
    """Return the kernels that the heuristic names for ``spec``, in its order, and all others of their engines.

    Both are empty where cuDNN has none.
    """
    import cudnn

    graph, configuration = graph_of(spec, **target), cudnn.knob_type.KERNEL_CFG
    try:
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.B, cudnn.heur_mode.FALLBACK])
    except cudnn.cudnnGraphNotSupportedError:
        return [], []
    plans = [graph.get_engine_and_knobs_at_index(index) for index in range(graph.get_execution_plan_count())]
    named = list(dict.fromkeys((engine, knobs.get(configuration)) for engine, knobs in plans))
    others = [
        (engine, number)
        for engine in dict.fromkeys(engine for engine, _ in named)
        for knob in graph.get_knobs_for_engine(engine)
        if knob.type == configuration
        for number in range(knob.min_value, knob.max_value + 1, knob.stride)
    ]
    return named, [kernel for kernel in others if kernel not in named]


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


def main(order: Path) -> None:
    """Do the tasks in the file: print the kernels of a specification, or compile it with one, to the file's folder."""
    import cudnn

    content = json.loads(order.read_text())
    find_compiler()
    properties = cudnn.create_device_properties(content["properties"])
    for number, values, kernel in content["tasks"]:
        spec = Spec.of(values)
        if kernel is None:
            print(json.dumps([number, kernels_of(spec, device_property=properties)]), flush=True)
        elif (plan := compiled(spec, tuple(kernel), device_property=properties)) is not None:
            (unfinished := order.with_suffix(".part")).write_bytes(plan)
            unfinished.rename(plan_path(order.parent, number))


def task(number: int, spec: Spec, kernel: Kernel | None) -> list[Any]:
    """Return what ``main`` reads of one task."""
    return [number, asdict(spec), kernel]


def plan_path(folder: Path, number: int) -> Path:
    """Return where the plan of a task is written, if there is one."""
    return folder / f"{number}.plan"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
