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
# # ONNX Runtime
#
# A model that is a file instead of a Python program can be rewritten before it runs, and can run where there is no
# Python at all.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# to export a model to ONNX, to see what is done to its graph, and to run it without paying for copies you do not need
# :::
# :::{grid-item-card} You need
# the chapter on PyTorch; a GPU for half of the experiments
# :::
# :::{grid-item-card} To read
# 25 minutes
# :::
# :::{grid-item-card} To run
# {{ run_times }}
# :::
# ::::

# %% [markdown]
# ## Why this framework exists
#
# A PyTorch model is Python code, so whoever runs it needs Python, PyTorch and that code. ONNX is a file format for
# the model itself: a graph of operators with defined meanings (`Conv`, `Relu`, `Gemm`) and the weights they use. The
# file can be read by programs that know nothing of PyTorch.
#
# ONNX Runtime is one such program {cite}`onnx_runtime`. It sees the whole graph before the first image arrives, so it
# can merge operators, drop useless ones and plan its memory, which an interpreter that meets one line at a time
# cannot.
#
# An *execution provider* is a library of kernels for one kind of hardware. A session is given a list of providers;
# every operator goes to the first one that can run it. The CPU provider can run all of them and is always last in the
# list, asked for or not. That will matter.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import os
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
import torch

from inference_lib import MODELS, CourseError, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends.onnxruntime import INPUT, MODEL_FILE, OUTPUT, PROVIDERS, export_onnx, open_session
from inference_lib.report import glue, plots, show_source, tables, words
from inference_lib.seam import Workload, build

ort.set_default_logger_severity(3)  # errors, no warnings
warnings.filterwarnings("ignore", category=FutureWarning)  # torch.export's, about its own insides
scratch = tempfile.TemporaryDirectory()

lab = open_lab(profile, device, records_dir)
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% tags=["hide-input"]
stages = [
    ["PyTorch\nmodel"],
    ["exporter"],
    ["model.onnx:\ngraph, weights"],
    ["graph\noptimizers"],
    ["TensorRT provider", "CUDA provider", "CPU provider"],
]
figure, (axes,) = plots.new_figure(height=1.8)
plots.flow(stages, axes)
plots.show_figure(
    figure,
    alt="Flow: a PyTorch model, the exporter, the file with graph and weights, the graph optimizers, three providers.",
    caption="From a model to its kernels. The session hands every operator to the first provider that takes it.",
)

# %% [markdown]
# ## Export
#
# One call turns the model into a file.

# %%
show_source(export_onnx)

# %% [markdown]
# `dynamo=True` chooses the exporter built on `torch.export`: the model is run once on stand-ins for tensors, which
# record the operations that Python asks for. Loops and conditions disappear; what they did for this input stays. Then
# each PyTorch operation is translated to ONNX operators.
#
# `dynamic_shapes` says which dimensions of the input may differ next time. What is not named is fixed for good.
#
# The example holds two images because `torch.export` takes a dimension of zero or one for a constant. The exporter of
# recent PyTorch versions works around that, older ones fix the batch at one; two images are safe in both.
#
# The cast comes before the export, so that the graph is in the wanted precision throughout. Tools that convert an
# FP32 file afterwards insert casts and clip constants that half precision cannot hold.
#
# ### A look into the file
#
# The file is data, so Python can read it. The batch is a name instead of a number; the rest of the shape is fixed.

# %% tags=["nbval-check-output"]
artifact = build(get_backend("onnxruntime"), Workload("resnet18", 1, "fp32", "cpu"))
model_path = artifact.directory / MODEL_FILE
graph = onnx.load(model_path).graph

for value in (*graph.input, *graph.output):
    print(value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim])

# %% [markdown]
# A ResNet-18 is a few kinds of operators, many times:


# %% tags=["nbval-check-output"]
def count_operators(path):
    """Count a graph's operators by name; the constants it carries along are not computed."""
    return Counter(node.op_type for node in onnx.load(path).graph.node if node.op_type != "Constant")


print(", ".join(f"{count} {name}" for name, count in count_operators(model_path).most_common()))

# %% [markdown]
# The model has a batch normalization after every convolution, and the file has none. Remember that; it is explained
# below.
#
# The weights are the graph's *initializers*. Their types say what the file is, whatever its name says:

# %% tags=["nbval-check-output"]
for precision in ("fp32", "fp16"):
    stored = build(get_backend("onnxruntime"), Workload("resnet18", 1, precision, "cpu")).directory / MODEL_FILE
    types = Counter(onnx.TensorProto.DataType.Name(weight.data_type) for weight in onnx.load(stored).graph.initializer)
    print(precision, dict(sorted(types.items())))

# %% [markdown]
# The integers are shapes, the argument of a `Reshape` for example.
#
# ## Three ways to run it
#
# The plain call takes NumPy arrays and returns NumPy arrays. On a GPU it copies the input to the device, computes,
# and copies the output back, every time.

# %%
show_source("inference_lib.backends.onnxruntime", "RunRunner.infer")

# %% [markdown]
# With an *IOBinding*, inputs and outputs are memory that you own, on the device where the session computes. The
# copies are yours to make, or not to make: the output of one model may be the input of the next.

# %%
show_source("inference_lib.backends.onnxruntime", "BoundRunner._bind")

# %% [markdown]
# Bound addresses do not change from run to run, which is what a CUDA graph needs. So the third way is an IOBinding
# that is recorded. A provider option, `enable_cuda_graph`, does that inside the session. The course records from
# outside, on a stream that it lends to the session, with the same lines as for PyTorch: the copies of a small batch
# are part of the graph then, and the two frameworks differ in their kernels alone.

# %%
show_source("inference_lib.backends.onnxruntime", "OnnxRuntimeCudaGraph.load")

# %% [markdown]
# ## Is it still the same model?
#
# On a CPU there is no second memory to bind and no graph to record, so only the plain call is measured there. The
# first two ways differ in their copies alone, so the smallest and the largest batch say enough about them, and one
# precision about the second. What TF32 changes is a knob further down.

# %%
backends = ["onnxruntime", "onnxruntime-iobinding", "onnxruntime-cudagraph"]
fewest_bits = lab.profile.precisions(lab.device)[-1:]
ends = lab.profile.ends(lab.device)

records = lab.benchmark(["onnxruntime"], batch_sizes=ends)
records += lab.benchmark(["onnxruntime-iobinding"], precisions=fewest_bits, batch_sizes=ends)
records += lab.benchmark(["onnxruntime-cudagraph"])
tables.show_table(tables.agreement(records), f"Agreement with the FP32 eager model. {plots.provenance(records)}")

# %% tags=["nbval-check-output"]
for model in MODELS:
    print(f"{model}: {words.verdict(records, model)}")

# %% [markdown]
# ## How fast?
#
# The rows of the [chapter on PyTorch](04_pytorch) stand beside those of this chapter, where they were measured.

# %%
compared = lab.compare(["pytorch", "pytorch-cudagraph", *backends])
compared.table()

# %% [markdown]
# ### Every inference

# %%
compared.latencies("resnet18", "fp16")

# %% tags=["remove-cell"]
one = compared.by_rival("resnet18", "fp16")
many = compared.by_rival("resnet18", "fp16", batch_size=256)
glue("07-gpu", words.machines(one["onnxruntime"]))
glue("07-run-eager", words.times_faster(one["pytorch"], one["onnxruntime"]))
glue("07-iobinding-run", words.times_faster(one["onnxruntime"], one["onnxruntime-iobinding"]))
glue("07-graph-run", words.times_faster(one["onnxruntime"], one["onnxruntime-cudagraph"]))
glue("07-graph-graph", words.times_faster(one["pytorch-cudagraph"], one["onnxruntime-cudagraph"]))
glue("07-iobinding-run-256", words.times_faster(many["onnxruntime"], many["onnxruntime-iobinding"]))
glue("07-graph-graph-256", words.times_faster(many["pytorch-cudagraph"], many["onnxruntime-cudagraph"]))

# %% [markdown]
# The comparisons on {glue:text}`07-gpu`, FP16, batch 1. Against the eager loop of PyTorch, `run()` is
# {glue:text}`07-run-eager`. Against `run()`, IOBinding is {glue:text}`07-iobinding-run` and the CUDA graph is
# {glue:text}`07-graph-run`. Against PyTorch's CUDA graph, ONNX Runtime's is {glue:text}`07-graph-graph`.
#
# ### Where the milliseconds are
#
# `run()` cannot be taken apart from outside, so its parts are those of the same session bound to device memory. Bar and
# mark are two ways of running it, and need not agree. Binding is no gain by itself: at batch 1 the copies are short,
# and the session waits on a stream that was lent to it. It pays where there is much to copy, and it is what a graph
# needs.

