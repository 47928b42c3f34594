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
# # TorchScript
#
# How do I run my model where its Python code is not?
#
# TorchScript is PyTorch's first answer to that: a file that holds the model as a graph. It is deprecated, and you will
# meet it all the same.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# to trace and to script a model, to see where each goes wrong without a word, and what to use instead
# :::
# :::{grid-item-card} You need
# the chapter on PyTorch; a GPU for some of the experiments
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
# A PyTorch model is a Python program. A service written in C++, a phone, or a machine without your repository cannot
# run it. Since 2018, TorchScript writes the model down as a graph, in a file, and runs that graph with an interpreter
# written in C++ {cite}`torchscript`.
#
# There are two ways to get the graph. *Tracing* runs the model once and writes down the operations it asks for.
# *Scripting* reads the source of the model's methods and compiles it, branches and loops included.
#
# The interpreter calls PyTorch's own kernels. What it adds is that it sees the whole graph before it runs, so it can
# fold one operation into another, fuse several into one, and drop what has no effect.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import contextlib
import io
import logging
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from matplotlib.ticker import LogLocator, NullFormatter

from inference_lib import MODELS, CourseError, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends.shared.cuda import float32_products
from inference_lib.backends.torchscript import MODEL_FILE, constants, load_fused, trace
from inference_lib.records.store import select
from inference_lib.report import glue, plots, show_source, tables, words
from inference_lib.report.bracket import Bracket
from inference_lib.seam import Workload, build

warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)  # shown once, further down
scratch = tempfile.TemporaryDirectory()

lab = open_lab(profile, device, records_dir)
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% tags=["hide-input"]
stages = [
    ["PyTorch\nmodel"],
    ["torch.jit.trace:\nrun it once", "torch.jit.script:\nread its source"],
    ["model.pt:\ncode, weights"],
    ["freeze,\noptimize"],
    ["Python", "C++", "Triton server"],
]
figure, (axes,) = plots.new_figure(height=1.8)
plots.flow(stages, axes)
plots.show_figure(
    figure,
    alt="Flow: a PyTorch model is traced or scripted, saved as model.pt, frozen, and run from Python, C++ or Triton.",
    caption="From a model to a file, and from the file to whoever runs it.",
)

# %% [markdown]
# ## Export
#
# Tracing is one call, and writing the file another. Where the model's Python code looks at the values of a tensor,
# PyTorch warns and goes on; here the warning is made an error.

# %%
example = torch.zeros(1, 3, 224, 224)
with warnings.catch_warnings():
    warnings.simplefilter("error", torch.jit.TracerWarning)
    traced = torch.jit.trace(load_pretrained("vanilla_cnn"), example, check_trace=False)
traced_file = Path(scratch.name) / "vanilla_cnn.pt"
traced.save(str(traced_file))
print(f"{traced_file.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# `check_trace` would trace a second time and compare; the course compares the logits of real pictures instead. A model
# in FP16 is cast before it is traced, because a trace keeps the types it saw. It also [keeps PyTorch's
# settings](#a-trace-keeps-pytorchs-settings) of that moment, so the policy on {term}`TF32` has to be set before.
#
# The example holds one image, and the file runs any number of them: a trace writes down operations, and none of the
# operations in these models was given the size of the batch.
#
# ### A look into the file
#
# The file is a zip archive. The weights are under `data`, and the graph is under `code`, as source text.

# %% tags=["nbval-check-output"]
artifact = build(get_backend("torchscript"), Workload("vanilla_cnn", 1, "fp32", "cpu"))
path = artifact.directory / MODEL_FILE
folders = Counter(name.split("/")[1] for name in zipfile.ZipFile(path).namelist())
print({folder: folders[folder] for folder in ("code", "data")})

# %% [markdown]
# The text looks like Python. It is TorchScript's own language, which has a subset of Python's syntax and types for
# everything. This is the last layer of the network, a `torch.nn.Linear`:

# %% tags=["nbval-check-output"]
stored = torch.jit.load(path)
print(getattr(stored.head, "4").code)

# %% [markdown]
# The weights' types say what the file is, whatever its name says:

# %% tags=["nbval-check-output"]
backend = get_backend("torchscript")
for precision in ("fp32", "fp16"):
    artifact = build(backend, Workload("vanilla_cnn", 1, precision, "cuda"))
    print(f"{precision}: {artifact.size_bytes / 1e6:.1f} MB, stored as {backend.stored_precision(artifact)}")

# %% [markdown]
# The same graph, in half the bytes.
#
# ### Without the model's Python
#
# Does the file need nothing of the model's code? The next cell starts a fresh Python in an empty folder, makes the
# course's library and torchvision impossible to import, and loads a ResNet-18.

# %%
artifact = build(backend, Workload("resnet18", 1, "fp32", "cpu"))
resnet_path = artifact.directory / MODEL_FILE
program = """
import sys
sys.modules["inference_lib"] = sys.modules["torchvision"] = None  # importing them fails from here on
import torch
with torch.inference_mode():
    print(*torch.jit.load(sys.argv[1])(torch.ones(1, 3, 224, 224))[0].tolist())
"""
command = [sys.executable, "-c", program, str(resnet_path)]
answer = subprocess.run(command, cwd=scratch.name, capture_output=True, text=True, check=True).stdout

# %% [markdown]
# Are these the logits of the model in this process?

# %% tags=["nbval-check-output"]
ours = load_pretrained("resnet18")(torch.ones(1, 3, 224, 224))[0]
theirs = torch.tensor([float(logit) for logit in answer.split()])
print("same class:", ours.argmax().item() == theirs.argmax().item())
print("logits agree:", torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3))

