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
# # TensorRT
#
# How fast does NVIDIA's own compiler make my model, and what do I give up for it?
#
# TensorRT turns a graph into a program for one GPU, and measures its way to the kernels.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# to build an engine step by step, to see what was fused, and to know for which GPU, shapes and precision it holds
# :::
# :::{grid-item-card} You need
# the chapter on ONNX Runtime; TensorRT and a GPU to run engines; TensorRT for RTX to build them anywhere
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
# For one convolution there are dozens of kernels, with different tile sizes and layouts, with or without {term}`tensor
# cores <tensor core>`. Which one is fastest depends on the GPU and on the shape, and nobody can tell from the source
# code. A framework that runs any model on any GPU has to guess, or to try at first use.
#
# TensorRT has a separate step for it, the *build*. It takes the whole graph, merges layers, tries kernels on the GPU at
# hand, and writes the result to a file, the {term}`engine`. A build takes seconds to minutes. The program that serves
# the model only loads the engine and executes it.
#
# The price: by default an engine holds for this kind of GPU, this version of TensorRT and these shapes
# {cite}`tensorrt`. [Two options](#the-engine-comes-from-elsewhere) widen it, and may make it slower.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import tempfile
import textwrap
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import torch
from IPython.display import display

from inference_lib import MODELS, CourseError, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends import tensorrt as backend
from inference_lib.backends.onnxruntime import INPUT, MODEL_FILE
from inference_lib.backends.tensorrt import ENGINE_FILE, EngineRunner, load_tensorrt, log, logger, trt
from inference_lib.report import glue, plots, show_source, tables, words
from inference_lib.report.bracket import Bracket, glue_answer
from inference_lib.seam import Artifact, Workload, build
from inference_lib.support.progress import each

scratch = tempfile.TemporaryDirectory()
lab = open_lab(profile, device, records_dir)
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% [markdown]
# Build and execution, from the top down:

# %% tags=["hide-input"]
stages = [
    ["model.onnx"],
    ["network"],
    ["builder:\nfuse, try kernels"],
    ["engine\n(a file)"],
    ["runtime,\ncontext"],
    ["logits"],
]
figure, (axes,) = plots.new_figure(height=1.2)
plots.flow(stages, axes)
plots.show_figure(
    figure,
    alt="Flow: an ONNX file, the network, the builder, the engine file, the runtime with its context, the logits.",
    caption="Above the engine is the build, once for each GPU. Below it is what a service does.",
)

# %% [markdown]
# ### Is it here?
#
# TensorRT needs an NVIDIA GPU even to build. Its library is not on PyPI: the packages there fetch it from NVIDIA's own
# index when they are installed.
#
# There is a second edition, *TensorRT for RTX*, for GeForce and RTX cards {cite}`tensorrt_rtx`. Its Python API is the
# same for all that this chapter does, and it builds without any GPU: kernels are not tried, but compiled on the user's
# card when the engine is first run. So where it is installed, the builds below are real on a laptop, too.

# %%
tensorrt = get_backend("tensorrt")
found = tensorrt.availability("cuda")
answer = f"yes, TensorRT {found.version}" if found.usable else f"no. {found.reason}"
print(textwrap.fill(f"runs engines: {answer}", 72, break_on_hyphens=False))

reason = backend.why_no_build()
builds, nothing_builds = not reason, "needs TensorRT with a GPU, or TensorRT for RTX"
name = load_tensorrt()[1] if builds else ""
answer = f"yes, {backend.NAMES[name]}" if builds else f"no. {reason}; pip install tensorrt-rtx-cu13"
print(textwrap.fill(f"builds them:  {answer}", 72, break_on_hyphens=False))
runs = lab.device == "cuda" and found.usable

# %% tags=["remove-cell"]
there = f"TensorRT {found.version} works there, so the row below has numbers"
missing = f"There are no numbers of TensorRT from it: {found.reason or 'the chapter ran on its CPU'}"
glue("09-here", f"This page was executed on {lab.machine_name}. {there if runs else missing}")

# %% [markdown]
# ```{admonition} Rows without numbers
# :class: important
# {glue:text}`09-here`. A cell that needs the library says so instead of answering; what only builds runs with TensorRT
# for RTX, which comes from PyPI. Whoever has the library can [contribute the missing rows](section-09-contribute) with
# three commands.
# ```
#
# ## Export
#
# ### From a file to a network
#
# The build starts from the ONNX file that the [chapter on ONNX Runtime](07_onnx_runtime) has made.


