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
# # Measuring inference
#
# How do you know that it is faster?
#
# A stopwatch is three lines of Python. Here are eleven mistakes with it, made on purpose and measured; a twelfth, which
# this course made itself and no stopwatch shows; and the design that came of it.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# to time inference so that the number means something, and to say *faster* only when it will hold tomorrow
# :::
# :::{grid-item-card} You need
# Python and PyTorch; a GPU for the mistakes that only a GPU lets you make
# :::
# :::{grid-item-card} To read
# 45 minutes
# :::
# :::{grid-item-card} To run
# {{ run_times }}
# :::
# ::::

# %% [markdown]
# ## Why a stopwatch is not enough
#
# Here is the loop that everybody writes:
#
# ```python
# start = time.perf_counter()
# for _ in range(10):
#     network(images)
# print((time.perf_counter() - start) / 10)
# ```
#
# It runs, it prints a plausible number, and no test will ever fail because of it. What it prints depends on what the
# GPU was doing, on what ran before, on the {term}`garbage collector`, and on how long the chip had been idle.
#
# Two programs are at work: Python fills a queue, and the {term}`device` empties it. The first mistake is to read one
# program's clock and to believe that it is the other's.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import gc
import itertools
import json
import subprocess
import sys
import time
import timeit
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import LogLocator
from scipy import stats

from inference_lib import load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends.shared.cuda import float32_products
from inference_lib.measure import timing
from inference_lib.measure.benchmark import WAITED_PERCENT
from inference_lib.measure.gpu import wake_clocks
from inference_lib.measure.profiles import PROFILES
from inference_lib.measure.roofline import attainable, ceilings, work_of
from inference_lib.measure.threads import scheduled
from inference_lib.measure.throughput import time_throughput
from inference_lib.measure.turns import ROUNDS, Turns, take_turns
from inference_lib.records.comparison import SAME_WITHIN, verdict_of
from inference_lib.records.statistics import (
    LEAST_FOR_P99,
    LEAST_INVOCATIONS,
    Interval,
    log_ratios,
    median_interval,
    over_invocations,
)
from inference_lib.report import glue, plots, select, show_source, tables, words
from inference_lib.seam import Workload, build
from inference_lib.support.progress import each
from inference_lib.zoo.fashion_mnist import load_fashion_mnist, preprocess

lab = open_lab(profile, device, records_dir)
on_gpu = lab.device == "cuda"
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% tags=["hide-input"]
rows = {
    "Python": [(0.1, 0.45), (0.6, 0.45), (1.1, 0.45)],
    "device": [(0.6, 1.8), (2.45, 1.8), (4.3, 1.8)],
}
figure, (axes,) = plots.new_figure(height=1.9)
plots.timeline(rows, ["#8A8F98", "#D55E00"], axes)
axes.set_ylim(1.5, -1.0)
for moment, text in ((0.1, "start"), (1.55, "the loop ends"), (6.1, "the work ends")):
    axes.axvline(moment, color=plots.INK, linewidth=1, linestyle=":")
    axes.text(moment, -0.6, f" {text} ", ha="right" if moment > 6 else "left")
plots.show_figure(
    figure,
    alt="Sketch: Python launches three calls in a short time; the device works on them long after the loop has ended.",
    caption="A sketch, not a measurement. Three calls: when Python has launched them, the device is still at work.",
)

# %% [markdown]
# The network is ResNet-18 on a GPU and the smallest network of the course on a CPU. The batch is large enough to keep
# the device busy for longer than the launching takes.
#
# On a CPU, one thread does the work in this chapter. With a thread on every core, each layer waits for the slowest of
# them, and whatever else the machine is doing gets into every number.

# %%
if not on_gpu:
    torch.set_num_threads(1)

model, batch_size = ("resnet18", 64) if on_gpu else ("vanilla_cnn", 4)
pictures, _ = load_fashion_mnist("test")
host_images = preprocess(pictures[:batch_size])
images = torch.from_numpy(host_images).to(lab.device)
network = load_pretrained(model).to(lab.device)


@torch.inference_mode()
def answer(batch=images):
    """Return the logits of a batch that is on the device already."""
    return network(batch)


# %% [markdown]
# Every mistake goes into a ledger, which is printed at the end: the number that it gives, and the number that is right.
# Where a mistake is one call and its mend another, the two take turns, for reasons that come later; an {term}`effect`
# of *none* means that the difference is lost in the noise.
#
# `lab.turns` warms each call up, gives each up to ten turns in random order, and waits for the device after every call;
# `lab.time` warms one call up and times it alone, waiting as well. So what they are given need not wait by itself.

# %%
ledger = []


def keep(mistake, wrong, mended, unit="ms", effect="-"):
    """Print the wrong number and the mended one, and keep both."""
    ledger.append((mistake, wrong, mended, unit, effect))
    print(f"wrong {wrong:,.4g} {unit}, mended {mended:,.4g} {unit}")


def keep_turns(mistake, turns):
    """Keep what two calls that took turns gave."""
    effect = turns.effect("wrong", "mended")
    keep(mistake, turns.ms("wrong"), turns.ms("mended"), effect=effect)
    print(f"effect of the mistake: {effect}")


def compare_calls(mistake, wrong, mended):
    """Let the mistake and its mend take turns."""
    keep_turns(mistake, lab.turns({"wrong": wrong, "mended": mended}))


# %% [markdown]
# Some of the eleven have a bound. Copies that one side leaves out are worth no more than the copies take, and a mean of
# rates is never too low. Others have none: a clock that is read too early misses all that the device had left to do,
# and nothing limits what a first call takes.
#
# ```{admonition} Guess
# :class: tip
# The clock read too early, no warm-up, the mean of the rates, copies on one side only, cold clocks, TF32 by accident, a
# meter in the loop, the garbage collector, too few samples, a p99 of a hundred, one input for all calls: which of the
# eleven changes the number most, and by which factor?
# ```
#
# :::{dropdown} The answer, where this page was made
# *{glue:text}`02-worst`*, by a factor of {glue:text}`02-worst-factor`. The ledger below has all of them.
# :::
#
# ## Eleven mistakes
#
# ### 1. Reading the clock before the work is done
#
# A call to a GPU returns when its {term}`kernels <kernel>` are in the queue. So the clock is read twice here: when the
# call returns, and again when the device has finished.


# %%
def wait():
    """Wait until the device has done everything that was asked of it."""
    if on_gpu:
        torch.cuda.synchronize()


def read_twice(call, count):
    """Return, in ms, when each call returned and when its work was done."""
    readings = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        returned = time.perf_counter()
        wait()
        readings.append((returned - start, time.perf_counter() - start))
    return np.array(readings).T * 1e3


# %% [markdown]
# These are the first calls of this process. The earliest of them are a mistake of their own, so this section looks at
# the others.

# %%
returned, done = read_twice(answer, 30)
keep("no waiting", np.median(returned[10:]), np.median(done[10:]))

# %% tags=["remove-cell"]
glue("02-machine", lab.machine_name)
glue("02-returned", f"{np.median(returned[10:]):.2f} ms")
glue("02-done", f"{np.median(done[10:]):.2f} ms")

# %% [markdown]
# On {glue:text}`02-machine`, the call returns after {glue:text}`02-returned` and its work is done after
# {glue:text}`02-done`. On a CPU a call returns when it is done. On a GPU it returns when it is launched: the first
# number is Python's, the second one the device's.
#
# The mend is one line: wait for the device before the clock is read. `.cpu()`, `.item()` and `print` of a tensor wait
# too, which is why some wrong loops give right numbers.
#
# ### 2. Counting the first calls
#
# The same calls, all of them this time. The first one loads libraries, asks for memory and chooses algorithms.

