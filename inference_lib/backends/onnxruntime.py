"""ONNX Runtime: an exported graph run by the CPU or CUDA execution provider.

Three backends, from the call everybody writes to the fastest one: ``run()``, IOBinding (inputs and outputs bound to
device memory), and IOBinding captured in a CUDA graph with NHWC convolutions.
Provider options: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference_lib.backends.shared.assignment import check_assignment
from inference_lib.backends.shared.buffers import BufferedRunner
from inference_lib.backends.shared.cpu import CpuFunctionRunner, in_parts, precision_support, thread_limit
from inference_lib.backends.shared.cuda import NO_GPU, gpu_works
from inference_lib.backends.shared.graphs import GraphedRunner
from inference_lib.backends.shared.programs import INPUT, OUTPUT
from inference_lib.backends.shared.quantization import executed_percent, multiplies_eight_bits, quantize_onnx
from inference_lib.backends.shared.silence import silenced
from inference_lib.seam import Artifact, Availability, Precision, Support, Workload, precision_of
from inference_lib.seam.onnx_file import OnnxFile
from inference_lib.support.errors import CourseError

MODEL_FILE = "model.onnx"
PACKAGE = "onnxruntime-gpu==1.30.0"
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"
"""The setting of a session that lets it tell which provider runs each node."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime:
    """``session.run()``: NumPy arrays in, NumPy arrays out, both copies inside the call."""

    name = "onnxruntime"
    title = "ONNX Runtime (run)"
    times_kernels = False
    served_by = "ONNX Runtime (C, C++, C#, Java)"
    from_onnx = ("fp32", "tf32", "int8")
    runs_on_cpu = True

    def availability(self, device: str) -> Availability:
        """Usable where the package is installed and has the provider of ``device``."""
        try:
            import onnx  # noqa: F401
            import onnxruntime
            import onnxscript  # noqa: F401  # PyTorch's exporter needs it
        except ImportError as error:
            remedy = f"pip install onnx onnxscript {PACKAGE}"
            return Availability(usable=False, reason=f"{error.name} is not installed", remedy=remedy)
        if device == "cuda" and PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
            remedy = f"pip uninstall onnxruntime && pip install {PACKAGE}"
            reason = "this build of onnxruntime has no CUDA provider"
            return Availability(usable=False, version=onnxruntime.__version__, reason=reason, remedy=remedy)
        if device == "cuda" and not gpu_works():
            return NO_GPU
        return Availability(usable=True, version=onnxruntime.__version__)

    def supports(self, workload: Workload) -> Support:
        """FP32 and INT8 on a CPU; FP32, TF32 and FP16 on a GPU."""
        if not workload.on_gpu and not self.runs_on_cpu:
            return Support(ok=False, reason=f"{self.title} needs device memory to bind to")
        if workload.torch_dtype == torch.int8:
            reason = "ONNX Runtime's CUDA provider has no 8-bit convolutions: a CPU would run them"
            return Support(ok=not workload.on_gpu, reason=reason if workload.on_gpu else "")
        if workload.torch_dtype not in (torch.float32, torch.float16):
            reason = f"the course does not measure {workload.precision.title} with ONNX Runtime"
            return Support(ok=False, reason=reason)
        return precision_support(workload)

    def artifact_key(self, workload: Workload) -> str:
        """One graph with a dynamic batch serves every backend, device and batch size."""
        return f"onnx/{workload.model}-{workload.precision.storage}"

    def versions(self) -> dict[str, str]:
        """Return the versions of exporter and quantizer, and whether this CPU limits weights of eight bits."""
        import onnxruntime
        import onnxscript

        packages = {"onnxscript": onnxscript.__version__, "onnxruntime": onnxruntime.__version__}
        return {"torch": torch.__version__, "vnni": str(multiplies_eight_bits())} | packages

    def export(self, model: torch.nn.Module, workload: Workload, directory: Path) -> None:
        """Write ``model.onnx``, its batch dimension dynamic, its weights in the workload's precision."""
        export_onnx(model, workload, directory / MODEL_FILE)
        if workload.precision.calibrated:
            quantize_onnx(directory / MODEL_FILE, directory / MODEL_FILE, workload)

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the dtypes of the graph's weight matrices and filters (initializers of rank 2 and more, but indices)."""
        import onnx

        graph = onnx.load(artifact.directory / MODEL_FILE).graph
        types = {weight.data_type for weight in graph.initializer if len(weight.dims) >= 2}
        return precision_of(onnx.TensorProto.DataType.Name(kind) for kind in types - {onnx.TensorProto.INT64})

    def eight_bits_percent(self, artifact: Artifact) -> float:
        """Ask the graph that a session on the CPU makes of ours for its integer operations."""
        return executed_percent(artifact.directory / MODEL_FILE)

    def load(self, artifact: Artifact) -> "CpuFunctionRunner | BoundRunner":
        """Return a session for the workload's device."""
        if not artifact.workload.on_gpu:
            return open_cpu_runner(artifact)
        return RunRunner(artifact, {})


class OnnxRuntimeIoBinding(OnnxRuntime):
    """``run_with_iobinding()``: the graph reads and writes device memory that we own."""

    name = "onnxruntime-iobinding"
    title = "ONNX Runtime (IOBinding)"
    runs_on_cpu = False

    def load(self, artifact: Artifact) -> "BoundRunner":
        """Return a session bound to fixed buffers."""
        return BoundRunner(artifact, {})


