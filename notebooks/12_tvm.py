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
# # TVM
#
# Can a compiler write kernels that are as fast as those of a vendor's library?
#
# Most frameworks of this course take their convolutions from such a library. This one writes them.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# what a compiler does between a graph and machine code, and what a schedule is worth
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
# A convolution in PyTorch ends in a library: cuDNN on an NVIDIA GPU, oneDNN on a CPU. Specialists have written its
# kernels for that hardware. On hardware without such a library, or for an operation that is not in it, there is
# nothing to call.
#
# TVM keeps apart *what* is computed and *how* {cite}`tvm`. The *what* is a few nested loops that anybody could write.
# The *how* is a {term}`schedule`: a list of changes to these loops (split, reorder, vectorize, put on threads) that
# leave the result as it is. A new chip then needs schedules, and no library.
#
# The price is that a good schedule must be found, by a rule, by a person or by a search.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import re
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tvm
from IPython.display import display
from torch.fx.experimental.optimization import fuse
from torch.utils.flop_counter import FlopCounterMode
from tvm import relax, s_tir
from tvm.relax.frontend.torch import from_exported_program
from tvm.s_tir import dlight

from inference_lib import MODELS, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends.tvm import backend as lib
from inference_lib.backends.tvm.cpu import VectorTiles, divisor
from inference_lib.backends.tvm.graph import CONVERTERS, fold_constants
from inference_lib.measure.exports import export_missing
from inference_lib.measure.operations import operations
from inference_lib.measure.plan import Rival
from inference_lib.report import glue, plots, show_source, tables, words
from inference_lib.report.bracket import Bracket
from inference_lib.seam import Workload, build
from inference_lib.support.progress import each

warnings.filterwarnings("ignore", category=FutureWarning)  # torch.export's, about its own insides
lib.use_all_cores()  # TVM would take half of them; see "Threads"
scratch = tempfile.TemporaryDirectory()

lab = open_lab(profile, device, records_dir)
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% [markdown]
# The way from a model to machine code:

# %% tags=["hide-input"]
stages = [
    ["PyTorch\nmodel"],
    ["graph\n(Relax)"],
    ["loop programs\n(TensorIR)"],
    ["rules", "tuning", "a person"],
    ["scheduled\nloops"],
    ["model.so"],
]
figure, (axes,) = plots.new_figure(height=1.8)
plots.flow(stages, axes)
plots.show_figure(
    figure,
    alt="Flow: model, graph, loop programs, a schedule from rules or tuning or a person, scheduled loops, a library.",
    caption="From a model to machine code. LLVM or NVIDIA's compiler makes the last step.",
)

# %% [markdown]
# The first two arrows lead to a graph and to loops. The third is what this chapter is about: how loops get a schedule.
#
# ## Export
#
# `torch.export` traces the model, and `from_exported_program` translates the trace to TVM's graph language, Relax. The
# weights become constants of the graph.

# %%
folded = fuse(load_pretrained("resnet18"))  # batch norms into the convolutions
traced = torch.export.export(folded, (torch.zeros(1, 3, 224, 224),))
imported = from_exported_program(
    traced, unwrap_unit_return_tuple=True, run_ep_decomposition=False, custom_convert_map=CONVERTERS
)

# %% [markdown]
# The batch norms are folded before, as in the [chapter on PyTorch](04_pytorch). `CONVERTERS` are three functions of the
# course's own that take the place of TVM's: for convolutions, linear layers and ReLU6. [What goes
# wrong](12_tvm.ipynb#what-goes-wrong) says why. Below, the course's `import_model` does the same.
#
# The graph is data. Its operations can be counted:


# %% tags=["nbval-check-output"]
def operations_in(module):
    """Count the operations that a Relax graph calls."""
    return Counter(re.findall(r"R\.([a-z_.0-9]+)\(", module["main"].script()))


calls = operations_in(imported)
print({name: calls[name] for name in ("nn.conv2d", "add", "nn.relu", "nn.max_pool2d", "matmul")})

# %% [markdown]
# The batch norms are gone; what is left of each is an `add`.
#
# ### From operations to loops
#
# *Legalizing* replaces each operation by a call of a loop program, and *fusing* merges neighbours into one. Both are
# passes over the graph: `LegalizeOps` is the first alone, and the pipeline called `zero` runs both. (Passes may work in
# place, hence the copies.)

# %%
target = tvm.target.Target("llvm")  # the counts are the same for every target
with target:
    legalized = relax.transform.LegalizeOps()(fold_constants(lib.copied(imported)))
    fused = relax.get_pipeline("zero")(lib.copied(imported))


def size_of(module):
    """Return how many loop programs a module has, and how often they are called."""
    programs = [v.name_hint for v, f in module.functions_items() if isinstance(f, tvm.tirx.PrimFunc)]
    return {"loop programs": len(programs), "calls": module["main"].script().count("R.call_tir(")}


sizes = pd.DataFrame({"legalized": size_of(legalized), "fused": size_of(fused)})
assert (sizes.loc["loop programs"] < sizes.loc["calls"]).all(), "the next paragraph is wrong"
tables.show_table(sizes.rename_axis("").reset_index(), "ResNet-18, before and after fusing.")

