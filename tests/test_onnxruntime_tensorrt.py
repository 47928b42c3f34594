"""ONNX Runtime's TensorRT provider: its options are real, and nothing else passes as TensorRT."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType, SimpleNamespace

import pytest

from inference_lib.backends import get_backend
from inference_lib.backends import onnxruntime_tensorrt as backend_module
from inference_lib.backends.onnxruntime import MODEL_FILE, export_onnx
from inference_lib.backends.onnxruntime_tensorrt import environment, linked_tensorrt, open_session, provider_options
from inference_lib.backends.tensorrt import load_tensorrt
from inference_lib.seam import Artifact, Workload, find_model
from inference_lib.support.errors import CourseError
from inference_lib.zoo.networks import load_pretrained

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

LIBRARY = Path(ort.__file__).with_name("capi") / "libonnxruntime_providers_tensorrt.so"
FP16 = Workload("vanilla_cnn", 8, "fp16", "cuda")


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return a made-up TensorRT that is installed, on a made-up GPU."""
    module = ModuleType("tensorrt")
    module.Builder, module.__version__ = object, "10.15.1.29"  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec("tensorrt", None)  # PyTorch's exporter looks whether it is installed
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(backend_module, "gpu_works", lambda: True)
    load_tensorrt.cache_clear()
    linked_tensorrt.cache_clear()
    yield module
    load_tensorrt.cache_clear()
    linked_tensorrt.cache_clear()


@pytest.mark.skipif(not LIBRARY.exists(), reason="this onnxruntime has no TensorRT provider: pip install -e .[onnx]")
def test_every_option_is_one_of_the_provider_s(tensorrt: ModuleType, tmp_path: Path) -> None:
    known = LIBRARY.read_bytes()
    options = provider_options(tmp_path / "artifact", FP16)
    assert len(options) == 10
    for option in [*options, "trt_cuda_graph_enable", "trt_builder_optimization_level"]:
        assert b"\0" + option.encode() + b"\0" in known, option
    assert b"tf32" not in known  # why the environment must say it


def test_an_engine_is_for_one_shape_and_kept_with_its_graph(tensorrt: ModuleType, tmp_path: Path) -> None:
    options = provider_options(tmp_path / "artifact", FP16)
    assert {options[f"trt_profile_{end}_shapes"] for end in ("min", "opt", "max")} == {"images:8x3x224x224"}
    assert options["trt_engine_cache_path"] == str(tmp_path / "artifact")
    assert options["trt_fp16_enable"] == "1"
    assert options["device_id"] == "0"
    assert provider_options(tmp_path, Workload("vanilla_cnn", 8, "fp16", "cuda:1"))["device_id"] == "1"
    assert provider_options(tmp_path / "artifact", Workload("vanilla_cnn", 8))["trt_fp16_enable"] == "0"


def test_it_is_usable_with_the_version_that_it_is_linked_with(
    tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = get_backend("onnxruntime-tensorrt").availability("cuda")
    assert found.usable
    assert found.version == f"{ort.__version__}, TensorRT 10.15.1.29"
    tensorrt.__version__ = "11.0.0"  # type: ignore[attr-defined]
    found = get_backend("onnxruntime-tensorrt").availability("cuda")
    assert not found.usable
    assert found.reason == "the provider is linked with TensorRT 10, and 11.0.0 is installed"


def test_tensorrt_for_rtx_does_not_serve_the_provider(tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", tensorrt)
    load_tensorrt.cache_clear()
    found = get_backend("onnxruntime-tensorrt").availability("cuda")
    assert not found.usable
    assert "the provider does not use it" in found.reason


def test_an_onnxruntime_without_the_provider_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    found = get_backend("onnxruntime-tensorrt").availability("cuda")
    assert found.reason == "this build of onnxruntime has no TensorRT provider"


@pytest.mark.parametrize(("precision", "override"), [("fp32", "0"), ("fp16", "0"), ("tf32", None)])
@pytest.mark.parametrize("inherited", ["0", "1", None])
def test_tf32_is_off_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, precision: str, override: str | None, inherited: str | None
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    if inherited:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", inherited)
    assert environment(Workload("vanilla_cnn", 1, precision, "cuda")).get("NVIDIA_TF32_OVERRIDE") == override


@pytest.mark.skipif("tensorrt" in sys.modules and hasattr(sys.modules["tensorrt"], "Builder"), reason="TensorRT works")
def test_a_session_that_fell_back_is_refused(
    tensorrt: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real provider cannot be loaded here; ONNX Runtime would go on on the CPU if it were let."""
    export_onnx(load_pretrained("vanilla_cnn"), FP16, tmp_path / MODEL_FILE)
    with pytest.raises(CourseError, match=r"cannot run model.onnx in TensorRT alone"):
        open_session(tmp_path / MODEL_FILE, {})
    assert "Falling back" not in capfd.readouterr().out


def test_a_build_that_fails_says_why(tensorrt: ModuleType, tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).write_bytes(b"no model")
    with pytest.raises(CourseError, match=r"the TensorRT provider built no engine: \w+"):
        backend_module.build_in_process_of_its_own(tmp_path, FP16)


def test_the_process_that_builds_gets_a_reader_s_own_model_and_the_gpu_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, built = Workload(find_model("torchvision:squeezenet1_1"), 2, "fp16", "cuda:1"), []

    def start(command: list[str], **options: bytes) -> CompletedProcess[bytes]:
        monkeypatch.setattr(sys, "argv", command[2:])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(options["input"])))
        backend_module.main()
        (tmp_path / "a.engine").touch()
        return CompletedProcess(command, 0, b"", b"")

    def runner(artifact: Artifact, _: object) -> nullcontext[None]:
        built.append(artifact)
        return nullcontext()

    monkeypatch.setattr(backend_module, "ProviderRunner", runner)
    monkeypatch.setattr(backend_module.subprocess, "run", start)
    backend_module.build_in_process_of_its_own(tmp_path, workload)
    assert built == [Artifact(workload, tmp_path)]


@pytest.mark.parametrize(
    ("there", "written", "used"), [([], [], False), (["a"], ["b"], False), (["a"], ["a"], False), (["a"], [], True)]
)
def test_an_engine_that_was_built_at_load_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[str], written: list[str], used: bool
) -> None:
    def touch(names: list[str], when: int) -> None:
        for name in names:
            (tmp_path / f"{name}.engine").touch()
            os.utime(tmp_path / f"{name}.engine", ns=(when, when))

    def runner(*_: object) -> SimpleNamespace:
        touch(written, 2_000_000_000)
        return SimpleNamespace()

    touch(there, 1_000_000_000)
    monkeypatch.setattr(backend_module, "ProviderRunner", runner)
    artifact = Artifact(FP16, tmp_path)
    if used:
        assert get_backend("onnxruntime-tensorrt").load(artifact) is not None
    else:
        with pytest.raises(CourseError, match="did not use the engine"):
            get_backend("onnxruntime-tensorrt").load(artifact)
