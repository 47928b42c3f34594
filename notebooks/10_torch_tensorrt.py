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
# # Torch-TensorRT
#
# Can I have TensorRT without leaving PyTorch?
#
# A PyTorch module goes in, a PyTorch module comes out; in between, what TensorRT can do has become an {term}`engine`.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# to compile a module ahead of time, to see what stays in PyTorch, and to save the result
# :::
# :::{grid-item-card} You need
# the chapter on PyTorch; Torch-TensorRT, TensorRT and a GPU to compile; nothing more to see how a graph is split
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
# TensorRT wants a file in another format, and gives back something that is no longer a module. A program full of
# PyTorch around the model must then be rewritten where the two meet.
#
# Torch-TensorRT stays inside {cite}`torch_tensorrt`. It takes the graph that `torch.export` makes, translates each
# operation to TensorRT's network directly, without ONNX, and puts the engines into a module that is called like the
# old one: tensors in, tensors out. What TensorRT does not know stays a PyTorch operation between two engines.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import operator
import tempfile
import textwrap
import time
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd
import torch
from IPython.display import display

from inference_lib import MODELS, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends import torch_tensorrt as backend
from inference_lib.report import glue, plots, show_source, tables, words
from inference_lib.report.bracket import Bracket, glue_answer
from inference_lib.seam import Workload, build

warnings.filterwarnings("ignore", category=FutureWarning)  # torch.export's, about its own insides
warnings.filterwarnings("ignore", message="The given buffer is not writable")
scratch = tempfile.TemporaryDirectory()
lab = open_lab(profile, device, records_dir)
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% [markdown]
# From a module to a module:

# %% tags=["hide-input"]
stages = [["module"], ["torch.export:\na graph"], ["partition"], ["engine"], ["PyTorch"], ["engine"]]
figure, (axes,) = plots.new_figure(height=1.2)
plots.flow(stages, axes)
plots.show_figure(
    figure,
    alt="Flow: a module, the graph of torch.export, the partition, an engine, PyTorch, another engine.",
    caption="The last three are one module again. With luck it is a single engine.",
)

# %% [markdown]
# ### Is it here?
#
# The package asks for the GPU's properties while it is imported, so it cannot even be imported without one. And it
# is compiled against one version of PyTorch and one of TensorRT, whose library comes from NVIDIA's own index.

# %%
found = get_backend("torch-tensorrt").availability("cuda")
answer = f"yes, {found.version}" if found.usable else f"no. {found.reason}; {found.remedy}"
print(textwrap.fill(answer, 72, break_on_hyphens=False))
runs = lab.device == "cuda" and found.usable

# %% tags=["remove-cell"]
there = f"Torch-TensorRT {found.version} works there, so the row below has numbers"
missing = f"There are no numbers of Torch-TensorRT from it: {found.reason or 'the chapter ran on its CPU'}"
glue("10-here", f"This page was executed on {lab.machine_name}. {there if runs else missing}")

# %% [markdown]
# ```{admonition} Rows without numbers
# :class: important
# {glue:text}`10-here`. Where the library is missing, a cell that compiles says only what it needs; how a graph is
# captured and split is PyTorch's own and runs everywhere. Whoever has the library can [contribute the missing
# rows](section-10-contribute) with three commands.
# ```
#
# ## Export
#
# Four steps: cast, export, compile, save.

# %%
if runs:
    import torch_tensorrt

    module = load_pretrained("resnet18").half().cuda()
    example = torch.zeros(1, 3, 224, 224, dtype=torch.float16, device="cuda")
    exported = torch.export.export(module, (example,))
    compiled = torch_tensorrt.dynamo.compile(exported, arg_inputs=[example], require_full_compilation=True)
    torch_tensorrt.save(compiled, str(Path(scratch.name) / "resnet18.ep"), arg_inputs=[example])
    print("logits of shape", tuple(compiled(example).shape))
else:
    print("needs Torch-TensorRT and a GPU")

