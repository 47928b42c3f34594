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
# My model runs in PyTorch already. What do I gain by turning it into a file?
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
# ONNX is a file format for the model itself: a graph of operators with defined meanings (`Conv`, `Relu`, `Gemm`) and
# the weights they use. Programs that know nothing of PyTorch can read it.
#
# ONNX Runtime is one such program {cite}`onnx_runtime`. It sees the whole graph before the first image arrives, so it
# can merge operators, drop useless ones and plan its memory, which an interpreter that meets one line at a time
# cannot.
#
# An {term}`execution provider` is a library of kernels for one kind of hardware. A session is given a list of
# providers; every operator goes to the first one that can run it. The CPU provider can run all of them and is always
# last in the list, asked for or not. That will matter.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import json
import os
import re
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
from IPython.display import display

from inference_lib import MODELS, CourseError, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends.onnxruntime import INPUT, MODEL_FILE, OUTPUT, PROVIDERS, BoundRunner, open_session
from inference_lib.backends.shared.graphs import GraphedRunner
from inference_lib.measure.operations import timeline
from inference_lib.records.store import select
from inference_lib.report import glue, plots, tables, words
from inference_lib.report.bracket import Bracket
from inference_lib.seam import Workload, build

ort.set_default_logger_severity(3)  # errors, no warnings
warnings.filterwarnings("ignore", category=FutureWarning)  # torch.export's, about its own insides
scratch = tempfile.TemporaryDirectory()

lab = open_lab(profile, device, records_dir)
provider = PROVIDERS[lab.device]  # "CUDAExecutionProvider" or "CPUExecutionProvider"
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% [markdown]
# The way from a model to its kernels:

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
# One call turns the model into a file. The example is there for its shape; nobody looks at its numbers.

# %%
network = load_pretrained("resnet18")
_ = torch.onnx.export(
    network,
    (torch.zeros(2, 3, 224, 224),),
    str(Path(scratch.name) / "resnet18.onnx"),
    dynamo=True,
    dynamic_shapes=({0: torch.export.Dim("batch")},),
    input_names=["images"],
    output_names=["logits"],
    external_data=False,
    verbose=False,
)

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
# For half precision, cast before the export: `network.half()`, and an example of the same type. Then the graph is in
# that precision throughout. Tools that convert an FP32 file afterwards insert casts, and clip constants that half
# precision cannot hold.
#
# The course exports with these arguments, once for each model and precision, and keeps the files; `build` hands them
# out.
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
# The model has a batch normalization after every convolution. What became of them, [the graph, before and
# after](#the-graph-before-and-after) tells.
#
# The weights are the graph's {term}`initializers <initializer>`. Their types say what the file is, whatever its name
# says:

# %% tags=["nbval-check-output"]
for precision in ("fp32", "fp16"):
    stored = build(get_backend("onnxruntime"), Workload("resnet18", 1, precision, "cpu")).directory / MODEL_FILE
    types = Counter(onnx.TensorProto.DataType.Name(weight.data_type) for weight in onnx.load(stored).graph.initializer)
    print(precision, dict(sorted(types.items())))

# %% [markdown]
# The integers are arguments of operators: the shape that a `Reshape` makes, for example.
#
# ## Three ways to run it
#
# The plain call takes NumPy arrays and returns NumPy arrays. On a GPU it copies the input to the device, computes,
# and copies the output back, every time.

# %%
image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
ieee = {"use_tf32": "0"} if lab.device == "cuda" else {}  # what TF32 changes is a knob further down
session = ort.InferenceSession(model_path, providers=[(provider, ieee)])
plain_logits = session.run(["logits"], {"images": image})[0]

# %% [markdown]
# With an {term}`IOBinding`, you say where inputs and outputs are: in memory of the device where the session computes.
# The copies are yours to make, or not to make: the output of one model may be the input of the next.

# %%
binding = session.io_binding()
binding.bind_ortvalue_input("images", ort.OrtValue.ortvalue_from_numpy(image, lab.device, 0))
binding.bind_output("logits", lab.device)
session.run_with_iobinding(binding)
bound_logits = binding.copy_outputs_to_cpu()[0]

# %% [markdown]
# Here the input is copied once, when the `OrtValue` is made, and the output when it is asked for. The run itself copies
# nothing. So bind what is on the device already or stays there; for one array in and one out, `run()` makes the same
# copies with less to write. Both must give the same answer:

# %% tags=["nbval-check-output"]
print("the same logits:", np.allclose(plain_logits, bound_logits, atol=1e-2))

# %% [markdown]
# Bound addresses do not change from run to run, which is what a {term}`CUDA graph` needs. So the third way is an
# IOBinding that is recorded: with `enable_cuda_graph`, the first run is captured, and every later one is a replay.

# %%
if lab.device == "cuda":
    recording = ort.InferenceSession(model_path, providers=[(provider, ieee | {"enable_cuda_graph": "1"})])
    logits = ort.OrtValue.ortvalue_from_shape_and_type([1, 10], np.float32, "cuda", 0)
    fixed = recording.io_binding()
    fixed.bind_ortvalue_input("images", ort.OrtValue.ortvalue_from_numpy(image, "cuda", 0))
    fixed.bind_ortvalue_output("logits", logits)
    for _ in range(2):
        recording.run_with_iobinding(fixed)  # the first run is captured, the second is a replay
    print("the same logits:", np.allclose(plain_logits, logits.numpy(), atol=1e-2))
else:
    print("needs a GPU")

# %% [markdown]
# The output is an `OrtValue` here, so that its address stays as well; a new picture is written over the old one with
# `update_inplace`. For its own rows the course records from outside, on a {term}`stream` that it lends to the session,
# with the same lines as for PyTorch. The copies of a small batch are part of the graph then, and the two frameworks
# differ in their kernels alone.
#
# ## Is it still the same model?
#
# On a CPU there is no second memory to bind and no graph to record, so only the plain call is measured there.

