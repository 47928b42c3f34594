"""A network as the list of fused operations that cuDNN and a few kernels of ours compute.

A convolution takes its batch norm, its bias, the shortcut that is added and the ReLU with it, so that each tensor is
written to memory once, in the type in which the next operation reads it.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from inference_lib.backends.shared.fusion import fold_batch_norms
from inference_lib.support.errors import CourseError

PICTURES = "pictures"
"""The name of the network's input."""

Pair = tuple[int, int]
"""Of the height and of the width."""


@dataclass
class Convolution:
    """Filters over one tensor, a bias, and then perhaps a shortcut and a ReLU.

    A linear layer is one whose filter is as large as its picture. ``ceiling`` is where the ReLU ends: 6 for a ReLU6,
    infinity for a plain one, None where there is none.
    """

    name: str
    reads: str
    weight: torch.Tensor  # outputs x inputs of a group x height x width, FP32
    bias: torch.Tensor  # outputs, FP32
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1
    shortcut: str | None = None
    ceiling: float | None = None
    linear: bool = False


@dataclass
class MaxPool:
    """The largest number of each window."""

    name: str
    reads: str
    size: int
    stride: int
    padding: int


@dataclass
class Mean:
    """The mean of each channel over the whole picture."""

    name: str
    reads: str


Operation = Convolution | MaxPool | Mean


