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
# # The task and the models
#
# What exactly is going to be made faster here, and how would I notice that I had broken it?
#
# One task and three trained networks: everything after this chapter makes these three answer faster, and checks that
# their answers stay the same.
#
# ::::{grid} 1 2 2 4
# :gutter: 2
# :class-container: chapter-card
#
# :::{grid-item-card} You will learn
# what the networks see, compute and answer, and how to tell that they work
# :::
# :::{grid-item-card} You need
# Python and PyTorch; no GPU
# :::
# :::{grid-item-card} To read
# 20 minutes
# :::
# :::{grid-item-card} To run
# {{ run_times }}
# :::
# ::::

# %% [markdown]
# ## Why this task
#
# Fashion-MNIST {cite}`fashion_mnist` is 70,000 grey pictures of clothes in ten classes. A modern GPU learns them in
# minutes, so you can train the networks again. It is harder than digits, so there is accuracy to lose when an export
# is broken.
#
# The pictures are enlarged from 28 x 28 to 224 x 224 pixels, the size that the networks were designed for. The extra
# pixels teach them nothing, but the work is real: the same layers, shapes and memory traffic as on photographs.
#
# The project that this course grew from chose this task and these three networks, and measured six frameworks on a
# laptop's GPU. So its results can stand beside ours, in the [scoreboard](16_scoreboard).

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
device = "auto"  # "auto", "cuda" or "cpu"
records_dir = None  # where records are written; None: _build/records

# %%
import json

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from inference_lib import MODELS, load_pretrained, open_lab
from inference_lib.backends import get_backend
from inference_lib.measure.accuracy import compare, problem, read_reference, reference_path, write_reference
from inference_lib.report import glue, plots, show_source, tables
from inference_lib.seam import Workload, build
from inference_lib.zoo.fashion_mnist import CLASS_NAMES, MEAN, STD, load_fashion_mnist, preprocess
from inference_lib.zoo.networks import PRETRAINED, weights_sha256

lab = open_lab(profile, device, records_dir)
print(f"{lab.machine_name}, profile {lab.profile.name}")

# %% tags=["hide-input"]
stages = [
    "picture\n28 x 28 bytes",
    "normalize,\nenlarge",
    "input\n3 x 224 x 224\nfloats",
    "network",
    "10 logits",
    "class:\nthe largest",
]
figure, (axes,) = plots.new_figure(height=1.0)
plots.flow([[stage] for stage in stages], axes)
plots.show_figure(
    figure,
    alt="Flow: a picture of 28 x 28 bytes, normalized and enlarged, is an input of 3 x 224 x 224 floats; "
    "the network answers with ten logits; the largest names the class.",
    caption="From a picture to its class. The book measures everything below the input.",
)

# %% [markdown]
# ## The data
#
# The test set has 10,000 pictures, a thousand of each class. The networks never saw it in training.

# %% tags=["nbval-check-output"]
pictures, labels = load_fashion_mnist("test")
print(f"{pictures.shape} {pictures.dtype}, {np.bincount(labels).tolist()} of each class")


# %% tags=["hide-input"]
def draw_pictures(rows: list[np.ndarray], axes) -> list[float]:
    """Draw pictures (each row N x 28 x 28) as one small image; return the middle of every column."""
    framed = [np.concatenate([np.pad(p.astype(float), 2, constant_values=np.nan) for p in row], axis=1) for row in rows]
    axes.imshow(np.concatenate(framed), cmap="gray", interpolation="none")
    axes.set_axis_off()
    return [32 * column + 15.5 for column in range(len(rows[0]))]


figure, (axes,) = plots.new_figure(height=2.7)
of_class = [pictures[labels == number] for number in range(len(CLASS_NAMES))]
middles = draw_pictures([np.stack([some[row] for some in of_class]) for row in range(3)], axes)
for middle, name in zip(middles, CLASS_NAMES, strict=True):
    axes.text(middle, -6, name, rotation=65, rotation_mode="anchor", fontsize="small")