# %% [markdown]
# `torch.export.export` traces the module into a graph. `torch_tensorrt.dynamo.compile` lowers, splits and builds. There
# is a shorter way, `torch_tensorrt.compile(module, ir="dynamo", inputs=[images])`, which does the first step for you,
# and a lazier one, `torch.compile(module, backend="tensorrt")`, which does everything at the first call and keeps
# nothing.
#
# The precision is the module's: `.half()` before the export makes an FP16 engine. Since version 2.10 this *explicit
# typing* is the default.
#
# The course sets three options: the whole graph or an error (`require_full_compilation`, with a `min_block_size` of 1),
# and TF32 off unless the row is labelled so (`disable_tf32`).
#
# The most useful options and their defaults in version 2.11:

# %%
DEFAULTS = {
    "min_block_size": (5, "fewer operations than this in a row are not worth an engine"),
    "require_full_compilation": (False, "an operation that TensorRT does not take is an error"),
    "use_explicit_typing": (True, "the module's own types are the precision"),
    "disable_tf32": (False, "IEEE arithmetic for FP32 numbers"),
    "optimization_level": (None, "how hard the builder searches, 0 to 5; TensorRT's own default is 3"),
    "enable_autocast": (False, "let the compiler choose what to do in lower precision"),
    "cache_built_engines": (False, "keep engines in a folder"),
    "reuse_cached_engines": (False, "look there first"),
    "immutable_weights": (True, "weights cannot be replaced in the engine later"),
    "use_python_runtime": (False, "call the engine from Python instead of C++; fewer ways to save it"),
}

# %% [markdown]
# As a table:

# %% tags=["hide-input"]
rows = [{"option": name, "default": str(value), "what it does": text} for name, (value, text) in DEFAULTS.items()]
tables.show_table(pd.DataFrame(rows), "Options of torch_tensorrt.dynamo.compile.")

# %% [markdown]
# Defaults change between versions: look them up for yours.
#
# ### The graph that is compiled
#
# This part is PyTorch's own, so it runs everywhere. The exported graph is reduced to PyTorch's core operations, a
# smaller set that compilers have to know.

# %%
images = torch.zeros(2, 3, 224, 224)
program = torch.export.export(load_pretrained("resnet18"), (images,)).run_decompositions()
calls = backend.outside_of_engines(program.graph)
counts = Counter(calls)
tables.show_table(pd.DataFrame(counts.most_common(), columns=["operation", "calls"]), "ResNet-18 after torch.export.")

# %% [markdown]
# A convolution and its batch normalization are still two operations. TensorRT merges them when it builds the engine; in
# the file of the [chapter on ONNX Runtime](07_onnx_runtime) the exporter had done it.
#
# ### What falls back to PyTorch
#
# Each operation needs a {term}`converter`. Operations without one, and those named in `torch_executed_ops`, stay in
# PyTorch. All others are collected into blocks of neighbours, and blocks below `min_block_size` stay in PyTorch, too.
#
# Torch-TensorRT has two partitioners. One of them (`use_fast_partitioner=False`) is built on a class of PyTorch, so the
# split can be tried without TensorRT. Suppose that there were no converter for some operation:

# %%
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import create_op_support


def blocks(program, without=()):
    """Return the size of each block of neighbours if the operations whose name has one of ``without`` are left out."""

    def takes(modules, node):
        return node.op == "call_function" and not any(part in str(node.target) for part in without)

    support = create_op_support(takes)
    partitioner = CapabilityBasedPartitioner(program.graph_module, support, allows_single_node_partition=True)
    parts = [partition.nodes for partition in partitioner.propose_partitions()]
    sizes = [sum(node.target is not operator.getitem for node in part) for part in parts]  # what picks results is free
    return sorted(filter(None, sizes), reverse=True)


# %% [markdown]
# What would be left of ResNet-18 without a converter for one of these?


# %%
smallest, _ = DEFAULTS["min_block_size"]
split = []
for left_out in ("nothing", "max_pool2d", "mean", "aten.add", "relu"):
    sizes = blocks(program, [left_out])
    large = [size for size in sizes if size >= smallest]
    split.append({"left out": left_out, "blocks": len(sizes), "engines": len(large), "operations in them": sum(large)})
