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
# # Serving
#
# The model is quick. Why does the service take longer, and what would it take to notice that it is falling over?
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# what a request costs beside the model, how to load a server without fooling yourself, and what to do when more is
# asked than it can answer
# :::
# :::{grid-item-card} You need
# the chapter on batching; two GPUs for one of the experiments
# :::
# :::{grid-item-card} To read
# 30 minutes
# :::
# :::{grid-item-card} To run
# {{ run_times }}
# :::
# ::::

# %% [markdown]
# ## From a runner to a service
#
# A runner takes an array and returns an array. A client has a JPEG file and a network. Between the two somebody
# decodes, checks, refuses, waits, batches, counts, and survives the night. None of that is in the latencies of the
# chapters before, and most of it is Python.
#
# Two servers that others maintain do the part between HTTP and processes. *LitServe* is small: an HTTP process and
# model processes on one machine. *Ray Serve* spreads replicas over GPUs and machines. So take the first for one
# machine, the second for more, and write your own only if you want to keep up the rest of this page as well.
#
# Both are used here around one application; a third, called *local*, is that application in one process with the [queue
# of the last chapter](14_batching_and_concurrency), to compare with. On this page, these three are called *engines*.
#
# NVIDIA's Triton is a server in C++ that usually comes as a container. It is not part of this course's environment, so
# it does not run here; a section below writes what it reads.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import http.client
import importlib.util
import io
import json
import os
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from PIL import Image

from inference_lib import MODELS, CourseError, open_lab
from inference_lib.backends import get_backend
from inference_lib.report import glue, plots, show_source, tables
from inference_lib.seam import Workload, build
from inference_lib.serve.application import Application, decode
from inference_lib.serve.classifier import Loaded, sizes_up_to
from inference_lib.serve.client import Client
from inference_lib.serve.loadgen import highest_rate, run_loadgen
from inference_lib.serve.loops import closed_loop, open_loop
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.server_process import running_server
from inference_lib.serve.service import measure_service
from inference_lib.serve.settings import SERVED
from inference_lib.serve.simulator import Knobs, poisson
from inference_lib.serve.trials import simulated_rate
from inference_lib.zoo.fashion_mnist import load_fashion_mnist, preprocess

lab = open_lab(profile, device, records_dir)
on_gpu, full = lab.device == "cuda", lab.profile.name == "full"
seconds = {"smoke": 0.3, "quick": 0.7}.get(lab.profile.name, 2.0)  # of one load
pictures, _ = load_fashion_mnist("test")
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% [markdown]
# The chapter serves one model, with the runner that suits the machine. This is what a picture takes through the queue,
# in this process, with nothing else under way, and what a queue carries that is never empty:

# %%
backend, model, precision = SERVED[lab.device]
largest = 64 if on_gpu else 8

stack = ExitStack()
loaded = Loaded(backend, Workload(model, 1, precision, lab.device), sizes_up_to(largest))
classifier = stack.enter_context(loaded)
service = measure_service(classifier, lab.profile.budget_s)
print(f"{loaded.title}, {MODELS[model].title}, {precision}: {service.alone_s(1) * 1e3:.2f} ms a picture,")
print(f"{service.capacity:,.0f} pictures a second in batches")

# %% [markdown]
# ## The application
#
# One class. `predict` is the engine's business: a coroutine from a picture to its logits. Around it, everything that a
# stranger can do wrong is a line.

# %%
show_source(Application._answer)

# %% [markdown]
# And what an engine does when it cannot answer becomes a status that a client can act on:

# %%
show_source(Application._in_time)

# %% [markdown]
# ### Start them
#
# Each is the command `python -m inference_lib serve`, in a process of its own. It says that it is ready when every
# batch size is warm, not before.

# %%
engines = ["local", *(e for e in ("litserve", "ray") if importlib.util.find_spec(e) and (e != "ray" or full))]
options = {"backend": backend, "model": model, "precision": precision, "device": lab.device}
options |= {"max-batch": largest, "max-wait-ms": 0, "max-queue": 256}