# %%
backends = ["onnxruntime", "onnxruntime-iobinding", "onnxruntime-cudagraph"]
records = lab.benchmark(backends)
tables.show_table(tables.agreement(records), f"Agreement with the FP32 eager model. {plots.provenance(records)}")

# %% [markdown]
# In one line for each model:

# %% tags=["nbval-check-output"]
for model in MODELS:
    print(f"{model}: {words.verdict(records, model)}")

# %% [markdown]
# Only rows that agree are timed. Where a row was checked on fewer pictures than others of its model (last column), its
# accuracy is an [estimate for all of them](04_pytorch.ipynb#is-it-still-the-same-model).
#
# ## How fast can it be?
#
# Bounds come first, made as in the [chapter on PyTorch](04_pytorch): from below, a program that fuses everything; from
# above, operations that run one by one, each reading and writing memory, if every kernel reaches the ceilings and
# nothing is lost in between.

# %%
bracket = Bracket("resnet18", "fp16", lab.gpu_ceilings())
bracket.table((1, 256))

# %% [markdown]
# ```{admonition} Guess
# :class: tip
# One picture is little work for a GPU: at batch 1, how many times the lower bound do the kernels of `run()` take? And
# how near does a batch of 256 come?
# ```
#
# :::{dropdown} What was measured
# {glue:text}`07-gap`. Copies are not counted, nor are waits for launches, as far as the whole model can be queued
# ahead.
# :::
#
# ## How fast is it?
#
# PyTorch's rows stand beside those of this chapter, where they were measured. These are times from array to array,
# copies included. A note under the table marks a row without numbers, or one that is [less trustworthy than its
# neighbours](../book/how_to_read).

# %%
compared = lab.compare(["pytorch", "pytorch-cudagraph", *backends])
compared.table()

# %% [markdown]
# :::{dropdown} On readers' machines
# {{ machines: pytorch pytorch-cudagraph onnxruntime onnxruntime-iobinding onnxruntime-cudagraph }}
# :::

# %% [markdown]
# ### Every inference
#
# A line is one row: the further left, the quicker, and the steeper, the steadier.

# %%
compared.latencies("resnet18", "fp16")

# %% tags=["remove-cell"]
largest = max((r.batch_size for r in select(compared.shown("resnet18", "fp16"), precision="fp16")), default=1)
sizes = (1, largest) if largest > 1 else (1,)
cells = {size: compared.by_rival("resnet18", "fp16", size) for size in sizes}
glue("07-graph", compared.verdict("onnxruntime-cudagraph", batch_sizes=sizes))
glue("07-run", words.times_faster(cells[1]["pytorch"], cells[1]["onnxruntime"]))


def at_each_size(slow, fast, kind="end_to_end"):
    """Say at each batch size how the rival ``fast`` compares with ``slow``."""
    claims = {size: words.times_faster(cell[slow], cell[fast], kind) for size, cell in cells.items()}
    return words.once(words.by_batch(claims))


for kind in ("end_to_end", "device"):
    glue(f"07-iobinding-{kind}", at_each_size("onnxruntime", "onnxruntime-iobinding", kind))
glue("07-graphs-device", at_each_size("pytorch-cudagraph", "onnxruntime-cudagraph", "device"))
glue("07-gap", bracket.gap([row for cell in cells.values() for rival in backends for row in cell[rival]]))

# %% [markdown]
# {glue:text}`07-graph`. In FP16, compared with the eager loop of PyTorch at batch 1, `run()` is {glue:text}`07-run`.
#
# Two of these comparisons are worth a second look, at the time on the device alone:
#
# - IOBinding against `run()`: end to end {glue:text}`07-iobinding-end_to_end`; on the device
#   {glue:text}`07-iobinding-device`. Both run the same kernels, so where they differ end to end, it is by how they
#   copy, and by what the host does around the copies.
# - The CUDA graph of ONNX Runtime against PyTorch's: on the device {glue:text}`07-graphs-device`. A graph has no
#   launches left, so that is a matter of kernels.
#
# [Rows that look odd](#rows-that-look-odd), further down, takes both apart with a profiler. (ONNX Runtime's rows in
# FP16 that were measured on a GPU before 28 November 2026 are slower than they need be, through an option that is told
# there.)
#
# Now the guess. The model alone, its copies left out, against the two bounds:

# %%
for size in sizes if bracket.ceilings else (1,):
    display(bracket.figure(compared.shown("resnet18", "fp16"), size))

# %% [markdown]
# These are times on the device, from which waits for launches are left out as far as the whole model can be queued
# ahead. A mark beyond the band loses time to what the {term}`roofline` does not know: gaps between kernels, and kernels
# that do not reach the ceilings, because one picture gives them too little to do or because they are not the best for
# the shape. A mark inside the band fuses less than everything. The profiles further down tell these apart.
#
# ### Where the milliseconds are
#
# `run()` cannot be taken apart from outside, so its parts are those of the same session bound to device memory. Bar and
# mark are two ways of running it, and need not agree.

# %%
compared.parts("resnet18", "fp16")

# %% [markdown]
# ### Larger batches
#
# A larger batch shares each launch among more pictures, and has more to copy.

# %%
compared.batches("resnet18", "fp16")

