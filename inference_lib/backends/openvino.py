"""OpenVINO: an exported graph compiled for this machine's CPU, by the LATENCY or by the THROUGHPUT performance hint.

The graph is compiled for one batch size. The first backend runs one request at a time, on all cores; the second keeps
a queue of requests full, each on a few cores.
Hints: https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/high-level-performance-hints.html.
"""

import contextlib
import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference_lib.backends.shared.cpu import CpuRunner, precision_support, threads_asked_for
from inference_lib.backends.shared.programs import INPUT, OUTPUT, export_program
from inference_lib.backends.shared.silence import silenced
from inference_lib.seam import Artifact, Availability, Support, Workload, precision_of
from inference_lib.seam.onnx_file import OnnxFile
from inference_lib.support.errors import CourseError

MODEL_FILE = "model.xml"
PACKAGE = "openvino==2026.4.1"
CPU_ALONE = "OpenVINO does not run on NVIDIA GPUs"
PRODUCTS = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")
"""Operations that multiply by weights, in a graph (IR) and in a compiled model."""
INTEGER = "i8"
"""How the names of kernels for 8-bit integers end."""


def import_openvino() -> Any:
    """Return the package ``openvino``. It reports its use to Intel while the package of its telemetry can be found."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # "not found", says import
    import openvino

    return openvino


@dataclass
class OpenVino:
    """A graph compiled for this machine's CPU; its runner says how many requests are computed at once."""

    name: str
    title: str
    runner: "type[RequestRunner]"
    times_kernels = False
    served_by = "OpenVINO (C, C++)"
    from_onnx = ("fp32", "bf16", "int8")

    def availability(self, device: str) -> Availability:
        """Usable on a CPU, where the package is installed."""
        try:
            ov = import_openvino()
        except ImportError:
            return Availability(usable=False, reason="openvino is not installed", remedy=f"pip install {PACKAGE}")
        version = ov.__version__.split("-")[0]
        if device == "cuda":
            return Availability(False, version, CPU_ALONE, "measure it on the CPU: --device cpu")
        return Availability(usable=True, version=version)

    def supports(self, workload: Workload) -> Support:
        """FP32 and INT8 on every CPU, BF16 where the CPU multiplies it."""
        if workload.on_gpu:
            return Support(ok=False, reason=CPU_ALONE)
        if workload.torch_dtype == torch.int8:
            ok = find_spec("nncf") is not None
            return Support(ok=ok, reason="" if ok else "OpenVINO quantizes with nncf; pip install nncf==3.4.0")
        if workload.torch_dtype != torch.bfloat16:
            return precision_support(workload)
        ok = "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return Support(ok=ok, reason="" if ok else "this CPU has no instructions for BF16")

    def artifact_key(self, workload: Workload) -> str:
        """One graph with a dynamic batch serves both hints and every batch size."""
        return f"openvino/{workload.model}-{workload.precision.storage}"

    def versions(self) -> dict[str, str]:
        """Return the versions of the exporters."""
        nncf = version("nncf") if find_spec("nncf") else "none"
        return {"torch": torch.__version__, "openvino": import_openvino().__version__, "nncf": nncf}

    def export(self, model: torch.nn.Module, workload: Workload, directory: Path) -> None:
        """Write ``model.xml`` and ``model.bin``, the batch dynamic, the weights in the workload's precision."""
        export_ir(model, workload, directory / MODEL_FILE)

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the types of the constants that the convolutions and matrix products multiply by."""
        graph = import_openvino().Core().read_model(artifact.directory / MODEL_FILE)
        types = {_stored(weights).get_element_type().get_type_name() for weights in _weights(graph)}
        return precision_of(types)

    def eight_bits_percent(self, artifact: Artifact) -> float:
        """Compile the graph, and read which kernels its products got."""
        return executed_percent(compile_ir(artifact.directory / MODEL_FILE, artifact.workload, {}))

    def load(self, artifact: Artifact) -> "RequestRunner":
        """Compile the graph for the workload and return its runner."""
        return self.runner(artifact)


def export_ir(model: torch.nn.Module, workload: Workload, path: Path) -> None:
    """Convert ``model`` to OpenVINO's graph, with a dynamic batch, and write it.

    ``torch.export`` captures the model: where it cannot follow a condition it refuses. ``convert_model`` given the
    module itself would trace it, and a trace keeps the branch that the example took without a word. An ONNX file is
    read as it is.
    """
    ov = import_openvino()
    picture = workload.model.input_shape
    if isinstance(model, OnnxFile):
        graph = ov.convert_model(model.path)
    else:
        with silenced(stdout=False, stderr=False):  # warnings about PyTorch's own insides
            graph = ov.convert_model(export_program(model, picture))
    graph.reshape([workload.model.batch or -1, *picture])
    graph.input().set_names({INPUT})
    graph.output().set_names({OUTPUT})
    if workload.torch_dtype == torch.bfloat16:
        store_weights_as_bf16(graph)
    if workload.precision.calibrated:
        graph = quantize_ir(graph, workload)
    ov.save_model(graph, path, compress_to_fp16=False)


def store_weights_as_bf16(graph: Any) -> None:
    """Round the weights of ``graph`` to BF16, and widen them again where they are used: half the file.

    The batch norms have been folded in FP32 before, so every weight is rounded once, to the value that the compiled
    model would round it to. PyTorch rounds: OpenVINO's own conversion truncates every other value.
    """
    ov = import_openvino()
    shared = {weights.get_friendly_name(): weights for weights in _weights(graph)}  # by several layers, some of them
    for weights in shared.values():
        nearest = torch.from_numpy(weights.data.copy()).bfloat16().float().numpy()
        rounded = ov.opset13.constant(nearest, dtype=ov.Type.bf16)
        weights.output(0).replace(ov.opset13.convert(rounded, "f32").output(0))


def quantize_ir(graph: Any, workload: Workload, **settings: Any) -> Any:
    """Return ``graph`` with 8-bit weights and activations, its scales from the workload's calibration pictures.

    NNCF places the quantizers where this CPU's kernels can fuse them, corrects the biases for what rounding shifts on
    average, and keeps the first layer's weights to seven bits, which no processor saturates. ``settings`` are further
    arguments of ``nncf.quantize`` or, with a ``validation_fn`` among them, of ``nncf.quantize_with_accuracy_control``,
    which puts layers back to FP32, the worst first, until what that function returns has dropped by ``max_drop`` at
    most.
    """
    nncf = import_nncf()
    batches = list(workload.calibration.batches(workload.model))
    quantize = nncf.quantize_with_accuracy_control if "validation_fn" in settings else nncf.quantize
    with silenced():  # progress bars
        return quantize(graph, nncf.Dataset(batches), subset_size=len(batches), **settings)


def import_nncf() -> Any:
    """Return the package ``nncf``, told to be silent. It, too, reports its use to Intel where it can."""
    import_openvino()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses a CUDA compiler nobody needs
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf


def _weights(graph: Any) -> Iterator[Any]:
    """Yield the nodes that the convolutions and matrix products of ``graph`` read their weights from.

    A product of two activations, as attention has, has no weights.
    """
    for node in graph.get_ordered_ops():
        if node.get_type_name() in PRODUCTS:
            factor = node.input_value(1).get_node()
            if _stored(factor).get_type_name() == "Constant":
                yield factor


def _stored(weights: Any) -> Any:
    """Return the constant behind ``weights``, which may be widened, shifted and scaled before its use."""
    while weights.get_type_name() in ("Convert", "Subtract", "Multiply"):
        weights = weights.input_value(0).get_node()
    return weights


def compile_ir(path: Path, workload: Workload, options: dict[str, Any]) -> Any:
    """Return the graph in ``path``, compiled for the CPU at the workload's batch size, to compute in its precision.

    What a quantized graph leaves in floating point is computed in FP32. By itself OpenVINO has a thread on each core.

    Raises:
        CourseError: some layer computes in another precision.

    """
    calibrated = workload.precision.calibrated
    wanted = "f32" if calibrated else workload.precision.storage.replace("fp", "f")  # OpenVINO's names: f32 and bf16
    core = import_openvino().Core()
    graph = core.read_model(path)
    graph.reshape(list(workload.input_shape))
    threads = {"INFERENCE_NUM_THREADS": asked_for} if (asked_for := threads_asked_for()) else {}
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": wanted, **threads, **options})
    asked = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    found = (computed_precisions(compiled) | {asked}) - ({INTEGER} if calibrated else set())
    if found != {wanted}:
        raise CourseError(
            f"OpenVINO computes in {' and '.join(sorted(found))} where {wanted} was asked for; "
            "the compiled model is not used"
        )
    return compiled


def computed_precisions(compiled: Any) -> set[str]:
    """Return the types in which the convolutions and matrix products of a compiled model compute.

    The name of a kernel ends with it: ``brgconv_avx512_1x1_f32``. A layer's ``runtimePrecision`` may be that of the
    stored weights, which the kernel does not see.
    """
    return {_kernel_precision(layer) for layer in layers(compiled) if layer["layerType"] in PRODUCTS}


def _kernel_precision(layer: dict[str, str]) -> str:
    return layer["primitiveType"].rsplit("_", 1)[-1].lower()


def executed_percent(compiled: Any) -> float:
    """Return which part of a compiled model's multiply-adds, percent, kernels for 8-bit integers do."""
    work = {True: 0.0, False: 0.0}
    for node, layer in zip(compiled.get_runtime_model().get_ordered_ops(), layers(compiled), strict=True):
        if layer["layerType"] in PRODUCTS:
            work[_kernel_precision(layer) == INTEGER] += _multiply_adds(node, layer["layerType"])
    return 100 * work[True] / sum(work.values())