def start(engine, **more):
    """Start a server on a port that is free; return its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, given = f"http://127.0.0.1:{port}", options | more | {"engine": engine, "port": port}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    stack.enter_context(running_server(url, words))
    return url


began = time.perf_counter()
with ThreadPoolExecutor(len(engines)) as pool:
    urls = dict(zip(engines, pool.map(start, engines), strict=True))
print(f"ready after {time.perf_counter() - began:.0f} s: {', '.join(urls)}")

# %% [markdown]
# ## Is it still the same model?
#
# The same picture as a PNG file and as raw bytes, to every server:


# %%
def connection(url):
    """Return a connection that stays open."""
    return http.client.HTTPConnection(urlparse(url).netloc, timeout=30)


def ask(kept, method, path, body=None):
    """Send one request; return status and what was said."""
    kept.request(method, path, body, {"Content-Type": "application/octet-stream"})
    response = kept.getresponse()
    return response.status, response.read().decode().strip()


def file_of(image, kind, **how):
    """Return an image file's bytes."""
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


kept = {engine: connection(url) for engine, url in urls.items()}
png, raw = file_of(Image.fromarray(pictures[0]), "PNG"), pictures[0].tobytes()
expected = classifier.submit(pictures[:1])()[0].argmax()
for engine in urls:
    for path, body in (("/classify", png), ("/classify-raw", raw)):
        status, said = ask(kept[engine], "POST", path, body)
        print(engine, path, status, said)
        if json.loads(said)["index"] != expected:
            raise CourseError(f"{engine} answers with another class than the model")

# %% [markdown]
# ## What does a request cost?
#
# A bound first: no answer comes before the model has computed it. From above there is none, since nothing limits what
# the way to the model takes; it has to be measured.
#
# Guess before you read on: a photograph of 640 by 480 pixels is sent to each server. Which share of the time to its
# answer is the model's, and which part is the largest?
#
# :::{dropdown} What was measured
# The model's share: {glue:text}`15-share`. The largest part: {glue:text}`15-largest`.
# :::
#
# The parts that run in this process take turns, and so do three requests over HTTP: one that asks for nothing but a
# sign of life, one with raw bytes, one with the photograph. One request is under way at a time, so none of them waits
# for another. Waiting comes with the load, further below.

# %%
noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
photograph = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
jpeg = file_of(photograph, "JPEG", quality=90)

inside = lab.turns(
    {
        "decode": lambda: decode(jpeg),
        "preprocess": lambda: preprocess(pictures[:1]),
        "classifier": lambda: classifier.submit(pictures[:1])(),
    }
)
for each in kept.values():
    each.close()  # a server gives up one that is silent; the next request opens it anew
calls = {}
for engine in urls:
    calls[f"{engine}, nothing"] = lambda k=kept[engine]: ask(k, "GET", "/health")
    calls[f"{engine}, raw"] = lambda k=kept[engine]: ask(k, "POST", "/classify-raw", raw)
    calls[f"{engine}, photograph"] = lambda k=kept[engine]: ask(k, "POST", "/classify", jpeg)
outside = lab.turns(calls)
times = pd.DataFrame({"": list(calls), "ms": [outside.ms(name) for name in calls]})
tables.show_table(times, f"One caller who waits, over HTTP on this machine. {lab.machine_name}.")

# %% [markdown]
# Decoding, preprocessing and the model, with its copies, were timed in this process. (On a GPU, preprocessing is the
# GPU's, and counts as the model's.) The other parts come from the requests:
#
# - *HTTP* is the sign of life: this client, the connection, and the parsing. In front of Ray Serve, the proxy is in it.
# - *Way to the model* is what raw bytes take beyond HTTP and the model: the picture goes to whoever computes, a thread
#   or another process, its logits come back, and somebody has to wake up on either side. If the model takes longer in
#   the server than in this process, that is in it, too.
# - *Left over* is what the photograph takes beyond raw bytes and decoding: its body is larger, a thread decodes it, and
#   the server may take longer for that than this process. Which of these it is was not measured.
#
# So the parts add up to the request. A difference below zero is drawn as none; its size tells how little the other
# differences can be trusted.

# %%
part = {name: inside.ms(name) for name in inside.rounds}
prepares = 0.0 if on_gpu else min(part["preprocess"], part["classifier"])  # on a GPU, it is done there
totals = {engine: outside.ms(f"{engine}, photograph") for engine in urls}
costs = {}
for engine, total in totals.items():
    alive, bare = outside.ms(f"{engine}, nothing"), outside.ms(f"{engine}, raw")
    costs[engine] = {
        "decode": part["decode"],
        "preprocess": prepares,
        "model": part["classifier"] - prepares,
        "HTTP": alive,
        "way to the model": bare - alive - part["classifier"],
        "left over": total - bare - part["decode"],
    }
split = pd.DataFrame(costs).T.assign(request=totals).rename_axis("engine").reset_index()
formats = dict.fromkeys(split.columns[1:], "{:.3f}")
tables.show_table(split, f"The photograph's request and its parts, ms. {lab.machine_name}.", formats)