# %% [markdown]
# Layers of one shape share a program, so there are fewer programs than calls. For its rows the course changes the
# layout first, with one more pass (`relax.transform.ConvertLayout`); all of it together is its function `lower`.
#
# The fused programs carry in their names what they compute:

# %% tags=["nbval-check-output"]
print(*sorted(v.name_hint for v in fused.get_global_vars())[:6], sep="\n")

# %% [markdown]
# A convolution, the addition of its bias, the addition of the shortcut and the ReLU: one program, one pass.
#
# ### What a loop program is
#
# The language is called TensorIR {cite}`tensorir`. This is a linear layer with a ReLU, fused and not scheduled yet:

# %%
layer = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
program = torch.export.export(layer, (torch.zeros(2, 4),))
small = from_exported_program(program, run_ep_decomposition=False, custom_convert_map=CONVERTERS)
lowered = lib.lower(small, lib.target_of("cpu"))
loops = lowered["fused_matmul_add_relu"].script()
print(loops[loops.index("    for ") :].rstrip())

# %% [markdown]
# `grid` is nested loops. A *block* (`sblock`) is a statement that knows which of its loops are free to run in any order
# (`S`, spatial) and which add up (`R`, reduction), what it reads and what it writes. Because a block knows, TVM can
# check that a change of the loops around it is allowed.
#
# ## A schedule
#
# Each change is one call. Here is a schedule by hand, for the loops of the product above: the columns of the result go
# to the inside, where they lie side by side in memory, and become one vector.

# %% tags=["nbval-check-output"]
by_hand = s_tir.Schedule(lowered["fused_matmul_add_relu"])
rows_, columns, terms = by_hand.get_loops(by_hand.get_sblock("matmul"))
by_hand.reorder(rows_, terms, columns)
by_hand.vectorize(columns)
script = by_hand.mod["main"].script()
print(script[script.index("    for ") : script.index("        v_i0")].rstrip())

# %% [markdown]
# The one `for` line has become two; what stands below it is as it was. TVM refuses a change that would alter the
# result: to vectorize the loop over the terms, for example, which add up.
#
# On a CPU, three changes matter. Share the outer loops among the cores. Let the innermost loop run over numbers that
# lie side by side, so that one instruction does many. Keep a small tile of sums in registers while all products are
# added to it.
#
# TVM has rules for GPUs and hardly any for CPUs, so the course brings one:

# %%
show_source("inference_lib.backends.tvm.cpu", "VectorTiles.tile")

# %% [markdown]
# The arithmetic is not mentioned: the same function schedules a convolution of any size, a {term}`depthwise <depthwise
# convolution>` one, a pooling and a matrix product.
#
# Guess before you read on: how many times faster than the plain loops is the small network with it? Bear in mind how
# many numbers fit into a vector, and how many cores there are.
#
# :::{dropdown} What was measured
# On this page's machine and in its process, the rule is {glue:text}`12-rule` than the loops as written.
# :::

# %%
cpu = lib.target_of("cpu")
image = tvm.runtime.tensor(np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32))


def machine_of(module):
    """Compile a lowered module for the CPU."""
    return relax.VirtualMachine(tvm.compile(module, cpu), tvm.cpu())


def in_turn(machines, batch=image):
    """Let compiled modules take turns on the same images, compute only."""
    return lab.turns({name: lambda m=machine: m["main"](batch) for name, machine in machines.items()})


def told(turns, name, baseline):
    """Say what the turns allow to say of one beside another."""
    ratio, effect = turns.ratio(name, baseline)[0], turns.effect(name, baseline)
    return "neither faster nor slower" if effect == "none" else f"{max(ratio, 1 / ratio):.1f} times {effect}"


# %% [markdown]
# Versions of one network, with nothing but the schedule between them. *Tuned*, where there is such a row, is a schedule
# that a search found, on another machine unless you made your own; [Tuning](12_tvm.ipynb#tuning) says what to expect of
# it.


# %%
small_network = lib.import_model(load_pretrained("vanilla_cnn"), Workload("vanilla_cnn", 1))
plain = lib.lower(small_network, cpu)
versions = {"as written": plain, "rule": lib.schedule(plain, cpu)}
if schedules := lib.tuned_schedules("cpu"):
    versions["tuned"] = lib.schedule(plain, cpu, schedules)
machines = {name: machine_of(module) for name, module in each(versions.items(), "compiling")}
scheduled = in_turn(machines)
caption = f"vanilla_cnn, FP32, batch 1, the same loops with different schedules. {lab.machine.name('cpu')}."
tables.show_table(scheduled.table(), caption)

# %% tags=["remove-cell"]
glue("12-rule", told(scheduled, "rule", "as written"))
glue("12-tuned", told(scheduled, "tuned", "rule") if schedules else "not there for this CPU")

# %% [markdown]
# Where the rule is faster by more than vectors and cores account for, the tile may be the cause: its sums stay in
# registers, and several grow side by side, where a single sum waits for each of its additions before the next.
#
# ### On a GPU
#
# There, an outer loop becomes a grid of thread blocks, and an inner one the threads. TVM's library of rules is called
# {term}`dlight`. Each loop program is offered to the rules in turn, and the first that fits takes it. No GPU is needed
# to ask which:

# %% tags=["nbval-check-output"]
hopper = lib.cuda_target("sm_90")


def rule_for(program, rules):
    """Return the name of the first rule that schedules a loop program, and whether it uses tensor cores."""
    with hopper:
        rule, found = next((r, f) for r in rules if (f := r.apply(program, hopper, False)) is not None)
    return type(rule).__name__ + (" (tensor cores)" if "wmma" in found.mod.script() else "")


def rules_taken(module, rules):
    """Count which rule takes how many of a module's loop programs."""
    programs = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    return dict(sorted(Counter(rule_for(program, rules) for program in programs).items()))


mobile = lib.lower(lib.import_model(load_pretrained("mobilenet_v2"), Workload("mobilenet_v2", 8, "fp16")), hopper)
for name, count in rules_taken(mobile, lib.dlight_rules()).items():
    print(f"{name}: {count}")

# %% [markdown]
# A convolution is a matrix product in disguise: one matrix has a row for each pixel and a column for each weight of a
# filter. `Matmul` schedules both in the same way. `Reduction` takes the pooling at the end. `Fallback` gives each
# thread one output, which is right for what it takes here, a change of the layout before the first layer and one after
# the last.
#
# Two things in this list are expensive. `GeneralReduction` takes the depthwise convolutions, and lets the 256 threads
# of a block add up each sum of nine products together: almost all of them wait. And `Matmul` leaves tensor cores alone
# unless there are more than 64 rows, columns and terms.
#
# A third does not show here. A {term}`thread block` of `Matmul` computes a {term}`tile` of 128 by 128 outputs on tensor
# cores, and of 32 by 64 without. At batch 1, the last convolutions of a network have 49 pixels, which make so few tiles
# that most of the GPU's {term}`multiprocessors <multiprocessor>` have nothing to do.
#
# So the course has three rules that are asked first. This is the one for sums of a few terms; each thread makes one
# output, and the bias and the ReLU are applied before it is stored:

# %%
show_source("inference_lib.backends.tvm.gpu", "ShortSums.apply")

# %% [markdown]
# The second puts half-precision products on tensor cores. A tensor core multiplies {term}`fragments <fragment>` of 16
# by 16 numbers that the 32 threads of a {term}`warp` hold together, so a tile is some warps side by side, each with
# some fragments:

# %%
show_source("inference_lib.backends.tvm.tensor_cores", "on_tensor_cores")

# %% [markdown]
# The third is dlight's rule for products without tensor cores, with a choice of tiles. Both choose in the same way:

# %%
show_source("inference_lib.backends.tvm.gpu", "filling")

# %% [markdown]
# Who takes what now?

# %% tags=["nbval-check-output"]
for name, count in rules_taken(mobile, lib.course_rules(hopper)).items():
    print(f"{name}: {count}")

# %% [markdown]
# Where there is a GPU, time what each set of rules makes of the same loops:


# %%
def on_gpu(workload, machines):
    """Let compiled models take turns on the GPU; return a row for each."""
    batch = tvm.runtime.tensor(np.zeros(workload.input_shape, workload.host_dtype), device=tvm.cuda(0))
    name = f"{workload.model.title}, {workload.precision.title}, batch {workload.batch_size}"
    return in_turn(machines, batch).table().rename(columns={"": "compiled with"}).assign(model=name)


def compiled_anew(workload, **options):
    """Return the virtual machine of a model that is compiled for this GPU with ``options``."""
    module = lib.import_model(workload.model.load(), workload)
    return relax.VirtualMachine(lib.compile_module(module, "cuda", **options), tvm.cuda(0))


def as_exported(workload):
    """Return the virtual machine of a model as the course exports it."""
    return lib.open_library(build(get_backend("tvm"), workload))


# %% [markdown]
# Two networks, each compiled with dlight's rules alone and with the course's asked first:


# %%
if lab.device == "cuda":
    tried = [Workload("mobilenet_v2", 8, "fp16", "cuda"), Workload("resnet18", 1, "fp32", "cuda")]
    later = Workload("resnet18", 1, "fp16", "cuda")  # of the section on layouts
    export_missing([Rival("tvm", workload) for workload in (*tried, later)], lambda line: None, timed=False)
    rows = []
    for workload in each(tried, "networks"):
        dlights = compiled_anew(workload, rules=lib.dlight_rules())
        rows.append(on_gpu(workload, {"dlight's rules": dlights, "the course's rules first": as_exported(workload)}))
    shown = tables.show_table(pd.concat(rows), f"Median of one run, compute only. {lab.machine_name}.")
else:
    shown = "needs a GPU"
shown

# %% [markdown]
# The effect is the verdict on the ratios of the turns. The first network has all three costs from above, the second
# only the third: in FP32 no rule uses tensor cores, and ResNet-18 has no depthwise convolutions.
#
# ## Compile
#
# `ApplyDefaultSchedule` offers every loop program to a list of rules, and `tvm.compile` makes machine code of what they
# return. The result is a shared library for one device, one batch size and one precision.

# %%
with cpu:
    by_rule = dlight.ApplyDefaultSchedule(VectorTiles())(lib.copied(plain))
