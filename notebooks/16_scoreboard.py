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
#   inference_lib:
#     summary: true
# ---

# %% [markdown]
# # The scoreboard
#
# So which one should I use?
#
# The rows of all framework chapters stand here in one place, and a function turns them into a decision.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# which framework was quickest and how far that holds, what the choice costs, and how to choose for a job of yours
# :::
# :::{grid-item-card} You need
# nothing but records: your own from the chapters before, or the published ones
# :::
# :::{grid-item-card} To read
# 15 minutes
# :::
# :::{grid-item-card} To run
# {{ run_times }}
# :::
# ::::

# %% [markdown]
# ## Why a scoreboard
#
# Each framework chapter compares a few rows and explains them. A decision needs all rows at once, measured by the
# same rules: the same weights, the same pictures, the same clock, copies included.
#
# This chapter measures nothing. It reads the records that are there already. Every framework, model and precision of
# the profile has its row, measured or with the reason why not. The processors of a GPU's host have those rows alone
# that were tried there.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import itertools

import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.lines import Line2D

from inference_lib import MODELS, open_lab
from inference_lib.backends import BACKENDS
from inference_lib.measure.roofline import roofline_table, work_of
from inference_lib.records.comparison import compare
from inference_lib.records.replication import honest_percent
from inference_lib.records.statistics import Interval
from inference_lib.report import glue, labels, plots, select, show_source, tables, words
from inference_lib.report.bracket import Bracket
from inference_lib.report.choose import (
    Goal,
    break_even,
    choose,
    images_per_s,
    latency_ms,
    level_with,
    pareto_front,
    quickest,
    seconds_to_first_answer,
)
from inference_lib.report.style import style_of
from inference_lib.seam import PRECISIONS

lab = open_lab(profile, device, records_dir)
frameworks = list(BACKENDS)


def book_order(record) -> tuple:
    """Return where a record stands in every table: by framework, precision and batch size."""
    place = frameworks.index(record.backend) if record.backend in frameworks else len(frameworks)
    return place, list(PRECISIONS).index(record.precision), record.batch_size


here = sorted(lab.whole_grid(), key=book_order)
gpu = sorted(lab.gpu_records(), key=book_order)
host = sorted(lab.host_records(), key=book_order)  # the CPU of the GPU's machine
shown = gpu or here
print(f"this machine: {len(select(here))} of {len(here)} rows measured, {lab.machine_name}")
print(
    f"GPU: {len(select(gpu))} of {len(gpu)} rows measured, {words.machines(gpu)}" if gpu else "GPU: not published yet"
)

# %% [markdown]
# Two shelves feed everything on this page; a GPU's holds the rows of its host's processors, too:

# %% tags=["hide-input"]
shelves = ["records of\nthis machine", "records of the\npublished GPU"]
figure, (axes,) = plots.new_figure(height=1.5)
plots.flow([["framework\nchapters"], shelves, ["tables and\nfigures"], ["choose()"]], axes)
plots.show_figure(
    figure,
    alt="Flow: framework chapters write records, here and on the published GPU; these become tables, figures, choices.",
    caption="Where this chapter's numbers come from.",
)

# %% [markdown]
# Rows of your machine are missing? Run `python -m inference_lib benchmark`, and this chapter again. Figures show the
# GPU's records where there are any, else this machine's.
#
# ## How much is there to gain?
#
# The *reference loop* is what most people write first, and so did the project that this course grew from: PyTorch,
# FP32, copy to the device, call the model, copy back. What could it gain at most? A bound, before any row is shown: the
# loop's time over the least that the multiplications and the weights of the network take in 16 bits, by the ceilings of
# the [chapter on where the time goes](03_where_the_time_goes).

# %%
at_batch_1 = select(shown, batch_size=1)
loop = {model: select(at_batch_1, model=model, backend="pytorch", precision="fp32") for model in MODELS}
wide = [r for r in at_batch_1 if not PRECISIONS[r.precision].calibrated]  # those in eight bits have a section of theirs
ceilings = lab.gpu_ceilings()


def to_gain(model) -> dict:
    """Return one row: what the loop takes for one picture, and the bounds of the model in FP16."""
    low, high = Bracket(model, "fp16", ceilings).ends_ms(1)
    taken = latency_ms(loop[model][0])
    return {"model": model, "the loop, ms": taken, "at least, ms": low, "one by one, ms": high} | {
        "at most times faster": taken / low
    }


bounds = [to_gain(model) for model in MODELS if loop[model]] if ceilings else []
if bounds:
    caption = f"One picture; the loop in FP32, the bounds in FP16 without copies. {ceilings.machine}."
    forms = {"at least, ms": "{:.3g}", "one by one, ms": "{:.3g}", "at most times faster": "{:,.0f}"}
    display(tables.show_table(pd.DataFrame(bounds), caption, forms))
else:
    print("needs the loop's records and the ceilings of that GPU, measured there or published with its records")

# %% [markdown]
# Guess before you read on: for which model is the quickest row of 16 bits or more furthest ahead of the loop, and by
# how many times?
#
# :::{dropdown} What was measured
# At batch 1, against the loop: Vanilla CNN {glue:text}`16-speedup-vanilla_cnn`, ResNet-18
# {glue:text}`16-speedup-resnet18`, MobileNetV2 {glue:text}`16-speedup-mobilenet_v2`. How near that is to the bound, on
# the device alone: {glue:text}`16-near`. The [roofline below](section-16-roofline) has all rows.
# :::
#
# ## How to read a row
#
# [How to read this book](../book/how_to_read) explains the columns. These are particular to this page:
#
# - **on images** is how many pictures accuracy and agreement are of. Rows that store 16 bits or fewer on a GPU, and
#   eight on a CPU, answer all pictures; the others, and a quick run, only the first ones. What they gain and lose there
#   is added to the FP32 model's accuracy on the most pictures, so that the column compares.
# - **against the quickest** compares within the same rounds, so it can be surer than two intervals beside each other.
#   Where these rounds leave open which is faster, it says "cannot tell", and how many times as fast the row was, which
#   may be above 1: the rows are tied. A bare number is the ratio of a quick run.
# - A number in square brackets leads to a note below the table: why a row could not be measured, or what makes it less
#   trustworthy, such as other work on the machine, a full queue slower than a single caller, clocks that were held
#   down.
#
# **FPS** is the rate of the median inference. Slow ones make a long run's rate lower; [a section further
# down](#averaging-frames-per-second) says by how much.
#
# The layout is that of the project that this course grew from, the *reference project*. It measured six frameworks at
# batch 1 on a Quadro T2000, a laptop GPU, and its table is the last one of each model. Before it comes a table of the
# processors of the GPU's host, where rows of theirs were measured. Each table has a quickest row of its own.
#
# These tables are long, and show batch 1 alone. [The explorer](../book/explorer) has every row of every machine to sort
# and to filter, with your limits and your price.


