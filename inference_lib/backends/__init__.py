"""The frameworks of the course. A new one is a file beside this and a line in ``BACKENDS``."""

from inference_lib.backends.cudnn.backend import Cudnn
from inference_lib.backends.onnxruntime import OnnxRuntime, OnnxRuntimeCudaGraph, OnnxRuntimeIoBinding
from inference_lib.backends.onnxruntime_tensorrt import OnnxRuntimeTensorRt
from inference_lib.backends.openvino import OpenVino, QueueRunner, RequestRunner
from inference_lib.backends.pytorch import PyTorchCudaGraph, PyTorchEager
from inference_lib.backends.tensorrt import TensorRt
from inference_lib.backends.torch_compile import AotInductor, TorchCompile
from inference_lib.backends.torch_tensorrt import TorchTensorRt
from inference_lib.backends.torchscript import TorchScript
from inference_lib.backends.tvm.backend import Tvm
from inference_lib.seam import Backend
from inference_lib.support.errors import unknown_name

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        PyTorchEager(),
        PyTorchCudaGraph(),
        TorchScript(),
        TorchScript("torchscript-cudagraph", "TorchScript (CUDA graph)", graphed=True),
        TorchCompile(),
        AotInductor(),
        OnnxRuntime(),
        OnnxRuntimeIoBinding(),
        OnnxRuntimeCudaGraph(),
        OnnxRuntimeTensorRt(),
        TensorRt(),
        TorchTensorRt(),
        OpenVino("openvino", "OpenVINO (latency)", RequestRunner),
        OpenVino("openvino-throughput", "OpenVINO (throughput)", QueueRunner),
        Tvm(),
        Tvm("tvm-cudagraph", "TVM (CUDA graph)", cuda_graph=True),
        Cudnn(),
    )
}

SERVED_WITHOUT_PYTHON = {name: backend.served_by for name, backend in BACKENDS.items() if hasattr(backend, "served_by")}
"""What loads the artifact of a backend where there is no Python. One that does not say so needs Python to run, such as
Torch-TensorRT, whose artifact is a program of ``torch.export``."""


def get_backend(name: str) -> Backend:
    """Return the backend called ``name``; CourseError names the valid ones."""
    if name not in BACKENDS:
        raise unknown_name("backend", name, tuple(BACKENDS))
    return BACKENDS[name]
