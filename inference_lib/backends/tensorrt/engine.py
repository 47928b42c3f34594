"""TensorRT itself: found, and asked to build engines from ONNX graphs, to load them and to run them.

API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/.
"""

import importlib
import json
import re
import tempfile
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from inference_lib.backends.shared.buffers import BufferedRunner
from inference_lib.backends.shared.cuda import gpu_identity
from inference_lib.backends.shared.programs import INPUT, OUTPUT
from inference_lib.seam import Artifact
from inference_lib.seam.type_names import dtype_named
from inference_lib.support.errors import CourseError
from inference_lib.support.files import write_atomically

if TYPE_CHECKING:
    import tensorrt as trt  # what the calls below are checked against
else:

    class _FirstUse:
        """TensorRT's module, imported when its first name is used: a machine without it can import this file."""

        def __getattr__(self, name: str) -> object:
            return getattr(load_tensorrt()[0], name)

    trt = _FirstUse()

NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
ENGINE_FILE = "model.engine"

Batches = int | tuple[int, int, int]
"""One batch size for good, or the smallest, the one to optimize for, and the largest."""


@cache
def load_tensorrt() -> tuple[ModuleType, str]:
    """Return the module and its name: ``tensorrt``, or where that is missing ``tensorrt_rtx``.

    Raises:
        ImportError: neither can be imported; the message says why TensorRT cannot.

    """
    reasons = []
    for name, title in NAMES.items():
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: the Python part is there and the library is not
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            reasons.append(f"{title} is not installed" if missing else f"{title} cannot be imported: {error}")
            continue
        if hasattr(module, "Builder"):
            return module, name
        reasons.append(f"{title} is not installed")  # its type stubs alone make an empty package of that name
    raise ImportError(reasons[0])


@cache
def log() -> deque[tuple[int, str]]:
    """Return what TensorRT said since the last build or load began: severities (0 and 1 are errors) and texts."""
    return deque(maxlen=20_000)


@cache
def logger() -> "trt.ILogger":
    """Return the one logger of this process (TensorRT takes no second one): it keeps what is said, prints nothing."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            log().append((int(severity), msg))

    return Log()


def failure(what: str) -> CourseError:
    """Return an error that ends with TensorRT's own errors."""
    errors = [text for severity, text in log() if severity <= 1]
    return CourseError(f"{what}: {'; '.join(errors) or 'TensorRT logged no reason'}")


def parse(builder: "trt.Builder", graph: Path) -> "trt.INetworkDefinition":
    """Read an ONNX file into a strongly typed network: every tensor keeps the type that the file gives it.

    Raises:
        CourseError: the file cannot be read or holds what TensorRT cannot do; the parser's errors are in the message.

    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if network is None:
        raise failure("TensorRT made no network")
    parser = trt.OnnxParser(network, logger())  # the network keeps the parser alive, and with it the weights
    if not parser.parse_from_file(str(graph)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise CourseError(f"TensorRT cannot parse {graph.name}: {errors}")
    if (network.num_inputs, network.num_outputs) != (1, 1):  # the parser takes some files that hold no model at all
        raise CourseError(f"{graph.name} holds no model with one input and one output")
    return network


def set_batches(
    builder: "trt.Builder", network: "trt.INetworkDefinition", config: "trt.IBuilderConfig", batches: Batches
) -> None:
    """Fix the batch size of the network's input, or add a profile that lets it vary.

    Raises:
        CourseError: TensorRT does not accept the profile.

    """
    shape = network.get_input(0).shape
    picture = [shape[axis] for axis in range(1, len(shape))]
    if isinstance(batches, int):
        network.get_input(0).shape = trt.Dims([batches, *picture])
        return
    profile = builder.create_optimization_profile()
    smallest, best, largest = (trt.Dims([size, *picture]) for size in batches)
    profile.set_shape(INPUT, smallest, best, largest)
    if not profile or config.add_optimization_profile(profile) < 0:
        raise failure(f"TensorRT does not accept the batch sizes {batches}")


def build_engine(
    graph: Path,
    batches: Batches,
    *,
    tf32: bool = False,
    timings: Path | None = None,
    configure: Callable[["trt.IBuilderConfig"], None] = lambda config: None,
) -> bytes:
    """Compile an ONNX file for this machine's GPU and return the serialized engine.

    The graph's types are the precision; ``tf32`` allows TF32 products of FP32 numbers. ``timings`` is a file that
    keeps how long each kernel took, so that the next build need not time it again. ``configure`` sets further options.

    Raises:
        CourseError: TensorRT cannot parse the graph or build the engine; its errors are in the message.

    """
    log().clear()
    builder = trt.Builder(logger())
    network = parse(builder, graph)
    config = builder.create_builder_config()
    set_batches(builder, network, config, batches)
    if tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    configure(config)
    if timings:
        read_timings(config, timings)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise failure(f"TensorRT built no engine from {graph.name}")
    if timings:
        write_timings(config, timings)
    return bytes(engine)


def why_no_build() -> str:
    """Say why no engine can be built here, nothing if one can; a network of one layer is built to know."""
    log().clear()
    try:
        builder = trt.Builder(logger())
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        layer = network.add_identity(network.add_input("numbers", trt.DataType.FLOAT, trt.Dims([1])))
        network.mark_output(layer.get_output(0))
        engine = builder.build_serialized_network(network, builder.create_builder_config())
    except Exception as error:  # not installed, or no GPU where TensorRT wants one
        return str(error)
    return "" if engine is not None else str(failure("TensorRT built no engine"))


def timing_cache_path(folder: Path) -> Path | None:
    """Return where ``folder`` keeps the kernels' times, for this version and GPU; TensorRT for RTX times nothing."""
    module, name = load_tensorrt()
    slug = re.sub(r"\W+", "-", f"{module.__version__}-{gpu_identity()}")
    return folder / f"timings-{slug}.cache" if name == "tensorrt" else None