once, often = split[1], split[-1]
assert once["blocks"] < often["blocks"], "the next paragraph is wrong"
assert often["engines"] < often["blocks"] / 2, "the next paragraph is wrong"
tables.show_table(pd.DataFrame(split), f"ResNet-18, {len(calls)} operations, blocks of {smallest} or more.")

# %% [markdown]
# An operation that occurs once cuts the graph where it stands, and a piece that is too small falls to PyTorch with it.
# One that comes back in every layer makes many small pieces, most of them too small. And every border costs: the tensor
# goes through memory, and Python calls the next piece. (Names are compared by their parts, so the row `aten.add` is
# without `aten.addmm`, the last product, as well.)
#
# Torch-TensorRT says nothing about that unless asked; `dryrun=True` prints the plan without building. Or count the
# parts of the module that comes back: here for the whole graph, and for one without `relu`.

# %%
if runs:
    module = load_pretrained("resnet18").half().cuda()
    example = torch.zeros(8, 3, 224, 224, dtype=torch.float16, device="cuda")
    half = torch.export.export(module, (example,))
    for left_out in (set(), {"torch.ops.aten.relu.default"}):
        compiled = torch_tensorrt.dynamo.compile(half, arg_inputs=[example], torch_executed_ops=left_out)
        print(len(left_out), "left out:", Counter(name.rsplit("_", 1)[0] for name, _ in compiled.named_children()))
else:
    print("needs Torch-TensorRT and a GPU")

# %% [markdown]
# The course asks for the whole graph, and before it runs a saved program, it lists what in it is not an engine:

# %%
show_source(backend.outside_of_engines)

# %% [markdown]
# Asked about a program that has no engine in it:

# %% tags=["nbval-check-output"]
outside = Counter(backend.outside_of_engines(program.graph))
print(f"a program without engines: {sum(outside.values())} operations in PyTorch")

# %% [markdown]
# The course's runner wants an empty list, and refuses anything else.
#
# ## Is it still the same model?
#
# Every export is compared with the FP32 eager model before anything is timed, and a row that could not be measured says
# why below the table.

# %%
records = lab.benchmark(["torch-tensorrt"])
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
# The kernels are TensorRT's; the bounds are those of every program that does the same multiplications ([where the time
# goes](03_where_the_time_goes)): below, no traffic but what each of them needs; above, operations that run one by one
# at the ceilings.

# %%
bracket = Bracket("resnet18", "fp16", lab.gpu_ceilings())
bracket.table((1, 256))

# %% [markdown]
# Guess before you read on. In time on the device, how many times the lower bound does the eager module take at batch 1,
# and how many times its CUDA graph, whose convolutions take bias, shortcut and ReLU along? What lies between the two is
# what that graph saves; the rest is left to better kernels.
#
# :::{dropdown} What was measured
# {glue:text}`10-gap`; copies are not counted. And with engines? {glue:text}`10-verdict`. On a laptop's GPU with other
# versions, the first edition of this course saw {glue:text}`10-reference` times the frames per second of its eager
# loop, with ResNet-18 in FP16. That loop was slower in FP16 than in FP32.
# :::
#
# ## How fast is it?
#
# The fair rival is the eager module: both are called as a Python function, without a {term}`CUDA graph` around them.
# PyTorch's CUDA graph stands beside them.

# %%
rivals = ["pytorch", "pytorch-cudagraph", "torch-tensorrt"]
compared = lab.compare(rivals)
compared.show("torch-tensorrt")

# %% [markdown]
# The model alone, its copies left out, against the two bounds:

# %%
bracket.figure(compared.shown("resnet18", "fp16"), 1)

# %% tags=["remove-cell"]
glue_answer("10", bracket, compared, "torch-tensorrt", reference=("Torch-TensorRT", "PyTorch"))

