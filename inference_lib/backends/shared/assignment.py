"""Which of ONNX Runtime's providers runs which node of a session, and whether that is where the work belongs."""

from typing import Any

from inference_lib.support.errors import CourseError

WORK = {
    *("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"),
    *("QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization", "Relu", "Softmax"),
}
"""Operations on pictures, none of which computes a shape."""


def check_assignment(session: Any, wanted: str) -> None:
    """Refuse a session that leaves work to another provider than ``wanted``: each such node costs two copies.

    What computes shapes may be there: ONNX Runtime puts it on the CPU on purpose, where shapes are read.

    Raises:
        CourseError: an operation of ``WORK`` is elsewhere; the line names each.

    """
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name != wanted]
    left = {f"{n.op_type} {n.name} ({part.ep_name})" for part in parts for n in part.get_nodes() if n.op_type in WORK}
    if left:
        raise CourseError(f"ONNX Runtime left work of {wanted} to another provider: {', '.join(sorted(left))}")