# %%
compared.parts("resnet18", "fp16")

# %% [markdown]
# ### Larger batches

# %%
compared.batches("resnet18", "fp16")

# %% [markdown]
# At batch 256, against `run()`, IOBinding is {glue:text}`07-iobinding-run-256`; against PyTorch's CUDA graph, ONNX
# Runtime's is {glue:text}`07-graph-graph-256`. A large batch is dominated by computing and by copying the images: what
# an operator costs to launch hardly counts any more, and how the copies are made counts more.
#
# ## Why?
#
# ### The graph, before and after
#
# Two programs rewrite the graph: the exporter, before it writes the file, and ONNX Runtime, when it opens it. To tell
# their work apart, export once more without the exporter's optimizer.

# %%
traced = str(Path(scratch.name) / "traced.onnx")
_ = torch.onnx.export(
    load_pretrained("resnet18"),
    (torch.zeros(2, 3, 224, 224),),
    traced,
    dynamo=True,
    optimize=False,
    dynamic_shapes=({0: torch.export.Dim("batch")},),
    input_names=[INPUT],
    output_names=[OUTPUT],
    external_data=False,
    verbose=False,
)

# %% [markdown]
# What ONNX Runtime makes of a graph can be written to a file too: that is what `optimized_model_filepath` is for.


# %%
def session_options(entries=None, **attributes):
    """Return session options with some attributes and configuration entries set."""
    options = ort.SessionOptions()
    for name, value in attributes.items():
        setattr(options, name, value)
    for name, value in (entries or {}).items():
        options.add_session_config_entry(name, value)
    return options


# %%
provider = PROVIDERS[lab.device]
optimized = str(Path(scratch.name) / "optimized.onnx")
ort.InferenceSession(model_path, session_options(optimized_model_filepath=optimized), providers=[provider])

stages = {"as traced": traced, "as exported": model_path, "as run here": optimized}
counts = pd.DataFrame({stage: count_operators(path) for stage, path in stages.items()}).fillna(0).astype(int)
counts.loc["all operators"] = counts.sum()
tables.show_table(counts.rename_axis("operator").reset_index(), f"ResNet-18, FP32, {provider}.")

# %% [markdown]
# The exporter folded every `BatchNormalization` into the convolution before it. At inference a batch normalization
# multiplies each channel by a constant and adds another, so its constants can be multiplied into the filters once. It
# also computed what depends on no input: casts, shapes, constants.
#
# ONNX Runtime then merged what its provider can do in one kernel. A fused convolution adds the shortcut and applies
# the `Relu` while the result is still in registers, so a feature map is written to memory once instead of three
# times. On a CPU it also changed the memory layout to one that fills the vector units, hence the `Reorder` operators.
#
# Does it matter who optimizes? Each graph is timed as ONNX Runtime runs it, and the traced one also as it is.

# %%
images = np.zeros((1, 3, 224, 224), np.float32)
ieee = {"use_tf32": "0"} if lab.device == "cuda" else {}
off = session_options(graph_optimization_level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL)


def time_graph(path, options):
    """Return the median of ``run()`` on one image, in milliseconds."""
    session = ort.InferenceSession(path, options, providers=[(provider, ieee)])
    return lab.time(lambda: session.run(None, {INPUT: images})).p50


graphs = {"traced, run as it is": (traced, off)}
graphs |= {"traced, optimized here": (traced, session_options())}
graphs |= {"exported, optimized here": (model_path, session_options())}
times = {name: time_graph(*graph) for name, graph in graphs.items()}

# %%
plots.show_bars(
    times,
    "#3A8FD0",
    "median of run(), ms",
    alt="Median time of resnet18 at batch 1 for the traced and the exported graph.",
    caption=f"ResNet-18, FP32, batch 1. {lab.machine_name}.",
)

# %% [markdown]
# ONNX Runtime recognizes patterns. It folds a batch normalization into a convolution whose constants are stored in
# the file. In the traced graph, the bias of every convolution is zero, but computed: a `CastLike` and an `Expand`
# make the zeros. So the pattern is not there, and the batch normalizations stay. An optimizer can only be as good as
# the graph it is given.
#
# ### The copies inside `run()`
#
# The same session twice: with an array on the host, and with input and output bound to memory of the device.


