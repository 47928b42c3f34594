"""Logits on the test set, and what counts as the same model."""

from types import SimpleNamespace

import numpy as np
import pytest

from inference_lib.measure import accuracy
from inference_lib.records.record import Accuracy
from inference_lib.seam import Workload
from inference_lib.zoo.fashion_mnist import preprocess

WORKLOAD = Workload("vanilla_cnn", 4, "fp32", "cpu")


def brightness(batch: np.ndarray) -> np.ndarray:
    """Stand for a model: ten logits that depend on the image."""
    assert len(batch) == WORKLOAD.batch_size
    return np.repeat(batch.mean(axis=(1, 2, 3))[:, None], 10, axis=1)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("images", [4, 10])
def test_every_image_has_its_own_logits_in_order(ahead: bool, images: int) -> None:
    runner = SimpleNamespace(infer=brightness)
    logits = accuracy.logits_of(runner, WORKLOAD, images, ahead=ahead)
    pictures, _ = accuracy.test_set()
    assert logits.shape == (images, 10)
    np.testing.assert_allclose(logits[:, 0], preprocess(pictures[:images]).mean(axis=(1, 2, 3)), rtol=1e-6)


def test_comparing_counts_labels_agreement_and_the_largest_difference() -> None:
    labels = accuracy.test_set()[1][:4]
    reference = np.eye(10, dtype=np.float32)[labels] * 10
    logits = reference.copy()
    logits[0] = np.roll(logits[0], 1)
    found = accuracy.compare(logits, reference)
    assert (found.accuracy_percent, found.agreement_percent, found.images) == (75, 75, 4)
    assert found.largest_difference == 1


@pytest.mark.parametrize(
    ("agreement", "difference", "images", "precision", "fine"),
    [
        (100, 5e-4, 64, "fp32", True),
        (100, 5e-3, 64, "fp32", False),
        (100, 5e-3, 64, "fp16", True),
        (100, float("nan"), 64, "fp16", False),
        (99.4, 5e-3, 10_000, "fp16", False),
        (98.0, 5e-3, 64, "fp16", True),  # one near-tie among few images proves nothing
    ],
)
def test_what_rounding_explains(agreement: float, difference: float, images: int, precision: str, fine: bool) -> None:
    found = Accuracy(accuracy_percent=95, agreement_percent=agreement, largest_difference=difference, images=images)
    problem = accuracy.problem(found, precision)
    assert (problem is None) == fine
