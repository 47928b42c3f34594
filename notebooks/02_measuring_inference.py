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
# A stopwatch is three lines of Python, and most of what it shows is wrong. This chapter makes ten mistakes on purpose,
# measures what each one costs, and ends with the timer that the whole book uses.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# to time inference so that the number means something, and to say how sure you are of it
# :::
# :::{grid-item-card} You need
# Python and PyTorch; a GPU for the mistakes that only a GPU lets you make
# :::
# :::{grid-item-card} To read
# 25 minutes
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
# GPU was doing, on what ran before, on the garbage collector, and on how long the chip had been idle.
#
# Two programs are at work: Python fills a queue, and the device empties it. Most mistakes come from reading one
# program's clock and believing that it is the other's.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import gc
import json
import time
import timeit
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import LogLocator

from inference_lib import load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends.shared.cuda import float32_products
from inference_lib.measure import timing
from inference_lib.measure.cell import distribution
from inference_lib.measure.gpu import wake_clocks
from inference_lib.records import comparison as compare
from inference_lib.report import glue, plots, show_source, tables
from inference_lib.seam import Workload, build
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
# The network is ResNet-18 on a GPU, and the smallest network of the course on a CPU, where patience is scarcer. The
# batch is large enough to keep the device busy for longer than the launching takes.
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
# Every mistake of this chapter goes into a ledger: the number that it gives, and the number that is right. The whole
# ledger is printed at the end.

# %%
ledger = []


def compare_numbers(mistake, wrong, mended, unit="ms"):
    """Print the wrong number and the mended one, and keep both."""
    ledger.append((mistake, wrong, mended, unit))
    print(f"wrong {wrong:,.4g} {unit}, mended {mended:,.4g} {unit}")


# %% [markdown]
# ## Ten mistakes
#
# ### 1. Reading the clock before the work is done
#
# A call to a GPU returns when its kernels are in the queue. So the clock is read twice here: when the call returns,
# and again when the device has finished.


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
# These are the very first calls of this process. The first ones are a mistake of their own, so this section looks at
# the rest.

# %%
returned, done = read_twice(answer, 30)
compare_numbers("no waiting", np.median(returned[10:]), np.median(done[10:]))

# %% tags=["remove-cell"]
glue("02-machine", lab.machine_name)
glue("02-returned", f"{np.median(returned[10:]):.2f} ms")
glue("02-done", f"{np.median(done[10:]):.2f} ms")

# %% [markdown]
# On {glue:text}`02-machine`, the call returns after {glue:text}`02-returned` and its work is done after
# {glue:text}`02-done`. On a CPU the two agree, because a call there returns when it is done. On a GPU the first one is
# the time that Python took to launch, and it hardly changes with the size of the batch.
#
# The mend is one line: wait for the device before the clock is read. `.cpu()`, `.item()` and `print` of a tensor wait
# too, which is why some wrong loops give right numbers.
#
# ### 2. Counting the first calls
#
# The same thirty calls, all of them this time. The first one loads libraries, asks for memory and chooses algorithms.

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

# %%
compare_numbers("no warm-up", done[:10].mean(), np.median(done[10:]))

# %% [markdown]
# The mean of ten calls spreads the first one over all ten. A larger count hides the mistake without mending it. On a
# CPU, with few libraries to load, the first call may hardly stand out.
#
# How many calls are enough? It depends on the library, so the book does not fix a number. It calls until two windows
# of ten calls agree:

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
# Now a real series: inferences of one image, a thousand of them if three seconds are enough. It also serves further
# down.

# %%
single = images[:1].clone()


def answer_single():
    answer(single)
    wait()


timing.warm_up(answer_single)
thousand = timing.StoppingRule(budget_s=3, min_samples=1000, max_samples=1000)
series = timing.time_call(answer_single, thousand).milliseconds

# %%
rate_of_mean = len(series) / series.sum() * 1e3
mean_of_rates = (1e3 / series).mean()
compare_numbers("mean of 1/t", mean_of_rates, rate_of_mean, "images/s")

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
# The project that this course grew from noted that ONNX Runtime looked slower than PyTorch on its GPU. The call
# `run()` of ONNX Runtime takes an array from the host and returns one, so both copies are in its time. A PyTorch loop
# that starts from a tensor on the device has none.


