"""ONNX Runtime's TensorRT provider: the session hands the whole graph to TensorRT, which compiles it to an engine.

The engine is built at export and kept in the provider's own cache; loading reads it from there.
Options: https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html.
"""

import os
import pickle
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from inference_lib.backends.onnxruntime import MODEL_FILE, PACKAGE, BoundRunner, OnnxRuntime
from inference_lib.backends.shared.cuda import NO_GPU, gpu_works
from inference_lib.backends.shared.programs import INPUT
from inference_lib.backends.tensorrt.backend import (
    REMEDY,
    EngineBackend,
    engine_versions,
    export_typed,
    why_no_tensorrt,
)
from inference_lib.backends.tensorrt.engine import load_tensorrt, timing_cache_path
from inference_lib.seam import Artifact, Availability, Workload
from inference_lib.support import paths
from inference_lib.support.errors import CourseError, first_line

PROVIDER = "TensorrtExecutionProvider"

BUILD_LIMIT_S = 900.0
"""The longest wait for a process that builds an engine."""


class OnnxRuntimeTensorRt(EngineBackend):
    """IOBinding on a session whose graph is one TensorRT engine."""

    name = "onnxruntime-tensorrt"
    title = "ONNX Runtime (TensorRT)"
    served_by = OnnxRuntime.served_by
    from_onnx = OnnxRuntime.from_onnx

    def availability(self, device: str) -> Availability:
        """Usable where ONNX Runtime has the provider and finds the version of TensorRT that it was linked with."""
        installed = OnnxRuntime().availability("cpu")
        if not installed.usable:
            return installed
        import onnxruntime

        if PROVIDER not in onnxruntime.get_available_providers():
            remedy = f"pip uninstall onnxruntime && pip install {PACKAGE}"
            reason = "this build of onnxruntime has no TensorRT provider"
            return Availability(usable=False, version=installed.version, reason=reason, remedy=remedy)
        if reason := why_no_tensorrt("the provider") or _why_another_version():
            return Availability(usable=False, version=installed.version, reason=reason, remedy=REMEDY)
        if not gpu_works():
            return NO_GPU
        return Availability(usable=True, version=f"{installed.version}, TensorRT {load_tensorrt()[0].__version__}")

    def versions(self) -> dict[str, str]:
        """Return the versions of the exporter, of ONNX Runtime and of TensorRT, and the GPU."""
        return OnnxRuntime().versions() | engine_versions()

    def export(self, model: torch.nn.Module, workload: Workload, directory: Path) -> None:
        """Write ``model.onnx`` and let a process of its own build the engine into the provider's cache."""
        export_typed(model, workload, directory / MODEL_FILE)
        build_in_process_of_its_own(directory, workload)

    def load(self, artifact: Artifact) -> BoundRunner:
        """Return a session bound to fixed buffers, its engine read from the cache.

        Raises:
            CourseError: the provider built another engine instead, whose precision nobody has checked.

        """
        before = engine_files(artifact.directory)
        runner = ProviderRunner(artifact, {})
        if not before or engine_files(artifact.directory) != before:
            raise CourseError(
                f"the TensorRT provider did not use the engine in {artifact.directory}; delete the folder"
            )
        return runner


def _why_another_version() -> str:
    """Say why ONNX Runtime's provider cannot use the version of TensorRT that is installed; nothing if it can."""
    linked, version = linked_tensorrt(), load_tensorrt()[0].__version__
    fits = version.split(".")[0] == linked
    return "" if fits else f"the provider is linked with TensorRT {linked}, and {version} is installed"


@cache
def linked_tensorrt() -> str:
    """Return the major version of TensorRT that the installed provider is linked with."""
    import onnxruntime

    library = Path(onnxruntime.__file__).with_name("capi") / "libonnxruntime_providers_tensorrt.so"
    found = re.search(rb"libnvinfer\.so\.(\d+)", library.read_bytes()) if library.exists() else None
    return found[1].decode() if found else "unknown"