executable = tvm.compile(by_rule, cpu)
executable.export_library(str(Path(scratch.name) / "small.so"))

# %% [markdown]
# For a GPU the target is another, and rules for GPUs stand in the list. The weights are inside, and their type can be
# read from the library's bytes:

# %% tags=["nbval-check-output"]
artifact = build(get_backend("tvm"), Workload("vanilla_cnn", 1, "fp32", "cpu"))
stored = lib.constants(artifact.directory / lib.MODEL_FILE)
for dtype, count in Counter(dtype for dtype, _ in stored).items():
    print(f"{dtype}: {count} constants")
print("largest matrix:", " x ".join(map(str, max(shape for _, shape in stored if len(shape) == 2))))

# %% [markdown]
# All in FP32; the largest matrix is the first linear layer's.
#
# ## Run
#
# A small *virtual machine* calls the loop programs one after another. It needs neither the PyTorch module nor the
# schedule, only the library:

# %% tags=["nbval-check-output"]
machine = relax.VirtualMachine(tvm.runtime.load_module(str(Path(scratch.name) / "small.so")), tvm.cpu())
logits = machine["main"](image).numpy()
expected = load_pretrained("vanilla_cnn")(torch.from_numpy(image.numpy())).numpy()
print("PyTorch's logits:", np.allclose(logits, expected, atol=1e-3))

# %% [markdown]
# Input and output are TVM's tensors. They share memory with PyTorch's by {term}`DLPack`, without a copy:
# `tvm.runtime.from_dlpack(images)` on the way in and `torch.from_dlpack(logits)` on the way out. On a GPU, where both
# queue their work, they must also share a stream (`tvm_ffi.use_raw_stream`), or one reads before the other has written.
#
# PyTorch's way of capturing a {term}`CUDA graph` would do harm here. Each run takes memory for its feature maps from
# TVM's pool and gives it back, so a captured run would go on writing to memory that has another owner by then. TVM has
# its own way, to be asked for before it compiles (`relax.backend.use_cuda_graph`): the memory of all feature maps is
# planned and kept, and the virtual machine captures the kernels between input and output at the first run. That is a
# second row, "TVM (CUDA graph)".
#
# ## Is it still the same model?
#
# Each batch size is compiled for itself. On a machine with a GPU, the rows are those of the GPU alone.

# %%
records = lab.benchmark(["tvm", "tvm-cudagraph"])
tables.show_agreement(records)

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
# A compiler that writes its own kernels has to do the multiplications of the network and to read its weights, as every
# other does. Bounds from both sides, by the ceilings of the [chapter on where the time goes](03_where_the_time_goes):

# %%
brackets = [Bracket(model, "fp16", lab.gpu_ceilings()) for model in ("resnet18", "mobilenet_v2")]
for bracket in brackets:
    display(bracket.table((1,)))

# %% [markdown]
# Guess before you read on. In FP16 at batch 1, graph against graph: for which of the two networks does TVM do better
# against PyTorch's library, the one of dense convolutions, or the one of thin and depthwise ones?
#
# :::{dropdown} What was measured
# Compared with PyTorch's CUDA graph, TVM's is {glue:text}`12-resnet-graphs` with ResNet-18, and
# {glue:text}`12-mobile-graphs` with MobileNetV2.
# :::
#
# ## How fast is it?
#
# The rivals call libraries: PyTorch and ONNX Runtime, each launched kernel by kernel and as a graph. A note under the
# table marks a row without numbers, or one that is [less trustworthy than its neighbours](../book/how_to_read).

# %%
rivals = ["pytorch", "pytorch-cudagraph", "onnxruntime", "onnxruntime-cudagraph"]
compared = lab.compare([*rivals, "tvm", "tvm-cudagraph"])
compared.table()

# %% [markdown]
# A loop that waits for its launches gains nothing from quicker kernels, so its rows in FP32 and in FP16 may stand in
# either order. Where their intervals meet, the order may be noise.
#
# :::{dropdown} On readers' machines
# {{ machines: pytorch pytorch-cudagraph onnxruntime onnxruntime-cudagraph tvm tvm-cudagraph }}
# :::

# %% [markdown]
# ### Every inference
#
# A line is one row: the further left, the quicker, and the steeper, the steadier.

# %%
compared.latencies("resnet18", "fp32")

# %% tags=["remove-cell"]
resnet, small = (compared.by_rival(model, "fp32") for model in ("resnet18", "vanilla_cnn"))
glue("12-gpu", words.machines(resnet["tvm"]))
glue("12-resnet-eager", words.times_faster(resnet["pytorch"], resnet["tvm"]))
glue("12-resnet-ort", words.times_faster(resnet["onnxruntime"], resnet["tvm"]))
glue("12-small-eager", words.times_faster(small["pytorch"], small["tvm"]))
glue("12-small-ort", words.times_faster(small["onnxruntime"], small["tvm"]))
resnet, small = (compared.by_rival(model, "fp16") for model in ("resnet18", "vanilla_cnn"))
glue("12-resnet-graph", words.times_faster(resnet["tvm"], resnet["tvm-cudagraph"]))
glue("12-small-graph", words.times_faster(small["tvm"], small["tvm-cudagraph"]))
glue("12-resnet-graphs", words.times_faster(resnet["pytorch-cudagraph"], resnet["tvm-cudagraph"]))
mobile_net = compared.by_rival("mobilenet_v2", "fp16")
glue("12-mobile-graphs", words.times_faster(mobile_net["pytorch-cudagraph"], mobile_net["tvm-cudagraph"]))