# %% [markdown]
# Follow one line from left to right. Where it stops rising, more pictures at once only make each of them wait longer.
#
# ### Rows that look odd
#
# Look at the table and the figures again. A model in FP16 moves half of the bytes of FP32, so one expects it to be
# faster. Binding does less than `run()`, so one expects that to be faster, too. And one expects two CUDA graphs of the
# same network on the same GPU to be close. Where your rows say otherwise, see first whether their intervals overlap:
# then it may be noise. Otherwise there is a cause, and a profile helps to find it.
#
# PyTorch's profiler records every kernel that the process runs on the GPU, those of ONNX Runtime too. A kernel's name
# says what it is for: products, a change of the memory *layout*, a copy, or the rest, which is element-wise work and
# pooling. The {term}`layout` is the order of a feature map in memory: {term}`NCHW` (a whole channel after the other) or
# NHWC (all channels of a pixel together, *channels-last*), which is what {term}`tensor cores <tensor core>` read.

# %% tags=["hide-input"]
KINDS = {
    "layout": r"nchw_?(to|2)_?nhwc|nhwc_?(to|2)_?nchw|transpose|tensortransform|converttensor|permute",
    "copies": r"memcpy|memset",
    "products": r"fprop|conv(?!ert)|gemm|xmma|cutlass|winograd|nvjet|cudnn_infer|scudnn|splitk|first_layer",
}
TENSOR_CORES = r"^(?!.*simt).*(tensorop|xmma|[sh](884|1688|16816)|mma|nvjet)"


def kind_of(kernel):
    """Say what a kernel is for, by its name."""
    return next((kind for kind, names in KINDS.items() if re.search(names, kernel, re.IGNORECASE)), "the rest")


def kernels_of(call):
    """Return the kernels and copies that one call runs on the GPU: ``name``, ``kind``, ``length_ms``."""
    found = timeline(call, lab.device).query("row == 'device'")
    return found.assign(kind=[kind_of(name) for name in found["name"]])


def by_kind(kernels):
    """Return a row of a table: the milliseconds of each kind, and how many there are."""
    sums = kernels.groupby("kind")["length_ms"].sum()
    return {f"{kind}, ms": sums.get(kind, 0.0) for kind in ("products", "layout", "the rest", "copies")}


def open_runner(name, workload):
    """Return a backend's runner of a workload, exported before if need be."""
    backend = get_backend(name)
    return backend.load(build(backend, workload))


NOTHING = pd.DataFrame({"kind": [], "length_ms": []})
TIMES = {"times faster": "{:.2f}"}

# %% [markdown]
# **Which nodes run, and where?** A session keeps a profile of its own if asked to: a JSON file with an entry for every
# node of every run, with its operator and its provider. A `Cast` changes a type, a `Transpose` a layout, and a `Memcpy`
# carries a feature map between providers; each is a kernel that computes nothing of the model.


# %%
def session_options(entries=None, **attributes):
    """Return session options with some attributes and configuration entries set."""
    options = ort.SessionOptions()
    for name, value in attributes.items():
        setattr(options, name, value)
    for name, value in (entries or {}).items():
        options.add_session_config_entry(name, value)
    return options