# %% [markdown]
# PyTorch itself is still needed, as a Python package or as the C++ library *libtorch*. An exercise loads the same file
# from C++.
#
# ## Two ways to run it
#
# A loaded module still has parameters that somebody could change, so little can be assumed about it. {term}`Freezing`
# makes them constants of the graph. Then a batch normalization can be {term}`folded <folding>` into the convolution
# before it, and dropout can go.

# %% tags=["nbval-check-output"]
loaded = torch.jit.load(traced_file, map_location=lab.device).to(memory_format=torch.channels_last)
frozen = torch.jit.freeze(loaded.eval())
picture = torch.ones(1, 3, 224, 224, device=lab.device)
with torch.inference_mode():
    print("same class:", (frozen(picture).argmax() == loaded(picture).argmax()).item())

# %% [markdown]
# The layout comes before freezing: a frozen module has no parameters left that could be converted. A module frozen like
# this is the row called *TorchScript*. On a GPU it works on buffers with fixed addresses, on a stream of its own.
#
# The second way fuses more, then records the launches in a {term}`CUDA graph`, with the lines of the [chapter on
# PyTorch](04_pytorch):

# %%
show_source("inference_lib.backends.torchscript", "load_fused")

# %% [markdown]
# `optimize_for_inference` fuses, and the loop after it changes the layout of the filters inside the graph.
# TorchScript's executor watches the first run of a module and rewrites its graph before the second. None of that may
# happen while a CUDA graph is recorded, so the module runs a few times first.
#
# ## Is it still the same model?
#
# The logits of both are compared with those of the FP32 eager model before anything is timed:

# %%
backends = ["torchscript", "torchscript-cudagraph"]
records = lab.benchmark(backends)
tables.show_table(tables.agreement(records), f"Agreement with the FP32 eager model. {plots.provenance(records)}")

# %% [markdown]
# Where rows of one model were checked on different numbers of pictures (last column), compare their agreement and not
# their accuracy: a thousand pictures need not be as hard as all of them.
#
# In one line for each model:

# %% tags=["nbval-check-output"]
for model in MODELS:
    print(f"{model}: {words.verdict(records, model)}")

# %% [markdown]
# The batch norms of an FP16 file can be folded in two ways. Freezing computes in FP16: it rounds the scales of the
# batch norms, then their products with the filters. PyTorch's CUDA graph folds in FP32 and rounds the products alone.
# Does the additional rounding show in the logits?

# %% tags=["remove-cell"]
compared = lab.compare(["pytorch", "pytorch-cudagraph", *backends])


def difference(rival):
    """Return the largest difference of a rival's FP16 logits on ResNet-18, None where there is none."""
    found = compared.by_rival("resnet18", "fp16")[rival]
    return found[0].accuracy.largest_difference if found and found[0].accuracy else None


once, twice = difference("pytorch-cudagraph"), difference("torchscript")
if once is None or twice is None:
    rounding = "It takes FP16 rows of both to say, and they are not measured yet"
else:
    seen = "so it shows" if twice > 1.1 * once else "so it does not show"
    rounding = f"On ResNet-18 the largest difference is {twice:.1e} rounded twice, {once:.1e} rounded once, {seen}"
glue("05-rounding", rounding)

# %% [markdown]
# {glue:text}`05-rounding`.
#
# ## How fast can it be?
#
# The bounds come first, made as in the [chapter on PyTorch](04_pytorch): from below, a program that fuses everything;
# from above, operations that run one by one, at the ceilings.

# %%
limits = lab.gpu_ceilings()  # None where neither this machine nor the published edition has a GPU
bracket = Bracket("resnet18", "fp16", limits)
if limits:
    least, most = bracket.ends_ms(1)
    print(f"{limits.machine}, ResNet-18, one picture in FP16: from {least:.3f} to {most:.3f} ms")