plots.show_figure(
    figure,
    alt=f"Three test pictures of each class: {', '.join(CLASS_NAMES)}.",
    caption="The first three test pictures of each class.",
)

# %% [markdown]
# ### What the networks see
#
# Four steps: scale to 0..1, subtract the mean and divide by the standard deviation of the training pictures, enlarge,
# and repeat the grey channel three times, because the networks expect colours.

# %%
grey = torch.from_numpy(pictures[:64])
normalized = (grey.float() / 255 - MEAN) / STD
enlarged = F.interpolate(normalized[:, None], (224, 224), mode="bilinear", align_corners=False)
by_hand = enlarged.expand(-1, 3, -1, -1)

# %% [markdown]
# The course's `preprocess` does the same, refuses what is no picture of this kind, and rounds to FP16 where that is
# asked for:

# %% tags=["nbval-check-output"]
batch = preprocess(pictures[:64])
print(f"{batch.shape} {batch.dtype}, mean {batch.mean():.2f}, standard deviation {batch.std():.2f}")
print(f"one picture: {pictures[0].nbytes} bytes, one input: {batch[0].nbytes} bytes")
print("the same as by hand:", np.array_equal(batch, by_hand.numpy()))

# %% [markdown]
# The order is N x C x H x W ({term}`NCHW`): picture, channel, row, column. The input is much larger than the picture,
# and in most chapters it is the input that crosses the bus to the GPU.
#
# ## The models
#
# ### Vanilla CNN: three convolutions
#
# The smallest of the three. Each of its blocks convolves, normalizes, rectifies, and halves height and width.

# %%
show_source("inference_lib.zoo.networks", "_block")

# %% [markdown]
# Three of them, and two linear layers, are the network:

# %%
show_source("inference_lib.zoo.networks", "VanillaCNN.__init__")

# %% [markdown]
# The first convolution takes big steps, so everything after it is small.
#
# ### ResNet-18: add the input back
#
# A residual block computes a correction to its input and adds it {cite}`resnet`; the addition is called a
# {term}`shortcut`. Its 3 x 3 convolutions mix every channel with every other: much arithmetic for each value that is
# read or written. ResNet-18 is a convolution, eight such blocks and a linear layer. This is torchvision's block:

# %%
show_source("torchvision.models.resnet", "BasicBlock.forward")

# %% [markdown]
# `identity` is the input, and `out += identity` adds it. Where the sizes do not fit, which is so in three of the eight
# blocks, `downsample` brings the input to the size of the output with a 1 x 1 convolution.
#
# ### MobileNetV2: expand, filter, project
#
# An inverted residual splits a convolution in three {cite}`mobilenet_v2`: a 1 x 1 convolution to six times the channels
# (`pw`), a 3 x 3 convolution of each channel by itself (`dw`, {term}`depthwise <depthwise convolution>`), and a 1 x 1
# convolution back to few channels (`pw-linear`). That saves arithmetic. It also makes three layers of one, and the
# widened values pass through memory: `pw` writes them, `dw` reads and writes them, `pw-linear` reads them.

# %% tags=["hide-output"]
show_source("torchvision.models.mobilenetv2", "InvertedResidual")

# %% [markdown]
# Where the sizes fit, the input is added here, too.
#
# ### What each has to do for one picture
#
# Four counts, each exact and the same on every machine:
#
# - **parameters**: trained numbers, which must be read at every inference;
# - **layers**: convolutions and linear layers, each at least one operation to launch;
# - **{term}`multiply-adds <multiply-add>`**: theirs, as PyTorch counts them (two operations each);
# - **activations**: the values that they write, counted by a hook on each. Normalizations and rectifications are left
#   out: a good framework fuses them into the layer before.


