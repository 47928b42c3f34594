"""How each backend is drawn in the whole book: a colour per framework, a marker and a dash per way of using it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """The colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), told apart by colour-blind readers."""

    color: str
    marker: str = "o"
    dash: str = "-"


STYLES = {
    "pytorch": Style("#D55E00"),
    "pytorch-cudagraph": Style("#D55E00", "s", "--"),
    "torchscript": Style("#E69F00"),
    "torchscript-cudagraph": Style("#E69F00", "s", "--"),
    "torch-compile": Style("#009E73"),
    "aot-inductor": Style("#009E73", "s", "--"),
    "onnxruntime": Style("#3A8FD0"),
    "onnxruntime-iobinding": Style("#3A8FD0", "D", "-."),
    "onnxruntime-cudagraph": Style("#3A8FD0", "s", "--"),
    "onnxruntime-tensorrt": Style("#3A8FD0", "^", ":"),
    "tensorrt": Style("#6A3D9A", "s", "--"),
    "torch-tensorrt": Style("#6A3D9A", "o", "-"),
    "openvino": Style("#CC79A7"),
    "openvino-throughput": Style("#CC79A7", "s", "--"),
    "tvm": Style("#999933"),
    "tvm-cudagraph": Style("#999933", "s", "--"),
    "cudnn": Style("#A0522D", "P", "-."),
}


def style_of(backend: str) -> Style:
    """Return how ``backend`` is drawn; one that has no line above is grey."""
    return STYLES.get(backend, Style("#888888"))
