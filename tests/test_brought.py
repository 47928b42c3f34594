"""Models that a reader brings: found by what is typed, exported by every framework, never taken for another."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxscript import ir
from torch import nn

from inference_lib.backends import BACKENDS, get_backend
from inference_lib.measure import accuracy
from inference_lib.measure.plan import Rival, why_not
from inference_lib.seam import (
    FASHION_MNIST,
    PRECISIONS,
    RANDOM,
    Model,
    Workload,
    build,
    find_artifact,
    find_model,
    supports,
)
from inference_lib.seam.sources import sources
from inference_lib.support.errors import CourseError
from inference_lib.support.failures import reason_of
from inference_lib.support.hashes import sha256_of
from inference_lib.zoo import backbones

NETWORKS = Path(__file__).with_name("brought.py")
QUICK = ("pytorch", "torchscript", "onnxruntime", "openvino", "tvm")
"""CPU backends that export a small network in a second; those of Inductor take ten."""


def network(name: str, input_shape: str | None = None) -> Model:
    return find_model(f"{NETWORKS}:{name}", input_shape)


def answers(model: Model, images: int = 8) -> np.ndarray:
    """Return the logits of the model's own module."""
    (batch,) = model.dataset.batches(images, (model.batch or images, *model.input_shape), np.dtype("float32"))
    with torch.inference_mode():
        return model.load()(torch.from_numpy(batch.copy())).numpy()[:images]


def check(model: Model, backend: str, root: Path, batch_size: int = 1) -> None:
    """Export with one framework, and fail where its answers are not the model's."""
    workload, images = Workload(model, batch_size), model.batch or 8
    artifact = build(get_backend(backend), workload, root)
    with get_backend(backend).load(artifact) as runner:
        found = accuracy.compare(accuracy.logits_of(runner, images), answers(model, images), None)
    assert accuracy.problem(found, workload.precision) is None
    assert found.accuracy_percent is None  # nobody knows what noise shows


@pytest.mark.parametrize("backend", QUICK)
@pytest.mark.parametrize(
    ("name", "input_shape"),
    [
        ("grey", "1x28x28"),
        ("sequence", "4x64"),
        ("film", "3x4x8x8"),
        ("Dropout", None),
        ("Tied", None),
        ("Picky", None),
    ],
)
def test_any_rank_and_habit_is_exported_with_the_same_answers(
    name: str, input_shape: str | None, backend: str, tmp_path: Path
) -> None:
    check(network(name, input_shape), backend, tmp_path, batch_size=3)