# %% [markdown]
# The comparisons on {glue:text}`12-gpu`, FP32, batch 1. For ResNet-18, TVM is {glue:text}`12-resnet-eager` against
# eager PyTorch, and {glue:text}`12-resnet-ort` against ONNX Runtime's `run()`. For the small network it is, against the
# same two, {glue:text}`12-small-eager` and {glue:text}`12-small-ort`.
#
# In FP16, TVM's graph against TVM that launches each kernel is {glue:text}`12-resnet-graph` for ResNet-18 and
# {glue:text}`12-small-graph` for the small network.
#
# TVM's own graph has the same kernels to replay, so all that it can win is the launches and the gaps between kernels.
# Where the GPU is still busy with one kernel when the next is launched, nobody waits for launches, and there is little
# to win. Where an interval is wide, a win may be there and not show.
#
# Against the bounds, the model alone:

# %%
for bracket in brackets:
    display(bracket.figure(compared.shown(bracket.model, "fp16"), 1))

# %% [markdown]
# On a GPU these are times on the device, from which waits for launches are left out as far as the whole model can be
# queued ahead. So what lies between a row and the band is the kernels and the gaps between them. PyTorch's and ONNX
# Runtime's two rows need not have the same ones: PyTorch's graph fuses operations and keeps images channels-last, as
# the [chapter on PyTorch](04_pytorch) says. Compare the two networks here, and TVM's kernels with the library's within
# each.
#
# ### Where the milliseconds are
#
# The input has to get to the device and the logits back, whoever wrote the kernels:

# %%
compared.parts("resnet18", "fp32")

# %% [markdown]
# A compiler can shorten only the middle part. Bar and mark are measured one after the other, the parts with marks of
# their own between them, so a mark may lie on either side of the bar's end; and the parts of `run()` are those of the
# same session bound to device memory.
#
# ### Larger batches
#
# What is there to gain from more pictures at once?

# %%
compared.batches("resnet18", "fp16")

# %% [markdown]
# Each of TVM's points is a library of its own, compiled for its batch size. At the largest batch launches hardly count,
# and yet the rows of one library may lie apart: they differ in their kernels, as above, and in how they copy. PyTorch's
# loop and ONNX Runtime's `run()` send the caller's array from {term}`pageable memory`, the graphs from {term}`pinned
# memory`.
#
# ## Why?
#
# The virtual machine calls a function of ours before and after each loop program, so each can be timed. On a GPU the
# numbers include a wait after each, so their sum is more than a run takes. The convolutions in the names are numbered
# as the network comes to them: a high number is a late layer, of few pixels and many channels.

# %%
on_device = tvm.runtime.tensor(image.numpy(), device=tvm.device(lab.device, 0))
library = build(get_backend("tvm"), Workload("resnet18", 1, "fp32", lab.device))
ours = lib.program_times(lib.open_library(library), on_device)
tables.show_table(ours.head(6), f"The slowest loop programs of ResNet-18, FP32, batch 1. {lab.machine_name}.")

# %% [markdown]
# The same work in PyTorch, batch norms folded too, goes to the vendor's library. To compare them, count the arithmetic
# of the convolutions and divide it by the time that each side spends in them.

# %%
folded = folded.to(lab.device)
pixels = torch.from_numpy(image.numpy()).to(lab.device)
with torch.inference_mode():
    profiles = [operations(lambda: folded(pixels), lab.device) for _ in range(5)]
    with FlopCounterMode(display=False) as counter:
        folded(pixels)
theirs = min(profiles, key=lambda table: table["ms"].sum())
gflop = counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 1e9


def share(table, names, title):
    """Return a row: time in the convolutions and in everything else, and the rate of the former."""
    inside = table[names].str.contains("conv")
    spent, rest = table["ms"][inside].sum(), table["ms"][~inside].sum()
    rate, part = gflop / spent * 1e3, 100 * rest / (spent + rest)
    return {"": title, "convolutions, ms": spent, "GFLOP/s": rate, "rest, ms": rest, "rest, %": part}


rows = pd.DataFrame([share(theirs, "operation", "PyTorch"), share(ours, "program", "TVM")])
tables.show_table(rows, f"ResNet-18, FP32, batch 1. {lab.machine_name}.", {"GFLOP/s": "{:,.0f}", "rest, %": "{:.0f}"})

