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
# The framework the models were trained in is the first one to measure: everything after this chapter is compared
# with it.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# what an eager call costs, and how a CUDA graph removes most of it
# :::
# :::{grid-item-card} You need
# Python and PyTorch; a GPU for half of the experiments
# :::
# :::{grid-item-card} To read
# 20 minutes
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
# through the interpreter and the dispatcher.
#
# If launching takes longer than computing, the GPU starves. Small batches on a big GPU are exactly this case.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import pandas as pd
import torch

from inference_lib import MODELS, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.report import glue, plots, select, show_source, tables, words
from inference_lib.seam import Workload, build

lab = open_lab(profile, device, records_dir)
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
# There is little to export. A PyTorch model is two things: Python code for the architecture, and a dictionary of
# tensors for the weights. The code must be importable wherever the model runs, so only the weights are written.

# %%
show_source("inference_lib.backends.pytorch", "PyTorchEager.export")

# %% [markdown]
# The weights are cast before they are written, and the cast is checked on the file, not believed. A precision is a
# property of what is stored:

# %% tags=["nbval-check-output"]
backend = get_backend("pytorch")
for precision in ("fp32", "fp16"):
    artifact = build(backend, Workload("resnet18", 1, precision, "cpu"))
    print(f"{precision}: {artifact.size_bytes / 1e6:.1f} MB, stored as {backend.stored_precision(artifact)}")

# %% [markdown]
# Loading is the reverse. The architecture is created on PyTorch's *meta* device, where tensors have shapes and no
# memory, because the file brings the numbers. Two calls are easy to forget: `eval()` makes dropout and batch
# normalization behave as they should at inference, and `requires_grad_(False)` says that nobody will ask for gradients.

# %%
show_source("inference_lib.backends.pytorch", "load_module")

# %% [markdown]
# ## The loop everybody writes
#
# A NumPy array comes in, it is copied to the device, the model is called, and the answer is copied back. This is the
# course's baseline; the project that this course grew from timed exactly this.

# %%
show_source("inference_lib.backends.pytorch", "EagerRunner.infer")

# %% [markdown]
# `.cpu()` is the only line that waits. Everything before it is queued, so a clock stopped before it measures the
# launching, not the computing.
#
# ## The same model as a CUDA graph
#
# A CUDA graph records a sequence of kernel launches once and replays it with a single call. The interpreter, the
# dispatcher and the launches of hundreds of operations become one launch {cite}`pytorch_cuda_graphs`.
#
# The recording fixes everything: the kernels, their order, the shapes and the addresses. So the input is copied to
# where the graph reads it, and the output is copied from where the graph writes it.

# %%
show_source("inference_lib.backends.shared.graphs", "GraphedRunner.__init__")
show_source("inference_lib.backends.shared.graphs", "GraphedRunner._capture")

# %% [markdown]
# Three runs come first, on the stream that will record: cuDNN and cuBLAS choose their kernels at first use, and must
# not do so while recording. Then the model is recorded, and for a small batch a second graph that holds the two copies
# as well. An inference is then one copy into pinned memory, one launch and one wait.
#
# ### Fewer kernels to replay
#
# A graph removes the launches, not the kernels. cuDNN can do more in one kernel than eager PyTorch asks of it: the
# bias, the shortcut of a residual block and the ReLU can be added while a convolution's result is still in registers.
# `torch.fx` turns the model into a list of operations, and a few lines replace the patterns:

# %%
show_source("inference_lib.backends.shared.fusion", "_fused_with")

# %% [markdown]
# The batch norms have been folded into the filters before, as the section on knobs explains. Images are kept
# channels-last, the layout that tensor cores read; the conversion is part of the recording, so it is measured.
#
# ## Is it still the same model?
#
# Before a model is timed, its logits are compared with those of the FP32 eager model. Different kernels add numbers
# in a different order, so the logits differ a little; the predicted class must not. TF32 rows are measured where
# arithmetic is what takes the time, that is for the graph.

# %%
backends = ["pytorch", "pytorch-cudagraph"]
records = lab.benchmark(backends)
if lab.device == "cuda":
    records += lab.benchmark(["pytorch-cudagraph"], precisions=["tf32"])
tables.show_table(tables.agreement(records), f"Agreement with the FP32 eager model. {plots.provenance(records)}")

# %% tags=["nbval-check-output"]
for model in MODELS:
    print(f"{model}: {words.verdict(records, model)}")

# %% [markdown]
# ## How fast?
#
# End-to-end latency is what a caller waits: from the NumPy array to the NumPy array. Here is your machine beside the
# published one.

