"""The OpenVINO backends: the compiled graph is the model, in the precision of its label, one request or a queue."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inputs import CELLS, eager_logits, noise

from inference_lib.backends import get_backend
from inference_lib.backends import openvino as ov_backend
from inference_lib.backends.openvino import MODEL_FILE, compile_ir, computed_precisions, import_openvino
from inference_lib.measure import timing
from inference_lib.seam import PRECISIONS, Workload, build
from inference_lib.support.errors import CourseError
from inference_lib.zoo.networks import load_pretrained

if not get_backend("openvino").availability("cpu").usable:  # it imports openvino without its telemetry
    pytest.skip("openvino is not installed", allow_module_level=True)

NAMES = ("openvino", "openvino-throughput")
HAS_BF16 = get_backend("openvino").supports(Workload("vanilla_cnn", 1, "bf16", "cpu")).ok
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no instructions for BF16")
MEASURED = ["fp32", pytest.param("bf16", marks=needs_bf16)]


@pytest.mark.parametrize(("model", "batch_size"), CELLS)
@pytest.mark.parametrize("precision", MEASURED)
def test_the_compiled_graph_computes_what_the_model_computes(
    root: Path, model: str, precision: str, batch_size: int
) -> None:
    workload = Workload(model, batch_size, precision, "cpu")
    batch, other = noise(workload), noise(workload, seed=1)
    expected = eager_logits(model, batch)
    for name in NAMES:
        with get_backend(name).load(build(get_backend(name), workload, root)) as runner:
            logits = runner.infer(batch)
            for images in (other, batch):  # a stale output would be the other's
                runner.upload(images)
                runner.compute()
            in_parts = runner.download()
        assert np.abs(logits - expected).max() <= PRECISIONS[precision].tolerance * np.abs(expected).max()
        np.testing.assert_allclose(logits, in_parts, rtol=1e-5, atol=1e-5)
        assert logits.dtype == in_parts.dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
def test_both_hints_and_all_batch_sizes_share_an_artifact(root: Path, name: str) -> None:
    artifact = build(get_backend(name), Workload("vanilla_cnn", 3, "fp32", "cpu"), root)
    assert artifact.directory == root / "openvino" / "vanilla_cnn-fp32"
    assert {file.name for file in artifact.directory.iterdir()} == {MODEL_FILE, "model.bin", "manifest.json"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_stored_precision_is_read_from_the_graph(root: Path, precision: str) -> None:
    backend = get_backend("openvino")
    artifact = build(backend, Workload("mobilenet_v2", 1, precision, "cpu"), root)
    assert backend.stored_precision(artifact) == precision


def test_weights_are_rounded_to_the_nearest_bf16(root: Path) -> None:
    """OpenVINO's own conversion truncates every other value, which a model's accuracy hardly shows."""
    ov = import_openvino()
    path = build(get_backend("openvino"), Workload("vanilla_cnn", 1, "bf16", "cpu"), root).directory / MODEL_FILE
    stored = [ov_backend._stored(node) for node in ov_backend._weights(ov.Core().read_model(path))]
    widened = ov.Model([ov.opset13.convert(constant, "f32") for constant in stored], [], "weights")
    compiled = ov.Core().compile_model(widened, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    weights = [parameter for parameter in load_pretrained("vanilla_cnn").parameters() if parameter.dim() >= 2]
    found = {value.shape: value for value in compiled([]).values()}
    last = weights[-1].detach()
    np.testing.assert_array_equal(found[tuple(last.shape)], last.bfloat16().float().numpy())


def test_weights_that_layers_share_are_rounded_once(tmp_path: Path) -> None:
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.conv(torch.relu(self.conv(self.stem(images)))))

    ov = import_openvino()
    ov_backend.export_ir(Shared().eval(), Workload("vanilla_cnn", 1, "bf16", "cpu"), tmp_path / MODEL_FILE)
    graph = ov.Core().read_model(tmp_path / MODEL_FILE)
    types = [ov_backend._stored(node).get_element_type().get_type_name() for node in ov_backend._weights(graph)]
    assert types == ["bf16"] * 3


@pytest.mark.parametrize("asked", [None, "1"])
def test_it_has_the_threads_that_the_environment_asks_for(
    root: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    workload = Workload("vanilla_cnn", 1, "fp32", "cpu")
    path = build(get_backend("openvino"), workload, root).directory / MODEL_FILE
    own = compile_ir(path, workload, {}).get_property("INFERENCE_NUM_THREADS")
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    found = compile_ir(path, workload, {}).get_property("INFERENCE_NUM_THREADS")
    assert found == (1 if asked else own)


@pytest.mark.parametrize("stored", ["fp16", "bf16"])
def test_a_file_in_another_precision_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str) -> None:
    ov, export = import_openvino(), ov_backend.export_ir
    if stored == "fp16":  # what save_model does unless told otherwise
        save = ov.save_model
        monkeypatch.setattr(ov, "save_model", lambda graph, path, compress_to_fp16: save(graph, path))
    else:
        monkeypatch.setattr(
            ov_backend, "export_ir", lambda model, _, path: export(model, Workload("vanilla_cnn", 1, "bf16"), path)
        )
    with pytest.raises(CourseError, match=f"{stored} weights where fp32 was asked for"):
        build(get_backend("openvino"), Workload("vanilla_cnn", 1, "fp32", "cpu"), tmp_path)
    assert not (tmp_path / "openvino" / "vanilla_cnn-fp32").exists()


@pytest.mark.parametrize("precision", MEASURED)
def test_the_layers_compute_in_the_precision_of_the_label(root: Path, precision: str) -> None:
    artifact = build(get_backend("openvino"), Workload("vanilla_cnn", 1, precision, "cpu"), root)
    with get_backend("openvino").load(artifact) as runner:
        assert computed_precisions(runner.compiled) == {{"fp32": "f32", "bf16": "bf16"}[precision]}


def test_a_file_in_half_precision_does_not_pass_for_computing_in_it(root: Path, tmp_path: Path) -> None:
    ov = import_openvino()
    path = build(get_backend("openvino"), Workload("vanilla_cnn", 1, "fp32", "cpu"), root).directory / MODEL_FILE
    ov.save_model(ov.Core().read_model(path), tmp_path / MODEL_FILE)  # FP16 unless told otherwise
    compiled = ov.Core().compile_model(tmp_path / MODEL_FILE, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert computed_precisions(compiled) == {"f32"}


@needs_bf16
def test_a_graph_that_computes_in_another_precision_than_asked_for_is_refused(tmp_path: Path) -> None:
    """The hint is no order: a graph that was exported in BF16 throughout ignores f32, and reports it all the same."""
    ov = import_openvino()
    model = load_pretrained("vanilla_cnn").bfloat16()
    program = torch.export.export(model, (torch.zeros(2, 3, 224, 224, dtype=torch.bfloat16),))
    ov.save_model(ov.convert_model(program), tmp_path / MODEL_FILE, compress_to_fp16=False)
    with pytest.raises(CourseError, match="computes in bf16 and f32 where f32 was asked for"):
        compile_ir(tmp_path / MODEL_FILE, Workload("vanilla_cnn", 2), {})


@needs_bf16
def test_a_hint_that_was_not_taken_is_refused(root: Path) -> None:
    path = build(get_backend("openvino"), Workload("vanilla_cnn", 1, "fp32", "cpu"), root).directory / MODEL_FILE
    with pytest.raises(CourseError, match="computes in bf16 where f32 was asked for"):
        compile_ir(path, Workload("vanilla_cnn", 1), {"INFERENCE_PRECISION_HINT": "bf16"})


def test_the_hints_are_the_compiled_model_s(root: Path) -> None:
    for name, hint, streams in zip(NAMES, ("LATENCY", "THROUGHPUT"), (range(1, 2), range(1, 1000)), strict=True):
        artifact = build(get_backend(name), Workload("vanilla_cnn", 1, "fp32", "cpu"), root)
        with get_backend(name).load(artifact) as runner:
            assert runner.compiled.get_property("PERFORMANCE_HINT") == hint
            assert runner.compiled.get_property("NUM_STREAMS") in streams


def test_an_answer_that_was_kept_is_not_overwritten(root: Path) -> None:
    workload = Workload("vanilla_cnn", 1, "fp32", "cpu")
    for name in NAMES:
        with get_backend(name).load(build(get_backend(name), workload, root)) as runner:
            runner.upload(noise(workload))
            runner.compute()
            kept = [runner.infer(noise(workload)), runner.download()]
            copied = [answer.copy() for answer in kept]
            for _ in range(20):
                runner.infer(noise(workload, seed=1))
                runner.upload(noise(workload, seed=1))
                runner.compute()
            runner.synchronize()
        np.testing.assert_array_equal(kept, copied)


def test_what_is_submitted_is_done_after_synchronize_and_the_last_answer_comes_down(root: Path) -> None:
    workload = Workload("vanilla_cnn", 2, "fp32", "cpu")
    batches = [noise(workload, seed) for seed in range(3)]
    with get_backend("openvino-throughput").load(build(get_backend("openvino-throughput"), workload, root)) as runner:
        for batch in batches * 4:
            runner.upload(batch)
            for _ in range(5):  # more than there are requests: some are used twice
                runner.compute()
        runner.synchronize()
        assert all(request.wait_for(0) for request in runner._queue)
        np.testing.assert_allclose(runner.download(), eager_logits("vanilla_cnn", batches[-1]), rtol=1e-4, atol=1e-4)


def test_a_queue_answers_in_the_order_of_the_batches_even_where_their_array_is_used_again(root: Path) -> None:
    workload = Workload("vanilla_cnn", 2, "fp32", "cpu")
    batches, place = [noise(workload, seed=seed) for seed in range(9)], noise(workload)

    def in_one_place() -> Iterator[np.ndarray]:
        for batch in batches:
            place[:] = batch
            yield place

    backend = get_backend("openvino-throughput")
    with backend.load(build(backend, workload, root)) as runner:
        found = list(runner.answers(in_one_place()))
        expected = [runner.infer(batch) for batch in batches]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def keeps_the_first_number_one(workload: Workload) -> Any:
    """Return a graph, compiled for two streams, that gives batches back, and fails where the first number is not 1.

    Of OpenVINO's own operations: what fails in Python is dropped by a thread that then waits for Python's lock.
    """
    ov = import_openvino()
    images = ov.opset13.parameter(list(workload.input_shape), np.float32)
    first = ov.opset13.slice(ov.opset13.reshape(images, np.array([-1]), False), [0], [1], [1])
    rest = ov.opset13.constant(np.array(workload.input_shape[1:], np.int64))
    shape = ov.opset13.concat([ov.opset13.convert(first, "i64"), rest], 0)
    graph = ov.Model([ov.opset13.result(ov.opset13.reshape(images, shape, False))], [images])
    return ov.Core().compile_model(graph, "CPU", {"NUM_STREAMS": 2})


def test_a_request_of_a_queue_that_fails_is_a_failure(root: Path) -> None:
    workload = Workload("vanilla_cnn", 1, "fp32", "cpu")
    batches = [noise(workload, seed=seed) for seed in range(6)]
    for number, batch in enumerate(batches):
        batch.flat[0] = 7 if number == 3 else 1
    backend = get_backend("openvino-throughput")
    with backend.load(build(backend, workload, root)) as runner:
        runner.compiled, runner.at_once = keeps_the_first_number_one(workload), 2
        np.testing.assert_array_equal(list(runner.answers(batches[:3])), batches[:3])
        for _ in range(20):  # requests that nobody waited for corrupted memory sooner or later
            with pytest.raises(RuntimeError, match="shape"):
                list(runner.answers(batches))


def test_parts_of_a_queued_inference_are_waited_for(root: Path) -> None:
    """Without the wait, the host's clock would see the submission alone and charge the model to the download."""
    workload = Workload("vanilla_cnn", 8, "fp32", "cpu")
    running = []
    with get_backend("openvino-throughput").load(build(get_backend("openvino-throughput"), workload, root)) as runner:
        download = runner.download
        runner.download = lambda: (running.append(not runner._queue[runner._last].wait_for(0)), download())[1]
        timing.time_parts(runner, [noise(workload)], timing.StoppingRule(0.05))
    assert running
    assert not any(running)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("precision", "reason"), [("fp16", "FP16"), ("tf32", "TF32")])
def test_what_is_not_measured_says_why(name: str, precision: str, reason: str) -> None:
    support = get_backend(name).supports(Workload("vanilla_cnn", 1, precision, "cpu"))
    assert not support.ok
    assert reason in support.reason


def test_a_cpu_without_bf16_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_openvino().Core, "get_property", lambda *_: ["FP32", "INT8"])
    support = get_backend("openvino").supports(Workload("vanilla_cnn", 1, "bf16", "cpu"))
    assert (support.ok, support.reason) == (False, "this CPU has no instructions for BF16")


@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_is_none_of_its_devices(name: str) -> None:
    found = get_backend(name).availability("cuda")
    assert not found.usable
    assert "NVIDIA" in found.reason
    assert not get_backend(name).supports(Workload("vanilla_cnn", 1, "fp32", "cuda")).ok


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = get_backend("openvino").availability("cpu")
    assert (found.usable, found.reason) == (False, "openvino is not installed")
    assert found.remedy.startswith("pip install openvino==")


def test_its_telemetry_is_off() -> None:
    import_openvino()
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