# %%
def array_to_array():
    return answer(torch.from_numpy(host_images).to(lab.device)).cpu().numpy()


if on_gpu:
    compare_numbers("no copies", lab.time(answer).p50, lab.time(array_to_array).p50)
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
# a GPU it is a CUDA graph in FP16, whose latency is steady; [PyTorch](04_pytorch) explains it. On a CPU it is the plain
# model.

# %%
name, precision = ("pytorch-cudagraph", "fp16") if on_gpu else ("pytorch", "fp32")
backend = get_backend(name)
workload = Workload(model, 1, precision, lab.device)
runner = backend.load(build(backend, workload))  # open until the chapter ends

inputs = [preprocess(pictures[i : i + 1], workload.host_dtype) for i in range(8)]
rule = timing.StoppingRule(budget_s=0.5, min_samples=100)
_ = timing.warm_up(lambda: runner.infer(inputs[0]))

# %% [markdown]
# A GPU with nothing to do lowers its clock to save power, and takes a moment under load to raise it. A loop that
# sleeps, loads a file or prints between two measurements times the power management.


# %%
def ten_inferences():
    """Return the median of ten inferences in milliseconds."""
    return np.median(read_twice(lambda: runner.infer(inputs[0]), 10)[1])


if on_gpu:
    time.sleep(1.0)
    idle_clock, after_idle = torch.cuda.clock_rate(), ten_inferences()
    awake_clock = wake_clocks(lambda: runner.infer(inputs[0]))
    compare_numbers("cold clocks", after_idle, ten_inferences())
    print(f"SM clock: after an idle second {idle_clock} MHz, awake {awake_clock} MHz")
else:
    print("needs a GPU")

# %% [markdown]
# How far an idle clock falls, and how soon, depends on the GPU and on its settings: a card in a data centre may hold
# its clock as long as a program is attached, a laptop's may let go at once. So the book does not guess. It asks for
# the clock, and works the GPU until it is up:

# %%
show_source(wake_clocks)

# %% [markdown]
# The opposite exists too. A GPU under load for minutes may grow hot and slow down. The book's records keep the clock
# and the reasons for any throttling.
#
# ### 6. TF32 by accident
#
# PyTorch computes FP32 convolutions in TF32 unless told otherwise, and FP32 matrix products in IEEE arithmetic
# {cite}`pytorch_tf32`. Whoever compares its "FP32" with that of a framework that means it compares two arithmetics.
# `open_lab` has set both to IEEE; here the default comes back for one measurement.

# %%
if on_gpu:
    with float32_products("fp32"):
        torch.backends.cudnn.allow_tf32 = True  # as PyTorch comes
        by_accident, rounded = lab.time(answer), answer().clone()
    ieee, exact = lab.time(answer), answer().clone()
    compare_numbers("TF32 called FP32", by_accident.p50, ieee.p50)
    difference = (rounded - exact).abs().max() / exact.abs().max()
    print(f"largest difference of a logit, relative: {difference.item():.1e}")
else:
    print("needs a GPU")

# %% [markdown]
# TF32 keeps ten bits of mantissa of every factor. It is a good choice for inference, and it is not FP32: the label has
# to say which. Expect a difference where arithmetic takes the time, as with the large batch here; at batch 1 the
# launches may hide it.
#
# ### 7. Looking at the meter while timing
#
# A program that wants to know how busy the device is asks for it, often in the same loop: NVML on a GPU, `/proc/stat`
# on a CPU. The question takes time, too. NVML holds a lock of the driver meanwhile, which the next launch may need.


# %%
def meter():
    """Read how busy the device is, as monitoring programs do."""
    return torch.cuda.utilization() if on_gpu else Path("/proc/stat").read_text()


def watched():
    meter()
    runner.infer(inputs[0])


def median_ms(call):
    return np.median(timing.time_call(call, rule).milliseconds)


unwatched = median_ms(lambda: runner.infer(inputs[0]))
compare_numbers("meter in the loop", median_ms(watched), unwatched)
print(f"one look at the meter alone: {median_ms(meter):.3f} ms")

