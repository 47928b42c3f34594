"""Which operations a call runs, and how long each takes on the device that does the work."""

import os
from collections.abc import Callable

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

# Without this the profiler's library writes an error to the page on machines without a GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def operations(call: Callable[[], object], device: str) -> pd.DataFrame:
    """Return the operations of one ``call``: ``operation``, ``calls``, ``ms``, the slowest first.

    The time is each operation's own on ``device`` (the GPU's kernels for ``cuda``), without the operations it calls;
    those that only call others are left out.
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    call()
    with profile(activities=activities, acc_events=True) as profiler:
        call()
        if device == "cuda":
            torch.cuda.synchronize()
    own_time = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    rows = [
        {"operation": event.key, "calls": event.count, "ms": getattr(event, own_time) / 1e3}
        for event in profiler.key_averages()
        if event.key.startswith("aten::") and getattr(event, own_time) > 0
    ]
    return pd.DataFrame(rows).sort_values("ms", ascending=False, ignore_index=True)
