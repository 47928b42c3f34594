"""TensorRT: an ONNX graph compiled to an engine for one GPU, in the precision of the graph."""

# ruff: noqa: F401 (the names are for others)

from inference_lib.backends.tensorrt.backend import TensorRt, export_typed, signed_inputs
from inference_lib.backends.tensorrt.engine import (
    ENGINE_FILE,
    NAMES,
    EngineRunner,
    build_engine,
    engine_layers,
    load_engine,
    load_tensorrt,
    log,
    logger,
    parse,
    trt,
    why_no_build,
)