else:
    print("needs the ceilings of a GPU")

# %% [markdown]
# ```{admonition} Guess
# :class: tip
# TorchScript runs the operations one by one; its CUDA graph launches all at once, and has fewer, fused ones. How far
# above the lower bound is each on the device?
# ```
#
# :::{dropdown} The answer
# {glue:text}`05-gap`.
# :::
#
# ## How fast is it?
#
# The rows of the [chapter on PyTorch](04_pytorch) stand beside those of this chapter, where they were measured.

# %%
compared.table()

# %% [markdown]
# :::{dropdown} On readers' machines
# {{ machines: pytorch pytorch-cudagraph torchscript torchscript-cudagraph }}
# :::

# %% [markdown]
# ### Every inference
#
# The share of inferences that took no longer than the time below them:

# %%
compared.latencies("resnet18", "fp16")

# %% tags=["remove-cell"]
largest = max((r.batch_size for r in select(compared.shown("resnet18", "fp16"), precision="fp16")), default=1)
sizes = (1, largest) if largest > 1 else (1,)
cell = compared.by_rival("resnet18", "fp16")
glue("05-graph", compared.verdict("torchscript-cudagraph", batch_sizes=sizes))
glue("05-script", words.times_faster(cell["pytorch"], cell["torchscript"]))
glue("05-gap", f"{bracket.gap([record for rival in backends for record in cell[rival]])}, on the device")

# %% [markdown]
# {glue:text}`05-graph`. TorchScript without a graph, at batch 1 in FP16, compared with the eager loop, is
# {glue:text}`05-script`.
#
# The time on the device is read from {term}`CUDA events <CUDA event>` around the model. The device has other work to
# do until all of the launches are queued, so launching is not in it (but for a round in which the host was held up),
# and what it has above the bounds is a matter of kernels and of the gaps between them. The kernels of one picture are
# small, and may leave many of a large GPU's {term}`multiprocessors <multiprocessor>` with nothing to do.
#
# ### Where the milliseconds are
#
# Copy in, model, copy out, each timed on the device; the mark is the end-to-end latency.

# %%
compared.parts("resnet18", "fp16")

# %% [markdown]
# ### Larger batches
#
# With a batch, launching counts for less, and the kernels have more to do:

# %%
compared.batches("resnet18", "fp16")

# %% [markdown]
# ## Why?
#
# ### The graph, before and after
#
# Every pass rewrites the graph, and the graph can be read. Constants, attributes and lists are bookkeeping; the rest
# are the operations that run. (A name that ends with an underscore, `relu_`, writes its result over its input.)


# %%
def count_operations(module):
    """Count the operations of a module's graph by name."""
    bookkeeping = ("Constant", "ConstantMKLDNNTensor", "GetAttr", "ListConstruct")
    names = [node.kind().split("::")[1] for node in module.inlined_graph.nodes()]
    return Counter(name for name in names if name not in bookkeeping)


def load(path=resnet_path):
    """Return a stored module on the lab's device, ready to be frozen."""
    return torch.jit.load(path, map_location=lab.device).eval()


# %% [markdown]
# A column for each stage of the graph:

# %%
frozen = torch.jit.freeze(load())
optimized = torch.jit.optimize_for_inference(load())
stages = {"as traced": load(), "frozen": frozen, "optimized for inference": optimized}
counts = pd.DataFrame({stage: count_operations(module) for stage, module in stages.items()}).fillna(0).astype(int)
counts.loc["all operations"] = counts.sum()
tables.show_table(counts.rename_axis("operation").reset_index(), f"ResNet-18, FP32, {lab.machine_name}.")

# %% [markdown]
# What changed from one column to the next:

# %%
before, after, last = (counts[stage] for stage in counts)
changed = [name for name in counts.index[before != after] if name != "all operations"]
print("changed by freezing:", ", ".join(f"{name} ({before[name]} to {after[name]})" for name in changed))
print("new when optimized: ", ", ".join(f"{name} ({last[name]})" for name in counts.index[(after == 0) & (last > 0)]))

if changed != ["batch_norm"] or after["batch_norm"]:
    raise CourseError("freezing no longer folds all batch norms and nothing else; the text below says that it does")

# %% [markdown]
# `freeze` folded every `batch_norm` into the convolution before it. It changed nothing else here: an addition is still
# an operation, and so is a ReLU.
#
# `optimize_for_inference` goes on with what suits the device. On a GPU it merges a convolution, the addition of a
# shortcut and the ReLU into one call of {term}`cuDNN`, `cudnn_convolution_add_relu`. Convolutions that it fuses with
# nothing become `conv2d`, and the linear layer becomes a product and an addition. On a CPU it hands the convolutions
# to {term}`oneDNN`, whose own layout the feature maps keep from `to_mkldnn` to `to_dense`.
#
# A call of eager PyTorch pays Python and the {term}`dispatcher` for every operation. TorchScript's interpreter needs no
# Python, but still the dispatcher, and a CUDA graph needs neither. What that is worth depends on how long the kernels
# take; the options below are measured one by one.
#
# ### The first calls
#
# The *profiling executor* runs a new module once with probes in it, which write down the shapes and types they see.
# Before the second run it specializes the graph for them, and that is what runs from then on.


