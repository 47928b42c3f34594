"""Torch-TensorRT: an exported PyTorch program whose operations were compiled to a TensorRT engine, called as a module.

API: https://docs.pytorch.org/TensorRT/. ``torch_tensorrt`` asks for the GPU when it is imported, so it is imported
only where one works.
"""

import importlib.metadata
import importlib.util
import operator
import warnings
from pathlib import Path
from typing import Any

import torch

from inference_lib.backends.shared.buffers import BufferedRunner
from inference_lib.backends.shared.cuda import NO_GPU, float32_products, gpu_works
from inference_lib.backends.tensorrt.backend import PACKAGE, EngineBackend, engine_versions, why_no_tensorrt
from inference_lib.backends.tensorrt.engine import timing_cache_path
from inference_lib.seam import Artifact, Availability, Support, Workload, precision_of
from inference_lib.support.errors import CourseError, first_line

PROGRAM_FILE = "model.ep"
REMEDY = (
    f"pip install {PACKAGE} torch-tensorrt==2.11.0 "
    "(TensorRT's library comes from NVIDIA's own index, which must be reachable)"
)


class TorchTensorRt(EngineBackend):
    """The compiled program, called as a Python function on fixed buffers."""

    name = "torch-tensorrt"
    title = "Torch-TensorRT"

    def availability(self, device: str) -> Availability:
        """Usable where Torch-TensorRT and TensorRT are installed, fit each other, and a GPU works."""
        if importlib.util.find_spec("torch_tensorrt") is None:
            return Availability(usable=False, reason="Torch-TensorRT is not installed", remedy=REMEDY)
        version = importlib.metadata.version("torch-tensorrt")
        if reason := why_no_tensorrt("Torch-TensorRT"):
            return Availability(usable=False, version=version, reason=reason, remedy=REMEDY)
        if not gpu_works():
            return NO_GPU
        try:
            import torch_tensorrt  # noqa: F401
        except Exception as error:  # a version that does not fit says so in many ways
            reason = f"torch_tensorrt cannot be imported: {first_line(str(error))}"
            return Availability(usable=False, version=version, reason=reason, remedy=REMEDY)
        return Availability(usable=True, version=version)

    def supports(self, workload: Workload) -> Support:
        """As TensorRT, but INT8: it would have to be in the PyTorch program, and the course puts it in ONNX graphs."""
        if workload.precision.calibrated:
            reason = "the course quantizes ONNX graphs for TensorRT, and Torch-TensorRT compiles a PyTorch program"
            return Support(ok=False, reason=reason)
        return super().supports(workload)

    def versions(self) -> dict[str, str]:
        """Return the versions of PyTorch, Torch-TensorRT and TensorRT, and the GPU."""
        version = importlib.metadata.version("torch-tensorrt")
        return {"torch": torch.__version__, "torch_tensorrt": version} | engine_versions()

    def export(self, model: torch.nn.Module, workload: Workload, directory: Path) -> None:
        """Compile the model in the workload's precision and save the program with its engine."""
        timings = timing_cache_path(directory.parent)
        compile_and_save(model, workload, directory / PROGRAM_FILE, compile_options(workload, timings))

    def stored_precision(self, artifact: Artifact) -> str:
        """Read the types that enter and leave the engines of the saved program."""
        import torch_tensorrt

        program = torch_tensorrt.load(str(artifact.directory / PROGRAM_FILE))
        return precision_of(str(dtype) for dtype in tensor_types(program.graph))

    def load(self, artifact: Artifact) -> "ProgramRunner":
        """Return the compiled program on fixed buffers."""
        return ProgramRunner(artifact)


def compile_options(workload: Workload, timings: Path | None = None) -> dict[str, Any]:
    """Return the options of the compiler: TF32 by the workload, everything in TensorRT or an error.

    The precision is not among them: since explicit typing is the default, it is the module's own.
    """
    tf32 = workload.precision.rounds_products
    options = {"disable_tf32": not tf32, "require_full_compilation": True, "min_block_size": 1}
    return options | ({"timing_cache_path": str(timings)} if timings else {})


def compile_and_save(model: torch.nn.Module, workload: Workload, path: Path, options: dict[str, Any]) -> None:
    """Cast, export, compile and save, as the framework's documentation does it."""
    import torch_tensorrt

    images = torch.zeros(workload.input_shape, dtype=workload.torch_dtype, device="cuda")
    deprecations = warnings.catch_warnings(action="ignore", category=DeprecationWarning)
    with float32_products(workload.precision), deprecations, torch_tensorrt.logging.errors():
        program = torch.export.export(model.to("cuda", workload.torch_dtype).eval(), (images,))
        compiled = torch_tensorrt.dynamo.compile(program, arg_inputs=[images], **options)
        torch_tensorrt.save(compiled, str(path), arg_inputs=[images])


def tensor_types(graph: torch.fx.Graph) -> set[torch.dtype]:
    """Return the floating-point types of the tensors that the graph's placeholders and operations produce."""
    values = [node.meta.get("val") for node in graph.nodes if node.op in ("placeholder", "call_function")]
    return {value.dtype for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()}


def outside_of_engines(graph: torch.fx.Graph) -> list[str]:
    """Return the operations that PyTorch computes itself: all but the engines, and what picks their results."""
    calls = [node for node in graph.nodes if node.op in ("call_function", "call_method", "call_module")]
    return [str(node.target) for node in calls if not _runs_an_engine(node) and node.target is not operator.getitem]


def _runs_an_engine(node: torch.fx.Node) -> bool:
    return node.op == "call_function" and str(node.target).startswith("tensorrt.execute_engine")


class ProgramRunner(BufferedRunner):
    """A saved program, called on fixed buffers and a stream of its own."""

    def __init__(self, artifact: Artifact) -> None:
        import torch_tensorrt

        super().__init__(artifact.workload)
        program = torch_tensorrt.load(str(artifact.directory / PROGRAM_FILE))
        fallen_back = outside_of_engines(program.graph)
        if fallen_back:
            raise CourseError(f"Torch-TensorRT left {', '.join(fallen_back)} to PyTorch")
        self._model = program.module()

    @torch.inference_mode()
    def compute(self) -> None:
        """Queue the program on the uploaded batch."""
        with torch.cuda.stream(self.stream):
            self.buffers.output.copy_(self._model(self.buffers.input))
