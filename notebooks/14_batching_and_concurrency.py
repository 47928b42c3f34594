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
# # Batching, streams and concurrency
#
# A hundred people ask at the same moment. Why should the hundredth wait for ninety-nine inferences, when one inference
# can answer them all?
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# what a batch costs and what it brings, how a queue makes batches out of single requests, and how to set its knobs
# before measuring anything
# :::
# :::{grid-item-card} You need
# the chapters on measuring and on PyTorch; a GPU for some of the experiments
# :::
# :::{grid-item-card} To read
# 30 minutes
# :::
# :::{grid-item-card} To run
# {{ run_times }}
# :::
# ::::

# %% [markdown]
# ## One caller or many
#
# Every row of this book has one caller, who sends a batch, waits, and sends the next. A service has many callers. Each
# sends a single picture, none knows of the others, and all want their answer soon. What is quick for one may be
# wasteful for many: a large processor that works on one picture leaves much of itself idle.
#
# The remedy is {term}`dynamic batching`. Requests wait in a queue; whoever is free takes all that are there, up to a
# limit, and computes them together.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pandas as pd
import torch
from IPython.display import display

from inference_lib import MODELS, CourseError, load_pretrained, open_lab
from inference_lib.report import glue, plots, show_source, tables
from inference_lib.seam import Workload, find_precision
from inference_lib.serve.classifier import Loaded, sizes_up_to
from inference_lib.serve.loops import closed_loop, open_loop
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.queueing import highest_rate, mean_wait_s, steady_batch
from inference_lib.serve.service import Service, measure_service
from inference_lib.serve.settings import SERVED, Settings
from inference_lib.serve.simulator import Knobs, poisson, simulate
from inference_lib.serve.trials import LoadTest, queue_overhead, queued, simulated_rate
from inference_lib.support.progress import each
from inference_lib.zoo.fashion_mnist import load_fashion_mnist, preprocess

lab = open_lab(profile, device, records_dir)
on_gpu, full = lab.device == "cuda", lab.profile.name == "full"
seconds = {"smoke": 0.2, "quick": 0.8}.get(lab.profile.name, 4.0)  # of one load
pictures, labels = load_fashion_mnist("test")
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% tags=["hide-input"]
arrivals = [0.0, 0.4, 0.7, 1.3, 1.5]
alone, together = 1.0, 1.45
ends = np.maximum.accumulate([max(a, i * alone) + alone for i, a in enumerate(arrivals)])
spans = {
    "requests": [(a, 0.06) for a in arrivals],
    "one by one": [(end - alone, 0.96 * alone) for end in ends],
    "in batches": [(0.0, 0.96 * alone), (1.0, 0.96 * together), (1.0 + together, 0.96 * 1.3)],
}
figure, (axes,) = plots.new_figure(height=1.9)
plots.timeline(spans, ["#8A8F98", "#D55E00", "#009E73"], axes)
plots.show_figure(
    figure,
    alt="Sketch: five requests; computed one by one they end at five, in batches of one, two and two before four.",
    caption="A sketch, not a measurement. A batch of two takes longer than one picture, but less than two of them.",
)

# %% [markdown]
# ## A model at several batch sizes
#
# Most of the fast runners of this book take one batch size: an engine or a CUDA graph has fixed shapes. A server holds
# a few of them, and sends a batch to the smallest that it fits into. This chapter uses one such set, made with the
# runner that suits the machine.

# %%
backend, model, precision = SERVED[lab.device]
largest = 256 if on_gpu else 16

stack = ExitStack()
loaded = Loaded(backend, Workload(model, 1, precision, lab.device), sizes_up_to(largest))
classifier = stack.enter_context(loaded)
print(f"{loaded.title}, {MODELS[model].title}, {precision}, sizes {', '.join(map(str, classifier.sizes))}")

# %% [markdown]
# This is what it does with a batch, of whatever size:

# %%
show_source(type(classifier).submit if on_gpu else type(classifier).infer)

# %% [markdown]
# Pictures arrive as bytes, 28 by 28 of them. Where they are enlarged to the model's input is a choice that counts:
# after the way across the bus, not before it, because the enlarged picture has hundreds of times as many bytes.
#
# On a GPU, this preparation is captured in a CUDA graph as well, so that eight operations are one launch. A launch is
# not the only thing that is saved. Each call of PyTorch gives up {term}`Python's lock <GIL>` for an instant, and where
# other threads run Python, too, one of them takes it. So what is quick for one caller may be slow under load, for a
# reason that no profile of one caller shows.
#
# ## Is it still the same model?
#
# A batch is padded to the next size. The places that are left over hold old pictures. Their logits must not leak into
# anybody's answer:

# %%
reference = load_pretrained(model)(torch.from_numpy(preprocess(pictures[:5]))).numpy()
for count in (1, 3, 5):
    found = classifier.submit(pictures[:count])()
    difference = np.abs(found - reference[:count]).max() / np.abs(reference).max()
    print(f"{count} pictures: classes {found.argmax(1)}, largest difference from the FP32 model {difference:.0e}")
    if difference > find_precision(precision).tolerance or found.shape != (count, 10):
        raise CourseError("a padded batch does not give the model's logits")

