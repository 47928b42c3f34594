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
# # Quantization
#
# Eight bits are a quarter of thirty-two. Why is the INT8 model not four times as fast, why is it sometimes slower, and
# is it still the same model?
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# to quantize a trained network in four frameworks, to prove what it lost, and to find out why it did not get faster
# :::
# :::{grid-item-card} You need
# the chapters on measuring, on the roofline and on ONNX Runtime; a GPU for one part
# :::
# :::{grid-item-card} To read
# 35 minutes
# :::
# :::{grid-item-card} To run
# {{ run_times }}
# :::
# ::::

# %% [markdown]
# ## Why eight bits?
#
# A processor multiplies more small numbers than large ones at a time: where one FP32 number fits, four 8-bit integers
# do. Small numbers also cost less to move. A network that was trained in FP32 mostly does not need all of its digits,
# so they can be dropped after training. That is *post-training* {term}`quantization`
# {cite}`quantization_paper,quantization_white_paper`.
#
# What has to be chosen is the {term}`scale`: how much one step is worth. For weights, it follows from the weights. For
# activations, the numbers that flow between the layers, it follows from pictures, which is called {term}`calibration`.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import logging
import os
import tempfile
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
import rich
import torch
from IPython.display import Markdown, display
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic
from torch import nn

from inference_lib import MODELS, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends import openvino as openvino_backend
from inference_lib.backends.onnxruntime import INPUT, MODEL_FILE, RECORD_ASSIGNMENT, export_onnx, open_session
from inference_lib.backends.shared.quantization import executed_percent, multiplies_eight_bits, quantize_onnx
from inference_lib.measure.operations import timeline
from inference_lib.measure.roofline import bounds, ceilings, multiplied, never_passed, work_of
from inference_lib.records.comparison import SAME_WITHIN, compare
from inference_lib.records.store import select, select_all
from inference_lib.report import glue, plots, show_source, tables, words
from inference_lib.seam import PRECISIONS, Calibration, Workload, build, find_artifact
from inference_lib.support.errors import CourseError

ort.set_default_logger_severity(3)
logging.getLogger().setLevel(logging.ERROR)  # the quantizers give advice that this page gives, too
warnings.filterwarnings("ignore", category=FutureWarning)
rich.reconfigure(force_jupyter=False, quiet=True)  # what NNCF draws its bars with
scratch = Path(tempfile.mkdtemp())

lab = open_lab(profile, device, records_dir)
full = lab.profile.name == "full"
models = ["vanilla_cnn", *(name for name in MODELS if full and name != "vanilla_cnn")]
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% tags=["hide-input"]
stages = [
    ["FP32\nmodel"],
    ["calibration:\ntraining pictures"],
    ["scales"],
    ["graph with\nQ and DQ nodes"],
    ["integer\nkernels"],
]
figure, (axes,) = plots.new_figure(height=1.6)
plots.flow(stages, axes)
plots.show_figure(
    figure,
    alt="Flow: an FP32 model, calibration on training pictures, scales, a graph with Q and DQ nodes, integer kernels.",
    caption="From FP32 to integers. Only the last step makes anything faster, and nothing says so if it is left out.",
)

# %% [markdown]
# ## One tensor in eight bits
#
# A real number $x$ becomes the integer $q = \mathrm{round}(x / s) + z$, and $q$ stands for $s\,(q - z)$. The scale $s$
# is the size of a step, the {term}`zero point` $z$ the integer that means zero. What does not fit is cut off.


# %% tags=["nbval-check-output"]
def quantize(x, scale, zero, low, high):
    """Return the integers that stand for ``x``."""
    return np.clip(np.round(x / scale) + zero, low, high).astype(int)


def dequantize(q, scale, zero):
    """Return the real numbers that the integers stand for."""
    return scale * (q - zero)


x = np.array([0.0, 0.1, 1.0, 2.5, 6.0])
scale = x.max() / 255
q = quantize(x, scale, 0, 0, 255)
print("integers:   ", q)
print("stand for:  ", dequantize(q, scale, 0).round(3))
print("half a step:", round(scale / 2, 4), " largest error:", np.abs(dequantize(q, scale, 0) - x).max().round(4))

# %% [markdown]
# The error is half a step at most, and a step is the largest number over 255. So a single {term}`outlier` makes every
# other number coarser; what to do about outliers is the whole art of calibration.
#
# *Symmetric* means $z = 0$. That spares the correction that a zero point adds to every sum, and wastes half of the
# integers on a tensor that is never negative. *Affine* uses them all. After a ReLU the two meet: unsigned integers with
# $z = 0$ waste nothing.
#
# ## How fast can it be?
#
# The ceilings come first, as in the [chapter on the roofline](03_where_the_time_goes): large products, and a large
# copy. They are those of the processor and, where there is one, of the GPU.

# %%
found = {kind: ceilings(kind) for kind in dict.fromkeys(("cpu", lab.device))}
for kind, roof in found.items():
    rates = {PRECISIONS[name].title: roof.flops[name] / 1e12 for name in multiplied(kind)}
    alt = f"Bars: the highest rate of products in each precision that {roof.machine} multiplies in."
    unit, caption = "10¹² operations per second", f"Large products. {roof.machine}."
    display(plots.show_bars(rates, "#0072B2", unit, alt, caption))

# %% [markdown]
# Two bounds follow for each network. If its products took all the time, it would gain what the bars say. If its memory
# traffic did, it would gain the ratio of the sizes. A network gains what the *slower* of the two leaves. A row further
# down may be quicker than its bound all the same: a ceiling that was measured too low is none, and a cache saves
# traffic. Each bar is the best of a few products in PyTorch, so it tells of a library as well. INT8 and FP8, where both
# are there, have as many bits: if one bar is much lower, other kernels may well exceed it.
#
# *At most times faster* is the ratio of two bounds: what a program gains that reaches both. One that stays further from
# its bound in more bits than it does in eight gains more.


# %%
def bound(model, batch_size, precision, traffic, roof):
    """Return the milliseconds that a batch takes at least, and what takes them."""
    times = bounds(work_of(model, batch_size, precision), roof, precision, traffic)
    slowest = max(times, key=times.__getitem__)
    return times[slowest] * 1e3, slowest


def predict(batch_size, more, roof):
    """Return each model's bounds in ``more`` bits and in INT8, and their ratio."""
    rows = []
    for model in MODELS:
        for traffic in ("unfused", "fused"):
            (before, _), (after, limit) = (bound(model, batch_size, p, traffic, roof) for p in (more, "int8"))
            rows.append({"model": model, "traffic": traffic, f"{PRECISIONS[more].title}, ms": before})
            rows[-1] |= {"INT8, ms": after, "at most times faster": before / after, "limited by": limit}
    return pd.DataFrame(rows)


for kind, roof in found.items():
    batch, more = (256, "fp16") if kind == "cuda" else (1, "fp32")
    caption = f"Bounds at batch {batch}, by the rates above. {roof.machine}."
    display(tables.show_table(predict(batch, more, roof), caption, {"at most times faster": "{:.1f}"}))

# %% [markdown]
# Guess before you read on: which of the three networks gains most in practice, and which least? MobileNetV2 has many
# activations and few products.
#
# :::{dropdown} What was measured
# The best framework in eight bits against its own FP32, on a CPU: {glue:text}`13-gained`.
#
# On a GPU's device alone, INT8 at the largest batch against the best FP16 row of those measured:
# {glue:text}`13-gained-gpu`.
#
# How near each comes to its bound, the columns *bound* and *ms* of the tables [further down](#how-fast-is-it) say.
# :::
#
# ## Export, in four ways
#
# **ONNX Runtime** writes the scales into the graph {cite}`ort_quantization`. Every tensor that shall be an integer gets
# two nodes ({term}`Q/DQ`): `QuantizeLinear` rounds it, `DequantizeLinear` gives it back. The graph stays one of FP32
# operations, and can be read, and checked, as such. When a session loads it, it fuses the pattern.

# %%
show_source(quantize_onnx)

# %% [markdown]
# `quant_pre_process` folds batch norms and infers shapes. The pictures it is calibrated with are never those of the
# test:

# %%
show_source("inference_lib.seam.calibration", "Calibration")

# %% [markdown]
# **OpenVINO** leaves the work to NNCF, the Neural Network Compression Framework {cite}`nncf`. It knows what OpenVINO
# can fuse, and corrects biases for what rounding shifts on average. It can also find the layers that [stay in
# FP32](section-13-spared).

# %%
show_source("inference_lib.backends.openvino", "quantize_ir")

# %% [markdown]
# **PyTorch** captures a program, lets a *quantizer* annotate it for one kind of hardware, observes it, and writes the
# nodes in. `torch.compile` fuses them {cite}`torchao_pt2e`. Two traps: the functions of the same names that were once
# in `torch.ao` are gone, and a program that was not captured with `strict=True` is left in FP32 without a word
# ([pytorch#160095](https://github.com/pytorch/pytorch/issues/160095) is a relative of this). A convolution that reads
# the picture itself stays in FP32 here, for the reason that the function gives; its part of the work is missing in the
# column of eight bits.

