# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where the time goes
#
# Why is a network with a sixth of the arithmetic not six times faster?
#
# Because arithmetic is one of three things that take time, and each of the three can be estimated before the network
# is run.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# to say how fast a network can be before you run it, to read a profile, and to find what keeps a network from its bound
# :::
# :::{grid-item-card} You need
# the chapter on the models; a GPU for three of the experiments
# :::
# :::{grid-item-card} To read
# 45 minutes
# :::
# :::{grid-item-card} To run
# {{ run_times }}
# :::
# ::::

# %% [markdown]
# ## The question
#
# MobileNetV2 was designed to be cheap: it needs about a sixth of ResNet-18's {term}`multiply-adds <multiply-add>` [for
# one picture](01_the_task_and_the_models). If arithmetic were all that takes time, it would answer in a sixth of the
# time. But something has to tell the machine what to do next, and the numbers have to come from memory and go back to
# it. So time can go three ways:
#
# - **launching**: the program asks for one operation after the other;
# - **moving**: weights and {term}`activations <activation>` travel between memory and the arithmetic units;
# - **computing**: the multiply-adds themselves.
#
# This chapter estimates each before it measures, because an estimate that turns out wrong teaches more than a
# measurement that nobody had an opinion on.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.profiler import ProfilerActivity

from inference_lib import MODELS, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends.shared.fusion import fuse_convolutions
from inference_lib.measure import operations
from inference_lib.measure.gpu import sample_load
from inference_lib.measure.roofline import (
    Measured,
    attainable,
    bounds,
    ceilings,
    count,
    limited_by,
    roofline_table,
    work_of,
)
from inference_lib.measure.throughput import time_throughput
from inference_lib.report import glue, plots, select, show_source, tables, words
from inference_lib.seam import PRECISIONS, Workload, build

scratch = tempfile.TemporaryDirectory()
lab = open_lab(profile, device, records_dir)
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% [markdown]
# Everything is measured with one picture and with many: on a CPU a few, on a GPU more and in FP16, the precision that
# its {term}`tensor cores <tensor core>` are for. What is compared takes turns, in rounds; an {term}`effect` of *none*
# is lost in the noise ([measuring inference](02_measuring_inference) has the reasons).

# %%
on_gpu = lab.device == "cuda"
precision = "fp16" if on_gpu else "fp32"
dtype = PRECISIONS[precision].dtype
many = max(64, lab.profile.ends("cuda")[-1]) if on_gpu else 4


def network(name):
    return load_pretrained(name).to(lab.device, dtype)


networks = {name: network(name) for name in MODELS}
pictures = {size: torch.randn(size, 3, 224, 224).to(lab.device, dtype) for size in (1, many)}


def call_of(model, images):
    """Return the call of ``model`` on ``images``, without gradients."""
    return torch.inference_mode()(lambda: model(images))


# %% [markdown]
# ## Bounds before measurements
#
# A machine has a highest rate for operations (FLOP) and a highest rate for bytes. What a network computes and what it
# moves, each over its rate, are two times:
#
# $$T_\text{compute} = \frac{\text{FLOP}}{\text{FLOP/s}}, \qquad T_\text{memory} = \frac{\text{bytes}}{\text{bytes/s}}$$
#
# At best the machine moves while it computes, and the longer of the two hides the shorter: that is the
# {term}`roofline` {cite}`roofline`. At worst it does one after the other. So, if both rates are reached,
#
# $$\max(T_\text{compute}, T_\text{memory}) \leq T \leq T_\text{compute} + T_\text{memory}$$
#
# The two ends are never further apart than a factor of two. A measured time above the upper end went to something other
# than computing and moving at full rate, and that has to be found. The course's function is the two fractions:

# %%
show_source(bounds)

# %% [markdown]
# The batch over the longer of the two times is the highest rate, in images per second, that is *attainable*.
#
# ### What the machine can do
#
# Data sheets quote rates that few programs reach, so the {term}`ceilings <ceiling>` are measured: a large matrix
# product, and a copy of an array that no cache can hold. On a CPU, matrix products and convolutions belong to two
# libraries, MKL and {term}`oneDNN`, and which is quicker depends on the processor's maker; there, a dense convolution
# is timed, too, and the higher rate counts. What was measured once is kept, and here it is measured again: a machine
# that was busy the first time had a lower ceiling, and the higher one is the ceiling.

# %%
machine = ceilings(lab.device, again=True)
for name, rate in machine.flops.items():
    print(f"{name}: {rate / 1e12:8.4g} TFLOP/s")
print(f"copy: {machine.bandwidth / 1e9:8.4g} GB/s")

# %% [markdown]
# `int8` counts operations on integers, as many as the same product has in floating point (on a CPU, in the way of
# PyTorch's quantized layers), and `fp8` ({term}`FP8`) is there where the device multiplies it. A GPU's `int8` belongs
# well above its `fp16`. How quick PyTorch's product of integers is depends on the layout of its factors
# ([pytorch#165230](https://github.com/pytorch/pytorch/issues/165230)), so two layouts are tried, and the quicker
# counts. Where `int8` lies below all the same, it is the rate of that program, and no ceiling. How much of these two
# rates a network gets to see is a [chapter of its own](13_quantization).
#
# The ratio of each rate to the copy's tells how often a number has to be used for each of its bytes, once it has been
# fetched. Below so many operations, the arithmetic units wait for memory:

# %%
for name, rate in machine.flops.items():
    print(f"{name}: {rate / machine.bandwidth:.0f} FLOP for each byte")

# %% [markdown]
# A number in FP32 has four bytes, so it has to take part in four times as many operations; in FP16, in twice as many.
# (A multiply-add is two operations.) Each network is held against this ratio.
#
# ### What the networks have to do
#
# Operations are counted by PyTorch, two for each multiply-add: a multiplication and an addition. Bytes depend on the
# program, so they are counted twice:
#
# - **unfused**: every operation reads its inputs from memory and writes its outputs back. This is what a program that
#   runs one operation after the other asks for.
# - **fused**: the weights once, the input, the output. No program that finds the caches empty can do with less, and few
#   come close.
#
# Nothing has to be computed for that. The model runs on *meta* tensors, which have a shape and no memory, while PyTorch
# counts its operations:

# %%
show_source(count)

# %% [markdown]
# For the three networks that gives:

# %% tags=["nbval-check-output"]
for name in MODELS:
    work = work_of(name, 1, "fp32")
    moved = f"{work.bytes_unfused / 1e6:.1f} MB unfused, {work.bytes_fused / 1e6:.1f} MB fused"
    print(f"{name}: {work.calls} operations, {work.operations / 1e9:.2f} GFLOP, {moved}")

# %% [markdown]
# These are the counts for one picture in FP32. The two sizes of batch that are measured here, in their precision:

# %%
works = {(name, size): work_of(name, size, precision) for size in (1, many) for name in MODELS}
counted = pd.DataFrame(
    [
        {
            "model": name,
            "batch": size,
            "GFLOP": work.operations / 1e9,
            "MB unfused": work.bytes_unfused / 1e6,
            "MB fused": work.bytes_fused / 1e6,
            "FLOP/byte unfused": work.intensity_unfused,
            "FLOP/byte fused": work.intensity_fused,
        }
        for (name, size), work in works.items()
    ]
)
forms = dict.fromkeys(counted.columns[3:], "{:,.1f}") | {"GFLOP": "{:,.2f}"}
tables.show_table(counted, f"What the networks have to do, {precision.upper()}. Counted, not measured.", forms)

# %% [markdown]
# FLOP per byte is the {term}`arithmetic intensity`. Compare it with the machine's own ratio, printed above: a network
# below it waits for memory, a network above it for arithmetic. A batch shares the weights, so the intensity rises.
#
# ```{admonition} Predict, then measure
# :class: tip
# Which of the two times is longer for ResNet-18, and which for MobileNetV2? With one picture, will a network be between
# its two bounds, or above them? And with many?
# ```
#
# :::{dropdown} The answer
# {glue:text}`03-between`.
# :::
#
# ### The prediction
#
# Both times of each network and batch, the longer of them, and their sum:

# %%
predicted = pd.DataFrame(
    [
        {"model": name, "batch": size}
        | {f"{kind}, ms": seconds * 1e3 for kind, seconds in bounds(work, machine, precision).items()}
        | {"limited by": limited_by(work, machine, precision)}
        for (name, size), work in works.items()
    ]
)
both = predicted[["compute, ms", "memory, ms"]]
predicted["at least, ms"], predicted["at most, ms"] = both.max(axis=1), both.sum(axis=1)
tables.show_table(predicted, f"Both times, nothing fused, and what follows from them. {machine.machine}.")

# %% [markdown]
# ### The measurement
#
# The plain eager models, their input on the device already, taking turns. The last column is the share of the time
# which the lower bound explains.

# %%
raced = {size: lab.turns({name: call_of(networks[name], pictures[size]) for name in MODELS}) for size in (1, many)}
eager = {(name, size): raced[size].ms(name) for name, size in works}
compared = predicted[["model", "batch", "at least, ms", "at most, ms"]].assign(**{"measured, ms": list(eager.values())})
compared["explained, %"] = compared["at least, ms"] / compared["measured, ms"] * 100
tables.show_table(compared, f"Eager PyTorch, {precision.upper()}, {lab.machine_name}.", {"explained, %": "{:.0f}"})

# %% tags=["remove-cell"]
fewer = works["resnet18", 1].operations / works["mobilenet_v2", 1].operations
glue("03-fewer-operations", f"{fewer:.1f}")
for size, turns in raced.items():
    ratio = turns.ratio("mobilenet_v2", "resnet18")[0]
    glue(f"03-eager-{'one' if size == 1 else 'many'}", f"{ratio:.2f}")
glue("03-many", f"{many}")


def against_bounds(row):
    """Say where a measured time lies."""
    least, most, found = row["at least, ms"], row["at most, ms"], row["measured, ms"]
    where = "between the bounds" if least <= found <= most else "below both" if found < least else ""
    return where or f"{found / most:.1f} times the upper bound"


places = [f"{row['model']} at batch {row['batch']}: {against_bounds(row)}" for _, row in compared.iterrows()]
glue("03-between", f"Measured on {lab.machine_name}: {'; '.join(places)}")
below = [
    f"{row['model']} at batch {row['batch']}, limited by {kind}"
    for (_, row), kind in zip(compared.iterrows(), predicted["limited by"], strict=True)
    if row["measured, ms"] < row["at least, ms"]
]
glue("03-below", "; ".join(below) or "none of them")
glue("03-machine", lab.machine_name)

# %% [markdown]
# ResNet-18 computes {glue:text}`03-fewer-operations` times as much as MobileNetV2. On {glue:text}`03-machine`, the
# eager ResNet-18 took {glue:text}`03-eager-one` times as long with one picture and {glue:text}`03-eager-many` times as
# long with {glue:text}`03-many` (a number below one: it was the quicker of the two).
#
# Below the lower bound, here: {glue:text}`03-below`. Both bounds can be beaten, in honest ways:
#
# - *memory*: what an operation has written may still be in a cache when the next one reads it, so the unfused traffic
#   is an estimate. Only the fused one is needed by every program that finds the caches empty. Weights that fit may
#   stay there [from one inference to the next](02_measuring_inference.ipynb#11-one-input-that-never-leaves-the-cache).
# - *compute*, zeros: the counter counts the products with the zeros that pad a feature map, and a library may leave
#   them out. Of a 3 x 3 convolution over 7 x 7 pixels they are 18 %.
# - *compute*, fewer products: the {term}`algorithm of Winograd <Winograd>` {cite}`winograd`, which some libraries
#   choose for 3 x 3 convolutions, trades multiplications for additions.
# - A ceiling is measured, too. The networks' turns and the ceiling's were not the same moment, and a shared machine
#   may have been quieter in one of them.
#
# What the bounds do not explain is either in kernels that do not reach the ceilings, or between the kernels. A
# profile tells the two apart.
#
# ## Reading a profile
#
# PyTorch's profiler writes down when each operation began and ended on the host, and when each kernel ran on the
# device {cite}`pytorch_profiler`. This records one call of MobileNetV2 with one picture:

# %%
activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
for _ in range(2):  # the first profile of a process also starts the profiler's own library, so the second is kept
    with torch.inference_mode(), torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        networks["mobilenet_v2"](pictures[1])
        if on_gpu:
            torch.cuda.synchronize()  # else the profile ends before the kernels do

# %% [markdown]
# ### Step 1: what is in it
#
# Each event is one of three things: an operation (its name begins with `aten::`), which may call others; a call of
# CUDA, such as `cudaLaunchKernel`; or, on the device, a kernel or a copy.

# %%
recorded = profiler.events()
called = [event for event in recorded if event.name.startswith("aten::")]
by_python = [event for event in called if event.cpu_parent is None]
on_device = [event for event in recorded if event.device_type == torch.autograd.DeviceType.CUDA]
print(f"{len(called)} operations, {len(by_python)} of them called by Python; {len(on_device)} events on a GPU")

# %% [markdown]
# The others were called by operations, as the next step shows.
#
# ### Step 2: one operation, all the way down
#
# The first convolution, with what it calls. Each line is indented below its caller; microseconds count from its
# beginning.


