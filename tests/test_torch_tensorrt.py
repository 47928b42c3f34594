"""The Torch-TensorRT backend: its calls fit the package's own source, and what falls back to PyTorch is refused."""

import ast
import importlib.util
import operator
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from inference_lib.backends import get_backend
from inference_lib.backends import torch_tensorrt as backend_module
from inference_lib.backends.shared.buffers import BufferedRunner
from inference_lib.backends.tensorrt import load_tensorrt
from inference_lib.backends.torch_tensorrt import ProgramRunner, compile_options, outside_of_engines, tensor_types
from inference_lib.course import notebook
from inference_lib.seam import Artifact, Workload
from inference_lib.support import paths
from inference_lib.support.errors import CourseError
from inference_lib.zoo.networks import load_pretrained

FP16 = Workload("vanilla_cnn", 2, "fp16", "cuda")


@pytest.fixture(scope="module")
def package() -> Path:
    """Return the folder of the package's source, which is read and not imported."""
    spec = importlib.util.find_spec("torch_tensorrt")
    if spec is None or spec.origin is None:
        pytest.skip("Torch-TensorRT is not installed: pip install --no-deps torch-tensorrt==2.11.0")
    return Path(spec.origin).parent


def parameters(file: Path, function: str) -> set[str]:
    """Return the names of the parameters of ``function`` in a source file."""
    (found,) = [n for n in ast.parse(file.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == function]
    return {argument.arg for argument in (*found.args.posonlyargs, *found.args.args, *found.args.kwonlyargs)}


def constants(file: Path) -> dict[str, object]:
    """Return the plain constants that a source file assigns."""
    found: dict[str, object] = {}
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def test_every_call_fits_the_package_s_source(package: Path) -> None:
    options = compile_options(FP16, Path("timings"))
    assert {*options, "exported_program", "arg_inputs"} <= parameters(package / "dynamo/_compiler.py", "compile")
    assert {"module", "file_path", "arg_inputs"} <= parameters(package / "_compile.py", "save")
    assert {"file_path"} <= parameters(package / "_compile.py", "load")
    assert {"compiled_module"} <= parameters(package / "runtime/_cudagraphs.py", "enable_cudagraphs")
    assert "class errors" in (package / "logging.py").read_text()
    assert "torch.ops.tensorrt.execute_engine.default" in (package / "dynamo/_exporter.py").read_text()


def test_explicit_typing_is_the_default_so_the_module_s_own_precision_counts(package: Path) -> None:
    assert constants(package / "dynamo/_defaults.py")["USE_EXPLICIT_TYPING"] is True
    assert "enabled_precisions" not in compile_options(FP16)


def test_the_chapter_shows_the_package_s_names_and_defaults(package: Path) -> None:
    source = notebook.source_notebook(paths.NOTEBOOKS / "10_torch_tensorrt.py")
    (cell,) = [c.source for c in notebook.code_cells(source) if c.source.startswith("DEFAULTS = ")]
    shown = ast.literal_eval(cell.removeprefix("DEFAULTS = "))
    defaults = constants(package / "dynamo/_defaults.py")
    accepted = parameters(package / "dynamo/_compiler.py", "compile")
    assert len(shown) >= 6
    for name, (value, _) in shown.items():
        assert name in accepted
        assert defaults[name.upper()] == value


@pytest.mark.parametrize(("precision", "disabled"), [("fp32", True), ("tf32", False), ("fp16", True)])
def test_tf32_is_off_unless_asked_for(precision: str, disabled: bool) -> None:
    assert compile_options(Workload("vanilla_cnn", 1, precision, "cuda"))["disable_tf32"] is disabled


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return a made-up torch_tensorrt beside a made-up TensorRT and GPU."""
    tensorrt, framework = ModuleType("tensorrt"), ModuleType("torch_tensorrt")
    tensorrt.Builder, tensorrt.__version__ = object, "10.15.1.29"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", framework)
    monkeypatch.setattr(backend_module, "gpu_works", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(backend_module.importlib.metadata, "version", lambda name: "2.11.0")
    load_tensorrt.cache_clear()
    yield framework
    load_tensorrt.cache_clear()


def test_it_is_usable_where_all_parts_are(installed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = get_backend("torch-tensorrt")
    assert (backend.availability("cuda").usable, backend.availability("cuda").version) == (True, "2.11.0")
    monkeypatch.setattr(backend_module, "gpu_works", lambda: False)
    assert backend.availability("cuda").reason == "no NVIDIA GPU answers"


def test_without_tensorrt_or_with_the_wrong_one_it_says_so(
    installed: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    assert "cannot be imported" in get_backend("torch-tensorrt").availability("cuda").reason
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", sys.modules["tensorrt"])
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    load_tensorrt.cache_clear()
    reason = get_backend("torch-tensorrt").availability("cuda").reason
    assert reason == "TensorRT is not installed (TensorRT for RTX 10.15.1.29 is, and Torch-TensorRT does not use it)"


@pytest.fixture(scope="module")
def execute_engine() -> Iterator[torch._ops.OpOverload]:
    """Register an operation with the name of Torch-TensorRT's."""
    library = torch.library.Library("tensorrt", "FRAGMENT")
    library.define("execute_engine(Tensor[] images) -> Tensor[]")
    yield torch.ops.tensorrt.execute_engine.default
    library._destroy()


def program(execute_engine: torch._ops.OpOverload, rest: object = None) -> torch.fx.Graph:
    """Return the graph of a compiled program, with one operation more where ``rest`` is one."""
    graph = torch.fx.Graph()
    images = graph.placeholder("images")
    images.meta["val"] = torch.zeros(2, 3, 224, 224).half()
    logits = graph.call_function(operator.getitem, (graph.call_function(execute_engine, ([images],)), 0))
    logits.meta["val"] = torch.zeros(2, 10).half()
    graph.output((graph.call_function(rest, (logits,)) if callable(rest) else logits,))
    return graph


def test_what_pytorch_computes_itself_is_found(execute_engine: torch._ops.OpOverload) -> None:
    assert outside_of_engines(program(execute_engine)) == []
    assert outside_of_engines(program(execute_engine, torch.ops.aten.softmax.int)) == ["aten.softmax.int"]
    images = (torch.zeros(2, 3, 224, 224),)
    exported = torch.export.export(load_pretrained("vanilla_cnn"), images).graph
    assert "aten.conv2d.default" in outside_of_engines(exported)
    assert tensor_types(exported) == {torch.float32}


@pytest.mark.parametrize("model", ["vanilla_cnn"])
def test_the_stored_precision_is_read_from_the_program(
    execute_engine: torch._ops.OpOverload, installed: ModuleType, tmp_path: Path, model: str
) -> None:
    installed.load = lambda path: SimpleNamespace(graph=program(execute_engine))  # type: ignore[attr-defined]
    assert get_backend("torch-tensorrt").stored_precision(Artifact(FP16, tmp_path)) == "fp16"


def test_a_program_with_a_rest_for_pytorch_is_refused(
    execute_engine: torch._ops.OpOverload, installed: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graphs = [program(execute_engine), program(execute_engine, torch.ops.aten.softmax.int)]
    monkeypatch.setattr(BufferedRunner, "__init__", lambda self, workload: None)
    installed.load = lambda path: SimpleNamespace(graph=graphs.pop(0), module=lambda: "module")  # type: ignore[attr-defined]
    ProgramRunner(Artifact(FP16, tmp_path))
    with pytest.raises(CourseError, match=r"left aten\.softmax\.int to PyTorch"):
        ProgramRunner(Artifact(FP16, tmp_path))