@pytest.mark.parametrize("backend", ["torch-compile", "aot-inductor"])
def test_inductor_takes_code_that_fx_does_not_follow(backend: str, tmp_path: Path) -> None:
    check(network("Picky"), backend, tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("TwoOutputs", "returns 2 outputs; wrap it in a module that returns one tensor, the logits"),
        ("TwoInputs", "reads 2 inputs; wrap it in a module that reads one"),
        ("NotANumber", "answers noise with numbers that are not finite"),
        ("AlwaysRandom", "answers the same input differently each time"),
        ("Unmade", "cannot be made: Attempted to use an uninitialized parameter"),
        ("on_no_device", "cannot be made: Cannot copy out of meta tensor"),
        ("quantized", "has weights that are no plain tensors: .*; bring it before it is quantized"),
        ("ends_the_process", "cannot be made: SystemExit: no checkpoint"),
        ("no_network", "returns a OrderedDict; let it return a torch.nn.Module"),
        ("scripted", "returns what TorchScript made; let it return the torch.nn.Module itself"),
        ("broken", "cannot be made: no such checkpoint: best.pt$"),
        ("grey", "does not tell its input's shape; give --input-shape"),
        ("nothing", "has no function 'nothing'"),
        ("misnamed", "has 4 outputs and 2 class_names; name each output, or none"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(name: str, said: str) -> None:
    with pytest.raises(CourseError, match=said) as error:
        network(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "input_shape", "said"),
    [
        ("resnet19", None, "unknown model 'resnet19'; choose one of: vanilla_cnn, resnet18, mobilenet_v2; or bring"),
        ("vanilla_cnn", "3x160x160", "vanilla_cnn takes 3x224x224 and no other"),
        ("nowhere.py:make", None, "nowhere.py does not exist"),
        ("no_such_package:make", None, "cannot be made: .*no_such_package"),
        ("torchvision:resnet", None, "no classifier 'resnet'; it has .*resnet50"),
        ("nowhere.onnx", None, "nowhere.onnx does not exist"),
        (f"{NETWORKS}:grey", "1x28", "does not run on 1x1x28: .*; give the shape of its input"),
        (f"{NETWORKS}:grey", "1xtwo", "'1xtwo' is no input shape; write the sizes without the batch"),
        (f"{NETWORKS}:grey", "0x28x28", "'0x28x28' is no input shape"),
        (f"{NETWORKS}:grey", f"3x{'9' * 5000}", r"'3x9{38}' is no input shape"),
        (f"{NETWORKS}:grey", "3x40000x40000", "takes more memory than there is"),
        ("torchvision:resnet18", "1x32x32", "read 3 x height x width, not 1x32x32"),
        ("torchvision:resnet18", "3x224", "read 3 x height x width, not 3x224"),
    ],
)
def test_a_wrong_name_or_shape_is_one_line(spec: str, input_shape: str | None, said: str) -> None:
    with pytest.raises(CourseError, match=said) as error:
        find_model(spec, input_shape)
    assert "\n" not in str(error.value)


def test_a_branch_on_data_is_refused_by_the_exporters_first_line(tmp_path: Path) -> None:
    model = network("Branch")
    check(model, "pytorch", tmp_path, batch_size=8)  # the branch is taken for a batch as a whole
    reasons = {"torchscript": "cannot be traced", "onnxruntime": "data-dependent", "openvino": "data-dependent"}
    for backend, said in reasons.items():
        with pytest.raises(Exception, match=r"data-dependent|traced|Data-dependent") as error:
            build(get_backend(backend), Workload(model, 1), tmp_path)
        reason = reason_of(error.value)
        assert said in reason
        assert "\n" not in reason
        assert "\x1b" not in reason


def test_an_overflow_in_fp16_fails_the_agreement_and_says_so() -> None:
    model = network("Overflow")
    (batch,) = model.dataset.batches(2, (2, *model.input_shape), np.dtype("float16"))
    with torch.inference_mode():
        logits = model.load().half()(torch.from_numpy(batch)).float().numpy()
    problem = accuracy.problem(accuracy.compare(logits, answers(model, 2), None), PRECISIONS["fp16"])
    assert problem == "some logits are not finite numbers: the largest in fp16 is 6.55e+04"


def test_weights_that_differ_at_every_call_are_refused() -> None:
    model = network("unseeded", "1x28x28")
    with pytest.raises(CourseError, match="returns other weights at every call"):
        model.load()


def test_a_network_that_answers_all_inputs_alike_is_refused(tmp_path: Path) -> None:
    source = "from torch import nn\ndef make():\n    n = nn.Linear(4, 2)\n    nn.init.zeros_(n.weight)\n    return n\n"
    (tmp_path / "flat.py").write_text(source)
    with pytest.raises(CourseError, match="answers every input alike"):
        find_model(f"{tmp_path / 'flat.py'}:make", "4")


def test_two_models_never_share_a_name_and_the_same_one_always_has_its_own(tmp_path: Path) -> None:
    source = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.{layer})\n"
    names = []
    for number, layer in enumerate(["Linear(48, 3)", "Linear(48, 4)", "Linear(48, 3)"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "net.py").write_text(source.format(layer=layer))
        names.append(find_model(f"{folder / 'net.py'}:make", "3x4x4").name)
    assert names[0] != names[1]
    assert names[0] == names[2]  # the same code and weights, wherever they lie
    other_shape = find_model(f"{tmp_path / '0' / 'net.py'}:make", "3x2x8")
    assert other_shape.name != names[0]
    assert str(tmp_path) not in "".join([*names, other_shape.title, other_shape.identity])


NO_CLASS = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), {0}, nn.Linear(48, 3)){1}\n"
"""PyTorch's layers alone: the weights are the same whatever stands between them."""