# %% [markdown]
# ## What does a batch cost?
#
# Bounds come first. If a batch of $n$ took as long as one picture, throughput would grow by $n$. If it took $n$ times
# as long, batching would bring nothing. The truth lies between the two, nearer to the first while the device is not
# full, and nearer to the second once it is.
#
# Guess before you read on: by how much does throughput grow from one picture to the best batch size? And how many
# pictures are enough for nine tenths of that?
#
# :::{dropdown} What was measured
# Throughput grows {glue:text}`14-gain` times; {glue:text}`14-ninety` pictures are enough for nine tenths of it.
# :::
#
# The sweep goes through every batch size, with the eager model, which takes any:

# %%
device_ = torch.device(lab.device)
dtype = find_precision(precision).dtype
eager = load_pretrained(model).to(device_, dtype, memory_format=torch.channels_last)
most = (1024 if full else 128) if on_gpu else {"smoke": 4}.get(lab.profile.name, 16)
step = (8 if full else 4) if on_gpu else 1
sweep_sizes = sorted({1, 2, 4, *range(step, most + 1, step)})


def milliseconds(size, calls=3):
    """Return the shortest of a few calls: the sweep asks what the device needs, not what the host adds."""
    images = torch.zeros(size, 3, 224, 224, device=device_, dtype=dtype).to(memory_format=torch.channels_last)
    samples = []
    with torch.inference_mode():
        for _ in range(1 + calls):
            start = time.perf_counter()
            eager(images)
            if on_gpu:
                torch.cuda.synchronize()
            samples.append((time.perf_counter() - start) * 1e3)
    return min(samples[1:])


milliseconds(1, calls=200 if on_gpu else 3)  # or the first size would be timed with clocks that are still rising


sweep = pd.DataFrame({"batch": sweep_sizes, "ms": [milliseconds(size) for size in each(sweep_sizes, "batch sizes")]})
sweep["images/s"] = sweep["batch"] / sweep["ms"] * 1e3

# %% tags=["hide-input"]
figure, (left, right) = plots.new_figure(columns=2, height=2.8)
left.plot(sweep["batch"], sweep["ms"], ".-", color="#D55E00")
left.set(xlabel="batch size", ylabel="ms", ylim=(0, None))
right.plot(sweep["ms"], sweep["images/s"], ".-", color="#D55E00")
right.set(xlabel="latency of a batch, ms", ylabel="images/s", ylim=(0, None))
plots.show_figure(
    figure,
    alt="Two lines: the time of a batch over its size; images per second over that time.",
    caption=f"{MODELS[model].title}, eager, {precision}. Shortest of three calls. {lab.machine_name}.",
)

# %% tags=["remove-cell"]
gain = sweep["images/s"].max() / sweep["images/s"].iloc[0]
ends_at = sweep.loc[sweep["images/s"] >= 0.9 * sweep["images/s"].max(), "batch"].iloc[0]
lasting_ms = np.minimum.accumulate(sweep["ms"].to_numpy()[::-1])[::-1]  # without what a later size takes back
steps_ms = np.diff(lasting_ms) / np.diff(sweep["batch"])
typical = np.median(steps_ms[steps_ms > 0]) if (steps_ms > 0).any() else float("nan")
glue("14-gain", f"{gain:.1f}")
glue("14-ninety", int(ends_at))
glue("14-steepest", f"{steps_ms.max() / typical:.1f}")

# %% [markdown]
# Beyond the size that gives nine tenths, a larger batch buys little but latency. Where the left line begins level, on a
# GPU, its time is not the device's: the eager model makes the same calls for one picture as for several, and the device
# waits for them. So a part of the gain is launches, shared by more pictures. The gain counts from the time of
# one picture, the first point of the line, which is also timed first. Where that point lies above those behind it, one
# picture took longer than several, which no arithmetic explains: the gain is too large by as much. The table in the
# next section has the same model with its launches recorded.
#
# The line need not be smooth. A GPU hands out work in *waves*: with room for 132 blocks of a kernel at once, the 133rd
# starts a wave of its own that takes as long as a full one. This is called {term}`wave quantization`. A CPU has the
# same staircase in small, one step for each round of its cores and vector lanes. In this sweep, the steepest step costs
# {glue:text}`14-steepest` times as much for each picture as the typical one. Look for it in the left panel: a batch
# size just before such a step is a better choice than one just behind it. A peak that larger sizes take back is no
# wave, but something else on the machine, and is not counted.
#
# ## What overlaps
#
# Two numbers describe a classifier under load. *Alone* is the time from the arrival of a batch to its answer. *Busy* is
# the time from one batch's answer to the next one's, when the next batch is always there. Both are measured through the
# queue that this chapter is about, the whole way: a batch is gathered from its requests, handed to another thread,
# computed and answered, while somebody else sends more. Where *busy* is the shorter, something of one batch goes on
# beside another.

# %%
service = measure_service(classifier, lab.profile.budget_s)
times = pd.DataFrame(
    {
        "batch": service.sizes,
        "alone, ms": [service.alone_s(size) * 1e3 for size in service.sizes],
        "busy, ms": [service.occupied_s(size) * 1e3 for size in service.sizes],
        "images/s": [size / service.occupied_s(size) for size in service.sizes],
    }
)
tables.show_table(times, f"Batches of the classifier. {lab.machine_name}.", {"images/s": "{:,.0f}"})

# %% [markdown]
# (Each time comes from a short series in one process, so neighbouring sizes may change places. *Alone* is its median,
# *busy* its mean: a rate follows from the mean, for the slow batches take their time as well.)
#
# What batches of the largest size bring is called the *capacity* from here on: the rate of a queue that is never empty.
# Loads are parts of it. It, too, comes from a short series; a section below sends more than that, and counts the
# answers.
#
# On a GPU, the next batch is gathered in {term}`pinned memory` and sent while this one is computed, so two batches are
# under way ([chapter 04](04_pytorch) shows the same with a stream for each direction). On a CPU, the one who gathers is
# the one who computes, so there is little to hide.
#
# ### Two streams
#
# Two CUDA streams may run kernels at the same time. Does a second copy of the model on a second stream double the work
# that gets done? It can only use what the first leaves idle.