# %% [markdown]
# The faster the model, the larger the share of the question. The book samples power, clocks and busy percent in a
# phase of their own, under a steady load that nobody times.
#
# ### 8. Garbage collection inside the loop
#
# CPython frees most objects at once. For those that refer to each other in circles it stops now and then, walks
# through all containers that are alive, and goes on. A loop that keeps its answers creates containers, and sooner or
# later it is in the middle of an inference that the collector walks.


# %%
def inference_with_notes(kept):
    """Infer, and keep many small lists, as a program that logs its answers does."""
    runner.infer(inputs[0])
    kept.append([[number] for number in range(4000)])


def hundred_calls():
    gc.collect()
    kept = []
    return read_twice(lambda: inference_with_notes(kept), 100)[1]


collected = hundred_calls()
with timing.no_garbage_collection():
    uncollected = hundred_calls()
compare_numbers("collector on, worst call", collected.max(), uncollected.max())

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
# The medians should hardly differ. The worst calls do, and with them the 99th percentile that somebody promised a
# customer.
#
# The timer turns the collector off, as Python's own `timeit` does. If your service runs with the collector on, its
# stragglers are real: measure them there.
#
# ### 9. Too few samples
#
# How far can the median of a few samples be off? The series of the third mistake answers that. Draw three
# of them, take the median, draw again, many times. The spread of these medians is what chance does to you.

# %%
random = np.random.default_rng(0)
counts = [3, 10, 30, 100, 300]
median = np.median(series)
spread = []
for count in counts:
    draws = random.choice(series, (400, count))
    medians = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    interval = np.median([timing.median_interval(draw) for draw in draws], axis=0)
    spread.append((np.concatenate([medians, interval]) / median - 1) * 100)

# %% tags=["hide-input"]
figure, (axes,) = plots.new_figure(height=3.2)
places = np.arange(len(counts))
for offset, columns, color, label in (
    (-0.12, slice(0, 2), "#D55E00", "95 % of the medians lie here"),
    (0.12, slice(2, 4), "#0072B2", "interval computed from one such series"),
):
    low, high = np.array(spread)[:, columns].T
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

# %%
widths = [high - low for low, high, *_ in spread]
compare_numbers("spread of 3 samples, not 300", widths[0], widths[-1], "%")

# %% [markdown]
# The spread shrinks about as the square root of the count grows: a hundred times the samples for a tenth of it.
#
# Nobody has hundreds of series to look at. But one series is enough to compute how far its median may be off. Sort the
# samples: each lies below the true median with probability one half, so counting heads and tails says which ranks
# enclose it {cite}`conover`. Nothing is assumed about the shape of the distribution, which for latencies is seldom
# a bell.

# %%
show_source(timing.median_interval)

# %% [markdown]
# With three samples the interval can only be the whole series, and even that holds the median less often than 95 times
# in a hundred. So the timer demands more before it calls anything precise.
#
# The interval knows the scatter inside a series. It knows nothing of what differs between two runs of the program: the
# temperature, the neighbours on the machine, where the memory happened to lie {cite}`wrong_data`.
#
# ### 10. One input that never leaves the cache
#
# A loop that sends the same array again and again finds it in the processor's cache at every turn. So the timer takes
# turns among several inputs:

# %%
same = timing.time_end_to_end(runner, inputs[:1], rule).milliseconds
turns = timing.time_end_to_end(runner, inputs, rule).milliseconds
compare_numbers("one input", np.median(same), np.median(turns))

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


# %%
def occupy():
    """Keep a GPU busy for a moment without touching memory."""
    if on_gpu:
        with torch.cuda.stream(runner.stream):
            torch.cuda._sleep(400_000)  # clock cycles


# %%
def compute_after(prepare):
    """Return the median of computing alone, when ``prepare`` runs before each."""
    runner.upload(inputs[0])
    return np.median(timing.time_compute(runner, rule, prepare).milliseconds)


compare_numbers("weights in the cache", compute_after(occupy), compute_after(timing.cache_flush(runner.stream)))