def nodes_run(precision, provider_options, runs=3):
    """Return the nodes of ResNet-18 that a session runs: ``operator``, ``provider``, a row a node."""
    asked = Workload("resnet18", 1, precision, lab.device)
    path = build(get_backend("onnxruntime"), asked).directory / MODEL_FILE
    options = session_options(enable_profiling=True, profile_file_prefix=str(Path(scratch.name) / "profile"))
    session = ort.InferenceSession(path, options, providers=[(provider, provider_options)])
    for _ in range(runs):
        session.run(None, {INPUT: np.zeros(asked.input_shape, asked.host_dtype)})
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = {e["name"]: e["args"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")}
    return pd.DataFrame([{"operator": n.get("op_name"), "provider": n.get("provider")} for n in nodes.values()])


tried = {"FP32": ("fp32", {})}
if lab.device == "cuda":
    tried |= {"FP16": ("fp16", {}), "FP16, NHWC": ("fp16", {"prefer_nhwc": "1"})}
profiled = {name: nodes_run(*session) for name, session in tried.items()}

# %% [markdown]
# Here they are, counted by operator:

# %%
counts = pd.DataFrame({name: nodes["operator"].value_counts() for name, nodes in profiled.items()})
counts = counts.fillna(0).astype(int)
counts.loc["all nodes"] = counts.sum()
caption = f"Nodes of ResNet-18 that a session runs. {lab.machine_name}."
display(tables.show_table(counts.rename_axis("operator").reset_index(), caption))
for name, nodes in profiled.items():
    extra = nodes["operator"].str.contains("Cast|Transpose|Reorder|Memcpy").sum()
    print(f"{name}: {extra} of {len(nodes)} nodes convert or copy; providers: {', '.join(nodes['provider'].unique())}")

# %% [markdown]
# **FP16 against FP32 in `run()`, batch 1.** The two take turns. Beside the time of a call stands how long the GPU works
# in it, and what for. (This chapter's process has a host's luck of its own, so its milliseconds need not be those of
# the table further up. What takes turns here is to be compared with what takes turns with it.)


# %% tags=["hide-input"]
def two_precisions(model):
    """Let ``run()`` in FP32 and FP16 take turns; return a row of each, and whether FP16 is faster."""
    asked = {name: Workload(model, 1, name, "cuda") for name in ("fp32", "fp16")}
    runners = {name: open_runner("onnxruntime", workload) for name, workload in asked.items()}
    batches = {name: np.zeros(workload.input_shape, workload.host_dtype) for name, workload in asked.items()}
    calls = {name: lambda n=name: runners[n].infer(batches[n]) for name in asked}
    turns, rows = lab.turns(calls), []
    for name, call in calls.items():
        kernels = kernels_of(call)
        row = {"model": model, "precision": asked[name].precision.title, "run(), ms": turns.ms(name)}
        rows.append(row | {"kernels": len(kernels), "GPU works, ms": kernels["length_ms"].sum()} | by_kind(kernels))
    return rows, turns.effect("fp16", "fp32")


def explained(full, half, effect):
    """Say in a sentence what the rows in FP32 and in FP16 allow to say."""
    if effect != "slower":
        return f"{full['model']}: FP16 is {'faster' if effect == 'faster' else 'not slower, within the noise'}."
    more, work = (half[name] - full[name] for name in ("run(), ms", "GPU works, ms"))
    worst = max(by_kind(NOTHING), key=lambda part: half[part] - full[part])
    if work > more / 2:
        cause = f"the GPU works {work:.3f} ms longer, above all on {worst.removesuffix(', ms')}"
    else:
        launches = half["kernels"] - full["kernels"]
        cause = f"the GPU's work explains {work:+.3f} ms of it; the host launches {launches:+d} kernels"
    return f"{full['model']}: FP16 is {more:.3f} ms slower; {cause}."


if lab.device == "cuda":
    pairs = [two_precisions(model) for model in MODELS]
    rows = pd.DataFrame([row for rows, _ in pairs for row in rows])
    display(tables.show_table(rows, f"One call of run() at batch 1. {lab.machine_name}."))
    print(*(explained(*rows, effect) for rows, effect in pairs), sep="\n")
else:
    print("needs a GPU")

# %% [markdown]
# Where the GPU works for a small part of a call, the caller waits for the host, which launches one kernel after the
# other. There the number of kernels counts, not their bytes.
#
# A row may spend time on *layout* although its graph has no `Transpose`: some of cuDNN's algorithms change the layout
# inside a convolution, with kernels of their own. One node may be several kernels for other reasons, too, such as a
# bias.
#
# **IOBinding against `run()`, batch 1.** The rows differ in who copies. Both lend the session a stream of the
# course's own, so that copies and kernels are in one queue; a session as it comes works on a stream that it made, so
# that is tried apart. All take turns.


# %% tags=["hide-input"]
def ways_to_call(workload, own, lent, plain):
    """Return calls of one model: ``own`` is a session as it comes, the two runners lend theirs a stream."""
    batch = np.zeros(workload.input_shape, workload.host_dtype)
    binding = own.io_binding()
    binding.bind_ortvalue_input(INPUT, ort.OrtValue.ortvalue_from_numpy(batch, "cuda", 0))
    logits = ort.OrtValue.ortvalue_from_shape_and_type(list(workload.output_shape), batch.dtype.type, "cuda", 0)
    binding.bind_ortvalue_output(OUTPUT, logits)
    return {
        "run()": lambda: own.run(None, {INPUT: batch}),
        "run(), stream lent": lambda: plain.infer(batch),
        "bound": lambda: own.run_with_iobinding(binding),
        "bound, stream lent": lent.compute,
        "bound, stream lent, with copies": lambda: lent.infer(batch),
    }


if lab.device == "cuda":
    single = Workload("resnet18", 1, "fp16", "cuda")
    own = ort.InferenceSession(build(get_backend("onnxruntime"), single).directory / MODEL_FILE, providers=[provider])
    runners = [open_runner(name, single) for name in ("onnxruntime-iobinding", "onnxruntime")]
    turns = lab.turns(ways_to_call(single, own, *runners))
    display(tables.show_table(turns.table("run()"), f"ResNet-18, FP16, batch 1. {lab.machine_name}.", TIMES))
    _, run, bound, lent, whole = (turns.ms(name) for name in turns.rounds)
    effect = turns.effect("bound, stream lent, with copies", "run(), stream lent")
    print(f"IOBinding with its copies against run(), as in the rows: {effect}")
    print(f"copies, and what is around them: {run - lent:.3f} ms in run(), {whole - lent:.3f} ms in IOBinding")
    print(f"lending the stream: {lent - bound:+.3f} ms, effect {turns.effect('bound, stream lent', 'bound')}")
else:
    print("needs a GPU")

# %% [markdown]
# The difference between the two rows is what each spends on its copies and around them. At batch 1 the copies are
# short, and what the host does around them is what counts: `run()` is one call into C++, IOBinding with its copies
# several calls from Python. A part that comes out near nothing, or below it, is too small to be told from the noise of
# the two times that it is the difference of. With a large batch there is more to copy, and {term}`pinned memory`, which
# the copy engine reads without a detour, has something to gain. The last line tells whether lending a stream
# costs something.
#
# **The graphs at the largest batch, FP16.** ONNX Runtime's graph differs from its IOBinding in two things: the kernels
# are captured, and convolutions are in NHWC. Here is each with and without the other, and PyTorch's graph beside them,
# the model alone.


# %% tags=["hide-input"]
def graphs_at(workload):
    """Return runners of a large batch: PyTorch's graph, and ONNX Runtime in both layouts, captured and not."""
    artifact = build(get_backend("onnxruntime"), workload)
    runners = {"PyTorch's graph": open_runner("pytorch-cudagraph", workload)}
    for layout, options in {"NCHW": {}, "NHWC": {"prefer_nhwc": "1"}}.items():
        runners[f"bound, {layout}"] = BoundRunner(artifact, options)
        runners[f"graph, {layout}"] = GraphedRunner(BoundRunner(artifact, options))
    batch = np.random.default_rng(0).normal(size=workload.input_shape).astype(workload.host_dtype)
    for runner in runners.values():
        runner.upload(batch)
        runner.synchronize()
    return runners


def on_tensor_cores(kernels):
    """Return the share of the products' time that is spent on tensor cores, by the kernels' names, %."""
    products = kernels[kernels["kind"] == "products"]
    cores = products[[bool(re.match(TENSOR_CORES, name, re.IGNORECASE)) for name in products["name"]]]
    total = products["length_ms"].sum()
    return cores["length_ms"].sum() / total * 100 if total else float("nan")


if lab.device == "cuda":
    large = Workload("resnet18", lab.profile.ends("cuda")[-1], "fp16", "cuda")
    runners = graphs_at(large)
    turns = lab.turns({name: runner.compute for name, runner in runners.items()})
    kernels = {name: kernels_of(runner.compute) for name, runner in runners.items()}
    parts = {name: by_kind(found) for name, found in kernels.items()}
    rows = [
        {"way": name, "a batch, ms": turns.ms(name), "kernels": len(found)}
        | parts[name]
        | {"products on tensor cores, %": on_tensor_cores(found)}
        for name, found in kernels.items()
    ]
    caption = f"ResNet-18, FP16, batch {large.batch_size}, the model alone. {lab.machine_name}."
    display(tables.show_table(pd.DataFrame(rows), caption, {"products on tensor cores, %": "{:.0f}"}))
else:
    print("needs a GPU")

# %% [markdown]
# What each change is worth, and which kernels the time goes to:

# %%
if lab.device == "cuda":
    pytorch, graph = "PyTorch's graph", "graph, NHWC"
    print("NHWC instead of NCHW:", turns.effect("bound, NHWC", "bound, NCHW"))
    print("captured instead of launched:", turns.effect(graph, "bound, NHWC"))
    effect, more = turns.effect(graph, pytorch), turns.ms(graph) - turns.ms(pytorch)
    print(f"ONNX Runtime's graph against PyTorch's: {effect} ({more:+.3f} ms)")
    if effect != "none":
        differences = {part.removesuffix(", ms"): parts[graph][part] - parts[pytorch][part] for part in parts[graph]}
        print("of that:", ", ".join(f"{name} {ms:+.3f} ms" for name, ms in differences.items()))
        print("the largest part:", max(differences, key=lambda name: abs(differences[name])))
    top = pd.concat(kernels[name].assign(program=name) for name in (pytorch, graph))
    top["kernel"] = [name.removeprefix("void ")[:60] for name in top["name"]]
    top = top.groupby(["program", "kernel", "kind"])["length_ms"].agg(["count", "sum"]).reset_index()
    top = top.sort_values(["program", "sum"], ascending=[True, False]).groupby("program").head(5)
    top.columns = ["program", "kernel (its name's beginning)", "kind", "times", "ms"]
    display(tables.show_table(top, f"Where a batch of {large.batch_size} spends its time. {lab.machine_name}."))
    del runners, kernels, own
else:
    print("needs a GPU")

# %% [markdown]
# The parts are the profiler's and the whole is that of the turns, so they need not add up exactly, and the gaps between
# kernels are in none of the parts.
#
# Kernels that change the layout before and after each product are a matter of the layout and of the algorithm that was
# chosen. Time in "the rest" is pooling, padding and whatever was not fused: every bias, ReLU or shortcut that is a
# kernel of its own reads and writes a feature map once more. How often a kernel runs gives it away, as there are twenty
# convolutions to add a bias after, seventeen ReLUs and eight shortcuts. The PyTorch graph of this course leaves most of
# those to cuDNN's fused convolutions.
#
# Where the last column of the table of the graphs is low, products in FP16 are kept off the tensor cores, and an option
# may be the reason. `use_tf32` is about FP32, and yet with `0`, this provider keeps convolutions of *every* type off
# the tensor cores ([the line that does
# it](https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/cuda/nn/conv.cc) asks for no type).
# So set it for FP32 alone. This course once set it for FP16, too, and nothing told: the answers were right and the rows
# too slow.
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
def optimized(path):
    """Return the path of the graph that a session makes of the one in ``path``."""
    made = str(Path(scratch.name) / f"optimized-{Path(path).name}")
    ort.InferenceSession(path, session_options(optimized_model_filepath=made), providers=[provider])
    return made


stages = {"as traced": traced, "traced, as run": optimized(traced)}
stages |= {"as exported": model_path, "exported, as run": optimized(model_path)}
counts = pd.DataFrame({stage: count_operators(path) for stage, path in stages.items()}).fillna(0).astype(int)
counts.loc["all operators"] = counts.sum()
tables.show_table(counts.rename_axis("operator").reset_index(), f"ResNet-18, FP32, {provider}.")

# %% [markdown]
# What did ONNX Runtime change in the exporter's graph, and where did the batch normalizations go?

# %%
before, after = counts["as exported"], counts["exported, as run"]
operators = counts.index.drop("all operators")
changed = [f"{name} ({before[name]} to {after[name]})" for name in operators if before[name] != after[name]]
print("ONNX Runtime changed in the exported graph:", ", ".join(changed) or "nothing")

norms = counts.loc["BatchNormalization"]
if norms["as exported"] or not norms["traced, as run"]:
    raise CourseError("the batch norms are folded elsewhere than the text below says; read the table above")

# %% [markdown]
# The exporter folded every `BatchNormalization` into the convolution before it. At inference a batch normalization
# multiplies each channel by a constant and adds another, so its constants can be multiplied into the filters once. It
# also computed what depends on no input: casts, shapes, constants.
#
# ONNX Runtime merges what its provider can do in one kernel; the line above says what that was here. The CPU provider
# has a convolution that adds the shortcut and applies the `Relu` while the result is still in {term}`registers
# <register>`, so a feature map is written to memory once instead of three times. It also has a memory layout of its own
# that fills the {term}`vector units <vector unit>`: where the table has `Reorder` operators, they change to it and
# back.
#
# Does it matter who optimizes? The graphs take turns, each as ONNX Runtime runs it, and the traced one also as it is.
# (Threads of ONNX Runtime go on asking for work for a while after a run, see [spinning](#spinning). Here they are told
# to stop, so that a session does not disturb the next one's turn.)

# %%
images = np.zeros((1, 3, 224, 224), np.float32)
level = ort.GraphOptimizationLevel
stop = {"session.force_spinning_stop": "1"}
off = session_options(stop, graph_optimization_level=level.ORT_DISABLE_ALL)

graphs = {"traced, run as it is": (traced, off)}
graphs |= {"traced, optimized here": (traced, session_options(stop))}
graphs |= {"exported, optimized here": (model_path, session_options(stop))}
sessions = {name: ort.InferenceSession(*graph, providers=[(provider, ieee)]) for name, graph in graphs.items()}
turns = lab.turns({name: lambda s=session: s.run(None, {INPUT: images}) for name, session in sessions.items()})
tables.show_table(turns.table(), f"run(), ResNet-18, FP32, batch 1. {lab.machine_name}.", TIMES)

# %% [markdown]
# ONNX Runtime recognizes patterns. It folds a batch normalization into a convolution whose constants are stored in the
# file. In the traced graph, the bias of every convolution is zero, but computed: a `CastLike` and an `Expand` make the
# zeros. So the pattern is not there, and the batch normalizations stay, as the column *traced, as run* of the table of
# operators shows. (`CastLike` casts to the type of another tensor. Where that type is known, ONNX Runtime makes it a
# `Cast`.) An optimizer can only be as good as the graph it is given.
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
    """Let one session take turns with host arrays and with bound memory."""
    binding = bind(session, images)
    calls = {
        "run()": lambda: session.run(None, {INPUT: images}),
        "bound": lambda: session.run_with_iobinding(binding),
    }
    turns = lab.turns(calls)
    return {"batch": len(images), "run(), ms": turns.ms("run()"), "bound, ms": turns.ms("bound")} | {
        "effect of binding": turns.effect("bound", "run()")
    }


# %% [markdown]
# One image, and more of them:


# %%
session = ort.InferenceSession(model_path, providers=[(provider, ieee)])
batches = [np.zeros((size, 3, 224, 224), np.float32) for size in (1, 64 if lab.device == "cuda" else 4)]
tables.show_table(pd.DataFrame([time_both(session, batch) for batch in batches]), f"FP32, {lab.machine_name}.")

# %% [markdown]
# On a GPU the difference is the way across the bus, and a larger batch has more to carry. On a CPU both columns read
# the same memory, and *none* is what one expects.
#
# ## Knobs
#
# Options come in two kinds: *session options*, which every provider shares, and *provider options*. They are changed
# one at a time, on ResNet-18 at batch 1, compute only; a row that changes two names both. *Plain* means every default
# but two: TF32 is off, and idle threads stop.

# %%
knobs = {
    "plain": (session_options(stop), {}),
    "optimizations off": (off, {}),
    "basic optimizations": (session_options(stop, graph_optimization_level=level.ORT_ENABLE_BASIC), {}),
}
if lab.device == "cuda":
    knobs |= {
        "heuristic search": (session_options(stop), {"cudnn_conv_algo_search": "HEURISTIC"}),
        "NHWC": (session_options(stop), {"prefer_nhwc": "1"}),
        "fused bias": (session_options(stop), {"fuse_conv_bias": "1"}),
        "TF32": (session_options(stop), {"use_tf32": "1"}),
        "CUDA graph": (session_options(stop), {"enable_cuda_graph": "1"}),
        "CUDA graph, NHWC": (session_options(stop), {"enable_cuda_graph": "1", "prefer_nhwc": "1"}),
    }
else:
    knobs |= {
        "one thread": (session_options(stop, intra_op_num_threads=1), {}),
        "no spinning": (session_options({"session.intra_op.allow_spinning": "0"}), {}),
    }

# %% [markdown]
# An option that makes a model faster may make it different, and may make it slow to start. So three things are
# measured: the time of a run, the seconds from opening the session to its first answer (the shortest of three
# openings), and the logits. Logits that are not numbers are a failure, and their time is of no interest.

# %%
picture = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)


def opened(options, provider_options):
    """Return a session, its binding, and the seconds from nothing to its first answer."""
    start = time.perf_counter()
    session = ort.InferenceSession(model_path, options, providers=[(provider, ieee | provider_options)])
    binding = bind(session, picture)
    session.run_with_iobinding(binding)
    return session, binding, time.perf_counter() - start


opened_options = {name: min((opened(*knob) for _ in range(3)), key=lambda o: o[2]) for name, knob in knobs.items()}
turns = lab.turns({n: lambda s=s, b=b: s.run_with_iobinding(b) for n, (s, b, _) in opened_options.items()})
logits = {name: binding.copy_outputs_to_cpu()[0] for name, (_, binding, _) in opened_options.items()}

# %% [markdown]
# Side by side, each beside the plain session:

# %%
plain = logits["plain"]
difference = {name: np.abs(found - plain).max() / np.abs(plain).max() for name, found in logits.items()}
broken = [name for name, found in difference.items() if not np.isfinite(found)]

turned = turns.table("plain").rename(columns={"": "option"})
turned["first answer, s"] = [seconds for *_, seconds in opened_options.values()]
turned["largest difference"] = list(difference.values())
turned.loc[turned["option"].isin(broken), "effect in this process"] = "fails: logits are not numbers"
caption = f"One option at a time, ResNet-18, FP32, batch 1, compute only. {lab.machine_name}."
tables.show_table(turned, caption, TIMES | {"first answer, s": "{:.2f}"})

# %% [markdown]
# Where does an option fail? Every value between two operators can be made an output of the graph, and the first one
# that is not a number names the operator:


# %%
def first_not_a_number(options, provider_options):
    """Return the first operator that puts out what is not a number, None where all do put out numbers."""
    model = onnx.load(model_path)
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    names = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n.output[0]) for n in nodes if n.output[0] not in names)
    chosen = [(provider, ieee | provider_options)]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=chosen)
    values = session.run([node.output[0] for node in nodes], {INPUT: picture})
    return next((node for node, value in zip(nodes, values, strict=True) if not np.isfinite(value).all()), None)