# %%
if on_gpu:
    copies = [load_pretrained(model).cuda().half().to(memory_format=torch.channels_last) for _ in range(2)]
    rows = []
    for size in (1, 8, 64):
        images = torch.zeros(size, 3, 224, 224, device="cuda", dtype=torch.half).to(memory_format=torch.channels_last)
        graphs = []
        for copy in copies:
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            with torch.inference_mode(), torch.cuda.stream(stream):
                for _ in range(3):
                    copy(images)
            torch.cuda.synchronize()
            with torch.inference_mode(), torch.cuda.graph(graph, stream=stream):
                copy(images)
            graphs.append((stream, graph))

        def replay(pair):  # both columns replay two graphs before they wait, or one would wait twice as often
            for stream, graph in pair:
                with torch.cuda.stream(stream):
                    graph.replay()

        pairs = {"one stream": [graphs[0]] * 2, "two streams": graphs}
        turns = lab.turns({name: lambda pair=pair: replay(pair) for name, pair in pairs.items()})
        rows.append({"batch": size} | {f"{name}, images/s": 2 * size / turns.ms(name) * 1e3 for name in pairs})
    display(tables.show_table(pd.DataFrame(rows), f"CUDA graphs of {MODELS[model].title}. {lab.machine_name}."))
else:
    print("needs a GPU")

# %% [markdown]
# What a small batch leaves idle, a second stream may find. A batch that fills the device leaves nothing, and the two
# only take turns: then both columns are alike. Where even the largest batch gains, it leaves something idle, too.
# (These graphs are of the model as it was trained, and every pair of replays is waited for; the classifier's
# convolutions are fused, and its next batch does not wait. So compare the two columns, not their numbers with the table
# above.) So a second stream is a second, less tidy way to make a batch. Where requests can share a batch, make the
# batch larger first; keep streams for what cannot share one, such as two models.
#
# ### Two processes
#
# A second process has its own interpreter, its own {term}`CUDA context` and its own copy of the weights. On a GPU, two
# processes take turns by time slice: their kernels do not run side by side unless NVIDIA's {term}`MPS` is there. On a
# CPU, they share the cores.

# %%
size = min(8, largest)
batch = pictures[:size]


def images_per_second(replicas, seconds):
    """Keep every replica busy from a thread of its own; return images per second of all together."""
    stop = time.perf_counter() + seconds

    def work(replica):
        done = 0
        while time.perf_counter() < stop:
            replica.submit(batch)()
            done += len(batch)
        return done

    with ThreadPoolExecutor(len(replicas)) as pool:
        return sum(pool.map(work, replicas)) / seconds


settings = Settings(backend, Workload(model, 1, precision, lab.device), max_batch=size)
with ThreadPoolExecutor(2) as pool:
    replicas = list(pool.map(lambda _: settings.remote(), range(2)))
rates = {"in this process": images_per_second([classifier], seconds)}
rates |= {
    "one process": images_per_second(replicas[:1], seconds),
    "two processes": images_per_second(replicas, seconds),
}
for replica in replicas:
    replica.close()
for name, rate in rates.items():
    print(f"{name}: {rate:,.0f} images/s in batches of {size}")

# %% tags=["remove-cell"]
glue("14-two-processes", f"{rates['two processes'] / rates['one process']:.2f}")

# %% [markdown]
# Two processes do {glue:text}`14-two-processes` times the work of one here. (Where kernels take turns, what is gained
# is the host's part: one process prepares and answers while the other's kernels run.) What the first two lines differ
# by is the price of asking another process; where even two processes do less than the classifier in this one, they did
# not earn it back. What a second process buys for certain is another thing: when one dies, the other goes on.
#
# ## The queue
#
# This is all of dynamic batching. The first request of a batch says when the batch is closed:

# %%
show_source(BatchQueue._take)

# %% [markdown]
# A batch is closed when it is full, or when its first request has waited for `max_wait_s`. A request that has already
# waited, because everybody was busy, does not wait for company as well.
#
# What does passing through a queue cost, if there is nobody else?

# %%
turns = queue_overhead(classifier, lab.profile.budget_s / 4)
overhead = turns.ms("queue") - turns.ms("classifier")
handed = turns.ms("thread") - turns.ms("classifier")
print(f"one picture: {turns.ms('classifier'):.3f} ms, through the queue: {turns.ms('queue'):.3f} ms")
print(f"computed by the caller: about {overhead * 1e3:.0f} microseconds more (it may drown in the noise)")
print(f"computed by another thread: about {handed * 1e3:.0f} microseconds more")

# %% [markdown]
# A caller who waits for the answer anyway, and finds nobody else, computes it alone. That spares waking another thread
# and being woken by it, which is the difference of the last two lines. Under load nobody finds the queue empty, and a
# batch shares the cost of its hand-over.

# %% [markdown]
# ### The life of one batch
#
# Requests carry the times at which they came, were taken and were answered.

