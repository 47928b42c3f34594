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
# # torch.compile and AOTInductor
#
# One line, `torch.compile(model)`, is said to make my model faster: what does it do, what does it cost, and can I ship
# the result?
#
# PyTorch's compiler reads your Python and writes kernels for your model; you pay in seconds, at a moment that you
# choose, and can ship a file that needs none of your code.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# what one call of `torch.compile` does, when it is paid for, and how to ship the result without the model's code
# :::
# :::{grid-item-card} You need
# the chapter on PyTorch, and a C++ compiler; a GPU for half of the experiments
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
# A {term}`CUDA graph` makes launching cheap, and leaves the kernels as they are. Between two kernels, a feature map is
# written to memory and read back. A bias, a ReLU and a shortcut, each a kernel of its own, are three such trips for a
# few additions.
#
# A kernel that does all of it makes one trip. Nobody can write such a kernel for every model by hand, so a compiler
# does {cite}`pytorch2`:
#
# - {term}`Dynamo` follows your Python function and records the tensor operations that it calls, as a graph.
# - {term}`Inductor` splits the operations into simple ones, decides which of them go into one kernel, and writes the
#   kernels: in {term}`Triton` for a GPU, in C++ for a CPU. Convolutions and matrix products are left to libraries such
#   as {term}`cuDNN`.
#
# With `torch.compile` this happens while your program runs, at the first call, and what was compiled is kept in a
# folder, the *cache*. With `torch.export` and AOTInductor it happens ahead of time, and the outcome is a file.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from torch._dynamo.utils import counters

from inference_lib import MODELS, CourseError, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends.shared.buffers import CudaFunctionRunner
from inference_lib.backends.shared.graphs import GraphedRunner
from inference_lib.backends.torch_compile import (
    RECIPES,
    Recipe,
    believing_the_processor,
    compiled,
    compiling,
    cuda_home,
    example,
    prepare,
    quiet,
)
from inference_lib.measure.operations import timeline
from inference_lib.records.comparison import compare
from inference_lib.records.store import select
from inference_lib.report import glue, plots, show_source, tables, words
from inference_lib.report.bracket import Bracket
from inference_lib.report.choose import break_even, seconds_to_first_answer
from inference_lib.seam import Workload

scratch = tempfile.TemporaryDirectory()

lab = open_lab(profile, device, records_dir)
print(f"{lab.machine_name}, profile {lab.profile.name}")

library = get_backend("aot-inductor")
available = library.availability(lab.device)
missing = "" if available.usable else f"{available.reason}; {available.remedy}"
compiles, on_gpu = not missing, not missing and lab.device == "cuda"
print(missing or "everything that compiles runs here")

# %% tags=["hide-input"]
stages = [
    ["Python\nfunction"],
    ["Dynamo,\nat the first call", "torch.export,\nahead of time"],
    ["graph of\noperations"],
    ["Inductor"],
    ["kernels in\na cache", "model.pt2"],
]
figure, (axes,) = plots.new_figure(height=1.8)
plots.flow(stages, axes)
plots.show_figure(
    figure,
    alt="Flow: a Python function, Dynamo or torch.export, a graph, Inductor, kernels in a cache or a file.",
    caption="Two ways to the graph, one compiler, two outcomes.",
)

# %% [markdown]
# ## Export
#
# ### At run time: `torch.compile`
#
# `torch.compile` writes no model file: it compiles in the process that will run the model. (`compiling()` is the
# course's: it gives the compiler an empty cache and keeps its hints out of the page.)

# %%
images = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
tensor = torch.from_numpy(images).to(lab.device)
small = load_pretrained("vanilla_cnn").to(lab.device)

# %% [markdown]
# Calling `torch.compile` is the whole interface. Watch what the first call costs:

# %% tags=["nbval-skip"]
if compiles:
    call = torch.compile(small, fullgraph=True, dynamic=False)
    with torch.inference_mode(), torch._inductor.config.patch(freezing=True), compiling():
        for number in ("first", "second"):
            start = time.perf_counter()
            call(tensor).cpu()
            print(f"{number} call: {(time.perf_counter() - start) * 1e3:,.1f} ms")
else:
    print(missing)

# %% [markdown]
# `torch.compile` itself does nothing yet. The first call compiles, and what it compiles depends on what it is given:
# the shape and the type of the batch, and whether gradients are wanted.
#
# `fullgraph=True` makes it an error if a part of the function cannot be recorded; otherwise that part would run as
# plain Python. `dynamic=False` compiles for this batch size and no other. `freezing` makes constants of the weights;
# more of it below.
#
# The course prepares a model before it compiles it, so that the whole way from the image to the logits is compiled.
# Casting and the change to {term}`channels-last` are part of it, for Inductor to make one kernel of.

# %%
show_source(prepare)

# %% [markdown]
# What the recipe asks for depends on the device; the section on knobs measures why. On a GPU, the compiled function is
# then captured in a CUDA graph, with the same lines as the eager model.
#
# What was compiled can be kept, though: Inductor looks into its cache before it compiles, and the folder can be moved
# like any other. So the course's artifact is the weights file of the [chapter on PyTorch](04_pytorch) and a cache that
# was filled by compiling once. Loading makes the same call again (`compiled` is the call above, with a check):

# %%
show_source("inference_lib.backends.torch_compile", "TorchCompile._compile")