@dataclass
class Program:
    """Operations in their order; each writes the tensor of its name, the last one the logits."""

    operations: list[Operation] = field(default_factory=list)
    shapes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Channels, height and width of each tensor, the pictures among them."""

    @property
    def convolutions(self) -> list[Convolution]:
        """The operations that multiply."""
        return [operation for operation in self.operations if isinstance(operation, Convolution)]

    def readers(self, tensor: str) -> list[Operation]:
        """Return the operations that read ``tensor`` as their input; those that add it as a shortcut are left out."""
        return [operation for operation in self.operations if operation.reads == tensor]

    def products(self, convolution: Convolution) -> int:
        """Return the multiply-adds of ``convolution`` for one picture."""
        return math.prod(self.shapes[convolution.name]) * math.prod(convolution.weight.shape[1:])


def program_of(model: nn.Module, input_shape: tuple[int, ...]) -> Program:
    """Return ``model`` (in evaluation mode) as a program; ``input_shape`` is that of one picture.

    Raises:
        CourseError: it holds an operation that has no place here; the message names it.

    """
    try:
        traced = fold_batch_norms(model, torch.float32)
        with torch.no_grad():
            ShapeProp(traced).propagate(torch.zeros(1, *input_shape))
    except fx.proxy.TraceError as error:
        raise CourseError(f"the network's Python code cannot be traced: {error}") from error
    reader = _Reader(traced)
    for node in traced.graph.nodes:
        reader.read(node)
    return reader.program


class _Reader:
    """Goes through a traced module, and appends to the program what each node adds to it."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced, self.program = traced, Program()
        self.names: dict[fx.Node, str] = {}  # in which tensor of the program a node's result is

    def read(self, node: fx.Node) -> None:
        """Add one node."""
        if node.op == "output":
            return
        if node.op == "placeholder":
            self.names[node] = PICTURES
            self.program.shapes[PICTURES] = _shape(node)
            return
        module = self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        for kinds, functions, add in _KINDS:
            if isinstance(module, kinds) or (module is None and node.target in functions):
                add(self, node, module)
                return
        raise _refused(node, "is not among the operations that this backend fuses", module)

    def same(self, node: fx.Node, module: nn.Module | None) -> None:
        """Skip what does nothing at inference, and a reshape to one row a picture: the tensor stays the one it read."""
        self.names[node] = self.input(node)

    def convolution(self, node: fx.Node, module: nn.Conv2d) -> None:
        """Add a convolution, without what may follow."""
        if module.padding_mode != "zeros" or isinstance(module.padding, str) or _pair(module.dilation) != (1, 1):
            raise _refused(node, "has another padding than zeros, or holes", module)
        bias = torch.zeros(module.out_channels) if module.bias is None else module.bias.detach()
        geometry = (_pair(module.stride), _pair(module.padding), module.groups)
        self.add(node, Convolution(node.name, self.input(node), module.weight.detach(), bias, *geometry))

    def linear(self, node: fx.Node, module: nn.Linear) -> None:
        """Add a linear layer as the convolution that it is: its columns are in the order channel, row, column."""
        tensor = self.input(node)
        weight = module.weight.detach().reshape(module.out_features, *self.program.shapes[tensor])
        bias = torch.zeros(module.out_features) if module.bias is None else module.bias.detach()
        self.add(node, Convolution(node.name, tensor, weight, bias, linear=True))

    def shortcut(self, node: fx.Node, module: None) -> None:
        """Let a convolution add the other tensor; nothing else reads its sum, so it may wait for that tensor."""
        tensors = [self.names[before] for before in node.args[:2] if isinstance(before, fx.Node)]
        for tensor, other in (tensors, tensors[::-1]) if len({*tensors}) == 2 else ():
            operation = self.open(tensor, node)
            if operation and operation.shortcut is None:
                self.program.operations.remove(operation)
                self.program.operations.append(operation)
                operation.shortcut = other
                self.names[node] = tensor
                return
        raise _refused(node, "adds something else than a shortcut to a convolution's result", module)

    def relu(self, node: fx.Node, module: nn.Module | None) -> None:
        """Let the convolution that wrote the tensor rectify it."""
        operation = self.open(self.input(node), node)
        if operation is None:
            raise _refused(node, "does not follow a convolution that nothing else reads", module)
        operation.ceiling = 6.0 if isinstance(module, nn.ReLU6) or node.target is functional.relu6 else math.inf
        self.names[node] = operation.name

    def max_pool(self, node: fx.Node, module: nn.MaxPool2d) -> None:
        """Add a pool with square windows."""
        size, stride, padding = (_pair(value) for value in (module.kernel_size, module.stride, module.padding))
        if any(one != other for one, other in (size, stride, padding)) or module.ceil_mode or module.dilation != 1:
            raise _refused(node, "has windows that are not square, or holes, or a part of a window at the end", module)
        self.add(node, MaxPool(node.name, self.input(node), size[0], stride[0], padding[0]))

    def mean(self, node: fx.Node, module: nn.Module | None) -> None:
        """Add the mean over the picture."""
        if _shape(node)[1:] != (1, 1):
            raise _refused(node, "leaves more than one pixel", module)
        self.add(node, Mean(node.name, self.input(node)))

    def add(self, node: fx.Node, operation: Operation) -> None:
        """Append ``operation``, which computes ``node``."""
        self.program.operations.append(operation)
        self.program.shapes[operation.name] = _shape(node)
        self.names[node] = operation.name

    def input(self, node: fx.Node) -> str:
        """Return the tensor that ``node`` reads."""
        before = node.args[0]
        assert isinstance(before, fx.Node)
        return self.names[before]

    def open(self, tensor: str, node: fx.Node) -> Convolution | None:
        """Return the convolution that writes ``tensor`` if ``node`` may follow in the same operation.

        None where the ReLU has closed it, or where other nodes read what it has computed so far.
        """
        holders = {holder for holder, name in self.names.items() if name == tensor}
        readers = {user for holder in holders for user in holder.users} - holders
        if readers != {node}:
            return None
        return next(
            (found for found in self.program.convolutions if found.name == tensor and found.ceiling is None), None
        )


def _shape(node: fx.Node) -> tuple[int, int, int]:
    """Return channels, height and width of what ``node`` computes; a row of numbers has one pixel."""
    shape = tuple(node.meta["tensor_meta"].shape[1:])
    return (*shape, *(1,) * (3 - len(shape)))


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else tuple(value)


def _refused(node: fx.Node, why: str, module: nn.Module | None) -> CourseError:
    what = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
    return CourseError(f"{what} ({node.name}) {why}")


_Add = Callable[[_Reader, fx.Node, Any], None]
_KINDS: tuple[tuple[tuple[type[nn.Module], ...], tuple[Any, ...], _Add], ...] = (
    ((nn.Dropout, nn.Identity, nn.Flatten), (torch.flatten, functional.dropout, "flatten"), _Reader.same),
    ((nn.Conv2d,), (), _Reader.convolution),
    ((nn.Linear,), (), _Reader.linear),
    ((), (operator.add, operator.iadd, torch.add), _Reader.shortcut),
    ((nn.ReLU, nn.ReLU6), (torch.relu, functional.relu, functional.relu6, "relu"), _Reader.relu),
    ((nn.MaxPool2d,), (), _Reader.max_pool),
    ((nn.AdaptiveAvgPool2d,), (functional.adaptive_avg_pool2d,), _Reader.mean),
)
