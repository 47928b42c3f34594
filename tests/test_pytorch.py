"""The PyTorch backends: what is exported is what is run, in the precision that the label says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from inputs import CELLS, eager_logits, noise

from inference_lib.backends import get_backend
from inference_lib.backends.shared.cuda import float32_products
from inference_lib.seam import Workload, build
from inference_lib.support.errors import CourseError
from inference_lib.zoo.networks import load_pretrained


@pytest.mark.parametrize(("model", "batch_size"), CELLS)
def test_the_loaded_artifact_computes_what_the_model_computes(tmp_path: Path, model: str, batch_size: int) -> None:
    workload = Workload(model, batch_size, "fp32", "cpu")
    batch = noise(workload)
    with get_backend("pytorch").load(build(get_backend("pytorch"), workload, tmp_path)) as runner:
        logits = runner.infer(batch)
        runner.upload(batch)
        runner.compute()
        in_parts = runner.download()
    np.testing.assert_allclose(logits, eager_logits(model, batch), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits, in_parts)
    assert logits.dtype == np.float32


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_the_stored_precision_is_the_one_asked_for(tmp_path: Path, precision: str) -> None:
    backend, workload = get_backend("pytorch"), Workload("vanilla_cnn", 1, precision, "cuda")
    assert backend.stored_precision(build(backend, workload, tmp_path)) == workload.precision.storage


def test_an_export_in_another_precision_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = get_backend("pytorch")
    monkeypatch.setattr(type(backend), "stored_precision", lambda *_: "fp32")
    with pytest.raises(CourseError, match="fp32 weights where fp16 was asked for"):
        build(backend, Workload("vanilla_cnn", 1, "fp16", "cuda"), tmp_path)
    assert not list(tmp_path.glob("pytorch/vanilla_cnn-fp16"))


def test_a_fresh_artifact_is_reused_and_a_stale_one_rebuilt(tmp_path: Path) -> None:
    backend, workload = get_backend("pytorch"), Workload("vanilla_cnn", 1, "fp32", "cpu")
    first = build(backend, workload, tmp_path)
    weights = first.directory / "weights.safetensors"
    made = weights.stat().st_mtime_ns
    build(backend, workload, tmp_path)
    assert weights.stat().st_mtime_ns == made
    manifest = json.loads((first.directory / "manifest.json").read_text())
    (first.directory / "manifest.json").write_text(json.dumps(manifest | {"weights_sha256": "other"}))
    build(backend, workload, tmp_path)
    assert weights.stat().st_mtime_ns > made


def tf32_flags() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_the_tf32_policy_is_set_and_restored() -> None:
    before = tf32_flags()
    for precision, allowed in (("fp32", False), ("tf32", True), ("fp16", False)):
        with float32_products(precision):
            assert tf32_flags() == (allowed, allowed)
            torch.export.export(load_pretrained("vanilla_cnn"), (torch.zeros(2, 3, 224, 224),))  # it reads them, too
    assert tf32_flags() == before