# %%
def show_boards(model: str) -> None:
    """Show one model's rows at batch 1: this machine, the published GPU and its host, the reference project."""
    for records in (here, gpu if lab.device == "cpu" else [], host):  # on a GPU, here is the GPU
        if rows := [r for r in records if r.model == model and r.batch_size == 1]:
            display(tables.show_scoreboard(rows, model, f"{model}, batch 1. {plots.provenance(select(rows))}"))
    caption = f"{model}, batch 1: the reference project, Quadro T2000."
    display(tables.show_table(tables.reference_table(model), caption))


# %% [markdown]
# ### Vanilla CNN
#
# The smallest of the three.

# %%
show_boards("vanilla_cnn")

# %% [markdown]
# ### ResNet-18
#
# Dense convolutions, and most of the arithmetic.

# %%
show_boards("resnet18")

# %% [markdown]
# ### MobileNetV2
#
# Fewer multiply-adds than ResNet-18, in more operations.

# %%
show_boards("mobilenet_v2")

# %% [markdown]
# ```{admonition} Where is TensorRT?
# :class: note
# TensorRT, Torch-TensorRT and ONNX Runtime's TensorRT provider need a library that NVIDIA alone hands out; the course
# takes it from NVIDIA's package index. A machine that cannot reach it has their rows with that reason, and no numbers.
# Frameworks without a number in the figures below: {glue:text}`16-absent`. (OpenVINO does not run on NVIDIA's GPUs; its
# numbers are in tables of processors.) What the reference project measured on its Quadro T2000 is in its tables above,
# and [three commands](section-09-contribute) bring the rows of your machine.
# ```
#
# The reference project trained weights of its own, so its accuracies are not ours, and a laptop GPU of 2019 is not a
# data-centre GPU. Frames per second cannot be compared between its tables and ours. What can be compared is how much a
# framework gains over the plain loop on the same machine.
#
# ## Against the reference loop
#
# How much faster than the loop is each way of running the same model, in its quickest precision of 16 bits or more, at
# batch 1?


# %% tags=["hide-input"]
def model_panels(height: float, **grid: int) -> tuple:
    """Return a figure with a titled panel for each model, and the panels by model."""
    figure, panels = plots.new_figure(height=height, **grid)
    for model, panel in zip(MODELS, panels, strict=True):
        panel.set_title(model)
    return figure, dict(zip(MODELS, panels, strict=True))


def bars_of_models(rows: dict, unit: str) -> tuple:
    """Return a figure of a bar for each row of each model, its name above it, and the panels by model.

    ``rows`` maps a model to its rows, and a row's label to a record, an interval and the text beside the bar.
    """
    names = list(dict.fromkeys(name for mine in rows.values() for name in mine))
    figure, panels = model_panels(0.42 * len(names) + 1.0, columns=len(MODELS))
    for model, panel in panels.items():
        for name, (record, length, text) in rows[model].items():
            style = {"color": style_of(record.backend).color, "ecolor": plots.INK, "height": 0.38}
            bar = panel.barh(names.index(name), length.value, xerr=plots.reach([length]), **style)
            panel.bar_label(bar, [text], padding=3, fontsize=plots.SMALL)
        panel.set(yticks=[], ylim=(len(names) - 0.6, -0.9))
        panel.spines["left"].set_visible(False)
        panel.margins(x=0.5)
    first = panels["vanilla_cnn"]
    for place, name in enumerate(names):
        above = first.text(0, place - 0.3, name, transform=first.get_yaxis_transform(), fontsize=plots.SMALL)
        above.set_in_layout(False)  # it may be longer than the panel is wide: there is room to its right
    figure.supxlabel(unit, fontsize="medium")
    return figure, panels


def add_legend(figure, records: list) -> None:
    """Name the marks of the frameworks below the figure."""
    styles = {record.title: style_of(record.backend) for record in records}
    marks = [Line2D([], [], color=s.color, marker=s.marker, linestyle="") for s in styles.values()]
    if styles:
        figure.legend(marks, styles, loc="outside lower center", ncols=2)


# %% [markdown]
# A bar is the ratio to the loop; where the two met in the same rounds, it is the ratio within them.


# %% tags=["hide-input"]
titles = list(dict.fromkeys(r.title for r in wide))

rows = {model: {} for model in MODELS}
for model, title in itertools.product(MODELS, titles):
    if loop[model] and (mine := select(wide, model=model, title=title)):
        best = quickest(mine)
        beside = compare(loop[model][0], best)
        ratio = Interval(beside.ratio, beside.low, beside.high)
        rows[model][title] = (best, ratio, f"{ratio.value:.1f} {PRECISIONS[best.precision].title}")
figure, panels = bars_of_models(rows, "times the loop's speed")
for panel in panels.values():
    for bar in panel.patches:
        panel.vlines(1, bar.get_y(), bar.get_y() + bar.get_height(), color=plots.INK, linewidth=1)
plots.show_figure(
    figure,
    alt="For each model, the speed of every framework's quickest precision over the PyTorch FP32 loop at batch 1.",
    caption="End-to-end speed at batch 1, each framework in its quickest precision, with 95 % intervals. "
    f"{plots.provenance(wide)}",
)

# %% tags=["remove-cell"]
glue("16-gpu", words.machines(shown))
near = []
for size in sorted({r.batch_size for r in select(gpu, model="resnet18", precision="fp16")}):
    cell = [r for r in select(gpu, model="resnet18", precision="fp16", batch_size=size) if r.latency.device]
    if cell and ceilings:
        times = min(r.latency.device.value for r in cell) / Bracket("resnet18", "fp16", ceilings).ends_ms(size)[0]
        near.append(f"{times:.1f} times the bound at batch {size}")
needed = "not known without the ceilings of the GPU, which this edition does not hold"
told = f"ResNet-18 takes, in its quickest FP16 row, {', '.join(near)}" if near else needed
glue("16-near", told)
absent = {r.title for r in shown if not r.ok} - {r.title for r in select(shown)}
glue("16-absent", ", ".join(sorted(absent)) or "none")
for model in MODELS:
    mine = select(wide, model=model)
    best = [quickest(mine)] if mine else []
    glue(f"16-best-{model}", words.label(best[0]) if best else words.NOT_MEASURED)
    glue(f"16-speedup-{model}", words.times_faster(loop[model], best))
    glue(f"16-level-{model}", words.tied(best[0], mine) if best else words.NOT_MEASURED)
    reference = tables.reference_table(model).set_index(["framework", "precision"])["FPS"]
    glue(f"16-reference-best-{model}", " ".join(reference.idxmax()))
    glue(f"16-reference-speedup-{model}", f"{reference.max() / reference['PyTorch', 'FP32']:.1f}")