# %%
def onnx_file(model, precision):
    """Return the ONNX file of a model; the one that ONNX Runtime runs."""
    return build(get_backend("onnxruntime"), Workload(model, 1, precision, "cpu")).directory / MODEL_FILE


graph = onnx_file("resnet18", "fp16")

# %% [markdown]
# A parser reads it into a *network*, TensorRT's own graph. (`logger()` is the course's, which keeps what
# TensorRT says; the usual `trt.Logger()` prints it.)

# %%
if builds:
    builder = trt.Builder(logger())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger())
    if not parser.parse_from_file(str(graph)):
        raise CourseError("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
else:
    print(nothing_builds)

# %% [markdown]
# The flag makes a {term}`strongly typed network`, in which the file decides about precision: a tensor that is FP16 in
# the file is FP16 in the engine, and nothing else is. Older programs set `BuilderFlag.FP16` instead and let TensorRT
# choose. That flag is deprecated in TensorRT 10 and gone in TensorRT 11 {cite}`tensorrt_migration`.
#
# The parser returns `False` when it fails, and raises nothing. The reasons wait in a list until somebody asks.

# %%
if builds:
    for tensor in (network.get_input(0), network.get_output(0)):
        print(tensor.name, tensor.dtype.name, list(tensor.shape))
    kinds = Counter(network.get_layer(i).type.name.lower() for i in range(network.num_layers))
    print(f"{network.num_layers} layers: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
else:
    print(nothing_builds)

# %% [markdown]
# The batch is -1, which means: not known yet.
#
# ### Shapes
#
# A kernel is chosen for a shape, so the builder must be told. An {term}`optimization profile` names the smallest batch,
# the one to optimize for, and the largest:

# %%
if builds:
    config = builder.create_builder_config()
    range_of_batches = builder.create_optimization_profile()
    range_of_batches.set_shape("images", (1, 3, 224, 224), (8, 3, 224, 224), (32, 3, 224, 224))
    print("profile number", config.add_optimization_profile(range_of_batches))
else:
    print(nothing_builds)

# %% [markdown]
# Or the batch is fixed for good, which needs no profile: `network.get_input(0).shape = (8, 3, 224, 224)`. That is how
# the course builds the engines that it measures, one for each batch size.
#
# ### From a network to an engine
#
# What remains is the build itself. It returns the bytes of the file, or `None`. Once more, nothing is raised.

# %%
if builds:
    config.clear_flag(trt.BuilderFlag.TF32)
    start = time.perf_counter()
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise CourseError("TensorRT built no engine; the logger knows why")
    engine = bytes(serialized)
    print(f"{len(engine) / 1e6:.1f} MB in {time.perf_counter() - start:.1f} s, {name} on {lab.machine_name}")
else:
    print(nothing_builds)

# %% [markdown]
# {term}`TF32` is on by default and the course turns it off: FP32 means IEEE here unless a label says otherwise. The
# flag is about FP32 numbers only, and it stays in TensorRT 11.
#
# A build of TensorRT for RTX tries nothing; TensorRT itself runs the candidates on the GPU, several times each, and
# takes as long as they do. These three cells, with every return value checked, are the course's own `build_engine`.
#
# ### From an engine to logits
#
# To execute an engine takes three things: its code and weights on the GPU (the *engine*), memory for what is computed
# in between (the *context*), and the addresses of input and output.

# %%
if runs:
    loaded = trt.Runtime(logger()).deserialize_cuda_engine(engine)
    context = loaded.create_execution_context()
    images = torch.zeros(8, 3, 224, 224, dtype=torch.float16, device="cuda")
    logits = torch.empty(8, 10, dtype=torch.float16, device="cuda")
    stream = torch.cuda.Stream()
    assert context.set_input_shape("images", tuple(images.shape))
    assert context.set_tensor_address("images", images.data_ptr())
    assert context.set_tensor_address("logits", logits.data_ptr())
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    print("finite logits:", bool(logits.isfinite().all()))
else:
    print("needs TensorRT and a GPU")

# %% [markdown]
# TensorRT takes plain addresses. It sees neither type nor size of what is there, so a wrong one gives wrong logits or
# a crash. The course's runner compares both with what the engine says before it binds them.
#
# `execute_async_v3` only queues the work, on a stream of our own: on the default stream TensorRT adds waits. Shape and
# addresses stay the same, so the launches can be recorded as a {term}`CUDA graph` with the same lines as in the
# [chapter on PyTorch](04_pytorch).
#
# ## Is it still the same model?
#
# Every export is compared with the FP32 eager model before anything is timed, and a row that could not be measured says
# why below the table.

# %%
records = lab.benchmark(["tensorrt"])
tables.show_agreement(records)

# %% [markdown]
# In one line for each model:

# %%
for model in MODELS:
    print(f"{model}: {words.verdict(records, model)}")

# %% [markdown]
# A row that is not measured makes no claim, here or anywhere below.
#
# ## How fast can it be?
#
# However good its kernels, TensorRT has to do the multiplications of the network and to read its weights. The bounds
# are those of the [chapter on where the time goes](03_where_the_time_goes): the lower one with no traffic but what
# every program needs, the upper one with operations that run one by one at the ceilings.

# %%
bracket = Bracket("resnet18", "fp16", lab.gpu_ceilings())
bracket.table((1, 256))

# %% [markdown]
# ```{admonition} Guess
# :class: tip
# At batch 1, how many times the lower bound do the CUDA graphs of PyTorch and ONNX Runtime take? Better kernels and
# more fusion can save what is above one, and no more.
# ```
#
# :::{dropdown} What was measured
# {glue:text}`09-gap`; copies are not counted. And TensorRT? {glue:text}`09-verdict`. On a laptop's GPU with other
# versions, the first edition of this course saw {glue:text}`09-reference` times the frames per second of ONNX Runtime's
# CUDA provider, with ResNet-18 in FP16.
# :::
#
# ## How fast is it?
#
# PyTorch's and ONNX Runtime's CUDA graphs are the fair rivals: they replay a graph, as TensorRT's row does, so that
# kernels and copies are what differs. PyTorch's eager loop stands beside them. A note under the table marks a row
# without numbers, or one that is [less trustworthy than its neighbours](../book/how_to_read).

# %%
rivals = ["pytorch-cudagraph", "onnxruntime-cudagraph", "pytorch", "tensorrt"]
compared = lab.compare(rivals)
compared.show("tensorrt")

# %% [markdown]
# The model alone, its copies left out, against the two bounds:

# %%
bracket.figure(compared.shown("resnet18", "fp16"), 1)

# %% tags=["remove-cell"]
glue_answer("09", bracket, compared, "tensorrt", reference=("TensorRT", "ONNX"))

# %% [markdown]
# A CUDA graph takes the launches off the host, so what keeps its mark from the band is on the device. Each of the
# twenty convolutions is a kernel at least. Each has a beginning and an end in which the GPU is not full, and one
# picture may not fill it in between, either.
#
# (section-09-contribute)=
# ### On readers' machines
#
# If your machine has TensorRT's library, three commands make numbers for this page:
#
# ```bash
# ROWS="pytorch-cudagraph onnxruntime-cudagraph pytorch tensorrt"
# python -m inference_lib benchmark --profile full --device cuda --backend $ROWS
# python -m inference_lib benchmark --profile full --device cuda --backend $ROWS --run 2 --rounds-only
# python -m inference_lib contribute tensorrt.zip
# ```
#
# The second run shows how far the first one holds. The last command checks both and packs them into one file.
# [Reproducing the numbers](../book/reproducing) says where that goes.
#
# {{ machines: pytorch-cudagraph onnxruntime-cudagraph pytorch tensorrt }}

# %% [markdown]
# ### What the first edition of this course measured
#
# The project that this course grew from timed TensorRT on a laptop's GPU, one image at a time. Another card, another
# version and weights of its own: read the ratios, not the numbers. The last column is the FPS over that of its PyTorch
# in the same precision. There, PyTorch was faster in FP16 than in FP32 with none of the networks, and with ResNet-18
# both PyTorch and ONNX Runtime's CUDA provider were slower. The ratios in FP16 owe something to that.

# %%
tables.show_table(tables.reference_rows("TensorRT"), "Quadro T2000, batch 1, TensorRT.")

# %% [markdown]
# ## Why?
#
# ### Layers, before and after
#
# With detailed profiling, the builder writes down which layers of the file each of its own layers came from. The
# {term}`inspector` of a loaded engine tells it, too, but needs the GPU. `engine_layers` asks whichever is there.


# %%
if builds:
    layers = backend.engine_layers(onnx_file("resnet18", "fp16"), 8)
    print(f"{network.num_layers} layers in the network, {len(layers)} in the engine")
    assert max(len(parts) for _, parts in layers) > 1, "nothing was fused: the next paragraph is wrong"
    rows = [(kind, " + ".join(parts)) for kind, parts in layers[:9]]
    table = pd.DataFrame(rows, columns=["kind", "layers of the file in it"])
    display(tables.show_table(table, f"The first layers of ResNet-18's engine, {name}."))
else:
    print(nothing_builds)

# %% [markdown]
# Where one layer of the engine holds several of the file, a convolution with the ReLU behind it or with the addition of
# a shortcut, the result of the first is still in {term}`registers <register>` when the others need it: it is not
# written to memory and read again. These fusions save memory traffic and launches; the multiplications are the same.
#
# The names of the kinds are TensorRT's own. `kgen`, where there is one, is a kernel that was generated for the purpose,
# such as a change of the images' layout to the one that the convolutions read.

# %%
if builds:
    fused = Counter(len(parts) for _, parts in layers)
    labels = [f"holds {size}" for size in sorted(fused)]
    figure, (axes,) = plots.new_figure(height=1.9)
    plots.bars(labels, [fused[size] for size in sorted(fused)], "#6A3D9A", "layers in the engine", axes)
    display(
        plots.show_figure(
            figure,
            alt="How many layers of the engine hold no layer of the file, one, or several.",
            caption=f"Layers of ResNet-18's engine by how many layers of the file are in each. {name}.",
        )
    )
else:
    print(nothing_builds)

# %% [markdown]
# The more layers of the file a layer of the engine holds, the fewer feature maps go to memory.
#
# ## Knobs
#
# ### Fixed or dynamic batch, FP32 or FP16
#
# One engine for one batch size, or one for all up to a limit? And in which precision? Three engines to compare:

# %%
choices = {"static, FP32": ("fp32", 8), "static, FP16": ("fp16", 8), "dynamic, FP16": ("fp16", (1, 8, 32))}


def built(precision, batches, **options):
    """Build ResNet-18; return the engine, its size and how long it took."""
    graph = onnx_file("resnet18", precision)
    start = time.perf_counter()
    plan = backend.build_engine(graph, batches, **options)
    return plan, {"engine, MB": len(plan) / 1e6, "build, s": time.perf_counter() - start}


if builds:
    plans = {label: built(*choice) for label, choice in each(choices.items(), "engines")}
    table = pd.DataFrame([{"engine": label} | facts for label, (_, facts) in plans.items()])
    formats = {"engine, MB": "{:.1f}", "build, s": "{:.2f}"}
    display(tables.show_table(table, f"ResNet-18, {name}, {lab.machine_name}.", formats))
else:
    print(nothing_builds)

# %% [markdown]
# The weights are in the file, in the precision of the engine. A dynamic engine needs kernels that work for every size
# in its range, and was tuned for the middle one. Whether that costs time at the ends is measured where an engine can
# run; the two take turns. Where it does, build an engine for each size that you know to be asked for often, and keep a
# dynamic one for the rest; or give one engine several profiles, each tuned for its own range.


# %%
def open_engine(plan, workload):
    """Return the runner of an engine."""
    folder = Path(tempfile.mkdtemp(dir=scratch.name))
    (folder / ENGINE_FILE).write_bytes(plan)
    return EngineRunner(Artifact(workload, folder))


def take_turns(plans, precision, batch_size):
    """Return the table of engines that take turns, copies left out; ``plans`` maps a label to an engine."""
    workload = Workload("resnet18", batch_size, precision, "cuda")
    with ExitStack() as stack:
        runners = {label: stack.enter_context(open_engine(plan, workload)) for label, plan in plans.items()}
        turns = lab.turns({label: runner.compute for label, runner in runners.items()})
    caption = f"ResNet-18, {workload.precision.title}, batch {batch_size}, compute only. {lab.machine_name}."
    return tables.show_table(turns.table(), caption)


known = Path(scratch.name) / "known.cache" if builds and name == "tensorrt" else None
if runs:
    for size in each((1, 32), "engines"):
        own, _ = built("fp16", size, timings=known)
        display(take_turns({"engine of its own": own, "dynamic engine": plans["dynamic, FP16"][0]}, "fp16", size))
else:
    print("needs TensorRT and a GPU")

# %% [markdown]
# Where the effect is none, take the dynamic engine: one build, one file.
#
# ### How hard to search
#
# `builder_optimization_level` goes from 0 to 5 and is 3 unless set. Low levels try less and build sooner.
#
# A {term}`timing cache` keeps how long every kernel took, so that the next build need not time it again: after a change
# of one layer, or of the batch range, most of the answers are known. The course keeps one for each GPU and version.

# %%
if runs:
    levels = {}
    for level in each((3, 0), "engines"):
        plan, facts = built("fp16", 1, configure=lambda c, level=level: setattr(c, "builder_optimization_level", level))
        print(f"level {level}: built in {facts['build, s']:.1f} s")
        levels[f"level {level}"] = plan
    display(take_turns(levels, "fp16", 1))
else:
    print("needs TensorRT and a GPU")

# %% [markdown]
# The same build twice, with an empty timing cache and with one that the first build has filled:


# %%
if runs and name == "tensorrt":
    timings = Path(scratch.name) / "timings.cache"
    for attempt in each(("empty", "filled"), "engines"):
        print(f"timing cache {attempt}: built in {built('fp16', 1, timings=timings)[1]['build, s']:.1f} s")
else:
    print("needs TensorRT and a GPU")

# %% [markdown]
# Kernels that are timed while something else runs on the GPU are timed wrongly, and the wrong one may be chosen for
# good. So the course builds one engine at a time, whatever else it does in parallel.
#
# ### TF32
#
# The flag from above, on and off, on the FP32 file:

# %%
if runs:
    policies = {
        f"TF32 {'on' if tf32 else 'off'}": built("fp32", 8, tf32=tf32, timings=known)[0]
        for tf32 in each((False, True), "engines")
    }
    display(take_turns(policies, "fp32", 8))
else:
    print("needs TensorRT and a GPU")

# %% [markdown]
# What TF32 costs in accuracy is in the table of agreement above, where it has a row labelled TF32.
#
# ## What goes wrong
#
# ### FP16 was asked for, and the engine computes in FP32
#
# Much code on the web still says `config.set_flag(trt.BuilderFlag.FP16)`. Guarded with `hasattr`, it is skipped
# without a word where the flag is gone, and the engine under the FP16 label computes in FP32.

# %%
if builds:
    print(f"{name} has BuilderFlag.FP16:", hasattr(trt.BuilderFlag, "FP16"))
    for precision in ("fp32", "fp16"):
        network = backend.parse(trt.Builder(logger()), onnx_file("resnet18", precision))
        convolutions = (network.get_layer(i) for i in range(network.num_layers))
        types = {layer.get_output(0).dtype.name for layer in convolutions if layer.type.name == "CONVOLUTION"}
        print(f"from the {precision} file, convolutions are", *types)
else:
    print(nothing_builds)

# %% [markdown]
# Cast the model before the export, and check the file. The size of an engine gives a wrong label away.
#
# ### FP16 gives NaN
#
# A half-precision number ends at 65504. What is larger becomes infinite, and infinity minus infinity is not a number
# ([TensorRT#3921](https://github.com/NVIDIA/TensorRT/issues/3921),
# [TensorRT#1787](https://github.com/NVIDIA/TensorRT/issues/1787),
# [TensorRT#4748](https://github.com/NVIDIA/TensorRT/issues/4748)). It is the network's numbers that overflow, not
# TensorRT, so PyTorch shows it on any machine:

# %% tags=["nbval-check-output"]
large = torch.tensor([300.0], dtype=torch.float16)
print((large * large).item(), (large * large - large * large).item(), (large.float() * large.float()).item())

# %% [markdown]
# Before you blame a compiler, look at the largest activation of your model on real inputs:

# %%
from inference_lib.zoo.fashion_mnist import load_fashion_mnist, preprocess

pictures = torch.from_numpy(preprocess(load_fashion_mnist("test")[0][:8]))


def largest_activation(model):
    """Return the largest absolute value that any layer of ``model`` produces for the pictures."""
    seen = []
    module = load_pretrained(model)
    for layer in module.modules():
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.abs().max().item()))
    module(pictures)
    return max(seen)