# %%
answered, wait_s = [], 6 * service.alone_s(1)
with BatchQueue([classifier], max_batch=4, max_wait_s=wait_s) as queue:
    for gap in (0, 0.3, 0.5, 0.6, 0.2):
        time.sleep(gap * service.alone_s(1))
        queue.submit(pictures[0], answered.append)
    time.sleep(2 * wait_s)  # a queue that ends waits for nobody's company

# %% tags=["hide-input"]
answered.sort(key=lambda request: request.arrived)
origin = answered[0].arrived
figure, (axes,) = plots.new_figure(height=2.2)
for position, request in enumerate(answered):
    waits, computes = request.taken - request.arrived, request.finished - request.taken
    axes.broken_barh([((request.arrived - origin) * 1e3, waits * 1e3)], (position - 0.3, 0.6), color="#8A8F98")
    axes.broken_barh([((request.taken - origin) * 1e3, computes * 1e3)], (position - 0.3, 0.6), color="#009E73")
axes.set_yticks(range(len(answered)), [f"request {n + 1}" for n in range(len(answered))])
axes.invert_yaxis()
axes.set(xlabel="ms")
plots.show_figure(
    figure,
    alt="Five requests as bars, grey while they wait and green while they are computed. Their batches have "
    + f"{', '.join(str(request.batch) for request in answered)} pictures.",
    caption=f"Measured. Grey: waiting. Green: computed. At most 4 in a batch, or {wait_s * 1e3:.1f} ms of waiting for "
    + f"company. {lab.machine_name}.",
)

# %% [markdown]
# ## The law, before the measurement
#
# ### Without batching
#
# If requests come at random at a rate of $\lambda$, and each takes $s$ seconds, the queue is called {term}`M/D/1`, and
# the mean wait is $s\,u / 2(1-u)$, where $u = \lambda s$ is the load. At half load a request waits for half a service,
# at nine tenths for four and a half. Load near one is not "well used". It is a long queue, and from one on, a queue
# that grows as long as the load lasts.

# %%
s = service.alone_s(1)
for load in (0.5, 0.8, 0.9, 0.95):
    print(f"load {load:.0%}: {load / s:,.0f} requests/s, mean wait {mean_wait_s(load / s, s) * 1e3:.2f} ms")

# %% [markdown]
# ### With batching
#
# A busy server takes everything that came while it computed the last batch. So batches grow until a batch takes just as
# long as its requests need to arrive:
#
# $$\lambda\, t(b) = b$$
#
# The batch size sets itself. A request that comes right after a batch was closed waits for that batch and then for its
# own: about $2\,t(b)$, and about $3\,t(b)$ where two batches are under way. Turn that around and it is the one rule to
# remember:
#
# ```{important}
# A batch may take half of your latency limit, or a third where two are under way. What batches of that size carry is
# your rate.
# ```

# %%
show_source(steady_batch)

# %% [markdown]
# With a limit for the latency, the rule estimates the highest rate that keeps it. It leaves room for chance: the number
# of requests that come meanwhile scatters by its square root, so where batches have $b$ pictures, one in a hundred has
# more than about $b + 2.33\sqrt{b}$. That one must fit:

# %%
limit_ms = 10.0 if on_gpu else 6 * service.alone_s(4) * 1e3
law = highest_rate(service, largest, limit_ms / 1e3)
print(
    f"p99 within {limit_ms:.1f} ms, by the rule: {law:,.0f} requests/s ({law / service.capacity:.0%} of the capacity)"
)

# %% [markdown]
# ### A simulation
#
# The rule knows chance as one larger batch, and no more of it. A simulation plays it: it draws {term}`arrivals`, goes
# through the queue's own rules event by event, and takes the time of each batch from the measured ones. Thousands of
# requests take a fraction of a second, and no GPU.

# %%
show_source(simulate)

# %% [markdown]
# From an almost idle service to an almost full one, with four times that the first request of a batch may wait:

# %%
waits_ms = [0.0, 1.0, 4.0, 16.0] if on_gpu else [0.0, 0.5 * s * 1e3, 2 * s * 1e3, 8 * s * 1e3]
loads = np.linspace(0.05, 0.95, 10)
many = {"smoke": 1000, "quick": 4000}.get(lab.profile.name, 20_000)
curves = {
    wait: [simulate(poisson(load * service.capacity, many), service, Knobs(largest, wait / 1e3)) for load in loads]
    for wait in waits_ms
}

# %% tags=["hide-input"]
figure, panels = plots.new_figure(columns=2, height=3.6)
for axes, percent in zip(panels, (50, 99), strict=True):
    for (wait, outcomes), color in zip(curves.items(), ["#0072B2", "#009E73", "#E69F00", "#D55E00"], strict=True):
        values = [outcome.quantile_ms(percent) for outcome in outcomes]
        axes.plot(loads * service.capacity, values, ".-", color=color, label=f"wait {wait:.1f} ms")
    axes.set(xlabel="requests/s", ylabel=f"p{percent}, ms", yscale="log")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
plots.show_figure(
    figure,
    alt="Two panels, p50 and p99 over the arrival rate, one line for each of four waiting times.",
    caption=f"Simulated from the measured batch times, four waiting times. {lab.machine_name}.",
)

# %% tags=["remove-cell"]
low = {wait: outcomes[0].quantile_ms(50) for wait, outcomes in curves.items()}
high = {wait: outcomes[-1].quantile_ms(99) for wait, outcomes in curves.items()}
if low[waits_ms[-1]] <= low[0.0]:
    raise CourseError("waiting for company costs nothing at a low rate here; the text below says that it does")