# %% [markdown]
# In words, for {glue:text}`16-gpu` and 16 bits or more, against the reference loop on the same machine. The quickest
# row is that with the shortest median; one that ties with it may have the longer bar, since bars compare within rounds.
#
# - Vanilla CNN: the quickest row is {glue:text}`16-best-vanilla_cnn`. Against the loop:
#   {glue:text}`16-speedup-vanilla_cnn`. Not clearly slower than the quickest: {glue:text}`16-level-vanilla_cnn`.
# - ResNet-18: the quickest row is {glue:text}`16-best-resnet18`. Against the loop: {glue:text}`16-speedup-resnet18`.
#   Not clearly slower than the quickest: {glue:text}`16-level-resnet18`.
# - MobileNetV2: the quickest row is {glue:text}`16-best-mobilenet_v2`. Against the loop:
#   {glue:text}`16-speedup-mobilenet_v2`. Not clearly slower than the quickest: {glue:text}`16-level-mobilenet_v2`.
#
# On its Quadro T2000, the reference project's best rows had {glue:text}`16-reference-speedup-vanilla_cnn` times the
# frames per second of its own PyTorch FP32 row for the vanilla CNN
# ({glue:text}`16-reference-best-vanilla_cnn`), {glue:text}`16-reference-speedup-resnet18` times for ResNet-18
# ({glue:text}`16-reference-best-resnet18`) and {glue:text}`16-reference-speedup-mobilenet_v2` times for MobileNetV2
# ({glue:text}`16-reference-best-mobilenet_v2`).

# %% tags=["remove-cell"]
quickest_of = {model: [quickest(mine)] if (mine := select(wide, model=model)) else [] for model in MODELS}
glue("16-mobilenet-loop", words.times_faster(loop["resnet18"], loop["mobilenet_v2"]))
glue("16-mobilenet-best", words.times_faster(quickest_of["resnet18"], quickest_of["mobilenet_v2"]))
resnet, mobilenet = (work_of(model, 1, "fp32") for model in ("resnet18", "mobilenet_v2"))
glue("16-fewer-operations", resnet.operations / mobilenet.operations)
glue("16-more-calls", mobilenet.calls / resnet.calls)
glue("16-traffic", mobilenet.bytes_unfused / resnet.bytes_unfused)

# %% [markdown]
# [The first chapter](01_the_task_and_the_models) asked whether ResNet-18 or MobileNetV2 would be faster. Compared with
# ResNet-18, MobileNetV2 is {glue:text}`16-mobilenet-loop` in the reference loop, and {glue:text}`16-mobilenet-best`
# when each is in that quickest row. Multiply-adds alone could not tell. It has {glue:text}`16-fewer-operations:.1f`
# times fewer of them, but {glue:text}`16-more-calls:.1f` times as many operations to launch, and
# {glue:text}`16-traffic:.1f` times the traffic if nothing is fused.
#
# ## Did the claims hold?
#
# A verdict is worth something if a second run says the same. So the published edition holds a second run, begun on a
# machine started anew, and every pair of rows that both runs measured and that answer the same question was compared in
# both. Of a row that the second run does not have, such as a processor's where it measured none, it says nothing.
#
# - A **claim** is a pair that the first run calls faster or slower.
# - It is **contradicted** if the second run says the opposite, and **not confirmed** if the second run does not say the
#   same; contradicted ones are among these.
# - Two ratios are **compatible** if they differ by no more than their 95 % intervals allow together. If all intervals,
#   of three starts each, are honest, {glue:text}`16-honest` of 100 are where both runs scatter alike, and at least 95.
#   If fewer are, the intervals promise too much.

# %%
shelves = (lab.published_store.read(), lab.store.read())
twice = next((records for records in shelves if len({r.run for r in records}) > 1), [])
held = tables.replicated(twice)
if held:
    again = tables.measured_twice(twice)
    caption = f"Two runs of one grid; the second one measured {again}. {plots.provenance(select(twice))}"
    display(tables.show_table(tables.replication_counts(held), caption))
else:
    print("one run so far; `python -m inference_lib benchmark --run 2` makes a second one")

# %% tags=["remove-cell"]
glue("16-honest", f"{honest_percent(3):.1f}")
for kind, name in (("end_to_end", "16-held-end-to-end"), ("device", "16-held-device")):
    glue(name, words.held(held[kind]) if held else "there is no second run yet")

# %% [markdown]
# End to end, {glue:text}`16-held-end-to-end`.
#
# On the device alone, {glue:text}`16-held-device`.
#
# The pairs whose ratios lie furthest apart, as the first and as the second run saw them, end to end:

# %% tags=["hide-output"]
columns = ["pair", "first", "second", "first_verdict", "second_verdict"]
worst = pd.DataFrame(held["end_to_end"]["worst"] if held else [], columns=columns)
worst = worst.rename(columns=lambda name: name.replace("_", " "))
tables.show_table(worst, "Furthest apart, in units of their intervals.", {"first": "{:.2f}", "second": "{:.2f}"})

# %% [markdown]
# A command judges two runs of yours by the same rules: `python -m inference_lib replicate`.
#
# ## Without the GPU
#
# The GPU's host has processors too. What do they do with the same models, each side with its quickest row for one
# caller, and with its most productive one for a full queue? Rows of eight bits are among them, where there are any.


# %%
def best_rows(device: str, records: list, model: str) -> dict:
    """Return one row: the quickest record at batch 1, and the one that computes most images per second."""
    mine = select(records, model=model)
    first = quickest(select(mine, batch_size=1))
    most = max((r for r in mine if r.throughput_images_per_s), key=lambda r: r.throughput_images_per_s, default=None)
    return {
        "model": model,
        "on": device,
        "one caller": words.label(first),
        "latency ms": latency_ms(first),
        "full queue": f"{words.label(most)}, batch {most.batch_size}" if most else None,
        "images/s": most.throughput_images_per_s if most else None,
    }


sides = {"CPU": host, "GPU": gpu}
both = [
    best_rows(device, records, model)
    for model in MODELS
    for device, records in sides.items()
    if select(records, model=model, batch_size=1)
]
if {row["on"] for row in both} == set(sides):
    caption = f"A GPU and its host. {plots.provenance(select([*host, *gpu]))}"
    display(tables.show_table(pd.DataFrame(both), caption, {"images/s": "{:,.0f}"}))
else:
    print("needs records of a GPU and of its host's processors; this edition has not both")

