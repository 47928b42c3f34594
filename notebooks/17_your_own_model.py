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
# # Your own model
#
# You have a network of your own and a folder of pictures. What of this book holds for them, and what breaks first?
# Twenty minutes bring both through all of it, and show the faults that people meet on the way.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# to train on your pictures, to take any network through every framework, and to mend what an exporter refuses
# :::
# :::{grid-item-card} You need
# the chapters on PyTorch and ONNX Runtime; no GPU
# :::
# :::{grid-item-card} To read
# 20 minutes
# :::
# :::{grid-item-card} To run
# {{ run_times }}
# :::
# ::::

# %% [markdown]
# ## From a network to a row
#
# Everything that this book measured went through one narrow place: a network with its weights, the shape of its input,
# and a way to turn a picture into that input. Whatever has these three can take the place of the book's networks.
#
# Two parameters say how thoroughly to measure, and where; the third is not used in this chapter. The cell after them
# opens what the chapter works with.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import torch
from PIL import Image
from sklearn.datasets import load_digits

from inference_lib import CourseError, find_model, open_lab
from inference_lib.backends import get_backend
from inference_lib.backends.onnxruntime import MODEL_FILE, export_onnx
from inference_lib.measure import accuracy
from inference_lib.measure.roofline import bounds, ceilings, work_of
from inference_lib.records.store import select
from inference_lib.report import glue, plots, show_source, tables, words
from inference_lib.report.choose import choose, level_with
from inference_lib.seam import PRECISIONS, Workload, build
from inference_lib.seam.folder import with_pictures
from inference_lib.zoo.folder_training import train_on
from inference_lib.zoo.image_folder import as_seen, decode

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)

# What is measured here is a network of this page alone, so its records stay out of the book's.
lab = open_lab(profile, device, records_dir=folder / "records")
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% [markdown]
# A network is named in one of four ways. One function finds it, and what it returns goes through every command:

# %% tags=["hide-input"]
stages = [
    ["FILE.py:function", "torchvision:NAME", "FILE.onnx", "FILE.safetensors"],
    ["find_model"],
    ["Model"],
    ["export", "benchmark", "predict", "choose"],
]
figure, (axes,) = plots.new_figure(height=2.2)
plots.flow(stages, axes)
plots.show_figure(
    figure,
    alt="Flow: four ways to name a network lead through find_model to one value, Model, which four commands take.",
    caption="What is typed, what becomes of it, and what takes it.",
)

# %% [markdown]
# ## The pictures
#
# The data set of this chapter came with a package: 1,797 handwritten digits of 8 by 8 pixels, from scikit-learn
# {cite}`uci_digits`. They are written out as anybody's pictures would lie on a disk, a folder for each class:

# %%
digits = load_digits()
for number, (picture, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
    place = folder / "digits" / str(digit)
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture * 255 / 16).astype(np.uint8)).save(place / f"{number:04}.png")

# %% tags=["hide-input"]
shown = [sorted((folder / "digits" / str(digit)).iterdir())[0] for digit in range(10)]
figure, axes = plots.new_figure(height=1.0, columns=10)
for axis, path in zip(axes, shown, strict=True):
    axis.imshow(Image.open(path), cmap="gray")
    axis.set_axis_off()
plots.show_figure(figure, alt="Ten small grey pictures, the digits from 0 to 9.", caption="One picture of each class.")

# %% [markdown]
# One folder a class is the layout that torchvision's `ImageFolder` reads. With folders `train` and `test` above the
# classes the split is yours; without them, as here, a seed sets a fifth of each class aside.
#
# A picture is decoded as a person sees it: upright, even where a camera stored it lying and noted so in the file (its
# EXIF tag), transparent parts on white, 16 bits brought to 8. Tools differ in this, and a network that was trained with
# one and asked with another sees other pictures. This is the course's way, once the picture stands upright:

# %%
show_source(as_seen)

# %% [markdown]
# What it returns has eight bits a channel. Size, scale and mean come next, and belong to the network.
#
# ## The network
#
# A file with a function that returns the network is all that is asked for. The function gets the number of classes;
# the attribute `input_shape` says to what size a picture is brought.