# %% tags=["hide-input"]
figure, (axes,) = plots.new_figure(height=3.0)
numbers = np.arange(1, len(done) + 1)
axes.plot(numbers, done, "o-", color="#D55E00", markersize=4, label="work done")
axes.plot(numbers, returned, ".--", color="#0072B2", label="call returned")
axes.set(xlabel="call", ylabel="ms")
if done.max() < 5 * np.median(done):
    axes.set_ylim(bottom=0)
else:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
axes.legend()
plots.show_figure(
    figure,
    alt="Time of the first thirty calls of the process, when the call returned and when its work was done.",
    caption=f"The first {len(done)} calls, {model}, FP32, batch {batch_size}. {lab.machine_name}.",
)

# %% [markdown]
# What the first calls do to a mean, and what is left when they are gone:

# %%
keep("no warm-up", done[:10].mean(), np.median(done[10:]))

# %% [markdown]
# The mean of ten calls spreads the first one over all ten. A larger count hides the mistake without mending it. On a
# CPU, with few libraries to load, the first call may not stand out at all.
#
# How many calls are enough? It depends on the library, so the book does not fix a number. It calls until two windows
# of ten calls agree, or a budget is spent:

# %%
show_source(timing.warm_up)

# %% [markdown]
# Warm is a property of one shape. A new batch size may need other algorithms and more memory, so it starts cold
# again:

# %%
larger = torch.cat([images, images[:1]])


def answer_larger():
    answer(larger)
    wait()


first = read_twice(answer_larger, 1)[1][0]
calls = 1 + timing.warm_up(answer_larger)
print(f"batch {len(larger)}: first call {first:.2f} ms")
print(f"after {calls} calls {np.median(read_twice(answer_larger, 10)[1]):.2f} ms")

# %% [markdown]
# So warm up at every size that you will time, or serve.
#
# ### 3. The mean of the rates
#
# Images per second are images divided by seconds. A loop that keeps `1 / t` for each call and takes the mean at the
# end computes something else. Two calls, of one and of three seconds, show it without a clock:

# %% tags=["nbval-check-output"]
seconds = np.array([1.0, 3.0])
print(f"mean of the rates: {(1 / seconds).mean():.3f} images per second")
print(f"images over time:  {len(seconds) / seconds.sum():.3f} images per second")

# %% [markdown]
# Two images took four seconds. The mean of the rates counts the fast call as much as the slow one, though the slow one
# took most of the time. It is never too low, and too high as soon as the times differ: this is Jensen's inequality for
# the function `1 / t`.
#
# Now a real series: inferences of one image, a thousand of them if three seconds are enough. Mistakes 9 and 10 use it
# again.

# %%
single = images[:1].clone()


def answer_single():
    answer(single)
    wait()


timing.warm_up(answer_single)
thousand = timing.StoppingRule(budget_s=3, min_samples=1000, max_samples=1000)
series = timing.time_call(answer_single, thousand).milliseconds

# %% [markdown]
# Both ways to make a rate of it:

# %%
rate_of_mean = len(series) / series.sum() * 1e3
mean_of_rates = (1e3 / series).mean()
keep("mean of 1/t", mean_of_rates, rate_of_mean, "images/s")

# %% [markdown]
# The error grows with the scatter. For a small scatter it is close to the square of the coefficient of variation, the
# standard deviation divided by the mean:

# %%
variation = series.std() / series.mean()
print(f"too high by {mean_of_rates / rate_of_mean - 1:.2%}")
print(f"the square of the variation is {variation**2:.2%}")

# %% [markdown]
# So a framework that stutters gains the most from this mistake. Where single calls are many times slower than the
# rest, the rule of the square no longer holds, and the error is there all the same.
#
# ### 4. Copies on one side only
#
# The project that this course grew from noted that ONNX Runtime looked slower than PyTorch on its GPU. The call `run()`
# of ONNX Runtime takes an array from the {term}`host` and returns one, so both copies are in its time. A PyTorch loop
# that starts from a tensor on the device has none.


# %%
def array_to_array():
    return answer(torch.from_numpy(host_images).to(lab.device)).cpu().numpy()


if on_gpu:
    compare_calls("no copies", answer, array_to_array)
else:
    print("needs a GPU; on a CPU an array and a tensor share their memory")

# %% [markdown]
# Neither number is wrong by itself. Comparing one with the other is. The book times from array to array, which is what
# an application waits for, and times the copies apart as well. ONNX Runtime's side of the comparison is in its
# [chapter](07_onnx_runtime).
#
# ### 5. Cold clocks
#
# From here on the call is a *runner*: a loaded model behind the interface that all frameworks of this book share. On
# a GPU it is a CUDA graph in FP16, which [the chapter on PyTorch](04_pytorch) explains; on a CPU it is the plain model.

# %%
name, precision = ("pytorch-cudagraph", "fp16") if on_gpu else ("pytorch", "fp32")
backend = get_backend(name)
workload = Workload(model, 1, precision, lab.device)
runner = backend.load(build(backend, workload))  # open until the chapter ends

inputs = [preprocess(pictures[i : i + 1], workload.host_dtype) for i in range(8)]


def infer():
    return runner.infer(inputs[0])


_ = timing.warm_up(infer)

# %% [markdown]
# A GPU with nothing to do lowers its clock to save power, and takes a moment under load to raise it. A loop that
# sleeps, loads a file or prints between two measurements times the power management.


# %%
def ten_inferences():
    """Return the median of ten inferences in milliseconds."""
    return np.median(read_twice(infer, 10)[1])


if on_gpu:
    time.sleep(1.0)
    idle_clock, after_idle = torch.cuda.clock_rate(), ten_inferences()
    wake_clocks(torch.cuda.current_device(), infer)
    keep("cold clocks", after_idle, ten_inferences())
    print(f"SM clock: after an idle second {idle_clock} MHz, awake {torch.cuda.clock_rate()} MHz")
else:
    print("needs a GPU")

# %% [markdown]
# How far an idle clock falls, and how soon, depends on the GPU and on its settings: a card in a data centre may hold
# its clock as long as a program is attached, a laptop's may let go at once. Where the two clocks printed above are
# equal, it did not fall here, and a difference of the times has another cause: perhaps the clocks and caches of the
# host, or chance, since ten inferences are few. So the book does not guess. It asks for the clock, and works the GPU
# until it is up:

# %%
show_source(wake_clocks)

# %% [markdown]
# The opposite exists too. A GPU under load for minutes may grow hot and slow down. The book's records keep the clock
# and the reasons for any {term}`throttling`.
#
# ### 6. TF32 by accident
#
# PyTorch computes FP32 convolutions in {term}`TF32` unless told otherwise, and FP32 matrix products in IEEE arithmetic
# {cite}`pytorch_tf32`. Whoever compares its "FP32" with that of a framework that means it compares two arithmetics.
# `open_lab` has set both to IEEE; here the default comes back for the calls of one side.


# %%
def by_accident():
    """Answer with the settings that PyTorch comes with."""
    with float32_products("fp32"):
        torch.backends.cudnn.allow_tf32 = True
        return answer()