# %% [markdown]
# The CPU is there anyway: where one caller asks now and then, and can wait as long as it takes, nothing needs to be
# bought. Where callers have a limit, hold it against the CPU's latency. (Both sides' latencies have copies in them.)
# A full queue may be served best in small batches, where a framework computes several of them side by side.
#
# Where a queue is full, divide the GPU's images per second by the CPU's: so many such hosts do the work of one GPU, if
# pictures reach it as fast, for those of a full queue are on the device already. Then divide the price of each
# machine's hour by the images of that hour, as the [chapter on serving](15_serving) does for a million pictures.
#
# The CPU's side has only the frameworks that were measured there, of which the [chapter on OpenVINO](11_openvino) has
# more to say. Where no table stands above, `python -m inference_lib benchmark --device cpu` measures your CPU.
#
# ## On readers' machines
#
# Whoever has another machine can measure the same rows there and [bring the records](../book/reproducing). Each machine
# has a table of its own, since two cards are not to be compared row by row, and says how its second run judged the
# claims of the first.
#
# {{ machines: }}
#
# ## Accuracy over latency
#
# A faster row is worth nothing if its answers are not good enough. Each panel is drawn around its model's accuracy, all
# of them in one scale: between points at one height, going left is free.

# %% tags=["hide-input"]
checked = [r for r in at_batch_1 if r.accuracy]
found = {model: [r.accuracy.accuracy_percent for r in select(checked, model=model)] or [0.0] for model in MODELS}
room = 0.6 * max(map(np.ptp, found.values())) + 0.1  # above and below the middle, percentage points
figure, panels = model_panels(height=6.0, rows=len(MODELS))
for model, panel in panels.items():
    for record in select(checked, model=model):
        style, alpha = style_of(record.backend), plots.precision_alpha(record.precision)
        point = latency_ms(record), record.accuracy.accuracy_percent
        error = plots.reach([record.median("end_to_end")])
        panel.errorbar(*point, xerr=error, fmt=style.marker, color=style.color, alpha=alpha, markersize=5, elinewidth=1)
    middle = (min(found[model]) + max(found[model])) / 2
    panel.set(xscale="log", ylim=(middle - room, middle + room))
    panel.margins(x=0.12)
    plots.plain_ticks(panel, "x")
panels["mobilenet_v2"].set_xlabel("latency, ms")
panels["resnet18"].set_ylabel("test accuracy, %")
add_legend(figure, checked)
plots.show_figure(
    figure,
    alt="For each model, test accuracy over end-to-end latency at batch 1: a point a row, coloured by framework.",
    caption="Batch 1, end to end, with 95 % intervals of the latency; the more bits, the paler. "
    f"{plots.provenance(checked)}",
)

# %% tags=["remove-cell"]
accuracies = {
    model: [r.accuracy.accuracy_percent for r in mine]
    for model in MODELS
    if (mine := [r for r in select(wide, model=model) if r.accuracy])
}
means = [np.mean(values) for values in accuracies.values()]
glue("16-accuracy-of-exports", f"{max(map(np.ptp, accuracies.values())):.2f}" if means else words.NOT_MEASURED)
glue("16-accuracy-of-models", f"{np.ptp(means):.2f}" if means else words.NOT_MEASURED)

# %% [markdown]
# Among this figure's rows of 16 bits or more, the exports of one model differ by {glue:text}`16-accuracy-of-exports`
# percentage points of accuracy at most. The models differ by {glue:text}`16-accuracy-of-models`. Choose the model for
# accuracy and the framework for speed as long as the first number is small beside the second. (Where BF16 was measured
# on a processor, the tables above have it. It keeps seven bits of mantissa where FP16 keeps ten.)
#
# ## In eight bits
#
# INT8 and FP8 are another trade: some accuracy for some speed, after a calibration. [Chapter 13](13_quantization)
# explains both. Here is what the trade brings: the quickest row of eight bits beside the quickest of more, at the
# smallest and at the largest batch where both were measured. On a GPU, what eight bits can shorten is the time on the
# device alone; end to end, the copies come on top, in 16 bits either way. What is left where they overlap with the
# computation, that chapter says, too.


# %%
def eight_or_more(device: str, records: list, model: str, kind: str) -> list[dict]:
    """Return two rows or fewer: the quickest record with more bits and in eight, at both ends of the batch sizes."""
    rows = []
    mine = [r for r in select(records, model=model) if kind == "end_to_end" or r.latency.device]
    eight = [r for r in mine if PRECISIONS[r.precision].calibrated]
    more = [r for r in mine if not PRECISIONS[r.precision].calibrated]
    sizes = sorted({r.batch_size for r in eight} & {r.batch_size for r in more})
    for size in dict.fromkeys(sizes[:1] + sizes[-1:]):
        least = [min(select(some, batch_size=size), key=lambda r: r.median(kind).value) for some in (more, eight)]
        times = [record.median(kind).value for record in least]
        row = {"model": model, "on": device, "time": kind.replace("_", " "), "batch": size}
        row |= {"more bits": words.label(least[0]), "more, ms": times[0]}
        row |= {"eight bits": words.label(least[1]), "eight, ms": times[1]}
        rows.append(row | {"eight bits are": words.against(*least, kind)})
    return rows


sides = {"CPU": host, "GPU": gpu} if gpu or host else {"CPU": here}
rows = [
    row
    for model in MODELS
    for side, records in sides.items()
    for kind in ("device", "end_to_end")
    for row in eight_or_more(side, records, model, kind)
]
measured_sides = [r for records in sides.values() for r in select(records)]
in_eight = [r for model in MODELS for r in select(measured_sides, model=model) if PRECISIONS[r.precision].calibrated]
if rows:
    display(tables.show_table(pd.DataFrame(rows), f"Eight bits and more. {plots.provenance(in_eight)}"))
else:
    print("no rows in eight bits here yet")

# %% [markdown]
# What each of these rows loses in accuracy, and how sure that is, the same chapter has in [a
# table](13_quantization.ipynb#is-it-still-the-same-model).
#
# ## Throughput over latency
#
# Larger batches spread the cost of a call over more images, and make the first picture of a batch wait for the last. A
# row is worth considering only if no other row is both quicker and more productive: those that remain form the
# {term}`Pareto front`.

# %%
show_source(pareto_front)

# %% [markdown]
# Sorted by latency, a row stays if it raises the rate. Over all rows of the GPU, else of this machine, those of eight
# bits among them:


# %% tags=["hide-input"]
def coordinates(records: list) -> tuple[list[float], list[float]]:
    """Return latencies in ms and images per second."""
    return [latency_ms(r) for r in records], [images_per_s(r) for r in records]