# %% [markdown]
# The rest is what fusing is about. TVM computes the bias, the shortcut and the ReLU on a tile before it leaves the
# chip, so they cost no pass of their own; in PyTorch each is a pass over a feature map, unless its library has a kernel
# that takes it along. What is left of TVM's are a few small programs: poolings, the last product, changes of the
# layout.
#
# On a GPU the two sides are not read from the same clock. PyTorch's profiler tells what the kernels took; each of TVM's
# programs has the launch and the wait on top. For the few small ones of the rest that may be most of the time, so a
# rest as long as PyTorch's does not say that fusing gained nothing. It also makes TVM's rate look lower than it is: at
# most by about as much as the two columns together exceed TVM's time on the device in the table of rows.
#
# The rates are what a library is about. TVM's few tiles for all shapes meet many kernels, and a choice among them for
# each shape. cuDNN also has algorithms that need fewer products, such as {term}`Winograd`'s {cite}`winograd`, and
# kernels that fetch the next numbers while they multiply the last ones. All of that is for large products, of which
# ResNet-18 consists. MobileNetV2 consists of thin ones and of depthwise convolutions, which compute little with each
# number that they fetch. Scheduled well and with many pictures at once, they mostly wait for memory, whoever wrote
# them. With one picture, a row beyond the band spends time on something else as well, such as the beginning and the end
# of many short kernels. So look at both networks above before you call a compiler slow.
#
# ## Knobs
#
# ### The target
#
# A compiler may use only the instructions that the target has. The default of TVM is any CPU of the architecture, which
# on x86 means vectors of four numbers.


# %%
def compiled_for(target):
    """Return the virtual machine of the small network, compiled for a target."""
    module = lib.schedule(lib.lower(small_network, target), target)
    return relax.VirtualMachine(tvm.compile(module, target), tvm.cpu())


targets = {"this CPU": compiled_for(cpu), "any CPU": compiled_for(tvm.target.Target("llvm"))}
caption = f"vanilla_cnn, FP32, batch 1. {lab.machine.name('cpu')}."
tables.show_table(in_turn(targets).table(), caption)

# %% [markdown]
# The second row beside the first is what code for any machine gives away on this one.
#
# ### Threads
#
# TVM brings its own threads, and they spin while they wait. How many? On x86 it takes half of the processors that it
# sees, in the belief that each core shows two. On a machine that shows its cores, half of them do nothing. So say how
# many, before TVM computes anything:
#
# ```bash
# export TVM_NUM_THREADS=16 TVM_BIND_THREADS=0
# ```
#
# The second variable keeps TVM from binding the thread that calls it to a part of the cores. Every process that this
# thread starts later would inherit that, and measure a smaller machine without a word.

# %%
threads = tvm.get_global_func("runtime.config_threadpool")
every = torch.get_num_threads()


def with_threads(count):
    """Return a call of the small network that first asks for so many threads, on any core."""
    return lambda: (threads(1, count), machines["rule"]["main"](image))


counts = sorted({1, max(1, every // 2), every}, reverse=True)
threaded = lab.turns({f"{count} of {every} threads": with_threads(count) for count in counts})
threads(1, 0)  # all of them again
tables.show_table(threaded.table(), caption)

# %% [markdown]
# The rows say how well the small network divides: with twice the threads, is it twice as fast?
#
# ### Layout, on a GPU
#
# For a CPU the course converts images to {term}`channels-last`, so that channels fill the vectors. What suits a GPU
# depends on its rules: in which order does a thread block fetch its tiles? The course's fetch along the terms of a sum,
# which lie side by side where the channels come last. Compile for both layouts:

# %%
if lab.device == "cuda":
    other = compiled_anew(later, layout=lib.PYTORCH_LAYOUT)
    both = on_gpu(later, {lib.PYTORCH_LAYOUT[0]: other, lib.LAYOUTS["cuda"][0]: as_exported(later)})
    shown = tables.show_table(both, f"Compute only; the course uses {lib.LAYOUTS['cuda'][0]}. {lab.machine_name}.")
else:
    shown = "needs a GPU"
shown

# %% [markdown]
# ## Tuning
#
# A schedule has numbers in it: the size of a tile, the order of loops, how far to unroll. MetaSchedule searches them
# {cite}`metaschedule`. It writes candidates, compiles and times some of them on the device, and learns a model of the
# costs from the measured ones, which says which to try next. The heart of it is one call:
#
# ```python
# from tvm.s_tir import meta_schedule
#
# database = meta_schedule.relax_integration.tune_relax(
#     lowered, params={}, target=target, work_dir="tuning", max_trials_global=640, op_names=["conv2d"]
# )
# ```
#
# A search takes minutes for a small network and hours for a large one, on the very device, with nothing else running.
# So its result is kept: a file of loop programs and a file with the best schedule of each, where it beat the rules
# there. Every export looks in the course's folder for its kind of device: x86-64-v4 is any x86 processor with
# {term}`AVX-512`, sm_90 is an H100 or an H200. The course searched for the small network alone. What is there now:

# %%
for kept in sorted(lib.SCHEDULES.glob("*/database_tuning_record.json")):
    print(f"{kept.parent.name}: schedules for {len(kept.read_text().splitlines())} loop programs")
print(f"used for the rows on {lab.machine_name}:", "these" if lib.tuned_schedules(lab.device) else "rules alone")

# %% [markdown]
# A program is found by its structure: the same loops of the same lengths. Another batch size is another program. A
# schedule also fits the machine that it was searched on: how many tiles there are for how many cores is a part of it.
# The course's for x86 were searched on two cores, and what won on two may lose on sixteen.
#
# In the table of schedules above, on this page's CPU and against the rule, the tuned schedule is
# {glue:text}`12-tuned`. The rows of this chapter use a tuned schedule where there is one for their device, without
# asking whether it is the better one here, and the rules elsewhere.
#
# To make your own, on the machine that will use them (`pip install xgboost-cpu cloudpickle` first):
#
# ```
# python -m inference_lib.backends.tvm.tuning vanilla_cnn cuda --trials 640
# ```
#
# ## What goes wrong
#
# ### A half-precision model stops being one
#
# TVM's own converter says that a convolution's result is FP32, whatever goes in. What follows is computed in FP32,
# under an FP16 label. With a bias the import ends in an error, because the bias is still FP16: "Binary operators must
# have the same datatype".

# %% tags=["nbval-check-output"]
convolution = torch.nn.Conv2d(3, 4, 3, bias=False).half()
half = torch.export.export(convolution, (torch.zeros(1, 3, 8, 8, dtype=torch.half),))
for name, converters in {"TVM's converter": None, "the course's": CONVERTERS}.items():
    options = {"run_ep_decomposition": False, "unwrap_unit_return_tuple": True}
    module = from_exported_program(half, custom_convert_map=converters, **options)
    print(f"{name}: {module['main'].ret_ty.dtype}")

# %% [markdown]
# The course's converter adds up in FP32, adds the bias there, and rounds once; that of linear layers does the same. It
# is found by the operation's name, `conv2d.default`, so the trace must not be decomposed before
# (`run_ep_decomposition=False`):

# %%
show_source("inference_lib.backends.tvm.graph", "convert_convolution")

# %% [markdown]
# ### One activation brings transpositions back
#
# MobileNet's ReLU6 is translated to `clip`. The pass that changes the layout does not know that `clip` works in any
# layout, so it transposes before and after each one. Nothing fails, and every one is a pass over a feature map. The
# course's converter says the same with a maximum and a minimum, which the pass knows.


# %% tags=["nbval-check-output"]
def transpositions(converters):
    """Count the transpositions of feature maps in MobileNetV2, channels-last."""
    model = fuse(load_pretrained("mobilenet_v2"))
    traced = torch.export.export(model, (torch.zeros(1, 3, 224, 224),))
    module = from_exported_program(traced, run_ep_decomposition=False, custom_convert_map=converters)
    converted = relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]})(module)
    return operations_in(fold_constants(converted))["permute_dims"]