for name in broken:
    node = first_not_a_number(*knobs[name])
    place = f"first in {node.name} ({node.op_type})" if node else "not where every value is an output"
    print(f"{name}: {place}")
if not broken:
    print("no option fails here")

# %% [markdown]
# *Not where every value is an output* is an answer as well. When every value is kept, none may be written over another,
# so the session's plan of its memory is a different one. A fault that is gone then may depend on what was in that
# memory before. To look was to change what is looked at.
#
# A row whose ratio is far from one and whose effect is *none* changed so much from turn to turn that these turns cannot
# tell. Repeat it before you believe either.
#
# *Graph optimizations.* Basic ones are the same for every provider (fold constants, drop identities), and the
# exporter has done them already. The full level adds fusions and, on a CPU, the layout.
#
# *Kernel search.* cuDNN has several algorithms for one convolution. The default, `EXHAUSTIVE`, tried them all the first
# time it met a shape, and `HEURISTIC` asked cuDNN's own estimate. Since ONNX Runtime calls cuDNN through its newer
# interface, both ask: the first for the estimate that takes cuDNN longer, the second for the shorter one. What that
# costs is part of the first answer, and comes back with every new batch size.
#
# *NHWC.* Tensor cores read channels-last. With `prefer_nhwc` the graph is converted as a whole, so that no convolution
# need transpose its own input. (Some of cuDNN's algorithms change the layout inside all the same: the column *layout*
# of the table of the graphs counts that.) NHWC's rows here multiply in IEEE FP32, which tensor cores do not, so what
# NHWC is worth in FP16 is told by that table and not by this one.
#
# *Fused bias.* With `fuse_conv_bias`, cuDNN builds a kernel that adds the bias in the convolution itself. Look at its
# difference first: an option that answers with what is not a number cannot be used, however quick it is. Where it
# answers, the row says whether it is worth anything; measure your own network, and compare the logits.
#
# *TF32.* ONNX Runtime turns it on unless told otherwise. The largest difference shows what that means: its products
# keep ten bits of mantissa. The course turns it off for rows labelled FP32, and for no others: what that does to FP16
# is told [above](#rows-that-look-odd).
#
# *CUDA graph.* The launches of all operators become one {cite}`pytorch_cuda_graphs`. The [chapter on
# PyTorch](04_pytorch) says how that works and what it forbids.
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
# An expensive surprise: a CUDA library is missing, or has the wrong version, and the session opens on the CPU. The log
# says so, and there is no error ([onnxruntime#23372](https://github.com/microsoft/onnxruntime/issues/23372),
# [onnxruntime#17801](https://github.com/microsoft/onnxruntime/issues/17801)). An environment variable stands in for the
# missing library on any machine: with it, ONNX Runtime does not load its CUDA provider. (This chapter turned warnings
# off at its beginning, so the line of the log is not seen here.)