# %%
def bind(session, images):
    """Bind ``images`` and room for the logits, both on the lab's device."""
    binding = session.io_binding()
    binding.bind_ortvalue_input(INPUT, ort.OrtValue.ortvalue_from_numpy(images, lab.device, 0))
    logits = ort.OrtValue.ortvalue_from_shape_and_type([len(images), 10], np.float32, lab.device, 0)
    binding.bind_ortvalue_output(OUTPUT, logits)
    return binding


def time_both(session, images):
    """Time one session with host arrays and with bound memory."""
    binding = bind(session, images)
    with_copies = lab.time(lambda: session.run(None, {INPUT: images}))
    without = lab.time(lambda: session.run_with_iobinding(binding))
    return {"batch": len(images), "run(), ms": with_copies.p50, "bound, ms": without.p50}


# %%
session = ort.InferenceSession(model_path, providers=[(provider, ieee)])
batches = [np.zeros((size, 3, 224, 224), np.float32) for size in (1, 64 if lab.device == "cuda" else 4)]
tables.show_table(pd.DataFrame([time_both(session, batch) for batch in batches]), f"FP32, {lab.machine_name}.")

# %% [markdown]
# On a GPU the difference is the way across the bus, and it grows with the batch. On a CPU both columns read the same
# memory and should agree; what differs there is noise.
#
# ## Knobs
#
# Options come in two kinds: *session options*, which every provider shares, and *provider options*. One of each is
# changed at a time, on ResNet-18 at batch 1, compute only. Plain means every default but one: TF32 is off.

# %%
level = ort.GraphOptimizationLevel
knobs = {
    "plain": (session_options(), {}),
    "optimizations off": (off, {}),
    "basic optimizations": (session_options(graph_optimization_level=level.ORT_ENABLE_BASIC), {}),
}
if lab.device == "cuda":
    knobs |= {
        "heuristic search": (session_options(), {"cudnn_conv_algo_search": "HEURISTIC"}),
        "NHWC": (session_options(), {"prefer_nhwc": "1"}),
        "fused bias": (session_options(), {"fuse_conv_bias": "1"}),
        "TF32": (session_options(), {"use_tf32": "1"}),
        "CUDA graph": (session_options(), {"enable_cuda_graph": "1"}),
        "CUDA graph, NHWC": (session_options(), {"enable_cuda_graph": "1", "prefer_nhwc": "1"}),
    }
else:
    knobs |= {
        "one thread": (session_options(intra_op_num_threads=1), {}),
        "no spinning": (session_options({"session.intra_op.allow_spinning": "0"}), {}),
    }

# %% [markdown]
# An option that makes a model faster may make it different, and may make it slow to start. So three things are
# measured: the time of a run, the seconds from opening the session to its first answer, and the logits.

# %%
picture = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)


def turn(options, provider_options):
    start = time.perf_counter()
    session = ort.InferenceSession(model_path, options, providers=[(provider, ieee | provider_options)])
    binding = bind(session, picture)
    session.run_with_iobinding(binding)
    opened = time.perf_counter() - start
    median = lab.time(lambda: session.run_with_iobinding(binding)).p50
    return {"ms": median, "first answer, s": opened, "logits": binding.copy_outputs_to_cpu()[0]}


turned = pd.DataFrame({name: turn(*options) for name, options in knobs.items()}).T.rename_axis("option").reset_index()

# %%
plots.show_bars(
    dict(zip(turned["option"], turned["ms"], strict=True)),
    "#3A8FD0",
    "median, ms (compute only)",
    alt="Median time of resnet18 at batch 1 with each option of ONNX Runtime.",
    caption=f"One option at a time, FP32, batch 1. {lab.machine_name}.",
)

# %%
plain = turned["logits"][0]
turned["largest difference"] = [np.abs(logits - plain).max() / np.abs(plain).max() for logits in turned["logits"]]
costs = turned[["option", "first answer, s", "largest difference"]].convert_dtypes()
tables.show_table(costs, "What each option costs.", {"first answer, s": "{:.2f}"})