# %%
network = """
from torch import nn


def block(channels_in, channels_out):
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d(2))


def small(num_classes=10):
    body = [block(1, 16), block(16, 32), block(32, 64), nn.Flatten(), nn.Dropout(0.2)]
    network = nn.Sequential(*body, nn.Linear(64 * 4 * 4, num_classes))
    network.input_shape = (1, 32, 32)
    return network
"""
source = folder / "network.py"
_ = source.write_text(network)

# %% [markdown]
# At a prompt, the next cell is `python -m inference_lib train network.py:small --data digits --epochs 6`. A name of
# torchvision may stand in the place of the file, and `--pretrained` begins with its ImageNet weights.

# %%
epochs = 2 if profile == "smoke" else 6
result, weights = train_on(f"{source}:small", folder / "digits", directory=folder, epochs=epochs, progress=False)
print(f"validation {result.validation_accuracy:.1f} %, test {result.test_accuracy:.1f} %")

# %% tags=["hide-input"]
curve = pd.DataFrame(result.history)
figure, axes = plots.new_figure(height=2.4, columns=2)
for axis, name, label in zip(axes, ("train_loss", "validation_accuracy"), ("loss", "validation, %"), strict=True):
    axis.plot(curve["epoch"], curve[name], marker="o")
    axis.set_xlabel("epoch")
    axis.set_ylabel(label)
plots.show_figure(
    figure,
    alt="Two curves over the epochs: the loss of training, and the accuracy on the pictures set aside.",
    caption="The learning curve. It is kept as a file beside the weights.",
)

# %% [markdown]
# Of the training pictures some are set aside, for *validation*: the epoch that knows these best is kept. The test
# pictures are opened once, after the last epoch. Who chooses by them has none left to be honest with.
#
# One {term}`safetensors` file holds the weights, the names of the classes, and the figures by which a picture becomes
# the input. The network itself is code, and a file that came by mail must not choose what runs here. So the function is
# named beside its weights:

# %%
model = find_model(f"{source}:small@{weights}")
print(f"{model.title}: input {model.input_shape}, classes {', '.join(model.class_names)}")
print(model.prepare.keywords["figures"])

# %% [markdown]
# The figures say that a picture is one channel of 32 by 32, by which mean and deviation its levels are normalized, and
# how much larger it is made before its middle is cut out (a margin of one: nothing is cut off). Mean and deviation were
# computed from the training pictures, and all of it travels with the weights.
#
# ## Export
#
# Nothing is special about a network of your own. The function is the one of the [chapter on ONNX
# Runtime](07_onnx_runtime):

# %%
show_source(export_onnx)

# %% [markdown]
# `build` calls it, and keeps what it wrote together with a note of what that was made from. An application needs ONNX
# Runtime for the file, and nothing of PyTorch. Preparing the picture and naming the class, which `model` does here,
# would be code of its own:

# %%
artifact = build(get_backend("onnxruntime"), Workload(model, 1, "fp32", "cpu"), folder / "artifacts")
session = onnxruntime.InferenceSession(artifact.directory / MODEL_FILE, providers=["CPUExecutionProvider"])
for path in shown[3:6]:
    (logits,) = session.run(["logits"], {"images": model.prepare(path)[None]})
    chances = np.exp(logits[0] - logits[0].max())
    best = int(chances.argmax())
    print(f"{path.parent.name}/{path.name}: {model.class_names[best]} ({chances[best] / chances.sum():.0%})")

# %% [markdown]
# The folder's name is the right answer. At a prompt,
# `python -m inference_lib predict network.py:small@digits-small.safetensors PICTURE --backend onnxruntime` says the
# same, with any framework. It is the smallest proof that an export works, and a weak one: three pictures may be right
# by luck, or wrong by the network's own fault. A wrong answer above is the export's only if the network gives another.
#
# ## Is it still the same model?
#
# So the pictures that were set aside for testing decide; the last column says how many. Their labels give the accuracy,
# the FP32 network's own answers in PyTorch the {term}`agreement`:

# %%
model = with_pictures(model, folder / "digits")
cpu_rivals = ["pytorch", "torchscript", "onnxruntime", "openvino", "tvm"]
gpu_rivals = ["pytorch", "pytorch-cudagraph", "torchscript", "onnxruntime", "onnxruntime-cudagraph", "tvm"]
rivals = gpu_rivals if lab.device == "cuda" else cpu_rivals
records = lab.benchmark(rivals, [model], ["fp32"], [1], time_exports=False)
tables.show_agreement(records)

# %% [markdown]
# PyTorch's own row may differ in the last bits, too: it answers one picture at a time, and the reference was computed
# from many at once, for which a library may choose other kernels.
#
# A network without pictures is compared on noise, the same for every framework. The record then says `random`, and
# there is no accuracy: nobody knows what noise shows.
#
# ## How fast can it be?
#
# The two bounds of the [chapter on where the time goes](03_where_the_time_goes) need the operations and the bytes of a
# network, which can be counted for any. No program is quicker than the larger of arithmetic and traffic, everything
# fused; kernels that reach the ceilings need no more than both together, nothing fused:

# %%
work, limits = work_of(model, 1, "fp32"), ceilings(lab.device)
least = 1e3 * max(bounds(work, limits, "fp32", "fused").values())
most = 1e3 * sum(bounds(work, limits, "fp32", "unfused").values())
print(f"{work.operations / 1e6:.2f} million operations a picture: from {1e3 * least:.2f} to {1e3 * most:.2f} µs")

# %% [markdown]
# ```{admonition} Guess
# :class: tip
# How many times the upper bound does PyTorch's loop take, for a network as small as this? And the quickest row?
# ```
#
# :::{dropdown} The answer
# The loop takes {glue:text}`17-loop` its upper bound, and the quickest row {glue:text}`17-quickest`.
# :::
#
# Here are the rows that the guess was about:

# %%
tables.show_scoreboard(records, model.name, f"{model.title} at batch 1. {plots.provenance(select(records))}")

# %% tags=["remove-cell"]
measured = select(records)
ratios = {record.backend: record.latency.end_to_end.p50 / most for record in measured}
told = {name: f"{ratio:,.{0 if ratio >= 10 else 1}f} times" for name, ratio in ratios.items()}
glue("17-loop", told.get("pytorch", words.NOT_MEASURED))
glue("17-quickest", told[min(ratios, key=ratios.get)] if ratios else words.NOT_MEASURED)

# %% [markdown]
# Rows are compared by their ratios within a round, which need not be the ratio of their medians. Where these leave open
# which row is faster, "cannot tell" is said, and in brackets how many times as fast the row was. Both bounds know
# arithmetic and traffic only. What lies above them was spent on something else.
#
# ## Why?
#
# A small network has few products, and each operation still has to be called. If calls are all that takes time, a
# {term}`batch` of 32 pictures costs as much as one; if products are, 32 times as much. Where between the two is this
# network? The cell asks PyTorch's loop on the CPU, on a page from a GPU, too:

# %%
batches = {size: torch.rand(size, *model.input_shape) for size in (1, 32)}
module = model.load()


def answer(size):
    """Return a call of the network, in the eager loop on the CPU."""
    with torch.inference_mode():
        return module(batches[size])


turns = lab.turns({f"batch {size}": lambda size=size: answer(size) for size in batches})
one, many = (turns.ms(name) for name in turns.rounds)
print(f"batch 1: {one:.3f} ms; batch 32: {many:.3f} ms, {many / 32:.4f} ms a picture")
print(f"a picture alone costs {one / (many / 32):.1f} times as much as one of 32")