# %% tags=["nbval-check-output"]
os.environ["ORT_CUDA_UNAVAILABLE"] = "1"
fallen = ort.InferenceSession(model_path, providers=["CUDAExecutionProvider"])
print("asked for: CUDAExecutionProvider")
print("available:", "CUDAExecutionProvider" in ort.get_available_providers())
print("in use:   ", *fallen.get_providers())

# %% [markdown]
# `get_available_providers()` says what the package was built with, not what works. Only the session knows, so ask the
# session, with `get_providers()`, once it is open. (That CUDA is in its list does not mean that every node runs there:
# nodes that the provider cannot run go to the CPU, and the session's profile names the provider of each.) The course's
# own function asks, and refuses:

# %% tags=["nbval-check-output"]
try:
    open_session(model_path, "cuda")
except CourseError as error:
    print(error)
finally:
    del os.environ["ORT_CUDA_UNAVAILABLE"]

# %% [markdown]
# An error at the start is cheaper than a bill for GPUs that nobody used.
#
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
# Name the dimension when exporting, with `dynamic_shapes=({0: torch.export.Dim("batch")},)` and an example of two
# pictures, as in the [first export of this chapter](#export), and look at the shape of the session's input before you
# ship the file.

# %% tags=["nbval-check-output"]
dynamic = build(get_backend("onnxruntime"), Workload("vanilla_cnn", 1, "fp32", "cpu")).directory / MODEL_FILE
session = ort.InferenceSession(dynamic, providers=["CPUExecutionProvider"])
print(session.get_inputs()[0].shape, "answers with", session.run(None, {INPUT: four})[0].shape)