# %% [markdown]
# Loading follows the Python function anew and finds the rest in the cache: on a GPU the whole program, on a CPU every
# compiled library. The program that calls those is not there, because it holds weights in a layout of {term}`oneDNN`'s
# that PyTorch does not store. How long a start with a filled cache takes is measured [below](#cold-and-warm).
#
# ### Ahead of time: AOTInductor
#
# `torch.export` records the model as a graph with its weights, and needs your Python no longer. AOTInductor compiles
# that graph, together with C++ code that calls the kernels, to a shared library {cite}`aotinductor`. Library and
# weights are packed into one `.pt2` file.

# %%
package = Path(scratch.name) / "model.pt2"
if compiles:
    if on_gpu:
        torch.utils.cpp_extension.CUDA_HOME = str(cuda_home())  # where CUDA's headers are, if pip installed them
    with torch.no_grad(), compiling():
        exported = torch.export.export(small, (tensor,))
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(package), inductor_configs={"freezing": True}
        )
    print(f"{package.stat().st_size / 1e6:.1f} MB")
else:
    print(missing)

# %% [markdown]
# One line loads it again, `torch._inductor.aoti_load_package(path, run_single_threaded=True)`, and what it returns is
# called like the model. The option says that one thread at a time will call it. A library that is to be captured in a
# CUDA graph needs it: otherwise it records an event after each run and asks for it before the next, which no graph can
# hold.
#
# The file fits one kind of machine: it holds machine code for this processor and this GPU. That is why the course
# rebuilds it when either changes.
#
# ### The model's code is not needed
#
# Another process loads the file. It is forbidden to import the course's library and torchvision, so the definition of
# the model is out of its reach. It also says how long it took from the file to the first answer, and how much of that
# went into importing Inductor's modules.

# %%
loader = """
import logging, sys, time
logging.disable(logging.WARNING)
sys.modules["inference_lib"] = sys.modules["torchvision"] = None  # importing either is an error now
import numpy, torch
torch.backends.cudnn.allow_tf32 = False  # the file does not say how FP32 is multiplied: the process does
images = torch.from_numpy(numpy.load("images.npy")).to(sys.argv[2])
start = time.perf_counter()
import torch._inductor.package
from torch._inductor.cpu_vec_isa import VecISA
imported = time.perf_counter()
VecISA.check_build = lambda *_: True  # the processor has the vector instructions that it reports: no test of them
model = torch._inductor.aoti_load_package(sys.argv[1], run_single_threaded=True)
logits = model(images).cpu()
print(imported - start, time.perf_counter() - start)
numpy.save("logits.npy", logits.numpy())
"""

# %% [markdown]
# It gets the picture and the file, and nothing else:

# %%
np.save(Path(scratch.name) / "images.npy", images)
if compiles:
    command = [sys.executable, "-X", "faulthandler", "-c", loader, str(package), lab.device]
    result = subprocess.run(command, cwd=scratch.name, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    import_seconds, load_seconds = (float(seconds) for seconds in result.stdout.split())

# %% [markdown]
# Are these the logits of the model in this process?

# %% tags=["nbval-check-output"]
if compiles:
    theirs = np.load(Path(scratch.name) / "logits.npy")
    ours = load_pretrained("vanilla_cnn")(torch.from_numpy(images)).numpy()
    print(theirs.shape, "close to ours:", np.abs(theirs - ours).max() < 1e-3 * np.abs(ours).max())
else:
    print(missing)

# %% [markdown]
# The same file can be loaded by a C++ program, which then needs no Python at all.
#
# ## Is it still the same model?
#
# A compiler may reorder additions, so the logits are compared before anything is timed.

# %%
names = ["torch-compile", "aot-inductor"]
records = lab.benchmark(names)
tables.show_table(tables.agreement(records), f"Agreement with the FP32 eager model. {plots.provenance(records)}")

# %% [markdown]
# Where a row was checked on fewer pictures than others of its model (last column), its accuracy is an [estimate for all
# of them](04_pytorch.ipynb#is-it-still-the-same-model).
#
# In one line for each model:

# %% tags=["nbval-check-output"]
for model in MODELS:
    print(f"{model}: {words.verdict(records, model)}")

# %% [markdown]
# ## How fast can it be?
#
# Bounds come first, made as in the [chapter on PyTorch](04_pytorch): from below, a program that fuses everything and
# moves only weights, images and logits; from above, operations that run one by one, at the ceilings. A compiler works
# on the distance between the two.

# %%
limits = lab.gpu_ceilings()  # None where neither this machine nor the published edition has a GPU
largest = max(lab.profile.sweep)
bracket = Bracket("resnet18", "fp16", limits)

if limits:
    table = pd.DataFrame(
        [(size, *bracket.ends_ms(size)) for size in (1, largest)], columns=["batch", "at least, ms", "at most, ms"]
    )
    display(tables.show_table(table, f"ResNet-18, FP16. {limits.machine}."))
else:
    print("needs the ceilings of a GPU")

# %% [markdown]
# ```{admonition} Guess
# :class: tip
# Inductor fuses what lies between convolutions, and not the convolutions with each other. Where do you expect the
# compiled model at the larger batch: near the lower bound, in the middle, above the upper one? And at batch 1?
# ```
#
# :::{dropdown} The answer
# {glue:text}`06-gap`.
# :::
#
# ## How fast is it?
#
# The rows of earlier chapters stand beside those of this one, where they were measured.

# %%
compared = lab.compare(["pytorch", "pytorch-cudagraph", *names])
compared.table()

# %% [markdown]
# A row may be slower than the loop: compiling promises nothing. A quick run starts each row once and gives a ratio
# without a verdict, so measure a row whose ratio is below one again before you look for its cause.
#
# :::{dropdown} On readers' machines
# {{ machines: pytorch pytorch-cudagraph torch-compile aot-inductor }}
# :::

# %% [markdown]
# ### Every inference
#
# The share of inferences that took no longer than the time below them:

# %%
compared.latencies("resnet18", "fp16")

# %% tags=["remove-cell"]
largest = max((r.batch_size for r in select(compared.shown("resnet18", "fp16"), precision="fp16")), default=largest)
sizes = tuple(dict.fromkeys((1, largest)))
glue("06-compile", compared.verdict("torch-compile", batch_sizes=sizes))
one, many = (compared.by_rival("resnet18", "fp16", size) for size in (1, largest))
glue("06-ahead-device", words.times_faster(one["torch-compile"], one["aot-inductor"], "device"))
glue("06-largest", largest)
glue("06-images", words.number(many["torch-compile"], lambda r: r.throughput_images_per_s, "{:,.0f}"))
glue("06-overlapped", words.number(many["torch-compile"], lambda r: r.overlapped_images_per_s, "{:,.0f}"))

rows = [row for size in sizes for row in compared.by_rival("resnet18", "fp16", size)["torch-compile"]]
gaps = []
for record in [row for row in rows if limits and row.latency and row.latency.device]:
    least, most = (record.latency.device.value / end for end in bracket.ends_ms(record.batch_size))
    gaps.append(f"at batch {record.batch_size}, {least:.1f} times the lower and {most:.1f} times the upper bound")
measured = f"torch.compile takes {'; '.join(gaps)}" if gaps else bracket.gap(rows)
glue("06-gap", f"{measured}, on the device, copies not counted")

# %% [markdown]
# {glue:text}`06-compile`.
#
# Both replay a graph of kernels from the same compiler; on the device alone, at batch 1 in FP16, compared with
# `torch.compile`, AOTInductor is {glue:text}`06-ahead-device`.
#
# Much can stay between the compiled model and the lower bound. Each convolution still writes what the next one reads,
# which the bound of a program that fuses everything does not count; small kernels fall short of the ceilings of a large
# matrix product; and there are gaps between kernels.
#
# ### Where the milliseconds are
#
# Copy in, model, copy out, each timed on the device; the mark is the end-to-end latency.

# %%
compared.parts("resnet18", "fp16")

# %% [markdown]
# ### Larger batches
#
# Images per second over the latency of a batch:

# %%
compared.batches("resnet18", "fp16")

# %% [markdown]
# At batch {glue:text}`06-largest`, with the images on the device already, the model compiled in FP16 computes
# {glue:text}`06-images` images per second; from pinned host memory and back, with copies beside the computation,
# {glue:text}`06-overlapped`. A large batch has large feature maps, and every trip to memory that a kernel saves is a
# long one.
#
# ## Why?
#
# Inductor writes a program that calls its kernels. A kernel's name lists the operations that it comes from, and its
# arguments are the arrays that it reads. Compile the small model twice, from an empty cache: as it is, and with
# `freezing`, which lets the compiler treat the weights as constants.

# %%
from torch._inductor.utils import run_and_get_code

plain = load_pretrained("vanilla_cnn").to(lab.device)
ways = {"as it is": Recipe(options={}), "freezing": Recipe()}


# %% [markdown]
# The kernels can be read off the program that Inductor wrote:


# %% tags=["nbval-skip"]
def kernels(code):
    """Return the operations that each kernel in Inductor's program comes from, and how many arrays it reads."""
    parts = re.split(r"^\w*?fused_(\w+?)_\d+ = async_compile", code, flags=re.MULTILINE)
    sources = zip(parts[1::2], parts[2::2], strict=True)
    return [(name, len(set(re.findall(r"in_(?:out_)?ptr\d+", source)))) for name, source in sources]


def try_out(name):
    """Compile the plain model in one way; return its kernels, the seconds that took, and the compiled function."""
    counters.clear()
    own = torch.fx.symbolic_trace(plain)  # what Dynamo compiled belongs to a piece of Python: each way has its own
    start = time.perf_counter()
    with compiling(Path(scratch.name) / name):  # a folder that is not there yet
        call, code = run_and_get_code(compiled, own, tensor, ways[name])
    seconds = time.perf_counter() - start
    cached = "yes" if counters["inductor"]["fxgraph_cache_bypass"] == 0 else "no"
    return {"kernels": kernels(code[0]), "compiling, s": seconds, "kept in the cache": cached, "call": call}


found = {name: try_out(name) for name in ways} if compiles else {}
print(missing or f"compiled {len(found)} times")

# %% [markdown]
# These are the kernels that Inductor wrote, in their order:

# %% tags=["nbval-skip"]
for name, row in found.items():
    print(f"{name}:")
    for operations, reads in row["kernels"]:
        print(f"   {operations} reads {reads}")

# %% [markdown]
# And this is what they are worth, beside what they cost once:

# %% tags=["nbval-skip"]
calls = {"eager": lambda: plain(tensor)} | {name: lambda c=row["call"]: c(tensor) for name, row in found.items()}
with torch.inference_mode():
    for name in found:  # each `run_and_get_code` forgets what was compiled before it: once more, from its folder
        with compiling(Path(scratch.name) / name), torch._inductor.config.patch(ways[name].options):
            calls[name]()
    made = counters["stats"]["unique_graphs"]
    turns = lab.turns(calls)
assert counters["stats"]["unique_graphs"] == made, "something was compiled while it was timed"
table = turns.table("eager").rename(columns={"": "model"})
for column, none in {"compiling, s": float("nan"), "kept in the cache": "-"}.items():
    table[column] = [found[name][column] if name in found else none for name in table["model"]]
tables.show_table(table, f"Vanilla CNN, FP32, batch 1, {lab.machine_name}.", {"times faster": "{:.2f}"})

# %% [markdown]
# Convolutions and matrix products are left to a library; what Inductor writes is what lies between. (A kernel that is
# called `convolution` and nothing else does not convolve: it brings what the library reads into its layout.)
#
# Without freezing, weights are inputs that may change at any time, so a batch normalization is computed at every call,
# and the kernel that does it reads its four vectors. Inductor at least puts it into one kernel with the ReLU that
# follows.
#
# With freezing, the batch norm's constants are multiplied into the filters while compiling, and nothing of it is left.
# The filters are stored in the layout that the library wants. On a CPU, bias and ReLU go into oneDNN's convolution.
# The cache keeps a program if it can store all that the program holds; the last column says whether it could.
#
# Each of these calls goes through Python, checks what the compiler relied on, and on a GPU launches its kernels one by
# one. All of that is in the times. On a GPU, the rows under "How fast is it?" replay a CUDA graph, which does none of
# it.
#
# The course folds batch norms before the compiler sees the model, in FP32 whatever the precision of the model.
# AOTInductor starts from FP32 weights, which are rounded once; `torch.compile` starts from the exported file, whose
# weights were rounded before where it is FP16. (Until 29 November 2026, the course's AOTInductor started there, too, so
# rows of both that were measured before agree with the reference to the same digits.) Freezing then has the layouts
# left to do.
#
# A frozen model no longer follows its `nn.Module`: load new weights into the module, and the compiled function goes on
# with the old ones.
#
# ## Knobs
#
# ### Modes
#
# `mode` is a short name for a set of options. `default` is the compiler alone. `reduce-overhead` adds CUDA graphs,
# which the compiler manages by itself. `max-autotune` also times several implementations of every matrix product and
# convolution, and keeps the quickest. That takes its time, so it is tried on the small model.


# %%
def compile_in(mode, model, images):
    """Compile ``model`` in one mode; return the seconds that took and the compiled function."""
    start = time.perf_counter()
    with torch.inference_mode(), compiling():
        call = torch.compile(torch.fx.symbolic_trace(model), mode=mode, fullgraph=True, dynamic=False)
        call(images), torch.cuda.synchronize()
    return time.perf_counter() - start, call


# %% [markdown]
# The three modes, on a batch of sixteen:

# %% tags=["remove-stderr"]
if on_gpu:
    layout = torch.channels_last
    half = load_pretrained("vanilla_cnn").half().cuda().to(memory_format=layout)
    sixteen = torch.zeros(16, 3, 224, 224, dtype=torch.half, device="cuda").to(memory_format=layout)
    modes = {mode: compile_in(mode, half, sixteen) for mode in ("default", "reduce-overhead", "max-autotune")}
    with torch.inference_mode():
        turns = lab.turns({mode: lambda c=call: c(sixteen) for mode, (_, call) in modes.items()})
    table = (
        turns.table("default").rename(columns={"": "mode"}).assign(**{"compiling, s": [s for s, _ in modes.values()]})
    )
    caption = f"Vanilla CNN, FP16, batch 16, {lab.machine_name}."
    display(tables.show_table(table, caption, {"times faster": "{:.2f}"}))
    more = modes["max-autotune"][0] - modes["reduce-overhead"][0]
    gain = turns.effect("max-autotune", "reduce-overhead")
    print(f"what the search costs: {more:.0f} s more; its effect, against reduce-overhead: {gain}")
else:
    print(missing or "needs a GPU")

# %% [markdown]
# The search times each kernel alone, and the network runs them one after another, so its choice may or may not make the
# network quicker: the line above says what came of it here.
#
# The course takes `default` and captures the CUDA graph itself, around the compiled function, so that the copies of a
# small batch are in the graph, too, and the address of the output is known.
#
# ### What comes before the compiler
#
# Inductor leaves convolutions to cuDNN, so ask which ones cuDNN should get. Three changes of the model are about that,
# and none changes its result.
#
# *Fused convolutions.* cuDNN can add the bias and the shortcut and apply the ReLU before it writes the result. Inductor
# writes a kernel for them, which reads the result and writes it again. The CUDA graph of the
# [chapter on PyTorch](04_pytorch) fuses them already; the compiler can be given the same model.
#
# *The first convolution.* An image has three channels, and {term}`tensor cores <tensor core>` read several at once. One
# remedy is *padding*: add channels of zeros, and weights of zeros for them.

# %%
show_source("inference_lib.backends.torch_compile", "pad_channels")

# %% [markdown]
# Another is *space to depth*: a convolution of stride two moves by blocks of two by two pixels. Call the pixels of a
# block channels, and it has twelve of them and stride one.

# %%
show_source("inference_lib.backends.torch_compile", "space_to_depth")

# %% [markdown]
# *Shortcuts with a stride.* A convolution of one pixel with stride two reads every other pixel and is a matrix product
# of those. cuDNN may not see that. So the pixels are picked first, as a part of the fusion:

# %%
show_source("inference_lib.backends.shared.fusion", "subsample_first")

# %% [markdown]
# Whether a change pays is a matter of the kernels that cuDNN has, so each is a variant to be timed. (Only some are
# tried here, because each takes seconds to compile.) The profiler says where the time of a batch goes: to the library's
# products, to Inductor's kernels, or to anything else, such as copies that change a layout (*copies*).

# %% tags=["hide-input"]
variants = {
    "plain": Recipe(),
    "no freezing": Recipe(options={}),
    "4 channels": Recipe(channels=4),
    "8 channels": Recipe(channels=8),
    "space to depth, 16 channels": Recipe(channels=16, space_to_depth=True),
    "coordinate descent": Recipe(options={"freezing": True, "coordinate_descent_tuning": True}),
    "cuDNN's fused convolutions": Recipe(cudnn_fusion=True),
    "fused and 4 channels": Recipe(channels=4, cudnn_fusion=True),
}


def kind(kernel):
    """Say what a kernel is for, by its name."""
    if kernel.startswith("triton"):
        return "Inductor, ms"
    return "products, ms" if re.search("fprop|convolve|gemm|nvjet|first_layer", kernel) else "copies, ms"


def prepared(workload, recipe):
    """Return a runner that replays the model as ``recipe`` prepared it."""
    model = workload.model.load().to("cuda", workload.torch_dtype)
    with compiling():
        call = compiled(prepare(model, workload, recipe), example(workload), recipe)
        return GraphedRunner(CudaFunctionRunner(workload, call))


def try_recipes(workload, names):
    """Let the replays of some variants take turns; return images per second, effects, and what the kernels are for."""
    runners = {name: prepared(workload, variants[name]) for name in names}
    turns = lab.turns({name: runner.compute for name, runner in runners.items()})
    rows = turns.table().rename(columns={"": "variant", "ms": "a batch, ms"})
    rows["images/s"] = [workload.batch_size / ms * 1e3 for ms in rows["a batch, ms"]]
    kernels = {name: timeline(runner.compute, "cuda").query("row == 'device'") for name, runner in runners.items()}
    sums = {name: found.groupby(found["name"].map(kind))["length_ms"].sum() for name, found in kernels.items()}
    return rows.join(pd.DataFrame(sums).T.fillna(0), on="variant")


# %% [markdown]
# Four of them, at the largest batch:

# %%
if variants["fused and 4 channels"] != RECIPES["cuda"]:
    raise CourseError("the course's recipe on a GPU is another one; the text below says that it is the last variant")
if on_gpu:
    large = Workload("resnet18", max(lab.profile.ends("cuda")), "fp16", "cuda")
    tried = ["plain", "4 channels", "cuDNN's fused convolutions", "fused and 4 channels"]
    caption = f"ResNet-18, FP16, batch {large.batch_size}, compute only. {lab.machine_name}."
    forms = {"images/s": "{:,.0f}", "times faster": "{:.2f}"}
    display(tables.show_table(try_recipes(large, tried), caption, forms))
else:
    print(missing or "needs a GPU")

# %% [markdown]
# The kernels' times come from the profiler, which slows them a little. The last variant is the recipe of the course on
# a GPU. On a CPU, freezing fuses bias and ReLU into oneDNN's convolutions, so nothing of this is needed there.
#
# ## When does compiling pay?
#
# Compiling takes seconds, and an inference saves a small part of one, if it saves anything. So there is a number of
# inferences after which the compiled model is ahead, or it never is. Everything counts: exporting, which is timed with
# nothing else running, loading, and the first inference.


# %% tags=["hide-input"]
def pays_after(record, eager):
    """Say after how many inferences a record is ahead of the eager loop, from nothing to the answers."""
    if seconds_to_first_answer(record) is None or seconds_to_first_answer(eager) is None:
        return "not known"
    gain, found = compare(eager, record), break_even(record, eager)
    if found is None or (gain.low is not None and gain.verdict != "faster"):
        return "never" if gain.verdict in ("slower", "same") or found is None else "not clear"
    return f"{found:,.0f} inferences"


rows, shown = [], []
for model in MODELS:
    by_precision = [compared.by_rival(model, precision) for precision in ("fp16", "fp32")]
    cell = next((found for found in by_precision if found["pytorch"]), by_precision[0])
    for record, eager in itertools.product([r for name in names for r in cell[name]], cell["pytorch"]):
        row = {"framework": record.title, "model": record.model}
        if record.build and record.build.start_s is not None:  # else it was exported and loaded beside others
            row |= {"export, s": record.build.export_s, "load, s": record.build.load_s}
        rows.append(row | {"pays after": pays_after(record, eager)})
        shown.append(record)
if any("export, s" in row for row in rows):
    columns = ["framework", "model", "export, s", "load, s", "pays after"]
    table = pd.DataFrame(rows, columns=columns).astype({"export, s": float, "load, s": float})
    caption = f"Batch 1, against the eager loop. {plots.provenance(shown)}"
    display(tables.show_table(table, caption, dict.fromkeys(["export, s", "load, s"], "{:.2f}")))
else:
    print("needs starts that were timed alone: `python -m inference_lib starts` times them")

# %% [markdown]
# Where there is a table, its loop has the precision of the row; the scoreboard's is in FP32 always, so its counts for
# rows in FP16 are others. A dash is a start that was not timed alone; "not known" says that this start or the loop's
# was not.
#
# Both are compiled in the export, once. What every process pays is the load: `torch.compile` follows the Python
# function and looks into its cache (without it, it would compile in every process), AOTInductor opens its library; on a
# GPU, both capture their graph. So take `torch.compile` where the model's code is at hand, AOTInductor where a file has
# to do, and compare their loads where processes start often.
#
# ### Cold and warm
#
# Without the course's artifact, Inductor's cache is the folder that `TORCHINDUCTOR_CACHE_DIR` names, and the next
# process finds it there. Two fresh processes: the first finds the folder empty, the second finds it filled. The third
# is the one above, which loaded the `.pt2` file. Each started once, so read the orders of magnitude.

# %%
start_up = """
import logging, sys, time
logging.disable(logging.WARNING)
import torch
from inference_lib import load_pretrained
from inference_lib.backends.torch_compile import believing_the_processor, quoting_paths
images = torch.zeros(1, 3, 224, 224, device=sys.argv[1])
model = load_pretrained("vanilla_cnn").to(sys.argv[1])
start = time.perf_counter()
with torch.inference_mode(), believing_the_processor(), quoting_paths():
    torch.compile(model)(images).cpu()
seconds = time.perf_counter() - start
print(seconds, torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"])
"""


def first_answer():
    """Return the seconds from a model to the first logits in a fresh process, and the programs found in the cache."""
    settings = {"TORCHINDUCTOR_CACHE_DIR": f"{scratch.name}/cache", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", start_up, lab.device]
    result = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    seconds, found = result.stdout.split()
    return float(seconds), int(found)


# %% [markdown]
# The two starts, beside that of the file:

# %% tags=["nbval-skip"]
if compiles:
    (cold, at_first), (warm, then) = first_answer(), first_answer()
    starts = {"compiled, cold": cold, "compiled, warm cache": warm, "loaded from the .pt2 file": load_seconds}
    print(f"programs found in the cache: {at_first} by the first process, {then} by the second")
    print(f"with a warm cache: {100 * warm / cold:.0f} % of the cold start")
    imports = f"of its {load_seconds:.1f} s, {import_seconds:.1f} s are imports"
    print(f"from the file: {100 * load_seconds / cold:.0f} %; {imports}")
    alt = "Seconds to the first answer of the small model: cold, with a warm cache, from the file."
    caption = f"Vanilla CNN, FP32, batch 1. Importing torch and the model is not counted. {lab.machine_name}."
    display(plots.show_bars(starts, "#009E73", "seconds to the first answer", alt, caption))
else:
    print(missing)

# %% [markdown]
# What a process finds in the cache, neither Inductor nor the C++ or Triton compiler has to make again; the lines above
# say what that came to here. Dynamo's work stays: the Python function is followed again in every process, and
# Inductor's own modules are imported. "All caches hit, and the start is still slow" is a common complaint
# ([pytorch#154456](https://github.com/pytorch/pytorch/issues/154456)).
#
# The file compiles nothing, not even in the first process, and needs no cache on the machine that it is shipped to.
# Part of its start, in Python, is the import of Inductor's modules; a C++ program needs none of them.
#
# On a CPU there is one more cost, which is left out here. In every process that compiles or loads, Inductor compiles
# small libraries and loads each in another process, to see whether the processor's vector instructions work. The course
# lets it believe the processor:

# %%
show_source(believing_the_processor)

# %% [markdown]
# The environment variable `TORCHINDUCTOR_VEC_ISA_OK=1` skips a part of these tests.
#
# ## What goes wrong
#
# ### It compiles again
#
# Dynamo notes what it relied on, as {term}`guards <guard>`, and checks them at every call. Another batch size breaks a
# guard, and the function is compiled again, in the middle of your service. Dynamo counts the graphs it has made. The
# backend `eager` runs them without Inductor, so the experiment is a short one.


# %%
def graphs(sizes, **options):
    """Call a compiled model with batches of rising size; return the graphs made after each."""
    torch._dynamo.reset()
    counters.clear()
    call = torch.compile(load_pretrained("vanilla_cnn"), backend="eager", **options)
    made = []
    for size in sizes:
        call(torch.zeros(size, 3, 224, 224))
        made.append(counters["stats"]["unique_graphs"])
    return made


# %% [markdown]
# Five batch sizes, one after the other:

# %% tags=["nbval-check-output"]
with torch.inference_mode():
    print("dynamic=None: ", graphs([1, 2, 3, 4, 5]))
    print("dynamic=False:", graphs([1, 2, 3, 4, 5], dynamic=False))
    print("dynamic=True: ", graphs([2, 3, 4, 5], dynamic=True))
print("graphs of one function, at most:", torch._dynamo.config.recompile_limit)

# %% [markdown]
# By default the first size is a constant. When a second one comes, Dynamo learns that the dimension varies, compiles
# for any size, and is done. With `dynamic=False` every size is compiled by itself. At the limit it gives up and runs
# the rest eagerly, with a warning, or with an error if `fullgraph=True`.
#
# If you know that the batch varies, say so before the first call, and let a recompilation be an error while you test:

# %% tags=["nbval-check-output"]
torch._dynamo.reset()
counters.clear()
call = torch.compile(load_pretrained("vanilla_cnn"), backend="eager")
batch = torch.zeros(4, 3, 224, 224)
torch._dynamo.mark_dynamic(batch, 0)
with torch.inference_mode(), torch._dynamo.config.patch(error_on_recompile=True):
    call(batch), call(batch[:2]), call(batch[:3])
    print(counters["stats"]["unique_graphs"], "graph for batches of 4, 2 and 3")
    try:
        call(batch[:1])
    except torch._dynamo.exc.RecompileError:
        print("a batch of 1 needs a graph of its own")

# %% [markdown]
# A size of one is always special, because it broadcasts. And a kernel that serves every batch size knows less than one
# that is made for a size: on a GPU, Inductor does not even change the layout to channels-last then. The course compiles
# for each batch size; a service would pick a few and fill its batches up to the next one.
#
# ### An option that does nothing
#
# `torch.compile` takes options of Inductor, and `freezing` is one. It is accepted, and nothing is frozen: Dynamo has
# made inputs of the weights before the option is read. Count the operations that were folded into a convolution:


# %% tags=["nbval-check-output"]
def folded(as_option):
    """Compile a convolution with a batch norm; say whether the batch norm was folded."""
    torch._dynamo.reset()
    counters.clear()
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.BatchNorm2d(8)).eval()
    settings = {"freezing": True}
    with torch.inference_mode(), compiling(), torch._inductor.config.patch({} if as_option else settings):
        torch.compile(model, options=settings if as_option else None)(torch.zeros(1, 3, 8, 8))
    return counters["inductor"]["binary_folding"] > 0


if compiles:
    print("given as an option, folded:     ", folded(as_option=True))
    print("set while it compiles, folded:  ", folded(as_option=False))
else:
    print(missing)

# %% [markdown]
# Patch `torch._inductor.config` around the first call, and check that it had an effect.
#
# ### A graph in two pieces
#
# What Dynamo cannot record, it leaves to Python, and {term}`the graph breaks <graph break>` there. `explain` counts the
# pieces.

# %% tags=["nbval-check-output"]
import logging

logging.getLogger("torch._dynamo.variables.tensor").setLevel(logging.ERROR)  # its warning says what explain says
small = load_pretrained("vanilla_cnn")


def classify(images):
    logits = small(images)
    if logits.max().item() > 100:  # a number that Python needs now
        return logits
    return logits.softmax(1)


torch._dynamo.reset()
with quiet(), torch.inference_mode():
    pieces = torch._dynamo.explain(classify)(batch)
(piece,) = pieces.break_reasons
print(f"{pieces.graph_count} graphs: {piece.reason.splitlines()[0]}")

# %% [markdown]
# Nothing fails, and the pieces are compiled. But nothing is fused across the break, and a GPU has to finish before
# Python can decide. With `fullgraph=True` it is an error, which is the better default for inference:

# %% tags=["nbval-check-output"]
torch._dynamo.reset()
try:
    with quiet(), torch.inference_mode():
        torch.compile(classify, backend="eager", fullgraph=True)(batch)
except torch._dynamo.exc.TorchDynamoException as error:
    print("refused:", type(error).__name__)

# %% [markdown]
# A refusal comes once, a break at every call.
#
# ### The library takes whatever it is given
#
# The `.pt2` file was compiled for one image in FP32. By default it does not check what it gets:

# %%
if compiles:
    two = torch.zeros(2, 3, 224, 224, device=lab.device)
    with torch.inference_mode():
        model = torch._inductor.aoti_load_package(str(package), run_single_threaded=True)
        print("two images in, logits for", len(model(two)), "out")
else:
    print(missing)

# %% [markdown]
# There is no error: it reads as many bytes as it was compiled for. A larger batch loses images; a smaller one makes it
# read what lies behind. Set `AOTI_RUNTIME_CHECK_INPUTS=1` while you test, and check shape and type at the door.

# %% tags=["remove-stderr"]
if compiles:
    os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"  # a library reads it once, at its first call
    checked = torch._inductor.aoti_load_package(str(package), run_single_threaded=True)
    try:
        checked(two)
    except RuntimeError:
        print("refused")
    finally:
        del os.environ["AOTI_RUNTIME_CHECK_INPUTS"]
else:
    print(missing)

# %% [markdown]
# ### The library crashes when it is loaded
#
# On one machine that this course ran on (Ubuntu 24.04, GCC 13.3), every `.pt2` file ended the process with signal 11
# while it was loaded. The backtrace (`torch._C._set_print_stack_traces_on_fatal_signal(True)`, set before loading)
# showed `std::regex` in the library, called with parts of two C++ runtimes. Starting Python with the system's runtime
# in front of all others mended it:
#
# ```
# LD_PRELOAD=/lib/x86_64-linux-gnu/libstdc++.so.6 python ...
# ```
#
# If a compiled library dies where Python code would raise, look at the linker first.
#
# ### The output is overwritten
#
# With `reduce-overhead` the output lives in the memory of a CUDA graph, and the next call writes to it again
# ([pytorch#170604](https://github.com/pytorch/pytorch/issues/170604)). In some cases PyTorch notices, and refuses to
# read a result that is gone. Here, both results were twos when they were computed:

# %%
if on_gpu:
    torch._dynamo.reset()
    double = torch.compile(lambda x: x * 2, mode="reduce-overhead")
    with torch.inference_mode():
        for _ in range(3):  # the first calls warm up and record
            kept = double(torch.ones(4, device="cuda"))
        copied = kept.clone()
        double(torch.zeros(4, device="cuda"))
    try:
        print("kept:", kept[0].item())
    except RuntimeError as error:
        print("kept:", str(error).split(".")[0])
    print("copied:", copied[0].item())
else:
    print(missing or "needs a GPU")

# %% [markdown]
# Copy what you keep, or copy the output to memory of your own at once, as the course's runners do.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-06-frozen
# Compile a linear layer with and without freezing. Then fill its bias with hundreds, in place, and call both again.
# What do you expect of each?
# ```
#
# ````{solution} ex-06-frozen
# :class: dropdown
# ```python
# def moved_by(options):
#     """Return how far the answer of a compiled layer moves when its bias is overwritten."""
#     layer = torch.nn.Linear(8, 2).to(lab.device).requires_grad_(False)
#     numbers = torch.ones(1, 8, device=lab.device)
#     torch._dynamo.reset()
#     with compiling():
#         call = compiled(layer, numbers, Recipe(options=options))
#     with torch.inference_mode():
#         before = call(numbers).clone()
#         layer.bias.fill_(100.0)
#         return (call(numbers) - before).abs().max().item()
#
#
# if compiles:
#     print(f"without freezing, the logits moved by {moved_by({}):.1f}")
#     print(f"with freezing, by {moved_by({'freezing': True}):.1f}")
# ```
# Without freezing the bias is an input of the compiled function, so the answers change. With freezing it was a constant
# when the kernels were written. Whether the change shows then depends on what was made of that constant: memory that is
# shared shows it, a copy in another layout does not. Do not rely on either.
# ````
#
# ```{exercise}
# :label: ex-06-kernels
# How many kernels does Inductor write for `torch.relu(x * 2 + 1).sum(-1)`, and how many with a matrix product between
# the addition and the ReLU? Guess both, then count.
# ```
#
# ````{solution} ex-06-kernels
# :class: dropdown
# ```python
# square = torch.ones(64, 64, device=lab.device)
# chains = {
#     "chain": lambda x: torch.relu(x * 2 + 1).sum(-1),
#     "with a product": lambda x: torch.relu((x * 2 + 1) @ x).sum(-1),
# }
# for name, chain in chains.items() if compiles else ():
#     torch._dynamo.reset()
#     with compiling(), torch.inference_mode():
#         _, code = run_and_get_code(torch.compile(chain), square)
#     print(name, kernels(code[0]))
# ```
# Everything up to the sum is one kernel: a chain that is computed number by number can be computed while it is summed.
# A product is the library's, so the chain is cut in two, before it and after it.
# ````
#
# ```{exercise}
# :label: ex-06-sizes
# Your service gets batches of 1, 7, 7, 3 and 1, in this order. How many graphs does Dynamo make by default, and how
# many with `dynamic=False`?
# ```
#
# ````{solution} ex-06-sizes
# :class: dropdown
# ```python
# with torch.inference_mode():
#     print("default:      ", graphs([1, 7, 7, 3, 1]))
#     print("dynamic=False:", graphs([1, 7, 7, 3, 1], dynamic=False))
# ```
# Each list holds the number of graphs after each call. By default the second size teaches Dynamo that the batch varies,
# and the graph made then serves the third. Without {term}`dynamic shapes <dynamic shape>`, each new size is compiled,
# and a size that was seen before is not.
# ````
#
# ```{exercise}
# :label: ex-06-variants
# If you have a GPU, time the variants that the chapter left out, at batch 64. Is the best one of the large batch still
# the best? (On a CPU: what is freezing worth at batch 8?)
# ```
#
# ````{solution} ex-06-variants
# :class: dropdown
# ```python
# if on_gpu:
#     left_out = ["no freezing", "8 channels", "space to depth, 16 channels", "fused and 4 channels"]
#     print(try_recipes(Workload("resnet18", 64, "fp16", "cuda"), left_out).to_string())
# elif compiles:
#     eight = tensor.repeat(8, 1, 1, 1)
#     with torch.inference_mode(), compiling():
#         frozen = compiled(torch.fx.symbolic_trace(plain), eight, ways["freezing"])
#         print(lab.turns({"eager": lambda: plain(eight), "freezing": lambda: frozen(eight)}).table().to_string())
# ```
# The larger the batch, the less a kernel's launch and its last, half empty wave of blocks count
# ({term}`wave quantization`), and the more the trips to memory.
# ````
#
# ## Key points
#
# - `torch.compile` fuses what lies between convolutions and matrix products; those stay with the libraries.
# - It compiles at the first call, and again when a guard fails. Use `fullgraph=True`, and decide about dynamic shapes.
# - Freezing makes constants of the weights: batch norms disappear, layouts are chosen, later changes are ignored.
# - AOTInductor does the same ahead of time. Its file needs neither the model's code nor a warm cache, fits one kind of
#   machine, and checks nothing.
# - A cache can be shipped with the weights. It saves compiling; the Python function is followed again at every start.
#
# ## Further reading
#
# The paper on Dynamo and Inductor {cite}`pytorch2`; the documentation of AOTInductor {cite}`aotinductor`; what to do
# when compiling goes wrong {cite}`torch_compile_troubleshooting`; CUDA graphs in PyTorch {cite}`pytorch_cuda_graphs`.