print("clip:               ", transpositions({k: v for k, v in CONVERTERS.items() if "hardtanh" not in k}))
print("maximum and minimum:", transpositions(CONVERTERS))

# %% [markdown]
# Two are left, instead of one before and one after each `clip`. Count the operations after each pass: a compiler that
# cannot do something well does it anyway.
#
# ### A vector of 24 numbers
#
# The innermost loop may have any length, and TVM turns it into one vector. A layer of MobileNetV2 has 144 channels.
# Where registers hold 16 numbers, the longest part of 144 that fits into two of them is 24. LLVM compiles that, too.
# The course's rule takes powers of two. Here is that layer alone:


# %%
class AnyLength(VectorTiles):
    """The same tiles, with vectors of any length that divides the loop."""

    length = staticmethod(divisor)


wide = torch.nn.Sequential(torch.nn.Conv2d(24, 144, 1), torch.nn.ReLU6())
pixels_in = torch.rand(1, 24, 56, 56)
program = torch.export.export(wide, (pixels_in,))
wide_loops = lib.lower(from_exported_program(program, run_ep_decomposition=False, custom_convert_map=CONVERTERS), cpu)
rules = {"any length": AnyLength(), "powers of two": VectorTiles()}
compiled = {name: machine_of(lib.schedule(wide_loops, cpu, rules=[rule])) for name, rule in rules.items()}
lengths = in_turn(compiled, tvm.runtime.tensor(pixels_in.numpy()))
tables.show_table(lengths.table(), f"One layer of MobileNetV2, 24 to 144 channels, FP32. {lab.machine.name('cpu')}.")

# %% tags=["remove-cell"]
glue("12-lengths", told(lengths, "powers of two", "any length"))

# %% [markdown]
# Powers of two are {glue:text}`12-lengths` here, and neither version gives a warning. When a program is slow, look at
# the lengths in it.
#
# ### One letter turns the tensor cores off
#
# TVM's own name for an H100 says `sm_90a`. dlight reads the number in it, finds a letter, and schedules for a GPU
# without tensor cores. Half precision still works.

# %% tags=["nbval-check-output"]
half_model = lib.import_model(load_pretrained("vanilla_cnn"), Workload("vanilla_cnn", 1, "fp16", "cuda"))
for architecture in ("sm_90a", "sm_90"):
    goal = lib.cuda_target(architecture)
    script = lib.schedule(lib.lower(half_model, goal), goal, rules=lib.dlight_rules()).script()
    print(f"{architecture}: tensor cores {'are' if 'wmma' in script else 'are not'} used")

# %% [markdown]
# Look for the instruction in the program, not for the option in your script.
#
# ### The batch is fixed
#
# Shapes are compiled in, and checked at the door:

# %% tags=["nbval-check-output"]
two = tvm.runtime.tensor(np.zeros((2, 3, 224, 224), np.float32))
try:
    machines["rule"]["main"](two)