class OnnxRuntimeCudaGraph(OnnxRuntimeIoBinding):
    """IOBinding, the kernels of one run captured in a CUDA graph, convolutions in NHWC.

    The graph is captured around the session, not by it (``enable_cuda_graph``), so that it can hold the copies too.
    """

    name = "onnxruntime-cudagraph"
    title = "ONNX Runtime (CUDA graph)"

    def load(self, artifact: Artifact) -> GraphedRunner:  # type: ignore[override]
        """Capture a bound run at the workload's batch size and return its replayer."""
        return GraphedRunner(BoundRunner(artifact, {"prefer_nhwc": "1"}))


def export_onnx(model: torch.nn.Module, workload: Workload, path: Path) -> None:
    """Export ``model`` to one ONNX file with a dynamic batch, in the precision of ``workload``.

    An ONNX file is written as it is, under our names. A module is cast before the export, so the graph itself is in
    that precision: a later conversion would clip constants. The example holds two images because ``torch.export`` may
    take a dimension of one as a constant; the exporter of recent versions works around that.
    """
    if isinstance(model, OnnxFile):
        model.write(path, INPUT, OUTPUT)
        return
    dtype = torch.float32 if workload.precision.calibrated else workload.torch_dtype
    images = torch.zeros(2, *workload.model.input_shape, dtype=dtype)
    with silenced("torch.onnx"):  # its progress
        torch.onnx.export(
            model.to(dtype),
            (images,),
            str(path),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )


def arithmetic(precision: Precision) -> dict[str, str]:
    """Return the CUDA provider's option with which a session multiplies as ``precision`` says.

    Only FP32 may turn TF32 off: without it, the provider keeps convolutions of every type off the tensor cores, those
    in FP16 too (``deselect_numeric_notes`` in onnxruntime/core/providers/cuda/nn/conv.cc).
    """
    ieee = precision.dtype == torch.float32 and not precision.rounds_products
    return {"use_tf32": "0" if ieee else "1"}


def open_session(path: Path, device: str, cuda_options: dict[str, str] | None = None, threads: int = 0) -> Any:
    """Return an ``InferenceSession`` on ``device``; on a CPU with so many ``threads`` (0: as many as PyTorch has).

    Raises:
        CourseError: ONNX Runtime fell back to another provider, for all or for a part of the work, which it does with
            no more than a warning.

    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # what fails raises; what falls back is checked below
    wanted = PROVIDERS[device]
    providers = [(wanted, cuda_options or {})] if device == "cuda" else [wanted]
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    settings.intra_op_num_threads = threads or thread_limit()
    with silenced():  # it prints that it falls back; the check below says so better
        session = onnxruntime.InferenceSession(str(path), settings, providers=providers)
    if session.get_providers()[0] != wanted:
        raise CourseError(
            f"ONNX Runtime fell back from {wanted} to {session.get_providers()[0]}; "
            f"see why with `python -m inference_lib doctor`, or reinstall it: pip install {PACKAGE}"
        )
    check_assignment(session, wanted)
    return session


def open_cpu_runner(artifact: Artifact) -> CpuFunctionRunner:
    """Return a runner whose session runs on the CPU; of many pictures in eight bits, each core answers a part.

    Left alone, all cores share each operator, which scales in FP32. Among quantized operators are transpositions that
    one core does alone, and a quantized convolution takes one picture after the other. Seen on 16 cores: of the 7 ms of
    vanilla_cnn for 32 pictures in eight bits, 3 went to two transpositions; in parts, the 32 took about half as long.
    """
    asked, cores = artifact.workload, torch.get_num_threads()
    dealt_out = asked.precision.calibrated and asked.batch_size >= cores > 1 and not asked.model.batch
    session = open_session(artifact.directory / MODEL_FILE, "cpu", threads=1 if dealt_out else 0)

    def run(batch: np.ndarray) -> np.ndarray:
        return session.run([OUTPUT], {INPUT: batch})[0]

    return CpuFunctionRunner(asked, in_parts(run, cores) if dealt_out else run)


class BoundRunner(BufferedRunner):
    """A CUDA session whose input and output are bound to fixed device memory."""

    def __init__(self, artifact: Artifact, cuda_options: dict[str, str]) -> None:
        import onnxruntime

        super().__init__(artifact.workload)
        options = cuda_options | arithmetic(self.workload.precision)
        options |= {"device_id": str(self.workload.device.index), "user_compute_stream": str(self.stream.cuda_stream)}
        self._session = self.open_session(artifact.directory / MODEL_FILE, options)
        self._binding = self._session.io_binding()
        self._bind(self._binding.bind_input, INPUT, self.buffers.input)
        self._bind(self._binding.bind_output, OUTPUT, self.buffers.output)
        self._run_options = onnxruntime.RunOptions()
        # Without this a bound run waits for the GPU at its end, and batches cannot be queued back to back.
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self.compute()  # chooses the kernels
        self.synchronize()

    def open_session(self, path: Path, options: dict[str, str]) -> Any:
        """Open the graph on the CUDA provider."""
        return open_session(path, "cuda", options)

    @staticmethod
    def _bind(bind: Any, name: str, tensor: torch.Tensor) -> None:
        dtype = tensor[:0].cpu().numpy().dtype.type  # the same type in NumPy
        bind(name, "cuda", tensor.device.index or 0, dtype, list(tensor.shape), tensor.data_ptr())

    def compute(self) -> None:
        """Queue one bound run."""
        self._session.run_with_iobinding(self._binding, self._run_options)


class RunRunner(BoundRunner):
    """``session.run()`` end to end; parts and throughput are those of the same session bound to device memory."""

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run([OUTPUT], {INPUT: batch})[0].astype(np.float32, copy=False)
