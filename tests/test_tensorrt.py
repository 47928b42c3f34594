"""The TensorRT backend: its builder runs here with TensorRT for RTX, its run path is checked by types."""

import fcntl
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from inference_lib.backends import get_backend
from inference_lib.backends.onnxruntime import INPUT, MODEL_FILE, OUTPUT, export_onnx
from inference_lib.backends.shared.buffers import BufferedRunner
from inference_lib.backends.tensorrt import backend as backend_module
from inference_lib.backends.tensorrt import engine as engine_module
from inference_lib.backends.tensorrt.engine import (
    ENGINE_FILE,
    EngineRunner,
    build_engine,
    engine_layers,
    load_engine,
    load_tensorrt,
    logger,
    parse,
    read_timings,
    trt,
    why_no_build,
    write_timings,
)
from inference_lib.measure.benchmark import benchmark
from inference_lib.measure.profiles import get_profile
from inference_lib.records.store import RecordStore
from inference_lib.seam import MODELS, Artifact, Workload, build
from inference_lib.support import paths
from inference_lib.support.errors import CourseError
from inference_lib.zoo.networks import load_pretrained

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

SOURCE = Path(engine_module.__file__)
FAMILY = ("onnxruntime-tensorrt", "tensorrt", "torch-tensorrt")


@pytest.fixture
def fresh_import() -> Iterator[None]:
    """Let load_tensorrt look again, in the test and after it."""
    load_tensorrt.cache_clear()
    yield
    load_tensorrt.cache_clear()


@pytest.fixture(scope="module")
def builder() -> str:
    """Skip where no engine can be built; return the name of the module that builds."""
    reason = why_no_build()
    if reason:
        pytest.skip(f"{reason} (TensorRT for RTX builds on any machine: pip install -e .[rtx])")
    return load_tensorrt()[1]


@pytest.fixture(scope="module")
def graphs(root: Path) -> Callable[[str, str], Path]:
    """Return a function that exports a model in a precision, unless that was done before."""

    def graph(model: str, precision: str) -> Path:
        return build(get_backend("onnxruntime"), Workload(model, 1, precision, "cuda"), root).directory / MODEL_FILE

    return graph


def fake_tensorrt(version: str) -> ModuleType:
    module = ModuleType("tensorrt")
    module.Builder = object  # type: ignore[attr-defined]
    module.__version__ = version  # type: ignore[attr-defined]
    return module


def use(monkeypatch: pytest.MonkeyPatch, tensorrt: ModuleType | None, rtx: ModuleType | None, gpu: bool) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)
    monkeypatch.setattr(backend_module, "gpu_works", lambda: gpu)


@pytest.mark.parametrize("name", FAMILY)
def test_where_nothing_is_installed_every_cell_says_so_and_what_would_mend_it(
    name: str, fresh_import: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, None, None, gpu=False)
    for device in ("cpu", "cuda"):
        found = get_backend(name).availability(device)
        assert not found.usable
        assert "TensorRT is not installed" in found.reason
        assert "pip install tensorrt-cu13==10.15.1.29" in found.remedy
    records = benchmark([name], ["resnet18"], "cpu", get_profile("quick"), RecordStore(tmp_path))
    assert {(r.status, r.reason) for r in records} == {("unavailable", f"{found.reason}; {found.remedy}")}


@pytest.mark.usefixtures("fresh_import")
def test_what_cannot_build_says_why(builder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, None, None, gpu=False)
    load_tensorrt.cache_clear()
    assert why_no_build() == "TensorRT is not installed"


@pytest.mark.usefixtures("fresh_import")
def test_type_stubs_alone_are_not_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ModuleType("tensorrt"), None, gpu=True)
    assert get_backend("tensorrt").availability("cuda").reason == "TensorRT is not installed"


@pytest.mark.usefixtures("fresh_import")
def test_a_package_without_its_library_gives_the_loader_s_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text("raise OSError('libnvinfer.so.10: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert "libnvinfer.so.10: cannot open" in get_backend("tensorrt").availability("cuda").reason


@pytest.mark.usefixtures("fresh_import")
def test_tensorrt_is_preferred_and_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, fake_tensorrt("10.15.1.29"), fake_tensorrt("1.7"), gpu=True)
    assert get_backend("tensorrt").availability("cuda").version == "10.15.1.29"
    use(monkeypatch, fake_tensorrt("10.15.1.29"), None, gpu=False)
    assert get_backend("tensorrt").availability("cuda").reason == "no NVIDIA GPU answers"