# %%
def count(model: nn.Module, picture: torch.Tensor) -> dict[str, int]:
    """Count what one inference of ``model`` has to do."""
    outputs = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(lambda _, __, output: outputs.append(output.numel())) for layer in layers]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(picture)
    for hook in hooks:
        hook.remove()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": len(outputs),
        "multiply-adds": counter.get_total_flops() // 2,
        "activations": sum(outputs),
    }


# %% [markdown]
# For the three networks and one picture:

# %% tags=["nbval-check-output"]
models = {name: load_pretrained(name) for name in MODELS}
counts = pd.DataFrame({name: count(model, torch.from_numpy(batch[:1])) for name, model in models.items()}).T
print(counts.map("{:,}".format).to_string())

# %% [markdown]
# The same in millions, each kind on a scale of its own:

# %%
units = {"multiply-adds": "#0072B2", "activations": "#009E73", "parameters": "#882255"}
figure, panels = plots.new_figure(height=2.0, columns=len(units))
for panel, (kind, color) in zip(panels, units.items(), strict=True):
    plots.bars(list(MODELS), (counts[kind] / 1e6).tolist(), color, f"{kind}, millions", panel)
    panel.margins(x=0.45)
    panel.label_outer()
plots.show_figure(
    figure,
    alt="Multiply-adds, activations and parameters of each model for one picture.",
    caption="What one picture costs. Counted, so the same on every machine.",
)

# %% tags=["remove-cell"]
resnet, mobilenet = counts.loc["resnet18"], counts.loc["mobilenet_v2"]
glue("01-fewer-multiply-adds", f"{resnet['multiply-adds'] / mobilenet['multiply-adds']:.1f}")
glue("01-more-activations", f"{mobilenet['activations'] / resnet['activations']:.1f}")
glue("01-more-layers", f"{mobilenet['layers'] / resnet['layers']:.1f}")
assert mobilenet["multiply-adds"] < resnet["multiply-adds"], "the text says that MobileNetV2 multiplies less"
assert (mobilenet > resnet)[["activations", "layers"]].all(), "the text says that it writes more, in more layers"

# %% [markdown]
# MobileNetV2 does {glue:text}`01-fewer-multiply-adds` times fewer multiply-adds than ResNet-18. It also writes
# {glue:text}`01-more-activations` times as many activations, in {glue:text}`01-more-layers` times as many layers.
#
# ### Which of the two is faster?
#
# If both networks reach the same rates, the counts {term}`bound` the answer. If arithmetic were all that takes time,
# MobileNetV2 would answer {glue:text}`01-fewer-multiply-adds` times as fast as ResNet-18. If it were the writing of
# activations, it would take {glue:text}`01-more-activations` times as long. A mixture of the two lies in between.
#
# ```{admonition} Guess
# :class: tip
# On the machine that you have, one picture at a time: which of the two is faster, and by how much? Write it down, for a
# large GPU as well.
# ```
#
# :::{dropdown} The answer, where this page was made
# {glue:text}`01-answer`.
# :::
#
# The measurement calls the plain models, as PyTorch runs them, in turns. ([Measuring
# inference](02_measuring_inference) is about why a stopwatch would not do.)

# %%
one = torch.from_numpy(batch[:1]).to(lab.device)
rivals = {name: models[name].to(lab.device) for name in ("resnet18", "mobilenet_v2")}
turns = lab.turns({name: torch.inference_mode()(lambda m=model: m(one)) for name, model in rivals.items()})
tables.show_table(turns.table(), f"One picture, FP32, the input on the device already. {lab.machine_name}.")

# %% tags=["remove-cell"]
ratio, low, high = turns.ratio("mobilenet_v2", "resnet18")
fewer = resnet["multiply-adds"] / mobilenet["multiply-adds"]
more = max(mobilenet[kind] / resnet[kind] for kind in ("activations", "layers"))
inside = "between the bounds" if 1 / more <= ratio <= fewer else "outside of the bounds: something else takes the time"
glue("01-answer", f"On {lab.machine_name}, MobileNetV2 is {ratio:.2f} times as fast as ResNet-18, {inside}")