# %%
show_source("inference_lib.backends.shared.pt2e", "quantize_program")

# %% [markdown]
# **TensorRT** wants signed numbers with their zero at zero, and it fuses a convolution with bias, shortcut and ReLU.
# What it fuses must not be rounded in between, so only the inputs of products are quantized. ONNX Runtime's provider
# takes the same graph. Torch-TensorRT compiles no graph but a program, and wants [another
# package](../book/symptoms.md#torch-tensorrt-does-not-take-a-quantized-program) to have rounded it.

# %%
show_source("inference_lib.backends.tensorrt", "signed_inputs")

# %% [markdown]
# ### A look into the file
#
# Three graphs: as it was exported, with its Q and DQ nodes, and what a session makes of it. The last one counts; a
# session writes it to the path in `optimized_model_filepath`.


# %%
def exported(model):
    """Return the path of the FP32 graph."""
    return build(get_backend("onnxruntime"), Workload(model, 1)).directory / MODEL_FILE


def quantized(model, name, pictures=8, **settings):
    """Return the path of a quantized graph, calibrated with so many pictures."""
    path = scratch / f"{model}-{name}.onnx".replace(" ", "-").replace("/", "-")
    quantize_onnx(exported(model), path, Workload(model, 1, "int8", "cpu", Calibration(pictures)), **settings)
    return path


def session(path, optimized=None):
    """Open a graph on the CPU."""
    options = ort.SessionOptions()
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def operators(path):
    """Count a graph's operators by name."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


in_eight_bits = quantized("vanilla_cnn", "as the course does")
session(in_eight_bits, scratch / "optimized.onnx")
graphs = {"exported": exported("vanilla_cnn"), "quantized": in_eight_bits, "as it runs": scratch / "optimized.onnx"}
counts = pd.DataFrame({name: operators(path) for name, path in graphs.items()}).fillna(0).astype(int)
tables.show_table(counts.rename_axis("operator").reset_index(), "Operators of vanilla_cnn's graph.")

# %% [markdown]
# `QLinearConv` and `QGemm` multiply integers. What is still called `Conv` in the last column multiplies FP32 numbers,
# and a label "INT8" over such a graph would be wrong. The file cannot tell: with Q and DQ nodes, every product in it is
# still a `Conv` or a `Gemm`, and which of them become products of integers is up to who opens it. The `Relu` nodes are
# gone as soon as there are Q nodes behind them: where the smallest unsigned integer stands for zero, rounding to it
# cuts off what is negative.
#
# So the course reads back, for every export in eight bits, which part of the multiply-adds really has 8-bit factors:
# from this graph, from the kernels' names in OpenVINO, from a profile in PyTorch, from the plans of cuDNN. That is the
# column *in 8 bits %* below.
#
# ## Is it still the same model?
#
# The rows of the framework chapters stand beside those in eight bits. A framework that has none says why. The full
# profile adds BF16, batches of 32, and `torch.compile`, for the small network alone, because it compiles for long; and
# it lets rows in eight bits answer all 10,000 test pictures, on a CPU, too. OpenVINO's throughput mode works on many
# requests at once; it gets requests of one picture, and of eight, as a service has that gathers them. Exports of the
# small network in eight bits are timed, one after the other; others are made side by side, if they are not there
# already.
#
# A GPU is asked at the two ends of the curve: one picture, where launches take the time, and the largest batch, where
# products do. Where there is no GPU, its rows are those of the published edition.

# %%
frameworks = ["onnxruntime", "openvino", *(["openvino-throughput"] if full else [])]
precisions = ["fp32", "int8", *(["bf16"] if full else [])]
compiled = ["torch-compile"] if full else []
on_host = lab.benchmark(frameworks + compiled, models[:1], precisions, [1], "cpu")
on_host += lab.benchmark(frameworks, models[1:], precisions, [1], "cpu", time_exports=False)
if full:  # enough for every core
    on_host += lab.benchmark(["onnxruntime", "openvino"], models, precisions, [32], "cpu", time_exports=False)
    on_host += lab.benchmark(["openvino-throughput"], models, precisions, [8], "cpu", time_exports=False)
if lab.device == "cuda":
    frameworks_gpu = ["pytorch-cudagraph", "torch-compile", "cudnn", "tensorrt", "onnxruntime-tensorrt"]
    lab.benchmark(frameworks_gpu, models, ["fp16", "int8", "fp8"], lab.profile.ends("cuda"))
shelf = select_all(lab.gpu_records(), precision=["fp16", "int8", "fp8"])  # measured here, else published
on_gpu = [record for model in MODELS for record in sorted(select_all(shelf, model=model), key=lambda r: r.batch_size)]


def calibrated(record):
    """Say whether a row is one in eight bits."""
    return PRECISIONS[record.precision].calibrated


lacking = {"cpu": ["tvm", "aot-inductor"]}
if on_gpu:
    lacking["cuda"] = ["onnxruntime", "tvm", "torch-tensorrt", "aot-inductor"]
measured = on_host + on_gpu
asked = [(get_backend(name), Workload("vanilla_cnn", 1, "int8", kind)) for kind in lacking for name in lacking[kind]]
reasons = [f"{backend.title} (INT8, {where.device}): {backend.supports(where).reason}" for backend, where in asked]
reasons += dict.fromkeys(f"{words.label(r)}: {r.why_not}" for r in filter(calibrated, measured) if r.why_not)
in_eight = [r for r in filter(calibrated, measured) if r.ok]
caption = f"What eight bits lost against FP32, on the same pictures. {plots.provenance(in_eight)}"
lost = tables.accuracy_lost(measured)
tables.show_table(lost.drop(columns="images", errors="ignore") if full else lost, caption, notes=reasons)

# %% [markdown]
# How to read it. *Points* is the difference in accuracy. Both models saw the same pictures, so the comparison is
# paired: only those that exactly one of them classifies correctly say anything. Among equally good models these are
# won as often as lost, which is a coin, and *p* is how often a coin falls as unevenly (McNemar's exact test
# {cite}`mcnemar`). The interval says how large the difference may be on other pictures of this kind. cuDNN has an
# export for each batch size: a slow layer that was found quicker in FP16 stays there, so its share may differ. Linear
# layers stay there in any case, and in FP8 the first convolution, too. Where one batch size of a network loses clearly
# more than the other, look for [a race](section-13-race) before you blame the rounding.
#
# An accuracy that is 0.1 points lower on a thousand pictures is one answer more lost than won, which is no evidence of
# anything. Nor is one that is higher. On all 10,000, it is ten answers, and what counts is out of how many: 15 lost and
# 5 won have a *p* of 0.04, but 55 lost and 45 won one of 0.37. Where the last column says "loses", luck alone does as
# much in one comparison of twenty at most; where it says "cannot tell", it does so more often: ask more pictures. Mind
# that a table of twenty rows *has* twenty comparisons, so one of them may well be luck. Nor does a second row of the
# same export, such as OpenVINO's in its other mode, confirm the first: its answers are the same.

# %% tags=["remove-cell"]
halves = dict.fromkeys(record.title for record in select(on_gpu, precision="fp16") if record.ok)
glue("13-halves", ", ".join(halves) or words.NOT_MEASURED)
pictures_seen = int(lost["images"].min()) if len(lost) else 0
told = Counter(lost["so"]) if len(lost) else Counter()
glue("13-pictures", f"{pictures_seen:,}")
glue(
    "13-told",
    f"{told['loses']} of {len(lost)} rows lose, {told['gains']} gain, of {told['cannot tell']} one cannot tell",
)

# %% [markdown]
# Here, on {glue:text}`13-pictures` pictures or more: {glue:text}`13-told`.
#
# ## How fast is it?
#
# Each row in eight bits beside the same framework's row in FP32 (on a GPU, FP16), and beside the best such row of the
# frameworks that were measured. The interval is that of the ratio to that best row, above 1 where eight bits are
# faster. Rows that took turns are compared round by round, so a ratio need not be that of the two medians in the table,
# and may even lie on the other side of 1 where one cannot tell. A bare number is the ratio of a quick run.
#
# The *bound* is that of fused traffic. A rate of products that a row of the same machine exceeds was no ceiling, so it
# gives no bound here, and a table without any has no such column. A row that is quicker than its bound all the same may
# have found its numbers in a cache.

# %%
published = {"cuda": lab.gpu_ceilings()} if on_gpu and "cuda" not in found else {}
roofs = {kind: never_passed(roof, measured) for kind, roof in (found | published).items() if roof}


def least_ms(record):
    """Return the bound of fused traffic for a row, ms; None without the ceilings of its device."""
    roof = roofs.get(record.device)
    if not roof or record.precision not in roof.flops:
        return None
    return bound(record.model, record.batch_size, record.precision, "fused", roof)[0]


def ms_of(record, kind):
    """Return a row's median, ms, end to end or on the device."""
    return record.median(kind).value


