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
# # ONNX Runtime with TensorRT
#
# Can I have TensorRT's kernels without rewriting the program around my model?
#
# The same session, the same file, one more provider in the list: TensorRT for what it can do, CUDA for the rest.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# what the TensorRT provider takes and what it leaves, why the first run takes so long, and how to avoid that
# :::
# :::{grid-item-card} You need
# the chapter on ONNX Runtime; TensorRT 10 and a GPU to run it; TensorRT for RTX to see how a graph is split
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
# TensorRT compiles a whole graph or nothing. One operator that it does not know, and there is no engine.
#
# ONNX Runtime can split a graph. Its TensorRT provider asks TensorRT's parser which nodes it would take, turns each
# group of neighbours into one engine, and leaves the others to the next provider in the list
# {cite}`onnx_runtime_tensorrt`. The program that calls the session does not change.
#
# The price is a longer start, and one more way in which another provider can answer without your noticing.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import contextlib
import io
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
from IPython.display import display

from inference_lib import MODELS, CourseError, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends import onnxruntime_tensorrt as backend
from inference_lib.backends.onnxruntime import INPUT, MODEL_FILE
from inference_lib.backends.tensorrt import build_engine, load_tensorrt, logger, trt, why_no_build
from inference_lib.report import glue, plots, show_source, tables, words
from inference_lib.report.bracket import Bracket, glue_answer
from inference_lib.seam import Workload, build

ort.set_default_logger_severity(4)  # what fails raises; what falls back is shown below
scratch = tempfile.TemporaryDirectory()
lab = open_lab(profile, device, records_dir)
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% [markdown]
# A split graph, as it runs:

# %% tags=["hide-input"]
stages = [["model.onnx"], ["partition"], ["engine"], ["CUDA\nkernels"], ["engine"], ["logits"]]
figure, (axes,) = plots.new_figure(height=1.2)
plots.flow(stages, axes)
plots.show_figure(
    figure,
    alt="Flow: the ONNX file, the partition, an engine, CUDA kernels, another engine, the logits.",
    caption="A graph with an operator in its middle that TensorRT does not take becomes two engines and a rest.",
)

# %% [markdown]
# ### Is it here?
#
# The provider is part of the package `onnxruntime-gpu`; TensorRT's library is not, and not on PyPI either: the package
# there fetches it from NVIDIA's own index while it is installed.

# %%
found = get_backend("onnxruntime-tensorrt").availability("cuda")
print("built with the provider:", backend.PROVIDER in ort.get_available_providers())
print("linked with TensorRT:   ", backend.linked_tensorrt())
answer = f"yes, {found.version}" if found.usable else f"no. {found.reason}"
print(textwrap.fill(f"works here:              {answer}", 72, break_on_hyphens=False))

runs = lab.device == "cuda" and found.usable
parses, nothing_parses = not why_no_build(), "needs TensorRT with a GPU, or TensorRT for RTX"
name = load_tensorrt()[1] if parses else ""

# %% tags=["remove-cell"]
there = f"TensorRT works there, with ONNX Runtime {found.version}, so the rows below have numbers"
missing = f"There are no numbers of TensorRT from it: {found.reason or 'the chapter ran on its CPU'}"
glue("08-here", f"This page was executed on {lab.machine_name}. {there if runs else missing}")

# %% [markdown]
# ```{admonition} Rows without numbers
# :class: important
# {glue:text}`08-here`. A cell that needs the library says so instead of answering. What needs only TensorRT's parser
# and builder runs with TensorRT for RTX, which comes from PyPI and needs no GPU. Whoever has the library can
# [contribute the missing rows](section-08-contribute) with three commands.
# ```
#
# ## Export
#
# There is nothing new to export: the file is the one of the [chapter on ONNX Runtime](07_onnx_runtime).


# %%
def onnx_file(model, precision="fp32"):
    """Return the ONNX file of a model; the one that ONNX Runtime runs."""
    return build(get_backend("onnxruntime"), Workload(model, 1, precision, "cpu")).directory / MODEL_FILE