# %% [markdown]
# So neither count alone says how fast a network is. [Where the time goes](03_where_the_time_goes) takes the answer
# apart, and the [scoreboard](16_scoreboard) has it for every framework.
#
# ## The weights
#
# The trained weights come with the course, one file a model. The format is {term}`safetensors`: a header that names
# every tensor, its type and its place, then the bytes. Unlike a {term}`pickle`, it cannot run code when it is read, and
# one tensor can be looked at without reading the others:

# %% tags=["nbval-check-output"]
with safe_open(PRETRAINED / "vanilla_cnn.safetensors", "pt") as weights:
    for name in list(weights.keys())[:4]:
        stored = weights.get_slice(name)
        print(f"{name}: {stored.get_dtype()}, {stored.get_shape()}")

# %% [markdown]
# Weights of convolutions and linear layers are stored in {term}`FP16`, which halves the files. All accuracies in this
# book are those of the rounded weights, the {term}`FP32` rows' too. So an FP16 row that uses these weights as they are
# loses nothing to their rounding. One that folds the normalizations into them rounds a second time. With weights of
# your own, expect a little more.
#
# A checksum (SHA-256) says whether a file is the one that was measured. `load_pretrained` compares it first:

# %%
show_source(load_pretrained)

# %% [markdown]
# These are the files of this edition:

# %% tags=["nbval-check-output"]
for name in MODELS:
    size = (PRETRAINED / f"{name}.safetensors").stat().st_size
    print(f"{name}: {size / 1e6:.1f} MB, SHA-256 {weights_sha256(name)[:16]}...")

# %% [markdown]
# A changed bit changes the sum, and `load_pretrained` refuses the file.
#
# ## How they were trained
#
# Stochastic gradient descent with a rising and falling learning rate, pictures flipped, shifted and partly hidden,
# and a moving average of the weights.
#
# The 60,000 training pictures were split at random, by a seed, into 55,000 for training and 5,000 for validation. You
# can train them again: `python -m inference_lib train vanilla_cnn`, with `--device cpu --limit 5000 --epochs 3` where
# there is no GPU.

# %%
histories = {name: json.loads((PRETRAINED / f"{name}.history.json").read_text()) for name in MODELS}
training = pd.DataFrame(
    [
        {
            "model": name,
            "epochs": len(history["history"]),
            "batch": history["recipe"]["batch_size"],
            "learning rate": history["recipe"]["learning_rate"],
            "weight decay": history["recipe"]["weight_decay"],
            "seconds": history["seconds"],
            "validation %": history["validation_accuracy"],
            "test %": history["test_accuracy"],
        }
        for name, history in histories.items()
    ]
)
forms = {
    "learning rate": "{:g}",
    "weight decay": "{:g}",
    "seconds": "{:.0f}",
    "validation %": "{:.2f}",
    "test %": "{:.2f}",
}
trained_on = ", ".join(dict.fromkeys(history["device"] for history in histories.values()))
tables.show_table(training, f"Trained on {trained_on}.", forms)

# %% tags=["hide-input"]
figure, (loss, error) = plots.new_figure(columns=2, height=3.2)
for (name, history), dash in zip(histories.items(), (":", "--", "-"), strict=True):
    curve = pd.DataFrame(history["history"])
    loss.plot(curve["epoch"], curve["train_loss"], color=plots.INK, linestyle=dash, label=name)
    error.plot(curve["epoch"], 100 - curve["validation_accuracy"], color=plots.INK, linestyle=dash)
loss.set(xlabel="epoch", ylabel="training loss")
error.set(xlabel="epoch", ylabel="validation error, %", yscale="log")
error.yaxis.set_major_formatter("{x:g}")
error.yaxis.set_minor_formatter("{x:g}")
loss.legend()
plots.show_figure(
    figure,
    alt="Training loss and validation error over the epochs, for each model.",
    caption=f"Learning curves. Trained on {trained_on}.",
)

