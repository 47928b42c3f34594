"""An ONNX file that a reader brings, as a module: what an exporter reads, and the reference for its answers."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inference_lib.support.errors import CourseError, first_line


class OnnxFile(nn.Module):
    """The graph in ``path``, computed by ONNX Runtime on the CPU, every optimization off: what the file itself says."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @cached_property
    def session(self) -> Any:
        """ONNX Runtime's session; CourseError where the file cannot be read."""
        import onnxruntime as ort

        ort.set_default_logger_severity(4)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return ort.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a dozen kinds, of which the base is no public name
            said = re.sub(
                r"^.*?ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?", "", first_line(str(error))
            )
            raise CourseError(
                f"{self.path.name} cannot be read: {said.rstrip('. ')}; export it again, external weights beside it"
            ) from error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of ``images``."""
        (found,) = self.session.run(None, {self.session.get_inputs()[0].name: images.numpy()})
        return torch.from_numpy(found)

    def write(self, path: Path, reads: str, returns: str) -> None:
        """Write the graph to ``path``, weights inside, its input called ``reads`` and its output ``returns``."""
        from onnxscript import ir

        model = ir.load(self.path)
        ir.external_data.load_to_model(model)
        graph = model.graph
        ends = {reads: graph.inputs[0], returns: graph.outputs[0]}
        inner = [*(output for node in graph.all_nodes() for output in node.outputs), *graph.initializers.values()]
        for value in inner:
            if value.name in ends and value not in ends.values():
                value.name = f"{value.name}_inside"  # the name is wanted elsewhere
        for name, value in ends.items():
            value.name = name
        ir.save(model, path)