# %% [markdown]
# The table has a row for each export in eight bits, and asks for a kind of time: end to end, or on the device.


# %%
def gains(records, kind="end_to_end"):
    """Return a row for each export in eight bits: its time, its rivals' in more bits, and how it compares."""
    rows = []
    for record in (r for r in filter(calibrated, records) if r.ok):
        before = "fp16" if record.device == "cuda" else "fp32"
        same = {"model": record.model, "batch_size": record.batch_size, "device": record.device, "precision": before}
        rivals = select(records, **same)
        own, best = select(rivals, backend=record.backend), min(rivals, key=partial(ms_of, kind=kind), default=None)
        found = compare(best, record, kind) if best else None
        rows.append(
            {
                "framework": record.title,
                "model": record.model,
                "batch": record.batch_size,
                "precision": PRECISIONS[record.precision].title,
                tables.EIGHT_BITS: record.build.eight_bits_percent,
                "bound, ms": least_ms(record),
                "ms": ms_of(record, kind),
                f"its own {before.upper()}, ms": ms_of(own[0], kind) if own else None,
                "compared with that": words.against(own[0], record, kind) if own else "-",
                f"best {before.upper()}": f"{best.title} {ms_of(best, kind):.3f} ms" if best else "-",
                "compared with the best": words.against(best, record, kind) if best else "-",
                tables.INTERVAL: f"{found.low:.2f}\u2013{found.high:.2f}" if found and found.low else None,
            }
        )
    return pd.DataFrame(rows)


# %% [markdown]
# First on the processor:

# %%
caption = f"End to end, INT8 beside FP32. {plots.provenance([r for r in on_host if r.ok])}"
host_gains = gains(on_host).drop(columns="precision")
tables.show_table(host_gains.dropna(axis="columns", how="all"), caption)

# %% [markdown]
# Some of these rows need a word (the full profile has them all). OpenVINO's throughput mode is for many requests at
# once and lends each of them a part of the cores; the caller here waits for every answer, so the other parts idle, in
# FP32 as in INT8 ([more on that](11_openvino)). `torch.compile` has much of the work left in FP32, as the column *in 8
# bits %* says, so eight bits can shorten the rest alone; what makes it slower than FP32, where it is, no output here
# shows. ONNX Runtime's vanilla_cnn has a profile [further down](#why-not-more).
#
# One caller who waits may leave much of a large processor idle. A service asks how many images a second it answers when
# it is never idle: batch after batch. OpenVINO's throughput mode works on as many at once as it likes, the other rows
# on one after the other. Callers with a thread each may get more out of those: the last exercise of the [chapter on
# ONNX Runtime](07_onnx_runtime) tries that.
#
# Such a rate is measured once, without turns. Where it is far below what the caller who waits got (1,000 times the
# batch over the milliseconds above), something disturbed it: take no ratio from that row. Precisions may differ in the
# batch that suits them best, and a service would give each its own: compare the largest rates of two columns, too, not
# the rates in one row alone.

# %%
busy = [
    {
        "model": record.model,
        "framework": record.title,
        "batch": record.batch_size,
        "precision": PRECISIONS[record.precision].title,
        "images/s": record.throughput_images_per_s,
    }
    for record in on_host
    if record.ok
]
rates = pd.DataFrame(busy).pivot_table("images/s", ["model", "framework", "batch"], "precision").reset_index()
there = [name for name in ("FP32", "BF16", "INT8") if name in rates]
if "INT8" in there:
    for more in there[:-1]:
        rates[f"INT8 over {more}"] = rates["INT8"] / rates[more]
forms = dict.fromkeys(there, "{:,.0f}") | {name: "{:.2f}" for name in rates if "over" in name}
tables.show_table(rates, f"Images per second, without a pause. {lab.machine.name('cpu')}.", forms)

# %% [markdown]
# INT8 may be more than four times as fast as FP32. The size of the numbers alone does not explain that: some processors
# have units for small numbers that FP32 cannot use, such as {term}`AMX`. A column of BF16 that is far more than twice
# FP32's, with numbers half as long, points to them. Where INT8 over BF16 is below 1, sixteen bits answer more, and need
# no calibration.
#
# On a GPU, the time on the device comes first: it is what eight bits can shorten. To be *called* faster, all of it must
# lie beyond {glue:text}`13-same` %, for less is no difference between two processes.

# %% [markdown]
# Then on the GPU, where FP16 is what there is to beat. FP16 rows there: {glue:text}`13-halves`.

# %%
if on_gpu:
    caption = f"On the device, eight bits beside FP16. {plots.provenance([r for r in on_gpu if r.ok])}"
    on_device = gains(on_gpu, "device")
    display(tables.show_table(on_device.dropna(axis="columns", how="all"), caption))
    if not roofs.get("cuda"):
        print("their bounds need the ceilings of that GPU, measured there or published")
else:
    print("needs rows of a GPU, measured here or published")

# %% [markdown]
# A bound of 0.000 ms is less than half a microsecond: one picture's work is next to nothing for a large GPU, and its
# time is [another thing](#batch-1-on-a-large-gpu). A row may be slower than FP16 although its export may leave layers
# in FP16: only slow convolutions are tried in both, by their own times, and the other kernels are not counted.
#
# Then end to end, from the caller's array to the caller's array. The last column is the part of that time in which the
# model does not run: the copies and the host. Pictures and answers cross the bus in 16 bits for either row, so eight
# bits do not shorten that part.

# %%
eights = [record for record in on_gpu if calibrated(record) and record.ok]
for record in eights:
    assert PRECISIONS[record.precision].host_dtype("cuda") == np.float16
if eights:
    table = gains(on_gpu).drop(columns=["bound, ms", tables.EIGHT_BITS, "its own FP16, ms", "compared with that"])
    table["copies and host %"] = [100 * (1 - ms_of(r, "device") / ms_of(r, "end_to_end")) for r in eights]
    caption = f"End to end, eight bits beside FP16. {plots.provenance(eights)}"
    display(tables.show_table(table, caption, {"copies and host %": "{:.0f}"}))

# %% [markdown]
# So INT8 at the largest batch, against the best FP16 row, is what follows. Where the chapter was executed on a GPU, the
# published edition's rows, which are of another run and have the FP16 rows of every chapter, stand below:

# %% tags=["hide-input"]
largest = max((record.batch_size for record in eights), default=0)


def beside_best(record, pool, kind):
    """Tell how a row in eight bits compares with the best FP16 row: the ratio, its interval, the verdict."""
    same = {"model": record.model, "batch_size": record.batch_size, "precision": "fp16"}
    best = min(select(pool, **same), key=partial(ms_of, kind=kind))
    found = compare(best, record, kind)
    said = f" ({found.low:.2f} to {found.high:.2f}: {found.verdict})" if found.low else ""
    return f"{found.ratio:.2f} times the speed of {words.label(best)}{said}"


def overlapped(record, pool):
    """Tell how many images a second a row and the best FP16 row answer with copies and computation overlapped."""
    same = {"model": record.model, "batch_size": record.batch_size, "precision": "fp16"}
    rates = {words.label(r): r.overlapped_images_per_s for r in select(pool, **same) if r.overlapped_images_per_s}
    if not (rates and record.overlapped_images_per_s):
        return "not measured"
    most = max(rates, key=rates.__getitem__)
    return f"{record.overlapped_images_per_s:,.0f} images per second beside {rates[most]:,.0f} of {most}"


def integers(pool):
    """Return the rows in INT8 at the largest batch that has one."""
    return select(pool, precision="int8", batch_size=largest)


edition = select_all(lab.published(), device="cuda", precision=["fp16", "int8"])
lines = []
for pool in (on_gpu, edition) if lab.device == "cuda" else (on_gpu,):
    lines += [f"\n{words.machines(integers(pool))}:\n"] if integers(pool) else []
    lines += [
        f"- {r.model_title}, {words.label(r)}: on the device {beside_best(r, pool, 'device')}, "
        f"{r.throughput_images_per_s:,.0f} images per second back to back; end to end "
        f"{beside_best(r, pool, 'end_to_end')}; copies overlapped: {overlapped(r, pool)}."
        for r in integers(pool)
    ]
Markdown("\n".join(lines) or "No such row was measured.")

# %% tags=["remove-cell"]
told = [f"{r.model_title} {beside_best(r, on_gpu, 'device')}" for r in integers(on_gpu)]
glue("13-gained-gpu", "; ".join(told) or words.NOT_MEASURED)
glue("13-same", f"{100 * SAME_WITHIN:.1f}")
floats = []
for record in select(eights, precision="fp8", batch_size=largest):
    for other in select(eights, model=record.model, precision="int8", batch_size=largest, backend=record.backend):
        shares = [f"{r.build.eight_bits_percent:.0f} % in {PRECISIONS[r.precision].title}" for r in (record, other)]
        floats.append(f"{record.model_title} {words.against(other, record, 'device')} ({' and '.join(shares)})")