figure, panels = model_panels(height=7.5, rows=len(MODELS))
for model, panel in panels.items():
    mine = select(shown, model=model)
    front = pareto_front(mine)
    if front:
        panel.plot(*coordinates(front), color=plots.INK, linewidth=1, zorder=1)
    for title in titles:
        if rows := select(mine, title=title):
            style = style_of(rows[0].backend)
            panel.plot(*coordinates(rows), style.marker, color=style.color, markersize=4, alpha=0.35)
    for record in front:
        style, point = style_of(record.backend), (latency_ms(record), images_per_s(record))
        error = plots.reach([record.median("end_to_end")])
        panel.errorbar(*point, xerr=error, fmt=style.marker, color=style.color, markersize=7, elinewidth=1)
        panel.annotate(record.batch_size, point, xytext=(-4, 6), textcoords="offset points", fontsize=plots.SMALL)
    panel.sharey(panels["vanilla_cnn"])
    panel.set(xscale="log", yscale="log")
    panel.margins(x=0.15, y=0.25)  # room for the numbers above the front
panels["mobilenet_v2"].set_xlabel("latency of a batch, ms")
panels["resnet18"].set_ylabel("images per second, end to end")
add_legend(figure, select(shown))
for panel in panels.values():
    plots.plain_ticks(panel, "x")
    labels.spread(panel, first=135)  # above and to the left of the front
plots.show_figure(
    figure,
    alt="For each model, images per second over latency for every framework, precision and batch size, "
    "with the Pareto front drawn as a line.",
    caption=f"All frameworks, precisions and batch sizes; on the line the front, with batch sizes. "
    f"{plots.provenance(select(shown))}",
)

# %% [markdown]
# The rows on the lines, in full:

# %%
front = [record for model in MODELS for record in pareto_front(select(shown, model=model))]
front_table = pd.DataFrame(
    [
        {
            "model": r.model,
            "framework": r.title,
            "precision": PRECISIONS[r.precision].title,
            "batch": r.batch_size,
            "latency ms": latency_ms(r),
            tables.INTERVAL: tables.ends(r.median("end_to_end")),
            "images/s": images_per_s(r),
            "not clearly slower": words.tied(r, select(shown, model=r.model, batch_size=r.batch_size)),
        }
        for r in front
    ]
)
tables.show_table(front_table, "The Pareto fronts, the quickest row first.")

# %% [markdown]
# A row of that machine that is not in this table has a longer median and a lower rate than one that is. The last column
# names those that the intervals do not tell from the row on the front, at the same batch size: no time measured here
# speaks against them.
#
# ## Memory
#
# A GPU that serves several models holds them all. How much of a process is the model itself?

# %% tags=["hide-input"]
holding = [r for r in at_batch_1 if r.gpu_memory_mib is not None]
rows = {
    model: {
        words.label(r): (r, Interval(r.gpu_memory_mib), f"{r.gpu_memory_mib:,.0f}")
        for r in select(holding, model=model)
    }
    for model in MODELS
}
figure, _ = bars_of_models(rows, "GPU memory, MiB")
plots.show_figure(
    figure,
    alt="GPU memory of the process at batch 1 for each framework, precision and model.",
    caption=f"Batch 1. {plots.provenance(holding)}" if holding else "No GPU records yet: a CPU has no such column.",
)

# %% tags=["remove-cell"]
glue("16-memory-weights", words.number(loop["resnet18"], lambda r: r.build.artifact_mib, "{:.0f} MiB"))
glue("16-memory-process", words.number(loop["resnet18"], lambda r: r.gpu_memory_mib, "{:,.0f} MiB"))

# %% [markdown]
# In the reference loop, ResNet-18's weights are a file of {glue:text}`16-memory-weights`, and the process takes
# {glue:text}`16-memory-process` of GPU memory. The rest is the CUDA context, the libraries' kernels, their
# {term}`workspaces <workspace>` and the activations.
#
# ## Energy, and what a million pictures cost
#
# Two prices are yours to put in: what an hour of the GPU costs you, and what a kilowatt hour costs.

# %%
price_per_hour, price_per_kwh = 3.0, 0.3  # in your currency; these are examples

# %% [markdown]
# On a GPU that you pay by the hour, the cheapest row is the most productive one, whatever the hour costs. A queue that
# is full lets the copies of one batch overlap with the computation of another. That rate was measured at the largest
# batch; another row has the rate of one caller over a long run. For each model: the three cheapest rows of 16 bits or
# more, the cheapest of eight bits, and the reference loop.


# %%
def rate(record) -> float:
    """Return images per second, copies included: overlapped with computation where that was measured."""
    return record.overlapped_images_per_s or images_per_s(record)


def cost(record, what: str) -> dict:
    """Return one row: the time and the price of a million pictures, from host memory to host memory."""
    hours = 1e6 / rate(record) / 3600
    row = {"model": record.model, "": what, "row": words.label(record), "batch": record.batch_size}
    row |= {"copies": "overlapped" if record.overlapped_images_per_s else "one caller", "images/s": rate(record)}
    row |= {"minutes": hours * 60, "price": hours * price_per_hour}
    return row | {"images/s without copies": record.throughput_images_per_s}


def costs(model) -> list[dict]:
    """Return the rows of one model."""
    ranked = sorted(choose(shown, model, allow_int8=True).ranked, key=rate, reverse=True)
    eight = [r for r in ranked if PRECISIONS[r.precision].calibrated]
    more = [r for r in ranked if not PRECISIONS[r.precision].calibrated]
    named = {"cheapest": more[:3], "in eight bits": eight[:1], "the loop": loop[model]}
    return [cost(record, what) for what, records in named.items() for record in records]


table = pd.DataFrame([row for model in MODELS for row in costs(model)])
forms = {"images/s without copies": "{:,.0f}", "minutes": "{:,.2f}", "price": "{:.4f}"}
caption = "A million pictures, copies included, overlapped with the computation where that was measured."
tables.show_table(table, f"{caption} {plots.provenance(select(shown))}", forms)

# %% [markdown]
# The overlapped rate has no interval, so rows whose prices lie a few percent apart are not told apart by it. Where
# copies overlap and the last column is still much larger than the rate, the bus is the limit, and a quicker framework
# would not be cheaper. (One caller waits for every copy and every answer, so in the loop's row the two tell nothing of
# the bus.)
#
# Look at the batches, too: a row that answers whole batches owes a part of what it saves to the batch, not to the
# framework. What the framework alone does is in the tables of batch 1 above.
#
# Energy is what the GPU itself took, read from its own counter while it computed batches of one, back to back. (The
# host is not in it. Rows of more than 16 bits and of larger batches have no reading.)

