"""A network on a GPU: what each operation launches, written to a file at export and launched from it."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from inference_lib.backends.cudnn.arithmetic import LARGEST, Network, is_depthwise
from inference_lib.backends.cudnn.compiler import BIAS, FACTOR, FILTERS, MULTIPLIER, PICTURE, RESULT, SHORTCUT, Spec
from inference_lib.backends.cudnn.kernels import TYPES, Kernels, compile_kernels
from inference_lib.backends.cudnn.pixels import Form, filters, forms
from inference_lib.backends.cudnn.plans import DTYPES, NAMES, Plan, Timed
from inference_lib.backends.cudnn.program import PICTURES, Convolution, MaxPool, Operation
from inference_lib.support.errors import CourseError

PICTURE_CHANNELS = 4
"""Of a pixel of the pictures in memory: three and a zero."""

LOAD_BYTES = 16
"""The most that a thread of a GPU loads at once."""

STRIP = 4
"""Neighbours of a row that one thread of the depthwise kernel computes."""

SIZES = (3, 5, 7)
"""Of the depthwise filters that are compiled."""

Description = dict[str, Any]
"""One launch: its kind, the tensors that it reads and writes, and what it is called with."""


def is_cudnn(operation: Operation) -> bool:
    """Whether cuDNN computes ``operation``: convolutions that are neither linear nor depthwise."""
    return isinstance(operation, Convolution) and not operation.linear and not is_depthwise(operation)


def specs_of(network: Network, convolution: Convolution, batch: int) -> list[tuple[Form, Spec]]:
    """Return the forms in which cuDNN may compute ``convolution``, and what it is asked for then."""
    program, fused = network.program, network.fused[convolution.name]
    inside, height, width = program.shapes[convolution.reads]
    channels = PICTURE_CHANNELS if convolution.reads == PICTURES else inside
    writes, ours = network.stored[convolution.name].dtype, convolution.reads == PICTURES
    others = [c.name for c in program.convolutions if PICTURES in (c.reads, c.shortcut) and c is not convolution]
    found = forms(
        convolution, channels, (height, width), program.shapes[convolution.name][1:], rows=ours and not others
    )
    ceiling = fused.ceiling
    if ceiling is not None and ceiling >= LARGEST.get(writes, math.inf) * (1 - 1e-6):
        ceiling = math.inf  # the type ends there, too
    common: dict[str, Any] = {
        "batch": batch,
        "reads": NAMES[network.stored[convolution.reads].dtype],
        "writes": NAMES[writes],
        "shortcut": NAMES[network.stored[convolution.shortcut].dtype] if convolution.shortcut else None,
        "rescaled": bool((fused.multiplier != 1).any()),
        "ceiling": ceiling,
    }
    return [
        (
            form,
            Spec(
                channels=channels * form.inputs * form.rows,
                size=(height // form.rows, width // form.inputs),
                outputs=len(convolution.weight) * max(form.outputs, 1),
                kernel=form.kernel,
                stride=form.stride,
                before=form.before,
                after=form.after,
                **common,
            ),
        )
        for form in found
    ]


def fastest_forms(network: Network, batch: int, timed: dict[Spec, Timed]) -> dict[str, tuple[Form, Spec]]:
    """Return the fastest form of each convolution that cuDNN computes.

    Raises:
        CourseError: cuDNN has no plan for any form of one.

    """
    found = {}
    for convolution in filter(is_cudnn, network.program.convolutions):
        usable = [pair for pair in specs_of(network, convolution, batch) if pair[1] in timed]
        if not usable:
            reads = NAMES[network.stored[convolution.reads].dtype]
            raise CourseError(f"cuDNN has no plan for the convolution {convolution.name} in {reads} on this GPU")
        found[convolution.name] = min(usable, key=lambda pair: timed[pair[1]].microseconds)
    return found


def describe(
    network: Network, batch: int, host: torch.dtype, chosen: dict[str, tuple[Form, Spec]]
) -> list[Description]:
    """Return all launches of ``network`` in their order; the pictures come in ``host``'s type."""
    inside, height, width = network.program.shapes[PICTURES]
    if inside > PICTURE_CHANNELS:
        raise CourseError(f"pictures with {inside} channels; this backend takes at most {PICTURE_CHANNELS}")
    stored, area = network.stored[PICTURES], height * width
    readers = [reader.name for reader in network.program.readers(PICTURES) if is_cudnn(reader)]
    rows = max((chosen[name][0].rows for name in readers), default=1)
    first = {
        "kind": "kernel",
        "name": PICTURES,
        "reads": "",
        "kernel": f"pictures<{TYPES[host]}, {TYPES[stored.dtype]}, {rows}>",
        "scalars": [_threads(batch * area), area, width, inside, 1 / stored.scale],
        **_memory(batch, (PICTURE_CHANNELS, height, width), stored.dtype),
    }
    return [first, *(_described(network, operation, batch, chosen) for operation in network.program.operations)]