glue("13-fp8", "; ".join(floats) or words.NOT_MEASURED)
moved = {name: work_of(name, largest or 256, "int8").intensity_unfused for name in ("resnet18", "mobilenet_v2")}
glue("13-moved", f"{moved['resnet18'] / moved['mobilenet_v2']:.0f}")

# %% [markdown]
# Three things may surprise:
#
# - **End to end** counts the copies, which take as long as before. *Overlapped* is the rate if the next batch is copied
#   while one is computed, as in the [chapter on PyTorch](04_pytorch): there the longer of the two counts.
# - **MobileNetV2** gains less than its bound, which is that of ResNet-18: its depthwise convolutions are computed in
#   FP16, by a kernel that eight bits do not shorten. Its [kernels](section-13-others) show how long that takes, where
#   the exports are at hand.
# - **FP8** has as many bits as INT8. On the device, at that batch size, it is beside INT8 (in brackets, the share of
#   the multiply-adds in eight bits): {glue:text}`13-fp8`. Which layers gain is a matter of the kernels that the library
#   has for them, not of bits alone.

# %% [markdown]
# Eight bits change more than the time, and calibration is not free. The same frameworks' rows in more bits stand
# beside. An export that was made beside others has no time. The file of `torch.compile` is the weights and a cache of
# what was compiled. Energy is that of the whole card under a short steady load, end to end. At batch 1, much of that
# time passes on the host (*copies and host %* above), and a card that waits draws power, too. So a slow host shows as
# energy: look at the times on the device before you believe a difference.

# %%
least = min(record.batch_size for record in measured)
with_eight = {(record.backend, record.device) for record in in_eight}
beside = [record for record in select(measured, batch_size=least) if record.build]
costs = tables.costs(beside)[[(record.backend, record.device) in with_eight for record in beside]]
caption = f"What a row takes beside time, batch {least}. {plots.provenance(in_eight)}"
tables.show_table(costs.sort_values(["model", "framework"], kind="stable"), caption)

# %% tags=["remove-cell"]
pairs_of = {}
for record in (r for r in filter(calibrated, on_host) if r.ok):
    same = {"backend": record.backend, "model": record.model, "batch_size": record.batch_size, "precision": "fp32"}
    for own in select(on_host, **same):
        pairs_of.setdefault(record.model, []).append((own, record))
gained = {
    model: max(pairs, key=lambda pair: ms_of(pair[0], "end_to_end") / ms_of(pair[1], "end_to_end"))
    for model, pairs in pairs_of.items()
}
said = [
    f"{model} {words.times_faster([own], [eight])} ({eight.title}, batch {eight.batch_size})"
    for model, (own, eight) in gained.items()
]
glue("13-gained", ", ".join(said) or words.NOT_MEASURED)
single = predict(1, "fp32", found["cpu"]).query("model == 'vanilla_cnn' and traffic == 'fused'")
allowed = single["at most times faster"].item()
reached = [
    f"{eight.title} {ms_of(own, 'end_to_end') / ms_of(eight, 'end_to_end'):.1f}"
    for own, eight in pairs_of.get("vanilla_cnn", ())
    if eight.batch_size == 1
]
glue("13-allowed", f"{allowed:.1f}")
glue("13-reached", ", ".join(reached) or words.NOT_MEASURED)

# %% [markdown]
# For vanilla_cnn at batch 1 on the CPU, this many times faster by the bounds of fused traffic: {glue:text}`13-allowed`.
# Reached, each over its own FP32 (below 1, it is slower): {glue:text}`13-reached`.
#
# :::{dropdown} On readers' machines
# {{ machines: onnxruntime openvino openvino-throughput torch-compile cudnn }}
# :::
#
# ## Why not more?
#
# A profile of a session of ONNX Runtime tells how long each operator takes: the products, the conversions between types
# and layouts, and the rest. It is of ten inferences of a session that writes down every operator, so its sums are not
# the times above, and need not even agree on which graph is the quicker: for that, believe the table of times. Take
# from the profile where the time goes.