# %%
def descend(event, since, depth=0):
    """Print an event, what it calls, and the kernels that it launched."""
    begin, end = event.time_range.start - since, event.time_range.end - since
    print(f"{'  ' * depth}{event.name}: {begin:.0f} to {end:.0f} us")
    for kernel in event.kernels:
        print(f"{'  ' * (depth + 1)}on the device for {kernel.duration:.0f} us: {kernel.name[:60]}")
    for child in event.cpu_children:
        if not child.name.startswith("Activity Buffer"):  # the profiler, asking for memory for its notes
            descend(child, since, depth + 1)


convolution = next(event for event in by_python if "conv" in event.name)
descend(convolution, convolution.time_range.start)

# %% [markdown]
# The upper lines are the {term}`dispatcher` at work: the part of PyTorch that finds out which kernel serves this
# device and this type. The last convolution in the list is the library's, {term}`oneDNN`'s on a CPU and
# {term}`cuDNN`'s on a GPU. On a GPU, a kernel's time is its own on the device. It is not a part of the lines above
# it, which only ask for the kernel; it may stand under more than one of them, and ran once.
#
# What the profiler does meanwhile is left out of the list: it may ask for memory for its notes, and the lines around
# that are longer than without a profiler.
#
# ### Step 3: who takes the time
#
# *Self* time is an operation's without those it calls. Summed up by name, on the worker that computes:

# %%
worker = "device" if on_gpu else "cpu"
own = {event.key: getattr(event, f"self_{worker}_time_total") / 1e3 for event in profiler.key_averages()}
slowest = pd.Series({name: ms for name, ms in own.items() if name.startswith("aten::")}).nlargest(5)
table = slowest.rename("self, ms").rename_axis("operation").reset_index()
table["share, %"] = table["self, ms"] / sum(ms for name, ms in own.items() if name.startswith("aten::")) * 100
tables.show_table(table, f"MobileNetV2, batch 1, {precision.upper()}, {lab.machine_name}.", {"share, %": "{:.0f}"})

# %% [markdown]
# The table says where to look. On a GPU, a batch normalization with weights in FP32 is cuDNN's, in one kernel. With
# weights in FP16 it is PyTorch's own (`aten::native_batch_norm`), in three, and the one that copies the running
# means is listed as `aten::copy_`.
#
# What lies *between* the operations is in none of the rows.
#
# ### Step 4: the gaps
#
# For that the events have to be drawn over time. Before you look: if the host is the slower of the two, where will
# there be gaps, and will the gaps stay when there are many pictures?

# %%
with torch.inference_mode():
    events = {
        size: operations.timeline(lambda images=images: networks["mobilenet_v2"](images), lab.device)
        for size, images in pictures.items()
    }

# %% tags=["hide-input"]
figure, panels = plots.new_figure(height=4.2 if on_gpu else 2.8, rows=len(events))
for panel, (size, spans) in zip(panels, events.items(), strict=True):
    plots.measured_timeline(spans, panel)
    panel.set_title(f"batch {size}", loc="left")
plots.show_figure(
    figure,
    alt="Timeline of one inference of mobilenet_v2 at a small and at a large batch: operations of the host above, "
    "kernels of the device, where there is one, below.",
    caption=f"MobileNetV2, eager, {precision.upper()}, under the profiler; neighbours differ in shade. "
    f"{lab.machine_name}.",
)


# %% [markdown]
# How much of the time was the device, or the CPU, at work?


# %%
def busy_share(spans):
    """Return the share of the time, from the first event to the last, in which the worker's row is filled."""
    end = (spans["start_ms"] + spans["length_ms"]).max()
    worker = spans[spans["row"] == ("device" if on_gpu else "host")]
    return worker["length_ms"].sum() / end


for size, spans in events.items():
    print(f"batch {size}: {len(spans)} events, at work for {busy_share(spans):.0%} of the time")
    ends = (spans["start_ms"] + spans["length_ms"]).groupby(spans["row"]).max()
    if on_gpu:
        later = max(0.0, ends["device"] - ends["host"])
        print(f"  the last kernel ended {later:.2f} ms after the last operation had returned")

# %% [markdown]
# On a GPU two workers share the job, and one of them is the slower. Where a kernel is over before the next one has
# been launched, the device waits for the host: small batches on large GPUs look like that. Where kernels take longer
# than their launches, the host runs ahead, its row ends early, and the device's row has no gaps. (One wide bar at
# the very start of the host's row would be the profiler's request for memory again.) Launches take longer under the
# profiler, so where the device waits for the host, the gaps are wider here than they are without it.
#
# On a CPU the operations follow each other, because the one who launches is also the one who computes. What is left
# between them is Python.
#
# ### Step 5: the same trace in a viewer
#
# The profiler writes its events to a file that [Perfetto](https://ui.perfetto.dev) opens in a browser. Names of your
# own make it readable: whatever runs inside `record_function` becomes a bar with that name.

# %%
recording = torch.profiler.profile(activities=activities, record_shapes=True, acc_events=True)
with torch.inference_mode(), recording:
    with torch.profiler.record_function("features"):
        features = networks["mobilenet_v2"].features(pictures[1])
    with torch.profiler.record_function("classifier"):
        networks["mobilenet_v2"].classifier(features.mean((2, 3)))