print(", ".join(f"{model} {largest_activation(model):.1f}" for model in MODELS), "; FP16 ends at 65504")

# %% [markdown]
# Keep a layer that overflows in FP32: leave it uncast in PyTorch, with a cast before and after, and export that. In a
# strongly typed network the engine follows.
#
# ### `False` and `None` are ignored
#
# Parser and builder once more, without the checks, and a file that is no model:

# %%
(Path(scratch.name) / "broken.onnx").write_bytes(onnx_file("vanilla_cnn", "fp32").read_bytes()[:100_000])
if builds:
    maker = trt.Builder(logger())
    empty = maker.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(empty, logger())
    print("parse:", parser.parse_from_file(str(Path(scratch.name) / "broken.onnx")))
    print("build:", maker.build_serialized_network(empty, maker.create_builder_config()))
else:
    print(nothing_builds)

# %% [markdown]
# Nothing is raised by either call. The first line that fails is many lines later, where `None` has no attribute of some
# name. With the checks, the reason comes first:

# %%
if builds:
    try:
        backend.build_engine(Path(scratch.name) / "broken.onnx", 1)
    except CourseError as error:
        print(error)
else:
    print(nothing_builds)

# %% [markdown]
# So wrap these calls once, and never call them bare.
#
# ### A dynamic batch without a profile
#
# The file leaves the batch open and nobody closes it.

