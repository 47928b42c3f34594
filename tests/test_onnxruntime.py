"""The ONNX Runtime backends: the exported graph is the model, on the device and in the precision of its label."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from inputs import CELLS, eager_logits, noise

from inference_lib.backends import get_backend
from inference_lib.backends import onnxruntime as ort_backend
from inference_lib.backends.onnxruntime import MODEL_FILE, open_session
from inference_lib.seam import Artifact, Workload, build, find_precision
from inference_lib.support.errors import CourseError

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

NAMES = ("onnxruntime", "onnxruntime-iobinding", "onnxruntime-cudagraph")


@pytest.mark.parametrize(("model", "batch_size"), CELLS)
def test_one_file_runs_any_batch_and_computes_what_the_model_computes(root: Path, model: str, batch_size: int) -> None:
    backend, workload = get_backend("onnxruntime"), Workload(model, batch_size, "fp32", "cpu")
    artifact, batch = build(backend, workload, root), noise(workload)
    with backend.load(artifact) as runner:
        logits = runner.infer(batch)
        runner.upload(batch)
        runner.compute()
        in_parts = runner.download()
    np.testing.assert_allclose(logits, eager_logits(model, batch), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(logits, in_parts)
    assert logits.dtype == np.float32
    assert {file.name for file in artifact.directory.iterdir()} == {MODEL_FILE, "manifest.json"}


@pytest.mark.parametrize(
    ("precision", "batch_size", "cores", "threads"),
    [("int8", 2, 3, 0), ("int8", 3, 3, 1), ("int8", 4, 3, 1), ("int8", 1, 1, 0), ("fp32", 4, 3, 0)],
)
def test_in_eight_bits_every_core_runs_the_graph_on_a_part_where_there_is_a_picture_for_each(
    precision: str, batch_size: int, cores: int, threads: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, open_one = [], ort_backend.open_session

    def noted(*arguments: object, **options: int) -> object:
        opened.append(options["threads"])
        return open_one(*arguments, **options)

    backend, workload = get_backend("onnxruntime"), Workload("vanilla_cnn", batch_size, precision)
    artifact, batch = build(backend, workload, root), noise(workload)
    whole = open_one(artifact.directory / MODEL_FILE, "cpu").run(None, {"images": batch})[0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(ort_backend, "open_session", noted)
    with backend.load(artifact) as runner:
        np.testing.assert_allclose(runner.infer(batch), whole, rtol=1e-4, atol=1e-5)
    assert opened == [threads]


@pytest.mark.parametrize(("precision", "stored"), [("fp32", "fp32"), ("tf32", "fp32"), ("fp16", "fp16")])
def test_the_stored_precision_is_read_from_the_graph(root: Path, precision: str, stored: str) -> None:
    backend = get_backend("onnxruntime")
    artifact = build(backend, Workload("vanilla_cnn", 1, precision, "cuda"), root)
    assert backend.stored_precision(artifact) == stored


def test_an_fp32_graph_under_an_fp16_label_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = ort_backend.export_onnx
    monkeypatch.setattr(
        ort_backend, "export_onnx", lambda model, _, path: export(model, Workload("vanilla_cnn", 1), path)
    )
    with pytest.raises(CourseError, match="fp32 weights where fp16 was asked for"):
        build(get_backend("onnxruntime"), Workload("vanilla_cnn", 1, "fp16", "cuda"), tmp_path)
    assert not (tmp_path / "onnx" / "vanilla_cnn-fp16").exists()


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", "0"), ("tf32", "1"), ("fp16", "1")])
def test_only_fp32_turns_tf32_off_for_without_it_no_convolution_reaches_the_tensor_cores(
    precision: str, allowed: str
) -> None:
    assert ort_backend.arithmetic(find_precision(precision)) == {"use_tf32": allowed}


def test_a_session_that_fell_back_is_refused_in_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = build(get_backend("onnxruntime"), Workload("vanilla_cnn", 1, "fp32", "cpu"), root)
    monkeypatch.setenv("ORT_CUDA_UNAVAILABLE", "1")  # ONNX Runtime then takes CUDA's libraries for missing
    with pytest.raises(CourseError) as refused:
        open_session(artifact.directory / MODEL_FILE, "cuda")
    assert "fell back from CUDAExecutionProvider to CPUExecutionProvider" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_session_is_on_the_gpu_of_its_workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StoppedError(Exception):
        """Nothing after the options is of interest."""

    def prepared(runner: Any, workload: Workload) -> None:
        runner.workload, runner.stream = workload, SimpleNamespace(cuda_stream=7)

    def opened(path: Path, device: str, options: dict[str, str]) -> None:
        assert options == {"use_tf32": "1", "device_id": "1", "user_compute_stream": "7"}
        raise StoppedError

    monkeypatch.setattr(ort_backend.BufferedRunner, "__init__", prepared)
    monkeypatch.setattr(ort_backend, "open_session", opened)
    with pytest.raises(StoppedError):
        get_backend("onnxruntime").load(Artifact(Workload("vanilla_cnn", 1, "fp16", "cuda:1"), tmp_path))


@pytest.mark.parametrize(
    ("asked", "cores", "given", "threads"),
    [(None, 4, 4, 0), ("3", 4, 4, 3), (None, 4, 2, 3), ("3", 4, 2, 3)],
)
def test_a_cpu_session_has_the_threads_that_the_environment_asks_for(
    root: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, cores: int, given: int, threads: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(given)))
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    artifact = build(get_backend("onnxruntime"), Workload("vanilla_cnn", 1, "fp32", "cpu"), root)
    session = open_session(artifact.directory / MODEL_FILE, "cpu")
    assert session.get_session_options().intra_op_num_threads == threads


def test_a_session_that_leaves_work_to_another_provider_is_refused_in_one_line(root: Path) -> None:
    artifact = build(get_backend("onnxruntime"), Workload("vanilla_cnn", 1, "fp32", "cpu"), root)
    session = open_session(artifact.directory / MODEL_FILE, "cpu")
    ort_backend.check_assignment(session, "CPUExecutionProvider")
    with pytest.raises(CourseError, match=r"Conv .* \(CPUExecutionProvider\)") as refused:
        ort_backend.check_assignment(session, "CUDAExecutionProvider")  # as if the work had been meant for a GPU
    assert "\n" not in str(refused.value)
    assert "Reshape" not in str(refused.value)  # it moves nothing


@pytest.mark.parametrize("name", [*NAMES, "onnxruntime-tensorrt"])
@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_remedy(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    found = get_backend(name).availability("cpu")
    assert not found.usable
    assert package in found.reason
    assert package in found.remedy


@pytest.mark.parametrize(
    ("name", "precision", "device", "reason"),
    [
        ("onnxruntime", "fp16", "cpu", "FP16"),
        ("onnxruntime", "tf32", "cpu", "TF32"),
        ("onnxruntime", "bf16", "cuda", "course does not measure BF16"),
        ("onnxruntime-iobinding", "fp32", "cpu", "device memory"),
        ("onnxruntime-cudagraph", "fp32", "cpu", "device memory"),
    ],
)
def test_what_is_not_measured_says_why(name: str, precision: str, device: str, reason: str) -> None:
    support = get_backend(name).supports(Workload("vanilla_cnn", 1, precision, device))
    assert not support.ok
    assert reason in support.reason


@pytest.mark.parametrize("change", [{"versions": {"onnxruntime": "0.1"}}, {"weights_sha256": "other"}])
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
def test_the_session_is_on_the_gpu(root: Path, name: str) -> None:
    backend, workload = get_backend(name), Workload("vanilla_cnn", 1, "fp32", "cuda")
    with backend.load(build(backend, workload, root)) as runner:
        captured = getattr(runner, "_captured", runner)  # of a graph, the session that it recorded
        assert captured._session.get_providers()[0] == "CUDAExecutionProvider"


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["onnxruntime-iobinding", "onnxruntime-cudagraph"])
def test_a_convolution_in_fp16_is_quicker_than_in_fp32_where_it_fills_the_gpu(root: Path, name: str) -> None:
    """Off the tensor cores, FP16 gains a factor of two over FP32 at most; on them, a multiple of that."""

    def milliseconds(precision: str) -> float:
        workload = Workload("resnet18", 64, precision, "cuda")
        with get_backend(name).load(build(get_backend(name), workload, root)) as runner:
            runner.upload(noise(workload))
            samples = []
            for _ in range(8):
                runner.synchronize()
                start = time.perf_counter()
                runner.compute()
                runner.synchronize()
                samples.append(time.perf_counter() - start)
        return min(samples) * 1e3

    assert milliseconds("fp32") > 2.2 * milliseconds("fp16")