# %% [markdown]
# What is lost on a picture alone was spent on calls, or on cores for which one picture has too little work. The larger
# batch wins it back; a graph or a compiled library, the part that the calls took. A network with large layers loses
# less. So the ratio of *your* network, on the device that it will run on, says where to read on: far above one,
# [compilers](06_torch_compile), [graphs](04_pytorch) and [batches](14_batching_and_concurrency) are the cure; near one,
# the cost is each picture's own arithmetic and traffic, and [fewer bits](13_quantization) are.
#
# ## Knobs
#
# ### The size of the input
#
# Networks of torchvision take many sizes. Their names work wherever a model is named, and no weights are needed to
# measure a time. Before you run the next cell, which asks PyTorch's loop on the CPU again: twice the side is four times
# the pixels. Is it four times the time?


# %%
def network_at(side):
    """Return a call of a small torchvision network, in the eager loop, for a picture of ``side`` by ``side``."""
    resized = find_model("torchvision:shufflenet_v2_x0_5", (3, side, side))
    loaded, picture = resized.load(), torch.rand(1, *resized.input_shape)
    return resized.title, lambda: loaded(picture)


networks = {side: network_at(side) for side in (96, 192)}
with torch.inference_mode():
    turns = lab.turns({f"{side} pixels": call for side, (_, call) in networks.items()})
print(networks[96][0])
print(", ".join(f"{name}: {turns.ms(name):.2f} ms" for name in turns.rounds))
print(f"twice the side is 4 times the pixels, and takes {turns.ratio('96 pixels', '192 pixels')[0]:.1f} times as long")

# %% [markdown]
# (The factor is that within the rounds, so it need not be the ratio of the two times above it.) Where it is less, a
# part of the time does not grow with the pixels: the calls of a network of many small layers. And cores that a small
# picture leaves without work may take their share of a large one.
#
# The title says where the weights came from: from the folder in which PyTorch keeps downloads, or from a seed. Random
# weights are good for times and for agreement, and for nothing else.
#
# ## What goes wrong
#
# Each of these was met by somebody. The file below holds a network for each of the first four, and the mended one of
# the first two:

# %%
faults = """
import torch
from torch import nn


class TwoOutputs(nn.Module):
    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 4)

    def forward(self, x):
        features = x.flatten(1)
        return self.body(features), features


class FirstOutput(nn.Module):
    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.network = TwoOutputs()

    def forward(self, x):
        return self.network(x)[0]


class Branch(nn.Module):
    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.bright, self.dark = nn.Linear(64, 4), nn.Linear(64, 4)

    def forward(self, x):
        flat = x.flatten(1)
        return self.bright(flat) if flat.mean() > 0 else self.dark(flat)


class Where(Branch):
    def forward(self, x):
        flat = x.flatten(1)
        return torch.where(flat.mean(1, keepdim=True) > 0, self.bright(flat), self.dark(flat))


class LeftInTraining(nn.Sequential):
    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Dropout(0.9), nn.Linear(64, 4))
        self.train()


class Large(nn.Sequential):
    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 4))
        self[1].weight.data *= 1e6
"""
_ = (folder / "faults.py").write_text(faults)


def brought(name):
    """Return the model that a class of the file makes."""
    return find_model(f"{folder / 'faults.py'}:{name}")


# %% [markdown]
# The function `brought` makes one of them a model, as `--model faults.py:NAME` does at a prompt.
#
# ### More than one output
#
# A network that returns its features beside its logits is a good network, and no exporter minds. A comparison of
# answers has to know which of them it compares:

# %% tags=["nbval-check-output"]
try:
    brought("TwoOutputs")
except CourseError as error:
    print(error)
print(brought("FirstOutput").outputs, "logits from the wrapped one")

# %% [markdown]
# The mend is a module around it that returns the logits alone.
#
# ### A branch on data
#
# Python's `if` is decided while the graph is made. A trace runs the network on an example, and keeps what was decided
# for that one for good, as the [chapter on TorchScript](05_torchscript) shows. The exporters of today give the network
# tensors that have a shape and a type but no values, so there is nothing to decide by: they refuse. The row holds the
# first line of what they said.
# (These trials ask whether something works, and not how fast, so they run on the CPU, wherever the page does.)

