"""Logits on the test set, and what counts as the same model."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from inference_lib.measure import accuracy
from inference_lib.records.record import Accuracy
from inference_lib.seam import FASHION_MNIST, PRECISIONS, Workload, find_model
from inference_lib.support.errors import CourseError
from inference_lib.zoo.fashion_mnist import preprocess, split_of

WORKLOAD = Workload("vanilla_cnn", 4, "fp32", "cpu")


def brightness(batch: np.ndarray) -> np.ndarray:
    """Stand for a model: ten logits that depend on the image."""
    assert len(batch) == WORKLOAD.batch_size
    return np.repeat(batch.mean(axis=(1, 2, 3))[:, None], 10, axis=1)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("images", [4, 10])
def test_every_image_has_its_own_logits_in_order(ahead: bool, images: int) -> None:
    runner = SimpleNamespace(answers=partial(map, brightness), workload=WORKLOAD)
    logits = accuracy.logits_of(runner, images, ahead=ahead)
    pictures, _ = split_of("test")
    assert logits.shape == (images, 10)
    np.testing.assert_allclose(logits[:, 0], preprocess(pictures[:images]).mean(axis=(1, 2, 3)), rtol=1e-6)


def test_comparing_counts_labels_agreement_and_the_largest_difference() -> None:
    labels = np.array([3, 1, 4, 1])
    reference = np.eye(10, dtype=np.float32)[labels] * 10
    logits = reference.copy()
    logits[0] = np.roll(logits[0], 1)
    found = accuracy.compare(logits, reference, labels)
    assert (found.accuracy_percent, found.agreement_percent, found.images) == (75, 75, 4)
    assert found.largest_difference == 1


@pytest.mark.parametrize(
    ("agreement", "difference", "images", "precision", "fine"),
    [
        (100, 5e-4, 64, "fp32", True),
        (100, 5e-3, 64, "fp32", False),
        (100, 5e-3, 64, "fp16", True),
        (100, float("nan"), 64, "fp16", False),
        (100, float("nan"), 64, "int8", False),
        (99.4, 5e-3, 10_000, "fp16", False),
        (99.9, 0.57, 10_000, "fp16", False),
        (99.9, 0.57, 64, "fp8", False),
        (99.4, 0.57, 10_000, "fp8", True),  # the largest of so many is a matter of one odd picture
        (97.9, 0.2, 10_000, "fp8", False),
        (98.0, 5e-3, 64, "fp16", True),  # one near-tie among few images proves nothing
    ],
)
def test_what_rounding_explains(agreement: float, difference: float, images: int, precision: str, fine: bool) -> None:
    found = Accuracy(accuracy_percent=95, agreement_percent=agreement, largest_difference=difference, images=images)
    problem = accuracy.problem(found, PRECISIONS[precision])
    assert (problem is None) == fine


@pytest.mark.parametrize(
    ("difference", "precision", "fine"),
    [
        (0, "fp32", True),
        (5e-3, "fp32", False),
        (5e-3, "int8", True),
        (0.1, "int8", False),
        (float("nan"), "fp8", False),
    ],
)
def test_the_same_pictures_get_the_same_logits_the_second_time(difference: float, precision: str, fine: bool) -> None:
    once = np.eye(10, dtype=np.float32) * 5
    again = once.copy()
    again[7, 2] += 5 * difference
    said = accuracy.changed(once, again, PRECISIONS[precision])
    assert (said is None) == fine
    assert fine or f"by {difference:.2e} of the largest logit" in str(said)


def test_a_logit_that_is_no_number_is_no_agreement_and_no_small_difference() -> None:
    labels = np.array([0, 0])
    reference = np.eye(10, dtype=np.float32)[labels]
    logits = reference.copy()
    logits[1, 5] = np.nan  # argmax would call it class 5, or, of all that are not numbers, class 0
    found = accuracy.compare(logits, reference, labels)
    assert (found.accuracy_percent, found.agreement_percent) == (50, 50)
    assert np.isnan(found.largest_difference)
    logits[1] = np.nan
    assert accuracy.compare(logits, reference, labels).agreement_percent == 50


def test_other_weights_or_pictures_have_other_reference_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = find_model("vanilla_cnn")
    paths = {accuracy.reference_path(find_model(name), "cpu", 8) for name in ("vanilla_cnn", "resnet18")}
    paths.add(accuracy.reference_path(model, "cpu", 16))
    monkeypatch.setitem(vars(FASHION_MNIST), "identity", "other preprocessing")
    paths.add(accuracy.reference_path(model, "cpu", 8))
    monkeypatch.setattr(accuracy.torch, "__version__", "0.0")
    paths.add(accuracy.reference_path(model, "cpu", 8))
    assert len(paths) == 5


def test_a_reference_of_more_images_serves_who_is_checked_on_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, root = find_model("vanilla_cnn"), tmp_path / "reference"
    monkeypatch.setattr(accuracy, "reference_path", partial(accuracy.reference_path, root=root))
    assert accuracy.find_reference(model, "cpu", 8) is None
    root.mkdir()
    (root / "vanilla_cnn-cpu-99-000000000000.npy").touch()  # other weights
    np.save(accuracy.reference_path(model, "cpu", 20), np.arange(200, dtype=np.float32).reshape(20, 10))
    assert accuracy.find_reference(model, "cpu", 21) is None
    assert accuracy.read_reference(model, "cpu", 8).tolist() == np.arange(80).reshape(8, 10).tolist()


def test_the_reference_of_a_processor_may_be_a_gpu_s_but_never_the_reverse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy.torch.cuda, "is_available", lambda: True)
    assert accuracy.places("cpu") == ("cuda", "cpu")
    assert accuracy.places("cuda") == ("cuda",)
    monkeypatch.setattr(accuracy.torch.cuda, "is_available", lambda: False)
    assert accuracy.places("cpu") == ("cpu",)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array"])
def test_damaged_reference_logits_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    path = tmp_path / "reference.npy"
    monkeypatch.setattr(accuracy, "find_reference", lambda *_: path if path.exists() else None)
    with pytest.raises(CourseError, match="no reference logits for vanilla_cnn on cpu; run the benchmark command"):
        accuracy.read_reference(find_model("vanilla_cnn"), "cpu", 8)
    path.write_bytes(content)
    with pytest.raises(CourseError, match=r"reference.npy is damaged; delete it"):
        accuracy.read_reference(find_model("vanilla_cnn"), "cpu", 8)
    np.save(path, np.zeros((7, 10), np.float32))
    with pytest.raises(CourseError, match="damaged"):
        accuracy.read_reference(find_model("vanilla_cnn"), "cpu", 8)
    np.save(path, np.ones((8, 10), np.float32))
    assert accuracy.read_reference(find_model("vanilla_cnn"), "cpu", 8).shape == (8, 10)