def provider_options(directory: Path, workload: Workload) -> dict[str, str]:
    """Return the provider's options: GPU, precision, the one shape that the engine is for, and where it is kept."""
    timings = timing_cache_path(directory.parent)
    shape = f"{INPUT}:" + "x".join(str(size) for size in workload.input_shape)
    return {
        "device_id": str(workload.device.index),
        "trt_fp16_enable": "1" if workload.torch_dtype == torch.float16 else "0",
        "trt_int8_enable": "1" if workload.precision.calibrated else "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(directory),
        "trt_timing_cache_enable": "1" if timings else "0",
        "trt_timing_cache_path": str(timings.with_suffix("")) if timings else "",
        "trt_profile_min_shapes": shape,
        "trt_profile_opt_shapes": shape,
        "trt_profile_max_shapes": shape,
    }


def open_session(path: Path, options: dict[str, str]) -> Any:
    """Return a session whose graph TensorRT runs as a whole.

    Raises:
        CourseError: the provider was refused, or left a part of the graph to another one.

    """
    import onnxruntime

    load_tensorrt()  # the provider finds the library that is in this process already
    onnxruntime.set_default_logger_severity(4)  # what fails raises
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), settings, [(PROVIDER, options)], enable_fallback=False)
    except Exception as error:
        said = re.sub(r"^/\S+:\d+ .*?\) ", "", str(error).strip())  # the place in ONNX Runtime's source
        raise CourseError(f"ONNX Runtime cannot run {path.name} in TensorRT alone: {said}") from error
    if session.get_providers()[0] != PROVIDER:
        raise CourseError(f"ONNX Runtime fell back from {PROVIDER} to {session.get_providers()[0]}")
    return session


class ProviderRunner(BoundRunner):
    """A session of the TensorRT provider whose input and output are bound to fixed device memory."""

    def open_session(self, path: Path, options: dict[str, str]) -> Any:
        """Open the graph in TensorRT, on this runner's stream."""
        stream = {"user_compute_stream": options["user_compute_stream"]}
        return open_session(path, provider_options(path.parent, self.workload) | stream)


def engine_files(directory: Path) -> dict[str, int]:
    """Return the engines that the provider keeps in ``directory``, and when each was written."""
    return {file.name: file.stat().st_mtime_ns for file in directory.glob("*.engine")}


def environment(workload: Workload) -> dict[str, str]:
    """Return this process's environment with TF32 off unless ``workload`` asks for it.

    The provider has no option for TF32. NVIDIA's libraries read this variable, once for each process
    (https://github.com/microsoft/onnxruntime/issues/26029).
    """
    inherited = {name: value for name, value in os.environ.items() if name != "NVIDIA_TF32_OVERRIDE"}
    policy = {} if workload.precision.rounds_products else {"NVIDIA_TF32_OVERRIDE": "0"}
    return inherited | policy | {"PYTHONPATH": os.pathsep.join(filter(None, [str(paths.ROOT), *sys.path]))}


def build_in_process_of_its_own(directory: Path, workload: Workload) -> None:
    """Build the engine of ``directory/model.onnx`` where the TF32 policy is set before TensorRT is loaded.

    The process gets the workload itself: the name of a model that a reader brings is none that could be looked up.

    Raises:
        CourseError: no engine was built; the process's last line says why.

    """
    timings = timing_cache_path(directory.parent)
    if timings:
        timings.with_suffix("").mkdir(exist_ok=True)
    command, asked = [sys.executable, "-m", __name__, str(directory)], pickle.dumps(workload)
    try:
        process = subprocess.run(
            command, input=asked, env=environment(workload), capture_output=True, check=False, timeout=BUILD_LIMIT_S
        )
    except subprocess.TimeoutExpired as late:
        raise CourseError(f"the TensorRT provider built no engine within {BUILD_LIMIT_S:.0f} s") from late
    if process.returncode != 0 or not engine_files(directory):
        said = (process.stderr or process.stdout).decode(errors="replace").strip().splitlines() or ["no message"]
        raise CourseError(f"the TensorRT provider built no engine: {said[-1]}")


def main() -> None:
    """Build an engine for the workload on standard input: open the session and run it once."""
    try:
        with ProviderRunner(Artifact(pickle.load(sys.stdin.buffer), Path(sys.argv[1])), {}):
            pass
    except Exception as error:
        sys.exit(first_line(str(error)) or type(error).__name__)


if __name__ == "__main__":
    main()