# %% [markdown]
# These are times on the device, from which waits for launches are left out as far as the whole model can be queued
# ahead. Between the eager module and its graph lie the operations that the graph's convolutions take along and their
# layout, channels-last ([why](04_pytorch.ipynb#why)), and the gaps between kernels; between the graph and the band lie
# the kernels, and what the graph leaves of the gaps.
#
# (section-10-contribute)=
# ### On readers' machines
#
# If your machine has Torch-TensorRT and TensorRT's library, three commands make numbers for this page:
#
# ```bash
# ROWS="pytorch pytorch-cudagraph torch-tensorrt"
# python -m inference_lib benchmark --profile full --device cuda --backend $ROWS
# python -m inference_lib benchmark --profile full --device cuda --backend $ROWS --run 2 --rounds-only
# python -m inference_lib contribute torch-tensorrt.zip
# ```
#
# The second run shows how far the first one holds. The last command checks both and packs them into one file.
# [Reproducing the numbers](../book/reproducing) says where that goes.
#
# {{ machines: pytorch pytorch-cudagraph torch-tensorrt }}

# %% [markdown]
# ### What the first edition of this course measured
#
# The project that this course grew from timed Torch-TensorRT on a laptop's GPU, one image at a time. Another card,
# another version and weights of its own: read the ratios, not the numbers. The last column is the FPS over that of its
# PyTorch in the same precision. There, PyTorch was faster in FP16 than in FP32 with none of the networks, so the ratios
# in FP16 owe something to that.

# %%
tables.show_table(tables.reference_rows("Torch-TensorRT"), "Quadro T2000, batch 1, Torch-TensorRT.")

# %% [markdown]
# ## Why?
#
# An engine runs the same kernels, whoever calls it. What differs from the [chapter on PyTorch](04_pytorch) are the
# kernels; what differs from TensorRT alone is the call. So take the call apart: the module as it is, and with its
# launches recorded.


# %%
def saved_module(precision="fp16", batch_size=1):
    """Return the saved program of ResNet-18 as a module, and an input for it."""
    artifact = build(get_backend("torch-tensorrt"), Workload("resnet18", batch_size, precision, "cuda"))
    module = torch_tensorrt.load(str(artifact.directory / backend.PROGRAM_FILE)).module()
    dtype = artifact.workload.torch_dtype
    return module, torch.zeros(artifact.workload.input_shape, dtype=dtype, device="cuda")


if runs:
    module, example = saved_module()
    with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):
        plain = lab.time(lambda: module(example)).p50
        with torch_tensorrt.runtime.enable_cudagraphs(module) as recorded:
            replayed = lab.time(lambda: recorded(example)).p50
    print(f"one after the other: called {plain:.3f} ms, with its launches in a CUDA graph {replayed:.3f} ms")
else:
    print("needs Torch-TensorRT and a GPU")

# %% [markdown]
# Both run the same kernels. The first also pays, in this process, for the call and for its launches; the second pays
# for one launch of the graph, and for copies into it and out of it.
#
# ## Knobs
#
# ### CUDA graphs
#
# `torch_tensorrt.runtime.enable_cudagraphs(module)` is the knob that was just turned. It copies inputs to where the
# graph reads them and outputs from where it writes, so the next replay does not overwrite a result that you kept.
#
# ### How hard to search, and TF32
#
# Each option is turned alone, on the FP32 model at batch 8; the programs take turns.

# %%
if runs:
    options = {"plain": {}, "level 0": {"optimization_level": 0}, "TF32 off": {"disable_tf32": True}}
    module = load_pretrained("resnet18").cuda()
    example = torch.zeros(8, 3, 224, 224, device="cuda")
    exported = torch.export.export(module, (example,))
    calls, seconds = {}, []
    for label, changed in options.items():
        start = time.perf_counter()
        faster = torch_tensorrt.dynamo.compile(exported, arg_inputs=[example], **changed)
        seconds.append(time.perf_counter() - start)
        calls[label] = lambda f=faster: f(example)
    with torch.inference_mode():
        turned = lab.turns(calls).table()
    turned["compile, s"] = seconds
    display(tables.show_table(turned, f"FP32, batch 8. {lab.machine_name}."))
else:
    print("needs Torch-TensorRT and a GPU")