# %%
def first_calls(module, calls=8):
    """Return the milliseconds of each of the first calls."""
    milliseconds = []
    for _ in range(calls):
        start = time.perf_counter()
        module(images)
        if lab.device == "cuda":
            torch.cuda.synchronize()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return milliseconds


# %% [markdown]
# Three fresh modules, after the eager model has run, so that what PyTorch's libraries do once is done. What the
# executor itself does once a process, the first of them pays for. `optimized_execution(False)` takes the executor's
# passes away.

# %%
images = torch.zeros(1, 3, 224, 224, device=lab.device)
eager = load_pretrained("resnet18").to(lab.device)
with torch.inference_mode():
    first_calls(eager)
    series = {"as traced": first_calls(load()), "frozen": first_calls(torch.jit.freeze(load()))}
    ready = torch.jit.freeze(load())
    with torch.jit.optimized_execution(False):
        series["frozen, executor's passes off"] = first_calls(ready)

# %% [markdown]
# The first eight calls of each:

# %%
figure, (axes,) = plots.new_figure(height=2.8)
looks = [("#E69F00", "o"), ("#E69F00", "s"), ("#8A8F98", "D")]
for (name, milliseconds), dash, (color, marker) in zip(series.items(), ["-", "--", ":"], looks, strict=True):
    axes.plot(range(1, 9), milliseconds, dash, color=color, marker=marker, markersize=5, label=name)
axes.set(xlabel="call", ylabel="ms", yscale="log")
axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
axes.yaxis.set_major_formatter("{x:,.4g}")
axes.yaxis.set_minor_formatter(NullFormatter())
axes.legend()
plots.show_figure(
    figure,
    alt="Milliseconds of each of the first calls of three fresh modules.",
    caption=f"ResNet-18, FP32, batch 1: the first calls of a fresh module. {lab.machine_name}.",
)

# %% [markdown]
# In numbers:

# %%
for name, milliseconds in series.items():
    later = median(milliseconds[2:])
    print(f"{name}: {milliseconds[0]:.1f} ms, then {milliseconds[1]:.1f}, later {later:.1f} (median)")

# %% [markdown]
# People meet slow first calls as "the first requests time out"
# ([pytorch#30902](https://github.com/pytorch/pytorch/issues/30902),
# [pytorch#33354](https://github.com/pytorch/pytorch/issues/33354)). The remedy is to call the module a few times,
# with the shapes that will come, before a service says that it is ready.
#
# ## Knobs
#
# Each is one line, measured on ResNet-18 and MobileNetV2 at batch 1, compute only. The modules take turns.

# %%
layout = torch.channels_last
last = images.contiguous(memory_format=layout)


def variants(model):
    """Return a module for each option, and the images it is to be given."""
    stored = build(backend, Workload(model, 1, "fp32", lab.device))
    path = stored.directory / MODEL_FILE
    scripted = torch.jit.script(load_pretrained(model).to(lab.device))
    modules = {
        "eager PyTorch": (load_pretrained(model).to(lab.device), images),
        "traced": (load(path), images),
        "frozen": (torch.jit.freeze(load(path)), images),
        "scripted, frozen": (torch.jit.freeze(scripted), images),
        "frozen, channels-last": (torch.jit.freeze(load(path).to(memory_format=layout)), last),
        "optimized for inference": (torch.jit.optimize_for_inference(load(path)), images),
    }
    if lab.device == "cuda":
        modules["optimized, then channels-last"] = (load_fused(stored), last)
    return modules


# %% [markdown]
# Two options are settings of the executor instead of the module. The first turns its passes off. The second chooses
# what fuses: on a GPU, nothing instead of PyTorch's own fuser; on a CPU, where nothing does by default, oneDNN.

# %%
other_fuser_name = "no fuser" if lab.device == "cuda" else "oneDNN's fuser"


@contextlib.contextmanager
def other_fuser():
    """Change what fuses, for a while."""
    if lab.device == "cuda":
        torch._C._jit_set_texpr_fuser_enabled(False)  # PyTorch has no public switch for it
    else:
        torch.jit.enable_onednn_fusion(True)
    try:
        yield
    finally:
        torch._C._jit_set_texpr_fuser_enabled(True)
        torch.jit.enable_onednn_fusion(False)