# %%
compared = lab.compare(backends, precisions=["fp32", "tf32", "fp16"])
compared.table()

# %% [markdown]
# A median hides the stragglers. The next figure shows every inference: at each time, the share of inferences that
# took no longer. A steep line is a steady latency.

# %%
compared.latencies("resnet18", "fp32", "fp16")

# %% tags=["remove-cell"]
one = compared.by_rival("resnet18", "fp16")
eager, graph = one["pytorch"], one["pytorch-cudagraph"]
glue("04-graph-speedup", words.times_faster(eager, graph))
glue("04-gpu", words.machines(graph))
glue("04-eager-cv", words.number(eager, lambda r: r.latency.end_to_end.cv_percent, "{:.0f} %"))
glue("04-graph-cv", words.number(graph, lambda r: r.latency.end_to_end.cv_percent, "{:.0f} %"))

# %% [markdown]
# On {glue:text}`04-gpu`, against the eager loop, the FP16 CUDA graph is {glue:text}`04-graph-speedup` at batch 1. Its
# latency varies by {glue:text}`04-graph-cv` (standard deviation over mean), the eager loop's by
# {glue:text}`04-eager-cv`. Every launch is a chance for the interpreter to be late, and the graph has one. But the
# shorter a latency is, the larger a part of it is the same delay.
#
# ### Where the milliseconds are
#
# The same inference in three parts, timed on the device: the copy in, the model, the copy out. The mark is the
# end-to-end latency, measured by itself with the host's clock.

# %%
compared.parts("resnet18")

# %% [markdown]
# ### Larger batches
#
# A batch costs one launch sequence, however many images it holds. As it grows, computing takes over from launching,
# and the two curves meet.

# %%
compared.batches("resnet18", "fp32", "fp16")

# %% [markdown]
# ### Copies beside the computation
#
# A GPU has copy engines beside its processors. With pinned memory, two more streams and a second set of buffers, the
# next batch comes in and the last answer goes out while one batch is computed.

# %%
show_source("inference_lib.measure.pipeline", "Pipeline.submit")

# %% [markdown]
# Events are what keeps the three streams in order: nothing waits on the host. Three answers to "how many images per
# second" at the largest batch, FP16, for the graph:

# %%
graphs = select(lab.gpu_records(), backend="pytorch-cudagraph", precision="fp16")
rows = [r for r in graphs if r.overlapped_images_per_s]
answers = {
    "model": [r.model for r in rows],
    "batch": [r.batch_size for r in rows],
    "one at a time": [r.fps for r in rows],
    "overlapped": [r.overlapped_images_per_s for r in rows],
    "compute only": [r.throughput_images_per_s for r in rows],
}
formats = dict.fromkeys(["one at a time", "overlapped", "compute only"], "{:,.0f}")
tables.show_table(pd.DataFrame(answers), f"Images per second. {plots.provenance(rows)}", formats)

# %% [markdown]
# Where overlapped and compute only agree, the copies are hidden. Where they do not, a batch takes longer to send than
# to compute, and the bus is the limit: smaller images on the host, or enlarging them on the GPU, would be the remedy.
#
# ## Why?
#
# The profiler counts what one inference of ResNet-18 launches and adds up the time that its operations took on the
# device that did the work. What remains of the latency is waiting.

# %%
from inference_lib.measure.operations import operations

model = load_pretrained("resnet18").to(lab.device)
images = torch.zeros(1, 3, 224, 224, device=lab.device)

with torch.inference_mode():
    work = operations(lambda: model(images), lab.device)
    latency = lab.time(lambda: model(images))

tables.show_table(work.head(6), f"Operations of one inference, FP32, {lab.machine_name}.")

# %%
print(f"{work['calls'].sum():.0f} operations, {work['ms'].sum():.2f} ms in them, {latency.p50:.2f} ms in all")

# %% [markdown]
# On a GPU at batch 1, the operations take a fraction of the latency: the rest is the time between them. A CUDA graph
# removes that time and leaves the operations as they are. On a CPU the two numbers nearly agree, and there is
# nothing for a graph to remove.
#
# ## Knobs
#
# Each of these is one line. They are measured on ResNet-18 at batch 1 against the plain loop on this machine.

# %%
from torch.fx.experimental.optimization import fuse

from inference_lib.backends.shared.cuda import float32_products

plain = load_pretrained("resnet18").to(lab.device)
channels_last = load_pretrained("resnet18").to(lab.device, memory_format=torch.channels_last)
folded = fuse(load_pretrained("resnet18")).to(lab.device)