# %% [markdown]
# *Graph optimizations.* Basic ones are the same for every provider (fold constants, drop identities), and the
# exporter has done them already. The full level adds fusions and, on a CPU, the layout.
#
# *Kernel search.* cuDNN has several algorithms for one convolution. The default, `EXHAUSTIVE`, tries them all the
# first time it meets a shape; `HEURISTIC` asks cuDNN's own estimate. The difference shows in the first answer, and
# comes back with every new batch size.
#
# *NHWC.* Tensor cores read channels-last. With `prefer_nhwc` the graph is converted as a whole, instead of each
# convolution transposing its own input.
#
# *Fused bias.* With `fuse_conv_bias`, cuDNN builds a kernel that adds the bias in the convolution itself. It takes
# longer to open, and the kernel it builds may be faster or slower than two separate ones: measure your own network.
#
# *TF32.* ONNX Runtime turns it on unless told otherwise. The largest difference shows what that means: its products
# keep ten bits of mantissa. The course turns it off for rows labelled FP32.
#
# *CUDA graph.* The launches of all operators become one, as in the [chapter on PyTorch](04_pytorch)
# {cite}`pytorch_cuda_graphs`.
#
# *Threads.* `intra_op_num_threads` is the number of threads that share one operator. The default is one for each
# physical core, which is right for one session on one machine, and wrong for ten sessions on it.
#
# ### Spinning
#
# Between two operators, and for a while after a run, the threads do not sleep: they spin, asking again and again
# whether there is work. That saves the time to wake up. It costs processor time that something else could use, so
# count that: a call, a pause, a call.


# %%
def processor_ms(options, calls=20):
    """Return the processor time of a call that is followed by a pause, in milliseconds."""
    session = ort.InferenceSession(model_path, options, providers=["CPUExecutionProvider"])
    session.run(None, {INPUT: images})
    start = time.process_time()
    for _ in range(calls):
        session.run(None, {INPUT: images})
        time.sleep(0.05)
    return (time.process_time() - start) / calls * 1e3


print(f"spinning:    {processor_ms(session_options()):.0f} ms of processor time a call")
print(f"no spinning: {processor_ms(session_options({'session.intra_op.allow_spinning': '0'})):.0f} ms")

# %% [markdown]
# In a service that waits for requests, or shares its cores with anything else, turn spinning off and measure again.
#
# ## What goes wrong
#
# ### The GPU was asked for, the CPU answers
#
# The most expensive surprise: a CUDA library is missing, or has the wrong version, and the session opens on the CPU.
# There is a line in the log and no error ([onnxruntime#23372](https://github.com/microsoft/onnxruntime/issues/23372),
# [onnxruntime#17801](https://github.com/microsoft/onnxruntime/issues/17801)). An environment variable lets ONNX
# Runtime believe that the libraries are missing, on any machine:

# %% tags=["nbval-check-output"]
os.environ["ORT_CUDA_UNAVAILABLE"] = "1"
fallen = ort.InferenceSession(model_path, providers=["CUDAExecutionProvider"])
print("asked for: CUDAExecutionProvider")
print("available:", "CUDAExecutionProvider" in ort.get_available_providers())
print("in use:   ", *fallen.get_providers())

# %% [markdown]
# `get_available_providers()` says what the package was built with, not what works. Only the session knows, so ask the
# session. The course's own function does, and refuses:

# %% tags=["nbval-check-output"]
try:
    open_session(model_path, "cuda")
except CourseError as error:
    print(error)
finally:
    del os.environ["ORT_CUDA_UNAVAILABLE"]

# %% [markdown]
# ### The batch is fixed
#
# Without `dynamic_shapes` the shape of the example becomes the shape of the model
# ([pytorch#148886](https://github.com/pytorch/pytorch/issues/148886)). Everything works until the second image.

# %% tags=["nbval-check-output"]
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

small = load_pretrained("vanilla_cnn")
fixed = str(Path(scratch.name) / "fixed.onnx")
torch.onnx.export(small, (torch.zeros(1, 3, 224, 224),), fixed, input_names=[INPUT], external_data=False, verbose=False)

four = np.zeros((4, 3, 224, 224), np.float32)
session = ort.InferenceSession(fixed, providers=["CPUExecutionProvider"])
print(session.get_inputs()[0].shape)
try:
    session.run(None, {INPUT: four})
except InvalidArgument as error:
    print(error)

# %% [markdown]
# Name the dimension when exporting, and look at the shape of the session's input before you ship the file.

# %% tags=["nbval-check-output"]
dynamic = build(get_backend("onnxruntime"), Workload("vanilla_cnn", 1, "fp32", "cpu")).directory / MODEL_FILE
session = ort.InferenceSession(dynamic, providers=["CPUExecutionProvider"])
print(session.get_inputs()[0].shape, "answers with", session.run(None, {INPUT: four})[0].shape)