# %% [markdown]
# With a name where the number was, four pictures get four answers.
#
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
# Both multiply in IEEE FP32 here, so that the copies are all that is counted differently.

# %%
if lab.device == "cuda":
    batch = batches[-1]
    network, tensor = load_pretrained("resnet18").cuda(), torch.from_numpy(batch).cuda()
    session = ort.InferenceSession(model_path, providers=[(provider, ieee)])
    binding = bind(session, batch)
    calls = {
        "PyTorch, on the device": lambda: network(tensor),
        "PyTorch, with copies": lambda: network(torch.from_numpy(batch).cuda()).cpu().numpy(),
        "ONNX Runtime, bound": lambda: session.run_with_iobinding(binding),
        "ONNX Runtime, run()": lambda: session.run(None, {INPUT: batch}),
    }
    with torch.inference_mode():
        turns = lab.turns(calls)
    device, copied, bound, run = calls
    rows = {"one side copies": (run, device), "both copy": (run, copied), "neither copies": (bound, device)}
    counted = pd.DataFrame(
        {"counted": name, "ONNX Runtime, ms": turns.ms(ours), "PyTorch, ms": turns.ms(theirs)}
        | {"ONNX Runtime is": {"none": "neither faster nor slower"}.get(e := turns.effect(ours, theirs), e)}
        for name, (ours, theirs) in rows.items()
    )
    display(tables.show_table(counted, f"ResNet-18, FP32, batch {len(batch)}. {lab.machine_name}."))
