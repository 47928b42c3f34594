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
# # OpenVINO
#
# I have no GPU. How fast can a CPU answer?
#
# This chapter stays on the CPU, with a framework that was built for it.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# to compile a model for the CPU at hand, to choose between latency and throughput, and to know which precision
# answers
# :::
# :::{grid-item-card} You need
# the chapters on PyTorch and ONNX Runtime; no GPU
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
# A CPU is in every machine, and for a model that is asked now and then it is often all there is. It has few cores
# compared with a GPU. Each of them has wide vector units, several levels of cache and, if it is recent, instructions
# for 16-bit products. A program that meets one operation at a time can use all of these, but it cannot arrange a whole
# network for them.
#
# OpenVINO is Intel's toolkit for inference {cite}`openvino`. It converts a model to a graph of its own, the
# *intermediate representation* (IR). Then it compiles the graph for the processor that it finds: layers are merged,
# weights are put into the order in which the vector units read them, and threads are bound to cores.
#
# What does the compiling is a *plugin*, one for each kind of device. The CPU plugin runs on any x86 or Arm processor,
# the other plugins on Intel's GPUs and NPUs. There is none for NVIDIA GPUs.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from inference_lib import MODELS, CourseError, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends.openvino import (
    MODEL_FILE,
    compile_ir,
    computed_precisions,
    import_openvino,
    layers,
)
from inference_lib.measure.roofline import ceilings
from inference_lib.measure.throughput import fill_budget
from inference_lib.records.store import select
from inference_lib.report import glue, plots, tables, words
from inference_lib.report.bracket import Bracket
from inference_lib.seam import PRECISIONS, Workload, build, find_precision
from inference_lib.zoo.fashion_mnist import MEAN, STD, load_fashion_mnist, preprocess

ov = import_openvino()  # the package openvino, its telemetry turned off
core = ov.Core()
warnings.filterwarnings("ignore", category=FutureWarning)  # torch.export's, about its own insides
scratch = tempfile.TemporaryDirectory()

lab = open_lab(profile, "cpu", records_dir)  # on a machine with a GPU too, this chapter measures the host
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% [markdown]
# The way from a model to its kernels:

# %% tags=["hide-input"]
stages = [
    ["PyTorch\nmodel"],
    ["convert_model"],
    ["model.xml: graph\nmodel.bin: weights"],
    ["compile_model"],
    ["CPU plugin", "Intel GPU plugin", "Intel NPU plugin"],
]
figure, (axes,) = plots.new_figure(height=1.8)
plots.flow(stages, axes)
plots.show_figure(
    figure,
    alt="Flow: a PyTorch model, convert_model, two files with graph and weights, compile_model, three plugins.",
    caption="From a model to its kernels. Converting is done once; compiling is done on the machine that will run it.",
)

# %% [markdown]
# Converting comes first.
#
# ## Export
#
# `torch.export` captures the model, `convert_model` translates it, `save_model` writes two files.

# %%
batch = {0: torch.export.Dim("batch")}
images = (torch.zeros(2, 3, 224, 224),)
program = torch.export.export(load_pretrained("mobilenet_v2"), images, dynamic_shapes=(batch,))
converted = ov.convert_model(program)
ov.save_model(converted, Path(scratch.name) / "mobilenet_v2.xml", compress_to_fp16=False)

# %% [markdown]
# The example holds two images because `torch.export` takes a dimension of one for a constant; the [chapter on ONNX
# Runtime](07_onnx_runtime) says more about that.
#
# `convert_model` also takes the module itself, and then it traces it: the model is run once and what happened is
# recorded. The two differ where a model has conditions: a trace keeps the branch that the example took, without a word,
# and `torch.export` refuses. A refusal is the better answer.
#
# `compress_to_fp16=False` is there because the default is `True`; a section below shows what that does.
#
# The course's files keep their weights in the precision of their label, FP32 or {term}`BF16`. An FP32 file would do for
# BF16 too, since the plugin rounds while it compiles; a BF16 file stores what was rounded.

# %% tags=["nbval-check-output"]
backend = get_backend("openvino")
for precision in ("fp32", "bf16"):
    artifact = build(backend, Workload("mobilenet_v2", 1, precision, "cpu"))
    print(f"{precision}: {artifact.size_bytes / 1e6:.1f} MB, stored as {backend.stored_precision(artifact)}")

# %% [markdown]
# Half of the bytes, and the label is checked on the file itself.
#
# ### A look into the file
#
# The file is data, and can be read as such. The batch is open, the rest of the shape is fixed.


# %% tags=["nbval-check-output"]
def count_operations(graph):
    """Count a graph's operations by type, without its inputs, outputs and constants."""
    types = [node.get_type_name() for node in graph.get_ops()]
    return Counter(name for name in types if name not in ("Parameter", "Result", "Constant"))


