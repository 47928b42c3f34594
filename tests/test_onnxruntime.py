"""The ONNX Runtime backends: the exported graph is the model, on the device and in the precision of its label."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from inference_lib.backends import Workload, build, get_backend
from inference_lib.backends import onnxruntime as ort_backend
from inference_lib.backends.onnxruntime import MODEL_FILE, open_session
from inference_lib.errors import CourseError
from inference_lib.models import load_pretrained

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

NAMES = ("onnxruntime", "onnxruntime-iobinding", "onnxruntime-cudagraph")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of artifacts for the tests that only read them."""
    return tmp_path_factory.mktemp("artifacts")


def noise(workload: Workload) -> np.ndarray:
    return np.random.default_rng(0).normal(size=workload.input_shape).astype(workload.host_dtype)


def square(workload: Workload) -> np.ndarray:
    """Return blank images with a bright square, as unlike noise as can be."""
    batch = np.full(workload.input_shape, -1, workload.host_dtype)
    batch[:, :, 60:160, 60:160] = 2
    return batch


def eager_logits(model: str, batch: np.ndarray) -> np.ndarray:
    return load_pretrained(model)(torch.from_numpy(batch).float()).numpy()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_one_file_runs_any_batch_and_computes_what_the_model_computes(root: Path, batch_size: int) -> None:
    backend, workload = get_backend("onnxruntime"), Workload("vanilla_cnn", batch_size, "fp32", "cpu")
    artifact, batch = build(backend, workload, root), noise(workload)
    with backend.load(artifact) as runner:
        logits = runner.infer(batch)
        runner.upload(batch)
        runner.compute()
        in_parts = runner.download()
    np.testing.assert_allclose(logits, eager_logits("vanilla_cnn", batch), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(logits, in_parts)
    assert logits.dtype == np.float32
    assert {file.name for file in artifact.directory.iterdir()} == {MODEL_FILE, "manifest.json"}


@pytest.mark.parametrize(("precision", "stored"), [("fp32", "fp32"), ("tf32", "fp32"), ("fp16", "fp16")])
def test_the_stored_precision_is_read_from_the_graph(root: Path, precision: str, stored: str) -> None:
    backend = get_backend("onnxruntime")
    artifact = build(backend, Workload("vanilla_cnn", 1, precision, "cuda"), root)
    assert backend.stored_precision(artifact) == stored


def test_an_fp32_graph_under_an_fp16_label_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = ort_backend.export_onnx
    monkeypatch.setattr(ort_backend, "export_onnx", lambda model, _, path: export(model, torch.float32, path))
    with pytest.raises(CourseError, match="fp32 weights where fp16 was asked for"):
        build(get_backend("onnxruntime"), Workload("vanilla_cnn", 1, "fp16", "cuda"), tmp_path)
    assert not (tmp_path / "onnx" / "vanilla_cnn-fp16").exists()


def test_a_session_that_fell_back_is_refused_in_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = build(get_backend("onnxruntime"), Workload("vanilla_cnn", 1, "fp32", "cpu"), root)
    monkeypatch.setenv("ORT_CUDA_UNAVAILABLE", "1")  # ONNX Runtime then takes CUDA's libraries for missing
    with pytest.raises(CourseError) as refused:
        open_session(artifact.directory / MODEL_FILE, "cuda")
    assert "fell back from CUDAExecutionProvider to CPUExecutionProvider" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "precision", "device", "reason"),
    [
        ("onnxruntime", "fp16", "cpu", "FP16"),
        ("onnxruntime", "tf32", "cpu", "TF32"),
        ("onnxruntime", "bf16", "cuda", "BF16"),
        ("onnxruntime-iobinding", "fp32", "cpu", "device memory"),
        ("onnxruntime-cudagraph", "fp32", "cpu", "device memory"),
    ],
)
def test_what_is_not_measured_says_why(name: str, precision: str, device: str, reason: str) -> None:
    support = get_backend(name).supports(Workload("vanilla_cnn", 1, precision, device))
    assert not support.ok
    assert reason in support.reason