# %% [markdown]
# ### The array has the wrong type
#
# NumPy makes float64 unless told otherwise, and a graph converts nothing by itself.

# %% tags=["nbval-check-output"]
try:
    session.run(None, {INPUT: np.zeros((1, 3, 224, 224))})
except InvalidArgument as error:
    print(error)

# %% [markdown]
# Convert with `astype(np.float32)`; for a file in half precision, with `astype(np.float16)`.
#
# ### Copies counted on one side only
#
# "ONNX Runtime is slower than PyTorch" is often this: `run()` copies in and out, and the PyTorch loop beside it works
# on tensors that are on the GPU already ([onnxruntime#8166](https://github.com/microsoft/onnxruntime/issues/8166)).

# %%
if lab.device == "cuda":
    batch = batches[-1]
    network = load_pretrained("resnet18").cuda()
    tensor = torch.from_numpy(batch).cuda()
    session = ort.InferenceSession(model_path, providers=[(provider, {"use_tf32": "1"})])  # as PyTorch's convolutions
    ours = time_both(session, batch)
    with torch.inference_mode():
        on_device = lab.time(lambda: network(tensor)).p50
        from_host = lab.time(lambda: network(torch.from_numpy(batch).cuda()).cpu().numpy()).p50
    print(f"unfair:         run() {ours['run(), ms']:.2f} ms, PyTorch on the device {on_device:.2f} ms")
    print(f"with copies:    run() {ours['run(), ms']:.2f} ms, PyTorch {from_host:.2f} ms")
    print(f"without copies: bound {ours['bound, ms']:.2f} ms, PyTorch {on_device:.2f} ms")
else:
    print("needs a GPU")

# %% [markdown]
# Count the copies on both sides or on neither, and say which.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-07-example
# Call `torch.export.export` yourself on `vanilla_cnn`, with `dynamic_shapes=({0: torch.export.Dim("batch")},)` and an
# example of one image, then of two. What is the difference, and why?
# ```
#
# ```{solution} ex-07-example
# :class: dropdown
# With one image it refuses: the batch was marked as dynamic, and the trace made it the constant 1. A size of one
# broadcasts, and a size of zero makes everything empty, so `torch.export` treats both as special cases that deserve a
# trace of their own. Two stands for every size above one. `torch.onnx.export` asks it not to be so careful, and
# succeeds with one image in recent versions.
# ```
#
# ```{exercise}
# :label: ex-07-mobilenet
# Count the operators of `mobilenet_v2` as exported and as run. Its activation is `ReLU6`. What is it called in ONNX,
# and is it fused?
# ```
#
# ```{solution} ex-07-mobilenet
# :class: dropdown
# `ReLU6` is a `Clip` between zero and six. Build the artifact for `mobilenet_v2`, open it with
# `optimized_model_filepath`, and call `count_operators` on both files. On a CPU the `Clip` operators are gone after
# optimization: they are part of the convolutions. Whether a provider fuses an operator is a list in its source, so
# look at the graph instead of guessing.
# ```
#
# ```{exercise}
# :label: ex-07-threads
# Open two sessions on the CPU and run them from two Python threads at once, first as they come, then each with half
# of the cores. Which pair finishes more runs in a second?
# ```
#
# ```{solution} ex-07-threads
# :class: dropdown
# As they come, each session has a thread for every core, so twice as many threads as cores take turns, and the
# spinning ones take turns from the working ones. Set `intra_op_num_threads` to half of the cores in each, and turn
# spinning off; count the runs with `time.perf_counter` over a few seconds. `run()` releases Python's lock while it
# computes.
# ```
#
# ## Key points
#
# - An ONNX file is a graph of defined operators. What was dynamic in Python is fixed in it unless you name it.
# - Optimization happens twice, in the exporter and in the session. Write the optimized graph to a file and count.
# - `run()` includes the copies; an IOBinding leaves them to you; with fixed addresses the launches can become a CUDA
#   graph.
# - Available is not in use: ask the session for its providers.
# - On the CUDA provider, FP32 means TF32 until you turn it off.
#
# ## Further reading
#
# The documentation of ONNX Runtime {cite}`onnx_runtime`, above all its page on the CUDA provider
# {cite}`onnx_runtime_cuda`, which lists every option used here, and on
# [graph optimizations](https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html); the
# format itself {cite}`onnx`; CUDA graphs in PyTorch {cite}`pytorch_cuda_graphs`.