path = build(backend, Workload("mobilenet_v2", 1, "fp32", "cpu")).directory / MODEL_FILE
graph = core.read_model(path)
print(graph.input(), graph.output(), sep="\n")
print(", ".join(f"{count} {name}" for name, count in count_operations(graph).most_common()))
if "BatchNormInference" in count_operations(graph):
    raise CourseError("the file has batch normalizations; the text below says that they were folded")

# %% [markdown]
# MobileNetV2 has a batch normalization after every convolution, and the file has none. Their scales were multiplied
# into the filters while converting; what is left of each is an `Add`. A `Clamp` is a ReLU6, and a `GroupConvolution` is
# a {term}`depthwise convolution`, which treats each channel by itself.
#
# ## Two hints
#
# A CPU with many cores can be used in two ways. All cores work on one request together and wait for each other after
# every layer, or each small group of cores works on a request of its own. Such a group is called a *stream*.

# %% tags=["hide-input"]
part, whole = 0.75, 3.2
spans = {f"latency, core {core_ + 1}": [(i, part) for i in range(8)] for core_ in range(4)}
spans |= {f"throughput, core {core_ + 1}": [(i * whole, whole * 0.97) for i in range(2)] for core_ in range(4)}
figure, (axes,) = plots.new_figure(height=2.6)
plots.timeline(spans, ["#CC79A7"] * 4 + ["#8A8F98"] * 4, axes)
plots.show_figure(
    figure,
    alt="Sketch: four cores share each of eight requests, with gaps; or each core runs two requests, without gaps.",
    caption="A sketch, not a measurement: eight requests on four cores. A bar is one core's work on one request.",
)

# %% [markdown]
# Together, an answer comes early. Apart, cores never wait for each other, so more answers come in a second, each of
# them late. OpenVINO asks for the goal, not for numbers of threads: `PERFORMANCE_HINT` is `LATENCY` where callers wait,
# `THROUGHPUT` where a queue is never empty, and the plugin derives the rest {cite}`openvino_hints`.


# %%
def static(batch=1):
    """Return the graph of MobileNetV2 at a fixed batch size."""
    graph = core.read_model(path)
    graph.reshape([batch, 3, 224, 224])
    return graph


fp32 = {"INFERENCE_PRECISION_HINT": "f32"}
latency = core.compile_model(static(), "CPU", fp32 | {"PERFORMANCE_HINT": "LATENCY"})
throughput = core.compile_model(static(), "CPU", fp32 | {"PERFORMANCE_HINT": "THROUGHPUT"})

# %% [markdown]
# `INFERENCE_PRECISION_HINT` says in which precision to compute; why it is always there is shown under
# "What goes wrong". What a hint became can be read from the compiled model:

# %%
names = ["NUM_STREAMS", "INFERENCE_NUM_THREADS", "OPTIMAL_NUMBER_OF_INFER_REQUESTS"]
names += ["ENABLE_CPU_PINNING", "ENABLE_HYPER_THREADING"]
chosen = {"property": names}
chosen |= {c.get_property("PERFORMANCE_HINT"): [str(c.get_property(n)) for n in names] for c in (latency, throughput)}
tables.show_table(pd.DataFrame(chosen), f"What the hints chose for MobileNetV2. {lab.machine_name}.")

# %% [markdown]
# Threads divided by streams is the number of threads for one request. A compiled model works on as many requests at
# once as it has streams; more of them would wait.
#
# ### One request
#
# A *request* holds the memory for one inference. With `share_inputs` it reads the caller's array where it is, and
# nothing is copied; without, it copies the array first.

# %%
picture = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
request = latency.create_infer_request()
logits = request.infer([picture], share_inputs=True)[0].copy()

# %% [markdown]
# A shared array must not change while the request works on it. The answer is in the request's own memory, and the next
# inference writes over it: hence the copy.
#
# ### A queue of requests
#
# With several streams, somebody must keep them busy. `AsyncInferQueue` owns a number of requests; `start_async` hands
# a batch to an idle one and returns, and waits only if there is none. A function of ours is called with each answer.

# %% tags=["nbval-check-output"]
answers = {}
queue = ov.AsyncInferQueue(throughput)  # as many requests as the hint finds best
queue.set_callback(lambda done, number: answers.update({number: done.get_output_tensor().data.copy()}))
for number in range(8):
    queue.start_async([picture], userdata=number)
queue.wait_all()
print(len(answers), "answers, all as before:", all(np.allclose(a, logits, atol=1e-3) for a in answers.values()))

# %% [markdown]
# Answers come in the order in which requests are done, which need not be that of the questions. `userdata` tells which
# is which.
#
# ## Is it still the same model?
#
# The two hints are two rows, and so are FP32 and BF16. On a processor without instructions for BF16, the BF16 rows are
# left out, with the reason. PyTorch and ONNX Runtime, the rivals of a later section, take turns with them.

