"""Is it still the same model? Logits on the test set, compared with the FP32 eager model's."""

import io
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from inference_lib import paths
from inference_lib.backends.artifacts import build
from inference_lib.backends.base import Runner, Workload
from inference_lib.backends.pytorch import PyTorchEager
from inference_lib.data import load_fashion_mnist, preprocess
from inference_lib.errors import CourseError
from inference_lib.files import write_atomically
from inference_lib.models import NUM_CLASSES, weights_sha256
from inference_lib.report.records import Accuracy

REFERENCE_BATCH = 64

LOGIT_TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}
"""Largest logit difference, relative to the largest logit, that rounding may explain in each precision."""

MIN_AGREEMENT_PERCENT = 99.5
"""Share of images whose predicted class must be the reference's; rounding moves only near-ties."""


def problem(found: Accuracy, precision: str) -> str | None:
    """Say in what a model differs from the reference by more than rounding in ``precision`` explains, or None."""
    tolerance = LOGIT_TOLERANCE[precision]
    if not found.largest_difference <= tolerance:  # NaN is not within it either
        return (
            f"logits differ from the FP32 reference by {found.largest_difference:.2e} of the largest logit "
            f"({precision} explains {tolerance:.0e})"
        )
    if found.images >= 1000 and found.agreement_percent < MIN_AGREEMENT_PERCENT:
        return f"only {found.agreement_percent:.2f} % of the predictions agree with the FP32 reference"
    return None


def logits_of(runner: Runner, workload: Workload, images: int, *, ahead: bool = False) -> np.ndarray:
    """Return the runner's logits (images x 10, float32) for the first ``images`` of the test set.

    ``ahead`` prepares the next batch while one is inferred. It takes a second thread, and with it PyTorch a second
    pool of threads that compete for the cores for good: only for work after which nothing is timed in this process.
    """
    batches = _batches(workload, images)
    parts = [runner.infer(batch) for batch in (_one_ahead(batches) if ahead else batches)]
    return np.concatenate(parts)[:images]


def _batches(workload: Workload, images: int) -> Iterator[np.ndarray]:
    """Yield preprocessed batches; a short last one is filled with zeros, since a runner takes its own size only.

    Two arrays take turns: a batch is overwritten when the next but one is asked for.
    """
    pictures, _ = test_set()
    arrays = itertools.cycle([np.empty(workload.input_shape, workload.host_dtype) for _ in range(2)])
    for start in range(0, images, workload.batch_size):
        batch, chosen = next(arrays), pictures[start : min(start + workload.batch_size, images)]
        preprocess(chosen, workload.host_dtype, out=batch[: len(chosen)])
        batch[len(chosen) :] = 0
        yield batch


def _one_ahead(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


@cache
def test_set() -> tuple[np.ndarray, np.ndarray]:
    """Return the test images (uint8, 10,000 x 28 x 28) and labels, read once per process."""
    return load_fashion_mnist("test")


def compare(logits: np.ndarray, reference: np.ndarray) -> Accuracy:
    """Compare logits (N x 10) with the reference's logits for the same first N test images."""
    reference = reference[: len(logits)]
    labels = test_set()[1][: len(logits)]
    predicted = logits.argmax(axis=1)
    return Accuracy(
        accuracy_percent=float(np.mean(predicted == labels) * 100),
        agreement_percent=float(np.mean(predicted == reference.argmax(axis=1)) * 100),
        largest_difference=float(np.abs(logits - reference).max() / np.abs(reference).max()),
        images=len(logits),
    )


def reference_path(model: str, device: str, images: int, root: Path = paths.BUILD / "reference") -> Path:
    """Return where the reference logits of ``model`` are kept."""
    return root / f"{model}-{weights_sha256(model)[:12]}-{device}-{images}.npy"


def write_reference(model: str, device: str, images: int) -> None:
    """Compute the logits of the FP32 (IEEE) eager model and keep them."""
    workload = Workload(model, min(REFERENCE_BATCH, images), "fp32", device)
    backend = PyTorchEager()
    with backend.load(build(backend, workload)) as runner:
        logits = logits_of(runner, workload, images, ahead=device == "cuda")
    path = reference_path(model, device, images)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, logits)
    write_atomically(path, content.getvalue())


def read_reference(model: str, device: str, images: int) -> np.ndarray:
    """Return the reference logits (images x 10, float32); CourseError if they were not computed yet."""
    path = reference_path(model, device, images)
    if not path.exists():
        raise CourseError(f"no reference logits for {model} on {device}; run the benchmark command, which makes them")
    logits = np.load(path)
    if logits.shape != (images, NUM_CLASSES):
        raise CourseError(f"{path} is damaged; delete it and run again")
    return logits