if on_gpu:
    compare_calls("TF32 called FP32", by_accident, answer)
    rounded, exact = by_accident().clone(), answer().clone()
    difference = (rounded - exact).abs().max() / exact.abs().max()
    print(f"largest difference of a logit, relative: {difference.item():.1e}")
else:
    print("needs a GPU")

# %% [markdown]
# TF32 keeps ten bits of {term}`mantissa` of every factor. It is a good choice for inference, and it is not FP32: the
# label has to say which. It can save time only where arithmetic takes the time; at batch 1 the launches may hide it.
#
# ### 7. Looking at the meter while timing
#
# A program that wants to know how busy the device is asks for it, often in the same loop: {term}`NVML` on a GPU,
# `/proc/stat` on a CPU. The question takes time, too, and may slow down the inference that follows it.


# %%
def meter():
    """Read how busy the device is, as monitoring programs do."""
    return torch.cuda.utilization() if on_gpu else Path("/proc/stat").read_text()


def watched():
    meter()
    infer()


compare_calls("meter in the loop", watched, infer)
print(f"one look at the meter alone: {lab.time(meter).p50:.3f} ms")

# %% [markdown]
# The faster the model, the larger the share of the question. The book samples power, clocks and busy percent in a
# phase of their own, under a steady load that nobody times.
#
# ### 8. Garbage collection inside the loop
#
# CPython frees most objects at once. For those that refer to each other in circles it stops now and then, walks through
# the newest containers, seldom through all that are alive, and goes on. A loop that keeps its answers creates
# containers, so sooner or later the long walk falls into a timed inference.


# %%
def inference_with_notes(kept):
    """Infer, and keep many small lists, as a program that logs its answers does."""
    infer()
    kept.append([[number] for number in range(4000)])


def hundred_calls():
    gc.collect()
    kept = []
    return read_twice(lambda: inference_with_notes(kept), 100)[1]


collected = hundred_calls()
with timing.no_garbage_collection():
    uncollected = hundred_calls()
keep("collector on, worst call", collected.max(), uncollected.max())
print(f"medians: {np.median(collected):.3f} and {np.median(uncollected):.3f} ms")

# %% tags=["hide-input"]
figure, (axes,) = plots.new_figure(height=2.6)
axes.plot(collected, color="#D55E00", label="collector on")
axes.plot(uncollected, color="#0072B2", label="collector off")
axes.set(xlabel="call", ylabel="ms")
axes.set_ylim(bottom=0)
axes.legend(loc="upper left")
plots.show_figure(
    figure,
    alt="Time of a hundred calls that keep many small lists, with the garbage collector on and off.",
    caption=f"{model} at batch 1, 4000 lists kept at every call. {lab.machine_name}.",
)

# %% [markdown]
# Look at the worst calls, not at the medians alone: they are the 99th percentile that somebody promised a customer.
#
# The timer turns the collector off, as Python's own `timeit` does. If your service runs with the collector on, its
# stragglers are real: measure them there.
#
# ### 9. Too few samples
#
# How far can the median of a few samples be off? From the series of the third mistake, draw three, take the median,
# draw again, many times. The spread of these medians is what chance does to you.

# %%
random = np.random.default_rng(0)
counts = [3, 10, 30, 100, 300]
median = np.median(series)
spread = []
for count in counts:
    draws = random.choice(series, (400, count))
    medians = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    interval = np.median([median_interval(draw) for draw in draws], axis=0)
    spread.append((np.concatenate([medians, interval]) / median - 1) * 100)
spread = np.where(np.isfinite(spread), spread, np.nan)  # three samples have no such interval

# %% tags=["hide-input"]
figure, (axes,) = plots.new_figure(height=3.2)
places = np.arange(len(counts))
for offset, columns, color, label in (
    (-0.12, slice(0, 2), "#D55E00", "95 % of the medians lie here"),
    (0.12, slice(2, 4), "#0072B2", "interval computed from one such series"),
):
    low, high = spread[:, columns].T
    axes.vlines(places + offset, low, high, color=color, linewidth=5, label=label)
axes.axhline(0, color=plots.INK, linewidth=1)
axes.set_xticks(places, counts)
axes.set(xlabel="samples", ylabel="off the median of all, %")
axes.legend(loc="upper right")
plots.show_figure(
    figure,
    alt="Spread of the median of 3 to 300 samples, beside the confidence interval computed from one series.",
    caption=f"{model}, FP32, batch 1; 400 draws each from {len(series)} inferences. {lab.machine_name}.",
)

# %% [markdown]
# Into the ledger goes how wide that spread is:

# %%
widths = [high - low for low, high, *_ in spread]
keep("spread of 3 samples, not 300", widths[0], widths[-1], "%")

# %% [markdown]
# With many samples, the spread shrinks about as the square root of the count grows: a tenth of it takes a hundred
# times the samples. With a few, it can be wider than that rule says, because the middle one of three may be a
# straggler.
#
# Nobody has hundreds of series to look at. But one series is enough to compute how far its median may be off. Sort the
# samples: each lies below the true median with probability one half, so counting heads and tails says which ranks
# enclose it {cite}`conover`. Nothing is assumed about the shape of the distribution, which for latencies is seldom
# a bell. But the samples have to be independent of each other, and the twelfth mistake is to believe that they are.

# %%
show_source(median_interval)

# %% [markdown]
# With three samples the interval could only be the whole series, and even that holds the median less often than 95
# times in a hundred. So there is none.
#
# ### 10. A p99 of a hundred samples
#
# The 99th percentile is the time that 99 of 100 inferences do not exceed. One sample in a hundred lies beyond it, so a
# short series may see none:

# %% tags=["nbval-check-output"]
for count in (3, 30, 100, 300, 1000):
    print(f"{count:4} samples: {count / 100:5.2f} expected beyond p99, none at all in {0.99**count:.1%} of the series")

# %% [markdown]
# The p99 of three samples is the largest of three, and too low nearly always. Draw from the series again, this time for
# the p99:

# %%
far = np.percentile(series, 99)
tails = {}
for count in (30, 100, 300, 1000):
    draws = np.percentile(random.choice(series, (400, count)), 99, axis=1)
    low, high = np.percentile(draws, [2.5, 97.5]) / far - 1
    tails[count] = (high - low) * 100
    print(f"{count:4} samples: 95 % of the p99's lie between {low:+.0%} and {high:+.0%} of that of all")
keep("spread of the p99 of 30 samples, not 1000", tails[30], tails[1000], "%")

# %% tags=["remove-cell"]
glue("02-least-p99", f"{LEAST_FOR_P99:,}")

# %% [markdown]
# The book gives a p99 only where {glue:text}`02-least-p99` inferences or more stand behind it, so that ten of them lie
# beyond, and shows its interval. In all other rows the column is empty.
#
# ### 11. One input that never leaves the cache
#
# A loop that sends the same array again and again finds it in the processor's cache at every turn. So the timer takes
# turns among several inputs:

# %%
rotation = itertools.cycle(inputs)
compare_calls("one input", infer, lambda: runner.infer(next(rotation)))

# %% [markdown]
# An input of one image is small, so this may change little. The weights are the larger part, and they are the same at
# every call. How much of them can stay in the cache of the GPU? It says so itself:

# %%
bytes_each = 2 if precision == "fp16" else 4
weights = sum(weight.numel() for weight in network.parameters()) * bytes_each
print(f"weights of {model} in {precision}: {weights / 2**20:.1f} MiB")
if on_gpu:
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    print(f"L2 cache: {cache / 2**20:.0f} MiB")