except RuntimeError as error:
    print("shape[0]" if "shape[0]" in str(error) else "another axis", re.search(r"\(\d+ vs\. \d+\)", str(error))[0])

# %% [markdown]
# Compile each batch size that you need. `torch.export` can leave a dimension open and TVM can compile that, but then
# neither a rule nor a search knows how long the loops are.
#
# ### Every candidate fails to build
#
# MetaSchedule compiles candidates in new processes and gives each 30 seconds. A new process first imports several
# hundred small programs for tensor units, and each of these searches all modules of the process for its callers. With
# PyTorch installed there are thousands of modules, the import alone can take longer than the limit, and the log says
# no more than `Build errors`. Import them without the search, in each process, before the clock matters:

# %%
show_source("inference_lib.backends.tvm.backend", "import_tensor_programs")

# %% [markdown]
# ### Versions that do not fit
#
# TVM comes in two packages, `apache-tvm` and `apache-tvm-ffi`, and `pip` takes the newest of the second. With version
# 0.1.15 or later, the search of TVM 0.27 ends in a segmentation fault on our machines. Pin both. This page ran with the
# following (`cpu` is what LLVM calls the processor, `schedules` a digest of the tuned ones):

# %%
for name, version in get_backend("tvm").versions().items():
    print(f"{name}: {version}")

# %% [markdown]
# Each row's record keeps them.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-12-fusion
# How many loop programs and calls has `mobilenet_v2`, legalized and fused? How many operations does the average call
# hold?
# ```
#
# ````{solution} ex-12-fusion
# :class: dropdown
# ```python
# mobile_network = lib.import_model(load_pretrained("mobilenet_v2"), Workload("mobilenet_v2", 1))
# with target:
#     separate = relax.transform.LegalizeOps()(fold_constants(lib.copied(mobile_network)))
#     together = relax.get_pipeline("zero")(lib.copied(mobile_network))
# before, after = size_of(separate), size_of(together)
# print("legalized:", before)
# print("fused:", after)
# print(f"{before['calls'] / after['calls']:.1f} operations in the average call")
# ```
# A convolution takes its bias and its activation along; a projection has no activation, but may have a shortcut.
# ````
#
# ```{exercise}
# :label: ex-12-tile
# `VectorTiles` holds up to `vectors` registers for each pixel, and takes as many pixels as the registers allow. Make
# subclasses with 1, 2 and 4, and time the small network. Which is the quickest here?
# ```
#
# ````{solution} ex-12-tile
# :class: dropdown
# ```python
# def with_vectors(count):
#     """Return the small network, scheduled with so many vector registers for each pixel."""
#     rule = type("Tiles", (VectorTiles,), {"vectors": count})()
#     return machine_of(lib.schedule(plain, cpu, rules=[rule]))
#
#
# tiles = in_turn({f"{count} vectors": with_vectors(count) for count in (1, 2, 4)})
# print(", ".join(f"{name}: {tiles.ms(name):.3f} ms" for name in tiles.rounds))
# print("1 against 2:", told(tiles, "1 vectors", "2 vectors"), "| 4 against 2:", told(tiles, "4 vectors", "2 vectors"))
# ```
# With one vector, each number of the image is read for few products. With many, few pixels are left, and each weight is
# read for few products. More tiles than registers (16 with AVX2, 32 with AVX-512) would be written to memory and read
# again in the innermost loop.
# ````
#
# ```{exercise}
# :label: ex-12-unfused
# Compile the small network without fusing. How much slower is it than the fused one, if at all, and where does the
# difference come from?
# ```
#
# ````{solution} ex-12-unfused
# :class: dropdown
# ```python
# with cpu:
#     channels_last = relax.transform.ConvertLayout({"relax.nn.conv2d": list(lib.LAYOUTS["llvm"])})
#     separate = relax.transform.LegalizeOps()(fold_constants(channels_last(lib.copied(small_network))))
# unfused = in_turn({"fused": machines["rule"], "not fused": machine_of(lib.schedule(separate, cpu))})
# print("not fused against fused:", told(unfused, "not fused", "fused"))
# ```
# Without fusing, each bias and ReLU reads its feature map and writes it back, instead of meeting it in a register. It
# is an addition for every number moved, so the time is that of the memory, or of the cache where the map fits into it.
# ````
#
# ## Key points
#
# - TVM keeps what is computed (loops) apart from how (a schedule), and writes the kernels itself.
# - The loops stay the same, and the schedule decides the time: here the rule was {glue:text}`12-rule` on a CPU. Rules
#   cost nothing, a search costs minutes to hours, and what it finds can be kept, for machines like the one it ran on.
# - As fast as a vendor's library? In FP16 at batch 1, graph against graph, TVM is {glue:text}`12-resnet-graphs` with
#   ResNet-18 and {glue:text}`12-mobile-graphs` with MobileNetV2. It fuses whatever it meets; a library has many kernels
#   to choose from for each shape.
# - Everything is compiled in: device, instructions, batch size, precision.
# - Count what a pass did. What it could not do well, it did not refuse.
#
# ## Further reading
#
# The paper that started it {cite}`tvm`; the language of loop programs {cite}`tensorir`; the search
# {cite}`metaschedule`; the documentation {cite}`tvm_docs`.