# %% [markdown]
# Validation pictures are for choosing: the number of epochs, the learning rate, how much of a picture to hide. Test
# pictures are for reporting, once, at the end. Whoever chooses by the test set reports how well they chose, not how
# well the network works.
#
# ## Are they any good?
#
# Check before you measure anything. The {term}`logits <logit>` of the FP32 eager model on the test set are computed
# once and kept: they are the reference that every export in this book is compared with.

# %%
checked = lab.profile.images(lab.device)
for network in MODELS.values():
    if not reference_path(network, lab.device, checked).exists():
        write_reference(network, lab.device, checked)
logits = {name: read_reference(network, lab.device, checked) for name, network in MODELS.items()}
truth = labels[:checked]

# %% [markdown]
# A sample has an error of its own: the column *+- %* is half the width of the 95 % {term}`confidence interval`. A few
# hundred pictures can tell a working network from a broken one, but not a good one from a slightly better one.


# %%
def accuracy_here(name: str) -> dict[str, float]:
    """Return the accuracy of the reference logits and half of its 95 % confidence interval, in percent."""
    right = np.mean(logits[name].argmax(axis=1) == truth)
    return {"accuracy %": right * 100, "+- %": 196 * np.sqrt(right * (1 - right) / checked)}


here = pd.DataFrame(
    [{"model": n} | accuracy_here(n) | {"reported %": h["test_accuracy"]} for n, h in histories.items()]
)
tables.show_table(
    here, f"The first {checked:,} test pictures, {lab.machine_name}.", {"+- %": "{:.2f}", "reported %": "{:.2f}"}
)

# %% tags=["remove-cell"]
glue("01-images", f"{checked:,}")
inside_of = here.loc[(here["accuracy %"] - here["reported %"]).abs() <= here["+- %"], "model"]
glue("01-inside", ", ".join(inside_of) or "none of them")

# %% [markdown]
# *Reported* is the accuracy after training, on all 10,000 pictures. It lies inside the interval here for:
# {glue:text}`01-inside`. {glue:text}`01-images` pictures can confirm no more than that; where they are all 10,000,
# the two columns are one measurement, made twice.
#
# ### From logits to a class
#
# A network answers with ten logits: scores, of any size and sign. {term}`Softmax` turns them into probabilities that
# add up to one. It keeps their order, so the predicted class does not need it: the largest logit decides. Here is the
# picture on which ResNet-18's two largest logits are closest:

# %%
scores = torch.from_numpy(logits["resnet18"])
probabilities = scores.softmax(dim=1)
largest, second = scores.topk(2).values.T
close = (largest - second).argmin().item()
best = scores[close].topk(3).indices.tolist()
answer = pd.DataFrame(
    {
        "class": [CLASS_NAMES[number] for number in best],
        "logit": scores[close, best].tolist(),
        "probability": probabilities[close, best].tolist(),
    }
)
caption = f"The three largest logits for test picture {close}, which shows: {CLASS_NAMES[truth[close]]}."
tables.show_table(answer, caption, {"logit": "{:.2f}", "probability": "{:.3f}"})

# %% [markdown]
# When two logits are close, rounding can swap them. That is why later chapters report {term}`agreement`, the share of
# equal predictions, beside the largest difference of a logit.
#
# A broken sensor, or 0/0, leaves a value that is not a number ({term}`NaN`), and what is computed from it should not be
# a number either. Some frameworks' {term}`kernels <kernel>` lose it, because a maximum of NaN and 0 may be either, and
# both ReLU and pooling are maxima. Here the first of four test pictures is replaced by NaN:

# %%
asked = Workload("vanilla_cnn", 4)
spoiled = batch[:4].copy()
spoiled[0] = np.nan
rows = []
for backend in map(get_backend, ("pytorch", "onnxruntime", "openvino")):
    if backend.availability("cpu").usable:
        with backend.load(build(backend, asked)) as runner:
            found = runner.infer(spoiled)
        agreement = compare(found, logits["vanilla_cnn"], truth)
        rows.append(
            {
                "framework": backend.title,
                "logits for NaN": "finite" if np.isfinite(found[0]).all() else "not numbers",
                "agreement %": agreement.agreement_percent,
                "largest difference": agreement.largest_difference,
                "the check": "refuses" if problem(agreement, asked.precision) else "passes",
            }
        )
unasked = pd.DataFrame(rows)
tables.show_table(unasked, f"The vanilla CNN on four pictures, one of them NaN, {lab.machine.name('cpu')}.")

# %% tags=["remove-cell"]
finite = unasked["logits for NaN"] == "finite"
glue("01-nan-finite", ", ".join(unasked.loc[finite, "framework"]) or "none of them")
assert (unasked["the check"] == "refuses").all(), "the text says that the check refuses"

# %% [markdown]
# These answered NaN with finite logits, which look like any others: {glue:text}`01-nan-finite`. The agreement check
# refuses all of these answers: logits that are not numbers agree with nothing and are within no tolerance, and finite
# ones are far from the reference. A service has no reference, and finite logits do not prove a finite input: look at
# the input itself, `np.isfinite(batch).all()`.
#
# ### Where they fail
#
# Ninety kinds of wrong answer are possible: ten classes, each taken for one of nine others. These were the most
# frequent:

# %%
wrong = {name: np.flatnonzero(found.argmax(axis=1) != truth) for name, found in logits.items()}
pairs = pd.DataFrame(
    [
        {"shows": CLASS_NAMES[truth[i]], "taken for": CLASS_NAMES[logits[name][i].argmax()], "model": name}
        for name in MODELS
        for i in wrong[name]
    ]
)
confusions = pairs.pivot_table(index=["shows", "taken for"], columns="model", aggfunc="size", fill_value=0)
confusions = confusions.reindex(columns=list(MODELS), fill_value=0)
most = confusions.loc[confusions.sum(axis=1).nlargest(6).index].reset_index()
tables.show_table(most, f"The most confused pairs: wrong answers among {checked:,} pictures, {lab.machine_name}.")

# %% tags=["remove-cell"]
tops = ["T-shirt/top", "Pullover", "Coat", "Shirt"]
among_tops = pairs["shows"].isin(tops) & pairs["taken for"].isin(tops)
glue("01-wrong", len(pairs))
glue("01-wrong-pairs", f"{most[list(MODELS)].to_numpy().sum() / len(pairs) * 100:.0f} %")
glue("01-wrong-tops", f"{among_tops.mean() * 100:.0f} %")

# %% [markdown]
# The three networks gave {glue:text}`01-wrong` wrong answers together, and {glue:text}`01-wrong-pairs` of them are in
# this table. {glue:text}`01-wrong-tops` took one of T-shirt, pullover, coat and shirt for another.

# %% tags=["hide-input"]
some = wrong["resnet18"][:6]
figure, (axes,) = plots.new_figure(height=2.0)
for middle, index in zip(draw_pictures([pictures[some]], axes), some, strict=True):
    predicted = CLASS_NAMES[logits["resnet18"][index].argmax()]
    axes.text(
        middle, 34, f"{CLASS_NAMES[truth[index]]},\ntaken for\n{predicted}", ha="center", va="top", fontsize="small"
    )
plots.show_figure(
    figure,
    alt="Test pictures that ResNet-18 classifies wrongly, with their true and predicted classes.",
    caption=f"The first wrong answers of ResNet-18. {lab.machine_name}.",
)

