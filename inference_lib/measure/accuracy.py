"""Is it still the same model? Logits on test pictures, compared with the FP32 eager model's."""

import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from inference_lib.backends.pytorch import PyTorchEager
from inference_lib.backends.shared.cpu import CpuFunctionRunner, on_arrays
from inference_lib.records.record import Accuracy
from inference_lib.seam import Model, Precision, Runner, Workload, build, find_precision
from inference_lib.support import paths
from inference_lib.support.errors import CourseError
from inference_lib.support.files import write_atomically
from inference_lib.support.hashes import sha256_of

REFERENCE_BATCH, DIGEST = 64, 12
"""Images that the reference answers at a time; characters of a hash in the name of its file."""

CLASSES_COUNT_FROM = 1000
"""With fewer images than this, a single near-tie would decide about the agreement of classes."""


def problem(found: Accuracy, precision: Precision) -> str | None:
    """Say in what a model differs from the reference by more than rounding in ``precision`` explains, or None.

    In eight bits the largest difference of a few images is looked at, and of many the classes: the largest of ten
    thousand is a matter of one odd picture (seen: 0.09 of the first 64, 0.57 of all, 99.45 % of the classes the same).
    """
    if not math.isfinite(found.largest_difference):
        dtype = precision.dtype if precision.dtype.is_floating_point else torch.float32  # as what is not quantized
        largest = torch.finfo(dtype).max
        return f"some logits are not finite numbers: the largest in {precision} is {largest:.3g}"
    few = found.images < CLASSES_COUNT_FROM
    if found.largest_difference > precision.tolerance and (few or not precision.calibrated):
        return (
            f"logits differ from the FP32 reference by {found.largest_difference:.2e} of the largest logit "
            f"({precision} explains {precision.tolerance:.0e})"
        )
    if not few and found.agreement_percent < precision.agreement_percent:
        return f"only {found.agreement_percent:.2f} % of the predictions agree with the FP32 reference"
    return None


def changed(once: np.ndarray, again: np.ndarray, precision: Precision) -> str | None:
    """Say how far apart the logits of two passes over the same pictures are, where no order of sums explains it.

    However few bits products have, sums have 16 at least. Seen: kernels in eight bits that read a tensor before it was
    written, which no comparison with the reference gave away.
    """
    found = _largest_difference(again, once)
    if found <= min(precision.tolerance, find_precision("fp16").tolerance):
        return None
    return f"the same pictures get other logits the second time, by {found:.2e} of the largest logit"


def logits_of(runner: Runner, images: int, *, ahead: bool = False) -> np.ndarray:
    """Return the runner's logits (images x outputs, float32) for the first ``images`` of the test set.

    ``ahead`` prepares the next batch while one is inferred. It takes a second thread, and with it PyTorch a second
    pool of threads that compete for the cores for good: only for work after which nothing is timed in this process.
    """
    asked = runner.workload
    batches = asked.model.dataset.batches(images, asked.input_shape, asked.host_dtype)
    return np.concatenate(list(runner.answers(_one_ahead(batches) if ahead else batches)))[:images]


def _one_ahead(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def compare(logits: np.ndarray, reference: np.ndarray, labels: np.ndarray | None) -> Accuracy:
    """Compare logits (N x outputs) with the reference's logits for the same first N test images, and with any labels.

    A logit that is not a number makes the difference not a number, and never counts as agreement.
    """
    count = len(logits)
    reference = reference[:count]
    predicted = np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)
    found = Accuracy(
        agreement_percent=float(np.mean(predicted == reference.argmax(axis=1)) * 100),
        largest_difference=_largest_difference(logits, reference),
        images=count,
    )
    if labels is not None:
        right, reference_right = predicted == labels[:count], reference.argmax(axis=1) == labels[:count]
        found.accuracy_percent = float(np.mean(right) * 100)
        found.gained = int(np.sum(right & ~reference_right))
        found.lost = int(np.sum(reference_right & ~right))
    return found


def _largest_difference(logits: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(logits - reference).max() / np.abs(reference).max())


def reference_path(model: Model, device: str, images: int, root: Path = paths.BUILD / "reference") -> Path:
    """Return where the reference logits are kept: other weights, pictures, versions or devices have other files."""
    processor = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    facts = (model.identity, model.dataset.identity, torch.__version__, processor)
    return root / f"{model}-{device}-{images}-{sha256_of(fact.encode() for fact in facts)[:DIGEST]}.npy"


def places(device: str) -> tuple[str, ...]:
    """Return the kinds of device on which the reference of rows on ``device`` may be computed, the quickest first.

    It is FP32 (IEEE) on each. A GPU answers the whole test set in seconds, a processor in minutes.
    """
    return ("cuda", "cpu") if device == "cpu" and torch.cuda.is_available() else (device,)


def find_reference(model: Model, device: str, images: int) -> Path | None:
    """Return where reference logits of so many images, or more, are kept for rows on ``device``; None: nowhere."""
    for place in places(device):
        wanted = reference_path(model, place, images)
        name, digest = f"{model}-{place}-", wanted.stem[-DIGEST:]
        counts = (path.stem.removeprefix(name).removesuffix(f"-{digest}") for path in wanted.parent.glob(f"{name}*"))
        if enough := [int(count) for count in counts if count.isdecimal() and int(count) >= images]:
            return reference_path(model, place, min(enough))
    return None


def _reference(workload: Workload) -> Runner:
    if workload.model.file:
        return CpuFunctionRunner(workload, on_arrays(workload.model.load()))
    return PyTorchEager().load(build(PyTorchEager(), workload))


def write_reference(model: Model, device: str, images: int) -> None:
    """Compute the logits of the FP32 (IEEE) eager model and keep them: of an ONNX file, unoptimized on the CPU."""
    workload = Workload(model, model.batch or min(REFERENCE_BATCH, images), "fp32", "cpu" if model.file else device)
    with _reference(workload) as runner:
        logits = logits_of(runner, images, ahead=workload.on_gpu)
    path = reference_path(model, device, images)
    content = io.BytesIO()
    np.save(content, logits)
    write_atomically(path, content.getvalue())


def read_reference(model: Model, device: str, images: int) -> np.ndarray:
    """Return the reference logits (images x outputs, float32); CourseError if they were not computed yet."""
    path = find_reference(model, device, images)
    if path is None:
        raise CourseError(f"no reference logits for {model} on {device}; run the benchmark command, which makes them")
    try:
        logits = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        logits = np.empty(0)
    if logits.shape[1:] != (model.outputs,) or len(logits) < images:
        raise CourseError(f"{path} is damaged; delete it and run again")
    return logits[:images]
