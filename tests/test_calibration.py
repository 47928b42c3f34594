"""Calibration: which pictures an export in eight bits learns from, and what happens where they change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from inference_lib.backends import BACKENDS
from inference_lib.seam import PRECISIONS, Artifact, Calibration, QuantizingBackend, Workload, build, find_model
from inference_lib.support.errors import CourseError
from inference_lib.zoo.fashion_mnist import preprocess, split_of

MODEL = find_model("vanilla_cnn")


def test_the_pictures_are_training_pictures_none_twice_and_the_same_each_time() -> None:
    calibration = Calibration(images=5)
    batches = [batch.copy() for batch in calibration.batches(MODEL, 2)]
    assert [batch.shape for batch in batches] == [(2, *MODEL.input_shape)] * 2 + [(1, *MODEL.input_shape)]
    chosen = np.concatenate(batches)
    assert chosen.dtype == np.float32
    assert len(np.unique(chosen, axis=0)) == 5
    np.testing.assert_array_equal(chosen, np.concatenate(list(calibration.batches(MODEL, 5))))
    training = split_of("train")[0]
    numbers = np.random.default_rng(0).choice(len(training), 5, replace=False)
    np.testing.assert_array_equal(chosen, preprocess(training[numbers]))


@pytest.mark.parametrize("other", [Calibration(images=6), Calibration(images=5, seed=1)])
def test_another_choice_has_another_identity(other: Calibration) -> None:
    assert other.identity(MODEL) != Calibration(images=5).identity(MODEL) == Calibration(5).identity(MODEL)


def test_no_pictures_are_refused() -> None:
    with pytest.raises(CourseError, match="choose 1 or more"):
        Calibration(images=0)


def test_a_model_with_fewer_pictures_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(MODEL.dataset), "labels", lambda self, split: np.zeros(3))
    assert [len(batch) for batch in Calibration(images=5).batches(MODEL, 2)] == [2, 1]


class Quantizer:
    """Exports a file that says what it was calibrated with; its weights and share are as told."""

    name, title, times_kernels = "quantizer", "Quantizer", False

    def __init__(self, stored: str = "int8", percent: float = 90.0) -> None:
        self.stored, self.percent, self.exports = stored, percent, 0

    def artifact_key(self, workload: Workload) -> str:
        return f"quantizer/{workload.model}-{workload.precision}"

    def versions(self) -> dict[str, str]:
        return {}

    def export(self, model: nn.Module, workload: Workload, directory: Path) -> None:
        self.exports += 1
        total = sum(float(batch.sum()) for batch in workload.calibration.batches(workload.model))
        (directory / "scale").write_text(str(total))

    export.__module__ = build.__module__  # only what the library holds is looked at for changes

    def stored_precision(self, artifact: Artifact) -> str:
        return self.stored

    def eight_bits_percent(self, artifact: Artifact) -> float:
        assert (artifact.directory / "scale").exists()
        return self.percent

    def availability(self, device: str) -> None: ...
    def supports(self, workload: Workload) -> None: ...
    def load(self, artifact: Artifact) -> None: ...


def workload(images: int, precision: str = "int8") -> Workload:
    return Workload("vanilla_cnn", 1, precision, "cpu", Calibration(images))


def test_another_calibration_makes_an_export_stale_and_the_share_is_kept(tmp_path: Path) -> None:
    backend = Quantizer()
    first = build(backend, workload(2), tmp_path)
    assert first.manifest["eight_bits_percent"] == 90.0
    assert build(backend, workload(2), tmp_path).manifest == first.manifest
    assert backend.exports == 1
    build(backend, workload(3), tmp_path)
    assert backend.exports == 2


def test_an_export_of_which_nothing_runs_in_eight_bits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="computes nothing in eight bits"):
        build(Quantizer(percent=0.0), workload(1), tmp_path)


@pytest.mark.parametrize(("stored", "fine"), [("fp16+int8", True), ("int8", True), ("fp32", False), ("fp16", False)])
def test_weights_in_more_bits_are_allowed_beside_those_in_eight(tmp_path: Path, stored: str, fine: bool) -> None:
    if fine:
        build(Quantizer(stored), workload(1), tmp_path)
        return
    with pytest.raises(CourseError, match=f"with {stored} weights where int8 was asked for"):
        build(Quantizer(stored), workload(1), tmp_path)


@pytest.mark.parametrize("precision", [name for name, found in PRECISIONS.items() if found.calibrated])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_that_cannot_quantize_says_so_in_one_line(name: str, device: str, precision: str) -> None:
    backend, asked = BACKENDS[name], Workload("vanilla_cnn", 1, precision, device)
    support = backend.supports(asked)
    assert support.ok or ("\n" not in support.reason and len(support.reason) > 10)
    assert not support.ok or isinstance(backend, QuantizingBackend)


def test_eight_bit_types_have_one_name_however_frameworks_spell_them() -> None:
    from inference_lib.seam.type_names import dtype_named, precision_of

    assert {dtype_named(name) for name in ("INT8", "i8", "torch.int8")} == {torch.int8}
    assert {dtype_named(name) for name in ("FLOAT8E4M3FN", "F8_E4M3", "f8e4m3")} == {torch.float8_e4m3fn}
    assert precision_of(["INT8", "FLOAT"]) == "fp32+int8"
    assert precision_of(["F8_E4M3"]) == "fp8"