trace_file = Path(scratch.name) / "mobilenet_v2.json"  # a path of yours, and then: open it in Perfetto
recording.export_chrome_trace(str(trace_file))
print(f"{trace_file.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# In Perfetto, zoom with `w` and `s`, move with `a` and `d`. Look at three things, in this order: gaps in the device's
# row, then the arrow from a launch to its kernel (long arrows: the host is ahead), then the widest kernels. A click on
# an operation shows the shapes of its inputs, because of `record_shapes`.
#
# ### When PyTorch's profiler is not enough
#
# It knows what goes through PyTorch. NVIDIA's two profilers know the rest; they come with the CUDA toolkit, and are
# not run in this book.
#
# [Nsight Systems](https://docs.nvidia.com/nsight-systems/UserGuide/index.html) records whole processes, whatever the
# framework: threads and what the system lets them wait for, calls of CUDA, copies, kernels, several processes side by
# side. It costs little, so its times are near to real ones. Mark the part that matters in your script with
# `torch.cuda.profiler.start()` and `stop()`, and name it with `torch.cuda.nvtx.range("classify")`. Then:
#
# ```bash
# nsys profile --trace=cuda,nvtx,osrt --capture-range=cudaProfilerApi -o timeline python classify.py
# nsys stats --report cuda_gpu_kern_sum --report cuda_gpu_mem_time_sum timeline.nsys-rep
# ```
#
# [Nsight Compute](https://docs.nvidia.com/nsight-compute/NsightComputeCli/index.html) looks into single kernels: which
# share of the arithmetic and of the bandwidth each reached, what its threads waited for, and its place on the roofline
# of this chapter. It runs every kernel several times to read its counters, and one at a time, so never read a latency
# from it. Choose few kernels:
#
# ```bash
# ncu --set full --kernel-name regex:conv --launch-skip 50 --launch-count 3 -o kernels python classify.py
# ncu --import kernels.ncu-rep --page details
# ```
#
# (If it says `ERR_NVGPUCTRPERM`, the driver's administrator has to allow the counters.) Work in the order of this
# section: a timeline first, single kernels only when it says that a kernel takes the time.
#
# ## What a launch costs
#
# An operation on a single number has nothing to compute and nothing to move. What it takes is the price of asking:
# the Python call, the choice of a kernel, a tensor for the result, the launch.

# %%
tiny = torch.zeros(1, device=lab.device)


@torch.inference_mode()
def thousand_additions():
    for _ in range(1000):
        torch.add(tiny, 1)


microseconds = lab.time(thousand_additions).p50  # milliseconds for a thousand
print(f"{microseconds:.2f} microseconds for an operation on one number")

# %% [markdown]
# The prediction: a network of so many operations cannot take less than so many launches, their number times that price.
# A convolution asks for more than an addition does, so this too is a lower bound. With three times there are three
# bounds from below, and their sum is what a program takes that does everything one after the other, at these rates.

# %%
launches = pd.DataFrame(
    [
        {
            "model": name,
            "operations": works[name, 1].calls,
            "launches, ms": works[name, 1].calls * microseconds / 1e3,
        }
        | {f"{kind}, ms": seconds * 1e3 for kind, seconds in bounds(works[name, 1], machine, precision).items()}
        for name in MODELS
    ]
)
three = launches[["launches, ms", "compute, ms", "memory, ms"]]
launches["at least, ms"], launches["at most, ms"] = three.max(axis=1), three.sum(axis=1)
launches["measured, ms"] = [eager[name, 1] for name in MODELS]
tables.show_table(launches, f"Batch 1: three lower bounds, their sum, and the measured latency. {lab.machine_name}.")

# %% tags=["remove-cell"]
glue("03-calls-one", f"{works['mobilenet_v2', 1].calls / works['resnet18', 1].calls:.1f}")

# %% [markdown]
# The largest of the three says which kind of problem it is. Where it is the launches, a faster GPU changes nothing, and
# fewer operations do. MobileNetV2 has {glue:text}`03-calls-one` times those of ResNet-18: depth is paid for in
# launches. What the measured time has above the sum is spent below these rates: in operations that cost more to ask for
# than an addition, or in kernels that do not reach the ceilings.
#
# ## One launch instead of many
#
# A {term}`CUDA graph` records the kernels once and replays them with one launch {cite}`pytorch_cuda_graphs`. It changes
# no kernel, so the prediction is the time in the kernels, which the profiler adds up:


# %%
@torch.inference_mode()
def in_kernels(model, images):
    """Return the time that the GPU's kernels take in one call, ms."""
    return operations.operations(lambda: model(images), lab.device)["ms"].sum()


if on_gpu:
    replayed = pd.DataFrame(
        [
            {
                "model": name,
                "batch": size,
                "eager, ms": eager[name, size],
                "predicted, ms": in_kernels(networks[name], pictures[size]),
            }
            for name, size in works
        ]
    )
    display(tables.show_table(replayed, f"Eager, and the prediction for a graph. {lab.machine_name}."))
else:
    print("needs a GPU")


# %% [markdown]
# Recording takes a few lines, and replaying one:


# %%
@torch.inference_mode()
def record(model, images):
    """Record one call of ``model`` as a CUDA graph; both arguments must live as long as the graph."""
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(3):  # kernels are chosen at first use, and must not be while they are recorded
            model(images)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="relaxed"):
        model(images)
    return graph


def against_eager(name, size):
    """Let the graph and the eager call of one cell take turns."""
    return lab.turns({"eager": call_of(networks[name], pictures[size]), "graph": graphs[name, size].replay})


if on_gpu:
    graphs = {(name, size): record(networks[name], pictures[size]) for name, size in works}
    turns = [against_eager(*cell) for cell in graphs]
    replayed["eager, ms"] = [turn.ms("eager") for turn in turns]
    replayed["graph, ms"] = [turn.ms("graph") for turn in turns]
    replayed["graph / predicted"] = replayed["graph, ms"] / replayed["predicted, ms"]
    replayed["effect of the graph"] = [turn.effect("graph", "eager") for turn in turns]
    forms = {"graph / predicted": "{:.2f}"}
    display(tables.show_table(replayed, f"Eager, the prediction, and the graph. {lab.machine_name}.", forms))
else:
    print("needs a GPU")

# %% [markdown]
# The eager call is timed anew in this table, in turns with its graph. Where its two times differ by much at batch 1,
# the host may not have been as quick both times: launches are its work.
#
# Where the eager time is far above the time in kernels, the rest was launching, and the graph removes it. Where the
# two are close, a graph has little left to remove: the pauses between kernels. The quotient says how good the
# prediction was: what it has above one are the launch of the graph, the wait at its end, and what pauses are left,
# since each kernel starts when the one before has finished. Below one, the kernels took longer under the profiler than
# in the graph.
#
# ## Fewer and larger kernels
#
# A graph leaves the traffic as it is: the batch normalization still reads what the convolution has just written.
# {term}`Fusing <operator fusion>` them removes operations and bytes at once. Three forms of ResNet-18:
#
# - **plain**, as it was trained;
# - **folded**, each batch normalization multiplied into the filters before it;
# - **fused**, also each ReLU and each addition of a shortcut in the kernel of the convolution before it. That is what
#   the CUDA graph backend of the [next chapter](04_pytorch) runs; the operations exist in cuDNN only.

# %%
variants = {
    "plain": load_pretrained("resnet18"),
    "folded": fuse(load_pretrained("resnet18")),
    "fused": fuse_convolutions(load_pretrained("resnet18")),
}
fusion = pd.DataFrame(
    [
        {
            "form": form,
            "operations": work.calls,
            "GFLOP": work.operations / 1e9,
            "MB": work.bytes_unfused / 1e6,
        }
        | {f"{kind}, ms": seconds * 1e3 for kind, seconds in bounds(work, machine, precision).items()}
        for form, work in ((form, count(model, pictures[many].shape, precision)) for form, model in variants.items())
    ]
)
tables.show_table(fusion, f"ResNet-18, batch {many}: the prediction.", {"GFLOP": "{:,.1f}", "MB": "{:,.0f}"})

# %% [markdown]
# The arithmetic is the same in all three. Does the time follow the operations, the bytes, or neither? The three take
# turns, in the layout that cuDNN's fused kernels want. On a CPU the fused form cannot run and is missing.

# %%
forms_here = {
    form: model.to(lab.device, dtype, memory_format=torch.channels_last)
    for form, model in variants.items()
    if on_gpu or form != "fused"
}
fused = {}
for size in (1, many):
    last = pictures[size].to(memory_format=torch.channels_last)
    fused[size] = lab.turns({form: call_of(model, last) for form, model in forms_here.items()})