# %%
def time_by_operator(path, runs=20):
    """Return the milliseconds of an inference by operator, from the session's own profile."""
    import json

    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(scratch / "profile")
    profiled = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(runs):
        profiled.run(None, {INPUT: picture})
    events = json.loads(Path(profiled.end_profiling()).read_text())
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    sums = Counter()
    for event in kernels[len(kernels) // 2 :]:  # the second half: warm
        sums[kind_of(event["args"]["op_name"])] += event["dur"] / 1e3
    return {kind: ms / (runs / 2) for kind, ms in sums.items()}


def kind_of(operator):
    """Say what an operator is for."""
    if "Conv" in operator or "Gemm" in operator or "MatMul" in operator:
        return "products"
    if operator in ("QuantizeLinear", "DequantizeLinear", "Transpose", "ReorderInput", "ReorderOutput"):
        return "conversions"
    return "the rest"


picture = np.empty((1, 3, 224, 224), np.float32)
MODELS["vanilla_cnn"].dataset.read(0, picture)
spent = pd.DataFrame({"FP32": time_by_operator(exported("vanilla_cnn")), "INT8": time_by_operator(in_eight_bits)})
spent = spent.fillna(0.0)
shown = spent.rename(columns="{}, ms".format).rename_axis("operators").reset_index()
tables.show_table(shown, f"vanilla_cnn, batch 1, ONNX Runtime's own profile. {lab.machine.name('cpu')}.")

# %% tags=["remove-cell"]
ratios = {kind: row["FP32"] / row["INT8"] for kind, row in spent.iterrows() if row["INT8"] > 0 and row["FP32"] > 0}
share = spent["INT8"] / spent["INT8"].sum() * 100
glue("13-products", f"{ratios['products']:.1f}")
glue("13-share", f"{spent.loc['products', 'FP32'] / spent['FP32'].sum() * 100:.0f}")
glue("13-left", f"{share['products']:.0f}")

# %% [markdown]
# The products ran {glue:text}`13-products` times as fast (below 1, they are slower). They were {glue:text}`13-share` %
# of the FP32 model's time and are {glue:text}`13-left` % of the INT8 model's. What does not shrink decides in the end,
# which is [Amdahl's law](../book/glossary); and conversions, between types or between layouts, take time in any graph.
#
# Your own model hardly gains? Profile it like this, before and after. Where products took a small part of the time, or
# conversions eat the gain, quicker products cannot help much. Where the products themselves are no quicker, see whether
# they multiply integers at all, as the look into the file did.
#
# ## Knobs
#
# A quick and sharp measure of damage is the error of the {term}`logits <logit>`: their root mean square difference from
# FP32, as a part of their own root mean square. Accuracy moves long after it does.

# %%
seen = {"smoke": 8, "quick": 32}.get(lab.profile.name, 256)
batches = {}


def logits_of(model, call, images=seen):
    """Return the logits of the first test pictures, eight at a time."""
    if model not in batches:
        stored = np.empty((images, 3, 224, 224), np.float32)
        MODELS[model].dataset.read(0, stored)
        batches[model] = stored
    return np.concatenate([call(batches[model][start : start + 8]) for start in range(0, len(batches[model]), 8)])


def damage(model, path):
    """Return what a graph does to the logits and the answers."""
    opened = session(path)
    return damage_of(model, logits_of(model, lambda batch: opened.run(None, {INPUT: batch})[0]))


def damage_of(model, logits):
    """Return the error of logits, percent of their size, and the share of answers that changed."""
    reference = reference_of(model)
    error = np.sqrt(np.mean((logits - reference) ** 2) / np.mean(reference**2))
    return {
        "error of the logits, %": 100 * error,
        "answers changed, %": 100 * np.mean(logits.argmax(1) != reference.argmax(1)),
    }


references = {}


def reference_of(model):
    """Return the FP32 model's logits."""
    if model not in references:
        network = load_pretrained(model)
        references[model] = logits_of(model, lambda batch: network(torch.from_numpy(batch)).numpy())
    return references[model]


FORMATS = {"error of the logits, %": "{:.2f}", "answers changed, %": "{:.1f}"}

# %% [markdown]
# ### How to calibrate
#
# *Min-max* takes the extremes that were seen. *Percentile* cuts off the rarest numbers, here one in a thousand, so that
# the others get finer steps. *Entropy* chooses the cut whose histogram resembles the original most. But
# `quantize_static` makes that histogram with 128 bins and looks for the best 128 of them, with no option for more: it
# has nothing to cut.

# %%
few = 4 if lab.profile.name == "smoke" else 32
tried = {
    "min-max": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
cut = {"extra_options": {"CalibPercentile": 99.9}}


def pictures_for(model):
    """Return the pictures that calibrate a model in this chapter: a histogram of every activation takes time."""
    return few if model == "vanilla_cnn" else few // 4


tested = ["vanilla_cnn", "mobilenet_v2"]
rows = []
for model in tested if full else tested[:1]:
    for name, method in tried.items():
        path = quantized(model, name, pictures_for(model), calibrate_method=method, **cut)
        rows.append({"model": model, "calibration": name, "pictures": pictures_for(model)} | damage(model, path))
for count in (1, 4 * few):
    rows.append({"model": "vanilla_cnn", "calibration": "min-max", "pictures": count})
    rows[-1] |= damage("vanilla_cnn", quantized("vanilla_cnn", f"min-max {count}", count))
methods = pd.DataFrame(rows).sort_values("model", kind="stable")
tables.show_table(methods, f"ONNX Runtime, {seen} test pictures.", FORMATS)

# %% tags=["remove-cell"]
vanilla = methods[methods["model"] == "vanilla_cnn"]
of_few = vanilla[vanilla["pictures"] == few].set_index("calibration")["error of the logits, %"].round(1)
glue("13-best-method", " and ".join(of_few.index[of_few == of_few.min()]))
glue("13-method-spread", f"{of_few.max() / of_few.min():.1f}")
by_count = vanilla[vanilla["calibration"] == "min-max"].set_index("pictures")["error of the logits, %"]
one, many = by_count[1], by_count[4 * few]
glue("13-one-picture", f"{one:.1f} % with one picture, {many:.1f} % with {4 * few}")

# %% [markdown]
# For vanilla_cnn, the least damage here is that of {glue:text}`13-best-method`, and the worst of the three does
# {glue:text}`13-method-spread` times as much. Which one wins depends on the network's outliers, so try them; it is one
# argument, `calibrate_method`, and the error of the logits is what to compare. The error of min-max is
# {glue:text}`13-one-picture`: from too few pictures the extremes are not known, and what is larger is cut off.
#
# ### One scale for a tensor, or one for each channel?
#
# The channels of a layer differ in size. With one scale for all of them the smallest are left with few steps. Folding a
# batch norm into a convolution multiplies each channel's weights by a factor of their own, which evens the ranges out
# or drives them apart. A {term}`depthwise convolution` has most to lose, since a channel has only nine weights there.


# %%
def spread(weights):
    """Return how many times larger the largest channel's range is than the median channel's."""
    ranges = weights.detach().flatten(1).abs().amax(1)
    return float(ranges.max() / ranges.median())


rows = []
for model in MODELS:
    network = load_pretrained(model)
    before = {name: layer.weight for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    stored = [w for w in onnx.load(exported(model)).graph.initializer if len(w.dims) == 4]
    folded = [spread(torch.from_numpy(onnx.numpy_helper.to_array(w).copy())) for w in stored]
    spreads = [spread(weight) for weight in before.values()]
    rows.append({"model": model, "as trained": max(spreads), "batch norms folded": max(folded)})
caption = "Range of the largest channel over that of the median channel, in the layer where it is worst."
tables.show_table(pd.DataFrame(rows), caption, {"as trained": "{:.1f}", "batch norms folded": "{:.1f}"})

# %% [markdown]
# What do the answers lose by it? With a scale for each channel, with one for all of them, and with activations whose
# scale has to be symmetric. (MobileNetV2 is calibrated with four pictures here, not with as many as in the table above.
# With so few the error is a matter of luck: compare the rows of one table.)

# %%
signed = {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}}
variants = {
    "a scale for each channel, affine": {},
    "a scale for each tensor, affine": {"per_channel": False},
    "a scale for each channel, symmetric": signed,
}
rows = [
    {"model": model, "weights and activations": name}
    | damage(model, quantized(model, name, few if model == "vanilla_cnn" else 4, **settings))
    for model in tested
    for name, settings in variants.items()
    if full or model == "vanilla_cnn" or settings is not signed
]
channels = pd.DataFrame(rows)
tables.show_table(channels, f"ONNX Runtime, min-max, {seen} test pictures.", FORMATS)

# %% tags=["remove-cell"]
errors = channels.set_index(["model", "weights and activations"])["error of the logits, %"]
usual, *others = variants
for place, other in zip(("per-tensor", "symmetric"), others, strict=True):
    times = {model: errors[model, other] / errors[model, usual] for model in tested if (model, other) in errors}
    glue(f"13-{place}", ", ".join(f"{ratio:.1f} times on {model}" for model, ratio in times.items()))

# %% [markdown]
# The error with one scale for each tensor, compared with one for each channel: {glue:text}`13-per-tensor`. Take one for
# each channel of the weights wherever the kernels know it. The channels here are those of the output, so the scale can
# wait until the sum is complete. Activations keep one scale for the tensor: a dense layer adds up all its inputs, and
# integers with steps of different sizes cannot be added. Symmetric activations, compared with affine ones:
# {glue:text}`13-symmetric`.
#
# ### A batch norm that was not folded
#
# If a quantizer meets a convolution and its batch norm as two operations, it rounds what is between them, a tensor that
# no kernel would ever have written. Rounding can be imitated in PyTorch, which takes no quantizer at all:


# %%
def rounded(tensor, largest, bits=8):
    """Return ``tensor`` as ``bits`` signed bits with the given largest number would hold it."""
    top = 2 ** (bits - 1) - 1
    scale = (largest / top).clamp(min=1e-12)
    return (tensor / scale).round().clamp(-top - 1, top) * scale


def round_outputs(layers):
    """Round what ``layers`` return, a scale for each tensor; return the hooks."""
    return [layer.register_forward_hook(lambda _, __, out: rounded(out, out.abs().amax())) for layer in layers]


rows = []
for kinds, name in (((nn.BatchNorm2d,), "after the batch norm"), ((nn.Conv2d, nn.BatchNorm2d), "between them, too")):
    network = load_pretrained("vanilla_cnn")
    round_outputs([layer for layer in network.modules() if isinstance(layer, kinds)])
    logits = logits_of("vanilla_cnn", lambda batch, net=network: net(torch.from_numpy(batch)).numpy())
    rows.append({"rounded": name} | damage_of("vanilla_cnn", logits))
tables.show_table(pd.DataFrame(rows), "vanilla_cnn, activations alone rounded, imitated in PyTorch.", FORMATS)

# %% tags=["remove-cell"]
folded_error, unfolded_error = (row["error of the logits, %"] for row in rows)
glue("13-unfolded", f"{unfolded_error / folded_error:.1f}")

# %% [markdown]
# With the second rounding the error is {glue:text}`13-unfolded` times as large. Fold first, as exporters do, and look
# at the graph: around a `BatchNormalization` that is left in it, numbers are rounded twice.
#
# ### Which layer is to blame?
#
# Quantize one layer at a time, its weights and its input, and look at the logits. The layers that do the most damage
# are the first candidates to stay in more bits.


# %%
def round_layers(network, layers):
    """Round the weights (a scale for each channel) and the inputs of ``layers`` in place."""
    for layer in layers:
        shape = (-1,) + (1,) * (layer.weight.dim() - 1)
        layer.weight.copy_(rounded(layer.weight, layer.weight.flatten(1).abs().amax(1).view(shape)))
        layer.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0], inputs[0].abs().amax()),))


def error_of(model, chosen, images):
    """Return the error of the logits, percent, where only the layers called ``chosen`` are rounded."""
    network, exact = load_pretrained(model), reference_of(model)[: len(images)]
    with torch.no_grad():
        round_layers(network, [network.get_submodule(name) for name in chosen])
        found = network(images).numpy()
    return 100 * float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))