# %% [markdown]
# Where the weights fit, an inference that follows another one need not fetch them from memory. To see what that is
# worth, push them out before every inference: overwrite a buffer that is larger than the cache.
#
# While a GPU overwrites, Python launches the inference, so the launch is hidden. The other side of the comparison needs
# the same: a GPU that is busy for a moment, with nothing that touches memory.

# %%
show_source(timing.cache_flush)


# %% [markdown]
# On a GPU, PyTorch has a way to do nothing for some cycles:


# %%
def occupy():
    """Keep a GPU busy for a moment without touching memory."""
    if on_gpu:
        with torch.cuda.stream(runner.stream):
            torch.cuda._sleep(400_000)  # clock cycles


# %% [markdown]
# Then the model alone is timed, after the one or after the other:


# %%
def compute_after(prepare):
    """Return the median of a few runs of the model alone, when ``prepare`` runs before each."""
    return timing.time_compute(runner, timing.StoppingRule(budget_s=0.02, floor_samples=3), prepare).p50


runner.upload(inputs[0])
flush = timing.cache_flush(runner.stream)
pairs = [(compute_after(occupy), compute_after(flush)) for _ in range(ROUNDS)]
warm, cold = (list(times) for times in zip(*pairs, strict=True))
keep_turns("weights in the cache", Turns({"wrong": warm, "mended": cold}))

# %% [markdown]
# Here "wrong" depends on the question. A server that runs one small model all day finds its weights in the cache, and
# the warm number is what its callers see. Between other work they are gone, and the cold number is right. Benchmarks of
# single kernels flush, as Triton's `do_bench` does {cite}`triton_do_bench`. Whichever you take, take the same for both
# sides.
#
# ### The ledger
#
# All that was kept, in the order of the chapter:

# %%
account = pd.DataFrame(ledger, columns=["mistake", "wrong", "mended", "unit", "effect"])
account["wrong / mended"] = account["wrong"] / account["mended"]
decimals = {"wrong": "{:,.4g}", "mended": "{:,.4g}", "wrong / mended": "{:.2f}"}
tables.show_table(account, f"What each mistake did. {lab.machine_name}.", decimals)

# %% tags=["remove-cell"]
factors = np.exp(np.abs(np.log(account["wrong / mended"]))).where(account["effect"] != "none", 1.0)
glue("02-mistakes", len(account))
glue("02-harmful", int((factors > 1.05).sum()))
glue("02-worst", account["mistake"][factors.idxmax()])
glue("02-worst-factor", f"{factors.max():.1f}")

# %% [markdown]
# Of the ledger's {glue:text}`02-mistakes` rows on {glue:text}`02-machine` (the eleventh mistake has two, the input
# and the weights), {glue:text}`02-harmful` changed the number by more than five percent. The worst,
# *{glue:text}`02-worst`*, was off by a factor of {glue:text}`02-worst-factor`.
#
# Mistakes that need a GPU are missing from the ledger of a CPU. An effect *none*, or a ratio close to one, means
# that the mistake did no harm here, today, with this network. You cannot know that before you have mended it.
#
# Two numbers in the ledger time the very same call: *meter in the loop*, mended, and *one input*, wrong. None of the
# eleven mistakes explains why they differ.
#
# ## The twelfth mistake: one process
#
# An earlier edition of this course believed that it had mended all eleven. It measured each row with a series of its
# own, in a process of its own, gave every median its interval, and said *faster* where two intervals did not touch.
# Then the same code measured the same rows again, on other machines:

# %%
history = pd.DataFrame(
    [
        ("the edition (H200), and an H100", 10, 132, 19, 135, 126),
        ("two machines with an H100", 6, 42, 5, 45, 42),
    ],
    columns=["compared", "backends", "claims", "contradicted", "ratios", "ratios that disagree"],
)
notes = [
    "Three models, FP16, batch 1, end to end; measured on 2026-11-26. A claim is a faster or slower of the first run, "
    "contradicted where the second says the opposite.",
    "Ratios disagree, in the first row, where the second lies outside the 95 % interval of the first; in the second "
    "row, where they are further apart than both intervals together explain.",
]
tables.show_table(history, "How the claims of the course's earlier edition fared. Its own history, kept.", notes=notes)

# %% tags=["remove-cell"]
glue("02-contradicted", f"{history['contradicted'][1] / history['claims'][1] * 100:.0f} %")
glue("02-disagree", f"{history['ratios that disagree'][1]} of {history['ratios'][1]}")

# %% [markdown]
# Even between two machines with the same card, {glue:text}`02-contradicted` of the claims were turned around, and
# {glue:text}`02-disagree` ratios disagreed; with honest intervals, about one ratio in twenty would.
#
# Some of it was the eleven mistakes in new clothes: of 240 series, 208 had ended because their time was up, 66 of them
# with fewer than ten samples, and a p99 was given from three on. But longer series would not have helped. The intervals
# were 1.6 percent to either side, and the runs differed by 10 to 100 percent. Copies of the same 301 KB took 0.061 to
# 0.074 ms in most processes, and 0.139 to 0.168 ms in four of them, from start to end.
#
# The interval of a series knows the scatter inside the series. It knows nothing of what differs between two processes:
# where memory happened to lie, which kernels were chosen, who else was on the host, the temperature {cite}`wrong_data`.
# More samples of the same process are more of the same luck.
#
# ### Let the rivals take turns
#
# The next attempt, on the H100's host, put two rivals into one process: ResNet-18 in FP16 at batch 1, as PyTorch's CUDA
# graph and compiled by [AOTInductor](06_torch_compile), taking turns in blocks of 60 inferences. The process was
# started eight times. The medians of one of the two moved by 11 percent from process to process; the *ratio within a
# block*, as a median of each process, was:

# %%
ratios = [1.131, 1.113, 1.122, 1.118, 1.112, 1.116, 1.115, 1.113]
print(f"largest over smallest: {max(ratios) / min(ratios) - 1:.1%}")

# %% [markdown]
# Whatever slows the host for a while slows both sides of a ratio. You can see why without any machine. Here is a host
# that drifts: its pace takes a random step of about one percent after another, and each inference scatters by two.


# %%
def host(steps):
    """Return how slow a drifting host is at each step."""
    return np.exp(np.cumsum(random.normal(0, 0.01, steps)))


def scattered(times):
    return times * np.exp(random.normal(0, 0.02, len(times)))


def in_a_row(slower, steps=60):
    """Time one program, then the other, which takes ``slower`` times as long."""
    pace = host(2 * steps)
    return scattered(pace[:steps]), scattered(slower * pace[steps:])


def in_turns(slower, steps=60):
    """Let both take a turn at every other step."""
    pace = host(2 * steps)
    return scattered(pace[::2]), scattered(slower * pace[1::2])


# %% [markdown]
# Two ways to compare: the intervals of two medians, as the earlier edition did, and the median of the ratios within a
# round. The same rule makes a verdict of either, in 500 experiments each.


# %%
def by_medians(first, second):
    """Return how much faster ``second`` is, with the interval that two medians' intervals give."""
    (low, high), (low2, high2) = median_interval(first), median_interval(second)
    return Interval(np.median(first) / np.median(second), low / high2, high / low2)


def by_rounds(first, second):
    """Return how much faster ``second`` is, with the interval of the median of the ratios within a round."""
    logs = log_ratios(first, second)
    return Interval(*np.exp([np.median(logs), *median_interval(logs)]))


