"""Fold batch norms into convolutions, and fuse a convolution with what follows: cuDNN can, and PyTorch never asks."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Operation = torch._ops.OpOverload
CONVOLUTION_RELU: Operation = torch.ops.aten.cudnn_convolution_relu.default
CONVOLUTION_ADD_RELU: Operation = torch.ops.aten.cudnn_convolution_add_relu.default

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
FOLDABLE = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))


def fold_batch_norms(model: nn.Module, dtype: torch.dtype) -> fx.GraphModule:
    """Return a traced copy of ``model`` in ``dtype``, its batch norms folded into the convolutions before them.

    A batch norm at inference multiplies each channel by a constant and adds another, so its constants go into the
    filters and biases of the convolution. They are folded in FP32 and then rounded: once where ``model`` is FP32, for
    a second time where its weights come from a file in sixteen bits.

    A batch norm stays where the convolution's result is used elsewhere, too, where it uses statistics of the batch, and
    where a hook changes what either does. A convolution that is called in several places, or whose weights others use,
    keeps its own: the call before the batch norm gets a convolution of its own.

    PyTorch's ``torch.fx.experimental.optimization.fuse`` changes every call of a convolution that it folds into.
    """
    traced = trace(copy.deepcopy(model).float())
    for node in list(traced.graph.nodes):
        norm, before = _module(traced, node), node.args[0] if node.args else None
        convolution = _module(traced, before)
        if not isinstance(before, fx.Node) or len(before.users) > 1:
            continue
        if not isinstance(norm, BatchNorm) or not isinstance(convolution, Convolution):
            continue
        if not _is_foldable(convolution, norm):
            continue
        _give(traced, before, fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    _tidy(traced)
    return traced.to(dtype)


def trace(model: nn.Module) -> fx.GraphModule:
    """Return ``model`` traced; a part whose Python code ``torch.fx`` cannot follow stays as it is, and is called."""
    tracer = _Tracer()
    try:
        return fx.GraphModule(model, tracer.trace(model))
    except Exception:  # a condition, a loop over a tensor: the code of the model itself cannot be followed
        whole = nn.Sequential(model)
        return fx.GraphModule(whole, _Tracer().trace(whole))


class _Tracer(fx.Tracer):
    """A tracer that calls a submodule as it is where it cannot look inside."""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the proxy of what ``m`` returns."""
        before = len(self.graph.nodes)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # whatever the code of a model does with what is no tensor
            for node in reversed(list(self.graph.nodes)[before:]):
                self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def _is_foldable(convolution: Convolution, norm: BatchNorm) -> bool:
    """Whether both compute what PyTorch wrote, no subclass and no hook, and ``norm`` with constants of its own."""
    constant = not norm.training and norm.running_mean is not None
    return (
        constant and (type(convolution), type(norm)) in FOLDABLE and not (_has_hooks(convolution) or _has_hooks(norm))
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def fuse_convolutions(model: nn.Module, dtype: torch.dtype | None = None) -> fx.GraphModule:
    """Return ``model`` with fewer kernels: batch norms folded, biases, shortcuts and ReLUs inside the convolutions.

    Each ReLU becomes part of the convolution whose result it rectifies, with the shortcut that is added in between, if
    there is one; of a ReLU6 the upper bound remains. Depthwise convolutions keep theirs: cuDNN fuses none into them.

    The result runs on CUDA devices only, in ``dtype``: without one, the model's own.
    """
    fused = fold_batch_norms(model, dtype or next(model.parameters()).dtype)
    subsample_first(fused)
    for node in list(fused.graph.nodes):
        if isinstance(_module(fused, node), nn.ReLU | nn.ReLU6) and (convolution := _fused_with(fused, node)):
            node.replace_all_uses_with(convolution)
            _erase_unread(fused, node)
    _tidy(fused)
    return fused


def subsample_first(model: fx.GraphModule) -> None:
    """Make every 1 x 1 convolution with a stride one without: it gets only the pixels that it would read, in place.

    Without a stride it is a matrix product. With one, cuDNN may choose a kernel that uses no tensor cores and wants
    another layout. One that pads the image reads other pixels, and keeps its stride.
    """
    for node in list(model.graph.nodes):
        convolution = _module(model, node)
        if not isinstance(convolution, nn.Conv2d) or convolution.kernel_size != (1, 1) or convolution.stride == (1, 1):
            continue
        if convolution.padding not in ((0, 0), "valid") or _has_hooks(convolution):
            continue
        steps = [slice(None, None, step) for step in convolution.stride]
        with model.graph.inserting_before(node):
            pixels = model.graph.call_function(operator.getitem, (node.args[0], (slice(None), slice(None), *steps)))
        dense = copy.copy(convolution)  # another call may want the stride; the weights are the same tensors
        dense.stride = (1, 1)
        _give(model, node, dense)
        node.args = (pixels,)
    _tidy(model)


def _give(model: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Let ``node`` call ``module``, under a name that no other call has."""
    name = f"{node.name}_alone"
    model.add_submodule(name, module)
    node.target = name


def _tidy(model: fx.GraphModule) -> None:
    """Remove the modules that nothing calls any more.

    The graph's own ``eliminate_dead_code`` would remove an activation that works in place and whose result nobody
    reads by name.
    """
    model.delete_all_unused_submodules()
    model.recompile()


def _erase_unread(model: fx.GraphModule, node: fx.Node) -> None:
    """Remove a ReLU that was fused, and the addition and convolution before it as far as nothing else reads them."""
    before = node.args[0]
    model.graph.erase_node(node)
    if isinstance(before, fx.Node) and not before.users and (_adds(before) or _is_fusible(model, before, users=0)):
        _erase_unread(model, before)


def _fused_with(model: fx.GraphModule, relu: fx.Node) -> fx.Node | None:
    """Insert the fused convolution that computes ``relu``, and return it; None where there is nothing to fuse."""
    before = relu.args[0]
    assert isinstance(before, fx.Node)
    with model.graph.inserting_before(before):  # what is read there may be overwritten before the ReLU
        if _is_fusible(model, before):
            result = _call(model, CONVOLUTION_RELU, before)
        elif _adds_shortcut(model, before):
            convolution, shortcut = before.args
            result = _call(model, CONVOLUTION_ADD_RELU, convolution, shortcut, 1.0)
        else:
            return None
        if isinstance(_module(model, relu), nn.ReLU6):
            result = model.graph.call_function(torch.clamp_max, (result, 6.0))
    return result


def _adds(node: fx.Node) -> bool:
    return node.target in (operator.add, operator.iadd)


def _adds_shortcut(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` adds another tensor to a convolution's result, for the ReLU alone.

    What stands between the two must write to no tensor: the convolution is moved past it.
    """
    if not _adds(node) or len(node.users) > 1 or not isinstance(node.args[1], fx.Node):
        return False
    if node.args[0] is node.args[1] or not _is_fusible(model, node.args[0]):
        return False
    between = node.prev
    while between is not node.args[0] and _writes_nothing(model, between):
        between = between.prev
    return between is node.args[0]


def _writes_nothing(model: fx.GraphModule, node: fx.Node) -> bool:
    if module := _module(model, node):
        return not getattr(module, "inplace", False)
    return node.op == "get_attr" or node.target in (operator.getitem, CONVOLUTION_RELU, CONVOLUTION_ADD_RELU)


def _is_fusible(model: fx.GraphModule, node: fx.node.Argument, users: int = 1) -> bool:
    """Whether ``node`` is a dense convolution, padded with a number of zeros, whose result nothing else reads."""
    module = _module(model, node)
    if not isinstance(node, fx.Node) or type(module) is not nn.Conv2d or _has_hooks(module):
        return False
    plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return plain and module.groups == 1 and len(node.users) == users


def _call(model: fx.GraphModule, operation: Operation, node: fx.node.Argument, *shortcut: fx.node.Argument) -> fx.Node:
    """Insert a call of ``operation`` with the input, weights and geometry of the convolution that ``node`` calls."""
    convolution = _module(model, node)
    assert isinstance(node, fx.Node)
    assert isinstance(convolution, nn.Conv2d)
    weight = model.graph.get_attr(f"{node.target}.weight")
    bias = None if convolution.bias is None else model.graph.get_attr(f"{node.target}.bias")
    geometry = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
    return model.graph.call_function(operation, (node.args[0], weight, *shortcut, bias, *geometry))


def _module(model: fx.GraphModule, node: fx.node.Argument) -> nn.Module | None:
    """Return the module that ``node`` calls, if it calls one."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return model.get_submodule(str(node.target))
    return None