half = onnx_file("resnet18", "fp16")

# %% [markdown]
# New are the options of the provider, all of them strings.

# %%
cache = str(Path(scratch.name) / "cache")
options = {
    "trt_fp16_enable": "1",
    "trt_engine_cache_enable": "1",
    "trt_engine_cache_path": cache,
    "trt_timing_cache_enable": "1",
    "trt_timing_cache_path": cache,
    "trt_profile_min_shapes": "images:1x3x224x224",
    "trt_profile_opt_shapes": "images:8x3x224x224",
    "trt_profile_max_shapes": "images:32x3x224x224",
}

# %% [markdown]
# *Precision.* The course exports in FP16 first, so the file is in half precision already. `trt_fp16_enable` allows
# kernels for it. On an FP32 file the same option lets TensorRT choose FP16 where that is faster, whatever it costs in
# accuracy.
#
# *Cache.* `trt_engine_cache_enable` writes the {term}`engine` to a folder and reads it next time.
# `trt_timing_cache_enable` keeps how long each kernel took (a {term}`timing cache`), which helps when an engine must be
# built again.
#
# *Shapes.* An engine holds for a range of shapes. Its {term}`profile <optimization profile>` names the smallest, the
# largest and the one to optimize for; equal ones make an engine for one shape, and that is what the course measures.
#
# A service that wants an answer at any price lists the CUDA provider second:

# %%
if runs:
    session = ort.InferenceSession(half, providers=[("TensorrtExecutionProvider", options), "CUDAExecutionProvider"])
    print("in use:", *session.get_providers())
else:
    print("needs TensorRT and a GPU")

# %% [markdown]
# A measurement must not have a second choice. So the course opens its session in such a way that nothing else can pass
# as TensorRT:

# %%
strict = ort.SessionOptions()
strict.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
if runs:
    alone = [("TensorrtExecutionProvider", options)]
    session = ort.InferenceSession(half, strict, providers=alone, enable_fallback=False)
    print("in use:", *session.get_providers())
else:
    print("needs TensorRT and a GPU")

# %% [markdown]
# `disable_cpu_ep_fallback` makes a graph that is not taken as a whole an error, and `enable_fallback=False` keeps the
# Python class from trying again without TensorRT.
#
# ### How a graph is split
#
# The provider asks TensorRT's ONNX parser. The same question can be asked from Python: which groups of nodes would
# you take?


# %%
def ask_parser(model):
    """Return whether TensorRT takes all of an ONNX model, and how many nodes are in each group of neighbours."""
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = trt.Builder(logger()).create_network(flags)
    parser = trt.OnnxParser(network, logger())
    whole = parser.supports_model_v2(model.SerializeToString())
    return whole, [len(parser.get_subgraph_nodes(i)) for i in range(parser.num_subgraphs)]


# %% [markdown]
# The three networks of the course:


# %%
if parses:
    for model in MODELS:
        whole, groups = ask_parser(onnx.load(onnx_file(model)))
        print(f"{model}: {'one engine' if whole else 'split'}, nodes in each group: {groups}")
else:
    print(nothing_parses)

# %% [markdown]
# A model that the parser takes as a whole becomes one engine. To see a split, rename one activation in the middle of
# ResNet-18 to an operator that nobody knows:

# %%
strange = onnx.load(onnx_file("resnet18"))
activations = [node for node in strange.graph.node if node.op_type == "Relu"]
activations[len(activations) // 2].op_type = "MyActivation"
if parses:
    whole, groups = ask_parser(strange)
    print(f"{'one engine' if whole else 'split'}, nodes in each group: {groups}")
else:
    print(nothing_parses)

# %% [markdown]
# Each group would be an engine, with the strange operator between them. Its input leaves one engine through memory, in
# the layout that the graph names, and its output enters the next one the same way. Every split costs two such crossings
# and the fusions across it. So look at how many groups there are, not at how many nodes are in them;
# `trt_min_subgraph_size` leaves small groups to the next provider.
#
# A session of any provider writes down where each node went, if asked to:


# %%
def placed(path, providers):
    """Open a session; return how many nodes each provider got."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(path, options, providers=providers)
    groups = session.get_provider_graph_assignment_info()
    nodes = pd.Series([group.ep_name for group in groups for _ in group.get_nodes()])
    return nodes.value_counts().to_dict()


if runs:
    print(placed(onnx_file("resnet18"), [backend.PROVIDER, "CUDAExecutionProvider"]))
    left_out = {"trt_op_types_to_exclude": "MaxPool"}
    print(placed(onnx_file("resnet18"), [(backend.PROVIDER, left_out), "CUDAExecutionProvider"]))
else:
    print(placed(onnx_file("resnet18"), ["CPUExecutionProvider"]))

# %% [markdown]
# The counts add up to the whole graph. Where a provider that was meant to run all of it has fewer nodes, the others are
# somewhere else. (Where TensorRT does not run, the CPU provider alone is asked, even beside a GPU.)
#
# ## Is it still the same model?
#
# Every export is compared with the FP32 eager model before anything is timed, and a row that could not be measured says
# why below the table.

# %%
records = lab.benchmark(["onnxruntime-tensorrt"])
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
# TensorRT does the same multiplications as the CUDA provider, so the bounds are those of the [chapter on ONNX
# Runtime](07_onnx_runtime): no program gets below the first, and above the second something is lost that the
# {term}`roofline` does not know.

# %%
bracket = Bracket("resnet18", "fp16", lab.gpu_ceilings())
bracket.table((1, 256))

# %% [markdown]
# ```{admonition} Guess
# :class: tip
# At batch 1, how many times the lower bound does a session of the CUDA provider take, and how much of that can other
# kernels save?
# ```
#
# :::{dropdown} What was measured
# {glue:text}`08-gap`; copies are not counted. And with TensorRT's kernels? {glue:text}`08-verdict`. On a laptop's GPU
# with other versions, the first edition of this course saw {glue:text}`08-reference` times the frames per second of
# ONNX Runtime's CUDA provider, with ResNet-18 in FP16.
# :::
#
# ## How fast is it?
#
# The same {term}`IOBinding` on the CUDA provider is the fair comparison: session, binding and copies are the same, the
# kernels are not. The CUDA provider's {term}`CUDA graph` and PyTorch's eager loop stand beside it. A note under the
# table marks a row without numbers, or one that is [less trustworthy than its neighbours](../book/how_to_read).

# %%
rivals = ["onnxruntime-iobinding", "onnxruntime-cudagraph", "pytorch", "onnxruntime-tensorrt"]
compared = lab.compare(rivals)
compared.show("onnxruntime-tensorrt")

# %% [markdown]
# The model alone, its copies left out, against the two bounds:

# %%
bracket.figure(compared.shown("resnet18", "fp16"), 1)

# %% tags=["remove-cell"]
glue_answer("08", bracket, compared, "onnxruntime-tensorrt", reference=("ONNX-TensorRT", "ONNX"))

# %% [markdown]
# These are times on the device, from which waits for launches are left out as far as the whole model can be queued
# ahead. Three things can still put a mark beyond the band: gaps between kernels, kernels that do not fill the GPU, and
# kernels that only change the layout. A CUDA graph shortens the gaps, fused kernels are fewer and larger, and
# convolutions in {term}`NHWC` need fewer changes of the layout. The row of the CUDA provider's graph shows what a graph
# and NHWC are worth together.
#
# (section-08-contribute)=
# ### On readers' machines
#
# If your machine has TensorRT's library, three commands make numbers for this page:
#
# ```bash
# ROWS="onnxruntime-iobinding onnxruntime-cudagraph pytorch onnxruntime-tensorrt"
# python -m inference_lib benchmark --profile full --device cuda --backend $ROWS
# python -m inference_lib benchmark --profile full --device cuda --backend $ROWS --run 2 --rounds-only
# python -m inference_lib contribute onnxruntime-tensorrt.zip
# ```
#
# The second run shows how far the first one holds. The last command checks both and packs them into one file.
# [Reproducing the numbers](../book/reproducing) says where that goes.
#
# {{ machines: onnxruntime-iobinding onnxruntime-cudagraph pytorch onnxruntime-tensorrt }}

# %% [markdown]
# ### What the first edition of this course measured
#
# The project that this course grew from timed this provider on a laptop's GPU, one image at a time. Another card,
# another version and weights of its own: read the ratios, not the numbers. The last column is the FPS over that of its
# PyTorch in the same precision. There, PyTorch was faster in FP16 than in FP32 with none of the networks, and with
# ResNet-18 both PyTorch and ONNX Runtime's CUDA provider were slower. The ratios in FP16 owe something to that.

# %%
tables.show_table(tables.reference_rows("ONNX-TensorRT"), "Quadro T2000, batch 1, ONNX Runtime with TensorRT.")

# %% [markdown]
# ## Why?
#
# ### The start
#
# Whatever time an engine saves later, its build is paid for first. Opening a session with the CUDA provider loads the
# file and chooses kernels; the TensorRT provider builds an engine, and the build tries many of them. What a build takes
# for each model, where one can be made, beside opening the file on the CPU:

# %%
if parses:
    starts = {}
    for model in MODELS:
        graph = onnx_file(model)
        start = time.perf_counter()
        ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        opened = time.perf_counter()
        build_engine(graph, 1)
        starts[model] = (opened - start, time.perf_counter() - opened)
    table = pd.DataFrame(starts, ["open on the CPU, s", f"build with {name}, s"]).T.rename_axis("model").reset_index()
    formats = dict.fromkeys(table.columns[1:], "{:.2f}")
    display(tables.show_table(table, f"FP32, batch 1, {lab.machine_name}.", formats))
else:
    print(nothing_parses)

# %% [markdown]
# TensorRT for RTX only compiles. TensorRT also times candidates on the GPU, which takes as long as they run.
#
# What does a cache save? The same session twice, with an empty folder and with the engine in it:


# %%
def first_answer(folder, **options):
    """Open ResNet-18 in the TensorRT provider and run it once; return the seconds until the answer."""
    cache = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
    start = time.perf_counter()
    session = ort.InferenceSession(onnx_file("resnet18"), providers=[(backend.PROVIDER, cache | options)])
    session.run(None, {INPUT: np.zeros((1, 3, 224, 224), np.float32)})
    return time.perf_counter() - start


if runs:
    folder = Path(scratch.name) / "engines"
    print(f"empty cache:  {first_answer(folder):.2f} s")
    print(f"engine there: {first_answer(folder):.2f} s, {sorted(file.name for file in folder.iterdir())}")
else:
    print("needs TensorRT and a GPU")

# %% [markdown]
# What the second opening saves is the build. The file in the folder is the engine.
#
# ## Knobs
#
# A name that the provider does not know is an error, so a misspelt option does not go unnoticed. These four are worth
# knowing. The first three are turned, each alone, on ResNet-18 at batch 1, compute only, on an FP32 file; the sessions
# take turns.
#
# - `trt_fp16_enable` lets TensorRT use FP16 on an FP32 file.
# - `trt_builder_optimization_level`, 0 to 5, is how hard it searches. The default is 3.
# - `trt_cuda_graph_enable` records the launches, as `enable_cuda_graph` does in the CUDA provider.
# - `trt_timing_cache_enable` shortens the next build and changes nothing else.


# %%
def bound_run(options):
    """Open ResNet-18 with ``options``; return a call that runs it, bound, and the seconds to the first answer."""
    image = ort.OrtValue.ortvalue_from_numpy(np.zeros((1, 3, 224, 224), np.float32), "cuda", 0)
    start = time.perf_counter()
    session = ort.InferenceSession(onnx_file("resnet18"), providers=[(backend.PROVIDER, options)])
    binding = session.io_binding()
    binding.bind_ortvalue_input(INPUT, image)
    binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_shape_and_type([1, 10], np.float32, "cuda", 0))
    session.run_with_iobinding(binding)
    return lambda: session.run_with_iobinding(binding), time.perf_counter() - start


if runs:
    knobs = {"plain": {}, "FP16 allowed": {"trt_fp16_enable": "1"}, "CUDA graph": {"trt_cuda_graph_enable": "1"}}
    knobs |= {"level 0": {"trt_builder_optimization_level": "0"}}
    calls = {option: bound_run(options) for option, options in knobs.items()}
    turned = lab.turns({option: call for option, (call, _) in calls.items()}).table()
    turned["first answer, s"] = [seconds for _, seconds in calls.values()]
    display(tables.show_table(turned, f"FP32 file, batch 1. {lab.machine_name}."))
else:
    print("needs TensorRT and a GPU")

# %% [markdown]
# What an option gains in each run has to be set against its seconds at the start: compare both columns.
#
# ## What goes wrong
#
# ### It seems to hang at the first run
#
# There is no error and no output, and the GPU is busy: an engine is being built, for every new shape once more
# ([onnxruntime#10110](https://github.com/microsoft/onnxruntime/issues/10110)). Set the profiles, so that one engine
# serves every shape that you use and is built when the session opens. Turn the cache on, and fill it before the
# service starts.
#
# An engine in the cache belongs to a GPU and to versions
# ([onnxruntime#15250](https://github.com/microsoft/onnxruntime/issues/15250)). The course writes both into the manifest
# beside the engine, and builds it again when any of them has changed:

# %%
show_source("inference_lib.backends.onnxruntime_tensorrt", "OnnxRuntimeTensorRt.versions")

# %% [markdown]
# None of these may differ between the machine that built an engine and the one that runs it.
#
# ### TensorRT was asked for, something else answers
#
# The library is not found, and the session opens without it
# ([onnxruntime#23372](https://github.com/microsoft/onnxruntime/issues/23372)). On a machine without TensorRT, the
# Python class prints a few lines, which are easily lost among others, and the program goes on. Only the session knows:

# %%
if not runs:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        session = ort.InferenceSession(onnx_file("vanilla_cnn"), providers=[backend.PROVIDER, "CPUExecutionProvider"])
    print("in the log:", *(line for line in printed.getvalue().splitlines() if line.startswith("Falling back")))
    print("available: ", backend.PROVIDER in ort.get_available_providers(), "| in use:", *session.get_providers())
else:
    print("TensorRT works here")

# %% [markdown]
# The course's own function, which looks for the library before it opens the strict session, says instead:

# %%
if not runs:
    try:
        backend.open_session(onnx_file("vanilla_cnn"), {})
    except (CourseError, ImportError) as error:
        print(str(error).strip())
else:
    print("TensorRT works here")

# %% [markdown]
# Even `get_providers()[0]` is not enough here: it says which providers the session may use, and not what runs where.
# It names TensorRT even if a single node of a hundred runs there. Count the nodes, as `placed` does, or forbid the
# rest, as the course does.
#
# ### The wrong TensorRT
#
# A provider is linked with one major version of the library, and the newest on the index may be another. Read the
# number from the provider itself before you install anything.

# %%
print(f"onnxruntime {ort.__version__} needs libnvinfer.so.{backend.linked_tensorrt()}")

# %% [markdown]
# Install that major version, and no newer one.
#
# ### FP32 rows that are TF32
#
# TensorRT multiplies FP32 numbers in {term}`TF32` unless told otherwise, and this provider has no option to tell it
# ([onnxruntime#26029](https://github.com/microsoft/onnxruntime/issues/26029)). The environment variable
# `NVIDIA_TF32_OVERRIDE=0` does, but it is read once for each process. So the course builds each engine in a process of
# its own, and loads the engine only from the cache:

# %%
show_source(backend.environment)

# %% [markdown]
# A variable that is set later in the same process changes nothing, and nothing says so.
#
# ### A dynamic shape without a profile
#
# Without profiles, the engine is made for the shapes seen so far. A larger batch stretches the range and rebuilds it,
# in the middle of the traffic. A cell that shows it:

# %%
if runs:
    session = ort.InferenceSession(onnx_file("vanilla_cnn"), providers=[backend.PROVIDER])
    for size in (1, 1, 4, 4, 1):
        start = time.perf_counter()
        session.run(None, {INPUT: np.zeros((size, 3, 224, 224), np.float32)})
        print(f"batch {size}: {time.perf_counter() - start:.3f} s")
else:
    print("needs TensorRT and a GPU")

# %% [markdown]
# Expect two builds: at the first call, and at the first with four images. A size between the two lies within the range
# then, and needs none.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-08-split
# Rename two activations that are far apart instead of one, the 5th and the 13th of ResNet-18. How many groups does the
# parser report, and how many times does a feature map cross a border? Then rename two neighbours, the 9th and the 10th.
# ```
#
# ````{solution} ex-08-split
# :class: dropdown
# ```python
# def groups_without(*positions):
#     """Return the nodes in each group if these activations are renamed, counted from 1."""
#     changed = onnx.load(onnx_file("resnet18"))
#     relus = [node for node in changed.graph.node if node.op_type == "Relu"]
#     for position in positions:
#         relus[position - 1].op_type = "MyActivation"
#     return ask_parser(changed)[1]
#
#
# if parses:
#     for positions in ((5, 13), (9, 10)):
#         print(positions, "renamed, nodes in each group:", groups_without(*positions))
# else:
#     print(nothing_parses)
# ```
# Every renamed activation is entered once and left once, and each of these is a crossing. Two neighbours leave a small
# group between them; with `trt_min_subgraph_size` larger than that, it goes to the next provider, and two crossings are
# saved.
# ````
#
# ```{exercise}
# :label: ex-08-order
# List the providers the other way round, CUDA first and TensorRT second. How many nodes does each get?
# ```
#
# ````{solution} ex-08-order
# :class: dropdown
# ```python
# other_way = ["CUDAExecutionProvider", backend.PROVIDER] if runs else ["CPUExecutionProvider"]
# print(placed(onnx_file("resnet18"), other_way))
# ```
# Every node goes to the first provider that takes it. The CUDA provider takes all nodes of these models, so nothing is
# left for the second, and nothing says so but the count. (Without TensorRT, the line shows the CPU provider.)
# ````
#
# ```{exercise}
# :label: ex-08-pays
# On the laptop of the reference project, after how many pictures has an engine paid for itself that took 10, 60 or 300
# seconds to build? Compare ONNX Runtime with and without TensorRT, ResNet-18, FP16.
# ```
#
# ````{solution} ex-08-pays
# :class: dropdown
# ```python
# fps = tables.reference_table("resnet18").query("precision == 'FP16'").set_index("framework")["FPS"]
# saved_s = 1 / fps["ONNX"] - 1 / fps["ONNX-TensorRT"]
# for build_s in (10, 60, 300):
#     print(f"a build of {build_s} s pays after {build_s / saved_s:,.0f} pictures")
# ```
# The seconds of the build over the seconds saved with each picture. A busy service gets there soon; a program that
# looks at a folder of pictures and ends may not, unless it finds the engine in the cache.
# ````
#
# ## Key points
#
# - Your program stays as it is: one more provider in the list, engines for what TensorRT's parser takes, the next
#   provider for the rest. Count the groups.
# - The first run builds the engine. Set the profiles, keep the cache, fill it before the service starts.
# - An engine in a cache belongs to a GPU and to versions; keep both beside it.
# - A provider that is available may not be in use, and one that is in use may run a single node. Count the nodes.
# - FP32 means TF32 here unless the environment says otherwise before the process starts.
#
# ## Further reading
#
# The provider's page lists every option {cite}`onnx_runtime_tensorrt`; TensorRT's own documentation
# {cite}`tensorrt`; providers in general are in the [chapter on ONNX Runtime](07_onnx_runtime).