# %%
backends, rivals = ["openvino", "openvino-throughput"], ["pytorch", "onnxruntime"]
asked = {name: ["fp32"] for name in rivals} | {name: ["fp32", "bf16"] for name in backends}
measured = lab.benchmark(list(asked), precisions=asked, batch_sizes=[1], time_exports=False)
records = [record for record in measured if record.backend in backends]
tables.show_table(
    tables.agreement(records),
    f"Agreement with the FP32 eager model. {plots.provenance(select(records))}",
    notes=sorted({f"{r.title} {PRECISIONS[r.precision].title}: {r.why_not}" for r in records if r.why_not}),
)

# %% [markdown]
# In one line for each model:

# %% tags=["nbval-check-output"]
for model in MODELS:
    print(f"{model}: {words.verdict(records, model)}")

# %% [markdown]
# The course's runner asks the compiled model what its kernels compute in, and refuses if that is not what the label
# says. Why that is necessary is shown under "What goes wrong".
#
# ## How fast can it be?
#
# Bounds come first, from both sides, with ceilings that are measured on this CPU as in the [chapter on where the time
# goes](03_where_the_time_goes). An image takes at least the time of its arithmetic, at the rate of a large matrix
# product on all cores, and at least that of the traffic that is left when all is fused. (What the caches keep from one
# image to the next, such as the weights of a small network, is no traffic.) Operations that run one by one at the
# ceilings take the time of the last column.

# %%
bracket = Bracket("mobilenet_v2", "fp32", ceilings("cpu"))
bracket.table((1, 8))

# %% [markdown]
# MobileNetV2 has many layers with few products each. Guess before you read on: how many times the lower bound do you
# expect for one image, from PyTorch's loop and from a compiled graph?
#
# :::{dropdown} What was measured
# {glue:text}`11-gap`. (A row below the bound has better kernels than the product that the ceiling was measured with, or
# other work slowed that product down.)
# :::
#
# ## How fast is it?
#
# The rivals are PyTorch's eager loop and ONNX Runtime, on the same processor and with their own default numbers of
# threads.
#
# ```{note}
# OpenVINO 2026.4, the version of this course, has a documented regression: since its upgrade to oneDNN 3.13, models
# with many convolutions may be slightly slower on Intel Xeon processors
# ([openvino#38225](https://github.com/openvinotoolkit/openvino/pull/38225)). The course's networks are such models. On
# a Xeon, these rows speak for this version, and an older or a newer one may be quicker.
# ```

# %%
compared = lab.compare([*rivals, *backends], device="cpu")
compared.table()

# %% [markdown]
# :::{dropdown} On readers' machines
# {{ machines: pytorch onnxruntime openvino openvino-throughput }}
# :::

# %% [markdown]
# ### Every inference
#
# A line is one row: the further left, the quicker, and the steeper, the steadier.

# %%
compared.latencies("mobilenet_v2")

# %% tags=["remove-cell"]
one = compared.by_rival("mobilenet_v2", "fp32")
half = compared.by_rival("mobilenet_v2", "bf16")
glue("11-openvino", compared.verdict("openvino", "mobilenet_v2", "fp32", (1,)))
glue("11-bf16-fp32", words.times_faster(one["openvino"], half["openvino"]))
glue("11-throughput-latency", words.times_faster(one["openvino"], one["openvino-throughput"]))
glue("11-latency-rate", words.number(one["openvino"], lambda r: r.throughput_images_per_s, "{:,.0f}"))
glue("11-queue-rate", words.number(one["openvino-throughput"], lambda r: r.throughput_images_per_s, "{:,.0f}"))
glue("11-gap", bracket.gap([row for rows in one.values() for row in rows]))

# %% [markdown]
# {glue:text}`11-openvino`. Against its own FP32, its BF16 is {glue:text}`11-bf16-fp32`.
#
# Now the guess, FP32 against the two bounds:

# %%
bracket.figure(compared.shown("mobilenet_v2"), 1)

# %% [markdown]
# On a CPU nothing waits for a launch: who asks for an operation computes it. A mark beyond the band can have several
# causes. Kernels may be slower than a large matrix product and a large copy, as those of thin layers often are. Each
# operation has costs of its own: PyTorch calls it from Python, and all threads wait for the slowest. Or cores are idle:
# the one request of the throughput hint has only the threads of its stream. [Why?](11_openvino.ipynb#why) shows what a
# compiler can do about the first two.
#
# ### Where the milliseconds are
#
# A CPU has no copies to and fro, so one part should be the whole:

# %%
compared.parts("mobilenet_v2")

# %% [markdown]
# The input is read where it is; only the logits are copied.
#
# ### One caller or many
#
# The latency of a single request says little about the throughput hint: alone, a request has one stream's threads, and
# the other streams idle. Against the latency hint, such a request is {glue:text}`11-throughput-latency`. Submitted
# back to back, requests fill the streams:

# %%
single = select(compared.shown("mobilenet_v2"), batch_size=1)
rates = {
    "framework": [r.title for r in single],
    "precision": [PRECISIONS[r.precision].title for r in single],
    "one caller": [r.fps for r in single],
    "back to back": [r.throughput_images_per_s for r in single],
}
formats = dict.fromkeys(["one caller", "back to back"], "{:,.0f}")
tables.show_table(
    pd.DataFrame(rates), f"MobileNetV2 at batch 1, images per second. {plots.provenance(single)}", formats
)