def verdicts(design, estimate, slower, experiments=500):
    """Return the percentage of each verdict."""
    found = pd.Series([verdict_of(estimate(*design(slower))) for _ in range(experiments)])
    share = found.value_counts(normalize=True) * 100
    return {name: share.get(name, 0) for name in ("faster", "slower", "same", "cannot tell")}


random = np.random.default_rng(0)
designs = {"one after the other": (in_a_row, by_medians), "in turns": (in_turns, by_rounds)}
drifting = pd.DataFrame(
    [
        {"truth": truth, "design": name} | verdicts(*design, slower)
        for truth, slower in (("the same program twice", 1.0), ("5 % slower", 1.05))
        for name, design in designs.items()
    ]
)
shares = dict.fromkeys(["faster", "slower", "same", "cannot tell"], "{:.0f}")
tables.show_table(drifting, "Verdicts on the second program, % of 500 simulated experiments.", shares)

# %% tags=["remove-cell"]
shown = drifting.set_index(["truth", "design"])
false_claims = shown[["faster", "slower"]].sum(axis=1)["the same program twice"]
assert false_claims["in turns"] < 5 < false_claims["one after the other"], "the text says that turns help"
glue("02-false-row", f"{false_claims['one after the other']:.0f} %")
glue("02-false-turns", f"{false_claims['in turns']:.0f} %")
glue("02-wrong-row", f"{shown.loc[('5 % slower', 'one after the other'), 'faster']:.0f} %")

# %% [markdown]
# Where the same program ran twice, a difference was claimed in {glue:text}`02-false-row` of the experiments one after
# the other, and in {glue:text}`02-false-turns` of those in turns. A program that was slower came out as *faster* in
# {glue:text}`02-wrong-row` of the experiments one after the other: that is how a claim comes to be contradicted.
#
# Now for real: the call of this chapter against itself, and against copies that burn a little more time at their end.


# %%
def burning(extra_ms):
    """Return a call that takes ``extra_ms`` milliseconds more."""

    def call():
        infer()
        end = time.perf_counter() + extra_ms / 1e3
        while time.perf_counter() < end:
            pass

    return call


once = lab.time(infer).p50
copies = {"the call": infer, "the same again": burning(0), "5 % more": burning(0.05 * once)}
copies["50 % more"] = burning(0.5 * once)
real = lab.turns(copies)
tables.show_table(real.table(), f"In turns, against the call itself. {lab.machine_name}.")

# %% tags=["hide-input"]
figure, (left, right) = plots.new_figure(columns=2, height=2.8)
numbers = range(1, len(real.rounds["the call"]) + 1)
for (name, times), color in zip(real.rounds.items(), ("#D55E00", "#0072B2", "#009E73", "#882255"), strict=True):
    left.plot(numbers, times, "o-", color=color, markersize=3, label=name)
    if name != "the call":
        logs = np.exp(log_ratios(times, real.rounds["the call"]))
        right.plot(numbers, logs, "o-", color=color, markersize=3)
left.set(xlabel="round", ylabel="median of a turn, ms")
right.set(xlabel="round", ylabel="times the call's, same round")
figure.legend(loc="outside upper center", ncols=4)
plots.show_figure(
    figure,
    alt="Left, the median of every turn of four calls over the rounds; right, their ratio to the first call in the "
    "same round.",
    caption=f"{model}, batch 1. {lab.machine_name}.",
)

# %% tags=["remove-cell"]
again = np.exp(log_ratios(real.rounds["the same again"], real.rounds["the call"]))
moved = {"02-moved": np.array(real.rounds["the call"]), "02-ratio-moved": again}
for name, values in moved.items():
    glue(name, f"{(np.percentile(values, 90) / np.percentile(values, 10) - 1) * 100:.1f} %")

# %% [markdown]
# On {glue:text}`02-machine`, from the tenth to the ninetieth percentile of the rounds, the call's own median moved by
# {glue:text}`02-moved`, and its ratio to the same call again by {glue:text}`02-ratio-moved`. Where the second number is
# the smaller one, the host drifted, and the ratio did not see it. Where it is the larger one, the times jump within a
# round, and only more rounds help. You do not know beforehand which kind of day it is.
#
# A comparison of a thing with itself is called an {term}`A/A test`. Whatever claims a difference there claims it of
# nothing. So count: fifteen A/A tests one after the other, and fifteen in turns, with the same number of inferences.

# %%
sample = timing.sampler(infer)
series_claims = turns_claims = 0
for seed in each(range(15), "A/A tests"):
    first, second = timing.take(sample, 3 * ROUNDS), timing.take(sample, 3 * ROUNDS)
    series_claims += verdict_of(by_medians(first, second)) in ("faster", "slower")
    aa = take_turns({"a": infer, "b": infer}, turn_s=0.003 * once, seed=seed)
    turns_claims += aa.effect("b", "a") != "none"
print(f"one after the other: {series_claims} of 15 claim a difference")
print(f"in turns:            {turns_claims} of 15 claim a difference")

# %% [markdown]
# At 95 percent, one false claim in twenty is what you asked for. Fifteen tests can tell it from one in two, not from
# none. And series that follow each other within seconds see little of the drift: where neither way claims a
# difference, the host was quiet for so long, which says nothing about the next process or another day.
#
# ### Why rounds are not repetitions
#
# Turns take away what both sides share. What they do not share stays: this process put the weights of one model on
# better addresses, and there they stay until it ends, however many rounds are run. So the course counts on four levels.
# ({term}`Rivals <rival>` are whatever is compared: all frameworks, with the same model, batch size and device.)
#
# - **iteration**: one timed inference;
# - **round**: each rival has a turn of some iterations, in random order; the first iterations of a turn do not count;
# - **invocation**: all rivals are started anew, each in a process of its own;
# - **run**: all invocations of all rows, on one machine, on one day.

# %% tags=["hide-input"]
random = np.random.default_rng(2)
rivals, colors = ("rival A", "rival B", "rival C"), ("#D55E00", "#0072B2", "#009E73")
spans, moment = {name: [] for name in rivals}, 0.0
for _ in range(2):
    moment += 1.2
    for _ in range(4):
        for name in random.permutation(rivals):
            spans[name].append((moment, 0.5))
            moment += 0.55
        moment += 0.3
figure, (axes,) = plots.new_figure(height=2.1)
plots.timeline(spans, colors, axes)
axes.set_ylim(2.5, -1.2)
for start, text in ((1.2, "invocation 1: four rounds"), (moment / 2 + 0.6, "invocation 2: all started anew")):
    axes.text(start, -0.7, text, fontsize="small")
plots.show_figure(
    figure,
    alt="Sketch: three rivals take turns in four rounds, in random order; after a pause everything is started anew and "
    "they take turns again.",
    caption="A sketch, not a measurement. Turns of three rivals in two invocations.",
)

# %% [markdown]
# Rounds of one invocation share its luck; invocations do not share theirs. What does it cost to forget that? Simulated
# again: two programs that are equal, a luck of three percent for each invocation, two percent of scatter between
# rounds. An honest 95 percent interval holds the truth, a ratio of one, in 95 of 100 experiments.


# %%
def experiment(invocations, rounds):
    """Return the logarithm of the ratio in every round of every invocation; the truth is zero."""
    return [random.normal(luck, 0.02, rounds).tolist() for luck in random.normal(0, 0.03, invocations)]


def pooled(logs):
    """Take all rounds as repetitions."""
    flat = np.concatenate(logs)
    return Interval(*np.exp([np.median(flat), *median_interval(flat)]))