suspect = "vanilla_cnn"  # accuracy control, below, compiles a network anew for each of its layers
products = [n for n, layer in load_pretrained(suspect).named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
reference_of(suspect)
images = torch.from_numpy(batches[suspect][:16])
alone = {name: error_of(suspect, [name], images) for name in products}
worst = sorted(alone, key=alone.__getitem__, reverse=True)[:12]
plots.show_bars(
    {name: alone[name] for name in worst},
    "#D55E00",
    "error of the logits, %",
    alt="Bars: the error of the logits where one layer alone is quantized, the worst first.",
    caption=f"{suspect}: one layer at a time in eight bits, the worst {len(worst)} of {len(products)}.",
)

# %% [markdown]
# Now the three worst stay in FP32, and all others are quantized:

# %%
kept = worst[:3]
rest = [name for name in products if name not in kept]
everything, without_worst = error_of(suspect, products, images), error_of(suspect, rest, images)
squares = np.sqrt(sum(error**2 for error in alone.values()))
print(f"all {len(products)} layers in eight bits: {everything:.2f} % (errors that are independent: {squares:.2f} %)")
print(f"{', '.join(kept)} in FP32, the rest in eight bits: {without_worst:.2f} %")

# %% [markdown]
# Independent errors add up by their squares; the first line has that sum beside what all layers do together. The second
# line says what is left when three layers are spared, as far as an imitation can tell.
#
# (section-13-spared)=
# ### Layers that stay in FP32
#
# A real export is told what to leave alone: by `nodes_to_exclude` in ONNX Runtime, by `ignored_scope` in NNCF. Or the
# tool finds out by itself: `quantize_with_accuracy_control` quantizes everything, ranks the layers by what each does to
# a function of yours, and puts them back to FP32, the worst first, until the drop is below a limit. The function here
# is one minus the error of the logits, on other training pictures; the limit is half of what eight bits lost.

# %%
ov, nncf = openvino_backend.import_openvino(), openvino_backend.import_nncf()
in_fp32 = build(get_backend("openvino"), Workload(suspect, 1)).directory / openvino_backend.MODEL_FILE
eights = Workload(suspect, 8, "int8", "cpu", Calibration(max(8, pictures_for(suspect))))
layers = [
    op for op in ov.Core().read_model(in_fp32).get_ordered_ops() if op.get_type_name() in openvino_backend.PRODUCTS
]
sizes = [load_pretrained(suspect).get_submodule(name).weight.numel() for name in products]
assert [int(np.prod(layer.input(1).get_shape())) for layer in layers] == sizes  # the same layers, in the same order
called = {name: layer.get_friendly_name() for name, layer in zip(products, layers, strict=True)}


def in_openvino(name, **settings):
    """Quantize the FP32 graph, or leave it as it is, and compile it for batches of 8."""
    graph = ov.Core().read_model(in_fp32)
    graph = graph if name == "FP32" else openvino_backend.quantize_ir(graph, eights, **settings)
    ov.save_model(graph, scratch / f"{name}.xml", compress_to_fp16=False)
    return openvino_backend.compile_ir(scratch / f"{name}.xml", eights, {})


exact, whole = in_openvino("FP32"), in_openvino("all in eight bits")
workers = min(4, os.cpu_count() or 1)  # a layer that is tried is compiled anew
others = Calibration(eights.calibration.images, seed=1).batches(eights.model, 8)
checked = [(batch, exact(batch)[0]) for batch in others]


def score(compiled, pairs):
    """Return one minus the error of the logits, over all batches and for each."""
    each = [1 - float(np.sqrt(np.mean((compiled(x)[0] - y) ** 2) / np.mean(y**2))) for x, y in pairs]
    return float(np.mean(each)), each


controlled = in_openvino(
    "with accuracy control",
    validation_dataset=nncf.Dataset(checked),
    validation_fn=score,
    max_drop=(1 - score(whole, checked)[0]) / 2,
    advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(num_ranking_workers=workers),
)
spared = in_openvino("all but the worst three", ignored_scope=nncf.IgnoredScope(names=[called[name] for name in kept]))

# %% [markdown]
# Four graphs, then. What each of them still answers, and how long it takes:

# %%
graphs = {"FP32": exact, "all in eight bits": whole, "all but the worst three": spared}
graphs |= {"with accuracy control": controlled}
eight = batches[suspect][:8]
paces = lab.turns({name: partial(compiled, eight) for name, compiled in graphs.items()})
rows = [
    {"": name, tables.EIGHT_BITS: openvino_backend.executed_percent(compiled)}
    | damage_of(suspect, logits_of(suspect, lambda batch, compiled=compiled: compiled(batch)[0]))
    | {"ms": paces.ms(name), "times faster": paces.ratio(name, "FP32")[0]}
    for name, compiled in graphs.items()
]
given_back = pd.DataFrame(rows).set_index("")
pictures = f"{eights.calibration.images} training pictures, {seen} test pictures"
caption = f"{suspect}, OpenVINO, batch 8, {pictures}. {lab.machine.name('cpu')}."
tables.show_table(given_back.reset_index(), caption, FORMATS)

# %% tags=["remove-cell"]
left = given_back["error of the logits, %"]
for place, name in (("spared", "all but the worst three"), ("controlled", "with accuracy control")):
    part = 100 * (1 - left[name] / left["all in eight bits"])
    effect = paces.effect(name, "all in eight bits")
    glue(f"13-{place}", f"{part:.0f} % of the error; speed, compared with all layers in eight bits: {effect}")

# %% [markdown]
# Keeping the worst three in FP32 takes away {glue:text}`13-spared`. Accuracy control takes away
# {glue:text}`13-controlled`. A negative number would mean that the imitation blamed the wrong layers: it does not
# correct biases, and rounds in other places. On a GPU, the backend `cudnn` also keeps in FP16 the slow layers that it
# found quicker so.
#
# ## When it is not faster, and why
#
# ### Signed times signed
#
# The 8-bit instructions of most x86 processors (AVX2, {term}`VNNI`) multiply an *unsigned* by a *signed* number. Signed
# activations have to be shifted first, and without VNNI they have been seen to lose to FP32
# ([onnxruntime#6732](https://github.com/microsoft/onnxruntime/issues/6732)). Newer ones ({term}`AMX`, AVX-VNNI-INT8)
# multiply signed by signed as well, if the library uses them. The line above the table says whether this processor adds
# products of eight bits in 32.
#
# Here and below, sessions take turns in one process. *Times faster* is the median of the ratios within a round, so it
# need not be the ratio of the two medians. The effect is "none" where the rounds scatter too much to call one of the
# two faster, however far apart their medians are. The sessions' threads share the cores, so compare the rows of one
# such table, not its milliseconds with those of the frameworks' rows.

# %%
variants = {
    "FP32": exported("vanilla_cnn"),
    "unsigned activations (U8S8)": in_eight_bits,
    "signed activations (S8S8)": quantized("vanilla_cnn", "s8s8", activation_type=QuantType.QInt8),
}


def turns_of(paths, batch=picture):
    """Let sessions take turns."""
    calls = {name: partial(session(path).run, None, {INPUT: batch}) for name, path in paths.items()}
    return lab.turns(calls)


signs = turns_of(variants)
print("this CPU adds products of eight bits in 32 bits:", multiplies_eight_bits())
tables.show_table(signs.table(), f"vanilla_cnn, ONNX Runtime. {lab.machine.name('cpu')}.", {"times faster": "{:.2f}"})

# %% tags=["remove-cell"]
glue("13-signed", signs.effect("signed activations (S8S8)", "unsigned activations (U8S8)"))
glue("13-signed-fp32", signs.effect("signed activations (S8S8)", "FP32"))

# %% [markdown]
# On this machine the effect of signed activations, compared with unsigned ones, is: {glue:text}`13-signed`; compared
# with FP32: {glue:text}`13-signed-fp32`. Where signed ones lose, the mend is the row of unsigned ones.
#
# ### Dynamic quantization of a convolutional network
#
# `quantize_dynamic` needs no pictures: it measures each activation as it comes. That suits networks whose time is in
# reading weights, such as language models. For convolutions it means another pass over every activation, and
# `ConvInteger`, for which there are few fast kernels.

# %%
dynamic, plain = scratch / "dynamic.onnx", onnx.load(exported("vanilla_cnn"))
plain.graph.ClearField("value_info")  # shapes that the quantizer is about to change
quantize_dynamic(plain, dynamic, weight_type=QuantType.QUInt8)
print(dict(operators(dynamic)))
passes = turns_of({"FP32": exported("vanilla_cnn"), "static": in_eight_bits, "dynamic": dynamic})
tables.show_table(passes.table(), f"vanilla_cnn, ONNX Runtime. {lab.machine.name('cpu')}.", {"times faster": "{:.2f}"})

# %% tags=["remove-cell"]
glue("13-dynamic", passes.effect("dynamic", "FP32"))
glue("13-static", passes.effect("static", "dynamic"))

# %% [markdown]
# The effect of dynamic quantization, compared with FP32, is: {glue:text}`13-dynamic`; that of static, compared with
# dynamic: {glue:text}`13-static`.
#
# ### Q and DQ in the wrong place
#
# ONNX Runtime multiplies integers where both factors come from integers *and* the result goes to integers. An operator
# in between that was left in FP32, such as a shortcut's addition, breaks the chain: the products before it stay in
# FP32, and what they read was rounded for nothing. To see it, quantize only the inputs of ResNet-18's convolutions:

# %%
broken = quantized(
    "resnet18",
    "islands",
    2,
    op_types_to_quantize=["Conv"],
    extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]},
)
chained = quantized("resnet18", "chain", 2)
for name, path in {"islands": broken, "a chain": chained}.items():
    session(path, scratch / "as it runs.onnx")
    found = operators(scratch / "as it runs.onnx")
    steps = found["QuantizeLinear"] + found["DequantizeLinear"]
    print(f"{name}: {executed_percent(path):.1f} % of the multiply-adds in eight bits, {steps} steps to and fro")
links = turns_of({"FP32": exported("resnet18"), "islands": broken, "a chain": chained})
tables.show_table(links.table(), f"resnet18, ONNX Runtime. {lab.machine.name('cpu')}.", {"times faster": "{:.2f}"})

# %% [markdown]
# The two lines above the table say what became of the products; the last column says whether this process could tell by
# their times.
#
# TensorRT's rule is another one, since it fuses the addition into the convolution: quantizing between the two breaks
# the fusion, and `signed_inputs` above leaves it out
# ([NVIDIA/TensorRT#2242](https://github.com/NVIDIA/TensorRT/issues/2242)). Look at what runs, not at what you wrote.
#
# ### Nodes that fall to the CPU
#
# ONNX Runtime's CUDA provider has no 8-bit convolution. A graph that asks for one (`QuantFormat.QOperator` writes
# `QLinearConv` where QDQ writes three nodes) opens without an error, runs these nodes on the CPU, and copies to and fro
# ([onnxruntime#24807](https://github.com/microsoft/onnxruntime/issues/24807)). The session knows where each node went.