def _multiply_adds(node: Any, kind: str) -> int:
    """Return the multiply-adds of a convolution or matrix product in a compiled model."""
    result, images, weights = node.output(0).get_shape(), node.input(0).get_shape(), node.input(1).get_shape()
    if "Convolution" not in kind:
        return prod(result) * prod(images[-2:]) // result[-2]  # the inner length, transposed or not
    batch, _, *places = result
    return batch * prod(places) * prod(weights)  # of all groups: each reads its own channels


def layers(compiled: Any) -> list[dict[str, str]]:
    """Return what a compiled model says of its layers, in the order they run: ``primitiveType`` and others.

    ``originalLayersNames`` are the operations of the graph that became the layer, ``execTimeMcs`` is its mean time in
    microseconds where the model was compiled with ``PERF_COUNT`` and has run.
    """
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    return [{name: str(node[name].value) for name in node} for node in nodes]


class RequestRunner(CpuRunner):
    """A compiled model and one request to it, which the LATENCY hint gives all cores."""

    hint = "LATENCY"

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact.workload)
        options = {"PERFORMANCE_HINT": self.hint}
        self.compiled = compile_ir(artifact.directory / MODEL_FILE, self.workload, options)
        self._tensor = import_openvino().Tensor
        self._request = self.compiled.create_infer_request()

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        return self._request.infer([batch], share_inputs=True)[0]

    def _upload(self, batch: np.ndarray) -> None:
        """Let the request read ``batch`` where it is."""
        self._batch = batch  # a shared tensor does not keep its array alive
        self._request.set_input_tensor(self._tensor(batch, shared_memory=True))

    def compute(self) -> None:
        """Run the graph."""
        self._request.infer()

    def download(self) -> np.ndarray:
        """Return the logits of the last run."""
        return self._request.get_output_tensor().data.copy()