steps = pd.DataFrame(
    [
        {"batch": size, "form": form, "operations": work, "ms": turns.ms(form)}
        | {"effect of the step": turns.effect(form, before) if before else "-"}
        for size, turns in fused.items()
        for form, before, work in zip(forms_here, [None, *forms_here], fusion["operations"], strict=False)
    ]
)
tables.show_table(steps, f"ResNet-18, eager, channels-last, {precision.upper()}, {lab.machine_name}.")

# %% [markdown]
# A step is compared with the form above it. Fewer operations can save time only where launches are the limit, fewer
# bytes only where memory is.
#
# On a GPU, eager PyTorch adds a convolution's bias with a kernel of its own, which the counter does not see. So
# *folded* moves as many bytes as *plain*: the batch norm has become a bias. Only the fused operation takes it into the
# convolution. Folding can still save launches, as a batch norm with weights in FP16 is [several
# kernels](04_pytorch.ipynb#why-is-fp16-not-twice-as-fast-at-batch-1).
#
# And a kernel that takes the place of several has to be as good as they were: a library chooses another one for the
# fused operation. So a step may have no effect, or a bad one. That is why it is measured.
#
# ## The order of the numbers in memory
#
# An activation has four dimensions and memory has one. PyTorch's default is NCHW: one channel's whole picture, then
# the next. *Channels-last* is NHWC: all channels of a pixel, then the next pixel. The operations and the bytes are the
# same, so the roofline predicts: no difference.

# %%
channels_last = {name: network(name).to(memory_format=torch.channels_last) for name in MODELS}
last = pictures[many].to(memory_format=torch.channels_last)


def both_layouts(name):
    """Let the two layouts of one model take turns."""
    turns = lab.turns({"NCHW": call_of(networks[name], pictures[many]), "NHWC": call_of(channels_last[name], last)})
    times = {f"{layout}, ms": turns.ms(layout) for layout in ("NCHW", "NHWC")}
    return {"model": name} | times | {"effect of NHWC": turns.effect("NHWC", "NCHW")}


layouts = pd.DataFrame([both_layouts(name) for name in MODELS])
tables.show_table(layouts, f"Eager, batch {many}, {precision.upper()}, {lab.machine_name}.")

# %% [markdown]
# Where there is a difference, it is a fact about kernels, not about the machine. Tensor cores multiply {term}`tiles
# <tile>` in which the channels of one pixel are neighbours; from NCHW, a library converts before and after a
# convolution, or uses another kernel. CPU libraries have their own favourite layouts and convert on the way, too. A
# roofline tells how good a kernel could be. It cannot tell that there is one.
#
# ## The way to the device
#
# Before a GPU computes anything, the picture has to get there, across a bus that is far slower than the GPU's own
# memory: sixteen lanes of PCI Express 4.0 carry at most 32 GB/s in one direction, of 5.0 at most 64 GB/s.
#
# From {term}`pageable memory`, which the system may move at any time, the driver copies to a buffer of its own first.
# {term}`Pinned memory` stays where it is, so the GPU fetches it directly {cite}`cuda_best_practices`. The prediction:
# pageable memory is read once more, by the CPU, so it is not the faster one; and of a small copy, most is overhead.


# %%
def copy_rates(size):
    """Return the rates of a copy of ``size`` pictures to the device from both kinds of memory, GB/s."""
    source = torch.ones(size, 3, 224, 224, dtype=dtype)
    target = torch.empty(source.shape, dtype=dtype, device=lab.device)
    memories = {"pageable": source, "pinned": source.pin_memory()}
    turns = lab.turns({kind: lambda m=memory: target.copy_(m, non_blocking=True) for kind, memory in memories.items()})
    return {kind: source.nbytes / turns.ms(kind) / 1e6 for kind in memories}


sizes = (1, 4, 16, 64, 256)
if on_gpu:
    by_size = [copy_rates(size) for size in sizes]
    rates = {kind: [found[kind] for found in by_size] for kind in ("pageable", "pinned")}

# %% tags=["hide-input"]
if on_gpu:
    figure, (axes,) = plots.new_figure(height=3.0)
    for (kind, values), dash in zip(rates.items(), ("--", "-"), strict=True):
        axes.plot(sizes, values, dash, color=plots.PART_COLORS["upload"], marker="o", label=kind)
    axes.set(xscale="log", xlabel="pictures in the copy", ylabel="GB/s", ylim=0)
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.minorticks_off()
    axes.legend(handlelength=4)
    shown = plots.show_figure(
        figure,
        alt="Rate of the copy to the device over the number of pictures, from pageable and from pinned memory.",
        caption=f"Host to device, {precision.upper()} pictures of {pictures[1].nbytes:,} bytes. {lab.machine_name}.",
    )
    display(shown)
else:
    print("needs a GPU")

# %% [markdown]
# From pageable memory, the host copies as well: the rate may fall again where the pictures no longer fit the host's
# caches.
#
# Is the copy worth worrying about? Set it beside the computation of the same batch.

# %%
if on_gpu:
    megabytes = pictures[many].nbytes / 1e6
    for kind, rate in copy_rates(many).items():
        print(f"{many} pictures, {kind}: {megabytes / rate:.2f} ms to copy")
    for name in MODELS:
        print(f"{name}: {eager[name, many]:.2f} ms to compute")
else:
    print("needs a GPU; on a CPU the pictures are where they are needed")

# %% [markdown]
# Where the copy is a small part, leave it. Where it is not, it can start from pinned memory, be halved (FP16 on the
# host), made smaller still (send the bytes of the image, and normalize on the device), or hidden (copy the next
# batch while this one is computed).
#
# ## The roofline
#
# Now the parts make a picture: how fast each network is against how fast it could be. Batches are queued back to back,
# so what counts is throughput. On a GPU the fused CUDA graph is measured, so that launching hides nothing; on a CPU the
# eager model.
#
# First the prediction, in images per second:

# %%
backend = get_backend("pytorch-cudagraph" if on_gpu else "pytorch")
precisions = lab.profile.precisions(lab.device)
cells = [(name, size, kind) for name in MODELS for size in (1, many) for kind in precisions]
forecast = pd.DataFrame(
    [
        {"model": name, "batch": size, "precision": PRECISIONS[kind].title}
        | {t: attainable(work_of(name, size, kind), machine, kind, t) for t in ("unfused", "fused")}
        for name, size, kind in cells
    ]
)
tables.show_table(forecast, f"Attainable images/s. {machine.machine}.", dict.fromkeys(["unfused", "fused"], "{:,.0f}"))

# %% [markdown]
# Then the measurement.


