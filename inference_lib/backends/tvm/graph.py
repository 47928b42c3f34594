"""What the course changes in the graph that TVM imports: sums in FP32, weights cast and laid out ahead of time."""

from typing import Any

import numpy as np
import tvm
from torch import fx
from tvm import relax

Importer = Any
Constant = type(relax.const(1.0))


def convert_convolution(node: fx.Node, importer: Importer) -> relax.Var:
    """Convert ``aten.conv2d``: products are summed in FP32, the bias is added, and the result rounded once.

    TVM's own converter leaves a 16-bit convolution in FP32, and then refuses to add a 16-bit bias to it.
    """
    x, weight, bias, stride, padding, dilation, groups = arguments(node, importer, None, [1, 1], [0, 0], [1, 1], 1)
    emit = importer.block_builder.emit
    options = {"strides": stride, "padding": padding, "dilation": dilation, "groups": groups}
    total = emit(relax.op.nn.conv2d(x, weight, **options, out_dtype="float32"))
    if bias is not None:
        total = emit(relax.op.add(total, relax.op.reshape(cast(bias, "float32", importer), (1, -1, 1, 1))))
    return cast(total, dtype_of(x), importer)


def convert_linear(node: fx.Node, importer: Importer) -> relax.Var:
    """Convert ``aten.linear`` in the same way."""
    x, weight, bias = arguments(node, importer, None)
    emit = importer.block_builder.emit
    total = emit(relax.op.matmul(x, relax.op.permute_dims(weight), out_dtype="float32"))
    if bias is not None:
        total = emit(relax.op.add(total, cast(bias, "float32", importer)))
    return cast(total, dtype_of(x), importer)


def convert_hardtanh(node: fx.Node, importer: Importer) -> relax.Var:
    """Convert ``aten.hardtanh``, which ReLU6 is traced to, into a maximum and a minimum.

    TVM's own converter makes a ``clip``, around which ConvertLayout puts two transpositions.
    """
    x, low, high = arguments(node, importer, -1.0, 1.0)
    low, high = (relax.const(bound, dtype_of(x)) for bound in (low, high))
    emit = importer.block_builder.emit
    return emit(relax.op.minimum(emit(relax.op.maximum(x, low)), high))


CONVERTERS = {
    "conv2d.default": convert_convolution,
    "linear.default": convert_linear,
    "hardtanh.default": convert_hardtanh,
    "hardtanh_.default": convert_hardtanh,
}


def arguments(node: fx.Node, importer: Importer, *defaults: Any) -> list[Any]:
    """Return the operation's arguments, the last ones from ``defaults`` where the call leaves them out."""
    given = list(importer.retrieve_args(node))
    required = len(node.target._schema.arguments) - len(defaults)  # type: ignore[union-attr]
    return given + list(defaults[len(given) - required :])


def dtype_of(x: relax.Expr) -> str:
    """Return the element type of a tensor, such as ``float16``."""
    return str(x.ty.dtype.dtype)


def cast(x: relax.Expr, dtype: str, importer: Importer) -> relax.Expr:
    """Return ``x`` in ``dtype``, itself where it is already."""
    return x if dtype_of(x) == dtype else importer.block_builder.emit(relax.op.astype(x, dtype))


def spell_out_axes(module: tvm.IRModule) -> tvm.IRModule:
    """Write what TVM's ConvertLayout misreads in another way: axes counted from the last one, and a stack.

    It looks for such an axis before the beginning of a list, and asks for as much memory as the bytes there happen to
    say: ``std::bad_alloc`` for a network whose weights would fit many times.
    """
    for variable, function in module.functions_items():
        module.update_func(variable, _SpellOutAxes().visit_expr(function))
    return module


@relax.expr_functor.mutator
class _SpellOutAxes(relax.PyExprMutator):  # type: ignore[misc]
    """Count axes from the first one, and join tensors along an axis that they have."""

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        name = getattr(call.op, "name", "")
        if name == "relax.squeeze" and call.attrs.axis:
            return relax.op.squeeze(call.args[0], _from_the_first(call.attrs.axis, call.args[0].ty.ndim))
        if name == "relax.permute_dims" and call.attrs.axes:
            return relax.op.permute_dims(call.args[0], _from_the_first(call.attrs.axes, call.args[0].ty.ndim))
        if name == "relax.stack":
            (axis,) = _from_the_first([call.attrs.axis or 0], call.ty.ndim)
            parts = [self.builder_.emit(relax.op.expand_dims(part, axis)) for part in call.args[0].fields]
            return relax.op.concat(parts, axis)
        return call


def _from_the_first(axes: Any, rank: int) -> list[int]:
    return [int(axis) % rank for axis in axes]


def fold_constants(module: tvm.IRModule) -> tvm.IRModule:
    """Cast, reshape and transpose the weights now, with NumPy; TVM would compile a loop program for each shape."""
    for variable, function in module.functions_items():
        module.update_func(variable, _FoldConstants(module).visit_expr(function))
    return relax.transform.CanonicalizeBindings()(module)


@relax.expr_functor.mutator
class _FoldConstants(relax.PyExprMutator):  # type: ignore[misc]
    """Replace a cast, a new shape or another order of axes of a constant by the result."""

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        fold = getattr(self, "fold_" + getattr(call.op, "name", "").removeprefix("relax."), None)
        if fold is None or (value := self.value(call.args[0])) is None:
            return call
        return relax.const(np.ascontiguousarray(fold(call, value)))

    def value(self, x: relax.Expr) -> np.ndarray | None:
        bound = self.lookup_binding(x) if isinstance(x, relax.Var) else x
        return bound.value.numpy() if isinstance(bound, Constant) else None

    def fold_astype(self, call: relax.Call, value: np.ndarray) -> np.ndarray:
        return value.astype(dtype_of(call))

    def fold_reshape(self, call: relax.Call, value: np.ndarray) -> np.ndarray:
        return value.reshape([int(size) for size in call.ty.shape])

    def fold_permute_dims(self, call: relax.Call, value: np.ndarray) -> np.ndarray:
        axes = call.attrs.axes
        return value.transpose([int(axis) for axis in axes] if axes else None)