def read_timings(config: "trt.IBuilderConfig", path: Path) -> None:
    """Give the builder the times in ``path``, or an empty cache where there are none that fit.

    Raises:
        CourseError: TensorRT does not even take an empty cache.

    """
    for content in (path.read_bytes() if path.exists() else b"", b""):
        times = config.create_timing_cache(content)
        if times is not None and config.set_timing_cache(times, ignore_mismatch=False):
            return
    raise failure("TensorRT takes no timing cache")


def write_timings(config: "trt.IBuilderConfig", path: Path) -> None:
    """Keep the times that the builder knows now."""
    times = config.get_timing_cache()
    if times is not None:
        write_atomically(path, bytes(times.serialize()))


def load_engine(path: Path) -> "trt.ICudaEngine":
    """Return the engine stored in ``path``.

    Raises:
        CourseError: TensorRT refuses it, because another version or for another GPU built it; the reason is given.

    """
    log().clear()
    engine = trt.Runtime(logger()).deserialize_cuda_engine(path.read_bytes())  # the engine keeps its runtime alive
    if engine is None:
        raise failure(f"TensorRT does not load {path.name}")
    return engine


def engine_layers(graph: Path, batches: Batches) -> list[tuple[str, list[str]]]:
    """Build an engine; return the kind of each of its layers, and the names of the graph's layers that are in it.

    A loaded engine tells by its inspector. TensorRT for RTX may be on a machine that loads none, and logs the same.
    """
    plan = build_engine(graph, batches, configure=_with_details)
    if load_tensorrt()[1] == "tensorrt":
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / ENGINE_FILE).write_bytes(plan)
            inspector = load_engine(Path(scratch) / ENGINE_FILE).create_engine_inspector()
            layers = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]
        rows = [(layer["LayerType"], layer.get("Metadata", "")) for layer in layers]
    else:
        said = [text for _, text in log() if text.startswith("Layers:")][-1]
        rows = re.findall(r"^Name: .*?LayerType: (\w+),.*?Metadata: (.*)$", said, re.MULTILINE)
    return [(kind, re.findall(r"ONNX Layer: (?:node_)?(\w+)", metadata)) for kind, metadata in rows]


def _with_details(config: "trt.IBuilderConfig") -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


class EngineRunner(BufferedRunner):
    """An engine whose input and output are the fixed buffers, executed on a stream of its own."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact.workload)
        self._engine = load_engine(artifact.directory / ENGINE_FILE)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise failure("TensorRT made no execution context")
        if not self._context.set_input_shape(INPUT, self.workload.input_shape):
            raise failure(f"the engine does not take the shape {self.workload.input_shape}")
        self._bind(INPUT, self.buffers.input)
        self._bind(OUTPUT, self.buffers.output)

    def _bind(self, name: str, tensor: torch.Tensor) -> None:
        """Tell the engine where ``name`` is, after a look at its type and shape: TensorRT would not notice."""
        dtype, shape = self._engine.get_tensor_dtype(name), self._context.get_tensor_shape(name)
        sizes = [shape[i] for i in range(len(shape))]
        if (dtype_named(dtype.name), sizes) != (tensor.dtype, list(tensor.shape)):
            raise CourseError(
                f"the engine's {name} is {dtype} {sizes}; {self.workload} needs {tensor.dtype} {list(tensor.shape)}"
            )
        if not self._context.set_tensor_address(name, tensor.data_ptr()):
            raise failure(f"TensorRT does not take the address of {name}")

    def compute(self) -> None:
        """Queue one execution of the engine."""
        if not self._context.execute_async_v3(self.stream.cuda_stream):
            raise failure("TensorRT did not queue the engine")