# %% tags=["hide-input"]
colors = ["#E69F00", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#8A8F98"]
figure, (axes,) = plots.new_figure(height=1.0 + 0.5 * len(costs))
left = np.zeros(len(costs))
for name, color in zip(next(iter(costs.values())), colors, strict=True):
    widths = np.array([max(0.0, parts[name]) for parts in costs.values()])
    axes.barh(list(costs), widths, left=left, color=color, label=name, height=0.6)
    left += widths
axes.invert_yaxis()
axes.set(xlabel="ms")
axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
plots.show_figure(
    figure,
    alt="A stacked bar for each engine: decoding, preprocessing, model, HTTP, way to the model, left over, in ms.",
    caption=f"One photograph, one caller, medians. {MODELS[model].title}, {precision}. {lab.machine_name}.",
)

# %% tags=["remove-cell"]
glue("15-share", ", ".join(f"{100 * costs[e]['model'] / totals[e]:.0f} % ({e})" for e in costs))
largest_part = {engine: max(parts, key=parts.get) for engine, parts in costs.items()}
glue("15-largest", ", ".join(f"{largest_part[e]} ({e})" for e in costs))

# %% [markdown]
# A framework that halves the model's time shortens its piece of the bar by half, and no other.
#
# The way to the model is each engine's own. *Local* has threads between HTTP and model. *LitServe* has another process,
# a queue in a third one, and pickles both ways. *Ray Serve* has a proxy, the application and the replica, each in a
# process.
#
# By Ray's defaults, the proxy is Python, too: for it, a request is a call of an actor whose answer comes back as a
# stream. The engine here uses Ray's own settings against that. `RAY_SERVE_ENABLE_HA_PROXY=1` puts HAProxy there, which
# is written in C and hands the request to an HTTP server in the application's process. With
# `RAY_SERVE_THROUGHPUT_OPTIMIZED=1`, the application calls the replica over gRPC and gathers the lines of its log.
#
# ## What to do about each
#
# ### Decoding
#
# A JPEG can be decoded at a half, a quarter or an eighth of its size, since it stores frequencies, and the high ones
# need not be computed. The application asks for that with Pillow's `Image.draft`. And decoding gives up {term}`Python's
# lock <GIL>`, so a pool of threads can use all cores:


# %%
def whole(file):
    """Decode all pixels, then shrink."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("L").resize((28, 28)))


threads = ThreadPoolExecutor(os.cpu_count())
many = [jpeg] * 16
decoding = lab.turns(
    {
        "every pixel, one thread": lambda: [whole(file) for file in many],
        "draft, one thread": lambda: [decode(file) for file in many],
        "draft, a thread for each core": lambda: list(threads.map(decode, many)),
    }
)
tables.show_table(decoding.table(), f"16 photographs of 640 x 480. {lab.machine_name}.")

# %% [markdown]
# On a GPU, nvJPEG decodes as well, and torchvision hands it out. Does it pay for sixteen photographs of this size?

# %%
if on_gpu:
    from torchvision.io import decode_jpeg

    encoded = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
    try:
        gpu = lab.turns(
            {
                "Pillow, draft": lambda: [decode(file) for file in many],
                "nvJPEG": lambda: decode_jpeg([encoded] * 16, device="cuda"),
            }
        )
        display(tables.show_table(gpu.table(), f"16 photographs of 640 x 480. {lab.machine_name}."))
    except RuntimeError as error:  # torchvision may be built without it
        print("nvJPEG is not there:", str(error).splitlines()[0])
else:
    print("needs a GPU")

# %% [markdown]
# Where there are two rows, they end differently: Pillow's with a small grey picture for each photograph, nvJPEG's with
# all pixels in colour, on the device, where shrinking them comes on top. Pillow's row is the work of "draft, one
# thread" above, timed again: the two times show how well such a measurement repeats on this machine.
#
# ### What travels
#
# The same picture in four forms. JSON is what examples use; a float tensor is what the model wants; bytes are what
# there is. The time is what a server needs to get an array out of it.

# %%
floats = preprocess(pictures[:1])
forms = {
    "JSON, model's input": (json.dumps(floats.tolist()).encode(), lambda b: np.array(json.loads(b), np.float32)),
    "raw, model's input": (floats.tobytes(), lambda b: np.frombuffer(b, np.float32)),
    "PNG": (png, decode),
    "raw, bytes": (raw, lambda b: np.frombuffer(b, np.uint8)),
}
parsing = lab.turns({name: lambda b=body, f=read: f(b) for name, (body, read) in forms.items()})
wire = pd.DataFrame(
    [{"form": name, "kB": len(body) / 1e3, "to an array, ms": parsing.ms(name)} for name, (body, _) in forms.items()]
)
tables.show_table(wire, f"One picture on its way. {lab.machine_name}.", {"kB": "{:,.1f}", "to an array, ms": "{:.4f}"})

# %% [markdown]
# Send what the camera gave, or raw bytes over a binary protocol. Never floats in text.
#
# ### Batch before the copy
#
# Gather the small pictures first, then prepare and send them together: one preparation and one copy for all.

# %%
eight = list(pictures[:8])
target = torch.device(lab.device)
gathering = lab.turns(
    {
        "one by one": lambda: torch.cat([torch.from_numpy(preprocess(p[None])).to(target) for p in eight]),
        "gathered": lambda: torch.from_numpy(preprocess(np.stack(eight))).to(target),
    }
)
tables.show_table(gathering.table(), f"Eight pictures, prepared and on the device. {lab.machine_name}.")

# %% [markdown]
# ## Load, without fooling yourself
#
# ### Callers who wait do not see the queue
#
# A load test with ten callers who wait for their answers is a {term}`closed loop`. When the server stands still, so do
# they: nobody asks, and the requests that would have suffered are never sent. The percentiles look fine. This is called
# {term}`coordinated omission`. In an {term}`open loop`, requests come at their times, as they do from people who know
# nothing of each other.
#
# Here is a server that is quick, and stands still once:


# %%
class Stalling:
    """The classifier of this chapter, which stands still for a moment, once."""

    sizes, depth, alive, close = classifier.sizes, 1, classifier.alive, lambda self: None

    def __init__(self, after, stall_s):
        self.after, self.stall_s, self.begin = after, stall_s, time.perf_counter()

    def submit(self, pictures):
        wait = classifier.submit(pictures)
        if time.perf_counter() - self.begin > self.after:
            self.begin = float("inf")
            time.sleep(self.stall_s)
        return wait


def p99(sent):
    """Return the 99th percentile of the latencies, ms."""
    return float(np.percentile([request.latency_s for request in sent], 99)) * 1e3


length = max(3 * seconds, 600 * service.alone_s(1))  # a stall is one request of hundreds
stall = length / 3
rate = 0.2 * service.capacity
with BatchQueue([Stalling(length / 3, stall)], max_batch=largest) as held:
    waits = closed_loop(held, pictures[0], callers=1, seconds=length)
with BatchQueue([Stalling(length / 3, stall)], max_batch=largest) as held:
    comes = open_loop(held, pictures[0], poisson(rate, max(1, int(rate * length))))
print(f"the server stands still for {stall:.1f} of {length:.1f} s")
print(f"closed loop, {len(waits)} requests: p99 {p99(waits):.1f} ms")
print(f"open loop, {len(comes)} requests: p99 {p99(comes):.1f} ms")
if len(waits) > 150 and p99(comes) < 3 * p99(waits):
    raise CourseError("the closed loop saw the stall here; the text says that it does not")

# %% [markdown]
# One request of the closed loop met the stall; the others were sent before it or after it. A third of the time, nobody
# was answered, and p99 does not know. Measure from the time at which a request was *due*, and let the load not wait.
# LoadGen's server scenario does both.
#
# ### Over HTTP
#
# LoadGen's requests, at random times, as raw bytes. The load and the servers share this machine.

# %%
limit_ms = 25.0 if on_gpu else 20 * service.alone_s(1) * 1e3
rows, goodput = [], {}
for engine, url in urls.items():
    client = stack.enter_context(Client(url))
    closed_loop(client, pictures[0], callers=8, seconds=0.3)  # opens the connections

    def measure(rate, client=client):
        began, spent = time.perf_counter(), time.process_time()
        run = run_loadgen(client, list(pictures[:256]), "server", seconds, rate, limit_ms)
        run.busy["the load"] = (time.process_time() - spent) / (time.perf_counter() - began)
        return run

    if full:
        goodput[engine], runs = highest_rate(measure, 1000 if on_gpu else 100, limit_ms, precision=0.2, tries=1)
    else:
        runs = [measure(load * service.capacity) for load in (0.1, 0.3)]
        goodput[engine] = max([r.rate for r in runs if r.latency_ms["p99"] <= limit_ms and not r.errors], default=0.0)
    rows += [
        {
            "engine": engine,
            "asked, requests/s": run.rate,
            "p50, ms": run.latency_ms["p50"],
            "p99, ms": run.latency_ms["p99"],
            "pauses, ms": run.held_up_ms,
            "load's cores": run.busy["the load"],
            "without an answer": run.errors.total(),
            "counts for MLPerf": "yes" if run.valid else ", ".join(run.reasons),
        }
        for run in runs
    ]
caption = f"Over HTTP, limit for p99 {limit_ms:.0f} ms. {lab.machine_name}."
tables.show_table(pd.DataFrame(rows), caption, {"asked, requests/s": "{:,.0f}", "load's cores": "{:.2f}"})

# %% [markdown]
# And what was foretold for the same limit, without HTTP:

# %%
in_process = simulated_rate(service, Knobs(largest), limit_ms, 0.05)
print(f"in this process, simulated: {in_process:,.0f} requests/s with p99 within {limit_ms:.0f} ms")
how = "was the highest found that kept it" if full else "was the higher one tried that kept it"
for engine, rate in goodput.items():
    print(f"{engine}, over HTTP: " + (f"{rate:,.0f} requests/s {how}" if rate else "no rate that was tried kept it"))

# %% [markdown]
# A full run searches: it raises the rate while the limit is kept, lowers it where it is not, and halves what is left,
# so the rates stand in the order in which they were tried. A rate keeps the limit if its p99 does and every request is
# answered. The last column asks for more: MLPerf's *early stopping* wants so many requests that chance cannot have kept
# it, more than a short run sends at a low rate. *Pauses* are the machine's: what one request in a hundred would have
# waited for it alone. A rate beside a long one is what the machine carried, not what the server could. *Load's cores*
# are those that this process kept busy, which sends the requests. It is Python, too: where it needs about one core, a
# higher rate may have failed for the load and not for the server.
#
# The model is the same in every row. What differs is the way to it: parsing HTTP, waking coroutines, pickling, passing
# through processes. HTTP is parsed and a coroutine woken for each request, however large the batch. Rates that keep the
# limit are what the last chapter called {term}`goodput`.
#
# ## Overload
#
# The server is asked for half as much again as it can do. What should happen? A queue without a limit takes everybody.
# It grows as long as the load lasts, and everybody waits longer than the one before. Soon, all answers come too late,
# and the server computes at full speed for nobody. What helps is {term}`admission control`: it says no at once to those
# whom it could not answer in time.
#
# Of three requests, two can be answered. Guess before you read on: how many of a hundred are answered in time without a
# limit, and how many with one?
#
# The largest batch is small here, so that one thread can send more than the model carries.

# %%
few = 2 if on_gpu else largest  # pictures in a batch
with BatchQueue([classifier], max_batch=few, limit=10**9, timeout_s=60) as crowd:
    at_once = open_loop(crowd, pictures[0], np.zeros(200))
capacity = len(at_once) / max(request.answered for request in at_once)  # now, beside the servers from above
overload = 1.5 * capacity
due = poisson(overload, max(50, int(overload * 2 * seconds)))
allowed = max(few, int(capacity * limit_ms / 1e3 / 2))  # what can be computed in half the limit
crowds = {}
for name, limit in {"no limit": 10**9, f"at most {allowed} wait": allowed}.items():
    with BatchQueue([classifier], max_batch=few, limit=limit, timeout_s=60) as crowd:
        crowds[name] = open_loop(crowd, pictures[0], due)

good = {name: [r for r in sent if not r.error and r.latency_s * 1e3 <= limit_ms] for name, sent in crowds.items()}
for name, sent in crowds.items():
    refused = sum(request.error == "OverloadedError" for request in sent)
    last = [r for r in sent if r.due > due[-1] * 2 / 3 and not r.error]
    slowest = np.percentile([r.latency_s for r in last], 50) * 1e3
    print(f"{name}: {len(good[name])} of {len(sent)} within {limit_ms:.0f} ms, {refused} refused at once,")
    print(f"  the median of those answered in the last third: {slowest:.0f} ms")

# %% tags=["hide-input"]
figure, (axes,) = plots.new_figure(height=2.8)
for (name, sent), color in zip(crowds.items(), ["#D55E00", "#009E73"], strict=True):
    answered = [r for r in sent if not r.error]
    axes.plot([r.due for r in answered], [r.latency_s * 1e3 for r in answered], ".", color=color, ms=2, label=name)
axes.axhline(limit_ms, color="#8A8F98", lw=1)
axes.set(xlabel="s", ylabel="ms", yscale="log")
axes.legend(markerscale=4)
plots.show_figure(
    figure,
    alt="Latency over time at 150 percent load: without a limit it climbs, with one it stays level.",
    caption=f"Answered requests at 150 % of the capacity; line: the limit, {limit_ms:.0f} ms. {lab.machine_name}.",
)

# %% tags=["remove-cell"]
free, limited = (len(answers) for answers in good.values())
glue("15-good-limit", f"{100 * limited / len(due):.0f}")
glue("15-good-none", f"{100 * free / len(due):.0f}")
answered = sum(not r.error for r in list(crowds.values())[1])
glue("15-good-carried", f"{100 * answered / due[-1] / capacity:.0f}")
glue("15-good-verdict", "Refusing some saved the others." if limited > free else "It was no overload here, then.")

# %% [markdown]
# :::{dropdown} What was measured
# Of a hundred requests, {glue:text}`15-good-none` were answered in time without a limit, and {glue:text}`15-good-limit`
# with one. {glue:text}`15-good-verdict`
#
# With the limit, the server answered at {glue:text}`15-good-carried` % of its capacity. That was measured on requests
# that all came at once; here, whoever sends runs Python beside the server the whole time.
# :::
#
# Over HTTP, the refusal is status 429 with `Retry-After`, which tells a well-behaved client when to come back. A client
# that tries again at once only adds to the load that was refused.
#
# ### An answer that nobody waits for
#
# A request whose caller has given up should not be computed. The queue looks at its age when it is taken. Here, forty
# come at one instant, to be computed one by one, and each waits no longer than five times what a picture takes with
# nothing else under way.

# %%
with BatchQueue([classifier], max_batch=1, timeout_s=5 * service.alone_s(1)) as impatient:
    late = open_loop(impatient, pictures[0], [0.0] * 40)
print(f"{sum(r.error == 'TimedOutError' for r in late)} of 40 waited too long and were not computed")

# %% [markdown]
# ## Scaling
#
# Replicas that share a queue multiply what is computed. What comes before them is not multiplied:

# %%
one_http = 1e3 / costs["local"]["HTTP"]
print(f"one replica: {service.capacity:,.0f} pictures a second at most")
print(f"one HTTP process: about {one_http:,.0f} signs of life a second, one after the other")
print(f"replicas that one HTTP process can feed: about {one_http / service.capacity:.1f}")
print(f"and what local was seen to keep the limit with: {goodput['local']:,.0f} requests a second")

# %% [markdown]
# The number of replicas is a rough estimate: a picture asks for more than a sign of life, while callers side by side do
# not wait for each other. Beyond it, scaling is no longer linear: the replicas wait for HTTP, and more of them change
# nothing; more HTTP processes would. Below one, that is so from the first replica on. So the engine on Ray Serve starts
# an application, a process that answers HTTP, for each copy of the model. With two GPUs, it shows how far that goes:

# %%
if on_gpu and torch.cuda.device_count() >= 2 and "ray" in urls:
    found = {1: goodput["ray"]}
    with Client(start("ray", replicas=2)) as client:

        def asked(rate):
            return run_loadgen(client, list(pictures[:256]), "server", seconds, rate, limit_ms)

        found[2], _ = highest_rate(asked, max(100.0, found[1]), limit_ms, precision=0.2, tries=1)
    for n, rate in found.items():
        print(f"{n} GPU: {rate:,.0f} requests/s with p99 within {limit_ms:.0f} ms")
    print(f"two over one: {found[2] / found[1]:.2f}" if found[1] else "one GPU kept no rate")
else:
    print("needs two GPUs, Ray Serve and the full profile")

# %% [markdown]
# ## What does a million pictures cost?
#
# A million over the rate is the time in seconds; you pay by the hour. Put in your price, which nobody measured. Of the
# rates, one is simulated, and the others were measured.

# %%
price_per_hour = 2.50  # what your machine costs, in your currency

rates = {"full batches, no limit kept": service.capacity, "queue, limit kept (simulated)": in_process}
rates |= {f"{engine} over HTTP, limit kept": rate for engine, rate in goodput.items()}
bill = pd.DataFrame(
    [{"how": n, "pictures/s": r, "per million": price_per_hour / 3600 / r * 1e6} for n, r in rates.items() if r]
)
tables.show_table(
    bill,
    f"At {price_per_hour:.2f} an hour, all of it used. {lab.machine_name}.",
    {"pictures/s": "{:,.0f}", "per million": "{:.2f}"},
)

# %% [markdown]
# A machine that is busy for a tenth of the day costs ten times as much for each picture. And where HTTP is the limit,
# the first rows are not for sale.
#
# ## What goes wrong
#
# ### `predict` got something else
#
# LitServe calls `predict` with one input. Set `max_batch_size` above one, and it calls it with all of a batch
# ([LitServe#412](https://github.com/Lightning-AI/LitServe/issues/412)): a function that worked fails, or treats the
# batch as a picture. The application's class takes both:

# %%
if "litserve" in urls:
    show_source("inference_lib.serve.litserve_engine", "ClassifierAPI.predict")
else:
    print("LitServe is not installed")

# %% [markdown]
# ### An idle server that is not idle
#
# A loop that asks "is there something?" without a pause keeps a core busy, and a second one if the queue lives in
# another process. LitServe's loop with batches does so, and on few cores it takes them from those who would answer. The
# mend is to wait for the first request, and only then to look for company:

# %%
if "litserve" in urls:
    show_source("inference_lib.serve.litserve_engine", "PatientLoop")
else:
    print("LitServe is not installed")

# %% [markdown]
# ### A strange request brings the server down
#
# Everything that comes from outside is checked, and what is wrong is said in one line, with a status of the 400s. The
# tests send two thousand malformed requests; here are a few:

# %%
strange = {
    "a text": ("/classify", b"hello"),
    "half a PNG": ("/classify", png[: len(png) // 2]),
    "a float tensor": ("/classify-raw", floats.tobytes()),
    "nothing": ("/classify-raw", b""),
    "far too much": ("/classify", bytes(3 * 2**20)),
}
for name, (path, body) in strange.items():
    try:
        status, said = ask(connection(urls["local"]), "POST", path, body)
    except (BrokenPipeError, ConnectionResetError):  # it stopped listening while we were still sending
        status, said = 413, "(closed before all was sent)"
    print(f"{name}: {status} {said}")
    if not 400 <= status < 500:
        raise CourseError(f"{name} was answered with {status}")
print("and it still answers:", ask(connection(urls["local"]), "POST", "/classify-raw", raw)[0])

# %% [markdown]
# ### Ready, but not warm
#
# Kubernetes sends traffic as soon as a pod says that it is ready, and the first request of each batch size [may take
# seconds](14_batching_and_concurrency.ipynb#the-first-request-of-each-size-takes-seconds). `/health` says that the
# process lives, `/ready` that every batch size has run. Mixing them up either sends requests to a server that compiles,
# or restarts one that does nothing wrong. The manifests in `deploy/` use the first as liveness and the second as
# readiness.
#
# ### The deployment cuts off its last answers
#
# On SIGTERM a server should stop taking, finish, and then end. Whether it hears the signal at all depends on how it was
# started: under a shell (`CMD python ...` in a Dockerfile), the shell gets the signal. And the orchestrator must wait
# long enough. The course's test holds a request under way, sends the signal, and wants its answer, from all three
# engines; LitServe needed help for that:

# %%
if "litserve" in urls:
    show_source("inference_lib.serve.litserve_engine", "Server._perform_graceful_shutdown")
else:
    print("LitServe is not installed")

# %% [markdown]
# ### A worker dies
#
# Sooner or later a process is killed: by a bug, or for its memory. What it was computing is answered with status 503,
# and another takes its place. Until it is there, fewer may wait, because fewer are answered in the same time. Whoever
# is let in waits no longer than before, and whoever is not is told so at once. A queue that may grow as before makes
# everybody wait behind what it collected meanwhile, long after the other process is there. `python -m inference_lib
# load --soak` kills one every minute for as long as you let it. It counts the requests that nobody answered and those
# that were refused, and says how long p99 was above its limit.
#
# ## Triton
#
# NVIDIA's server reads a *model repository*: a folder for each model, with numbered versions and a configuration. It
# does what the queue here does, in C++, and more. The export of ONNX Runtime is what it takes:

# %%
if importlib.util.find_spec("onnxruntime"):
    from inference_lib.serve.triton import write_repository

    with tempfile.TemporaryDirectory() as folder:
        artifact = build(get_backend("onnxruntime"), Workload(model, 1, "fp32", lab.device))
        repository = write_repository(artifact, Path(folder), max_batch=4, max_wait_s=0.002)
        for file in sorted(repository.rglob("*")):
            print(file.relative_to(folder))
        print((repository / "config.pbtxt").read_text())
else:
    print("ONNX Runtime is not installed")

# %% [markdown]
# The `model_warmup` lines warm up the sizes that they name. Triton's batcher does not pad, so a size that no line names
# pays at its first request. The course's tests check the syntax; no server has read the file here.

# %% tags=["remove-cell"]
threads.shutdown()
for each in kept.values():
    each.close()
stack.close()

# %% [markdown]
# ## Exercises
#
# ```{exercise}
# :label: ex-15-share
# Suppose that another framework makes the model twice as fast. By how much does the time of the whole request fall,
# for each engine? How fast must the decoding become to gain as much?
# ```
#
# ````{solution} ex-15-share
# :class: dropdown
# ```python
# for engine, parts in costs.items():
#     gained = parts["model"] / 2
#     decoding = "cannot gain as much" if parts["decode"] < gained else f"must fall by {gained / parts['decode']:.0%}"
#     print(f"{engine}: {gained / totals[engine]:.0%} less; decoding {decoding}")
# ```
# By half of the model's share, which is what [Amdahl's law](../book/glossary) says. The rest of the bar does not know
# that a framework was changed.
# ````
#
# ```{exercise}
# :label: ex-15-retry
# A client tries again at once when it is refused, up to three times. At 150 % of the capacity, how many requests does
# the server see, in capacities?
# ```
#
# ````{solution} ex-15-retry
# :class: dropdown
# ```python
# seen = 1.5
# for _ in range(100):
#     q = max(0.0, 1 - 1 / seen)
#     seen = 1.5 * (1 + q + q**2 + q**3)
# print(f"{seen:.1f} times the capacity, {q:.0%} of them refused: the retries are the load")
# ```
# A third of the requests is refused and comes again. With a part $q$ refused each time, the server sees
# $1 + q + q^2 + q^3$ times as many, and $q$ itself grows with them. The loop finds the number that fits. A client that
# waits twice as long before each try spreads them until the load has passed.
# ````
#
# ```{exercise}
# :label: ex-15-closed
# How many callers of a closed loop bring the same load as an open loop of 100 requests a second, if an answer takes
# 40 ms? And if it takes 400? Compute it, then let four callers ask a function that sleeps.
# ```
#
# ````{solution} ex-15-closed
# :class: dropdown
# ```python
# for answer_s in (0.04, 0.4):
#     print(f"{answer_s * 1e3:.0f} ms: {100 * answer_s:.0f} callers")
#
#     def ask_and_sleep(_, answer_s=answer_s):
#         ends, asked = time.perf_counter() + 0.8, 0
#         while time.perf_counter() < ends:
#             time.sleep(answer_s)
#             asked += 1
#         return asked / 0.8
#
#     with ThreadPoolExecutor(4) as callers:
#         print(f"  four callers: {sum(callers.map(ask_and_sleep, range(4))):.0f} requests a second")
# ```
# [Little's law](../book/glossary): the number under way is rate times latency, so four callers at 40 ms, forty at 400.
# A closed loop with four sends a tenth of the requests when the server becomes ten times slower. That is how it hides
# the trouble.
# ````
#
# ```{exercise}
# :label: ex-15-forms
# Base64 writes three bytes as four letters. How much larger is the photograph in JSON with Base64 than as it is, and
# how long does it take to get it out? Compare with decoding it.
# ```
#
# ````{solution} ex-15-forms
# :class: dropdown
# ```python
# import base64
#
# wrapped = json.dumps({"image": base64.b64encode(jpeg).decode()}).encode()
# taken = lab.turns(
#     {
#         "JSON and Base64": lambda: base64.b64decode(json.loads(wrapped)["image"]),
#         "JPEG": lambda: decode(jpeg),
#     }
# )
# print(f"{len(wrapped) / len(jpeg):.2f} times as large")
# print(f"out of the text: {taken.ms('JSON and Base64'):.3f} ms, decoding: {taken.ms('JPEG'):.3f} ms")
# ```
# A third more on the wire. The text itself is quick to take apart where there is a photograph in it; it is floats in
# text that are slow.
# ````
#
# ## Key points
#
# - The model may be a small part of a request: decoding, HTTP and the way to the model take their time, too. Measure
#   the bar before you shorten a piece of it.
# - Send bytes, decode small and in parallel, batch before the copy.
# - You notice that it falls over only if arrivals do not wait, and time counts from when a request was due.
# - A queue has a limit, and every wait an end. Say no early, in one line, with a status that tells what to do.
# - Ready means warm. The end means that what is under way is answered.
#
# ## Further reading
#
# LitServe {cite}`litserve` and Ray Serve {cite}`ray_serve` have documentation worth reading in full. MLPerf's paper
# {cite}`mlperf_inference` explains the scenarios. Gil Tene's talk "How NOT to Measure Latency" is where coordinated
# omission got its name.