# %%
trial = open_lab("smoke", device, folder / "trials")  # what works, and not how fast: once is enough
refused = trial.benchmark(
    ["pytorch", "torchscript", "openvino"], [brought("Branch")], ["fp32"], [1], "cpu", time_exports=False
)
if any(record.ok for record in refused):
    raise CourseError("a branch on data was measured; the text says that every row failed")
said = {record.title: record.why_not.partition("; the whole text")[0] or "measured" for record in refused}
tables.show_table(
    pd.DataFrame(said.items(), columns=["framework", "what it said"]), "An `if` on the values of a tensor."
)

# %% [markdown]
# PyTorch's own row failed as well, by its answers. The mean was taken over the whole batch, so that a picture's answer
# depends on its neighbours: alone it gets another one than among the 64 of the reference. That is a fault of the
# network, which no exporter can see. Below, each picture has a mean of its own, and `torch.where` computes both
# branches and chooses for each picture:

# %%
tried = ["pytorch", "torchscript", "openvino"]
mended = trial.benchmark(tried, [brought("Where")], ["fp32"], [1], "cpu", time_exports=False)
said = {record.title: record.why_not or "measured" for record in mended}
if not all(record.ok for record in mended):
    raise CourseError("the mended network failed; the text says that it is mended")
tables.show_table(pd.DataFrame(said.items(), columns=["framework", "what it said"]), "The same with `torch.where`.")

# %% [markdown]
# Both branches are computed now. That is more work, and it can be exported.
#
# ### Left in training mode
#
# Dropout sets some numbers to zero at random while a network is trained. Where it is still on, the same picture gets
# another answer each time, and a graph exported in that state keeps it. Before an export, the course puts every network
# into evaluation mode:

# %% tags=["nbval-check-output"]
forgotten = brought("LeftInTraining")
picture = torch.ones(1, 1, 8, 8)
print("as it was made, twice the same answer:", torch.equal(*(forgotten.load().train()(picture) for _ in range(2))))
print("as it is exported:", torch.equal(*(forgotten.load()(picture) for _ in range(2))))

# %% [markdown]
# In your own code, `eval()` is the line to look for.
#
# ### More than FP16 holds
#
# {term}`FP16` ends at 65,504. A network whose {term}`activations <activation>` are larger answers `inf`, and from `inf`
# soon comes `nan`. A time measured on such a network would be a time of nothing, so a row fails with what is printed
# here:

# %% tags=["nbval-check-output"]
large = brought("Large")
(pictures,) = large.dataset.batches(2, (2, *large.input_shape), np.dtype("float32"))
with torch.inference_mode():
    reference = large.load()(torch.from_numpy(pictures)).numpy()
    for dtype, precision in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        logits = large.load().to(dtype)(torch.from_numpy(pictures).to(dtype)).float().numpy()
        found = accuracy.compare(logits, reference, labels=None)
        print(f"{precision}: {accuracy.problem(found, PRECISIONS[precision]) or 'agrees'}")

# %% [markdown]
# {term}`BF16` has the range of FP32, and fewer digits: take it where FP16 overflows, and FP16 elsewhere. Where it must
# be FP16, leave the layer that overflows in FP32. Or scale down its weights and its bias, and scale the next layer's
# weights up by as much: with a ReLU between the two, the answers stay the same.
#
# ### Prepared otherwise than in training
#
# No exporter notices this one, and no comparison of logits does: the export is right, its input is not. The same
# network, the same pictures, another preparation:


# %%
def accuracy_with(prepare):
    """Return the accuracy on the test pictures, percent, prepared in this way."""
    pictures = np.stack([prepare(path) for path in model.dataset.pictures["test"].files])
    with torch.inference_mode():
        return 100 * float((module(torch.from_numpy(pictures)).argmax(1).numpy() == model.dataset.labels()).mean())


def bytes_as_they_are(path):
    """Return the picture enlarged, but with levels from 0 to 255."""
    return np.asarray(decode(path).resize((32, 32)), np.float32)[None]