# %% [markdown]
# Look at the pictures: would you have known, at 28 x 28 pixels? No framework will mend that, and no framework may make
# it worse.
#
# ## What goes wrong
#
# ### The wrong normalization
#
# A network answers whatever it is fed. If the numbers are not on the scale it was trained with, nothing complains.
# The common mistakes, made with the vanilla CNN:

# %%
model = models["vanilla_cnn"].to(lab.device)
sample, answers = preprocess(pictures[:256]), labels[:256]


def accuracy_of(inputs: np.ndarray, batch_size: int = 64) -> float:
    """Return the percentage of ``inputs`` (the sample or its start) that the model classifies correctly."""
    with torch.inference_mode():
        parts = torch.from_numpy(np.ascontiguousarray(inputs)).split(batch_size)
        found = torch.cat([model(part.to(lab.device)).argmax(dim=1).cpu() for part in parts])
    return float(np.mean(found.numpy() == answers[: len(inputs)]) * 100)


scaled = sample * STD + MEAN
imagenet_mean, imagenet_std = (
    np.array(values, dtype=np.float32)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)
mistakes = {
    "as trained": sample,
    "not normalized (0..1)": scaled,
    "raw bytes (0..255)": scaled * 255,
    "ImageNet's mean and deviation": (scaled - imagenet_mean) / imagenet_std,
}
normalizations = pd.DataFrame({"input": list(mistakes), "accuracy %": [accuracy_of(x) for x in mistakes.values()]})
tables.show_table(
    normalizations, f"The vanilla CNN on {len(sample)} pictures, {lab.machine_name}.", {"accuracy %": "{:.1f}"}
)

# %% tags=["remove-cell"]
right, *spoiled_by = normalizations["accuracy %"]
glue("01-mildest", f"{right - max(spoiled_by):.0f}")

# %% [markdown]
# The mildest of these mistakes costs {glue:text}`01-mildest` points, and nothing complained. One that costs little is
# more dangerous still: it looks like a slightly worse network. Keep preprocessing next to the weights, and check
# accuracy with the very code that will serve.
#
# ### NHWC where NCHW is expected
#
# Image libraries keep the channels last, PyTorch expects them first. The shapes do not fit, and PyTorch says so:

# %% tags=["nbval-check-output"]
channels_last = sample.transpose(0, 2, 3, 1)
try:
    accuracy_of(channels_last)
except RuntimeError as error:
    print(error)

# %% [markdown]
# The error is mended by moving the axis back. It is only silenced by `reshape`, which keeps the bytes in their order
# and calls them by other names:

# %%
moved, reshaped = channels_last.transpose(0, 3, 1, 2), channels_last.reshape(sample.shape)
print(f"transpose: {accuracy_of(moved):.1f} % correct, reshape: {accuracy_of(reshaped):.1f} % correct")

# %% [markdown]
# Both have the right shape; only the accuracy tells them apart.
#
# ### Training mode
#
# In training mode, dropout sets values to zero at random, and {term}`batch normalization` uses the statistics of the
# batch at hand. Those of a large mixed batch are close to those of training, so a test may pass. In service the batch
# is often one picture, and so are the statistics.

# %%
model.train()
for batch_size in (64, 1):
    print(f"batch size {batch_size}: {accuracy_of(sample[:64], batch_size):.1f} % correct")