# %% [markdown]
# While you try things out, a level that compiles sooner may be worth a slower call. The last column hints at how much
# sooner; but unless told otherwise, Torch-TensorRT keeps a {term}`timing cache` on disk, so a later compilation may be
# quicker for that alone.
#
# ### Saving and loading
#
# A compiled program is saved in the format of `torch.export`, a `.pt2` archive with the graph in it; the engines are
# inside, as bytes. The same round trip with a program that has none:

# %% tags=["nbval-check-output"]
path = Path(scratch.name) / "model.pt2"
torch.export.save(program, path)
loaded = torch.export.load(path).module()
picture = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
print("same logits:", torch.equal(loaded(picture), program.module()(picture)))

# %% [markdown]
# `torch_tensorrt.save` and `torch_tensorrt.load` do the same and take care of the engines. Whoever loads needs
# Torch-TensorRT, the same TensorRT and the same kind of GPU: the archive looks portable and is not
# ([TensorRT#2900](https://github.com/NVIDIA/TensorRT/issues/2900)).
#
# ## What goes wrong
#
# ### `enabled_precisions={torch.half}` makes no FP16 engine
#
# Most tutorials ask for FP16 this way. With explicit typing it is refused in versions 2.10 to 2.12, and ignored
# without a word in later ones: an FP32 engine under an FP16 label. What counts is what is in the program:

# %% tags=["nbval-check-output"]
small = load_pretrained("vanilla_cnn")
for cast in (torch.float32, torch.float16):
    exported = torch.export.export(small.to(cast), (images.to(cast),))
    print(f"cast to {cast}: the program computes in", *backend.tensor_types(exported.graph))

# %% [markdown]
# What does this machine's version do with the old option?

# %%
if runs:
    try:
        torch_tensorrt.dynamo.compile(half, arg_inputs=[example.half()], enabled_precisions={torch.half})
        print("accepted, and without effect: look at the program's types")
    except Exception as error:
        print(f"{type(error).__name__}: {str(error)[:200]}")
else:
    print("needs Torch-TensorRT and a GPU")

# %% [markdown]
# Cast the module and the example, or ask for `enable_autocast`. The course reads the types from the saved program
# before it believes a label.
#
# ### `undefined symbol` at import
#
# The package is compiled against one PyTorch and one TensorRT; in other versions of these, the symbols that it wants
# are missing ([pytorch/TensorRT#3031](https://github.com/pytorch/TensorRT/issues/3031),
# [pytorch/TensorRT#3350](https://github.com/pytorch/TensorRT/issues/3350)). Its minor version is PyTorch's, so compare
# before you import:

# %%
from importlib import metadata

wanted = ".".join(torch.__version__.split(".")[:2])
try:
    there = metadata.version("torch-tensorrt")
    print(f"torch {torch.__version__} with torch-tensorrt {there}:", "fits" if there.startswith(wanted) else "no fit")
except metadata.PackageNotFoundError:
    print(f"torch {torch.__version__} wants torch-tensorrt {wanted}.*, which is not installed")

# %% [markdown]
# If the two do not fit, no option helps: install the pair.
#
# ### Nothing was compiled
#
# A small model, or one cut into small blocks, stays below `min_block_size` as a whole. The module that comes back is
# the old one, and there is only a line in the log.


# %%
class Head(torch.nn.Module):
    """A model of a few operations."""

    def forward(self, features):
        """Return probabilities."""
        return (features.mean(dim=(2, 3)) * 2).softmax(dim=1)


head = torch.export.export(Head(), (torch.zeros(2, 10, 7, 7),)).run_decompositions()
sizes = blocks(head)
print(f"blocks of {sizes} operations, {sum(size >= smallest for size in sizes)} of them large enough for an engine")

# %% [markdown]
# If you want such a model in an engine, set `min_block_size=1`, and count what is outside of it.
#
# ### The batch is fixed
#
# What is not named as dynamic becomes part of the program
# ([pytorch#148886](https://github.com/pytorch/pytorch/issues/148886)).

# %%
try:
    program.module()(torch.zeros(4, 3, 224, 224))
except Exception as error:
    print(f"{type(error).__name__}: {str(error).splitlines()[0]}")