# %% [markdown]
# Here "wrong" depends on the question. A server that runs one small model all day finds its weights in the cache, and
# the warm number is what its callers see. Between other work they are gone, and the cold number is right. Benchmarks of
# single kernels flush, as Triton's `do_bench` does {cite}`triton_do_bench`. Whichever you take, take the same for both
# sides.
#
# ### The ledger

# %%
account = pd.DataFrame(ledger, columns=["mistake", "wrong", "mended", "unit"])
account["wrong / mended"] = account["wrong"] / account["mended"]
decimals = {"wrong": "{:,.4g}", "mended": "{:,.4g}", "wrong / mended": "{:.2f}"}
tables.show_table(account, f"What each mistake did. {lab.machine_name}.", decimals)

# %% tags=["remove-cell"]
factors = np.exp(np.abs(np.log(account["wrong / mended"])))
glue("02-mistakes", len(account))
glue("02-harmful", int((factors > 1.05).sum()))
glue("02-worst", account["mistake"][factors.idxmax()])
glue("02-worst-factor", f"{factors.max():.1f}")
glue("02-width", f"{rule.relative_width * 100:g} percent")

# %% [markdown]
# Of {glue:text}`02-mistakes` mistakes measured on {glue:text}`02-machine`, {glue:text}`02-harmful` changed the number
# by more than five percent. The worst, *{glue:text}`02-worst`*, was off by a factor of {glue:text}`02-worst-factor`.
#
# Mistakes that need a GPU are missing from the ledger of a CPU. A ratio close to one means that the mistake did no harm
# here, today, with this network. You cannot know that before you have mended it.
#
# ## The timer
#
# The book's timer is the sum of the mends. Warming up you have seen. A series ends for one of three reasons, and the
# record says which:

# %%
show_source(timing.StoppingRule.reason_to_stop)

# %% [markdown]
# *Precise* means that the interval of the median is narrower than {glue:text}`02-width` of it. A model that takes a
# second per call never gets there in time, so there is a *time budget*. A steady, fast model gets there soon.
#
# Samples are collected with the garbage collector off:

# %%
show_source(timing.collect)

# %% [markdown]
# Latency is then this. `runner.infer` takes an array of the host and returns one, so it has waited for the device when
# it returns, and the host's clock may be read:

# %%
show_source(timing.time_end_to_end)

# %% [markdown]
# The parts of an inference (copy in, model, copy out) are timed with CUDA events: marks in the device's own queue,
# which the device stamps when it gets there. No host clock could do that without waiting in between, and waiting would
# change what is measured.
#
# ### Latency and throughput
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
# For throughput, batches are queued in ever larger chunks, and the clock is read after each chunk is done:

# %%
show_source(timing.time_throughput)

# %%
latency = distribution(timing.time_end_to_end(runner, inputs, rule))
throughput = timing.time_throughput(runner, inputs[0], budget_s=0.5)
per_second = throughput.images_per_s
fps = 1e3 / latency.p50
print(f"latency    {latency.p50:.3f} ms, its inverse {fps:,.0f} images/s")
print(f"throughput {per_second:,.0f} images/s, its inverse {1e3 / per_second:.3f} ms")

# %% [markdown]
# They are not each other's inverse. The copies, the launch and the wait are in the latency; in the throughput the
# launch of one batch hides behind the computing of the last, and the images are on the device already. On a CPU there
# is little to hide, and the two come close. Quote both, each by its name {cite}`mlperf_inference`.
#
# ### Against other clocks
#
# A clock is checked with another clock. On a GPU: CUDA events against the host's clock and against Triton's `do_bench`,
# all three with a flush before each run. On a CPU: the book's timer against Python's `timeit`.


# %%
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

    return np.median(timing.collect(sample, rule).milliseconds)


# %%
def triton_clock(runner):
    """Time with Triton's do_bench; not a number where Triton cannot be used."""
    try:
        from triton.testing import do_bench

        with torch.cuda.stream(runner.stream):
            return do_bench(runner.compute, warmup=50, rep=300, return_mode="median")
    except Exception as error:
        print(f"Triton's clock is missing here ({type(error).__name__})")
        return np.nan