# %% [markdown]
# With these, every option is timed on both models:


# %% tags=["nbval-skip"]
def time_options(model):
    """Let the options take turns; a fuser matters in the first calls alone, in which a module is rewritten."""
    path = build(backend, Workload(model, 1, "fp32", lab.device)).directory / MODEL_FILE
    fresh, other = torch.jit.freeze(load(path)), torch.jit.freeze(load(path))
    calls = {name: lambda m=m, x=x: m(x) for name, (m, x) in variants(model).items()}

    def without_passes():
        with torch.jit.optimized_execution(False):
            fresh(images)

    with torch.inference_mode():
        with other_fuser():
            for _ in range(3):
                other(images)
        calls["frozen, executor's passes off"] = without_passes
        calls[f"frozen, {other_fuser_name}"] = lambda: other(images)
        return lab.turns(calls)


turns = {model: time_options(model) for model in ("resnet18", "mobilenet_v2")}

# %% [markdown]
# Each option's time, and its effect against the frozen module:

# %% tags=["nbval-skip"]
columns = {"": list(turns["resnet18"].rounds)}
for model, found in turns.items():
    columns[f"{model}, ms"] = [found.ms(name) for name in columns[""]]
    columns[f"{model}, effect"] = ["-" if n == "frozen" else found.effect(n, "frozen") for n in columns[""]]
caption = f"One option at a time, FP32, batch 1, compute only; effects are against frozen. {lab.machine_name}."
tables.show_table(pd.DataFrame(columns), caption)

# %% [markdown]
# Where the effect is *none*, it is lost in the noise. All of it holds for this process; another start may place memory
# otherwise.
#
# *Traced or scripted.* Once frozen, the two hold the same convolutions. Scripting also keeps the checks and branches of
# the Python source, and the interpreter walks through them at every call; the row says whether that can be measured.
#
# *Channels-last.* On a GPU it need not pay in FP32: the tensor cores that read it do not compute in FP32, and other
# kernels may want the usual layout back; the [chapter on PyTorch](04_pytorch) counts the conversions. It has to be
# chosen before freezing, and it is at odds with the fusion there: the pass takes filters that are contiguous in the
# usual layout, and leaves all others alone. The fusion has to come first. Count the nodes and see:

# %%
if lab.device == "cuda":
    before = torch.jit.optimize_for_inference(load().to(memory_format=layout))
    after = load_fused(build(backend, Workload("resnet18", 1, "fp32", "cuda")))
    for order, module in (("layout, then fusion", before), ("fusion, then layout", after)):
        fused = {name: count for name, count in count_operations(module).items() if name.startswith("cudnn")}
        print(f"{order}: {fused or 'nothing fused'}")
        if bool(fused) != (order == "fusion, then layout"):
            raise CourseError("the order of layout and fusion no longer decides what is fused; the text says so")
else:
    print("needs a GPU")

# %% [markdown]
# *The fuser.* On a GPU, PyTorch's own fuser compiles one kernel for a chain of element-wise operations, a
# `TensorExprGroup`. In a ResNet, the addition of a shortcut and the ReLU after it are such a chain. The graph that was
# executed last tells what became of it. Two small functions beside it make the same chain, one with new tensors, one
# with operations that write over their input, as torchvision's ResNet does:


# %%
def new_tensors(x, y):
    """Add and rectify."""
    return torch.relu(x + y)


def in_place(x, y):
    """Add and rectify, over what the pooling returned."""
    return torch.max_pool2d(x, 1).add_(y).relu_()


def groups(call, *inputs):
    """Count the groups that the fuser made of a traced function or module."""
    with torch.inference_mode():
        for _ in range(3):
            call(*inputs)
    return len(torch.jit.last_executed_optimized_graph().findAllNodes("prim::TensorExprGroup"))


pair = (torch.ones(1, 1, 8, 8, device=lab.device), torch.ones(1, 1, 8, 8, device=lab.device))
fused = {call.__name__: groups(torch.jit.trace(call, pair), *pair) for call in (new_tensors, in_place)}
fused["ResNet-18"] = groups(frozen, images)
print(*(f"groups in {name}: {count}" for name, count in fused.items()), sep="\n")
if fused["in_place"] or fused["ResNet-18"]:
    raise CourseError("the fuser now takes operations in place; the text below says that it does not")

# %% [markdown]
# The fuser leaves operations alone that write over their input, so it finds nothing in a ResNet, whose additions and
# ReLUs do. Expect no groups in MobileNetV2 either, which is not counted here: its ReLU6s write over their input, and
# between any two of its additions there are convolutions. Where a module has no groups, an effect of the row *no fuser*
# is not the fusing's.
#
# On a CPU the fuser makes no groups at all: PyTorch's packages come without the compiler that it needs there. oneDNN's
# fuser, which has to be turned on, takes whole pieces of the graph instead, convolutions included.
#
# ## What goes wrong
#
# Everything in this section runs without an error, except where one is printed.
#
# ### A trace takes one branch for good
#
# Python decides at the branch; the trace never sees the decision, only the operations that followed
# ([pytorch#21774](https://github.com/pytorch/pytorch/issues/21774)).


