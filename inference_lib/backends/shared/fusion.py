"""Fuse a convolution with what follows it: cuDNN can do that in one kernel, and eager PyTorch never asks for it."""

import operator

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

Operation = torch._ops.OpOverload
CONVOLUTION_RELU: Operation = torch.ops.aten.cudnn_convolution_relu.default
CONVOLUTION_ADD_RELU: Operation = torch.ops.aten.cudnn_convolution_add_relu.default


def fuse_convolutions(model: nn.Module) -> fx.GraphModule:
    """Return ``model`` with fewer kernels: batch norms folded, biases, shortcuts and ReLUs inside the convolutions.

    A batch norm at inference multiplies each channel by a constant and adds another, so its constants go into the
    filters and biases of the convolution before it. They are folded in FP32 and rounded once. Then each ReLU becomes
    part of the convolution whose result it rectifies, with the shortcut that is added in between, if there is one;
    of a ReLU6 the upper bound remains. Depthwise convolutions keep theirs: cuDNN fuses none into them.

    The result runs on CUDA devices only.
    """
    dtype = next(model.parameters()).dtype
    fused = fuse(model.float()).to(dtype)
    assert isinstance(fused, fx.GraphModule)
    subsample_first(fused)
    for node in list(fused.graph.nodes):
        if isinstance(_module(fused, node), nn.ReLU | nn.ReLU6) and (convolution := _fused_with(fused, node)):
            node.replace_all_uses_with(convolution)
            fused.graph.erase_node(node)
    fused.graph.eliminate_dead_code()
    fused.recompile()
    return fused


def subsample_first(model: fx.GraphModule) -> None:
    """Make every 1 x 1 convolution with a stride one without: it gets only the pixels that it would read, in place.

    Without a stride it is a matrix product. With one, cuDNN may choose a kernel that uses no tensor cores and wants
    another layout.
    """
    for node in list(model.graph.nodes):
        convolution = _module(model, node)
        if not isinstance(convolution, nn.Conv2d) or convolution.kernel_size != (1, 1) or convolution.stride == (1, 1):
            continue
        steps = [slice(None, None, step) for step in convolution.stride]
        with model.graph.inserting_before(node):
            pixels = model.graph.call_function(operator.getitem, (node.args[0], (slice(None), slice(None), *steps)))
        node.args = (pixels,)
        convolution.stride = (1, 1)
    model.recompile()


def _fused_with(model: fx.GraphModule, relu: fx.Node) -> fx.Node | None:
    """Insert the fused convolution that computes ``relu``, and return it; None where there is nothing to fuse."""
    before = relu.args[0]
    assert isinstance(before, fx.Node)
    with model.graph.inserting_before(relu):
        if _is_fusible(model, before):
            result = _call(model, CONVOLUTION_RELU, before)
        elif before.target in (operator.add, operator.iadd) and _is_fusible(model, before.args[0]):
            convolution, shortcut = before.args
            result = _call(model, CONVOLUTION_ADD_RELU, convolution, shortcut, 1.0)
        else:
            return None
        if isinstance(_module(model, relu), nn.ReLU6):
            result = model.graph.call_function(torch.clamp_max, (result, 6.0))
    return result


def _is_fusible(model: fx.GraphModule, node: fx.node.Argument) -> bool:
    """Whether ``node`` is a dense convolution whose result nothing else reads."""
    module = _module(model, node)
    if not isinstance(node, fx.Node) or not isinstance(module, nn.Conv2d):
        return False
    return module.groups == 1 and len(node.users) == 1


def _call(model: fx.GraphModule, operation: Operation, node: fx.node.Argument, *shortcut: fx.node.Argument) -> fx.Node:
    """Insert a call of ``operation`` with the input, weights and geometry of the convolution that ``node`` calls."""
    convolution = _module(model, node)
    assert isinstance(node, fx.Node)
    assert isinstance(convolution, nn.Conv2d)
    weight, bias = (model.graph.get_attr(f"{node.target}.{name}") for name in ("weight", "bias"))
    geometry = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
    return model.graph.call_function(operation, (node.args[0], weight, *shortcut, bias, *geometry))


def _module(model: fx.GraphModule, node: fx.node.Argument) -> nn.Module | None:
    """Return the module that ``node`` calls, if it calls one."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return model.get_submodule(str(node.target))
    return None