# %% [markdown]
# `load_pretrained` returns a model in evaluation mode. The [chapter on PyTorch](04_pytorch) shows that training mode
# also changes the model for good.
#
# ## Exercises
#
# ```{exercise}
# :label: ex-01-count
# Count the multiply-adds of the vanilla CNN's first convolution by hand: 32 filters of 3 x 11 x 11 weights, stride 4,
# padding 5, on 224 x 224 pixels. Then let PyTorch check you.
# ```
#
# ````{solution} ex-01-count
# :class: dropdown
# With padding 5 and stride 4 the output is (224 + 2 * 5 - 11) // 4 + 1 = 56 pixels wide and high. Each of its 32 x 56 x
# 56 values takes 3 x 11 x 11 multiply-adds (of a convolution in groups, only its own group's input channels count):
#
# ```python
# convolution = load_pretrained("vanilla_cnn").features[0]
# with FlopCounterMode(display=False) as counter:
#     convolution(torch.zeros(1, 3, 224, 224))
# print(32 * 56 * 56 * 3 * 11 * 11, counter.get_total_flops() // 2)
# ```
#
# Both are 36,427,776: a count is exact, and it is the same on every machine.
# ````
#
# ```{exercise}
# :label: ex-01-traffic
# Divide the multiply-adds of each model by its parameters plus activations. Which model does the least work for each
# value that it moves? Does a batch of 64 change the order?
# ```
#
# ````{solution} ex-01-traffic
# :class: dropdown
# ```python
# for pictures_at_once in (1, 64):
#     moved = counts["parameters"] / pictures_at_once + counts["activations"]
#     print(pictures_at_once, (counts["multiply-adds"] / moved).round(1).to_dict())
# ```
#
# MobileNetV2 does the least, and a batch of 64 leaves the order as it is. The lowest ratio waits for memory first, on a
# machine whose arithmetic is much faster than its memory. In a batch the parameters are shared by all pictures, so
# networks with many parameters for each activation gain most. [Where the time goes](03_where_the_time_goes) makes a law
# of this.
# ````
#
# ```{exercise}
# :label: ex-01-sample
# How many test pictures does it take until the half width of the interval is one point, and half a point, for a network
# that is right on 95 % of them? Then draw samples of 300 from the vanilla CNN's answers: how often does the interval
# hold the accuracy of all that were checked here?
# ```
#
# ````{solution} ex-01-sample
# :class: dropdown
# ```python
# for points in (1.0, 0.5):
#     print(f"+- {points} points: {1.96**2 * 0.95 * 0.05 / (points / 100) ** 2:,.0f} pictures")
#
# random = np.random.default_rng(0)
# right = logits["vanilla_cnn"].argmax(axis=1) == truth
# held = 0
# for _ in range(500):
#     share = random.choice(right, 300).mean()
#     held += abs(share - right.mean()) <= 1.96 * np.sqrt(share * (1 - share) / 300)
# print(f"the interval of 300 pictures held in {held / 5:.0f} % of 500 draws")
# ```
#
# About 1,800, and four times as many for half the width. A comparison of two networks on the same pictures needs fewer,
# because most pictures are easy for both: the [chapter on quantization](13_quantization) does that.
# ````
#
# ```{exercise}
# :label: ex-01-swap
# How much would a logit have to be wrong until a class is lost? Compute, for ResNet-18, the share of pictures whose two
# largest logits are closer than 0.1.
# ```
#
# ````{solution} ex-01-swap
# :class: dropdown
# ```python
# top = torch.from_numpy(logits["resnet18"]).topk(2).values
# gap = top[:, 0] - top[:, 1]
# for width in (0.001, 0.01, 0.1, 1.0):
#     print(f"closer than {width}: {(gap < width).float().mean():.2%} of the pictures")
# ```
#
# Only these can change their class when every logit is off by half as much. That is why a small difference of logits
# leaves nearly all predictions alone, and why agreement is reported beside it.
# ````
#
# ## Key points
#
# - What is made faster: three networks with the layers and shapes of full size, on a task small enough to check.
# - Multiply-adds, activations, layers and parameters are four different costs; a network can be low in one and high in
#   another.
# - How you notice that you broke it: weights by checksum, networks by accuracy, exports by agreement with the reference
#   logits.
# - Validation pictures choose, test pictures report.
# - Wrong preprocessing raises no error: measure accuracy with the code that serves.
#
# ## Further reading
#
# The data set {cite}`fashion_mnist`, residual networks {cite}`resnet`, MobileNetV2 {cite}`mobilenet_v2`, the roofline
# model {cite}`roofline`.