# %%
def measure(name, size, kind):
    """Measure the throughput of one cell."""
    workload = Workload(name, size, kind, lab.device)
    batch = np.random.default_rng(0).random(workload.input_shape, np.float32).astype(workload.host_dtype)
    with backend.load(build(backend, workload)) as runner:
        found = time_throughput(runner, batch, lab.profile.budget_s)
    return Measured(backend.name, backend.title, name, size, kind, found.images_per_s)


points = roofline_table([measure(*cell) for cell in cells], machine)

# %% [markdown]
# Each measurement becomes a point below the roof:

# %%
figure, panels = plots.new_figure(height=3.2 * len(precisions), rows=len(precisions))
for kind, panel in zip(precisions, panels, strict=True):
    plots.roofline(points[points["precision"] == kind], machine, panel)
plots.show_figure(
    figure,
    alt="Roofline: achieved FLOP per second over FLOP per byte for the three models at a small and a large batch, "
    "below the roofs of bandwidth and arithmetic.",
    caption=f"{backend.title}; numbers beside the points are batch sizes. Slope: copy, "
    f"{machine.bandwidth / 1e9:,.0f} GB/s; flat: products. {lab.machine_name}.",
)

# %% [markdown]
# A point's place from left to right is the unfused intensity of its network. Its distance to the roof above it, on a
# logarithmic scale, is what could be gained. A program that fuses moves fewer bytes than its place says, so it may lie
# above the slope.

# %%
columns = ["model", "precision", "batch", "limited by", "achieved images/s", "% of unfused", "% of fused"]
achieved = points[columns].replace({"precision": {name: found.title for name, found in PRECISIONS.items()}})
forms = {"achieved images/s": "{:,.0f}", "% of unfused": "{:.0f}", "% of fused": "{:.0f}"}
tables.show_table(achieved, f"Achieved, and its share of both attainable rates. {lab.machine_name}.", forms)

# %% tags=["remove-cell"]
shares = points[(points["model"] == "resnet18") & (points["precision"] == precision)].set_index("batch")["% of unfused"]
glue("03-share-one", f"{shares[1]:.0f} %")
glue("03-share-many", f"{shares[many]:.0f} %")

# %% [markdown]
# On {glue:text}`03-machine`, ResNet-18 achieves {glue:text}`03-share-one` of what the unfused roofline allows at batch
# 1, and {glue:text}`03-share-many` at batch {glue:text}`03-many`. (A program that fuses something has a bound of its
# own, between those of the two columns.) A large GPU has more arithmetic units than one picture can keep busy; a CPU of
# a few cores is easier to fill. So a bound says most at large batches, and for one picture on a GPU, count kernels as
# well.
#
# ## Why not six times faster
#
# Everything about the networks in one table, at the larger batch. Calls are operations that Python asks for, a GMAC is
# a billion multiply-adds:

# %%
rows = points[(points["batch"] == many) & (points["precision"] == precision)].set_index("model")
per_image = pd.DataFrame(
    {
        "calls": [works[name, many].calls for name in rows.index],
        "GMAC": rows["operations"] / 2e9 / many,
        "MB unfused": rows["bytes unfused"] / 1e6 / many,
        "MB fused": rows["bytes fused"] / 1e6 / many,
        "FLOP/byte": rows["FLOP/byte"],
        "attainable": rows["unfused images/s"],
        "achieved": rows["achieved images/s"],
    }
)
forms = {"GMAC": "{:.3f}", "MB unfused": "{:.1f}", "MB fused": "{:.2f}", "FLOP/byte": "{:.1f}"}
forms |= dict.fromkeys(["attainable", "achieved"], "{:,.0f}")
caption = f"For one image of a batch of {many}, {precision.upper()}; the last two in images/s. {lab.machine_name}."
tables.show_table(per_image.reset_index(), caption, forms)

# %% tags=["remove-cell"]
mobile, residual = per_image.loc["mobilenet_v2"], per_image.loc["resnet18"]
glue("03-more-bytes", f"{mobile['MB unfused'] / residual['MB unfused']:.1f}")
glue("03-more-calls", f"{mobile['calls'] / residual['calls']:.1f}")
for kind in ("attainable", "achieved"):
    glue(f"03-{kind}", f"{mobile[kind] / residual[kind]:.2f}")
assert mobile["MB unfused"] > residual["MB unfused"], "the text says that MobileNetV2 moves more bytes"
assert mobile["calls"] > residual["calls"], "the text says that MobileNetV2 asks for more operations"

# %% [markdown]
# MobileNetV2 does {glue:text}`03-fewer-operations` times fewer multiply-adds than ResNet-18, moves
# {glue:text}`03-more-bytes` times the bytes if nothing is fused, and asks for {glue:text}`03-more-calls` times the
# operations. At batch {glue:text}`03-many` the roofline, unfused, lets it do {glue:text}`03-attainable` times as many
# images per second as ResNet-18. Measured on {glue:text}`03-machine`: {glue:text}`03-achieved` times.
#
# ### Layer by layer
#
# Where inside the network? Hooks read the clock before and after each layer, in place. (Of operations, only
# multiply-adds are counted, so a layer that has none shows none.)

# %%
found = operations.layers(channels_last["mobilenet_v2"], last)
top = found.head(6).assign(**{"FLOP/byte": found["FLOP"] / found["bytes"], "GB/s": found["bytes"] / found["ms"] / 1e6})
forms = {"FLOP/byte": "{:.1f}", "GB/s": "{:,.1f}"}
tables.show_table(top.drop(columns=["FLOP", "bytes"]), f"The slowest layers, batch {many}, {lab.machine_name}.", forms)

# %% tags=["hide-input"]
by_kind = found.groupby("kind")[["FLOP", "bytes", "ms"]].sum().sort_values("ms", ascending=False)
all_shares = by_kind / by_kind.sum() * 100
shares = all_shares.head(6)
figure, panels = plots.new_figure(height=2.4, columns=3)
names = {"FLOP": "% of arithmetic", "bytes": "% of traffic", "ms": "% of time"}
colors = ("#0072B2", "#009E73", "#D55E00")
for panel, (column, name), color in zip(panels, names.items(), colors, strict=True):
    plots.bars(list(shares.index), shares[column].round().tolist(), color, name, panel)
    panel.label_outer()
plots.show_figure(
    figure,
    alt="Share of arithmetic, of memory traffic and of time for each kind of layer of mobilenet_v2.",
    caption=f"MobileNetV2 layer by layer, eager, channels-last, batch {many}, {precision.upper()}. {lab.machine_name}.",
)

# %% [markdown]
# Compare the three panels: is time shared out like arithmetic, or like traffic?

# %% tags=["remove-cell"]
pointwise = all_shares.loc["convolution 1 x 1"]
elementwise = all_shares.loc[["depthwise", "batch norm", "ReLU6"]].sum()
for column, name in {"FLOP": "arithmetic", "bytes": "traffic", "ms": "time"}.items():
    glue(f"03-pointwise-{name}", f"{pointwise[column]:.0f} %")
    glue(f"03-elementwise-{name}", f"{elementwise[column]:.0f} %")

