"""The backend of TensorRT, and what is alike where another framework lets TensorRT compile an engine.

The engine is executed on fixed buffers and captured in a CUDA graph. TensorRT for RTX has the same Python API, so it
serves where TensorRT itself is missing: it builds engines on any machine and runs them on GeForce and RTX cards.
"""

import tempfile
from pathlib import Path

import torch

from inference_lib.backends.onnxruntime import MODEL_FILE, OnnxRuntime, export_onnx
from inference_lib.backends.shared.cuda import NO_GPU, gpu_identity, gpu_works
from inference_lib.backends.shared.graphs import GraphedRunner
from inference_lib.backends.shared.quantization import PRODUCTS, cast_ends, quantize_onnx, quantized_percent
from inference_lib.backends.tensorrt.engine import (
    ENGINE_FILE,
    NAMES,
    EngineRunner,
    build_engine,
    load_tensorrt,
    timing_cache_path,
)
from inference_lib.seam import Artifact, Availability, Support, Workload

PACKAGE = "tensorrt-cu13==10.15.1.29"
REMEDY = f"pip install {PACKAGE} (it fetches the library from NVIDIA's own index, which must be reachable)"
RTX_CAPABILITIES = ((8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""What the runtime of TensorRT for RTX 1.7 says it supports; it refuses every other GPU."""


def why_no_tensorrt(user: str) -> str:
    """Say why there is no TensorRT for ``user``, which can do nothing with TensorRT for RTX; nothing if there is."""
    try:
        module, name = load_tensorrt()
    except ImportError as error:
        return str(error)
    other = f"{NAMES[name]} {module.__version__} is, and {user} does not use it"
    return "" if name == "tensorrt" else f"TensorRT is not installed ({other})"


def engine_versions() -> dict[str, str]:
    """Return TensorRT's version and the GPU: an engine runs where it was built."""
    module, name = load_tensorrt()
    return {name: module.__version__, "gpu": gpu_identity()}


class EngineBackend:
    """What is alike where TensorRT compiles an ONNX graph or a program to an engine."""

    name: str
    times_kernels = True

    def supports(self, workload: Workload) -> Support:
        """FP32, TF32, FP16 and INT8 on a GPU."""
        if not workload.on_gpu:
            return Support(ok=False, reason="TensorRT computes on NVIDIA GPUs only")
        if workload.torch_dtype not in (torch.float32, torch.float16, torch.int8):
            reason = f"the course does not measure {workload.precision.title} with TensorRT yet"
            return Support(ok=False, reason=reason)
        return Support(ok=True)

    def artifact_key(self, workload: Workload) -> str:
        """One engine for each model, precision and batch size: kernels are chosen for a shape."""
        return f"{self.name}/{workload.model}-{workload.precision}-b{workload.batch_size}"

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the weights' types from the graph that was compiled: a strongly typed engine keeps every one of them.

        The engine itself can only be opened on its GPU; the runner compares its types with the workload's.
        """
        return OnnxRuntime().stored_precision(artifact)

    def eight_bits_percent(self, artifact: Artifact) -> float:
        """Read from that graph which products have two factors in eight bits: a strongly typed engine keeps them so."""
        return quantized_percent(artifact.directory / MODEL_FILE)


def export_typed(model: torch.nn.Module, workload: Workload, path: Path) -> None:
    """Export to ONNX in the workload's precision: INT8 by explicit ``QuantizeLinear`` and ``DequantizeLinear``.

    Pictures and logits have the type of the workload's host arrays.

    TensorRT wants its numbers signed and their zero at zero. It fuses a convolution with bias, shortcut and ReLU, and
    what it fuses must not be quantized in between: so only what products and pools read is. See
    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html.
    """
    export_onnx(model, workload, path)
    if workload.precision.calibrated:
        quantize_onnx(path, path, workload, **signed_inputs())
        cast_ends(path, workload.host_dtype)


def signed_inputs() -> dict[str, object]:
    """Return the settings of ONNX Runtime's quantizer for that."""
    from onnxruntime.quantization import QuantType

    options = {"ActivationSymmetric": True, "QuantizeBias": False, "OpTypesToExcludeOutputQuantization": list(PRODUCTS)}
    return {
        "activation_type": QuantType.QInt8,
        "op_types_to_quantize": [*PRODUCTS, "MaxPool"],
        "reduce_range": False,
        "extra_options": options,
    }


class TensorRt(EngineBackend):
    """An engine on fixed buffers, its kernels captured in a CUDA graph."""

    name = "tensorrt"
    title = "TensorRT"
    served_by = "TensorRT (C++)"
    from_onnx = OnnxRuntime.from_onnx

    def availability(self, device: str) -> Availability:
        """Usable where TensorRT is installed and a GPU works that it supports."""
        try:
            module, name = load_tensorrt()
        except ImportError as error:
            return Availability(usable=False, reason=str(error), remedy=REMEDY)
        version = module.__version__
        if name == "tensorrt":
            return Availability(usable=True, version=version) if gpu_works() else NO_GPU
        if stopped := _why_rtx_cannot_run():
            reason = f"TensorRT is not installed, and {NAMES[name]} {version}, which is, cannot run here: {stopped}"
            return Availability(usable=False, reason=reason, remedy=REMEDY)
        return Availability(usable=True, version=f"{version} ({NAMES[name]})")

    def versions(self) -> dict[str, str]:
        """Return the exporter's versions, TensorRT's, and the GPU: an engine runs where it was built."""
        return OnnxRuntime().versions() | engine_versions()

    def export(self, model: torch.nn.Module, workload: Workload, directory: Path) -> None:
        """Export to ONNX in the workload's precision, build the engine, keep it and the graph without its weights."""
        with tempfile.TemporaryDirectory() as scratch:
            graph = Path(scratch) / MODEL_FILE
            export_typed(model, workload, graph)
            timings = timing_cache_path(directory.parent)
            engine = build_engine(graph, workload.batch_size, tf32=workload.precision.rounds_products, timings=timings)
            (directory / ENGINE_FILE).write_bytes(engine)
            _write_without_weights(graph, directory / MODEL_FILE)

    def load(self, artifact: Artifact) -> GraphedRunner:
        """Capture the engine's kernels at the workload's batch size and return their replayer."""
        return GraphedRunner(EngineRunner(artifact))


def _why_rtx_cannot_run() -> str:
    """Say why TensorRT for RTX cannot run engines here; nothing if it can."""
    if not gpu_works():
        return NO_GPU.reason
    capability = torch.cuda.get_device_capability()
    if capability in RTX_CAPABILITIES:
        return ""
    known = ", ".join(f"{major}.{minor}" for major, minor in RTX_CAPABILITIES)
    return f"this GPU has compute capability {capability[0]}.{capability[1]}, it supports {known}"


def _write_without_weights(graph: Path, target: Path) -> None:
    """Write the graph with the types and shapes of its weights, and without their values, which the engine holds."""
    import onnx

    model = onnx.load(graph)
    for weight in (tensor for tensor in model.graph.initializer if len(tensor.dims) >= 2):
        for values in ("raw_data", "float_data", "int32_data", "int64_data"):
            weight.ClearField(values)
    target.write_bytes(model.SerializeToString())