ways = {
    "as in training": model.prepare,
    "levels not scaled": bytes_as_they_are,
    "black and white exchanged": lambda path: -model.prepare(path),
}
percents = {name: accuracy_with(prepare) for name, prepare in ways.items()}
for name, percent in percents.items():
    print(f"{name}: {percent:.1f} %")
if percents["black and white exchanged"] >= percents["as in training"]:
    raise CourseError("preparation made no difference; the text says that it does")

# %% [markdown]
# The mend is to keep the figures with the weights, and to prepare pictures in one place. That is why the file above
# holds both.
#
# ### An ONNX file with one batch size
#
# An ONNX file is a model like any other. There is no PyTorch module in it, so some frameworks have nothing to start
# from. And its batch may be fixed: the exporter's default takes the example's. The rows say both:

# %%
fixed = folder / "fixed.onnx"
torch.onnx.export(module, (torch.zeros(4, 1, 32, 32),), fixed, verbose=False)
of_file = find_model(str(fixed))
tried = ["pytorch", "onnxruntime", "openvino"]
rows = trial.benchmark(tried, [of_file], ["fp32"], [1, 4], "cpu", time_exports=False)
said = [[record.title, record.batch_size, record.why_not or "measured"] for record in rows]
tables.show_table(pd.DataFrame(said, columns=["framework", "batch", "what it said"]), "A file whose batch is 4.")

# %% [markdown]
# `dynamic_shapes`, as in the export above, leaves it open. If the file came from somebody else, ask for another.
#
# ### Half a file
#
# Weights may lie in a second file beside the ONNX file, and are forgotten when it is copied. PyTorch's exporter puts
# them there unless told otherwise (`external_data=False`); above 2 GB they have to be there. A download may end early.
# Between the name of the file and what to do stand the words of the library that read it; each has its own:

# %%
(folder / "half.onnx").write_bytes(fixed.read_bytes()[:3000])
try:
    find_model(str(folder / "half.onnx"))
except CourseError as error:
    print(error)

# %% [markdown]
# ### Weights without their code
#
# A file of weights names the function that its network came from, but a name in a file runs nothing here. It is refused
# with a line that says what to type:

# %%
try:
    find_model(str(weights))
except CourseError as error:
    print(str(error).replace(f"{folder}/", ""))

# %% [markdown]
# A pickled checkpoint (`.pt`, `.pth`) that is loaded with `weights_only=False` runs whatever it names. Ask for
# safetensors, or load a state with `torch.load(path, weights_only=True)` in a function of your own.
#
# ## Which one should you use?
#
# The decision of [the scoreboard](16_scoreboard) is a function of records. It takes yours:

# %%
decision = choose(records, model.name, min_accuracy_percent=90 if profile != "smoke" else None)
print("best:", words.label(decision.best) if decision.best else "none")
for record in level_with(decision.best, decision.ranked) if decision.best else ():
    print(f"not clearly slower: {words.label(record)}")
for record, reason in decision.excluded:
    print(f"out: {words.label(record)}, {reason}")