ways = {
    "60 rounds of one invocation": (1, 60, pooled),
    "3 invocations of 20 rounds, pooled": (3, 20, pooled),
    "3 invocations of 20 rounds": (3, 20, over_invocations),
    "6 invocations of 10 rounds": (6, 10, over_invocations),
}
random = np.random.default_rng(0)
rows = []
for name, (invocations, rounds, estimate) in ways.items():
    found = [estimate(experiment(invocations, rounds)) for _ in range(400)]
    held = np.mean([interval.low <= 1 <= interval.high for interval in found]) * 100
    width = np.median([interval.log_half_width for interval in found]) * 100
    rows.append((name, held, width))
coverage = pd.DataFrame(rows, columns=["design", "holds the truth, %", "half width, %"])
forms = {"holds the truth, %": "{:.0f}", "half width, %": "{:.1f}"}
tables.show_table(coverage, "Intervals of 400 simulated experiments, 95 % promised.", forms)

# %% tags=["remove-cell"]
holds = coverage.set_index("design")["holds the truth, %"]
assert holds.iloc[0] < 50 < 90 < holds.iloc[2], "the text says that only invocations give honest intervals"
glue("02-holds-rounds", f"{holds.iloc[0]:.0f}")
glue("02-holds-invocations", f"{holds.iloc[2]:.0f}")
glue("02-width-rounds", f"{coverage['half width, %'][0]:.1f}")

# %% [markdown]
# Sixty rounds of one invocation promise 95 in 100 and hold {glue:text}`02-holds-rounds`: their interval is narrow,
# {glue:text}`02-width-rounds` percent to either side, around the wrong place. Three invocations hold
# {glue:text}`02-holds-invocations`. Theirs is wide, because three values say little about how much values differ. That
# is the price, and it falls quickly with the fourth and fifth.
#
# How wide? The distance of the mean of a few invocations from the truth, over its standard error, is distributed like
# [Student's t](../book/glossary). The interval is the mean, plus and minus this many times the standard deviation
# between invocations:

# %% tags=["nbval-check-output"]
for invocations in (2, 3, 4, 6, 10):
    print(f"{invocations:2} invocations: {stats.t.ppf(0.975, invocations - 1) / invocations**0.5:.2f}")

# %% [markdown]
# It is computed on logarithms, because times are positive and a factor of two up is as far as a factor of two down
# {cite}`georges_rigorous,kalibera_jones`:

# %%
show_source(over_invocations)

# %% [markdown]
# The larger of two variances is taken, because three invocations lie close together by chance now and then; their
# rounds know better.
#
# ## Faster, slower, the same, cannot tell
#
# Two medians always differ. What may be said is decided by the interval of their ratio, and by a margin:

# %%
show_source(verdict_of)

# %% [markdown]
# Four intervals, and what may be said of each:

# %% tags=["nbval-check-output"]
for ratio, low, high in ((1.30, 1.22, 1.38), (1.30, 0.90, 1.88), (1.004, 0.995, 1.013), (1.02, 1.005, 1.035)):
    print(f"{ratio:.3f} times as fast, between {low:.3f} and {high:.3f}: {verdict_of(Interval(ratio, low, high))}")

# %% tags=["remove-cell"]
glue("02-margin", f"{SAME_WITHIN * 100:g} percent")
glue("02-least-invocations", LEAST_INVOCATIONS)

# %% [markdown]
# A win is claimed when all of the interval lies beyond {glue:text}`02-margin`, a tie when all of it lies within. The
# margin is there because the same captured kernels differ by about a percent from process to process, and nobody should
# choose by that. In any other case the measurements *cannot tell*, which is an answer.
#
# From fewer than {glue:text}`02-least-invocations` invocations there is no interval, so nothing is claimed: the quick
# profile shows the ratio and says so. Inside a chapter, small experiments take turns within one process; their *effect*
# is the verdict on that process, and no more.
#
# ## How the course measures
#
# All rivals of a question (a model, a batch size, a device) are alive together, each in a process of its own. While one
# has its turn, the others wait without using a core. This is an invocation:

# %%
show_source("inference_lib.measure.rounds", "Race._rounds")

# %% [markdown]
# The first round wakes everything up and does not count. `host_pace_ms` times a fixed piece of work in each round, so
# that the record knows how quick the host was. The grid of all questions is passed through as a whole, once for each
# invocation, so that the invocations of a question lie far apart in time.
#
# Where not all rivals fit in memory together, they run in several sets. Each carries two rows along, PyTorch's eager
# loop and its CUDA graph, and sets are compared through them.

# %%
sizes = ["invocations", "rounds", "iterations", "least_iterations", "test_images"]
chosen = pd.DataFrame([{"profile": name} | {each: getattr(p, each) for each in sizes} for name, p in PROFILES.items()])
tables.show_table(
    chosen.rename(columns=lambda name: name.replace("_", " ")), "What a profile measures, a row of a GPU."
)

# %% [markdown]
# The published edition is measured with `full`; `smoke` is for the course's own tests.
#
# ### End to end, and on the device
#
# *End to end* is what a caller waits for, from array to array. `infer` has waited for the device when it returns, so
# the host's clock may be read:

# %%
start = time.perf_counter()
runner.infer(inputs[0])
print(f"end to end: {(time.perf_counter() - start) * 1e3:.3f} ms")

# %% [markdown]
# *Device time* is the model alone, between two {term}`CUDA events <CUDA event>`: marks in the device's own queue, which
# the device stamps when it gets there.

# %%
if on_gpu:
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record(runner.stream)
    runner.compute()
    after.record(runner.stream)
    after.synchronize()
    print(f"on the device: {before.elapsed_time(after):.3f} ms")
else:
    print("needs a GPU; on a CPU the host's clock is read")

# %% [markdown]
# Each of these is a single sample. In the course's own series, the device flushes its cache first, for as long as
# Python needs to queue the whole model, so that no launch is in the number. (A framework that waits for the device
# while it launches keeps its gaps, and so does a round in which the host was held up for longer than the flush lasts.)

# %%
show_source("inference_lib.measure.cell", "Cell._device_time")

# %% [markdown]
# End to end belongs to framework and host, device time to the framework alone. Both are kept, verdicts are given on
# each, and they need not agree: a framework may have the quicker kernels and the slower call.

# %%
gpu_rows = select(lab.gpu_records(), model="resnet18", precision="fp16", batch_size=1)
both = [(r.title, r.latency.end_to_end.median, r.latency.device) for r in gpu_rows if r.latency and r.latency.device]


def percent(interval):
    """Return half the width of an interval in percent."""
    return None if interval.log_half_width is None else interval.log_half_width * 100


columns = ["framework", "end to end, ms", "+- %", "device, ms", "device +- %"]
found = [(title, end.value, percent(end), device.value, percent(device)) for title, end, device in both]
forms = {"+- %": "{:.1f}", "device +- %": "{:.1f}"}
caption = f"ResNet-18, FP16, batch 1. {plots.provenance(gpu_rows)}"
tables.show_table(pd.DataFrame(found, columns=columns), caption, forms)

# %% tags=["remove-cell"]
told = {title: percent(end) - percent(device) for title, end, device in both if end.low and device.low}
wider = [title for title, more in told.items() if more <= 0]
glue("02-narrower", f"{len(told) - len(wider)} of {len(told)}" if told else words.NOT_MEASURED)
glue("02-wider", ", ".join(wider) or "none")