glue("14-wait-low", f"{low[waits_ms[-1]] / low[0.0]:.1f}")
glue("14-wait-high", f"{high[waits_ms[-1]] / high[0.0]:.1f}")

# %% [markdown]
# At a low rate, the longest waiting time multiplies the median by {glue:text}`14-wait-low`: the batch does not fill,
# and is held open to the end of its time. At the highest rate, it multiplies p99 by {glue:text}`14-wait-high`. That is
# near one where a busy queue has no time to wait. It can be below one where waiting fills a batch that would have been
# padded to the next size: a few more requests take no more time. See in the right panel from which rate on it pays, if
# it does.
#
# Start with a waiting time of zero.
#
# ## The measurement
#
# Now the real queue, under the load generator of {term}`MLPerf`, *LoadGen* {cite}`mlperf_inference`. Its *server*
# scenario sends requests at random times and measures each from the moment at which it was due. Rule and simulation
# were there first.
#
# Guess before you read on: what does the simulation miss, and is the real p99 above it or below?

# %%
parts = (0.3, 0.5, 0.7, 0.8, 0.9) if full or on_gpu else (0.3, 0.6)
knobs = Knobs(largest)
test = LoadTest(classifier, service, knobs, list(pictures[:1024]), seconds, limit_ms)
trials = list(test.predict_and_measure(parts))
compared = pd.DataFrame(
    [
        {
            "load": trial.load,
            "requests/s": trial.rate,
            "rule, ms": trial.law_ms,
            "simulated p99, ms": trial.simulated.quantile_ms(99),
            "measured p99, ms": trial.run.latency_ms["p99"],
            "off, %": trial.off_percent,
            "pauses, ms": trial.run.held_up_ms,
            "law's batch": steady_batch(trial.rate, service, largest),
            "mean batch": trial.run.mean_batch,
            "counts for MLPerf": "yes" if trial.run.valid else ", ".join(trial.run.reasons),
        }
        for trial in trials
    ]
)
forms = {"load": "{:.0%}", "requests/s": "{:,.0f}", "off, %": "{:+.0f}", "mean batch": "{:.1f}"}
tables.show_table(compared, f"The queue without waiting, largest batch {largest}. {lab.machine_name}.", forms)

# %% tags=["remove-cell"]
worst = max(abs(trial.off_percent) for trial in trials)
below = sum(trial.off_percent < 0 for trial in trials)
glue("14-worst", f"{worst:.0f}")
glue("14-below", f"{below} of {len(trials)}")
cores = lab.machine.cores or 1
glue(
    "14-shared", "The load generator and the model share the cores here." if cores <= 4 else "There are cores to spare."
)

# %% [markdown]
# :::{dropdown} What was measured
# The simulated p99 lies below the real one in {glue:text}`14-below` runs, and is off by {glue:text}`14-worst` % where
# it is worst.
# :::
#
# The simulation draws the times of batches from what was measured a moment ago. Each simulated latency in this table
# also gets what a request takes outside of the queue: from the moment at which it was due until it is there, and from
# the end of its batch until whoever asked is told. That is a median, timed once, at a load below all of these, with
# requests at random times.
#
# The simulation does not know what else the load generator takes of a core, and of Python's lock.
# {glue:text}`14-shared` Nor does it know what else the machine does. A run that MLPerf would not count is marked: it
# was too short, or too slow, for its rules.
#
# What the machine does is in the column *pauses*: beside each run a process sleeps and notes how late it wakes, which
# tells what one request in a hundred would have waited for the machine alone. If it is more than a quarter of p99,
# `python -m inference_lib load` calls the run *disturbed*. Do not take the agreement of this table with you to another
# host: a quota on processor time, or neighbours, may hold programs up there, and no simulation of a queue knows of
# them.
#
# ### More than it can answer
#
# The capacity was computed from batch times. Is it what the queue answers when more is sent than that? Now a third
# more:

# %%
offered = 4 / 3 * service.capacity
flood = test.run("server", offered)
computed, refused = sum(n * c for n, c in flood.batches.items()), flood.errors.total()
answered_per_s = flood.samples_per_s * computed / (computed + refused)  # LoadGen counts refusals as answers
print(f"sent: {offered:,.0f} requests/s, answered: {answered_per_s:,.0f} ({answered_per_s / service.capacity:.0%})")
print(f"refused: {refused / (computed + refused):.0%}, mean batch {flood.mean_batch:.1f}")
print(f"p99, with the refused ones: {flood.latency_ms['p99']:.1f} ms")

# %% tags=["remove-cell"]
glue("14-flood", f"{100 * answered_per_s / service.capacity:.0f}")
glue("14-behind", f"{1e3 * knobs.limit / answered_per_s:,.1f}")
glue("14-limit", f"{knobs.limit:,}")

# %% [markdown]
# It answers {glue:text}`14-flood` % of the capacity. How late is another matter. At most {glue:text}`14-limit` requests
# may wait here; more are refused. A request that finds all of them before it waits for {glue:text}`14-behind` ms, and
# for the batches under way. Where nobody was refused, the load was too short to fill the queue. So the capacity is what
# a queue answers at most. What it answers in time comes below.
#
# ### How large were the batches?
#
# In the last run of the table:

# %% tags=["hide-input"]
trial = trials[-1]
sizes_seen = sorted(trial.run.batches)
figure, (axes,) = plots.new_figure(height=2.6)
measured = [n * trial.run.batches[n] / sum(k * v for k, v in trial.run.batches.items()) for n in sizes_seen]
played = trial.simulated.batches
simulated_share = {n: n * played[n] / sum(k * v for k, v in played.items()) for n in played}
axes.bar(sizes_seen, measured, color="#0072B2", alpha=0.6, label="measured")
marks = [simulated_share[n] for n in sorted(played)]
axes.plot(sorted(played), marks, "_", color=plots.INK, markersize=8, label="simulated")
axes.set(xlabel="pictures in a batch", ylabel="share of requests")
axes.legend()
plots.show_figure(
    figure,
    alt="Bars: share of requests by the size of the batch that they were computed in, with the simulation as marks.",
    caption=f"At {trial.load:.0%} of the capacity, no waiting. {lab.machine_name}.",
)

# %% [markdown]
# Nobody chose these sizes, but for the largest. They followed from the rate. But did they follow the law? In the table,
# *law's batch* is the size at which $\lambda\,t(b) = b$. Where the mean is larger, batches took longer under load than
# by themselves, or they were padded. A batch of one picture more than a size takes as long as the next size does.
# Meanwhile more requests come, and so batches may climb, up to a size that carries more than the rate.
#
# A simulation tells the two apart: it can have a runner for every count. At the rate of the last run, with mean times:


# %%
def with_runners(sizes):
    """Return a service with runners of these sizes: the mean times from above, straight lines between them."""
    times = []
    for time_of in (service.alone_s, service.occupied_s):
        known = [time_of(size) for size in service.sizes]
        times.append({n: [np.interp(n, service.sizes, known)] for n in sizes})
    return Service(*times, service.depth)


for name, sizes in {"these sizes": service.sizes, "one for each count": range(1, largest + 1)}.items():
    found = with_runners(sizes)
    played = simulate(poisson(trial.rate, many), found, knobs)
    settles = steady_batch(trial.rate, found, largest)
    print(f"{name}: law {settles}, mean batch {played.mean_batch:.1f}, p99 {played.quantile_ms(99):.2f} ms")

# %% [markdown]
# What the two lines differ by is padding alone: the arrivals and the rules are the same.
#
# ### Goodput
#
# The highest rate that keeps the latency limit is called {term}`goodput`. Requests that are answered too late do not
# count in it, so it is what a service can sell. It depends on the knobs. For each largest batch, the rule and the
# simulation:

# %%
choices = [n for n in service.sizes if n >= 4 or n == 1]
goodput = pd.DataFrame(
    [
        {
            "largest batch": n,
            "rule, requests/s": highest_rate(service, n, limit_ms / 1e3),
            "simulated, requests/s": simulated_rate(service, Knobs(n), limit_ms, 0.05),
            f"simulated, wait {waits_ms[2]:.0f} ms": simulated_rate(
                service, Knobs(n, waits_ms[2] / 1e3), limit_ms, 0.05
            ),
        }
        for n in choices
    ]
)
whole = dict.fromkeys(goodput.columns[1:], "{:,.0f}")
title = f"Highest rate with p99 within {limit_ms:.1f} ms, computed from measured batch times. {lab.machine_name}."
tables.show_table(goodput, title, whole)

# %% tags=["remove-cell"]
best = max(service.sizes, key=service.carried)
glue("14-best", best)
glue("14-of-best", f"{100 * service.capacity / service.carried(best):.0f}")

# %% [markdown]
# A simulated rate is searched by halving until it is known to 5 % of what the batches carry, so it goes in steps, and
# ends at or below the highest one. A step below the rule is no difference, and two columns that are equal are so within
# a step. Where the last column is higher by more, waiting fills batches that would have been padded. None of these
# rates was measured, and what a request takes outside of the queue is not in them.
#
# The rule knows the mean of each batch's times, and batches as large as the law says. The simulation draws from all
# times and pads, so where some batches were slow, or climbed as above, it allows less. A largest batch of one is the
# M/D/1 queue from above; where two batches are under way, though, the time between two answers is that of a *busy*
# queue, and more is carried.
#
# So how large should the largest batch be? The size that carries most, or, if that is smaller, the largest that takes
# half of your limit, a third where two batches are under way. Beware of a largest batch beyond the best one: a queue
# that is never empty makes no batches but the largest. Here, the size that carries most is {glue:text}`14-best`, and
# batches of the largest size carry {glue:text}`14-of-best` % of what batches of that one do. Compare with the size that
# has the highest simulated rate. Where a row allows less than the one above it, its batches carry less, or they take
# too much of the limit.
#
# `python -m inference_lib load` searches the rate on the real queue, by MLPerf's rules, and takes minutes.

# %% [markdown]
# ## What goes wrong
#
# ### "It queues, but it does not batch"
#
# A test program sends a request, waits for the answer, and sends the next. The server's batches all have one picture,
# and dynamic batching "seems invalid" ([pytriton#8](https://github.com/triton-inference-server/pytriton/issues/8)).
# There is never a second request to batch with. A limit between caller and queue does the same: Ray Serve hands a
# {term}`replica` no more requests than `max_ongoing_requests`, and if that is smaller than the batch, the batch stays
# small ([ray#43288](https://github.com/ray-project/ray/issues/43288)).

# %%
for callers in (1, 8):
    with queued(classifier, Knobs(largest)) as queue:
        sent = closed_loop(queue, pictures[0], callers, seconds)
    mean = sum(n * c for n, c in queue.batches.items()) / queue.batches.total()
    who = "1 caller who waits" if callers == 1 else f"{callers} callers who wait"
    print(f"{who}: {len(sent) / seconds:,.0f} requests/s, {mean:.1f} pictures a batch")
    if callers == 1 and set(queue.batches) != {1}:
        raise CourseError("one caller who waits was batched with somebody; the text says that this cannot be")