# %%
if builds:
    network = backend.parse(maker, onnx_file("vanilla_cnn", "fp32"))
    log().clear()
    print(maker.build_serialized_network(network, maker.create_builder_config()))
    print(*(text for severity, text in log() if severity <= 1 and "profile" in text), sep="\n")
else:
    print(nothing_builds)

# %% [markdown]
# The answer is `None` once more, and the reason is in the log, for whoever reads it. Add a profile, or fix the shape of
# the input, as the course's `set_batches` does.
#
# ### The engine comes from elsewhere
#
# An engine that was built on another GPU, or by another version, does not load
# ([TensorRT#2900](https://github.com/NVIDIA/TensorRT/issues/2900)), or loads and runs with kernels that were tuned
# for another card. What a machine without the right GPU says (one that has it gets a damaged file, so that there is
# something to refuse):

# %%
if builds:
    (Path(scratch.name) / "elsewhere.engine").write_bytes(engine[:1000] if found.usable else engine)
    try:
        backend.load_engine(Path(scratch.name) / "elsewhere.engine")
    except CourseError as error:
        print(str(error)[:230])
else:
    print(nothing_builds)

# %% [markdown]
# An engine that does not load need not be damaged. Ship the ONNX file and build where the engine will run.
#
# Where that cannot be, two options of the builder's configuration widen what an engine holds for
# ([compatibility](https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-compatibility.html)).
# The flag `VERSION_COMPATIBLE` puts a small runtime into the file, so that later versions of TensorRT can run it. They
# execute code from the file for that, so each has to be told that it is trusted (`engine_host_code_allowed`).
# `hardware_compatibility_level` lets the engine run on other GPUs, for instance on all from Ampere on. It leaves out
# kernels and fusions that not all of them can do. Either may be slower, and the operating system stays the same.
#
# The course uses neither. It writes down what an engine was built with and builds it again when any of that has
# changed:

# %%
show_source("inference_lib.backends.tensorrt", "TensorRt.versions")

# %% [markdown]
# An engine whose list differs is built again, whatever its file name says.
#
# ### A shape outside of the profile
#
# The context answers `False`, and goes on with the shape that it had. Unchecked, the next execution computes that many
# images, and a caller who reads more logits finds whatever was in memory.

# %%
if runs:
    (Path(scratch.name) / "dynamic.engine").write_bytes(plans["dynamic, FP16"][0])
    context = backend.load_engine(Path(scratch.name) / "dynamic.engine").create_execution_context()
    print("batch 32:", context.set_input_shape(INPUT, (32, 3, 224, 224)))
    print("batch 33:", context.set_input_shape(INPUT, (33, 3, 224, 224)))
else:
    print("needs TensorRT and a GPU")

# %% [markdown]
# Check the answer of `set_input_shape` every time, as `execute_async_v3` does not.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-09-mobilenet
# Predict, then look: how many layers has the network of `mobilenet_v2`, and how many its engine? Its blocks end with a
# convolution that has no activation, and a shortcut in some of them.
# ```
#
# ````{solution} ex-09-mobilenet
# :class: dropdown
# ```python
# if builds:
#     file = onnx_file("mobilenet_v2", "fp16")
#     mobile = backend.engine_layers(file, 8)
#     network = backend.parse(trt.Builder(logger()), file)
#     print(f"{network.num_layers} layers in the network, {len(mobile)} in the engine")
#     for parts, count in Counter(len(parts) for _, parts in mobile).most_common():
#         print(f"{count} layers of the engine hold {parts} of the file")
# else:
#     print(nothing_builds)
# ```
# Each `Clip` (ReLU6, which the exporter may have given a short name) can join the convolution before it, depthwise or
# not, and each addition of a shortcut the last convolution of its block. The counts say how many did.
# ````
#
# ```{exercise}
# :label: ex-09-opset
# How many of ONNX's operators does TensorRT's parser not know? Name three. What could you do if your model had one?
# ```
#
# ````{solution} ex-09-opset
# :class: dropdown
# ```python
# import onnx
#
# if builds:
#     maker = trt.Builder(logger())
#     empty = maker.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
#     parser = trt.OnnxParser(empty, logger())
#     operators = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})
#     unknown = [operator for operator in operators if not parser.supports_operator(operator)]
#     print(f"{len(unknown)} of {len(operators)} operators are not known, such as {', '.join(unknown[:6])}")
# else:
#     print(nothing_builds)
# ```
# Rewrite the model without it, write a plugin, or let a framework that splits graphs use TensorRT for the rest: [ONNX
# Runtime's provider](08_onnx_runtime_tensorrt) or [Torch-TensorRT](10_torch_tensorrt).
# ````
#
# ```{exercise}
# :label: ex-09-profile
# A service gets one image at a time by day and batches of 64 by night. Build one engine with a profile for each, and
# another with one profile from 1 to 64. How large are the files?
# ```
#
# ````{solution} ex-09-profile
# :class: dropdown
# ```python
# if builds:
#     for title, profiles in {"1, and 64": [(1, 1, 1), (64, 64, 64)], "1 to 64": [(1, 64, 64)]}.items():
#         maker = trt.Builder(logger())
#         network, config = backend.parse(maker, onnx_file("resnet18", "fp16")), maker.create_builder_config()
#         for sizes in profiles:
#             profile_of_batches = maker.create_optimization_profile()
#             profile_of_batches.set_shape("images", *((size, 3, 224, 224) for size in sizes))
#             config.add_optimization_profile(profile_of_batches)
#         print(f"{title}: {len(bytes(maker.build_serialized_network(network, config))) / 1e6:.1f} MB")
# else:
#     print(nothing_builds)
# ```
# Compare the sizes with that of one engine above: weights that both profiles read in one layout are stored once, and
# `set_optimization_profile_async` chooses between the two. The single profile works for both loads and is tuned for 64
# alone. What that costs by day is a question for `take_turns`.
# ````
#
# ## Key points
#
# - A build fuses layers and tries kernels on the GPU at hand. What you give up: by default the engine holds for that
#   kind of GPU, that version, those shapes, and nothing else.
# - Precision is in the graph: cast before the export. The flags that did it are gone in TensorRT 11.
# - TensorRT says `False` or `None` where others raise. Check every call and print the parser's errors.
# - Set shapes and addresses once, execute on a stream of your own, and record it as a CUDA graph.
# - Keep the timing cache, build on a quiet GPU, and write down what an engine was built with.
#
# ## Further reading
#
# TensorRT's documentation {cite}`tensorrt`, above all its page on
# [performance](https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html); the guide to
# TensorRT 11 {cite}`tensorrt_migration`; TensorRT for RTX {cite}`tensorrt_rtx`.