else:
    print("needs a GPU")

# %% [markdown]
# Count the copies on both sides or on neither, and say which. Where one side is still slower when neither copies, it is
# a matter of kernels and launches.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-07-size
# Before you look: how many megabytes has the file of ResNet-18 in FP32, and how many in FP16? Count its parameters, and
# compare.
# ```
#
# ````{solution} ex-07-size
# :class: dropdown
# ```python
# parameters = sum(weights.numel() for weights in load_pretrained("resnet18").parameters())
# for precision, size in {"fp32": 4, "fp16": 2}.items():
#     file = build(get_backend("onnxruntime"), Workload("resnet18", 1, precision, "cpu")).directory / MODEL_FILE
#     megabytes = file.stat().st_size / 1e6
#     print(f"{precision}: {parameters * size / 1e6:.1f} MB of parameters, {megabytes:.1f} MB in the file")
# ```
# A file is its weights; the graph itself is a few kilobytes. The scales of the batch normalizations are parameters,
# too, and are gone from the file, because they were multiplied into the filters.
# ````
#
# ```{exercise}
# :label: ex-07-example
# Call `torch.export.export` yourself on `vanilla_cnn`, with `dynamic_shapes=({0: torch.export.Dim("batch")},)`, and an
# example of one image, then of two. Which batch sizes does each program accept?
# ```
#
# ````{solution} ex-07-example
# :class: dropdown
# ```python
# for size in (1, 2):
#     example, shapes = torch.zeros(size, 3, 224, 224), ({0: torch.export.Dim("batch")},)
#     try:
#         exported_program = torch.export.export(load_pretrained("vanilla_cnn"), (example,), dynamic_shapes=shapes)
#         print(f"example of {size}: batches in", *exported_program.range_constraints.values())
#     except Exception as error:
#         print(f"example of {size}: refused, {type(error).__name__}")
# ```
# The range that is printed has no upper end. A size of one broadcasts, and a size of zero makes everything empty, so
# `torch.export` treats both as special cases that deserve a trace of their own, and an example of two stands for all
# the others. Where the example of one is refused, the batch was marked as dynamic and the trace had made it the
# constant 1. `torch.onnx.export` asks it not to be so careful, and succeeds with one image in recent versions.
# ````
#
# ```{exercise}
# :label: ex-07-mobilenet
# How many operators has `mobilenet_v2` as exported, and how many as run? Its activation is `ReLU6`. What is it called
# in ONNX, and how many are left?
# ```
#
# ````{solution} ex-07-mobilenet
# :class: dropdown
# ```python
# mobile = build(get_backend("onnxruntime"), Workload("mobilenet_v2", 1, "fp32", "cpu")).directory / MODEL_FILE
# for stage, file in {"as exported": mobile, "as run": optimized(mobile)}.items():
#     operators = count_operators(file)
#     print(f"{stage}: {sum(operators.values())} operators, {operators['Clip']} of them Clip")
# ```
# `ReLU6` is a `Clip` between zero and six. Where a provider fuses it, it is part of the convolutions after
# optimization. Whether it does is a list in its source, so look at the graph instead of guessing.
# ````
#
# ```{exercise}
# :label: ex-07-threads
# Open two sessions of `vanilla_cnn` on the CPU and run them from two Python threads at once, first as they come, then
# each with half of the cores and without spinning. Which pair finishes more runs in a second?
# ```
#
# ````{solution} ex-07-threads
# :class: dropdown
# ```python
# from concurrent.futures import ThreadPoolExecutor
#
#
# def runs_a_second(options, seconds=1.0):
#     """Return the runs in a second of two sessions, each called by a thread of its own."""
#
#     def count(session):
#         runs, end = 0, time.perf_counter() + seconds
#         while time.perf_counter() < end:
#             session.run(None, {INPUT: picture})
#             runs += 1
#         return runs / seconds
#
#     pair = [ort.InferenceSession(dynamic, options, providers=["CPUExecutionProvider"]) for _ in range(2)]
#     with ThreadPoolExecutor(2) as threads:
#         return sum(threads.map(count, pair))
#
#
# half = max(1, len(os.sched_getaffinity(0)) // 2)
# sleeping = session_options({"session.intra_op.allow_spinning": "0"}, intra_op_num_threads=half)
# print(f"as they come: {runs_a_second(session_options()):,.0f} runs a second")
# print(f"{half} thread(s) each, no spinning: {runs_a_second(sleeping):,.0f} runs a second")
# ```
# As they come, each session has a thread for every core, so twice as many threads as cores take turns, and the spinning
# ones take turns from the working ones. The two lines say what that costs on your machine. `run()` releases Python's
# lock while it computes, or two threads would gain nothing.
# ````
#
# ## Key points
#
# - What a file gains you: it runs without Python and PyTorch, and two optimizers rewrite it, the exporter's and the
#   session's. Write the optimized graph to a file and count.
# - What was dynamic in Python is fixed in the file unless you name it.
# - A row that looks odd has a cause: profile it. Count kernels at batch 1, and sum them by what they are for at 256.
# - `run()` includes the copies; an IOBinding leaves them to you; with fixed addresses the launches can become a CUDA
#   graph.
# - Available is not in use: ask the session for its providers.
# - On the CUDA provider, FP32 means TF32 until you turn it off. Turn it off for FP32 alone.
#
# ## Further reading
#
# The documentation of ONNX Runtime {cite}`onnx_runtime`, above all its page on the CUDA provider
# {cite}`onnx_runtime_cuda`, which lists every option used here, and on
# [graph optimizations](https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html); the
# format itself {cite}`onnx`; CUDA graphs in PyTorch {cite}`pytorch_cuda_graphs`.