knobs = {
    "plain": lambda: plain(images),
    "with autograd": torch.inference_mode(mode=False)(lambda: plain.requires_grad_(True)(images)),
    "channels-last": lambda: channels_last(images),
    "batch norm folded": lambda: folded(images),
}
with torch.inference_mode():
    times = {name: lab.time(call) for name, call in knobs.items()}
    if lab.device == "cuda":
        with float32_products("tf32"):
            times["TF32"] = lab.time(knobs["plain"])

# %%
plots.show_bars(
    {name: time.p50 for name, time in times.items()},
    "#D55E00",
    "median, ms (compute only)",
    alt="Median time of resnet18 at batch 1 with each option.",
    caption=f"One option at a time, FP32, batch 1. {lab.machine_name}.",
)

# %% [markdown]
# Folding batch normalization into the convolution before it removes an operation per layer and changes no result but
# rounding. Channels-last pays when tensor cores do the work, that is in FP16 or TF32. Autograd's bookkeeping costs a
# little at every operation. TF32 changes the arithmetic, so it can only help where arithmetic is what takes the time.
#
# PyTorch's own default is TF32 for convolutions and IEEE for matrix products. The book sets both to IEEE unless a label
# says TF32:

# %%
show_source("inference_lib.backends.shared.cuda", "set_float32_products")

# %% [markdown]
# ## What goes wrong
#
# ### Forgetting `eval()`
#
# In training mode, batch normalization uses the statistics of the batch at hand. The program runs, the shapes fit,
# and the answers are wrong.

# %%
from inference_lib.zoo.fashion_mnist import load_fashion_mnist, preprocess

pictures, labels = load_fashion_mnist("test")
batch = torch.from_numpy(preprocess(pictures[:32])).to(lab.device)
with torch.inference_mode():
    right = plain.eval()(batch).argmax(1)
    wrong = plain.train()(batch).argmax(1)
plain.eval()
print(f"{(right != wrong).sum().item()} of {len(batch)} predictions changed")

# %% [markdown]
# Training mode also overwrites the running statistics with every call, so the damage stays: `plain` must be loaded
# again before it is used.
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

# %% [markdown]
# Convert on the host, before the copy: half the bytes cross the bus.
#
# ### The output of a CUDA graph is overwritten
#
# A replay writes to the same memory every time. A result that is kept without a copy changes under its owner's eyes
# ([pytorch#170604](https://github.com/pytorch/pytorch/issues/170604)).

# %%
if lab.device == "cuda":
    static_input = torch.zeros(4, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        static_output = static_input * 2

    static_input.fill_(1)
    graph.replay()
    kept, copied = static_output, static_output.clone()
    static_input.fill_(5)
    graph.replay()
    print(f"kept: {kept[0].item():.0f} (was 2), copied: {copied[0].item():.0f}")
else:
    print("needs a GPU")

# %% [markdown]
# ### Timing the launch instead of the work
#
# A call returns when its operations are queued. Without `torch.cuda.synchronize()` the clock is read too early.

# %%
if lab.device == "cuda":
    import time

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
# Measure channels-last again in FP16 at batch 64, if you have a GPU. Does it pay now? Why?
# ```
#
# ```{solution} ex-04-layout
# :class: dropdown
# Cast the model and the images with `.half()`, call `.to(memory_format=torch.channels_last)` on both, and time them
# with `lab.time`. Tensor cores read NHWC tiles. From NCHW, cuDNN inserts a transposition before and after many
# convolutions, and in FP16 the convolutions are so short that these show.
# ```
#
# ```{exercise}
# :label: ex-04-dropout
# `VanillaCNN` has a dropout layer. Predict what `train()` does to its answers, then check: are two calls with the
# same input equal?
# ```
#
# ```{solution} ex-04-dropout
# :class: dropdown
# They differ: dropout draws a new mask at every call. Batch normalization alone would give equal answers for equal
# batches.
# ```
#
# ## Key points
#
# - An eager call costs a launch per operation; at batch 1 on a fast GPU the launches are the latency.
# - A CUDA graph replays all launches as one. Shapes and addresses are fixed, and outputs must be copied.
# - A precision label is a claim about stored weights and arithmetic: check the file, and set the TF32 policy.
# - Only what is waited for has been timed.
#
# ## Further reading
#
# CUDA graphs in PyTorch {cite}`pytorch_cuda_graphs`; the rules that this book measures by are in
# [How to read this book](../book/how_to_read).