@pytest.mark.parametrize("place", ["{folder}/{name}.py", "{name}"])
@pytest.mark.parametrize(
    ("before", "after"), [(("nn.ReLU()", ""), ("nn.Tanh()", "")), (("nn.ReLU()", ""), ("nn.ReLU()", "  # edited"))]
)
def test_an_edit_of_a_network_makes_it_another(
    place: str, before: tuple[str, str], after: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: ReLU became Tanh, and the export of before was called fresh."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    name, found = f"edited_{tmp_path.name.replace('-', '_')}", []
    for edition in (before, after):
        (tmp_path / f"{name}.py").write_text(NO_CLASS.format(*edition))
        sys.modules.pop(name, None)
        found.append(find_model(f"{place.format(folder=tmp_path, name=name)}:make", "3x4x4"))
    assert found[0].name != found[1].name
    workload = Workload(found[0], 1)
    build(get_backend("pytorch"), workload, tmp_path / "artifacts")
    assert find_artifact(get_backend("pytorch"), Workload(found[1], 1), tmp_path / "artifacts") is None


HELPERS = {
    "net.py": "from torch import nn\n{0}\nclass Net(nn.Linear):\n    def forward(self, x):\n        return {1}\n"
    "def make():\n    return Net(4, 2)\n",
    "plain_{n}.py": "from inner_{n} import scaled\n",
    "inner_{n}.py": "def scaled(x):\n    return x * 2\n",
    "other_{n}.py": "nobody = 'imports it'\n",
}


@pytest.mark.parametrize(
    ("imported", "call"),
    [
        ("import plain_{n}", "plain_{n}.scaled(super().forward(x))"),
        ("from plain_{n} import scaled", "scaled(super().forward(x))"),
        ("if True:\n    from plain_{n} import scaled as s", "s(super().forward(x))"),
    ],
)
def test_an_edit_of_what_a_network_s_file_imports_makes_it_another(imported: str, call: str, tmp_path: Path) -> None:
    """Seen: a function in a file beside it was called by ``forward``, and its edit left the export of before fresh."""
    number = sha256_of([str(tmp_path).encode()])[:8]  # the modules of each test are its own
    for name, source in HELPERS.items():
        text = source.format(imported, call) if name == "net.py" else source
        (tmp_path / name.replace("{n}", number)).write_text(text.replace("{n}", number))

    def found() -> str:
        return find_model(f"{tmp_path / 'net.py'}:make", "4").name

    before = found()
    for name, changes in {f"other_{number}.py": False, f"inner_{number}.py": True}.items():
        with (tmp_path / name).open("a") as file:
            file.write("# edited\n")
        assert (found() != before) == changes


def test_a_package_s_relative_imports_are_followed_and_installed_packages_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"package_{sha256_of([str(tmp_path).encode()])[:8]}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "sizes.py").write_text("import json\nimport numpy\nWIDTH = 2\n")
    source = "from torch import nn\nfrom .sizes import WIDTH\nfrom . import sizes\n{0}"
    (tmp_path / name / "nets.py").write_text(source.format("def make():\n    return nn.Linear(4, WIDTH)\n"))
    monkeypatch.syspath_prepend(tmp_path)
    module = find_model(f"{name}.nets:make", "4").load()
    names = {str(path.relative_to(tmp_path)) for path in sources(module, f"{name}.nets:make")}
    assert names == {f"{name}/nets.py", f"{name}/sizes.py", f"{name}/__init__.py"}


def test_where_an_object_lies_in_memory_makes_no_other_network(tmp_path: Path) -> None:
    source = "    def extra_repr(self):\n        return repr(object())\n"
    code = f"from torch import nn\nclass Net(nn.Linear):\n{source}\ndef make():\n    return Net(4, 2)\n"
    (tmp_path / "net.py").write_text(code)
    kept = [find_model(f"{tmp_path / 'net.py'}:make", "4") for _ in range(2)]
    assert kept[0].name == kept[1].name


def test_a_model_reaches_another_process(tmp_path: Path) -> None:
    model = network("grey", "1x28x28")
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps(model))
    code = (
        f"import pickle; m = pickle.load(open({str(path)!r}, 'rb')); print(m.load()[0].weight.sum().item(), m.identity)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    total, identity = said.stdout.split()
    assert float(total) == model.load()[0].weight.sum().item()
    assert identity == model.identity


def test_a_file_is_read_as_it_is_now_and_nothing_is_written_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second, and as long as before: what Python's cache goes by is the same."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    network = tmp_path / "network.py"
    for value in (1, 2):
        network.write_text(f"def make():\n    return {value}\n")
        os.utime(network, (0, 0))
        assert backbones.call(str(network), "make") == value
    assert list(tmp_path.iterdir()) == [network]


def test_a_module_is_found_from_the_folder_of_the_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "readers_package.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(6, 2)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert find_model("readers_package:make", "6").outputs == 2


# ONNX files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make ONNX files of one network: batch open, batch fixed, weights outside, names that are ours inside."""
    folder = tmp_path_factory.mktemp("onnx")
    module = network("grey", "1x28x28").load()
    for name, batch, shapes in (("open", 2, ({0: torch.export.Dim("n")},)), ("fixed", 4, None)):
        example = (torch.zeros(batch, 1, 28, 28),)
        torch.onnx.export(module, example, folder / f"{name}.onnx", dynamic_shapes=shapes, verbose=False)
    graph = onnx.load(folder / "open.onnx")
    onnx.save(graph, folder / "outside.onnx", save_as_external_data=True, location="outside.bin", size_threshold=64)
    (folder / "cut.onnx").write_bytes((folder / "open.onnx").read_bytes()[:2000])
    model = ir.load(folder / "open.onnx")
    model.graph[0].outputs[0].name = "logits"  # the name that our runners want for the output
    ir.save(model, folder / "names.onnx")
    return folder


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tvm"])
@pytest.mark.parametrize(("name", "batch_size"), [("open", 3), ("fixed", 4), ("outside", 1), ("names", 1)])
def test_an_onnx_file_is_run_by_those_that_read_it(
    files: Path, name: str, batch_size: int, backend: str, tmp_path: Path
) -> None:
    model = find_model(str(files / f"{name}.onnx"))
    assert (model.input_shape, model.outputs, model.title) == ((1, 28, 28), 10, f"{name}.onnx")
    check(model, backend, tmp_path, batch_size)


def test_every_other_backend_says_why_not(files: Path) -> None:
    model = find_model(str(files / "fixed.onnx"))
    for name, backend in BACKENDS.items():
        if "onnx" not in name and "tensorrt" not in name and "openvino" not in name and "tvm" not in name:
            reason = f"{backend.title} needs a PyTorch module, and an ONNX file has none"
            assert why_not(Rival(name, Workload(model, 4))) == ("unsupported", reason)
    refused = supports(get_backend("onnxruntime"), Workload(model, 1))
    assert refused.reason == "fixed.onnx takes batches of 4 and no others"
    refused = supports(get_backend("onnxruntime"), Workload(model, 4, "fp16", "cuda"))
    assert refused.reason == "ONNX Runtime (run) runs an ONNX file in fp32 or tf32 or int8"


def test_a_file_that_is_cut_short_or_lacks_its_weights_is_one_line(files: Path, tmp_path: Path) -> None:
    with pytest.raises(CourseError, match=r"^cut.onnx cannot be read: .*[^.]; export it again") as error:
        find_model(str(files / "cut.onnx"))
    assert "\n" not in str(error.value)
    (tmp_path / "outside.onnx").write_bytes((files / "outside.onnx").read_bytes())
    with pytest.raises(CourseError, match=r"^outside.onnx cannot be read: .*outside.bin.*; export it again") as error:
        find_model(str(tmp_path / "outside.onnx"))
    assert "\n" not in str(error.value)


def test_weights_outside_the_file_count_as_the_file(files: Path, tmp_path: Path) -> None:
    for name in ("outside.onnx", "outside.bin"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    before = find_model(str(tmp_path / "outside.onnx"))
    assert before.identity == find_model(str(files / "outside.onnx")).identity
    changed = bytearray((tmp_path / "outside.bin").read_bytes())
    changed[-2] ^= 1
    (tmp_path / "outside.bin").write_bytes(changed)
    assert find_model(str(tmp_path / "outside.onnx")).identity != before.identity


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (1, 2)])
def test_an_onnx_file_with_several_ends_is_refused(inputs: int, outputs: int, tmp_path: Path) -> None:
    def ends(letter: str, count: int) -> list[onnx.ValueInfoProto]:
        make = onnx.helper.make_tensor_value_info
        return [make(f"{letter}{n}", onnx.TensorProto.FLOAT, ["batch", 4]) for n in range(count)]

    nodes = [onnx.helper.make_node("Relu", [f"x{n % inputs}"], [f"y{n}"]) for n in range(outputs)]
    nodes[0] = onnx.helper.make_node("Add", ["x0", f"x{inputs - 1}"], ["y0"])
    graph = onnx.helper.make_graph(nodes, "several", ends("x", inputs), ends("y", outputs))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "several.onnx")
    what = "2 inputs (x0, x1)" if inputs == 2 else "2 outputs (y0, y1)"
    with pytest.raises(CourseError, match=f"several.onnx has {what.replace('(', '.').replace(')', '.')}; the course"):
        find_model(str(tmp_path / "several.onnx"))


