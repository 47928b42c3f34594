"""Which operations a call runs, when, and how long each takes on the device that does the work."""

import os
from collections.abc import Callable
from statistics import median

import pandas as pd
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from inference_lib.measure.timing import Mark, mark, milliseconds_between

# Without this the profiler's library writes an error to the page on machines without a GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

RECORDED = "the call whose operations count"


def operations(call: Callable[[], object], device: str) -> pd.DataFrame:
    """Return the operations of one ``call``: ``operation``, ``calls``, ``ms``, the slowest first.

    The time is each operation's own on ``device`` (the GPU's kernels for ``cuda``), without the operations it calls;
    those that only call others are left out.
    """
    profiler = profiled(call, device)
    own_time = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    rows = [
        {"operation": event.key, "calls": event.count, "ms": getattr(event, own_time) / 1e3}
        for event in profiler.key_averages()
        if event.key.startswith("aten::") and getattr(event, own_time) > 0
    ]
    return pd.DataFrame(rows).sort_values("ms", ascending=False, ignore_index=True)


def profiled(call: Callable[[], object], device: str) -> profile:
    """Return PyTorch's profiler after one ``call``, which has run before so that nothing happens for the first time."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    with profile(activities=activities, acc_events=True) as profiler:
        call()
        if device == "cuda":
            torch.cuda.synchronize()
    return profiler


def timeline(call: Callable[[], object], device: str) -> pd.DataFrame:
    """Return when one ``call`` did what: ``row``, ``name``, ``start_ms``, ``length_ms``, in order of time.

    The row ``host`` holds the operations that Python calls, with all that they call and launch; ``device``, on a GPU,
    the kernels and copies that ran there. Times count from the first operation, and the profiler's own cost is part
    of the host's.
    """

    def twice() -> None:
        call()  # here the profiler asks for memory for its notes, for milliseconds, in the middle of an operation
        if device == "cuda":
            torch.cuda.synchronize()
        with record_function(RECORDED):
            call()

    profiled(call, device)  # the first profile of a process starts the profiler's own library
    events = profiled(twice, device).events()
    begin = next(event.time_range.start for event in events if event.name == RECORDED and not _on_device(event))
    rows = []
    for event in events:
        caller = event.cpu_parent
        by_python = event.name.startswith("aten::") and (caller is None or caller.name == RECORDED)
        if event.time_range.start >= begin and (by_python or (_on_device(event) and not event.is_user_annotation)):
            start, end = event.time_range.start, event.time_range.end
            row = "device" if _on_device(event) else "host"
            rows.append({"row": row, "name": event.name, "start_ms": start / 1e3, "length_ms": (end - start) / 1e3})
    table = pd.DataFrame(rows).sort_values("start_ms", ignore_index=True)
    table["start_ms"] -= table["start_ms"].min()
    return table


def _on_device(event: FunctionEvent) -> bool:
    return event.device_type == DeviceType.CUDA


def layers(model: nn.Module, images: torch.Tensor) -> pd.DataFrame:
    """Time every layer of ``model`` where it stands in the network, the slowest first.

    Returns ``layer``, ``kind``, ``ms`` (median of three), ``FLOP`` (convolutions and linear layers, two for each
    multiply-add) and ``bytes`` (input, output and weights). Between a layer's two readings of the clock lie a GPU's
    kernels, or their launches where the GPU has to wait for those.
    """
    stream = torch.cuda.current_stream() if images.is_cuda else None
    found = {name: layer for name, layer in model.named_modules() if not list(layer.children())}
    starts: dict[str, Mark] = {}
    times: dict[str, list[tuple[Mark, Mark]]] = {name: [] for name in found}
    sizes: dict[str, tuple[int, int]] = {}

    def before(name: str) -> Callable[..., None]:
        return lambda *_: starts.update({name: mark(stream)})

    def after(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            times[name].append((starts[name], mark(stream)))
            weights = list(layer.parameters())
            products = isinstance(layer, nn.Conv2d | nn.Linear)
            operations = 2 * output.numel() * weights[0][0].numel() if products else 0
            sizes[name] = operations, sum(tensor.nbytes for tensor in (*inputs, output, *weights))

        return hook

    hooks = [layer.register_forward_pre_hook(before(name)) for name, layer in found.items()]
    hooks += [layer.register_forward_hook(after(name)) for name, layer in found.items()]
    with torch.inference_mode():
        model(images)  # not counted: libraries choose their kernels
        for marks in times.values():
            marks.clear()
        for _ in range(3):
            model(images)
    for hook in hooks:
        hook.remove()
    rows = [
        {
            "layer": name,
            "kind": _kind(layer),
            "ms": median(milliseconds_between(*marks) for marks in times[name]),
            "FLOP": sizes[name][0],
            "bytes": sizes[name][1],
        }
        for name, layer in found.items()
        if times[name]
    ]
    return pd.DataFrame(rows).sort_values("ms", ascending=False, ignore_index=True)


def _kind(layer: nn.Module) -> str:
    if not isinstance(layer, nn.Conv2d):
        return {"BatchNorm2d": "batch norm", "Linear": "linear"}.get(type(layer).__name__, type(layer).__name__)
    if layer.groups > 1:
        return "depthwise"
    return "convolution {} x {}".format(*layer.kernel_size)