# %% tags=["hide-input"]
metered = [r for r in at_batch_1 if r.load and r.load.energy_mj_per_image]
rows = {
    model: {
        words.label(r): (r, Interval(r.load.energy_mj_per_image), f"{r.load.energy_mj_per_image:,.0f}")
        for r in select(metered, model=model)
    }
    for model in MODELS
}
figure, _ = bars_of_models(rows, "millijoules a picture")
plots.show_figure(
    figure,
    alt="Energy of the GPU for one picture at batch 1 for each framework, precision and model, in millijoules.",
    caption=f"Batch 1, back to back. {plots.provenance(metered)}" if metered else "No row has a reading yet.",
)


# %% tags=["remove-cell"]
def energy(record) -> float:
    """Return the kilowatt hours of a million pictures."""
    return record.load.energy_mj_per_image / 3.6e3


for model in MODELS:
    mine = sorted(select(metered, model=model), key=energy)
    if mine:
        least, most = mine[0], mine[-1]
        told = [f"{words.label(record)} {energy(record):.3f} kWh" for record in (least, most)]
        glue(f"16-energy-{model}", " and ".join(told))
        glue(f"16-electricity-{model}", f"{energy(least) * price_per_kwh:.4f} to {energy(most) * price_per_kwh:.4f}")
    else:
        glue(f"16-energy-{model}", words.NOT_MEASURED)
        glue(f"16-electricity-{model}", words.NOT_MEASURED)

# %% [markdown]
# The least and the most for a million pictures at batch 1, and what that electricity costs at the price above:
#
# - Vanilla CNN: {glue:text}`16-energy-vanilla_cnn`; {glue:text}`16-electricity-vanilla_cnn`.
# - ResNet-18: {glue:text}`16-energy-resnet18`; {glue:text}`16-electricity-resnet18`.
# - MobileNetV2: {glue:text}`16-energy-mobilenet_v2`; {glue:text}`16-electricity-mobilenet_v2`.
#
# A GPU that waits for its host takes power, too, so a row that is slow because it waits may need more energy for the
# same picture.
#
# A choice is paid for in more than one currency. All that a row of ResNet-18 takes beside the time of an inference, the
# least energy first:

# %% tags=["hide-output"]
bill = tables.costs(select(at_batch_1, model="resnet18")).drop(columns=["model", "batch"], errors="ignore")
if "mJ per image" in bill:
    bill = bill.sort_values("mJ per image")
else:
    print("energy: not measured yet")
tables.show_table(bill, f"ResNet-18, batch 1. {plots.provenance(select(at_batch_1, model='resnet18'))}")

# %% tags=["remove-cell"]
ways = bill.assign(row=bill["framework"] + " " + bill["precision"]) if len(bill) else bill
least = []
for name in ways.select_dtypes("number"):
    told = ways[ways[name].notna()]
    if told["framework"].nunique() > 1:  # one framework alone is the least of nothing
        least.append(f"{name}: {', '.join(told['row'][told[name] == told[name].min()])}")
glue("16-least", "; ".join(least) or words.NOT_MEASURED)

# %% [markdown]
# The least in each column that several frameworks have: {glue:text}`16-least`. What is missing was not measured: an
# export has a time only if it ran with nothing else beside it (cuDNN's always does, for it times kernels), and energy
# is read on a GPU, in 16 bits or fewer.
#
# ## The price of getting started
#
# Exporting, loading and the first inference come before the first answer. A row that starts later and then runs faster
# pays for itself after so many inferences; a program that stops before should have used the plain loop. Ten seconds
# more for the start, and a millisecond less for each inference: that is after 10,000. Starts are compared only where
# they were timed with nothing else running, which `python -m inference_lib starts` does. The rule in full:

# %%
show_source(break_even)

# %% [markdown]
# For ResNet-18, if its starts were timed alone: the seconds until the first answer, and what `break_even` says of each
# row.


# %% tags=["hide-input"]
def pays(record, baseline) -> str:
    """Say after how many inferences a row has paid for its start."""
    if seconds_to_first_answer(record) is None or seconds_to_first_answer(baseline) is None:
        return "not timed"
    beside = compare(baseline, record)
    if beside.low is not None and beside.verdict in ("same", "cannot tell"):
        return "cannot tell"
    count = break_even(record, baseline)
    return "never" if count is None else f"{count:,.0f}"


timed = [r for r in at_batch_1 if seconds_to_first_answer(r) is not None]
started = [
    r for r in timed if loop[r.model] and loop[r.model][0] in timed
]  # what is compared with the loop needs its start
building = select(started, model="resnet18")
parts = {"export": "#56B4E9", "load": "#D98C00", "first inference": "#CC79A7"}

figure, (axes,) = plots.new_figure(height=0.3 * len(building) + 1.4)
left = np.zeros(len(building))
for part, color in parts.items():
    seconds = np.array([getattr(r.build, f"{part.replace(' ', '_')}_s") or 0 for r in building])
    bars = axes.barh(range(len(building)), seconds, left=left, color=color, label=part, height=0.6)
    left += seconds
for position, record in enumerate(building):
    text = pays(record, loop["resnet18"][0]) if loop["resnet18"] else ""
    text = "the loop" if record in loop["resnet18"] else f"pays after: {text}"
    axes.annotate(text, (left[position], position), xytext=(4, -3), textcoords="offset points", fontsize=plots.SMALL)
axes.set_yticks(range(len(building)), [words.label(r) for r in building])
axes.invert_yaxis()
axes.grid(visible=False, axis="y")
axes.margins(x=0.2, y=0.02)
axes.set_xlabel("seconds to the first answer")
if building:
    figure.legend(loc="outside lower center", ncols=3)
    alt = "Seconds of export, load and first inference of resnet18 for each row, and after how many inferences it pays."
    caption = f"ResNet-18, batch 1, against the reference loop. {plots.provenance(building)}"
    display(plots.show_figure(figure, alt, caption))
else:
    print("the loop's start was not timed alone; `python -m inference_lib starts` does so")

# %% [markdown]
# And the break-even counts of all models, as inferences at batch 1:

# %%
counts = {}
for record in (r for r in started if r not in loop[r.model] and loop[r.model]):
    counts.setdefault(words.label(record), {})[record.model] = pays(record, loop[record.model][0])
paid = pd.DataFrame(counts, index=list(MODELS)).T.rename_axis("framework").reset_index()
if counts:
    display(tables.show_table(paid, "Inferences until a row has paid for its start."))
else:
    print("needs starts that were timed alone, the loop's among them")

