"""What the processes of a test session are forked from has imported more: a fork need not import that once more."""

from inference_lib.course.kernels import IMPORTED
from inference_lib.measure import beside, workers

FRAMEWORKS = ("onnxscript", "tvm")
"""What exports ask for, and takes long to import. Others start threads, which a fork would lack."""


def prepare() -> None:
    """Let it import all of this, whoever starts it: a worker, or a command whose own imports it runs beside."""
    workers.PRELOADED += IMPORTED + FRAMEWORKS
    beside.PRELOAD += IMPORTED + FRAMEWORKS