# %%
integers = quantized("vanilla_cnn", "operators", few, quant_format=QuantFormat.QOperator)
print(dict(operators(integers)))
if lab.device == "cuda":
    options = ort.SessionOptions()
    options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    mixed = ort.InferenceSession(str(integers), options, providers=["CUDAExecutionProvider"])
    parts = mixed.get_provider_graph_assignment_info()
    print(Counter(f"{node.op_type} on {part.ep_name}" for part in parts for node in part.get_nodes()))
    as_trained = open_session(exported("vanilla_cnn"), "cuda")
    calls = {
        name: partial(opened.run, None, {INPUT: picture}) for name, opened in (("FP32", as_trained), ("8 bits", mixed))
    }
    fallen = lab.turns(calls)
    display(tables.show_table(fallen.table(), f"vanilla_cnn, ONNX Runtime's CUDA provider. {lab.machine_name}."))
try:
    open_session(integers, "cuda")
except CourseError as refusal:
    print(f"refused: {str(refusal)[:160]}")

# %% [markdown]
# The course's own sessions refuse such a graph, as the last line shows: on a GPU it names the nodes, and where there is
# none, a session that was asked for one falls to the CPU as a whole.
#
# ### A plan that is far from the best
#
# cuDNN has many kernels for a convolution, and a *heuristic* that names the likeliest first. It may be far off, so the
# backend `cudnn` times them when it exports, and its artifact keeps what was found. A record does not: where the page
# is made without the export at hand, there is no table here.
#
# A plan must compute the right thing before it may be fast. Each result is compared with PyTorch's, on numbers that are
# exact until the last step, which rounds to an integer. A plan that *cut off* there instead would be up to a step off
# everywhere, and a check that allows a step would let it pass. So plans that round to the nearest (*that round*)
# compete alone, where there are any.

# %%
asked = Workload("resnet18", 256, "int8", "cuda")
chosen = find_artifact(get_backend("cudnn"), asked) if lab.device == "cuda" else None
if chosen:
    from inference_lib.backends.cudnn.backend import MODEL_FILE as CUDNN_FILE
    from inference_lib.backends.cudnn.execution import facts_of

    plans = [
        {
            "layer": name,
            "plans": plan["tried"],
            "that round": plan["rounding"],
            "first plan, ms": plan["first_microseconds"] / 1e3,
            "fastest plan, ms": plan["microseconds"] / 1e3,
        }
        for name, plan in facts_of(chosen.directory / CUDNN_FILE)["choices"].items()
    ]
    plans = pd.DataFrame(plans)
    plans["times faster"] = plans["first plan, ms"] / plans["fastest plan, ms"]
    display(tables.show_table(plans, f"{asked.model.title}, INT8, batch 256. {words.machines(on_gpu)}."))
    whole_ms = plans[["first plan, ms", "fastest plan, ms"]].sum()
    print(f"all layers: {whole_ms.iloc[0]:.3f} ms by the first plans, {whole_ms.iloc[1]:.3f} ms by the fastest")
else:
    print("needs a GPU on which the INT8 row of cuDNN at batch 256 was exported: only there can plans be timed")

# %% [markdown]
# (section-13-others)=
# ### The other layers take the time
#
# A network is as fast in eight bits as the layers that *get* faster are large. ResNet-18 is almost all convolutions
# that add up hundreds of products for each number. MobileNetV2 has depthwise ones between them, with nine products for
# each number, which a small kernel of the course computes instead of cuDNN. A profile of one replay sorts the kernels
# into the libraries' (cuDNN's convolutions, and the linear layer's), the depthwise ones, and the rest. It needs the
# exports, too:

# %%
KINDS = {"depthwise": "depthwise"} | dict.fromkeys(("pictures", "max_pool", "mean"), "the rest")


def kernels_of(model: str, precision: str) -> pd.Series | None:
    """Return the milliseconds of each kind of kernel in one replay; None where the row was not exported here."""
    asked = Workload(model, 256, precision, "cuda")
    artifact = find_artifact(get_backend("cudnn"), asked) if lab.device == "cuda" else None
    if artifact is None:
        return None
    pictures = np.empty(asked.input_shape, asked.host_dtype)
    asked.model.dataset.read(0, pictures)
    with get_backend("cudnn").load(artifact) as runner:
        runner.upload(pictures)
        seen = timeline(lambda: (runner.compute(), runner.synchronize()), "cuda").query("row == 'device'")
    kinds = [next((KINDS[word] for word in KINDS if word in kernel), "the libraries'") for kernel in seen["name"]]
    return seen["length_ms"].groupby(kinds).sum()


for name in ("resnet18", "mobilenet_v2"):
    replays = {f"{PRECISIONS[bits].title}, ms": kernels_of(name, bits) for bits in ("fp16", "int8")}
    if any(times is None for times in replays.values()):
        print(f"needs a GPU on which cuDNN's rows of {name} in FP16 and INT8 at batch 256 were exported")
        continue
    by_kind = pd.DataFrame(replays).fillna(0).rename_axis("kernels").reset_index()
    by_kind["times faster"] = by_kind["FP16, ms"] / by_kind["INT8, ms"]
    display(tables.show_table(by_kind, f"{name}, batch 256, one replay. {words.machines(on_gpu)}."))

# %% [markdown]
# Where there is a table, read its last column line by line. Kernels that do not get faster although their numbers have
# half the bytes do not wait for memory; where they have much of the time, the whole gains little. Between layers in
# eight bits, the depthwise kernel reads and writes eight bits and converts them on the way, for it multiplies in FP16:
# work that it does not have where all numbers are FP16. So profile before you quantize.

# %% [markdown]
# (section-13-race)=
# ### The answers change from replay to replay
#
# Kernels that are right one by one can be wrong in a CUDA graph. Since Hopper, a kernel may be launched while the one
# before it still runs ({term}`programmatic dependent launch`): it prepares itself, and waits in its own code before it
# reads what the other writes. cuDNN's kernels are launched so. From Python, one launch comes so long after the other
# that they hardly meet. In a graph they do. Seen with cuDNN 9.19 on an H200, with some plans: the first tensor that
# differed was that of a convolution which adds a shortcut that the kernel right before it had to write.
#
# Nothing crashes. Some numbers are off, other ones at every replay, and the accuracy falls by a tenth of a point or
# two, which looks like rounding. Which plans are chosen is a matter of microseconds, so of two exports of one network
# one may be affected and the other not.
#
# Two checks tell this from rounding. Answer the same pictures twice: rounding does not change. And compute the same
# integers step by step elsewhere, as `inference_lib/backends/cudnn/emulate.py` does in plain PyTorch: launched one by
# one, the kernels agree with it, up to a step here and there.
#
# On a GPU the course does the first for every row before it is timed. And in the graphs of the backend `cudnn`, a
# kernel that reads a shortcut starts when the one before it has ended (`in_turn` in
# `inference_lib/backends/shared/graphs.py`). The others may start early. If one of them did not wait for what it reads,
# that check would show it, and so would a test on a GPU that compares exports with the emulator, twice.

# %% [markdown]
# ### The answers are wrong on one machine only
#
# x86 processors without VNNI add *two* products of 8-bit numbers in 16 bits, and what does not fit is cut off, silently
# ([onnxruntime#12072](https://github.com/microsoft/onnxruntime/issues/12072)). The instruction is simple to imitate:


# %% tags=["nbval-check-output"]
def add_pairs(activations, weights):
    """Return what ``vpmaddubsw`` does with unsigned and signed bytes: products added in pairs, in 16 bits."""
    products = activations.astype(np.int32) * weights.astype(np.int32)
    return np.clip(products[::2] + products[1::2], -(2**15), 2**15 - 1)


random = np.random.default_rng(0)
activations = random.integers(128, 256, 10_000)
for bits in (8, 7):
    weights = random.integers(0, 2 ** (bits - 1), 10_000)
    exact = (activations * weights).reshape(-1, 2).sum(1)
    wrong = np.mean(add_pairs(activations, weights) != exact)
    print(f"weights of {bits} bits: {100 * wrong:.0f} % of bright sums are cut off")

# %% [markdown]
# Weights of seven bits always fit. That is `reduce_range`, which the course sets where the processor needs it. It costs
# a bit of every weight; what that does, the [first exercise](13_quantization.ipynb#exercises) finds out.
#
# ### Grouped convolutions
#
# A depthwise convolution reads one channel to write one: nine products for each number, where a dense one has nine for
# each number *and channel*. Kernels that multiply many at a time find little to multiply. To see that alone, the towers
# here have nothing but such layers, and read noise of 64 channels.


# %%
class Noise(Calibration):
    """What a network without pictures is calibrated with."""

    def batches(self, model, size=32):
        """Yield one batch of normally distributed numbers."""
        random = np.random.default_rng(self.seed)
        yield random.standard_normal((self.images, *model.input_shape), np.float32)


