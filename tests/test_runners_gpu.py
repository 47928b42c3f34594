"""Every backend that runs on a GPU: its answers are the model's, and stay the caller's."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from inputs import eager_logits, largest_difference, noise, square

from inference_lib.backends import BACKENDS
from inference_lib.backends.shared.buffers import IMAGES_PER_COPY
from inference_lib.seam import MODELS, PRECISIONS, Runner, Workload, build

pytestmark = pytest.mark.gpu

SEVERAL_COPIES = IMAGES_PER_COPY + 4
CELLS = [
    *itertools.product(MODELS, ["fp32"], [1]),
    *itertools.product(MODELS, ["fp16"], [1, SEVERAL_COPIES]),
    *itertools.product(["resnet18"], ["tf32", "bf16"], [4]),
]

each_backend = pytest.mark.parametrize("name", BACKENDS)


def load(name: str, workload: Workload, root: Path) -> Runner:
    """Return a runner of ``workload``, or skip the test where the backend has none."""
    backend = BACKENDS[name]
    available, support = backend.availability("cuda"), backend.supports(workload)
    if not available.usable or not support.ok:
        pytest.skip(available.reason or support.reason)
    return backend.load(build(backend, workload, root))


@each_backend
@pytest.mark.parametrize(("model", "precision", "batch_size"), CELLS)
def test_the_answers_are_those_of_the_model(root: Path, name: str, model: str, precision: str, batch_size: int) -> None:
    workload, tolerance = Workload(model, batch_size, precision, "cuda"), PRECISIONS[precision].tolerance
    answers = []
    with load(name, workload, root) as runner:
        for batch in (noise(workload), square(workload)):
            logits = runner.infer(batch)
            runner.upload(batch)
            runner.compute()
            in_parts = runner.download()
            assert largest_difference(logits, eager_logits(model, batch)) <= tolerance
            assert largest_difference(in_parts, logits) <= tolerance / 10
            assert logits.dtype == in_parts.dtype == np.float32
            answers.append((logits, in_parts))
    for before, after in zip(*answers, strict=True):
        assert largest_difference(after, before) > tolerance  # a stale output would be equal


@each_backend
def test_an_answer_that_was_kept_is_not_overwritten(root: Path, name: str) -> None:
    workload = Workload("vanilla_cnn", 1, "fp16", "cuda")
    with load(name, workload, root) as runner:
        kept = runner.infer(noise(workload))
        copied = kept.copy()
        runner.infer(square(workload))
        np.testing.assert_array_equal(kept, copied)


@each_backend
def test_fp32_is_ieee_and_tf32_is_not(root: Path, name: str) -> None:
    difference = {}
    for precision in ("fp32", "tf32"):
        workload = Workload("resnet18", 4, precision, "cuda")
        with load(name, workload, root) as runner:
            answer = runner.infer(noise(workload))
        difference[precision] = largest_difference(answer, eager_logits("resnet18", noise(workload)))
    assert difference["fp32"] < 5e-5 < difference["tf32"]


@pytest.mark.parametrize("name", ["pytorch-cudagraph", "torch-compile"])
def test_the_two_graphs_of_a_runner_share_their_memory_and_not_their_answers(root: Path, name: str) -> None:
    workload = Workload("resnet18", 1, "fp16", "cuda")
    with load(name, workload, root) as runner:
        assert runner._whole.pool() == runner._graph.pool()
        expected = {make: eager_logits("resnet18", make(workload)) for make in (noise, square)}
        for whole, parts in itertools.product((noise, square), repeat=2):
            runner.upload(parts(workload))
            runner.compute()
            answers = {parts: runner.download(), whole: runner.infer(whole(workload))}
            for make, found in answers.items():
                assert largest_difference(found, expected[make]) <= PRECISIONS["fp16"].tolerance
