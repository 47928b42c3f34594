"""A model repository for NVIDIA Triton Inference Server: the ONNX file, and how it is to be batched.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
Triton's server is a container and does not run here. What is written is checked for its syntax by the tests.
"""

from pathlib import Path
from typing import Any

from inference_lib.backends.onnxruntime import MODEL_FILE
from inference_lib.seam import Artifact
from inference_lib.support.errors import CourseError
from inference_lib.support.files import write_atomically

CONFIG_FILE = "config.pbtxt"
VERSION = "1"
TYPES = {"FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "BFLOAT16": "TYPE_BF16"}
"""Triton's names of ONNX's types."""


def write_repository(artifact: Artifact, folder: Path, max_batch: int, max_wait_s: float) -> Path:
    """Write ``folder``/MODEL with one version of ``artifact``, an export of ONNX Runtime; return that directory.

    Raises:
        CourseError: the export is no ONNX file, or its batch is fixed.

    """
    import onnx

    source = artifact.directory / MODEL_FILE
    if not source.is_file():
        raise CourseError(f"{artifact.directory} holds no {MODEL_FILE}; Triton takes an export of `onnxruntime`")
    name, graph = artifact.workload.model.name, onnx.load(source, load_external_data=False).graph
    text = config(name, graph, max_batch, max_wait_s, artifact.workload.on_gpu)
    version = folder / name / VERSION
    version.mkdir(parents=True, exist_ok=True)
    for file in artifact.directory.glob(f"{MODEL_FILE}*"):  # a large model keeps its weights in a file beside it
        write_atomically(version / file.name, file.read_bytes())  # a server may look for changes meanwhile
    write_atomically(folder / name / CONFIG_FILE, text.encode())
    return folder / name


def config(name: str, graph: Any, max_batch: int, max_wait_s: float, on_gpu: bool = True) -> str:
    """Return the text of ``config.pbtxt`` (protobuf text format, message inference.ModelConfig) for an ONNX graph.

    Triton does not pad a batch, so every size is warmed up: otherwise the first request of each takes seconds
    (triton-inference-server/server#7776).
    """
    (image,), (logits,) = graph.input, graph.output
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch}",
        f'input {{ name: "{image.name}" {_tensor(image)} }}',
        f'output {{ name: "{logits.name}" {_tensor(logits)} }}',
        f"instance_group {{ count: 1 kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} }}",
        f"dynamic_batching {{ max_queue_delay_microseconds: {round(max_wait_s * 1e6)} }}",
    ]
    for size in range(1, max_batch + 1):
        zeros = f'inputs {{ key: "{image.name}" value {{ {_tensor(image)} zero_data: true }} }}'
        lines.append(f'model_warmup {{ name: "batch {size}" batch_size: {size} {zeros} }}')
    return "\n".join(lines) + "\n"


def _tensor(value: Any) -> str:
    """Return type and dimensions of a graph's input or output, without the batch, which must be open."""
    import onnx

    kind, shape = value.type.tensor_type.elem_type, value.type.tensor_type.shape.dim
    if shape[0].dim_value:
        raise CourseError(f"the batch of {value.name} is fixed at {shape[0].dim_value}; export it with an open one")
    dims = ", ".join(str(dimension.dim_value) for dimension in shape[1:])
    return f"data_type: {TYPES[onnx.TensorProto.DataType.Name(kind)]} dims: [ {dims} ]"