# torchvision


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_network_of_torchvision_is_exported(backend: str, hub: Path, tmp_path: Path) -> None:
    model = find_model("torchvision:shufflenet_v2_x0_5", "3x64x64")
    assert model.title == "shufflenet_v2_x0_5 (torchvision, random weights)"
    assert model.dataset is RANDOM
    assert np.ptp(answers(model), axis=0).max() > 1e-3 * np.abs(answers(model)).max()  # answers depend on the input
    check(model, backend, tmp_path)


def test_weights_in_the_cache_are_used_and_named_and_damaged_ones_are_refused(hub: Path) -> None:
    from torchvision import models

    random, weights = find_model("torchvision:squeezenet1_1"), models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    assert random.input_shape == (3, 224, 224)
    state = models.squeezenet1_1().state_dict()
    torch.save(state, hub / weights.url.rsplit("/", 1)[-1])
    stored = find_model("torchvision:squeezenet1_1")
    assert stored.title == "squeezenet1_1 (torchvision, weights IMAGENET1K_V1)"
    assert stored.name != random.name
    assert all(torch.equal(value, state[name]) for name, value in stored.load().state_dict().items())
    (hub / weights.url.rsplit("/", 1)[-1]).write_bytes(b"half a file")
    with pytest.raises(CourseError, match="does not hold the weights of squeezenet1_1; delete it"):
        find_model("torchvision:squeezenet1_1")


def test_no_pickle_is_loaded(hub: Path) -> None:
    from torchvision import models

    path = hub / models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    torch.save(nn.Linear(1, 1), path)  # a whole module: loading it would run code
    with pytest.raises(CourseError, match="does not hold the weights"):
        find_model("torchvision:squeezenet1_1")


def test_a_models_own_pictures_are_the_courses_or_noise() -> None:
    assert find_model("vanilla_cnn").dataset is FASHION_MNIST
    batches = [np.empty((2, 3, 8, 8), dtype) for dtype in (np.float32, np.float16)]
    for batch in batches:
        RANDOM.read(5, batch)
    assert (batches[0].astype(np.float16) == batches[1]).all()
    one = np.empty((1, 3, 8, 8), np.float32)
    RANDOM.read(6, one)
    assert (one[0] == batches[0][1]).all()  # a picture is the same wherever a batch begins
    assert RANDOM.labels() is None