def tower(groups, channels=64, depth=8):
    """Return a few convolutions in a row, each followed by a ReLU."""
    torch.manual_seed(0)
    layers = [(nn.Conv2d(channels, channels, 3, padding=1, groups=groups), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(*(part for layer in layers for part in layer)).eval()


noise = Noise(images=1)
asked = Workload(replace(MODELS["vanilla_cnn"], name="tower", input_shape=(64, 56, 56)), 1, "int8", "cpu", noise)
rows = []
for name, groups in {"dense": 1, "depthwise": 64}.items():
    paths = {"FP32": scratch / f"{name}.onnx", "INT8": scratch / f"{name}-int8.onnx"}
    with torch.no_grad():
        export_onnx(tower(groups), asked, paths["FP32"])
    quantize_onnx(paths["FP32"], paths["INT8"], asked)
    found = turns_of(paths, next(noise.batches(asked.model)))
    ratio, low, high = found.ratio("INT8", "FP32")
    rows.append({"convolutions": name, tables.EIGHT_BITS: executed_percent(paths["INT8"])})
    rows[-1] |= {"FP32, ms": found.ms("FP32"), "INT8, ms": found.ms("INT8"), "times faster": ratio}
    rows[-1] |= {tables.INTERVAL: f"{low:.2f}\u2013{high:.2f}"}
grouped = pd.DataFrame(rows)
tables.show_table(
    grouped, f"Eight 3x3 convolutions, 64 channels, 56x56. {lab.machine.name('cpu')}.", {"times faster": "{:.2f}"}
)

# %% tags=["remove-cell"]
dense, depthwise = grouped["times faster"]
glue("13-grouped", f"dense ones {dense:.1f} times, depthwise ones {depthwise:.1f} times")

# %% [markdown]
# In eight bits, the speed is that of FP32 times a factor: {glue:text}`13-grouped` (below 1, eight bits are slower).
# MobileNetV2 has both kinds. On GPUs, many libraries have no 8-bit kernel for groups at all; the backend `cudnn`
# multiplies their numbers in FP16, with a kernel of its own.
#
# ### Batch 1 on a large GPU
#
# One picture does not fill a large GPU, whatever its numbers are made of. Its time is that of one kernel after the
# other, and a kernel of 8-bit numbers starts no sooner. A gain there is one of kernels that are long even for a single
# picture. cuDNN's INT8 beside cuDNN's FP16, on the device:

# %%
pool = select(lab.gpu_records(), backend="cudnn")
rows = {}
for record in select(pool, precision="int8"):
    for half in select(pool, model=record.model, batch_size=record.batch_size, precision="fp16"):
        rows.setdefault(record.model, {})[f"batch {record.batch_size}"] = words.against(half, record, "device")
if rows:
    by_batch = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model").reset_index()
    display(tables.show_table(by_batch, f"INT8 against FP16, on the device. {words.machines(pool)}."))
else:
    print("needs rows of cuDNN in INT8 from a GPU")

# %% [markdown]
# ## Exercises
#
# ```{exercise}
# :label: ex-13-seven
# What do weights of seven bits cost? Quantize vanilla_cnn with `reduce_range=True` and `False`, and compare the damage.
# Write down by how much you expect the error to grow. Then compare the accuracies with `pairs`.
# ```
#
# ````{solution} ex-13-seven
# :class: dropdown
# ```python
# from inference_lib.measure.accuracy import compare
# from inference_lib.records.pairs import pairs
#
# for name, reduce in {"eight bits": False, "seven bits": True}.items():
#     opened = session(quantized("vanilla_cnn", name, few, reduce_range=reduce))
#     logits = logits_of("vanilla_cnn", lambda batch, opened=opened: opened.run(None, {INPUT: batch})[0])
#     beside = pairs(compare(logits, reference_of("vanilla_cnn"), MODELS["vanilla_cnn"].dataset.labels()))
#     error = damage_of("vanilla_cnn", logits)["error of the logits, %"]
#     print(f"{name}: error {error:.2f} %, {beside.difference:+.2f} points ({beside.low:+.2f} to {beside.high:+.2f})")
# ```
# A step is twice as wide, so the weights' share of the error doubles; the activations' share stays. Their squares add
# up, so the whole grows by less than two. That is rounding alone: on an x86 processor without VNNI, sums of eight bits
# are cut off, too, as above, and that line may be the worse by far. Where the accuracies differ by a picture or two,
# the interval says that this is nothing.
# ````
#
# ```{exercise}
# :label: ex-13-fp8
# FP8 (E4M3) has eight bits, too, but four of them are an exponent {cite}`fp8_formats`. Round normally distributed
# numbers to both, with the best scale for each, and compare the errors. Then put one outlier of 50 among them.
# ```
#
# ````{solution} ex-13-fp8
# :class: dropdown
# ```python
# def rms_error(numbers, kind):
#     """Return the error of rounding, percent of the numbers' own size, outliers left out."""
#     if kind == "INT8":
#         back = rounded(numbers, numbers.abs().max())
#     else:
#         scale = numbers.abs().max() / torch.finfo(torch.float8_e4m3fn).max
#         back = (numbers / scale).to(torch.float8_e4m3fn).float() * scale
#     typical = numbers.abs() < 10
#     return 100 * float(((back - numbers)[typical].square().mean() / numbers[typical].square().mean()).sqrt())
#
#
# numbers = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
# spoiled = torch.cat([numbers, torch.tensor([50.0])])
# for name, sample in {"normal": numbers, "with one outlier": spoiled}.items():
#     print(f"{name}: " + ", ".join(f"{kind} {rms_error(sample, kind):.1f} %" for kind in ("INT8", "FP8")))
# ```
# Without outliers INT8's even steps win. With one, its step grows with the outlier, and most numbers fall on a few
# steps. FP8's steps are relative to each number, so the outlier costs it next to nothing.
# ````
#
# ```{exercise}
# :label: ex-13-amdahl
# A model spends 80 % of its time in products. Eight bits make them three times as fast, and everything else stays. How
# much faster is the model? What would it take to reach 2.5 times? Then do the same with the shares of your own machine,
# which are in `spent`.
# ```
#
# ````{solution} ex-13-amdahl
# :class: dropdown
# ```python
# print(f"{1 / (0.2 + 0.8 / 3):.2f} times faster; for 2.5 times, products {0.8 / (1 / 2.5 - 0.2):.0f} times as fast")
# share = spent.loc["products", "FP32"] / spent["FP32"].sum()
# times = spent.loc["products", "FP32"] / spent.loc["products", "INT8"]
# print(f"here: {100 * share:.0f} % of the time {times:.1f} times as fast: {1 / (1 - share + share / times):.2f}")
# print(f"measured: {spent['FP32'].sum() / spent['INT8'].sum():.2f}")
# ```
# The whole takes 0.2 + 0.8 / 3 of its time, and is 2.1 times as fast. At 2.5 times, the time is 0.4 of what it was, so
# the products may take 0.2 where they took 0.8: four times as fast. What is measured differs from Amdahl's number by
# what the rest did meanwhile: it shrinks where it is in eight bits, too, and grows by conversions.
# ````
#
# ```{exercise}
# :label: ex-13-pictures
# How many pictures does min-max need here? Quantize vanilla_cnn with 1, 2, 4, 8, and 16 of them, and find the number
# from which the error hardly moves. Then let another seed choose them.
# ```
#
# ````{solution} ex-13-pictures
# :class: dropdown
# ```python
# for seed in (0, 1):
#     errors = {}
#     for count in (1, 2, 4, 8, 16):
#         path = scratch / f"{count}-{seed}.onnx"
#         asked = Workload("vanilla_cnn", 1, "int8", "cpu", Calibration(count, seed))
#         quantize_onnx(exported("vanilla_cnn"), path, asked)
#         errors[count] = damage("vanilla_cnn", path)["error of the logits, %"]
#     print(f"seed {seed}: " + ", ".join(f"{count}: {error:.2f} %" for count, error in errors.items()))
# ```
# With few pictures, the error is a matter of luck, and one picture more may even raise it: an extreme that is known in
# one layer only does not help the others. With more pictures all extremes are known, and a new one adds little.
# ````
#
# ## Key points
#
# - Why not four times? What does not shrink decides: conversions, depthwise convolutions, launches, whatever stays in
#   FP32.
# - Why slower? A graph with Q and DQ nodes promises integers. Only what runs tells whether the promise was kept. And
#   where it was, conversions may still take more than the products gain.
# - Quantizing is choosing scales. Weights tell theirs, activations need pictures, and those are training pictures.
# - A scale for each channel, unsigned activations after ReLU, folded batch norms: the defaults to insist on.
# - The same model? Compare on the same pictures, and let a coin decide; few pictures prove nothing.
#
# ## Further reading
#
# The scheme is that of Jacob et al. {cite}`quantization_paper`; Nagel et al. {cite}`quantization_white_paper` explain
# every knob of this chapter and what to do when post-training quantization is not enough. The documentation of each
# tool has its own rules: {cite}`ort_quantization,nncf,torchao_pt2e`.