@pytest.mark.parametrize("change", [{"versions": {"torch": "0.1", "onnxscript": "0.1"}}, {"weights_sha256": "other"}])
def test_a_stale_artifact_is_rebuilt(tmp_path: Path, change: dict[str, object]) -> None:
    backend, workload = get_backend("onnxruntime"), Workload("vanilla_cnn", 1, "fp32", "cpu")
    first = build(backend, workload, tmp_path)
    model = first.directory / MODEL_FILE
    made = model.stat().st_mtime_ns
    build(backend, workload, tmp_path)
    assert model.stat().st_mtime_ns == made  # a fresh one is reused
    (first.directory / "manifest.json").write_text(json.dumps(first.manifest | change))
    rebuilt = build(backend, workload, tmp_path)
    assert model.stat().st_mtime_ns > made
    assert {key: rebuilt.manifest[key] for key in change} == {key: first.manifest[key] for key in change}


def test_a_half_written_artifact_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, workload = get_backend("onnxruntime"), Workload("vanilla_cnn", 1, "fp32", "cpu")
    directory = tmp_path / backend.artifact_key(workload)

    def interrupted(model: torch.nn.Module, dtype: torch.dtype, path: Path) -> None:
        path.write_bytes(b"half of a model")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ort_backend, "export_onnx", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(backend, workload, tmp_path)
    assert not directory.exists()

    directory.mkdir(parents=True)
    (directory / MODEL_FILE).write_bytes(b"half of a model, and no manifest")
    with backend.load(build(backend, workload, tmp_path)) as runner:
        assert runner.infer(noise(workload)).shape == (1, 10)
    assert [d.name for d in directory.parent.iterdir()] == [directory.name]


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_gpu_runners_agree_with_the_model(root: Path, name: str, precision: str, batch_size: int) -> None:
    backend, workload = get_backend(name), Workload("resnet18", batch_size, precision, "cuda")
    tolerance = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2}[precision]
    answers = []
    with backend.load(build(backend, workload, root)) as runner:
        for batch in (noise(workload), square(workload)):
            expected = eager_logits("resnet18", batch)
            largest = np.abs(expected).max()
            logits = runner.infer(batch)
            runner.upload(batch)
            runner.compute()
            in_parts = runner.download()
            assert np.abs(logits - expected).max() <= tolerance * largest
            assert np.abs(logits - in_parts).max() <= tolerance / 10 * largest
            assert logits.dtype == in_parts.dtype == np.float32
            answers.append((logits, in_parts))
    for before, after in zip(*answers, strict=True):  # a stale output would be equal
        assert np.abs(before - after).max() > tolerance * np.abs(before).max()


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_was_kept_is_not_overwritten(root: Path, name: str) -> None:
    backend, workload = get_backend(name), Workload("vanilla_cnn", 1, "fp16", "cuda")
    with backend.load(build(backend, workload, root)) as runner:
        kept = runner.infer(noise(workload))
        copied = kept.copy()
        runner.infer(square(workload))
        np.testing.assert_array_equal(kept, copied)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_fp32_is_ieee_and_tf32_is_not(root: Path, name: str) -> None:
    backend, difference = get_backend(name), {}
    for precision in ("fp32", "tf32"):
        workload = Workload("resnet18", 4, precision, "cuda")
        expected = eager_logits("resnet18", noise(workload))
        with backend.load(build(backend, workload, root)) as runner:
            difference[precision] = np.abs(runner.infer(noise(workload)) - expected).max() / np.abs(expected).max()
    assert difference["fp32"] < 5e-5 < difference["tf32"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_the_session_is_on_the_gpu(root: Path, name: str) -> None:
    backend, workload = get_backend(name), Workload("vanilla_cnn", 1, "fp32", "cuda")
    with backend.load(build(backend, workload, root)) as runner:
        captured = getattr(runner, "_captured", runner)  # of a graph, the session that it recorded
        assert captured._session.get_providers()[0] == "CUDAExecutionProvider"