# %%
def clocks_of_gpu(runner):
    """Return the median of each clock in milliseconds, the book's first."""
    events = timing.time_compute(runner, rule, timing.cache_flush(runner.stream))
    return {
        "this book (CUDA events)": np.median(events.milliseconds),
        "triton.testing.do_bench": triton_clock(runner),
        "host's clock, launch and wait included": host_clock(runner),
    }


def clocks_of_cpu(runner):
    seconds = timeit.repeat(runner.compute, number=5, repeat=20)
    book = np.median(timing.time_compute(runner, rule).milliseconds)
    return {"this book": book, "timeit": np.median(seconds) / 5 * 1e3}


# %% [markdown]
# The book's clock is the first row of each batch size, and the last column says how far the others are from it.

# %%
rows = []
for size in (1, 64) if on_gpu else (1, 4):
    wanted = Workload(model, size, precision, lab.device)
    with backend.load(build(backend, wanted)) as other:
        other.upload(preprocess(pictures[:size], wanted.host_dtype))
        timing.warm_up(lambda other=other: (other.compute(), other.synchronize()))
        clocks = clocks_of_gpu(other) if on_gpu else clocks_of_cpu(other)
    book = next(iter(clocks.values()))
    rows += [(size, name, ms, (ms / book - 1) * 100) for name, ms in clocks.items()]

# %%
clocks = pd.DataFrame(rows, columns=["batch", "clock", "median, ms", "difference %"])
caption = f"{model}, {precision}, compute only. {lab.machine_name}."
tables.show_table(clocks, caption, {"difference %": "{:+.1f}"})

# %% [markdown]
# Two clocks that read the same marks should agree within a percent or two. The host's clock is above them by the time
# of a launch and a wake-up: a fixed number of microseconds, so a visible share of a short inference and nothing of a
# long one. On a CPU that other programs use as well, expect more.
#
# ## Faster, slower, the same, cannot tell
#
# Two medians always differ. Whether that means something is decided by their intervals, not by their order:

# %%
show_source("inference_lib.records.comparison", "compare")

# %% [markdown]
# The intervals of both medians give an interval of their ratio. A win is claimed when all of it lies beyond a margin,
# and a tie when all of it lies within. In any other case the answer is that the measurements cannot tell, which is an
# answer.

# %% tags=["remove-cell"]
glue("02-margin", f"{compare.SAME_WITHIN * 100:g} percent")

# %% [markdown]
# The margin is {glue:text}`02-margin`, because the same work in another process may differ by that much.
#
# To test the verdicts, compare a workload with itself, with slower copies of itself that wait a little at the end, and
# with very few samples of itself.


# %%
def time_and_burn(extra_ms, rule=rule):
    """Time an inference that burns ``extra_ms`` milliseconds at its end."""

    def call():
        runner.infer(inputs[0])
        end = time.perf_counter() + extra_ms / 1e3
        while time.perf_counter() < end:
            pass

    return distribution(timing.time_call(call, rule))


# %%
baseline = time_and_burn(0)
candidates = {
    "the same again": time_and_burn(0),
    "10 % slower": time_and_burn(0.1 * baseline.p50),
    "50 % slower": time_and_burn(0.5 * baseline.p50),
    "the same, 5 samples": time_and_burn(0, timing.StoppingRule(budget_s=0)),
}

# %%
rows = []
for name, candidate in candidates.items():
    found = compare.compare(baseline, candidate)
    rows.append((name, found.ratio, found.low, found.high, found.verdict))

verdicts = pd.DataFrame(rows, columns=["candidate", "ratio", "low", "high", "verdict"])
digits = dict.fromkeys(["ratio", "low", "high"], "{:.3f}")
tables.show_table(verdicts, f"Against the same call. {lab.machine_name}.", digits)

# %% [markdown]
# `ratio` is how much faster the candidate is, `low` and `high` enclose it. The same call should come out as the same,
# or as undecided on a machine that scatters. A slowdown well beyond the margin should be seen as what it is, and a
# handful of samples rarely decides anything.
#
# If the same call is ever found faster or slower, the machine changed between the two series. No interval knows that.
# Measure again, in turns.
#
# ## A record
#
# Whatever the book measures becomes a *record*. This measures one cell as every chapter does, in a process of its own
# that does nothing else, and shows the head of the file:

# %%
(record,) = lab.benchmark(["pytorch"], ["vanilla_cnn"], ["fp32"], [1])
what = {"status", "backend", "model", "batch_size", "precision", "device", "flags"}
head = record.model_dump(include=what)
if record.latency:
    times = record.latency.end_to_end
    head["end_to_end"] = {"p50": round(times.p50, 3), "p99": round(times.p99, 3)}
    head["end_to_end"] |= {"samples": times.samples, "stop_reason": times.stop_reason}
print(json.dumps(head, indent=1))

# %% [markdown]
# The rest of the file holds the three parts, throughput, accuracy, memory, the load on a GPU, and the machine with its
# driver and the versions of its packages. `flags` says what makes a record less trustworthy than its neighbours: a
# latency that varied a lot, or clocks that were held down.
#
# The whole distribution is kept, as 201 quantiles, so a figure can draw all of it and a comparison can be made years
# later.
#
# ## How to read the rest of the book
#
# | Column | What it is | Which mistake it avoids |
# |---|---|---|
# | latency | median, array to array, both copies included | 1, 2, 4, 9 |
# | p99 | the time that 99 of 100 inferences do not exceed | 8 |
# | FPS | batch size over median latency: one caller who waits | 3 |
# | throughput | images over wall time, batches back to back on the device | 3 |
# | upload, compute, download | the parts, from marks in the device's queue | 1, 4 |
# | precision | the arithmetic that was set, and the type that was found in the file | 6 |
# | GPU busy | share of time with any kernel running, sampled apart | 7 |
# | note | what makes this row less trustworthy | 5 |
#
# *Faster* and *slower* in a sentence are verdicts of the comparison above. [How to read this
# book](../book/how_to_read) has the full list.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-02-queue
# Remove the wait from `read_twice` and call it with 2000 calls on a GPU. The time to return is small at first, and
# later it is not. Why?
# ```
#
# ```{solution} ex-02-queue
# :class: dropdown
# The queue between Python and the GPU has an end. When it is full, a launch waits until a kernel has finished, and from
# then on Python goes at the pace of the GPU. So a long loop without waiting gives an almost right mean, and a short
# one does not: the worst kind of mistake, because it comes and goes.
# ```
#
# ```{exercise}
# :label: ex-02-harmonic
# The mean of the rates is wrong. Which mean of the rates would be right?
# ```
#
# ```{solution} ex-02-harmonic
# :class: dropdown
# The harmonic mean: the reciprocal of the mean of the reciprocals. The reciprocals of the rates are the times, so it
# is the number of images over the total time. With `rates = 1e3 / series`, compare `1 / np.mean(1 / rates)` with
# `rate_of_mean`.
# ```
#
# ```{exercise}
# :label: ex-02-turns
# Compare two copies of the same call, once as two series one after the other, once in turns (A, B, A, B). Start some
# other program halfway through. Which comparison survives?
# ```
#
# ```{solution} ex-02-turns
# :class: dropdown
# The one in turns. A change of the machine falls on both series alike, while of two series in a row only the second one
# sees it. Collect the pairs in one loop, then give each series to `distribution` as
# `timing.Samples(np.array(times), "done")`, and both to `compare.compare`.
# ```
#
# ## Key points
#
# - Wait for the device before you read the clock, and warm up before you start it.
# - Images over time, never the mean of the rates.
# - Count the same copies, the same arithmetic and the same caches on both sides.
# - Awake clocks, no meter and no garbage collector inside the timed loop.
# - A median without its interval is a guess. *Cannot tell* is a result.
# - Latency and throughput answer different questions.
#
# ## Further reading
#
# Statistics for benchmarks, with the confidence intervals that most papers lack {cite}`georges_rigorous`; twelve rules
# for reporting measurements {cite}`hoefler_benchmarking`; how the size of an environment variable can decide which
# program is faster {cite}`wrong_data`; the rules of the industry's own benchmark {cite}`mlperf_inference`.