# %% [markdown]
# Export with `dynamic_shapes`, and give the compiler a range:
# `torch_tensorrt.Input(min_shape=..., opt_shape=..., max_shape=..., dtype=torch.float16)`. It becomes a profile of the
# engine, tuned for the middle one.

# %% tags=["nbval-check-output"]
batch = torch.export.Dim("batch", min=1, max=32)
flexible = torch.export.export(load_pretrained("vanilla_cnn"), (images,), dynamic_shapes=({0: batch},))
print([tuple(flexible.module()(torch.zeros(size, 3, 224, 224)).shape) for size in (2, 4, 8)])

# %% [markdown]
# One program, three batch sizes.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-10-blocks
# Which operation of `mobilenet_v2`, left out, would do the most harm: how many operations would still be in engines?
# Guess, then call `blocks` for each.
# ```
#
# ````{solution} ex-10-blocks
# :class: dropdown
# ```python
# mobile = torch.export.export(load_pretrained("mobilenet_v2"), (images,)).run_decompositions()
# inside = {
#     name: sum(size for size in blocks(mobile, [name]) if size >= smallest)
#     for name in set(backend.outside_of_engines(mobile.graph))
# }
# for name, count in sorted(inside.items(), key=lambda found: found[1])[:5]:
#     print(f"without {name}: {count} operations in engines")
# ```
# Convolutions and batch normalizations stand everywhere, so without one of them next to nothing is left. The
# activation, `hardtanh`, leaves more: a block ends with a convolution that has none, so its batch normalization, the
# shortcut and the first convolution of the next block stay together.
# ````
#
# ```{exercise}
# :label: ex-10-smallest
# No converter for `relu`: how many engines would ResNet-18 have with a `min_block_size` of 1, 2, 3, 5 and 10, and how
# many operations would they hold?
# ```
#
# ````{solution} ex-10-smallest
# :class: dropdown
# ```python
# pieces = blocks(program, ["relu"])
# for least in (1, 2, 3, 5, 10):
#     engines = [size for size in pieces if size >= least]
#     print(f"blocks of {least} or more: {len(engines)} engines with {sum(engines)} operations")
# ```
# A smaller limit puts more operations into engines, and makes more borders. Every border is a feature map that goes
# through memory and a call, so which limit is the fastest has to be measured.
# ````
#
# ```{exercise}
# :label: ex-10-lazy
# `torch.compile(module, backend="tensorrt")` compiles at the first call, piece by piece where Dynamo cannot follow.
# Into how many graphs does a module break that prints its mean on the way, and what does `torch.export` say of it?
# ```
#
# ````{solution} ex-10-lazy
# :class: dropdown
# ```python
# import logging
#
# logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # it tells of every break
#
#
# class Talkative(torch.nn.Module):
#     """A model that prints in its middle."""
#
#     def forward(self, features):
#         """Return what is positive of twice the features."""
#         twice = features * 2
#         print(f"the mean is {twice.mean().item():.1f}")
#         return twice.relu()
#
#
# found_graphs = torch._dynamo.explain(Talkative())(torch.ones(2, 2))
# print(f"torch.compile: {found_graphs.graph_count} graphs")
# try:
#     torch.export.export(Talkative(), (torch.ones(2, 2),))
#     print("torch.export: accepted")
# except Exception as error:
#     print(f"torch.export: {type(error).__name__}")
# ```
# A break is allowed in `torch.compile`, which helps while trying things out. Not in a service: every piece is an engine
# of its own, the first request pays for the builds, every new shape may pay again, and the result is gone when the
# process ends.
# ````
#
# ## Key points
#
# - Yes: a module goes in, a module comes out, and the program around it stays as it is.
# - What has no converter stays in PyTorch. Count what is outside of engines, and demand full compilation where you
#   mean it.
# - Precision is the module's own: cast before the export.
# - The saved program holds engines. It belongs to a GPU, a PyTorch and a TensorRT.
# - Calling has its price, however fast the engine is: try a CUDA graph.
#
# ## Further reading
#
# Torch-TensorRT's documentation {cite}`torch_tensorrt`; TensorRT's {cite}`tensorrt`; CUDA graphs in PyTorch
# {cite}`pytorch_cuda_graphs`.