# %% [markdown]
# A dash stands where a row, or the loop of its model, was not timed alone; a row without any such start is not here.
# Where there are such counts, "never" means that the row is slower than the loop at batch 1, "cannot tell" that the two
# are tied. Export time counts once if the artifact is kept; the table charges it in full.
#
# (section-16-roofline)=
# ## What the hardware would allow
#
# The {term}`roofline` of [chapter 03](03_where_the_time_goes) bounds every row twice {cite}`roofline`: with the traffic
# of operations that run one by one, each writing its result to memory (*unfused*), and with the images, the weights and
# the answers alone (*fused*). A program that does these multiplications gets past the first bound by fusing, or where a
# cache holds what one operation leaves for the next, and not past the second.

# %%
bounded = roofline_table(select(gpu), ceilings) if ceilings else pd.DataFrame()
largest = bounded[bounded["batch"] == bounded["batch"].max()] if len(bounded) else bounded

# %% [markdown]
# A point for each row at the largest batch, under the roofs of its precision:

# %% tags=["hide-input"]
figure, (axes,) = plots.new_figure(height=4.6)
if len(largest):
    plots.roofline(largest, ceilings, axes)
    add_legend(figure, select(gpu, batch_size=largest["batch"].max()))
    labels.spread(axes)
    alt = "FLOP per second over FLOP per byte for every row at the largest batch, under the roofs of the precisions."
    caption = f"All rows at the largest batch, the highest of each column named. {plots.provenance(select(gpu))}"
    display(plots.show_figure(figure, alt, caption))
else:
    print("needs the ceilings of that GPU, measured there or published with its records")

# %% [markdown]
# The distance to the roof is what could still be gained by operations that run one by one; fusing could gain more. What
# was achieved in each row, at every batch size, as a share of both bounds:

# %% tags=["hide-output"]
shares = ["framework", "model", "precision", "batch", "achieved images/s", "limited by", "% of unfused", "% of fused"]
formats = {"achieved images/s": "{:,.0f}", "% of unfused": "{:.0f}", "% of fused": "{:.0f}"}
if len(bounded):
    caption = f"Achieved of what is attainable. {plots.provenance(select(gpu))}"
    display(tables.show_table(bounded[shares], caption, formats))
else:
    print("needs the ceilings of that GPU")

# %% [markdown]
# A row above 100 percent of the unfused bound moves less than one by one would: it has fused operations, or what they
# hand on stayed in a cache.
#
# ## How to choose
#
# A recommendation ages; a rule does not. Say what you need, and let the measurements answer:

# %%
show_source(choose)

# %% [markdown]
# Images per second are those that one caller gets over a long run, copies included: batch size over the mean inference,
# not over the median, as FPS are. A limit on the median (`max_p50_ms`) holds half of the time. A promise is a limit on
# the 99th percentile (`max_p99_ms`); that needs 1,000 timed inferences to be known at all. Here rows have it at
# {glue:text}`16-p99`, unless they are so slow that they were timed less often. A row without it cannot keep a promise,
# however quick it is.
#
# Four requests:
#
# 1. A camera: one answer as soon as possible, from any model that is at least 94 % accurate.
# 2. A service: as many images per second as possible, the median batch within 10 ms.
# 3. A promise: the same, but 99 of 100 batches within 10 ms.
# 4. A crowded GPU: as many images per second as possible, the median within 25 ms, in at most 900 MiB.

# %%
requests = {
    "camera": {"goal": "latency", "min_accuracy_percent": 94},
    "service": {"goal": "throughput", "max_p50_ms": 10},
    "promise": {"goal": "throughput", "max_p99_ms": 10},
    "crowded GPU": {"goal": "throughput", "max_p50_ms": 25, "max_memory_mib": 900},
}
choices = {(name, model): choose(shown, model, **limits) for name, limits in requests.items() for model in MODELS}


def answer(choice, goal: Goal) -> dict:
    """Return one row of the table of answers."""
    best = choice.best
    return {
        "choose": words.label(best) if best else "nothing fits",
        "batch": f"{best.batch_size}" if best else None,
        "latency ms": latency_ms(best) if best else None,
        "images/s": images_per_s(best) if best else None,
        "GPU memory MiB": best.gpu_memory_mib if best else None,
        "tied with it": len(level_with(best, choice.ranked, goal)) if best else None,
        "flags": "; ".join(best.flags) if best else None,
        "excluded": len(choice.excluded),
    }


answers = [{"request": n, "model": m} | answer(c, requests[n]["goal"]) for (n, m), c in choices.items()]
answers = pd.DataFrame(answers).replace("", None).dropna(axis="columns", how="all")
tables.show_table(answers, f"{len(requests)} requests. {plots.provenance(select(shown))}")

# %% tags=["remove-cell"]
with_p99 = sorted({r.batch_size for r in select(shown) if r.latency and r.latency.end_to_end.p99})
glue("16-p99", f"batch {', '.join(map(str, with_p99))}" if with_p99 else "no batch size")

# %% [markdown]
# How many rows tie with the best one, the table says; the command below names them. A flagged record may be chosen, and
# then its flag is shown: measure such a row again before you rely on it. Records that meet the request and are merely
# slower follow the best one in `ranked`.
#
# Every record that breaks a limit has its reason, as has every one that could not be measured. These are the measured
# ones that the promise excludes for ResNet-18:

# %% tags=["hide-output"]
reasons = pd.DataFrame(
    [
        {
            "framework": record.title,
            "precision": PRECISIONS[record.precision].title,
            "batch": record.batch_size,
            "reason": reason,
        }
        for record, reason in choices["promise", "resnet18"].excluded
        if record.ok
    ]
)
tables.show_table(reasons, "Excluded, and why.")

# %% [markdown]
# The function knows what was measured, and whether a program without Python can load a row's artifact
# (`without_python=True`). Rows in INT8 and FP8 trade accuracy for speed, so it takes them only if told to
# (`allow_int8=True`). What it cannot weigh is yours to add: who will maintain the export, whether the input's shape
# varies.
#
# At a prompt, the same rules print the whole ranking, ties as ties, and why every other row is out:
#
# ```bash
# python -m inference_lib choose --model resnet18 --max-p99-ms 10 --min-accuracy 94 --no-python
# ```

# %% [markdown]
# ## What goes wrong
#
# ### Averaging frames per second
#
# Time each call, invert each time, average: the result is too large whenever latency varies ([chapter
# 02](02_measuring_inference) has it among its mistakes). What a long run gets are images over seconds. The rate of the
# median inference, which tables here and elsewhere call FPS, is a third number. All three, from the stored distribution
# of the reference loop:

# %%
for model, records in loop.items():
    for record in records:
        rates = 1e3 / np.array(record.latency.end_to_end.quantiles)
        told = f"mean of 1/t {np.mean(rates):.1f}, FPS {record.fps:.1f}, images over seconds {images_per_s(record):.1f}"
        print(f"{model}: {told}")