# %% [markdown]
# *Best* is the shortest median. A row that is not clearly slower is as good a choice.
#
# At a prompt: `python -m inference_lib benchmark --model network.py:small@digits-small.safetensors --data digits`, then
# `python -m inference_lib choose --model digits-small.safetensors --min-accuracy 90`. With several GPUs, `--device
# cuda:1` takes the second one, and `benchmark --cluster` all of them.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-17-share
# From which batch size on does a picture in the batch cost less than half of one alone? Measure 1, 2, 4 and 8.
# ```
#
# ````{solution} ex-17-share
# :class: dropdown
# ```python
# sizes = (1, 2, 4, 8)
# batches |= {size: torch.rand(size, *model.input_shape) for size in sizes}
# turns = lab.turns({f"{size}": lambda size=size: answer(size) for size in sizes})
# alone = turns.ms("1")
# parts = {size: turns.ms(f"{size}") / size / alone for size in sizes}
# for size, part in parts.items():
#     print(f"batch {size}: {part * alone:.4f} ms a picture, {part:.2f} of one alone")
# print("less than half from batch", next((size for size, part in parts.items() if part < 0.5), "9 or more"))
# ```
# The sooner it is half, the more of the time was calls, or cores without work. A network that computes for long is half
# at no size.
# ````
#
# ```{exercise}
# :label: ex-17-shift
# Somebody's loader cuts pictures otherwise, and each arrives shifted to the right by two of its 32 pixels. How many
# points of accuracy does that cost? And four, six, eight?
# ```
#
# ````{solution} ex-17-shift
# :class: dropdown
# ```python
# for pixels in (0, 2, 4, 6, 8):
#     percent = accuracy_with(lambda path, by=pixels: np.roll(model.prepare(path), by, axis=-1))
#     print(f"shifted by {pixels}: {percent:.1f} %, {percents['as in training'] - percent:.1f} points lost")
# ```
# Training moved its pictures about by a few pixels, too, so small shifts are nothing new to the network; of larger ones
# it has seen none. `np.roll` brings what is pushed out on the right back in on the left.
# ````
#
# ```{exercise}
# :label: ex-17-scale
# By what must the weights of `Large` be divided for its answers to fit into FP16? Compute the smallest number from the
# FP32 answers above, then check a little more and a little less.
# ```
#
# ````{solution} ex-17-scale
# :class: dropdown
# ```python
# smallest = float(np.abs(reference).max() / np.finfo(np.float16).max)
# print(f"the largest answer is {smallest:.1f} times what FP16 holds")
# for divisor in (1.01 * smallest, 0.9 * smallest):
#     scaled = large.load()
#     with torch.inference_mode():
#         for weights_or_bias in scaled.parameters():
#             weights_or_bias /= divisor
#         logits = scaled.half()(torch.from_numpy(pictures).half()).float().numpy()
#     found = accuracy.compare(logits, reference / divisor, labels=None)
#     print(f"divided by {divisor:.1f}: {accuracy.problem(found, PRECISIONS['fp16']) or 'agrees'}")
# ```
# The predicted classes stay the same, because all logits shrink alike. Other pictures may have larger answers, so a
# divisor for production comes from many of them, with room to spare.
# ````
#
# ```{exercise}
# :label: ex-17-open
# Export `fixed.onnx` once more so that it takes any batch, and prove it with batches of 1, 4 and 7: how far are its
# answers from the module's?
# ```
#
# ````{solution} ex-17-open
# :class: dropdown
# ```python
# example = torch.zeros(4, *model.input_shape)
# opened = folder / "open.onnx"
# shapes = ({0: torch.export.Dim("batch")},)
# torch.onnx.export(module, (example,), opened, dynamic_shapes=shapes, verbose=False)
# any_batch = onnxruntime.InferenceSession(opened, providers=["CPUExecutionProvider"])
# for size in (1, 4, 7):
#     images = torch.rand(size, *model.input_shape)
#     (answers,) = any_batch.run(None, {any_batch.get_inputs()[0].name: images.numpy()})
#     with torch.inference_mode():
#         difference = np.abs(answers - module(images).numpy()).max()
#     print(f"batch {size}: largest difference {difference:.1e}")
# ```
# One argument was missing. The example still has a batch of more than one: the exporter takes a 1 for a constant.
# ````
#
# ## Key points
#
# - All of this book holds for your network: a function in a file, a name of torchvision, an ONNX file, or what `train`
#   wrote. Code runs only where you name it.
# - Accuracy needs labels, agreement needs none: noise is enough to find a wrong export.
# - The figures that prepare a picture belong to the weights. Keep them in the same file.
# - What breaks first is Python: a branch on data, a second output. Both are mended in the module.
# - A picture alone against one of a batch: the ratio says how much of its time a batch would save, and so what there is
#   to win.
#
# ## Further reading
#
# PyTorch's pages on `torch.export` {cite}`torch_export`, which most of the exporters here begin with, and on what it
# does with control flow. torchvision's list of networks and of the preparation that each was trained with
# {cite}`torchvision_models`.