# %% [markdown]
# Rows whose device time has the narrower interval: {glue:text}`02-narrower`; the others: {glue:text}`02-wider`. Where
# the host drifts, only the end-to-end time sees it; where it stumbles in the middle of many launches, the device may
# have to wait, and its time has a share of that.
#
# ### Disturbed
#
# Drift is slow; a neighbour on the machine comes and goes. Here is the same call alone, and beside processes that keep
# every core busy. Linux counts for each thread how long it could have run and had no core, in
# `/proc/self/task/*/schedstat`:


# %%
@contextmanager
def neighbours():
    """Keep every core busy with another process, for twenty seconds at most."""
    program = "import time\nend = time.time() + 20\nwhile time.time() < end: pass"
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(lab.machine.cores)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def watched_turn(seconds=1.0):
    """Time inferences for about so long; return median, p90 and the share of the time spent waiting for a core."""
    start, before = time.perf_counter(), scheduled().waited_ms
    times = timing.take(sample, max(10, round(seconds * 1e3 / once)))
    waited = (scheduled().waited_ms - before) / (time.perf_counter() - start) / 10
    return {"median, ms": np.median(times), "p90, ms": np.percentile(times, 90), "waited %": waited}


alone = watched_turn()
with neighbours():
    beside = watched_turn()
disturbed = pd.DataFrame([{"": "alone"} | alone, {"": "beside busy processes"} | beside])
tables.show_table(disturbed, f"{model}, batch 1. {lab.machine_name}.", {"waited %": "{:.1f}"})

# %% tags=["remove-cell"]
glue("02-waited", f"{WAITED_PERCENT:g} %")

# %% [markdown]
# Nothing in the times themselves says what happened; the last column does (where the system does not count, it is
# zero). The course reads it at every turn. An invocation in which a rival waited for more than {glue:text}`02-waited`
# of its time is run again, and if it does not get better, the row carries a note.
#
# ### Did it hold?
#
# The proof of a measurement is another one. `python -m inference_lib replicate` compares two runs of the same grid,
# pair by pair, in the rows that both have: how many claims of the first does the second contradict, and how many ratios
# are as close as their intervals say? The [scoreboard](16_scoreboard) shows the answer for the published edition.
#
# ## Latency and throughput
#
# *Latency* is how long one caller waits. *Throughput* is how many images leave the machine per second when there is
# always a next batch in the queue.

# %% tags=["hide-input"]
parts = {"copy in": (0.0, 0.6), "model": (0.85, 1.2), "copy out": (2.3, 0.5)}
rows = {
    "latency": [(start + turn * 3.2, length) for turn in range(2) for start, length in parts.values()],
    "throughput": [(turn * 1.24, 1.2) for turn in range(5)],
}
figure, (axes,) = plots.new_figure(height=1.8)
plots.timeline(rows, ["#D55E00", "#0072B2"], axes)
axes.set_ylim(1.5, -0.9)
for name, (start, length) in parts.items():
    axes.text(start + length / 2, -0.5, name, ha="center", fontsize="small")
plots.show_figure(
    figure,
    alt="Sketch: for latency, copy, model and copy follow each other with gaps; for throughput, the model runs "
    "back to back.",
    caption="A sketch, not a measurement. Latency: a caller sends, waits, and only then sends again. Throughput: the "
    "next batch is in the queue before the last is done.",
)

# %% [markdown]
# For throughput, batches are queued in ever larger chunks, and the clock is read after each chunk is done. The first
# chunk that is long enough counts:

# %%
show_source(time_throughput)

# %% [markdown]
# What can it be? Unless queueing itself costs something, a queue that is never empty delivers at least the inverse of
# the latency, which is what one caller after the other gets. It delivers at most what the machine's arithmetic and
# memory allow; [the next chapter](03_where_the_time_goes) shows how that is computed. Where between the two do you
# expect it?

# %%
latency = lab.time(infer).p50
fps = 1e3 / latency
ceiling = attainable(work_of(model, 1, precision), ceilings(lab.device), precision, "fused")
print(f"latency    {latency:.3f} ms, its inverse {fps:,.0f} images/s")
print(f"at most    {ceiling:,.0f} images/s")

# %% [markdown]
# The measurement:

# %%
throughput = time_throughput(runner, inputs[0], budget_s=0.5)
per_second = throughput.images_per_s
print(f"throughput {per_second:,.0f} images/s, its inverse {1e3 / per_second:.3f} ms")
print(f"{per_second / fps:.2f} times the inverse of the latency, {per_second / ceiling:.1%} of the ceiling")

# %% [markdown]
# Latency and throughput need not be each other's inverse. The copies, the launch and the wait are in the latency; in
# the throughput the launch of one batch hides behind the computing of the last, and the images are on the device
# already. Where there is nothing to hide, as on a CPU, the two should come close. Quote both, each by its name
# {cite}`mlperf_inference`.
#
# ### Against other clocks
#
# A clock is checked with another clock. On a GPU: CUDA events against the host's clock and against Triton's `do_bench`,
# all three with a flush before each run. On a CPU: the book's timer against Python's `timeit`.


# %%
short = timing.StoppingRule(budget_s=0.1, min_samples=20)


def host_clock(runner):
    """Time launch, computing and wait with the host's clock."""
    flush = timing.cache_flush(runner.stream)

    def sample():
        flush()
        runner.synchronize()
        start = time.perf_counter()
        runner.compute()
        runner.synchronize()
        return (time.perf_counter() - start) * 1e3

    return timing.collect(sample, short).p50


# %% [markdown]
# Triton's own clock, where it can be used:


# %%
def triton_clock(runner):
    """Time with Triton's do_bench; not a number where Triton cannot be used."""
    try:
        from triton.testing import do_bench

        with torch.cuda.stream(runner.stream):
            return do_bench(runner.compute, warmup=20, rep=100, return_mode="median")
    except Exception as error:
        print(f"Triton's clock is missing here ({type(error).__name__})")
        return np.nan


# %% [markdown]
# And all of them for one runner:


# %%
def clocks_of_gpu(runner):
    """Return the median of each clock in milliseconds, the book's first."""
    events = timing.time_compute(runner, short, timing.cache_flush(runner.stream))
    return {
        "this book (CUDA events)": events.p50,
        "triton.testing.do_bench": triton_clock(runner),
        "host's clock, launch and wait included": host_clock(runner),
    }


def clocks_of_cpu(runner):
    seconds = timeit.repeat(runner.compute, number=2, repeat=5)
    return {"this book": timing.time_compute(runner, short).p50, "timeit": np.median(seconds) / 2 * 1e3}


# %% [markdown]
# Clocks take turns, too. The book's is the first row of each batch size, and the last column says how far the others
# are from it: the median of the quotients within a round.

# %%
rows = []
for size in (1, 64) if on_gpu else (1, 4):
    wanted = Workload(model, size, precision, lab.device)
    with backend.load(build(backend, wanted)) as other:
        other.upload(preprocess(pictures[:size], wanted.host_dtype))
        timing.warm_up(lambda other=other: (other.compute(), other.synchronize()))
        readings = pd.DataFrame([clocks_of_gpu(other) if on_gpu else clocks_of_cpu(other) for _ in range(5)])
    quotients = readings.div(readings.iloc[:, 0], axis=0).median()
    rows += [(size, name, readings[name].median(), (quotients[name] - 1) * 100) for name in readings]

# %% [markdown]
# What they read:

# %%
clocks = pd.DataFrame(rows, columns=["batch", "clock", "median, ms", "difference %"])
caption = f"{model}, {precision}, compute only. {lab.machine_name}."
tables.show_table(clocks, caption, {"difference %": "{:+.1f}"})

# %% [markdown]
# Two clocks that read the same marks should agree within a percent or two. The host's clock also counts a launch and
# a wake-up: microseconds that grow less than the model's own time when the batch does, so they should be the
# larger share of the shorter inference. On a CPU that other programs use as well, expect more.
#
# ## A record
#
# Whatever the book measures becomes a *record*. This measures one {term}`cell` as every chapter does, in a process of
# its own that does nothing else and may use all cores again, and shows the head of the file:

# %%
if not on_gpu:
    torch.set_num_threads(lab.machine.threads)

(record,) = lab.benchmark(["pytorch"], ["vanilla_cnn"], ["fp32"], [1])
what = {"status", "backend", "model", "batch_size", "precision", "device", "run", "rivals", "flags"}
head = record.model_dump(include=what)
if record.latency:
    times = record.latency.end_to_end
    head["end_to_end, ms"] = {"p50": round(times.p50, 3), "low": times.median.low, "high": times.median.high}
    head["iterations"], head["p99"] = times.iterations, times.p99 and times.p99.value
    first = record.invocations[0]
    head["first invocation"] = {"rounds, ms": first.end_to_end_ms[:4], "host pace, ms": first.pace_ms[:4]}
    head["first invocation"] |= {"waited %": first.waited_percent}
print(json.dumps(head, indent=1))

# %% [markdown]
# An end of an interval that is `null` does not exist, for want of invocations. Where its ends are far apart, the
# invocations were, or their rounds; the first rounds stand below it, each with the host's pace of that moment. The
# rest of the file holds the three parts, throughput, accuracy, memory, the load on a GPU, and the machine with its
# driver, its threads and the versions of its packages. `flags` says what makes a record less trustworthy than its
# neighbours: other work on its cores, clocks that were held down.
#
# The whole distribution is kept, as 201 quantiles for each invocation, and the median of every round. So a figure can
# draw all of it, and a comparison can be made years later.
#
# ## How to read the rest of the book
#
# | Column | What it is | Which mistake it avoids |
# |---|---|---|
# | latency | median end to end, array to array, both copies included | 1, 2, 4, 9, 11 |
# | interval | 95 %, over invocations | 9, 12 |
# | device | median of the model alone, cache flushed, CUDA events | 1, 11 |
# | p99 | the time that 99 of 100 inferences do not exceed; from 1,000 inferences on | 8, 10 |
# | FPS | batch size over median latency: one caller who waits | 3 |
# | throughput | images over wall time, batches back to back on the device | 3 |
# | upload, compute, download | the parts, from marks in the device's queue | 1, 4 |
# | precision | the arithmetic that was set, and the type that was found in the file | 6 |
# | GPU busy | share of time with any kernel running, sampled apart | 7 |
# | note | what makes this row less trustworthy: clocks that were held down, neighbours | 5 |
#
# *Faster* and *slower* in a sentence are verdicts of the comparison above. [How to read this
# book](../book/how_to_read) has the full list.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-02-queue
# Read only the time until a call *returns*, without waiting, for 200 calls in a row on a GPU. Compare the median of the
# first ten with that of the last hundred. Why do they differ?
# ```
#
# ````{solution} ex-02-queue
# :class: dropdown
# ```python
# times = []
# wait()
# for _ in range(200):
#     start = time.perf_counter()
#     answer()
#     times.append((time.perf_counter() - start) * 1e3)
# wait()
# print(f"returned after {np.median(times[:10]):.3f} ms at first, {np.median(times[-100:]):.3f} ms in the end")
# ```
#
# On a GPU, the queue between Python and the device has an end. When it is full, a launch waits until a kernel has
# finished, and from then on Python goes at the pace of the GPU. So a long loop without waiting gives an almost right
# mean, and a short one does not: the worst kind of mistake, because it comes and goes. On a CPU there is no queue.
# ````
#
# ```{exercise}
# :label: ex-02-harmonic
# The mean of the rates is wrong. Which mean of the rates would be right? Compute it from `series`.
# ```
#
# ````{solution} ex-02-harmonic
# :class: dropdown
# ```python
# rates = 1e3 / series
# print(f"harmonic mean of the rates {1 / np.mean(1 / rates):.3f}, images over time {rate_of_mean:.3f}")
# ```
#
# The harmonic mean: the reciprocal of the mean of the reciprocals. The reciprocals of the rates are the times, so it is
# the number of images over the total time.
# ````
#
# ```{exercise}
# :label: ex-02-invocations
# Two backends differ by four percent, and the logarithm of their ratio has a standard deviation of 1.5 percent between
# invocations. How many invocations does a verdict need, with the margin of the course, which is {glue:text}`02-margin`?
# ```
#
# ````{solution} ex-02-invocations
# :class: dropdown
# The half width must be less than what lies between 4 percent and the margin:
#
# ```python
# needed = np.log(1.04 / (1 + SAME_WITHIN))
# for n in range(3, 10):
#     width = 0.015 * stats.t.ppf(0.975, n - 1) / n**0.5
#     print(f"{n} invocations: +- {width:.2%}, {'enough' if width < needed else 'not enough'} for {needed:.2%}")
# ```
#
# Four, and only just. More rounds would not have helped: they do not make the invocations differ less.
# ````
#
# ```{exercise}
# :label: ex-02-turns
# Compare two copies of the same call, once as two series one after the other, once in turns. Start `neighbours()` for
# the second half of the time. Which comparison survives?
# ```
#
# ````{solution} ex-02-turns
# :class: dropdown
# ```python
# def alternate(rounds=20):
#     """Return the medians of alternating turns of the same call."""
#     return np.array([[np.median(timing.take(sample, 3)) for _ in range(2)] for _ in range(rounds)])
#
#
# first = timing.take(sample, 60)
# with neighbours():
#     second = timing.take(sample, 60)
# alone_turns = alternate()
# with neighbours():
#     beside_turns = alternate()
# a, b = np.concatenate([alone_turns, beside_turns]).T
# print("one after the other:", verdict_of(by_medians(first, second)))
# print("in turns:           ", verdict_of(by_rounds(a, b)))
# ```
#
# A change of the machine falls on both calls alike where they take turns, while of two series in a row only the second
# one sees it.
# ````
#
# ## Key points
#
# - Wait for the device before you read the clock, and warm up before you start it.
# - Images over time, never the mean of the rates.
# - Count the same copies, the same arithmetic and the same caches on both sides.
# - Awake clocks, no meter and no garbage collector inside the timed loop.
# - How you know that it is faster: rivals take turns, everything is started anew several times (rounds of one process
#   are not repetitions), and the interval of the ratio lies beyond the margin.
# - A median without its interval is a guess. *Cannot tell* is a result.
# - A p99 needs a thousand samples, and an A/A test finds out whether a method claims differences of nothing.
# - Latency and throughput answer different questions, and so do end to end and device time.
#
# ## Further reading
#
# Statistics for benchmarks, with the confidence intervals that most papers lack {cite}`georges_rigorous`; how many
# iterations and invocations are worth their time {cite}`kalibera_jones`; twelve rules for reporting measurements
# {cite}`hoefler_benchmarking`; how the size of an environment variable can decide which
# program is faster {cite}`wrong_data`; the rules of the industry's own benchmark {cite}`mlperf_inference`.