# %% [markdown]
# The 1 x 1 convolutions do {glue:text}`03-pointwise-arithmetic` of the arithmetic, move
# {glue:text}`03-pointwise-traffic` of the bytes and take {glue:text}`03-pointwise-time` of the time. Depthwise
# convolutions, batch normalizations and activations together do {glue:text}`03-elementwise-arithmetic` of the
# arithmetic, move {glue:text}`03-elementwise-traffic` of the bytes and take {glue:text}`03-elementwise-time` of the
# time: they compute little, and read and write the widest tensors of the network.
#
# That is the answer to the question. MobileNetV2 saves five sixths of ResNet-18's arithmetic, and arithmetic is only
# one of the three things that take time. The other two grew: the bytes to move and the operations to launch.
#
# ## What a picture costs
#
# Time is not the only thing that is paid for: energy is power times time. The driver of a GPU counts the energy that it
# has used, the course reads the counter before and after a second or more of inferences, back to back, and so the
# records have an energy for each picture.
#
# The bounds are simple: a board draws no less than when it idles and no more than its limit, so the energy of a picture
# lies between these two, each times its time. At equal power, half the time is half the energy. But the power need not
# be equal: a GPU that waits less for the host may draw more.
#
# ```{admonition} Guess
# :class: tip
# Which of PyTorch's two rows needs less energy for a picture, the eager loop or the CUDA graph? And is the
# quickest of all frameworks also the one that needs the least?
# ```
#
# :::{dropdown} The answer
# {glue:text}`03-energy`.
# :::
#
# The price is yours to fill in: what an hour of this GPU costs, in your currency. Energy and money are for a million
# pictures, one at a time. Watts and energy are of a load of their own, images per second of the rounds, so watts over
# images per second need not be the energy of a picture.

# %%
price_per_hour = 3.0
watched = [
    record
    for record in select(lab.gpu_records(), model="resnet18", batch_size=1, precision="fp16")
    if record.load and record.load.energy_mj_per_image and record.fps
]
bill = pd.DataFrame(
    {
        "framework": [record.title for record in watched],
        "images/s": [record.fps for record in watched],
        "W": [record.load.power_w for record in watched],
        "mJ a picture": [record.load.energy_mj_per_image for record in watched],
        "kWh a million": [record.load.energy_mj_per_image / 3600 for record in watched],
        "price of a million": [1e6 / record.fps / 3600 * price_per_hour for record in watched],
    }
).sort_values("mJ a picture")
forms = {"images/s": "{:,.0f}", "W": "{:.0f}", "mJ a picture": "{:.0f}"}
forms |= dict.fromkeys(["kWh a million", "price of a million"], "{:.3f}")
caption = f"ResNet-18, FP16, one picture at a time, at {price_per_hour:g} an hour. {plots.provenance(watched)}"
tables.show_table(bill, caption, forms)

# %% tags=["remove-cell"]
by_backend = {record.backend: record for record in watched}
told = []
if {"pytorch", "pytorch-cudagraph"} <= by_backend.keys():
    loop, graph_row = by_backend["pytorch"].load, by_backend["pytorch-cudagraph"].load
    told.append(
        f"the CUDA graph needs {graph_row.energy_mj_per_image / loop.energy_mj_per_image:.2f} times the energy of the "
        f"eager loop, and draws {graph_row.power_w or 0:.0f} W where the loop draws {loop.power_w or 0:.0f} W"
    )
if len(watched) > 1:
    quickest = max(watched, key=lambda record: record.fps).title
    least, second = bill.iloc[0], bill.iloc[1]
    more = 100 * (second["mJ a picture"] / least["mJ a picture"] - 1)
    told.append(
        f"the lowest median is that of {quickest}, the row with the least energy is {least['framework']}, and the "
        f"next, {second['framework']}, needs {more:.0f} % more (one reading a row: a few percent are no order)"
    )
where = f"On {words.machines(watched)}, " if told else ""
glue("03-energy", where + ("; ".join(told) or "It takes a GPU's records to say, and there are none yet"))

# %% [markdown]
# A million pictures of so many millijoules are the same number of kilojoules, and 3,600 kilojoules are a kWh. The price
# falls with the time alone, whatever the GPU draws: who rents by the hour pays for the waiting, too. The
# [scoreboard](16_scoreboard) compares all models and batch sizes.
#
# ## What goes wrong
#
# ### FLOPs as a measure of speed
#
# Papers rank networks by FLOPs, and then somebody finds that the cheaper one is slower
# ([pytorch#18631](https://github.com/pytorch/pytorch/issues/18631); {cite}`shufflenet_v2` makes it a design rule). Two
# layers with exactly the same arithmetic: 3 x 3, dense on 32 channels, depthwise on 1024.

# %%
pair = {
    "dense": (nn.Conv2d(32, 32, 3, padding=1, bias=False), 32),
    "depthwise": (nn.Conv2d(1024, 1024, 3, padding=1, groups=1024, bias=False), 1024),
}
calls, sizes_of = {}, {}
for kind, (layer, channels) in pair.items():
    layer = layer.to(lab.device, dtype)
    images = torch.randn(8, channels, 56, 56).to(lab.device, dtype)
    flops = 2 * images.numel() * layer.weight[0].numel()
    traffic = (2 * images.nbytes + layer.weight.nbytes) / 1e6
    calls[kind], sizes_of[kind] = call_of(layer, images), f"{flops / 1e9:.3f} GFLOP, {traffic:.1f} MB"

turns = lab.turns(calls)
for kind in pair:
    print(f"{kind}: {sizes_of[kind]}, {turns.ms(kind):.3f} ms")
print(f"depthwise against dense: {turns.effect('depthwise', 'dense')}")

# %% [markdown]
# Count bytes as well, and launches.
#
# ### A profiler's total is not the latency
#
# A profiler adds work to every operation, and its table counts some of it twice: *total* includes what an operation
# calls, *self* does not ([pytorch#82793](https://github.com/pytorch/pytorch/issues/82793)).

# %%
model, one = networks["mobilenet_v2"], pictures[1]
with torch.inference_mode():
    start = time.perf_counter()
    averages = operations.profiled(lambda: model(one), lab.device).key_averages()
    whole = (time.perf_counter() - start) * 1e3
    average = [event for event in averages if event.key.startswith("aten::")]

print(f"latency, no profiler:      {eager['mobilenet_v2', 1]:8.2f} ms")
print(f"host, sum of self times:   {sum(event.self_cpu_time_total for event in average) / 1e3:8.2f} ms")
print(f"host, sum of total times:  {sum(event.cpu_time_total for event in average) / 1e3:8.2f} ms")
print(f"two calls and the profiler:{whole:8.2f} ms")