# %% tags=["nbval-check-output"]
class Brighten(torch.nn.Module):
    """Turn a dark image into its negative."""

    def forward(self, image):
        if image.mean() < 0:
            return -image
        return image


bright, dark = torch.full((1, 3), 1.0), torch.full((1, 3), -1.0)
with warnings.catch_warnings(record=True) as caught:
    traced = torch.jit.trace(Brighten(), bright)
print("Python:", Brighten()(dark).tolist())
print("traced:", traced(dark).tolist())

# %% [markdown]
# There was a warning, one among the many of an export:

# %% tags=["nbval-check-output"]
print(next(str(w.message) for w in caught if w.category is torch.jit.TracerWarning).split(". ")[0])

# %% [markdown]
# Make it an error, as the course's own function does:

# %% tags=["nbval-check-output", "remove-stderr"]
try:
    trace(Brighten(), Workload("vanilla_cnn", 1))
except CourseError as error:
    print(error)

# %% [markdown]
# A model with such a branch has to be scripted. The branch is in the code then:

# %% tags=["nbval-check-output"]
scripted = torch.jit.script(Brighten())
print("scripted:", scripted(dark).tolist())
print(scripted.code)

# %% [markdown]
# Both branches are in the file.
#
# ### A trace repeats a loop as often as the example did
#
# The same mistake with sizes: a loop over the frames of a clip becomes as many copies of its body as the example had
# frames ([pytorch#58225](https://github.com/pytorch/pytorch/issues/58225)).


# %% tags=["nbval-check-output"]
def brightest(frames):
    """Return the mean of the brightest frame."""
    best = frames[0].mean()
    for i in range(frames.shape[0]):
        best = torch.maximum(best, frames[i].mean())
    return best


clip = torch.arange(5.0)[:, None]  # five frames, the last one is the brightest
with warnings.catch_warnings(record=True):
    traced = torch.jit.trace(brightest, clip[:2])
print("Python:", brightest(clip).item())
print("traced with two frames:", traced(clip).item())
print("scripted:", torch.jit.script(brightest)(clip).item())

# %% [markdown]
# The script's loop runs as often as the clip is long.
#
# ### A script takes every argument for a tensor
#
# Scripting has its price: TorchScript needs a type for everything, and takes what is not annotated for a tensor
# ([pytorch#37200](https://github.com/pytorch/pytorch/issues/37200)). The function compiles; the call fails.


# %% tags=["nbval-check-output"]
def scale(images, factor):
    """Multiply by a number."""
    return images * factor


try:
    torch.jit.script(scale)(torch.ones(2), 0.5)
except RuntimeError as error:
    print(*str(error).splitlines()[:2], sep="\n")


# %% [markdown]
# The mend is one annotation:


# %% tags=["nbval-check-output"]
def scale(images, factor: float):
    """Multiply by a number, and say that it is one."""
    return images * factor


print(torch.jit.script(scale)(torch.ones(2), 0.5).tolist())

# %% [markdown]
# So annotate whatever is no tensor.
#
# ### A trace keeps PyTorch's settings
#
# A traced convolution carries the settings of the process that traced it as arguments: whether cuDNN may search for
# kernels, must be deterministic, may use TF32 ([pytorch#18776](https://github.com/pytorch/pytorch/issues/18776)).
# Changing a setting later does nothing.

# %% tags=["nbval-check-output"]
for precision in ("fp32", "tf32"):
    with float32_products(precision):
        traced = torch.jit.trace(load_pretrained("vanilla_cnn"), torch.zeros(1, 3, 224, 224), check_trace=False)
    convolution = next(node for node in traced.inlined_graph.nodes() if node.kind() == "aten::_convolution")
    print(f"traced under {precision}: allow_tf32 =", list(convolution.inputs())[-1].toIValue())

# %% [markdown]
# PyTorch's default allows TF32 in convolutions, so an ordinary trace uses it for ever, on every machine that has it.
# The course keeps one file for each policy. Here both run under the same setting, IEEE:

# %%
if lab.device == "cuda":
    noise = torch.randn(1, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        expected = eager(noise)
        for precision in ("fp32", "tf32"):
            path = build(backend, Workload("resnet18", 1, precision, "cuda")).directory / MODEL_FILE
            difference = (load(path)(noise) - expected).abs().max() / expected.abs().max()
            print(f"traced under {precision}: largest difference {difference.item():.1e}")
else:
    print("needs a GPU")

# %% [markdown]
# ### A trace keeps its mode
#
# The same holds for `train()` and `eval()` ([pytorch#71929](https://github.com/pytorch/pytorch/issues/71929)). A
# model that was traced in training mode goes on dropping activations at random, and `eval()` on the trace does not
# stop it.

# %% tags=["nbval-check-output"]
example = torch.ones(1, 3, 224, 224)  # not a picture, and the same at every call
for mode in (True, False):
    network = load_pretrained("vanilla_cnn").train(mode)
    traced = torch.jit.trace(network, example, check_trace=False).eval()
    same = torch.equal(traced(example), traced(example))
    print(f"traced with train({mode}): two calls with the same image agree: {same}")

# %% [markdown]
# So call `eval()` before you trace.
#
# ### A trace keeps the device
#
# Whatever the model creates on the way is created where it was created during the trace
# ([pytorch#62961](https://github.com/pytorch/pytorch/issues/62961)). `map_location` moves weights; it does not touch
# this. Look for `torch.device` in the code:


# %% tags=["nbval-check-output"]
def add_positions(x):
    """Add to each element its position."""
    return x + torch.arange(x.shape[1], device=x.device)


print(torch.jit.trace(add_positions, torch.zeros(1, 3)).code)
print(torch.jit.script(add_positions).code)

# %% [markdown]
# The traced one names the CPU, the scripted one asks `x`. The course's models create nothing on the way, and a test
# makes sure that their traces name no device, so one file serves CPU and GPU.
#
# ### A frozen module cannot be moved
#
# Freezing turns parameters into constants, so there is nothing left that `.half()`, `.cuda()` or `.to()` could change.
# They return without a word ([pytorch#48437](https://github.com/pytorch/pytorch/issues/48437)).

# %% tags=["nbval-check-output"]
halved = torch.jit.freeze(load()).half()
print("parameters:", len(list(halved.parameters())))
print("filters:", *{filters.dtype for filters in constants(halved) if filters.dim() == 4})

# %% [markdown]
# Choose the device with `map_location`, the type before tracing, and the layout before freezing.
#
# ### What was optimized cannot be stored
#
# `optimize_for_inference` is for the machine it runs on. Saving its result succeeds, and loading it fails, perhaps
# weeks later and elsewhere ([pytorch#69608](https://github.com/pytorch/pytorch/issues/69608)).

# %% tags=["nbval-check-output"]
saved = Path(scratch.name) / "optimized.pt"
torch.jit.optimize_for_inference(torch.jit.load(resnet_path, map_location="cpu").eval()).save(str(saved))
print("saved")
try:
    torch.jit.load(saved)
except RuntimeError as error:
    print(str(error).splitlines()[0])

# %% [markdown]
# Store the trace, and optimize after loading.
#
# ## Why it is legacy, and what to use instead
#
# PyTorch deprecated TorchScript in favour of `torch.export` with version 2.10 {cite}`pytorch_2_11`. Each function says
# so, and Python's default filters keep the message from you: they show a `DeprecationWarning` only where the main
# program itself raises it. Asked to show everything:

# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.jit.script(scale)
print(caught[0].message)

# %% [markdown]
# The list above shows what is wrong with both ways. A wrong trace gives a warning at best; a script needs a model
# written for it. [`torch.export`](https://docs.pytorch.org/docs/stable/export.html) traces too, but refuses where a
# branch depends on a tensor's values:

# %% tags=["nbval-check-output"]
logging.disable(logging.WARNING)
with contextlib.redirect_stderr(io.StringIO()):  # it prints the graph up to the branch
    try:
        torch.export.export(Brighten(), (bright,))
    except Exception as error:
        print(type(error).__name__)
logging.disable(logging.NOTSET)

# %% [markdown]
# What to use now:
#
# - *Python stays*: [`torch.compile`](06_torch_compile). There is no file; the model is compiled when it first runs.
# - *C++ without Python*: `torch.export`, then [AOTInductor](06_torch_compile), which compiles the exported graph to a
#   library.
# - *Another runtime*: ONNX, as in the [chapter on ONNX Runtime](07_onnx_runtime). Its exporter is built on
#   `torch.export`.
# - *A phone*: [ExecuTorch](https://docs.pytorch.org/executorch/stable/index.html), which starts from `torch.export`.
#
# Where you will still meet TorchScript:
#
# - *C++ services* that link libtorch. A file keeps working as long as the library can read it, and nobody rewrites
#   what works.
# - *Triton Inference Server*: its PyTorch backend runs `model.pt` files made by TorchScript {cite}`triton_pytorch`.
# - *Mobile apps* from before ExecuTorch, on PyTorch's Lite Interpreter.
# - *Old model zoos*, whose checkpoints are TorchScript because that was how to ship architecture and weights together.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-05-cpp
# Load the stored ResNet-18 from C++. All you need came with PyTorch: headers and libraries lie in the folder that
# `torch.__path__[0]` names. Which logits does it have to print?
# ```
#
# ````{solution} ex-05-cpp
# :class: dropdown
# The program, `classify.cpp`:
#
# ```cpp
# #include <torch/script.h>
# #include <iostream>
#
# int main(int, char** argv) {
#   torch::InferenceMode guard;
#   auto model = torch::jit::freeze(torch::jit::load(argv[1]));
#   std::cout << model.forward({torch::ones({1, 3, 224, 224})}).toTensor() << std::endl;
# }
# ```
#
# Compiling it takes a while: the headers are large.
#
# ```bash
# TORCH=$(python -c "import torch; print(torch.__path__[0])")
# g++ -std=c++17 classify.cpp -o classify -I$TORCH/include -I$TORCH/include/torch/csrc/api/include \
#     -L$TORCH/lib -Wl,-rpath,$TORCH/lib -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10
# ./classify model.pt
# ```
#
# The logits are those of Python, and these are they, with the file to give to the program:
#
# ```python
# print(resnet_path.relative_to(Path.cwd()) if resnet_path.is_relative_to(Path.cwd()) else resnet_path.name)
# with torch.inference_mode():
#     print(torch.jit.load(resnet_path, map_location="cpu")(torch.ones(1, 3, 224, 224)))
# ```
# ````
#
# ```{exercise}
# :label: ex-05-mobilenet
# On a GPU, `optimize_for_inference` fuses nothing in `mobilenet_v2`. Load its file, count its operations before and
# after, and say why.
# ```
#
# ````{solution} ex-05-mobilenet
# :class: dropdown
# ```python
# mobile = build(backend, Workload("mobilenet_v2", 1, "fp32", lab.device)).directory / MODEL_FILE
# for name, module in {"frozen": torch.jit.freeze(load(mobile)),
#                      "optimized": torch.jit.optimize_for_inference(load(mobile))}.items():
#     print(name, dict(count_operations(module)))
# ```
# Its activation is a ReLU6, which is a `hardtanh_` between zero and six in the graph. On a GPU, the pass looks for a
# convolution that is followed by `relu` or `relu_`, with or without an addition in between, and for nothing else. Its
# shortcuts are added without a ReLU.
# ````
#
# ```{exercise}
# :label: ex-05-cond
# Rewrite `Brighten` so that `torch.export.export` accepts it, with `torch.cond`. Is the exported program right for both
# images?
# ```
#
# ````{solution} ex-05-cond
# :class: dropdown
# ```python
# class Brighten(torch.nn.Module):
#     def forward(self, image):
#         return torch.cond(image.mean() < 0, lambda x: -x, lambda x: x.clone(), (image,))
#
# exported = torch.export.export(Brighten(), (bright,)).module()
# print(exported(bright), exported(dark))
# ```
# It is: both branches are in the exported program, and the choice is made when it runs. The clone is there because a
# branch may not return its argument itself.
# ````
#
# ```{exercise}
# :label: ex-05-loop
# A trace holds a copy of a loop's body for every turn of the example's loop. How many operations does the trace of
# `brightest` have for a clip of 2 frames, of 20, and how many does the script have?
# ```
#
# ````{solution} ex-05-loop
# :class: dropdown
# ```python
# for frames in (2, 20):
#     with warnings.catch_warnings(record=True):
#         trace_of_loop = torch.jit.trace(brightest, torch.zeros(frames, 1))
#     print(f"traced with {frames} frames: {len(trace_of_loop.graph.findAllNodes('aten::mean'))} means")
# print(f"scripted: {len(torch.jit.script(brightest).graph.findAllNodes('aten::mean'))} means")
# ```
# The trace grows with the example. The script holds the mean of the first frame and one in the body of its loop,
# whatever it is called with.
# ````
#
# ## Key points
#
# - Tracing runs the model once: branches, loop counts, settings, mode and devices of that run are in the file.
# - Scripting keeps branches and loops, and asks for types.
# - Freeze after loading, with device, type and layout chosen before. What `optimize_for_inference` returns stays on
#   this machine.
# - The first calls are not like the others: warm up before you serve, and before you measure.
# - The file runs where the model's Python is not. For new work, use `torch.export`: it refuses a branch on a tensor's
#   values, where a trace keeps one side of it.
#
# ## Further reading
#
# The documentation of TorchScript {cite}`torchscript` and of
# [`torch.export`](https://docs.pytorch.org/docs/stable/export.html); CUDA graphs in PyTorch
# {cite}`pytorch_cuda_graphs`.