# %% [markdown]
# Test with as many callers as you expect, or with arrivals that do not wait for answers. (On few cores, eight calling
# threads may cost more than their batches bring.)
#
# ### The preferred size, plus one
#
# Everything was tuned for one batch size, and one picture more comes. With TensorRT it may fall into another
# {term}`profile <optimization profile>` ([triton#8141](https://github.com/triton-inference-server/server/issues/8141));
# with fixed sizes it is padded to the next one.

# %%
coarse = Service(
    {n: service.alone[n] for n in (1, largest // 2, largest)},
    {n: service.busy[n] for n in (1, largest // 2, largest)},
    service.depth,
)
preferred = largest // 2
for name, found in {"few sizes": coarse, "more sizes": service}.items():
    for count in (preferred, preferred + 1):
        took = found.occupied_s(count) * 1e3
        print(f"{name}: {count} pictures are computed as {found.size(count)}, {took:.2f} ms")
print(f"two batches instead: {(service.occupied_s(preferred) + service.occupied_s(1)) * 1e3:.2f} ms")

# %% [markdown]
# The mend is either of two: sizes that lie close together, so that little is padded, or a largest batch that *is* the
# preferred size, so that the one too many is the first of the next batch.
#
# ### The first request of each size takes seconds
#
# Libraries choose kernels, allocate memory or compile when they first see a shape
# ([triton#7776](https://github.com/triton-inference-server/server/issues/7776)). The first batch of every size pays for
# it, long after the server said that it was ready:

# %%
fresh = load_pretrained(model).to(device_, dtype)
compiled = torch.compile(fresh, dynamic=False) if full and on_gpu else fresh
with torch.inference_mode():
    for count in (1, 3):
        images, took = torch.zeros(count, 3, 224, 224, device=device_, dtype=dtype), []
        for _ in range(4):
            start = time.perf_counter()
            compiled(images).cpu()
            took.append((time.perf_counter() - start) * 1e3)
        print(f"batch {count}: first {took[0]:.1f} ms, later {min(took[1:]):.1f} ms")

# %% [markdown]
# So warm up every size before the first request, and say "ready" only then. The classifier above did:

# %%
show_source("inference_lib.serve.classifier", "warm")

# %% [markdown]
# ### Out of memory, in the middle of the night
#
# A burst makes the largest batch that there ever was, and it does not fit. The batch is lost; the server must not be.
# Here is a classifier that asks for more memory than any machine has, whenever a batch is large:


# %%
class Greedy:
    """The same classifier, and a workspace that is allocated for each batch: far too much for a large one."""

    sizes, depth, alive, close = classifier.sizes, 1, classifier.alive, lambda self: None

    def submit(self, pictures):
        torch.empty(2**10 if len(pictures) < 4 else 2**46, device=device_)
        return classifier.submit(pictures)


def burst(max_batch):
    """Send 6 requests while the first of them is computed; return the errors, and whether the queue still answers."""
    answers = []
    with BatchQueue([Greedy()], max_batch=max_batch, max_wait_s=0.05) as queue:
        for _ in range(6):
            queue.submit(pictures[0], answers.append)
        alive = queue.ask(pictures[0]).logits is not None
    return [answer.error for answer in answers if answer.error], alive


errors, alive = burst(max_batch=6)
print(f"{len(errors)} requests failed: {str(errors[0])[:110]}")
print("the next request is answered:", alive)
if not alive or len(errors) != 6:
    raise CourseError("the queue did not meet an out of memory, or did not survive it")

# %% [markdown]
# Met, reported to everybody whom it concerned, and survived. The mend is a largest batch that was tried before the
# first request, which warming up does:

# %%
errors, alive = burst(max_batch=2)
print(f"{len(errors)} requests failed, the next one is answered: {alive}")

# %% [markdown]
# ### Everybody waits for the garbage
#
# Most answers come at once, and a few take far longer. No batch was slow. CPython's garbage collector walks now and
# then through every object that there is, and while it does, no thread runs Python. Imports alone leave a great many
# objects. The collector decides by itself when it is time. Here it is asked, in the middle of a load,
# first as it is, then with everything that was there from the beginning put aside, as the classifier of this chapter
# does when it is warm (`gc.freeze`):


# %%
def slowest_ms():
    """Return the longest of a load's latencies, with a full collection in the middle, and the collection's time."""
    pauses = []

    def collect():
        start = time.perf_counter()
        gc.collect()
        pauses.append((time.perf_counter() - start) * 1e3)

    with queued(classifier, Knobs(largest)) as queue:
        middle = threading.Timer(seconds / 2, collect)
        middle.start()
        rate = min(2000, 0.2 * service.capacity)
        sent = open_loop(queue, pictures[0], poisson(rate, max(1, int(rate * seconds))))
        middle.join()
    return max(request.latency_s for request in sent) * 1e3, pauses[0]


gc.unfreeze()
as_it_is = slowest_ms()
gc.collect()
gc.freeze()
put_aside = slowest_ms()
for name, (slowest, pause) in {"as it is": as_it_is, "put aside": put_aside}.items():
    print(f"{name}: the collection takes {pause:.0f} ms, the slowest request {slowest:.0f} ms")
if put_aside[1] > as_it_is[1] / 2:
    raise CourseError("a collection takes as long with everything put aside; the text says that it does not")

# %% [markdown]
# Before you suspect a queue of a long tail, look for whatever else runs in its process, and on its cores. The load
# generator is one such thing. By default, LoadGen writes its log once a second; here, it is told to write when the load
# is over.
#
# ### A p99 of three hundred requests
#
# A p99 of a run that was too short says nothing. Of 300 requests, three are slower than p99. Simulated again and again,
# with nothing changed but chance:

# %%
rate = 0.7 * service.capacity
for count in (300, 5000):
    found = [simulate(poisson(rate, count, seed), service, knobs, seed).quantile_ms(99) for seed in range(12)]
    print(f"{count} requests: p99 between {min(found):.1f} and {max(found):.1f} ms in twelve tries")

# %% [markdown]
# A short run scatters, and worse, it may be wrong as a whole: it begins with an empty queue, and at a high rate, 300
# requests are over before the queue has grown as long as it will be. Compare the two ranges. Twelve short runs that
# agree are no better than one.

# %% tags=["remove-cell"]
stack.close()

# %% [markdown]
# ## Exercises
#
# ```{exercise}
# :label: ex-14-limit
# Your limit is five times as long as the one above. By the rule, how long may a batch take, and which rate do you
# expect? Write a number down before you ask `simulated_rate`.
# ```
#
# ````{solution} ex-14-limit
# :class: dropdown
# ```python
# relaxed_ms = 5 * limit_ms
# print(f"a batch may take about {relaxed_ms / (1 + service.depth):.1f} ms")
# print(f"rule: {highest_rate(service, largest, relaxed_ms / 1e3):,.0f} requests/s")
# print(f"simulated: {simulated_rate(service, Knobs(largest), relaxed_ms, 0.05):,.0f} requests/s")
# print(f"capacity: {service.capacity:,.0f} requests/s")
# ```
# Half of the limit, or a third where two batches are under way, minus room for chance: a batch that is larger than
# usual. The rate hardly grows once batches of the largest size fit. From there on, a longer limit is only patience.
# ````
#
# ```{exercise}
# :label: ex-14-replicas
# Two replicas share one queue. Is that better than two queues with a replica each, at the same rate? Simulate both at
# 70 % of what two replicas carry, and compare p99 and the batches.
# ```
#
# ````{solution} ex-14-replicas
# :class: dropdown
# ```python
# rate = 2 * 0.7 * service.capacity
# shared = simulate(poisson(rate, many), service, Knobs(largest, replicas=2))
# split = simulate(poisson(rate / 2, many), service, Knobs(largest))
# for name, found in {"one queue for two": shared, "a queue for each": split}.items():
#     print(f"{name}: p99 {found.quantile_ms(99):.1f} ms, {found.mean_batch:.1f} pictures a batch")
# ```
# With one queue, whoever is free takes the next batch, so nobody waits while another idles. With two queues, each gets
# half of the requests, and one may idle while the other has a line. But one queue makes smaller batches, since it is
# emptied twice as often.
# ````
#
# ```{exercise}
# :label: ex-14-burst
# Let requests come in pairs: every gap twice as long, and two requests at each time. The rate is the same. By how much
# does the simulated p99 grow at half load, and why does the rule not see it?
# ```
#
# ````{solution} ex-14-burst
# :class: dropdown
# ```python
# rate = 0.5 * service.capacity
# pairs = np.repeat(poisson(rate / 2, many // 2), 2)
# for name, times in {"one by one": poisson(rate, many), "in pairs": pairs}.items():
#     print(f"{name}: p99 {simulate(times, service, Knobs(largest)).quantile_ms(99):.2f} ms")
# ```
# The number of requests that come while a batch is computed scatters more than by its square root, so the slowest
# requests meet larger batches. The rule assumes that nobody knows of others.
# ````
#
# ```{exercise}
# :label: ex-14-sizes
# A server holds runners for powers of two only. How many pictures in a hundred are padding, if every batch size up to
# the largest is equally likely? And with the sizes of this chapter?
# ```
#
# ````{solution} ex-14-sizes
# :class: dropdown
# ```python
# powers = [2**power for power in range(largest.bit_length())]
# for name, sizes in {"powers of two": powers, "this chapter": classifier.sizes}.items():
#     computed = sum(min(size for size in sizes if size >= count) for count in range(1, largest + 1))
#     asked = largest * (largest + 1) / 2
#     print(f"{name}: {100 * (1 - asked / computed):.0f} % of what is computed is padding")
# ```
# With powers of two, the share tends to a quarter as sizes grow. A size half way between two powers removes a part of
# that, and costs another runner, with its memory and its warm-up.
# ````
#
# ## Key points
#
# - The hundredth need not wait for ninety-nine inferences: whoever is free takes all that wait. Under load, batches set
#   their own size, as many as come while one is computed.
# - A batch trades latency for throughput, up to a size at which the device is full; beyond it, only latency grows.
# - A batch may take half of the latency limit (a third with two under way).
# - Waiting for company costs at low rates, and pays at high ones only where it fills batches. Start with zero.
# - Warm up every size, keep the largest batch to what fits, and let a failed batch fail alone.
# - A tail may be the garbage collector's, or the load generator's own. Few calls a batch leave others few chances to
#   take Python's lock.
#
# ## Further reading
#
# Kleinrock's *Queueing Systems* has the mean wait of M/D/1 in volume I. The rules of MLPerf's scenarios are in
# {cite}`mlperf_inference`. Triton's documentation describes its dynamic batcher {cite}`triton_batcher`.