class QueueRunner(RequestRunner):
    """A compiled model with a queue of requests, as many as the THROUGHPUT hint finds best, each on some of the cores.

    ``infer`` waits for its one request, as an application with one caller does. ``compute`` submits a request and
    returns; it waits only where all of them are busy.
    """

    hint = "THROUGHPUT"

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.at_once = self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._queue = import_openvino().AsyncInferQueue(self.compiled, self.at_once)
        self._input = self._tensor(np.empty(0))
        self._last = 0

    def _upload(self, batch: np.ndarray) -> None:
        """Let the coming requests read ``batch`` where it is."""
        self.synchronize()
        self._batch = batch
        self._input = self._tensor(batch, shared_memory=True)

    def compute(self) -> None:
        """Submit a request on the uploaded batch."""
        self._last = self._queue.get_idle_request_id()
        self._queue.start_async([self._input], share_inputs=True)

    def answers(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Submit all batches, each copied to the request that has waited longest, and yield the logits in their order.

        Requests of their own, and waited for whatever happens: a queue with callbacks that ends before its requests do,
        because one of them failed, corrupts memory.
        """
        idle = [self.compiled.create_infer_request() for _ in range(self.at_once)]
        under_way: deque[Any] = deque()
        try:
            for batch in batches:
                accepted = self._accepted(batch)
                if not idle:
                    yield _answer(under_way[0])
                    idle.append(under_way.popleft())
                under_way.append(idle.pop())
                under_way[-1].start_async([accepted])
            while under_way:
                yield _answer(under_way[0])
                under_way.popleft()
        finally:
            for request in under_way:
                with contextlib.suppress(RuntimeError):
                    request.wait()

    def download(self) -> np.ndarray:
        """Return the logits of the request that was submitted last."""
        self.synchronize()
        return self._queue[self._last].get_output_tensor().data.copy()

    def synchronize(self) -> None:
        """Wait for every request that was submitted."""
        self._queue.wait_all()


def _answer(request: Any) -> np.ndarray:
    request.wait()
    return request.get_output_tensor().data.copy()