# %% [markdown]
# In FP32, that is {glue:text}`11-queue-rate` images a second from the queue, and {glue:text}`11-latency-rate` with
# the latency hint. The other frameworks have no queue of their own, so back to back means one after the other.
#
# In a table that was made on 28 November 2026 or before, these rates can be too low: they are of few inferences after a
# pause. [How many requests?](11_openvino.ipynb#how-many-requests) keeps a queue full for longer.
#
# ### Larger batches
#
# Does a batch help where there are few cores to fill? The same graph, compiled for one image and for eight:


# %%
def answering(images):
    """Return a call of one request, compiled for as many images."""
    compiled = core.compile_model(static(len(images)), "CPU", fp32 | {"PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    return lambda: request.infer([images], share_inputs=True)


eight = np.repeat(picture, 8, axis=0)
turns = lab.turns({len(images): answering(images) for images in (picture, eight)})
for size in turns.rounds:
    print(f"batch {size}: {turns.ms(size):.2f} ms, {1e3 * size / turns.ms(size):,.0f} images/s")
print(f"eight take {turns.ratio(1, 8)[0]:.1f} times as long as one")

# %% [markdown]
# On a GPU a batch fills thousands of lanes that one image leaves empty. A CPU has few cores, and one image may keep
# them busy already. Then a batch of eight takes eight times as long, and the rate stays flat; it may even fall, once
# the activations no longer fit into the caches. Where it rises, one image did not keep the cores busy, for instance
# because they wait for each other after every layer.
#
# ## Why?
#
# ### The graph, before and after
#
# The compiled model can be read as a graph too: `get_runtime_model()`. Each of its nodes knows which operations of the
# file it was made of, which kernel runs it, and, with `PERF_COUNT`, how long it took: the mean of all runs, with the
# first one, which is often slower, among them.


# %%
def executed_layers(precision, runs=20):
    """Return the layers that a compiled MobileNetV2 executes, with their mean milliseconds."""
    asked = Workload("mobilenet_v2", 1, precision, "cpu")
    compiled = compile_ir(path, asked, {"PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True})
    request = compiled.create_infer_request()
    for _ in range(runs):
        request.infer([picture])
    table = pd.DataFrame(layers(compiled)).query("execTimeMcs != 'not_executed'")
    return table.assign(ms=table["execTimeMcs"].astype(float) / 1e3)


executed = executed_layers("fp32")
print(f"{sum(count_operations(graph).values())} operations in the file, {len(executed)} layers executed")

# %% [markdown]
# What became one layer?

# %%
kinds = {node.get_friendly_name(): node.get_type_name() for node in graph.get_ops()}
origins = [" + ".join(kinds[n] for n in names.split(",") if n in kinds) for names in executed["originalLayersNames"]]
made = Counter(origin or "(a change of layout)" for origin in origins)
fused = pd.DataFrame(made.most_common(), columns=["made of", "layers"])
tables.show_table(fused, f"Executed layers of MobileNetV2, FP32. {lab.machine_name}.")

# %% tags=["remove-cell"]
glue("11-layers", len(executed))
glue("11-fused", sum("+" in origin for origin in origins))

# %% [markdown]
# Of {glue:text}`11-layers` layers, {glue:text}`11-fused` hold several operations of the file: a convolution with its
# bias, its ReLU6 or the shortcut of a residual block. There the result is finished while it is still in registers or in
# the nearest cache. PyTorch's loop writes every intermediate result out and reads it again for the next operation. The
# last layer, a matrix product with its bias, is known by its `Add` alone.
#
# ### Which kernels?
#
# The name of a kernel says what it is for: `dw` is a depthwise convolution, `1x1` one that looks at no neighbours, and
# the ending is the type of its operands. `avx2` and `avx512` are instructions for vectors of 256 and 512 bits, `amx` is
# {term}`AMX`, which multiplies small matrices of 16 or 8 bits.

# %%
has_bf16 = backend.supports(Workload("mobilenet_v2", 1, "bf16", "cpu")).ok
tried = [find_precision(name) for name in (("fp32", "bf16") if has_bf16 else ("fp32",))]
both = pd.concat(executed_layers(precision.name).assign(precision=precision.title) for precision in tried)
kernels = both.groupby(["precision", "primitiveType"], sort=False)["ms"].agg(["count", "sum"]).reset_index()
kernels = kernels.sort_values(["precision", "sum"], ascending=False).groupby("precision", sort=False).head(4)
kernels.columns = ["precision", "kernel", "layers", "ms"]
tables.show_table(kernels, f"The four kernels that take longest, MobileNetV2, batch 1. {lab.machine_name}.")

# %% [markdown]
# And all kernels together:

# %%
sums = both.groupby("precision", sort=False)["ms"].sum()
print(", ".join(f"{precision}: {total:.2f} ms in all layers" for precision, total in sums.items()))

# %% [markdown]
# BF16 halves the bytes that move and, where the processor multiplies it, shortens the products. A depthwise convolution
# has few products for each byte, so what it can gain comes from the bytes. What BF16 costs are layers that convert
# between the types: `jit_uni_f32`, where the table has it, are such layers, for the image and for the biases.
#
# Do not read the gain from these sums. They are means with a cold run among them, the counters were on, and the two
# precisions did not take turns. The rows of the benchmark did: there, BF16 is {glue:text}`11-bf16-fp32`.
#
# ## Knobs
#
# ### Threads and pinning
#
# The hints set these; each can be set by hand as well. One at a time, latency hint, FP32, batch 1:

# %%
threads = latency.get_property("INFERENCE_NUM_THREADS")
knobs = {
    "latency hint": {},
    "one thread": {"INFERENCE_NUM_THREADS": 1},
    "half of the threads": {"INFERENCE_NUM_THREADS": max(1, threads // 2)},
    "no pinning": {"ENABLE_CPU_PINNING": False},
    "hyper-threading": {"ENABLE_HYPER_THREADING": True},
    "performance cores": {"SCHEDULING_CORE_TYPE": "PCORE_ONLY"},
}


def request_with(options):
    """Return a call of one request, in FP32 unless the options say otherwise."""
    compiled = core.compile_model(static(), "CPU", fp32 | {"PERFORMANCE_HINT": "LATENCY"} | options)
    request = compiled.create_infer_request()
    return lambda: request.infer([picture], share_inputs=True)


turns = lab.turns({name: request_with(options) for name, options in knobs.items()})
caption = f"MobileNetV2, FP32, batch 1. {lab.machine_name}, {threads} threads by the hint."
tables.show_table(turns.table().rename(columns={"": "option"}), caption, {"times faster": "{:.2f}"})

# %% [markdown]
# How much do the threads gain together?

# %%
print(f"{threads} threads are {turns.ratio('latency hint', 'one thread')[0]:.1f} times as fast as one")

# %% [markdown]
# An effect of *none* is one that the noise hides.
#
# *Threads.* One thread against all of them shows how well the network divides. After each layer, all threads wait for
# the slowest, so it never divides perfectly.
#
# *Pinning* binds each thread to a core, so that its caches stay warm. On a machine of its own that helps or does
# nothing. Where other programs use the same cores, a pinned thread cannot step aside.
#
# *Hyper-threading* runs two threads on one core. The latency hint leaves it off, since two threads share one core's
# vector units. Where the machine shows one thread for each core, the option changes nothing.
#
# *Performance cores.* Some processors mix fast and slow cores, and a layer is done when its slowest thread is.
# `SCHEDULING_CORE_TYPE` chooses a kind; where there is only one, it changes nothing {cite}`openvino_threads`.
#
# ### How many requests?
#
# The throughput hint knows how many requests it wants. What do fewer give, and what more?


# %%
def images_per_second(compiled, requests):
    """Return images per second with ``requests`` requests of one image each in flight."""
    queue, images = ov.AsyncInferQueue(compiled, requests), ov.Tensor(picture, shared_memory=True)
    queue.start_async([images])
    queue.wait_all()
    submit = lambda _: queue.start_async([images], share_inputs=True)  # noqa: E731
    return fill_budget(submit, queue.wait_all, 1, lab.profile.budget_s, at_once=requests).images_per_s


optimal = throughput.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
counts = sorted({1, max(1, optimal // 2), optimal, 2 * optimal})
flying = {f"{count} in flight": images_per_second(throughput, count) for count in counts}
flying["latency hint, 1 in flight"] = images_per_second(latency, 1)

# %% [markdown]
# The latency hint with its one request stands below them:

# %%
plots.show_bars(
    flying,
    "#CC79A7",
    "images per second",
    alt="Images per second of mobilenet_v2 with rising numbers of requests in flight.",
    caption=f"MobileNetV2, FP32, batch 1, throughput hint: {optimal} requests are optimal. {lab.machine_name}.",
)

# %% [markdown]
# A request beyond the number of streams waits in the queue. It may still help, because the next one is there the moment
# a stream is free. Each bar is one measurement, and they did not take turns: a small difference may be noise.
#
# ### A fixed or an open batch
#
# The file's batch is open. Fixing it with `reshape` before compiling lets the plugin plan everything for one size.
# Leaving it open, one compiled model takes any batch, and kernels are chosen when a size is first seen.


# %%
def first_answer(compile_it, batch):
    """Return the milliseconds until the first answer at ``batch``, and a function that makes the later calls."""
    images = np.repeat(picture, batch, axis=0)
    start = time.perf_counter()
    request = compile_it().create_infer_request()
    request.infer([images])
    return (time.perf_counter() - start) * 1e3, lambda: request.infer([images])


low = fp32 | {"PERFORMANCE_HINT": "LATENCY"}
open_batch = core.compile_model(path, "CPU", low)
calls = {
    ("fixed", size): first_answer(lambda b=size: core.compile_model(static(b), "CPU", low), size) for size in (1, 3)
}
calls |= {("open", size): first_answer(lambda: open_batch, size) for size in (1, 3)}
turns = lab.turns({name: call for name, (_, call) in calls.items()})
rows = [
    {"shape": shape, "batch": size, "first answer, ms": first, "later, ms": turns.ms((shape, size))}
    | {"effect of leaving it open": turns.effect((shape, size), ("fixed", size)) if shape == "open" else "-"}
    for (shape, size), (first, _) in calls.items()
]
tables.show_table(pd.DataFrame(rows), f"MobileNetV2, FP32. {lab.machine_name}.")

# %% [markdown]
# A new size costs a compilation where the batch is fixed, and a first call that chooses kernels where it is open. (The
# first answers of the open model do not count its one compilation.)
# Whether the later calls differ depends on the network: here all other dimensions are known, and there are reports of
# models, with sentences of any length, for which open shapes cost much more
# ([openvino#15831](https://github.com/openvinotoolkit/openvino/issues/15831)). Measure yours.
#
# ### The model cache
#
# Compiling takes time at every start. With `CACHE_DIR`, the compiled model is written to a folder and found there next
# time {cite}`openvino_cache`.


# %%
def seconds_to_compile(options):
    """Compile in a new ``Core``, which remembers nothing; return the seconds and whether the cache had it."""
    start = time.perf_counter()
    compiled = ov.Core().compile_model(path, "CPU", fp32 | options)
    return time.perf_counter() - start, compiled.get_property("LOADED_FROM_CACHE")


cache = {"CACHE_DIR": str(Path(scratch.name) / "cache")}
starts = {"without a cache": {}, "first time with one": cache, "second time": cache}
seconds = {name: seconds_to_compile(options) for name, options in starts.items()}
kept = sum(file.stat().st_size for file in (Path(scratch.name) / "cache").iterdir())
for name, (duration, found) in seconds.items():
    print(f"{name}: {duration * 1e3:.0f} ms{', from the cache' if found else ''}")
print(
    f"{kept / 1e6:.1f} MB in the cache, {path.with_suffix('.bin').stat().st_size / 1e6:.1f} MB of weights in the file"
)

# %% [markdown]
# For a small network on this CPU, that is all there is to save, and the cache holds the weights a second time. For
# large models, and on the other plugins, it is worth more
# ([optimum-intel#347](https://github.com/huggingface/optimum-intel/issues/347)).
#
# ### Preprocessing inside the graph
#
# What turns pixels into the model's input can be made part of the graph. The caller then hands over bytes, here 28 by
# 28 for each image instead of three times 224 by 224 floating-point numbers, and the plugin compiles the preparation
# with the rest.

# %% tags=["nbval-check-output"]
from openvino.preprocess import PrePostProcessor, ResizeAlgorithm


def with_preprocessing(batch):
    """Return the graph with an input of bytes (N x 1 x 28 x 28): scaled, normalized, enlarged, made three channels."""
    steps = PrePostProcessor(static(batch))
    image = steps.input()
    image.tensor().set_element_type(ov.Type.u8).set_shape([batch, 1, 28, 28]).set_layout(ov.Layout("NCHW"))
    image.model().set_layout(ov.Layout("NCHW"))
    prepare = image.preprocess().convert_element_type(ov.Type.f32).scale(255.0).mean(MEAN).scale(STD)
    prepare.resize(ResizeAlgorithm.RESIZE_LINEAR)
    prepare.custom(lambda grey: ov.opset13.concat([grey] * 3, 1).output(0))
    return steps


print(with_preprocessing(1).build().input())

# %% [markdown]
# Does the graph prepare images as the course does on the host, and what does it save?

# %%
pixels = load_fashion_mnist("test")[0][:1]
inside = core.compile_model(with_preprocessing(1).build(), "CPU", fp32)
host, bytes_in = latency.create_infer_request(), inside.create_infer_request()

expected = host.infer([preprocess(pixels)])[0]
difference = np.abs(bytes_in.infer([pixels[:, None]])[0] - expected).max() / np.abs(expected).max()
turns = lab.turns(
    {
        "by PyTorch": lambda: host.infer([preprocess(pixels)]),
        "in the graph": lambda: bytes_in.infer([pixels[:, None]]),
    }
)
on_host, in_graph = (turns.ms(name) for name in turns.rounds)
print(f"prepared by PyTorch: {on_host:.2f} ms, in the graph: {in_graph:.2f} ms, largest difference {difference:.0e}")
print("effect on the time:", turns.effect("in the graph", "by PyTorch"))

# %% [markdown]
# Whatever the time does, the file now says how its input is prepared, and a program that loads it cannot prepare it
# wrongly.
#
# ## What goes wrong
#
# ### The file is FP32, the answers are not
#
# On a processor with instructions for BF16, OpenVINO computes in BF16 unless told otherwise. There is no warning, the
# file is FP32, and so are input and output. People notice by the logits, or by a benchmark that claims FP32
# ([openvino#28032](https://github.com/openvinotoolkit/openvino/issues/28032)).

# %%
print("this processor offers", ", ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")))
reference = load_pretrained("mobilenet_v2")(torch.from_numpy(picture)).numpy()
for name, options in {"default": {}, "f32 asked for": fp32}.items():
    compiled = core.compile_model(static(), "CPU", options)
    difference = np.abs(compiled([picture])[0] - reference).max() / np.abs(reference).max()
    print(f"{name}: computes in {', '.join(computed_precisions(compiled))}, largest difference {difference:.0e}")

# %% [markdown]
# If the list above holds `BF16`, the two lines differ. If it does not, they agree; BF16 would be emulated there, and
# asking for it makes a model slower ([openvino#18866](https://github.com/openvinotoolkit/openvino/issues/18866)). Say
# `INFERENCE_PRECISION_HINT` explicitly, always: `f32` where the file's own precision is wanted.
#
# ### Asked for is not in use
#
# A hint is not an order. The property of the compiled model repeats what was asked for; the kernels know better. On a
# processor with BF16, a model that was cast before the export keeps its types, whatever the hint says:

# %%
cast = load_pretrained("vanilla_cnn").bfloat16()
half_images = torch.zeros(2, 3, 224, 224, dtype=torch.bfloat16)
half_path = Path(scratch.name) / "cast.xml"
ov.save_model(ov.convert_model(cast, example_input=half_images), half_path, compress_to_fp16=False)

compiled = core.compile_model(half_path, "CPU", fp32)
print("asked for:", compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
print("in use:   ", *sorted(computed_precisions(compiled)))

# %% [markdown]
# The course's own function asks for both, and refuses what does not match:

# %%
try:
    compile_ir(half_path, Workload("vanilla_cnn", 1, "fp32", "cpu"), {})
    print("accepted: without BF16, everything is computed in FP32 here")
except CourseError as error:
    print(error)

# %% [markdown]
# An error in one line beats a number under the wrong label.
#
# ### The file is half as large as expected
#
# `save_model` stores weights in FP16 unless told otherwise
# ([openvino#30041](https://github.com/openvinotoolkit/openvino/issues/30041)). They are widened to FP32 when the file
# is loaded, so nothing gets faster, and the rounding stays.

# %%
default = Path(scratch.name) / "default.xml"
ov.save_model(core.read_model(path), default)
for file in (path, default):
    compiled = core.compile_model(file, "CPU", fp32)
    difference = np.abs(compiled([picture])[0] - reference).max() / np.abs(reference).max()
    size = file.with_suffix(".bin").stat().st_size / 1e6
    print(f"{size:.1f} MB, computes in {', '.join(computed_precisions(compiled))}, largest difference {difference:.0e}")

# %% [markdown]
# Half the size may well be worth it. But then it is a decision, and the label should say so.
#
# ### The throughput hint, and one caller
#
# "I set THROUGHPUT and it got slower" is a program that waits for every answer before it sends the next image
# ([openvino#16038](https://github.com/openvinotoolkit/openvino/issues/16038)). One stream works, the others idle.

# %%
requests = {
    name: model.create_infer_request() for name, model in {"throughput": throughput, "latency": latency}.items()
}
turns = lab.turns({name: lambda r=request: r.infer([picture], share_inputs=True) for name, request in requests.items()})
for name in turns.rounds:
    print(f"{name} hint, waiting for each answer: {1e3 / turns.ms(name):,.0f} images/s")
print("the effect of the throughput hint, waiting:", turns.effect("throughput", "latency"))
print(f"throughput hint, {optimal} in flight: {images_per_second(throughput, optimal):,.0f} images/s")

# %% [markdown]
# Use the hint together with a queue, or use the latency hint.
#
# ### Several processes, the same cores
#
# With pinning and few threads, every process binds its threads to the same first cores: ten processes with one thread
# each were seen to share one core of a large machine
# ([openvino#32444](https://github.com/openvinotoolkit/openvino/issues/32444)). A container with a CPU quota has a
# similar problem: threads are counted from the cores that can be seen, not from the quota
# ([openvino#37838](https://github.com/openvinotoolkit/openvino/issues/37838)). Say how many threads you want, and
# leave the choice of cores to the operating system:

# %%
shared = core.compile_model(static(), "CPU", fp32 | {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False})
for name in ("INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING"):
    print(f"{name}: {latency.get_property(name)} by the hint, {shared.get_property(name)} for one of many processes")

# %% [markdown]
# One thread, on any core: the operating system puts it where there is room.
#
# ### The batch does not fit
#
# A model compiled for one image refuses four. It says so, at least:

# %%
four = np.repeat(picture, 4, axis=0)
try:
    latency([four])
except RuntimeError as error:
    print(next(line for line in str(error).splitlines() if "incompatible" in line))

# %% [markdown]
# Compiled for four, it takes four:

# %% tags=["nbval-check-output"]
print(core.compile_model(static(4), "CPU", fp32)([four])[0].shape)

# %% [markdown]
# A wrong *type* is not refused: an array of bytes is converted, unscaled, and the answer is nonsense. Preprocessing
# inside the graph is one way out; another is to check the dtype at the door.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-11-streams
# Compile with `{"NUM_STREAMS": n, "PERFORMANCE_HINT": "THROUGHPUT"}` for several `n`. How many images a second does
# each answer from a full queue, and how many milliseconds does one request take alone? Which would you choose for a web
# service?
# ```
#
# ````{solution} ex-11-streams
# :class: dropdown
# ```python
# for streams in sorted({1, 2, optimal}):
#     hinted = {"NUM_STREAMS": streams, "PERFORMANCE_HINT": "THROUGHPUT"}
#     compiled = core.compile_model(static(), "CPU", fp32 | hinted)
#     alone = compiled.create_infer_request()
#     milliseconds = lab.time(lambda r=alone: r.infer([picture], share_inputs=True)).p50
#     print(f"{streams} streams: {images_per_second(compiled, streams):,.0f} images/s, {milliseconds:.2f} ms alone")
# ```
# Few streams put many threads on each request, many streams few. A service has a limit for its latency: take the
# largest number of streams that stays under it, at the load you expect.
# ````
#
# ```{exercise}
# :label: ex-11-branch
# Write a module whose `forward` returns `x` if `x.sum() > 0` and `-x` otherwise. Convert it with
# `ov.convert_model(module, example_input=torch.ones(1))`. What does it answer to -1? And what does `torch.export` say?
# ```
#
# ````{solution} ex-11-branch
# :class: dropdown
# ```python
# class Magnitude(torch.nn.Module):
#     """A model with a condition."""
#
#     def forward(self, x):
#         """Return ``x`` or its opposite."""
#         return x if x.sum() > 0 else -x
#
#
# minus_one = torch.tensor([-1.0])
# with warnings.catch_warnings():
#     warnings.simplefilter("ignore", torch.jit.TracerWarning)
#     traced = core.compile_model(ov.convert_model(Magnitude(), example_input=torch.ones(1)), "CPU")
# print("the module:", Magnitude()(minus_one).item(), "| its trace:", traced([minus_one.numpy()])[0].item())
# try:
#     torch.export.export(Magnitude(), (torch.ones(1),))
#     print("torch.export: accepted")
# except Exception as error:
#     print(f"torch.export: refused, {type(error).__name__}")
# ```
# The traced graph keeps the branch of the example, and the condition is gone; PyTorch prints a warning at best.
# `torch.export` refuses, because the branch depends on data; `torch.cond` would express it.
# ````
#
# ```{exercise}
# :label: ex-11-resnet
# Repeat "Which kernels?" for `resnet18`, which has six times the products of MobileNetV2 and fewer activations. How
# many times faster are all layers together in BF16? Does it gain more than MobileNetV2, or less?
# ```
#
# ````{solution} ex-11-resnet
# :class: dropdown
# ```python
# milliseconds = {"mobilenet_v2": dict(sums)}
# path = build(backend, Workload("resnet18", 1, "fp32", "cpu")).directory / MODEL_FILE
# milliseconds["resnet18"] = {found.title: executed_layers(found.name)["ms"].sum() for found in tried}
# for model, spent in milliseconds.items():
#     gain = f", {spent['FP32'] / spent['BF16']:.1f} times faster in BF16" if "BF16" in spent else ", no BF16 here"
#     print(f"{model}: {spent['FP32']:.2f} ms in FP32{gain}")
# ```
# Nearly all of ResNet-18's products are in dense convolutions, which is where BF16 products count; the depthwise ones
# of MobileNetV2 gain by the bytes alone. The times are means with the cold first run among them, so a small gain may
# not show: more `runs` give it less weight.
# ````
#
# ## Key points
#
# - How fast a CPU answers is decided when the graph is compiled for it: fusion, layout, precision, threads. Converting
#   is done once, compiling on the machine that will answer.
# - Hints say what you want. `LATENCY` puts all cores on one request, `THROUGHPUT` wants a queue that is never empty.
# - On a processor with BF16, an FP32 file is computed in BF16 until you ask for `f32`. Ask the kernels, not the
#   property.
# - `save_model` writes FP16 unless told otherwise.
# - Streams are a second way, beside batches, to fill a processor. Measure which one fills yours.
#
# ## Further reading
#
# The documentation of OpenVINO {cite}`openvino`, above all its pages on performance hints {cite}`openvino_hints`, on
# threads {cite}`openvino_threads` and on the model cache {cite}`openvino_cache`. The kernels come from oneDNN
# {cite}`onednn`, which PyTorch uses on CPUs, too.