@pytest.mark.parametrize(("capability", "usable"), [((9, 0), False), ((10, 0), False), ((8, 9), True), ((12, 0), True)])
@pytest.mark.usefixtures("fresh_import")
def test_tensorrt_for_rtx_runs_on_the_gpus_it_supports(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], usable: bool
) -> None:
    use(monkeypatch, None, fake_tensorrt("1.7.1"), gpu=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    found = get_backend("tensorrt").availability("cuda")
    assert found.usable == usable
    if usable:
        assert found.version == "1.7.1 (TensorRT for RTX)"
    else:
        assert f"compute capability {capability[0]}.{capability[1]}, it supports 8.0, 8.6" in found.reason


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(("precision", "device", "reason"), [("fp32", "cpu", "GPUs only"), ("bf16", "cuda", "BF16")])
def test_what_is_not_measured_says_why(name: str, precision: str, device: str, reason: str) -> None:
    support = get_backend(name).supports(Workload("resnet18", 1, precision, device))
    assert not support.ok
    assert reason in support.reason


@pytest.mark.parametrize("name", FAMILY)
def test_no_two_engines_share_a_place(name: str) -> None:
    workloads = [
        Workload(model, size, precision, "cuda")
        for model in MODELS
        for size in (1, 8)
        for precision in ("fp32", "tf32", "fp16")
    ]
    assert len({get_backend(name).artifact_key(workload) for workload in workloads}) == len(workloads)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_parsed_network_keeps_the_names_and_types_of_the_graph(
    builder: str, graphs: Callable[[str, str], Path], model: str, precision: str
) -> None:
    network = parse(trt.Builder(logger()), graphs(model, precision))
    dtype = trt.DataType.HALF if precision == "fp16" else trt.DataType.FLOAT
    images, logits = network.get_input(0), network.get_output(0)
    assert (images.name, images.dtype, tuple(images.shape)) == (INPUT, dtype, (-1, 3, 224, 224))
    assert (logits.name, logits.dtype, tuple(logits.shape)) == (OUTPUT, dtype, (-1, 10))
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    (types,) = ({layer.get_output(0).dtype for layer in layers if layer.type == trt.LayerType.CONVOLUTION},)
    assert types == {dtype}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("batches", [4, (1, 4, 8)], ids=["static", "dynamic"])
def test_engines_are_built_and_hold_the_weights(
    builder: str, graphs: Callable[[str, str], Path], model: str, precision: str, batches: int | tuple[int, int, int]
) -> None:
    engine = build_engine(graphs(model, precision), batches)
    weights = sum(p.numel() for p in load_pretrained(model).parameters()) * (2 if precision == "fp16" else 4)
    assert 0.95 * weights < len(engine) < 1.25 * weights + 2e6


def test_an_engine_s_layers_say_what_was_fused(builder: str, graphs: Callable[[str, str], Path]) -> None:
    graph = graphs("resnet18", "fp16")
    layers = engine_layers(graph, 8)
    assert 10 < len(layers) < parse(trt.Builder(logger()), graph).num_layers
    fused = [parts for _, parts in layers if len(parts) == 3]
    assert len(fused) >= 4
    assert all(any(part.startswith(kind) for part in parts) for parts in fused for kind in ("Conv", "relu", "add"))


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_a_flag_of_the_builder(builder: str, graphs: Callable[[str, str], Path], tf32: bool) -> None:
    seen: list[bool] = []
    build_engine(
        graphs("vanilla_cnn", "fp32"), 1, tf32=tf32, configure=lambda c: seen.append(c.get_flag(trt.BuilderFlag.TF32))
    )
    assert seen == [tf32]


def test_every_name_it_uses_is_in_an_api_without_the_flags_that_tensorrt_11_removed(builder: str) -> None:
    """TensorRT for RTX never had the flags for weak typing, so what is found there is in TensorRT 11, too."""
    rtx = pytest.importorskip("tensorrt_rtx")
    assert not hasattr(rtx.BuilderFlag, "FP16")
    used = set(re.findall(r"\btrt((?:\.[A-Z]\w*)+)", SOURCE.read_text()))
    assert ".BuilderFlag.TF32" in used
    for chain in used:
        found = rtx
        for name in chain.split(".")[1:]:
            found = getattr(found, name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda raw: raw[: len(raw) // 2], "Failed to parse the ONNX model"),
        (lambda raw: raw.replace(b"MaxPool", b"MinPool"), "operator: MinPool"),
        (lambda raw: b"no model at all", "broken.onnx"),
    ],
    ids=["cut short", "unknown operator", "text"],
)
def test_a_broken_file_shows_the_parser_s_own_error(
    builder: str, graphs: Callable[[str, str], Path], tmp_path: Path, content: Callable[[bytes], bytes], reason: str
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(content(graphs("vanilla_cnn", "fp32").read_bytes()))
    with pytest.raises(CourseError, match=re.escape(reason)):
        build_engine(broken, 1)


def test_a_profile_that_makes_no_sense_is_refused(builder: str, graphs: Callable[[str, str], Path]) -> None:
    with pytest.raises(CourseError, match="MIN<=OPT<=MAX"):
        build_engine(graphs("vanilla_cnn", "fp32"), (4, 2, 8))


def test_a_build_that_fails_gives_tensorrt_s_reason(
    builder: str, graphs: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "set_batches", lambda *_: None)  # a dynamic batch without a profile
    with pytest.raises(CourseError, match="no optimization profile has been defined"):
        build_engine(graphs("vanilla_cnn", "fp32"), 1)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_artifact_is_an_engine_and_a_graph_without_weights(builder: str, tmp_path: Path, precision: str) -> None:
    import onnx

    backend = get_backend("tensorrt")
    artifact = build(backend, Workload("vanilla_cnn", 2, precision, "cuda"), tmp_path)
    assert backend.stored_precision(artifact) == precision
    weights = [w for w in onnx.load(artifact.directory / MODEL_FILE).graph.initializer if len(w.dims) >= 2]
    assert weights
    assert not any(weight.raw_data for weight in weights)
    engine = (artifact.directory / ENGINE_FILE).stat().st_size
    assert engine < artifact.size_bytes < engine + 100_000
    assert artifact.manifest["versions"][builder] == load_tensorrt()[0].__version__


def test_an_fp32_graph_under_an_fp16_label_is_refused(
    builder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        backend_module, "export_onnx", lambda model, _, path: export_onnx(model, Workload("vanilla_cnn", 1), path)
    )
    with pytest.raises(CourseError, match="fp32 weights where fp16 was asked for"):
        build(get_backend("tensorrt"), Workload("vanilla_cnn", 1, "fp16", "cuda"), tmp_path)


def test_an_engine_for_another_gpu_is_rebuilt(builder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, workload = get_backend("tensorrt"), Workload("vanilla_cnn", 1, "fp16", "cuda")
    engine = build(backend, workload, tmp_path).directory / ENGINE_FILE
    made = engine.stat().st_mtime_ns
    build(backend, workload, tmp_path)
    assert engine.stat().st_mtime_ns == made
    monkeypatch.setattr(backend_module, "gpu_identity", lambda: "another GPU, compute capability 8.9")
    manifest = build(backend, workload, tmp_path).manifest
    assert engine.stat().st_mtime_ns > made
    assert "another GPU" in json.dumps(manifest)


def test_an_engine_that_is_none_gives_tensorrt_s_reason(builder: str, tmp_path: Path) -> None:
    (tmp_path / ENGINE_FILE).write_bytes(b"no engine")
    with pytest.raises(CourseError, match=r"TensorRT does not load model.engine: .*[Ee]rror"):
        load_engine(tmp_path / ENGINE_FILE)


@pytest.mark.parametrize("content", [None, b"no cache"], ids=["none yet", "damaged"])
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_a_timing_cache_is_read_and_written(builder: str, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "timings.cache"
    if content is not None:
        path.write_bytes(content)
    config = trt.Builder(logger()).create_builder_config()
    read_timings(config, path)
    write_timings(config, path)
    written = path.read_bytes()
    assert written != content
    read_timings(config, path)


@pytest.mark.parametrize("name", FAMILY)
def test_kernels_are_timed_by_one_process_at_a_time_and_the_wait_does_not_count(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, workload = type(get_backend(name)), Workload("vanilla_cnn", 1, "fp16", "cuda")
    lock = tmp_path / name / "builder.lock"
    lock.parent.mkdir()
    seconds = 0.5

    def export(*_: object) -> None:
        with lock.open("w") as second, pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)

    monkeypatch.setattr(kind, "versions", lambda _: {})
    monkeypatch.setattr(kind, "stored_precision", lambda *_: "fp16")
    monkeypatch.setattr(kind, "export", export)
    monkeypatch.setattr(export, "__module__", kind.__module__, raising=False)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(seconds, other.close).start()
        assert build(get_backend(name), workload, tmp_path).manifest["build_seconds"] < seconds / 2
    with lock.open("w") as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FakeContext:
    """An execution context that answers yes, except to ``refused``."""

    def __init__(self, refused: str, shape: tuple[int, ...]) -> None:
        self._refused, self._shape, self.calls = refused, shape, []  # type: ignore[var-annotated]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape if name == INPUT else (self._shape[0], 10)

    def __getattr__(self, name: str) -> Callable[..., bool]:
        def call(*arguments: object) -> bool:
            self.calls.append((name, *arguments))
            return name != self._refused

        return call


def run_on(context: FakeContext | None, dtype: object, monkeypatch: pytest.MonkeyPatch) -> EngineRunner:
    """Construct the runner on a made-up engine and queue one execution."""

    def buffers(self: BufferedRunner, workload: Workload) -> None:
        self.workload = workload
        self.stream = SimpleNamespace(cuda_stream=7)
        self.buffers = SimpleNamespace(input=torch.zeros(workload.input_shape).half(), output=torch.zeros(2, 10).half())

    engine = SimpleNamespace(create_execution_context=lambda: context, get_tensor_dtype=lambda name: dtype)
    monkeypatch.setattr(BufferedRunner, "__init__", buffers)
    monkeypatch.setattr(engine_module, "load_engine", lambda path: engine)
    runner = EngineRunner(Artifact(Workload("vanilla_cnn", 2, "fp16", "cuda"), Path("nowhere")))
    runner.compute()
    return runner


SHAPE = (2, 3, 224, 224)


def test_the_runner_gives_the_engine_its_shape_its_addresses_and_its_stream(
    builder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = FakeContext("", SHAPE)
    runner = run_on(context, trt.DataType.HALF, monkeypatch)
    assert context.calls == [
        ("set_input_shape", INPUT, SHAPE),
        ("set_tensor_address", INPUT, runner.buffers.input.data_ptr()),
        ("set_tensor_address", OUTPUT, runner.buffers.output.data_ptr()),
        ("execute_async_v3", 7),
    ]


@pytest.mark.parametrize("refused", ["set_input_shape", "set_tensor_address", "execute_async_v3"])
def test_what_tensorrt_refuses_with_false_raises(builder: str, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    with pytest.raises(CourseError):
        run_on(FakeContext(refused, SHAPE), trt.DataType.HALF, monkeypatch)


def test_an_engine_of_another_type_or_shape_is_not_bound(builder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CourseError, match=r"the engine's images is DataType\.FLOAT"):
        run_on(FakeContext("", SHAPE), trt.DataType.FLOAT, monkeypatch)
    with pytest.raises(CourseError, match=r"\[4, 3, 224, 224\]"):
        run_on(FakeContext("", (4, 3, 224, 224)), trt.DataType.HALF, monkeypatch)
    with pytest.raises(CourseError, match="no execution context"):
        run_on(None, trt.DataType.HALF, monkeypatch)


STUB_MENDINGS = (
    (r"\bin: ", "in_: "),  # a keyword as a name
    (r"channel_axis: int\)", "channel_axis: int = ...)"),  # a default before it
    (r"^import typing$", "import typing\nimport builtins\nimport typing_extensions"),  # its own ``bool`` hides Python's
    (r"-> bool:", "-> builtins.bool:"),
    (r": bool\b", ": builtins.bool"),
)

WRONG_CALLS = (
    ("execute_async_v3(self.stream.cuda_stream)", "execute_async_v3(self.stream)", 'incompatible type "Stream"'),
    ("set_tensor_address(name, tensor.data_ptr())", "set_tensor_address(name, tensor)", 'incompatible type "Tensor"'),
    ("set_flag(trt.BuilderFlag.TF32)", "set_flag(trt.BuilderFlag.TF16)", 'no attribute "TF16"'),
    ("profile.set_shape(INPUT, smallest, best, largest)", "profile.set_shape(INPUT, smallest)", "Missing positional"),
    ("add_optimization_profile(profile) < 0", "add_optimization_profile(config) < 0", '"IBuilderConfig"'),
    ("deserialize_cuda_engine(path.read_bytes())", "deserialize_cuda_engine(path)", 'of "deserialize_cuda_engine"'),
    ("set_input_shape(INPUT, self.workload.input_shape)", "set_input_shape(INPUT, 2)", 'of "set_input_shape"'),
)


ONLY_WHAT_THE_CALLS_NEED = """
[mypy]
check_untyped_defs = true
follow_imports = skip
ignore_missing_imports = true

[mypy-inference_lib.backends.*,inference_lib.seam.*,torch,torch._tensor,torch.cuda.*,torch.types]
follow_imports = silent
"""
"""All of PyTorch would take mypy six times as long. Stubs are followed anyway."""


def test_every_call_is_checked_against_tensorrt_s_type_stubs(tmp_path: Path) -> None:
    """Mypy accepts the calls, and a copy with wrong ones shows that it would have noticed."""
    stubs = importlib.util.find_spec("tensorrt_stubs")
    if stubs is None or stubs.origin is None:
        pytest.skip("no type stubs for TensorRT: pip install --no-deps tensorrt-stubs")
    pytest.importorskip("mypy")
    installed = Path(stubs.origin).parents[1]
    for package in ("tensorrt", "tensorrt_bindings"):
        for stub in (installed / package).glob("*.pyi"):
            text = stub.read_text()
            for found, mended in STUB_MENDINGS:
                text = re.sub(found, mended, text, flags=re.MULTILINE)
            (tmp_path / "stubs" / package).mkdir(parents=True, exist_ok=True)
            (tmp_path / "stubs" / package / stub.name).write_text(text)
    source = SOURCE.read_text()
    assert "type: ignore" not in source
    for right, wrong, _ in WRONG_CALLS:
        assert right in source
        source = source.replace(right, wrong)
    (tmp_path / "wrong.py").write_text(source)

    (tmp_path / "mypy.ini").write_text(ONLY_WHAT_THE_CALLS_NEED)
    options = [f"--config-file={tmp_path / 'mypy.ini'}", f"--cache-dir={paths.BUILD / 'mypy'}"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(SOURCE), str(tmp_path / "wrong.py")],
        cwd=paths.ROOT,
        env=os.environ | {"MYPYPATH": str(tmp_path / "stubs")},
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    assert [line for line in checked if f"tensorrt/{SOURCE.name}:" in line] == []
    wrong_lines = [line for line in checked if "wrong.py:" in line and " error: " in line]
    assert len(wrong_lines) == len(WRONG_CALLS), checked
    for _, wrong, complaint in WRONG_CALLS:
        assert any(complaint in line for line in wrong_lines), (wrong, wrong_lines)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_gpu_runners_agree_with_the_model(tmp_path: Path, name: str, precision: str, batch_size: int) -> None:
    backend, workload = get_backend(name), Workload("resnet18", batch_size, precision, "cuda")
    found = backend.availability("cuda")
    if not found.usable:
        pytest.skip(found.reason)
    tolerance = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2}[precision]
    model = load_pretrained("resnet18")
    with backend.load(build(backend, workload, tmp_path)) as runner:
        for seed in (1, 2):  # a second input: a stale output would be the first one's
            batch = np.random.default_rng(seed).normal(size=workload.input_shape).astype(workload.host_dtype)
            expected = model(torch.from_numpy(batch).float()).numpy()
            logits = runner.infer(batch)
            assert np.abs(logits - expected).max() <= tolerance * np.abs(expected).max()
            runner.upload(batch)
            runner.compute()
            np.testing.assert_array_equal(runner.download(), logits)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILY)
def test_fp32_is_ieee_and_tf32_is_not(tmp_path: Path, name: str) -> None:
    backend, differences = get_backend(name), {}
    found = backend.availability("cuda")
    if not found.usable:
        pytest.skip(found.reason)
    for precision in ("fp32", "tf32"):
        workload = Workload("resnet18", 4, precision, "cuda")
        batch = np.random.default_rng(0).normal(size=workload.input_shape).astype(np.float32)
        expected = load_pretrained("resnet18")(torch.from_numpy(batch)).numpy()
        with backend.load(build(backend, workload, tmp_path)) as runner:
            differences[precision] = np.abs(runner.infer(batch) - expected).max() / np.abs(expected).max()
    assert differences["fp32"] < 5e-5 < differences["tf32"]