# %% [markdown]
# Only operations are summed here. The self times leave out the calls of CUDA below them and Python between them, so
# their sum may be less than the latency. Use a profile to see where the time goes, and a clock to say how much it is.
#
# ### A GPU at 100 % is not a full GPU
#
# `utilization.gpu`, the number that `nvidia-smi` shows, is the share of time in which *some* kernel ran {cite}`nvml`
# ([nvidia-docker#807](https://github.com/NVIDIA/nvidia-docker/issues/807)). Replay MobileNetV2 with one picture, again
# and again:

# %%
if on_gpu:
    graph, work = graphs["mobilenet_v2", 1], works["mobilenet_v2", 1]

    def step():
        for _ in range(20):
            graph.replay()
        torch.cuda.synchronize()
        return 20

    busy = sample_load(torch.cuda.current_device(), step, lab.profile.load_s).busy_percent
    seconds = lab.time(step).p50 / 20 / 1e3
    print("busy: this GPU does not say" if busy is None else f"busy {busy:.0f} %")
    print(f"arithmetic: {work.operations / seconds / machine.flops[precision]:.1%} of what the GPU can do")
    print(f"traffic:    {work.bytes_unfused / seconds / machine.bandwidth:.1%}, if nothing were fused or cached")
else:
    print("needs a GPU")

# %% [markdown]
# None of the three is wrong. The first says how much of the time the GPU was not idle; the others, how full it was
# meanwhile. A GPU that never idles can be nearly empty. To know how full yours is, count what an inference computes and
# moves, as here, and divide by its time and by the two ceilings. Where both shares are small, this GPU has room: for
# more pictures in each launch, or for fewer and larger kernels.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-03-intensity
# By hand: what is the arithmetic intensity, in FLOP per byte and in FP16, of a depthwise 3 x 3 convolution, and of a 1
# x 1 convolution from C to C channels? Neglect the weights. From how many channels on is the second limited by
# arithmetic on this machine?
# ```
#
# ````{solution} ex-03-intensity
# :class: dropdown
# For each value written, one value is read: 4 bytes in FP16, 8 in FP32. Depthwise: 9 multiply-adds, 18 FLOP, so 4.5
# FLOP per byte in FP16, however wide the layer is. 1 x 1: C multiply-adds, 2C FLOP, C/2 FLOP per byte. The counter
# agrees, but for the weights:
#
# ```python
# ridge = machine.flops[precision] / machine.bandwidth
# for channels in (16, 64, 256, 1024):
#     layer = nn.Conv2d(channels, channels, 1, bias=False)
#     found = count(layer, (many, channels, 28, 28), precision).intensity_unfused
#     print(f"1 x 1, {channels} channels: {found:.1f} FLOP/byte, the ridge is at {ridge:.1f}")
# depthwise_layer = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
# print(f"depthwise: {count(depthwise_layer, (many, 64, 28, 28), precision).intensity_unfused:.1f} FLOP/byte")
# ```
# The 1 x 1 convolution is limited by arithmetic from the number of channels on at which its intensity passes the ridge;
# the depthwise one stays where it is.
# ````
#
# ```{exercise}
# :label: ex-03-width
# Make a network half as wide: `torchvision.models.mobilenet_v2(width_mult=0.5)`. By which factors do its operations,
# its bytes and its calls fall, and what do you expect of the time? Then measure it at the larger batch.
# ```
#
# ````{solution} ex-03-width
# :class: dropdown
# ```python
# import torchvision
#
# shape = pictures[many].shape
# widths = {w: torchvision.models.mobilenet_v2(width_mult=w, num_classes=10).eval() for w in (1.0, 0.5)}
# full, half = (count(model, shape, precision) for model in widths.values())
# print(f"FLOP: {half.operations / full.operations:.2f}, bytes: {half.bytes_unfused / full.bytes_unfused:.2f}, "
#       f"calls: {half.calls / full.calls:.2f}")
# calls = {str(w): call_of(model.to(lab.device, dtype), pictures[many]) for w, model in widths.items()}
# half_time = lab.turns(calls)
# print(f"time: {half_time.ms('0.5') / half_time.ms('1.0'):.2f}")
# ```
# The 1 x 1 convolutions' arithmetic falls to about a quarter, that of depthwise ones and all activations to about half,
# the calls not at all. Counted together: a third of the operations, a little more than half of the bytes, as many
# calls. So the half network is as fast as the whole where calls are the limit, not quite twice as fast where bytes are,
# and three times as fast where arithmetic is; the time shows which it was.
# ````
#
# ```{exercise}
# :label: ex-03-ridge
# With perfect fusion, at which batch size does ResNet-18 become limited by arithmetic on this machine? And MobileNetV2?
# ```
#
# ````{solution} ex-03-ridge
# :class: dropdown
# ```python
# for name in ("resnet18", "mobilenet_v2"):
#     for size in (1, 2, 4, 8, 16, 32, 64):
#         print(name, size, limited_by(work_of(name, size, precision), machine, precision, "fused"))
# ```
# The weights are read once for the batch, so each picture adds operations and few bytes: with a batch that is large
# enough, a network that fuses everything waits for arithmetic.
# ````
#
# ```{exercise}
# :label: ex-03-price
# Another machine costs a fifth of `price_per_hour`. How many pictures a second does it have to do, one at a time, to be
# as cheap as the cheapest row of the bill?
# ```
#
# ````{solution} ex-03-price
# :class: dropdown
# ```python
# if len(bill):
#     cheapest = bill.sort_values("price of a million").iloc[0]
#     print(f"{cheapest['framework']} does {cheapest['images/s']:,.0f} images/s; a machine at a fifth of the price "
#           f"needs {cheapest['images/s'] / 5:,.0f}")
# ```
# Price per hour over pictures per hour is the price of a picture, so a machine at a fifth of the price may be five
# times slower.
# ````
#
# ## Key points
#
# - Arithmetic is one of three: time goes to launching, moving and computing. Estimate all three; the largest is the one
#   worth working on.
# - The roofline bounds throughput by arithmetic and by bytes. A machine's FLOP per byte says which network is limited
#   by what.
# - Where launches are the limit, count operations: a CUDA graph launches them as one, and fusion makes them fewer.
# - Where memory is the limit, count bytes: fusion and 16-bit types move fewer of them.
# - A bound says what a kernel could do, not that there is one that does: measure each step.
# - FLOPs alone predict nothing but FLOPs.
#
# ## Further reading
#
# The roofline model {cite}`roofline`; NVIDIA's introduction to arithmetic intensity on GPUs
# {cite}`nvidia_gpu_background`; Horace He on the same three limits, with PyTorch in mind {cite}`brrr`; the roofline for
# large models {cite}`scaling_book`; why FLOPs mislead the designers of networks {cite}`shufflenet_v2`.