def _threads(count: int) -> int:
    """Return ``count``, the threads of a kernel of ours; CourseError where they are too many for numbers of 32 bits."""
    if count >= 2**31:
        raise CourseError("the batch is too large for this backend's kernels; choose a smaller one")
    return count


def _memory(batch: int, shape: tuple[int, int, int], dtype: torch.dtype) -> Description:
    channels, height, width = shape
    return {"shape": [batch, height, width, channels], "dtype": NAMES[dtype]}


def _described(network: Network, operation: Operation, batch: int, chosen: dict[str, tuple[Form, Spec]]) -> Description:
    shapes, reads, writes = network.program.shapes, network.stored[operation.reads], network.stored[operation.name]
    (inside, height, width), (_, rows, columns) = shapes[operation.reads], shapes[operation.name]
    common = {"name": operation.name, "reads": operation.reads, **_memory(batch, shapes[operation.name], writes.dtype)}
    types, fours = f"{TYPES[reads.dtype]}, {TYPES[writes.dtype]}", inside // 4
    if is_cudnn(operation):
        assert isinstance(operation, Convolution)
        return common | {"kind": "cudnn", "shortcut": operation.shortcut, "spec": asdict(chosen[operation.name][1])}
    if isinstance(operation, Convolution) and operation.linear:
        return common | {"kind": "linear", "ceiling": operation.ceiling}
    if inside % 4:
        raise CourseError(f"{operation.name} reads {inside} channels; this backend takes multiples of 4")
    pixels = batch * rows * columns
    if isinstance(operation, Convolution):
        (size, other), (stride, step), (padding, left) = operation.weight.shape[2:], operation.stride, operation.padding
        if size not in SIZES or (size, stride, padding) != (other, step, left):
            raise CourseError(f"{operation.name} is a depthwise convolution that is not square, or of another size")
        ceiling = network.fused[operation.name].ceiling
        limits = [-math.inf, math.inf] if ceiling is None else [0.0, ceiling]
        strips = batch * rows * -(-columns // STRIP) * fours
        return common | {
            "kind": "kernel",
            "kernel": f"depthwise<{types}, {size}, {stride}, {STRIP}>",
            "constants": ["weight", "multiplier", "bias"],
            "scalars": [_threads(strips), fours, height, width, rows, columns, padding, *limits],
        }
    factor = reads.scale / writes.scale
    if isinstance(operation, MaxPool):
        many = math.gcd(inside, LOAD_BYTES // max(reads.dtype.itemsize, writes.dtype.itemsize))
        groups = inside // many
        sizes = [groups, height, width, rows, columns, operation.size, operation.stride, operation.padding]
        kernel, scalars = f"max_pool<{types}, {many}>", [_threads(pixels * groups), *sizes, factor]
    else:
        kernel, scalars = f"mean<{types}>", [_threads(batch * fours), fours, height * width, factor]
    return common | {"kind": "kernel", "kernel": kernel, "scalars": scalars}


def constants_of(network: Network, chosen: dict[str, tuple[Form, Spec]]) -> dict[str, torch.Tensor]:
    """Return the weights, multipliers and biases as the launches read them."""
    found = {}
    for convolution in network.program.convolutions:
        name, fused = convolution.name, network.fused[convolution.name]
        multiplier, bias = fused.multiplier.float(), fused.bias.float()
        if name in chosen:
            form, spec = chosen[name]
            channels, times = spec.channels // (form.inputs * form.rows), max(form.outputs, 1)
            weight = filters(convolution, form, fused.weight.float(), channels).to(fused.weight.dtype)
            multiplier, bias = multiplier.repeat(times), bias.repeat(times)
        elif convolution.linear:  # rows, columns, channels: as the picture lies in memory
            weight, bias = fused.weight.permute(0, 2, 3, 1).flatten(1), bias.to(fused.weight.dtype)
        else:
            weight = fused.weight[:, 0].permute(1, 2, 0)
        if convolution.shortcut:
            found[f"{name}.factor"] = torch.tensor([fused.factor])
        found |= {f"{name}.weight": weight, f"{name}.multiplier": multiplier, f"{name}.bias": bias}
    return {name: tensor.contiguous() for name, tensor in found.items()}


def save(
    path: Path,
    network: Network,
    batch: int,
    host: torch.dtype,
    timed: dict[Spec, Timed],
    architecture: str,
    seconds: dict[str, float] | None = None,
) -> None:
    """Write everything that ``Executable`` needs, and what was measured when the plans were chosen.

    ``seconds`` is what the parts of the search took.
    """
    chosen = fastest_forms(network, batch, timed)
    launches = describe(network, batch, host, chosen)
    cubin, called = compile_kernels([one["kernel"] for one in launches if one["kind"] == "kernel"], architecture)
    tensors = constants_of(network, chosen) | {"kernels": _bytes(cubin)}
    for name, (_, spec) in chosen.items():
        tensors[f"{name}.plan"] = _bytes(timed[spec].plan)
    facts = {
        "launches": launches,
        "kernels": called,
        "eight_bits": network.share_in_eight_bits(),
        "choices": {name: _choice(form, timed[spec]) for name, (form, spec) in chosen.items()},
        "seconds": seconds or {},
    }
    save_file(tensors, path, {"facts": json.dumps(facts)})


def _bytes(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _choice(form: Form, timed: Timed) -> dict[str, Any]:
    """Return what a reader may want to know of a chosen plan."""
    return {"pixels": form.outputs, "rows": form.rows} | {
        name: value for name, value in asdict(timed).items() if name != "plan"
    }


def facts_of(path: Path) -> dict[str, Any]:
    """Return what ``save`` wrote beside the tensors: launches, choices, the share of products in eight bits, times."""
    with safetensors.safe_open(path, "pt") as content:
        return json.loads(content.metadata()["facts"])


class Executable:
    """A saved network on this process's GPU: called with pictures, it queues its launches and returns the logits.

    Each tensor lives until its last reader is queued, so that PyTorch's allocator gives its memory to another.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        facts = facts_of(path)
        tensors = load_file(path, device="cpu")
        self._kernels = Kernels(tensors.pop("kernels").numpy().tobytes(), facts["kernels"])
        self._device = device
        plans = {name: tensors.pop(name).numpy().tobytes() for name in [*tensors] if name.endswith(".plan")}
        self._constants = {name: tensor.to(device) for name, tensor in tensors.items()}
        self._plans = {name.removesuffix(".plan"): Plan(content) for name, content in plans.items()}
        self._launches: list[Description] = facts["launches"]
        last = {name: place for place, one in enumerate(self._launches) for name in (one["reads"], one.get("shortcut"))}
        self._unread = [[name for name in last if last[name] == place] for place in range(len(self._launches))]
        self._queue: dict[str, Callable[[Description, dict[str, torch.Tensor]], torch.Tensor]] = {
            "kernel": self._kernel,
            "cudnn": self._convolution,
            "linear": self._linear,
        }

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Queue all launches on PyTorch's current stream; return the logits (N x outputs, FP16)."""
        tensors = {"": pictures}
        for launch, unread in zip(self._launches, self._unread, strict=True):
            tensors[launch["name"]] = self._queue[launch["kind"]](launch, tensors)
            for name in unread:
                tensors.pop(name, None)
        return tensors[self._launches[-1]["name"]].flatten(1)

    def _empty(self, launch: Description) -> torch.Tensor:
        return torch.empty(launch["shape"], dtype=DTYPES[launch["dtype"]], device=self._device)

    def _kernel(self, launch: Description, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        result = self._empty(launch)
        constants = [self._constants[f"{launch['name']}.{kind}"] for kind in launch.get("constants", ())]
        self._kernels.queue(launch["kernel"], [tensors[launch["reads"]], *constants, result], launch["scalars"])
        return result

    def _convolution(self, launch: Description, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        name, result = launch["name"], self._empty(launch)
        arguments = {PICTURE: tensors[launch["reads"]], FILTERS: self._constants[f"{name}.weight"], RESULT: result}
        arguments[BIAS] = self._constants[f"{name}.bias"]
        if launch["spec"]["rescaled"]:
            arguments[MULTIPLIER] = self._constants[f"{name}.multiplier"]
        if launch["shortcut"]:
            arguments |= {SHORTCUT: tensors[launch["shortcut"]], FACTOR: self._constants[f"{name}.factor"]}
        self._plans[name].queue(arguments)
        return result

    def _linear(self, launch: Description, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        name = launch["name"]
        found = functional.linear(
            tensors[launch["reads"]].flatten(1), self._constants[f"{name}.weight"], self._constants[f"{name}.bias"]
        )
        found = found if launch["ceiling"] is None else found.clamp(0, launch["ceiling"])
        return found.view(launch["shape"])