# %% tags=["remove-cell"]
above = [100 * (record.fps / images_per_s(record) - 1) for record in at_batch_1]
higher = f"higher in {np.sum(np.array(above) > 0)} of the {len(above)} rows of batch 1"
told = f"{higher}, by {np.median(above):.1f} % in the median row and {max(above):.1f} % at most" if above else higher
glue("16-fps", told)

# %% [markdown]
# The first number can only be larger than the last, and nobody ever gets it. FPS compares medians; half of the
# inferences reach it. A long run gets less wherever slow inferences lose more time than quick ones win: beside images
# over seconds, FPS is {glue:text}`16-fps`. So whatever ranks rows by their rate on this page, or prices pictures, takes
# images over seconds.
#
# ### Taking "busy" for "full"
#
# A GPU is busy while one kernel runs, even if that kernel uses one {term}`multiprocessor` of many; [chapter
# 03](03_where_the_time_goes) shows how little it may be doing. The same model in the same precision at batch 1, run in
# different ways:

# %%
busy = [
    {"framework": r.title, "GPU busy %": r.load.busy_percent, "FPS": r.fps}
    for r in select(gpu, model="resnet18", precision="fp16", batch_size=1)
    if r.load
]
caption = f"ResNet-18, FP16, batch 1. {plots.provenance(select(gpu, model='resnet18', precision='fp16'))}"
tables.show_table(pd.DataFrame(busy), caption) if busy else print("needs GPU records")

# %% [markdown]
# Busy says whether the GPU waits for the host. How well its arithmetic units are used, images per second and a roofline
# say.
#
# ### Comparing across machines
#
# A row of one table and a row of another may differ in GPU or processor, driver, clocks, versions and weights. Only the
# framework was meant to differ. Compare within a machine, then compare the ratios.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-16-price
# Put in your own prices. Which ResNet-18 row of 16 bits or more classifies a million pictures for the least money, and
# for how much? Which is it if the median batch may take no longer than 2 ms?
# ```
#
# ````{solution} ex-16-price
# :class: dropdown
# ```python
# for limits in ({}, {"max_p50_ms": 2}):
#     best = max(choose(shown, "resnet18", **limits).ranked, key=rate, default=None)
#     hours = 1e6 / rate(best) / 3600 if best else float("nan")
#     name = f"{words.label(best)}, batch {best.batch_size}" if best else "nothing"
#     print(f"{limits or 'no limit'}: {name}, {hours * price_per_hour:.4f} at {price_per_hour} an hour")
# ```
# On one GPU the cheapest row is the most productive one, whatever the price. A limit on the latency keeps large batches
# out, and with the largest the rates whose copies overlap: the difference between the two lines is what the limit
# costs. Between two machines the price decides: compare price per hour over images per second.
# ````
#
# ```{exercise}
# :label: ex-16-front
# Can `choose` with `goal="throughput"` answer with a record that is not on the Pareto front? Try no limit, limits on
# the median, on p99, and on memory.
# ```
#
# ````{solution} ex-16-front
# :class: dropdown
# ```python
# fronts = {model: pareto_front(select(shown, model=model)) for model in MODELS}
# for limits in ({}, {"max_p50_ms": 1}, {"max_p99_ms": 1}, {"max_memory_mib": 1_100}):
#     answers = {model: choose(shown, model, goal="throughput", allow_int8=True, **limits).best for model in MODELS}
#     off = [f"{model}: {words.label(best)}" for model, best in answers.items() if best and best not in fronts[model]]
#     print(f"{limits or 'no limit'}: not on the front: {', '.join(off) or 'none'}")
# ```
# The front is drawn from medians and rates. Without limits, and with one on the median, the answer is on it. A limit on
# p99 may exclude a row of the front, because its latency varies or because its p99 was not measured, and so may a limit
# on memory. The answer is then the best of the rest, and an excluded row may beat it.
# ````
#
# ```{exercise}
# :label: ex-16-python
# Your service is written in C++. How much slower is the quickest row whose artifact runs without Python than the
# quickest of all, for each model at batch 1?
# ```
#
# ````{solution} ex-16-python
# :class: dropdown
# ```python
# for model in MODELS:
#     any_row = choose(at_batch_1, model).best if select(at_batch_1, model=model) else None
#     without = choose(at_batch_1, model, without_python=True).best if any_row else None
#     if any_row and without:
#         difference = "the same row" if without is any_row else words.times_faster([any_row], [without])
#         print(f"{model}: {words.label(any_row)} with Python, {words.label(without)} without: {difference}")
#     else:
#         print(f"{model}: no such rows")
# ```
# Where both are the same row or tied, leaving Python costs nothing but the work.
# ````
#
# ```{exercise}
# :label: ex-16-restart
# A program is started once an hour, answers 10 pictures a second, one at a time, and exports its model anew at each
# start. Which ResNet-18 rows have paid for their start before the hour is over?
# ```
#
# ````{solution} ex-16-restart
# :class: dropdown
# ```python
# asked = 10 * 3600
# for record in building:
#     if loop["resnet18"] and record not in loop["resnet18"]:
#         needed = break_even(record, loop["resnet18"][0])
#         answer_ = "not known, or never" if needed is None else f"after {needed:,.0f} pictures"
#         print(f"{words.label(record)}: {answer_}{', in time' if needed is not None and needed < asked else ''}")
# if not (building and loop["resnet18"]):
#     print("needs starts that were timed alone, the loop's among them")
# ```
# Keep the artifact, and the export is paid once: then only the load and the first inference count at each start.
# ````
#
# ## Key points
#
# - Which one? For one picture on {glue:text}`16-gpu`, in 16 bits or more: {glue:text}`16-best-vanilla_cnn`
#   (Vanilla CNN), {glue:text}`16-best-resnet18` (ResNet-18), {glue:text}`16-best-mobilenet_v2` (MobileNetV2), or what
#   ties with it. For a job of yours, `choose`: a rule over measurements ages less than a recommendation.
# - Compare rows of one machine; compare machines by ratios.
# - A GPU is for a limit that the CPU misses, or for a queue that it does not empty: compare what an hour of each costs.
# - A verdict has an interval and can be a tie. Ask how many verdicts a second run repeated.
# - Same weights, same predictions: check agreement first, then speed decides.
# - Rows on the Pareto front, and those that tie with them, are worth considering, and a limit picks one of them.
# - Eight bits trade accuracy for speed: look at what they lose before you look at what they gain.
# - Money follows the images per second. Energy has a meter of its own.
# - A faster start or a faster run: the number of inferences decides.
#
# ## Further reading
#
# The rules that this book measures by are in [How to read this book](../book/how_to_read). MLPerf Inference states
# the same two goals as its single-stream and offline scenarios {cite}`mlperf_inference`.
