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
# # PyTorch
#
# My model was trained in PyTorch: how fast can PyTorch itself run it, before I learn anything else?
#
# This chapter measures the loop that everybody writes, and what is left of it once its launches are recorded; all later
# chapters are compared with these rows.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# what an eager call costs, and what a CUDA graph removes of it
# :::
# :::{grid-item-card} You need
# Python and PyTorch; a GPU for half of the experiments
# :::
# :::{grid-item-card} To read
# 30 minutes
# :::
# :::{grid-item-card} To run
# {{ run_times }}
# :::
# ::::

# %% [markdown]
# ## Why this framework exists
#
# PyTorch runs a model as an ordinary Python program. Each line that touches a tensor looks up an operation, picks a
# kernel for the tensor's device and type, and launches it. Python then goes on to the next line without waiting: the
# GPU works through a queue.
#
# That is what makes PyTorch pleasant to write and debug. It is also its price: every operation, however small, passes
# through the interpreter and through the {term}`dispatcher`, which finds the kernel.
#
# If launching takes longer than computing, the GPU starves. Small batches on a big GPU can be exactly this case;
# whether yours is one, the profile further down will tell.

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
import torchvision
from IPython.display import display
from safetensors.torch import load_file, save_file
from torch.fx.experimental.optimization import fuse

from inference_lib import MODELS, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends.shared.cuda import float32_products
from inference_lib.measure.operations import operations, timeline
from inference_lib.measure.roofline import bounds, work_of
from inference_lib.report import glue, plots, select, show_source, tables, words
from inference_lib.seam import PRECISIONS, Workload, build
from inference_lib.zoo.fashion_mnist import load_fashion_mnist, preprocess

scratch = tempfile.TemporaryDirectory()
lab = open_lab(profile, device, records_dir)
on_gpu = lab.device == "cuda"
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% tags=["hide-input"]
launch, kernel = 1.0, 0.4
eager = {
    "Python": [(i * launch, launch * 0.9) for i in range(8)],
    "GPU (eager)": [((i + 0.9) * launch, kernel) for i in range(8)],
    "GPU (graph)": [(launch + i * kernel, kernel * 0.9) for i in range(8)],
}
figure, (axes,) = plots.new_figure(height=1.9)
plots.timeline(eager, ["#8A8F98", "#D55E00", "#D98C00"], axes)
plots.show_figure(
    figure,
    alt="Sketch: eight launches in a row, the GPU idle between short kernels; a graph runs them without gaps.",
    caption="A sketch, not a measurement. Eager: each kernel waits for its launch. Graph: one launch, no gaps.",
)

# %% [markdown]
# ## Export
#
# There is little to export. A PyTorch model is Python code for the architecture and a dictionary of tensors for the
# weights. The code must be importable wherever the model runs, so only the weights are written, in the type in which
# they will be multiplied:

# %%
dtype = torch.half if on_gpu else torch.float
weights = Path(scratch.name) / "weights.safetensors"
save_file(load_pretrained("resnet18").to(dtype).state_dict(), weights)
print(f"{weights.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# Loading is the reverse. The architecture is created on PyTorch's *meta* device, where tensors have shapes and no
# memory, because the file brings the numbers. Two calls are easy to forget: `eval()` makes dropout and batch
# normalization behave as they should at inference, and `requires_grad_(False)` says that nobody will ask for gradients.

# %%
with torch.device("meta"):
    network = torchvision.models.resnet18(num_classes=10)
network.load_state_dict(load_file(weights, device=lab.device), assign=True)
network = network.eval().requires_grad_(False)

# %% [markdown]
# The course's backend does the same. The cast is checked on the file, not believed, because a precision is a property
# of what is stored:

# %% tags=["nbval-check-output"]
backend = get_backend("pytorch")
for precision in ("fp32", "fp16"):
    artifact = build(backend, Workload("resnet18", 1, precision, "cpu"))
    print(f"{precision}: {artifact.size_bytes / 1e6:.1f} MB, stored as {backend.stored_precision(artifact)}")

# %% [markdown]
# Sixteen bits a number instead of thirty-two: half the file.
#
# ## The loop everybody writes
#
# A NumPy array comes in, it is copied to the device, the model is called, and the answer is copied back. This is the
# course's baseline.


# %%
@torch.inference_mode()
def classify(batch):
    images = torch.from_numpy(batch).to(lab.device)
    logits = network(images)
    return logits.float().cpu().numpy()


pictures, labels = load_fashion_mnist("test")
picture = preprocess(pictures[:1], np.float16 if on_gpu else np.float32)
print(f"class {classify(picture).argmax()}, the label says {labels[0]}")

# %% [markdown]
# Two of its calls wait. `.to` waits for its own copy, because the array lies in {term}`pageable memory`, and the driver
# has to read it before the caller may change it. `.cpu()` waits for everything that was queued before. The model's
# call, in between, does not wait: a clock that is stopped there has measured the launching, not the computing.
#
# ## The same model as a CUDA graph
#
# A {term}`CUDA graph` records a sequence of kernel launches once and replays it with a single call. What the
# interpreter and the dispatcher did for every operation is done once, and all launches become one
# {cite}`pytorch_cuda_graphs`. That helps wherever kernels are shorter than their launches, as they can be with one
# picture.
#
# The recording fixes everything: the kernels, their order, the shapes and the addresses. So the input is copied to
# where the graph reads it, and the output is copied from where the graph writes it.

# %%
if on_gpu:
    static_input = torch.from_numpy(picture).cuda()
    stream, recording = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.inference_mode():
        with torch.cuda.stream(stream):
            for _ in range(3):
                network(static_input)
        with torch.cuda.graph(recording, stream=stream, capture_error_mode="relaxed"):
            static_output = network(static_input)

    def replay(batch):
        static_input.copy_(torch.from_numpy(batch))
        recording.replay()
        return static_output.float().cpu().numpy()

    print(f"class {replay(picture).argmax()}, as above: {replay(picture).argmax() == classify(picture).argmax()}")
else:
    print("needs a GPU")

# %% [markdown]
# Three runs come first, on the stream that will record: cuDNN and {term}`cuBLAS` choose their kernels at first use, and
# must not do so while recording. *Relaxed* lets a library ask the driver something while it queues its kernels.
#
# The course's backend records the model like this, and for a small batch a second graph that holds the two copies as
# well. An inference is then one copy into {term}`pinned memory`, one launch and one wait.
#
# ### Fewer kernels to replay
#
# A graph removes the launches, not the kernels. cuDNN can do more in one kernel than eager PyTorch asks of it: while
# a convolution's result is still in {term}`registers <register>`, it can add the bias and the shortcut of a residual
# block, and apply the ReLU. The operation has a name, and eager PyTorch never calls it for you. Here it is on one
# convolution, with what the profiler counts:


# %%
@torch.inference_mode()
def apart():
    """Convolve, add the bias, rectify."""
    return torch.relu(torch.nn.functional.conv2d(nhwc, filters, bias, stride=2, padding=3))


@torch.inference_mode()
def fused():
    """Do the same in one operation of cuDNN."""
    return torch.cudnn_convolution_relu(nhwc, filters, bias, (2, 2), (3, 3), (1, 1), 1)


if on_gpu:
    nhwc = static_input.to(memory_format=torch.channels_last)
    filters = network.conv1.weight.to(memory_format=torch.channels_last)
    bias = torch.linspace(-1, 1, 64, dtype=dtype, device="cuda")
    for call in (apart, fused):
        print(f"kernels, {call.__name__}: {(timeline(call, 'cuda')['row'] == 'device').sum()}")
    print(f"largest difference {(apart() - fused()).abs().max().item():.1e} of {fused().max().item():.1f}")
else:
    print("needs a GPU: cuDNN has the fused operation")

# %% [markdown]
# `torch.fx` turns the model into a list of operations, and the course replaces the patterns in that list:

# %%
show_source("inference_lib.backends.shared.fusion", "_fused_with")

# %% [markdown]
# The batch norms have been folded into the filters before, as the section on knobs explains. Images are kept
# {term}`channels-last`, the layout that {term}`tensor cores <tensor core>` read; the conversion is part of the
# recording, so it is measured.
#
# ## Is it still the same model?
#
# Before a model is timed, its logits are compared with those of the FP32 eager model. Different kernels add numbers in
# a different order, so the logits differ a little. The predicted class may differ for one picture in two hundred at
# most, a near tie. TF32 is measured for the CUDA graph only: in the eager loop, launching could hide what faster
# arithmetic gains. Its rows, and FP32 at the largest batch, belong to the whole grid: they are here once
# `python -m inference_lib benchmark` has run.

# %%
backends = ["pytorch", "pytorch-cudagraph"]
lab.benchmark(backends)
compared = lab.compare(backends, precisions=["fp32", "tf32", "fp16"])
records = compared.here
tables.show_table(tables.agreement(records), f"Agreement with the FP32 eager model. {plots.provenance(records)}")

# %% [markdown]
# Where a row was checked on fewer pictures than others of its model (last column), its accuracy is estimated for all of
# them: the reference's accuracy on all, plus what the row gained or lost on its own pictures.
#
# In one line for each model:

# %% tags=["nbval-check-output"]
for model in MODELS:
    print(f"{model}: {words.verdict(records, model)}")

# %% [markdown]
# ## How fast can it be?
#
# Two bounds come first, from the ceilings of the [chapter on where the time goes](03_where_the_time_goes). No program
# is quicker than the larger of two times: the arithmetic, and the traffic of a program that fuses everything. And
# kernels that reach the ceilings need no more than the arithmetic plus the traffic of a program that fuses nothing.

# %%
limits = lab.gpu_ceilings()  # None where neither this machine nor the published edition has a GPU
ideal = work_of("resnet18", 1, "fp16")
if limits:
    least = max(bounds(ideal, limits, "fp16", "fused").values()) * 1e3
    most = sum(bounds(ideal, limits, "fp16", "unfused").values()) * 1e3
    print(f"{limits.machine}, ResNet-18, one picture in FP16: from {least:.3f} to {most:.3f} ms")
else:
    print("needs the ceilings of a GPU")

# %% [markdown]
# A time above the upper bound was spent on something that the ceilings know nothing of: kernels too small to fill the
# device, the gaps between them, and end to end also copies and launches.
#
# ```{admonition} Guess
# :class: tip
# Between these bounds, or above them: where is the eager loop, on the device alone and end to end? And where is the
# CUDA graph?
# ```
#
# :::{dropdown} The answer
# {glue:text}`04-gap`.
# :::
#
# ## How fast is it?
#
# End-to-end latency is what a caller waits: from the NumPy array to the NumPy array. Here is your machine beside the
# published one. A row is compared with the eager loop in its own precision, a row in TF32 with the eager loop in FP32.

# %%
compared.table()

# %% [markdown]
# :::{dropdown} On readers' machines
# {{ machines: pytorch pytorch-cudagraph }}
# :::

# %% [markdown]
# Where the eager loop is no quicker in FP16 than in FP32, [a section
# below](#why-is-fp16-not-twice-as-fast-at-batch-1) looks for what it waits for. A note under the table marks a row
# that is [less trustworthy than its neighbours](../book/how_to_read).
#
# A median hides the stragglers. The next figure shows every inference: at each time, the share of inferences that
# took no longer. A steep line is a steady latency.

# %%
compared.latencies("resnet18", "fp32", "fp16")

# %% tags=["remove-cell"]
one = compared.by_rival("resnet18", "fp16")
eager, graph = one["pytorch"], one["pytorch-cudagraph"]
whole, alone = (words.times_faster(eager, graph, kind) for kind in ("end_to_end", "device"))
glue("04-graph", words.once(f"end to end, the CUDA graph is {whole}; on the device alone, {alone}"))
glue("04-gpu", words.machines(graph))
glue("04-eager-cv", words.number(eager, lambda r: r.latency.end_to_end.cv_percent, "{:.0f} %"))
glue("04-graph-cv", words.number(graph, lambda r: r.latency.end_to_end.cv_percent, "{:.0f} %"))
gaps = []
for record in [r for r in (*eager, *graph) if r.latency and r.latency.device]:
    whole, alone = record.latency.end_to_end.p50, record.latency.device.value
    over = f", {alone / least:.0f} times the lower bound and {alone / most:.1f} times the upper one" if limits else ""
    gaps.append(f"{record.title}: {alone:.3f} ms on the device{over}; {whole:.3f} ms end to end")
if gaps and not limits:
    gaps.append("the ceilings of this GPU are not measured yet, so there is no bound beside them")
glue("04-gap", "; ".join(gaps) or "It takes the FP16 rows of a GPU to say, and they are not measured yet")
waits = [
    f"{r.title} {r.latency.device.value:.3f} ms there and {r.parts.compute:.3f} ms here"
    for r in (*eager, *graph)
    if r.latency and r.latency.device and r.parts
]
glue("04-waits", ", ".join(waits) or words.NOT_MEASURED)

# %% [markdown]
# On {glue:text}`04-gpu`, FP16, batch 1, against the eager loop: {glue:text}`04-graph`.
#
# Single inferences of the graph scatter by {glue:text}`04-graph-cv`, those of the eager loop by
# {glue:text}`04-eager-cv` (half the distance from the 16th to the 84th percentile, over the median). Two things pull
# in opposite directions: every launch is a chance for the interpreter to be late, and the graph has one; but one and
# the same delay is a larger share of a shorter latency.
#
# ### Where the milliseconds are
#
# The same inference in three parts, timed on the device: the copy in, the model, the copy out. The mark is the
# end-to-end latency, measured by itself with the host's clock, so a bar may end on either side of it. The graph of a
# small batch, for one, takes both copies into its one launch, and the parts are timed one by one. The eager loop's bar
# has the host's launches in it, and the host may be slower in one series than in the other.
#
# The model is not quite what the table calls *on the device*. There, all of its launches are queued before the clock
# starts; here, a kernel may wait for its launch, of which a graph has only one. In FP16: {glue:text}`04-waits`.

# %%
compared.parts("resnet18")

# %% [markdown]
# ### Larger batches
#
# A batch costs one sequence of launches, however many images it holds. As it grows, computing takes over from
# launching. Should the two curves meet, then?

# %%
compared.batches("resnet18", "fp32", "fp16")

# %% tags=["remove-cell"]
shown = compared.shown("resnet18", "fp16")
largest = max((record.batch_size for record in shown), default=1)
many = compared.by_rival("resnet18", "fp16", largest)
glue("04-largest", largest)
whole, alone = (
    words.times_faster(many["pytorch"], many["pytorch-cudagraph"], kind) for kind in ("end_to_end", "device")
)
glue("04-graph-many", words.once(f"{whole} end to end and {alone} on the device"))

# %% [markdown]
# At batch {glue:text}`04-largest`, FP16, the graph is {glue:text}`04-graph-many`. They could meet only if launching
# were all that tells the two apart. The graph's backend also fuses operations, keeps images channels-last, and sends a
# large batch from pinned memory in pieces, one of them on its way while the next is staged.

# %% [markdown]
# ### Copies beside the computation
#
# A GPU has {term}`copy engines <copy engine>` beside its processors. With pinned memory, two more streams and a second
# set of buffers, the next batch comes in and the last answer goes out while one batch is computed.

# %%
show_source("inference_lib.measure.pipeline", "Pipeline.submit")

# %% [markdown]
# Events are what keeps the three streams in order: nothing waits on the host. Three answers to "how many images per
# second" at the largest batch, FP16, for the graph:

# %%
graphs = select(lab.gpu_records(), backend="pytorch-cudagraph", precision="fp16")
rows = [r for model in MODELS for r in select(graphs, model=model) if r.overlapped_images_per_s]
answers = {
    "model": [r.model for r in rows],
    "batch": [r.batch_size for r in rows],
    "one at a time": [r.fps for r in rows],
    "overlapped": [r.overlapped_images_per_s for r in rows],
    "compute only": [r.throughput_images_per_s for r in rows],
}
formats = dict.fromkeys(["one at a time", "overlapped", "compute only"], "{:,.0f}")
tables.show_table(pd.DataFrame(answers), f"Images per second, CUDA graph, FP16. {plots.provenance(rows)}", formats)

# %% [markdown]
# Where overlapped and compute only agree, the copies are hidden. Where they do not, a batch takes longer to send than
# to compute, and the bus is the limit: smaller images on the host, or enlarging them on the GPU, would be the remedy.
#
# ## Why?
#
# The profiler counts what one inference of ResNet-18 launches and adds up the time that its operations took on the
# device that did the work. What remains of the latency lies between them.

# %%
model = load_pretrained("resnet18").to(lab.device)
images = torch.zeros(1, 3, 224, 224, device=lab.device)

with torch.inference_mode():
    work = operations(lambda: model(images), lab.device)
    latency = lab.time(lambda: model(images))

tables.show_table(work.head(6), f"Operations of one inference, FP32, {lab.machine_name}.", {"ms": "{:.3f}"})

# %% [markdown]
# And what is between them:

# %%
inside = work["ms"].sum()
print(f"{work['calls'].sum():.0f} calls, {inside:.2f} ms in them, {latency.p50:.2f} ms in all")
print(f"share of the latency that lies between them: {max(0, 1 - inside / latency.p50):.0%}")

# %% [markdown]
# The last number is the most that a graph can remove of this latency, as long as it replays the same operations. It
# tells where your problem is: between the operations, or in them. (On a CPU an operation that calls another counts as
# two calls, and the profiler slows both down, so their sum can exceed the latency.) The backend that is called CUDA
# graph in this chapter replays other operations, fused and channels-last, so what it gains may be more than this share.

# %% tags=["remove-cell"]
single, half = (compared.by_rival("resnet18", name)["pytorch"] for name in ("fp32", "fp16"))
by_graph = {name: compared.by_rival("resnet18", name)["pytorch-cudagraph"] for name in ("fp32", "tf32", "fp16")}
types = [f"{words.times_faster(by_graph['fp32'], by_graph[name])} in {name.upper()}" for name in ("fp16", "tf32")]
glue("04-graph-types", words.once(" and ".join(types)))
whole, alone = (words.times_faster(single, half, kind) for kind in ("end_to_end", "device"))
glue("04-half", words.once(f"{whole} end to end and {alone} on the device"))

# %% [markdown]
# ### Why is FP16 not twice as fast at batch 1?
#
# People report that FP16 is *slower* than FP32 with one picture
# ([pytorch#44274](https://github.com/pytorch/pytorch/issues/44274)), though it halves the bytes and its products run on
# tensor cores. Against FP32, the eager loop on {glue:text}`04-gpu` in FP16 is {glue:text}`04-half`. Where the device
# gains and the caller does not, the caller waits for the host. Against FP32 again, the CUDA graph, which takes the host
# out, is {glue:text}`04-graph-types`. Four suspects:
#
# - **casts**: somebody hands in FP32 arrays, and each call converts them (the book's loop gets FP16 arrays, and casts
#   ten logits back);
# - **layout**: tensor cores read channels-last (NHWC) tiles, so from NCHW the library converts before and after a
#   convolution, with kernels of its own ([pytorch#54324](https://github.com/pytorch/pytorch/issues/54324));
# - **kernels**: those that FP16 gets are slower for such small work;
# - **launching**: the host needs longer to launch what FP16 needs, and the GPU waits for it. A batch normalization
#   with weights in FP32 is one kernel of cuDNN's; with weights in FP16, PyTorch launches three of its own.
#
# First, is it so here? The same call in both precisions and both layouts, taking turns, the images on the device in
# the right type already: that rules out the casts.


# %%
def eager_call(precision, layout):
    """Return a call of the eager ResNet-18 on one picture that is on the device, in its type and layout, already."""
    dtype = PRECISIONS[precision].dtype
    network = load_pretrained("resnet18").to(lab.device, dtype, memory_format=layout)
    picture = images.to(dtype, memory_format=layout)
    return torch.inference_mode()(lambda: network(picture))


layouts = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
if on_gpu:
    ways = {
        f"{PRECISIONS[precision].title} {name}": eager_call(precision, layout)
        for name, layout in layouts.items()
        for precision in ("fp32", "fp16")
    }
    timed = lab.turns(ways)
    display(tables.show_table(timed.table(), f"Eager ResNet-18, batch 1, compute only. {lab.machine_name}."))
else:
    print("needs a GPU")

# %% [markdown]
# Then each suspect gets a number: how many kernels ran, how many of them only convert layouts, how long the kernels
# took. And the clock is read twice in each call: when the call *returned*, which is when the last kernel was launched,
# and when the device was done.

# %%
CONVERSION = r"[Tt]o(?:Nhwc|Nchw)|[Tt]ranspose|tensorTransform|convertTensor"


def suspects(call):
    """Count and time the kernels of one call."""
    spans = timeline(call, "cuda")
    kernels = spans[spans["row"] == "device"]
    converting = kernels["name"].str.contains(CONVERSION)
    return {
        "kernels": len(kernels),
        "of them converting": int(converting.sum()),
        "in kernels, ms": kernels["length_ms"].sum(),
        "converting, ms": kernels["length_ms"][converting].sum(),
    }


def two_readings(call):
    """Return, in ms, when a call came back and when its work was done; the device is idle when it begins."""
    call()  # does not count: another call was before
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    returned = time.perf_counter()
    torch.cuda.synchronize()
    return (returned - start) * 1e3, (time.perf_counter() - start) * 1e3


if on_gpu:
    rounds = [[two_readings(call) for call in ways.values()] for _ in range(30)]
    found = pd.DataFrame({name: suspects(call) for name, call in ways.items()}).T
    found[["launched after, ms", "latency, ms"]] = np.median(rounds, axis=0)
    forms = dict.fromkeys(["kernels", "of them converting"], "{:.0f}")
    numbers = found.rename_axis("").reset_index()
    display(tables.show_table(numbers, f"Each suspect's number. {lab.machine_name}.", forms))
else:
    print("needs a GPU")

# %% [markdown]
# The difference that FP16 makes to each number:

# %%
if on_gpu:
    for name in layouts:
        half, single = found.loc[f"FP16 {name}"], found.loc[f"FP32 {name}"]
        more = half - single
        print(f"{name}: effect of FP16: {timed.effect(f'FP16 {name}', f'FP32 {name}')}")
        print(f"  {more['kernels']:+.0f} kernels, of them {more['of them converting']:+.0f} that convert")
        print(f"  {more['in kernels, ms']:+.3f} ms in kernels, of them {more['converting, ms']:+.3f} converting")
        print(f"  {more['launched after, ms']:+.3f} ms until all is launched, {more['latency, ms']:+.3f} ms of latency")
        waiting = half["launched after, ms"] > half["in kernels, ms"]
        print(f"  in FP16 the {'device waits for the host' if waiting else 'host is ahead of the device'}")
else:
    print("needs a GPU")

# %% tags=["remove-cell"]
effects = [f"{timed.effect(f'FP16 {name}', f'FP32 {name}')} in {name}" for name in layouts] if on_gpu else []
glue("04-effects", ", ".join(effects) or words.NOT_MEASURED)

# %% [markdown]
# Read it line by line. ResNet-18 has twenty batch norms, with two kernels more for each in FP16: take them and the ones
# that convert away, and see what is left of the difference. *Launched after* and *latency* are two readings of the same
# calls; the effect is that of the table above them. Where the device waits for the host, quicker kernels cannot show,
# and each kernel more costs a launch: that is how a type of half the size can come out slower. Where the host is ahead,
# the kernels decide, and the ones that only convert are pure loss. In FP16, they are what channels-last is there to
# remove; in FP32, it can be NHWC that is converted, as the second table tells. A CUDA graph takes the launching out of
# the comparison altogether, so its FP16 row is where to look for what the type itself is worth.
#
# The effect of FP16 is here: {glue:text}`04-effects`. Where the device waits, launch less often: with a CUDA graph, a
# compiler that fuses, or more pictures for each launch. Where the kernels decide, try channels-last, and look at what
# still converts.
#
# ## Knobs
#
# Each of these is one line. They take turns with the plain call on ResNet-18 at batch 1.

# %%
plain = load_pretrained("resnet18").to(lab.device)
tracked = load_pretrained("resnet18").to(lab.device).requires_grad_(True)
channels_last = load_pretrained("resnet18").to(lab.device, memory_format=torch.channels_last)
folded = fuse(load_pretrained("resnet18")).to(lab.device)


def in_tf32():
    with float32_products("tf32"):
        plain(images)


no_gradients = torch.inference_mode()
knobs = {
    "plain": no_gradients(lambda: plain(images)),
    "with autograd": lambda: tracked(images),
    "channels-last": no_gradients(lambda: channels_last(images)),
    "batch norm folded": no_gradients(lambda: folded(images)),
} | ({"TF32": no_gradients(in_tf32)} if on_gpu else {})
measured = lab.turns(knobs)
tables.show_table(measured.table(), f"One option at a time, FP32, batch 1, compute only. {lab.machine_name}.")

# %% [markdown]
# An effect of *none* is [lost in the noise](02_measuring_inference), here and today. The plain call was timed further
# up as well: it is the same call, so where the numbers differ, something around it does. Compare within one table.
#
# {term}`Folding` batch normalization into the convolution before it changes no result but rounding. It replaces the
# batch norm by a bias, which on a GPU is a kernel of its own, too: what it gains there does not come from fewer
# kernels. Channels-last changes which kernels a library can choose, on a CPU, too; on a GPU it may add conversions or
# remove them. {term}`Autograd` writes down what every operation did, for gradients that nobody will ask for.
# {term}`TF32` changes the arithmetic, so it can only help where arithmetic is what takes the time; its row also pays
# for the setting at every call, and for conversions, where TF32's kernels read another layout.
#
# PyTorch's own default is TF32 for convolutions and IEEE for matrix products. The book sets both to IEEE unless a label
# says TF32. Two lines do that, and every program that compares FP32 needs both:

# %%
torch.backends.cudnn.allow_tf32 = False  # convolutions: PyTorch comes with True
torch.backends.cuda.matmul.allow_tf32 = False  # matrix products: PyTorch comes with False

# %% [markdown]
# `open_lab` has run them already, at the top of every chapter.
#
# ## What goes wrong
#
# ### Forgetting `eval()`
#
# In [training mode](01_the_task_and_the_models.ipynb#training-mode), batch normalization uses the statistics of the
# batch at hand. The program runs, the shapes fit, and the answers are no longer the trained network's.

# %%
batch = torch.from_numpy(preprocess(pictures[:32])).to(lab.device)
with torch.inference_mode():
    right = plain.eval()(batch)
    wrong = plain.train()(batch)
    after = plain.eval()(batch)
print(f"{(right.argmax(1) != wrong.argmax(1)).sum().item()} of {len(batch)} predictions changed")
print(f"largest difference of a logit: in training mode {(wrong - right).abs().max().item():.2f},")
print(f"and back in evaluation mode {(after - right).abs().max().item():.2f}")

# %% [markdown]
# The last number is not zero, because training mode also moves the running statistics with every call. The damage
# stays: `plain` must be loaded again before it is used.

# %%
assert not torch.equal(after, right), "the text says that training mode changes the model for good"
plain = load_pretrained("resnet18").to(lab.device)

# %% [markdown]
#
# ### An FP16 model and an FP32 array
#
# NumPy arrays are float64 or float32 unless somebody says otherwise. PyTorch refuses to mix them with half-precision
# weights:

# %%
try:
    load_pretrained("vanilla_cnn").half()(torch.zeros(1, 3, 224, 224))
except RuntimeError as error:
    print(error)
else:
    raise AssertionError("the text says that PyTorch refuses")

# %% [markdown]
# Convert on the host, once and before the copy: half the bytes cross the bus.
#
# ### The output of a CUDA graph is overwritten
#
# A replay writes to the same memory every time. A result that is kept without a copy changes under its owner's eyes
# ([pytorch#170604](https://github.com/pytorch/pytorch/issues/170604)).

# %%
if on_gpu:
    number, doubling = torch.ones(1, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(doubling):
        doubled = number * 2

    doubling.replay()
    kept, copied, answer = doubled, doubled.clone(), doubled.item()
    number.fill_(5)
    doubling.replay()
    print(f"the answer: {answer:.0f}; after another replay, kept: {kept.item():.0f}, copied: {copied.item():.0f}")
    assert kept.item() != answer, "the text says that a replay overwrites what was kept"
    assert copied.item() == answer, "the text says that a copy stays as it was"
else:
    print("needs a GPU")

# %% [markdown]
# So clone what you keep, before the next replay. You recorded no graph? `torch.compile` with `mode="reduce-overhead"`
# [does](06_torch_compile.ipynb#the-output-is-overwritten); and whatever writes to an output that was bound once, as
# IOBinding or a TensorRT context can, overwrites it at every call as well.
#
# ### Timing the launch instead of the work
#
# The [first mistake](02_measuring_inference.ipynb#1-reading-the-clock-before-the-work-is-done) of them all, with this
# model: without `torch.cuda.synchronize()` the clock is read too early.

# %%
if on_gpu:
    large = torch.zeros(64, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        plain(large), torch.cuda.synchronize()
        start = time.perf_counter()
        plain(large)
        launched = time.perf_counter() - start
        torch.cuda.synchronize()
        finished = time.perf_counter() - start
    print(f"returned after {launched * 1e3:.2f} ms, finished after {finished * 1e3:.2f} ms")
else:
    print("needs a GPU; on a CPU a call returns when it is done")

# %% [markdown]
# ## Exercises
#
# ```{exercise}
# :label: ex-04-layout
# Compare NCHW with channels-last in FP16 at batch 64 (on a CPU, in FP32 at batch 2). Does it pay? If it does on your
# GPU, which kernels are gone?
# ```
#
# ````{solution} ex-04-layout
# :class: dropdown
# ```python
# size, kind = (64, torch.half) if on_gpu else (2, torch.float)
# many_pictures = torch.randn(size, 3, 224, 224, device=lab.device, dtype=kind)
# both = {}
# for name, layout in layouts.items():
#     resnet = load_pretrained("resnet18").to(lab.device, kind, memory_format=layout)
#     images_so = many_pictures.to(memory_format=layout)
#     both[name] = torch.inference_mode()(lambda resnet=resnet, images_so=images_so: resnet(images_so))
# print(lab.turns(both).table().to_string(index=False))
# if on_gpu:
#     print(pd.DataFrame({name: suspects(call) for name, call in both.items()}).to_string())
# ```
# The first table is the verdict. On a GPU, the second one counts the kernels that only convert, and what share of the
# kernels' time they take: that share is what channels-last can save, and tensor cores read NHWC tiles.
# ````
#
# ```{exercise}
# :label: ex-04-dropout
# `VanillaCNN` has a dropout layer. Predict what `train()` does to its answers, then check: are two calls with the same
# input equal? And without the dropout, batch normalization alone?
# ```
#
# ````{solution} ex-04-dropout
# :class: dropdown
# ```python
# example = torch.from_numpy(preprocess(pictures[:8]))
# small = load_pretrained("vanilla_cnn").train()
# print("with dropout, two calls agree:", torch.equal(small(example), small(example)))
# small.head[1].eval()
# print("without it, two calls agree:", torch.equal(small(example), small(example)))
# ```
# Dropout draws a new mask at every call, so the answers differ. Batch normalization alone, in training mode, gives
# equal answers for equal batches: it uses the batch's own statistics, and moves the running ones that nobody reads
# meanwhile.
# ````
#
# ```{exercise}
# :label: ex-04-launch
# How large must an operation be until computing it takes as long as asking for it? Rectify tensors of rising size, and
# find the first that takes twice as long as a tensor of one number.
# ```
#
# ````{solution} ex-04-launch
# :class: dropdown
# ```python
# def microseconds(numbers, repetitions=200):
#     """Return what rectifying so many numbers takes, several calls in a row."""
#     values = torch.zeros(numbers, device=lab.device)
#
#     @torch.inference_mode()
#     def several():
#         for _ in range(repetitions):
#             torch.relu(values)
#
#     return lab.time(several).p50 / repetitions * 1e3
#
#
# one_number = microseconds(1)
# for power in range(10, 23, 2):
#     found = microseconds(2**power, 20)
#     print(f"{2**power * 4 / 1e6:8.3f} MB: {found:8.1f} us, {found / one_number:.1f} times as long as one number")
# ```
# Up to some size the time is flat: that is the price of asking. Operations below that size are paid for in launches,
# and fusing two of them halves it.
# ````
#
# ## Key points
#
# - An eager call costs at least one launch per operation, and some operations are several kernels. A profile says what
#   share of the latency lies between the kernels, and that share is the most that fewer launches can save.
# - How fast PyTorch itself can run it: as fast as its kernels allow, in a CUDA graph, which replays all launches as
#   one. Shapes and addresses are fixed, and outputs must be copied.
# - FP16 pays where kernels take the time. Where launches do, count kernels first.
# - A precision label is a claim about stored weights and arithmetic: check the file, and set the TF32 policy.
# - Only what is waited for has been timed.
#
# ## Further reading
#
# CUDA graphs in PyTorch {cite}`pytorch_cuda_graphs`; the rules that this book measures by are in
# [How to read this book](../book/how_to_read).
