"""The torch.compile and AOTInductor backends: what was compiled is the model, and compiled it was."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from inputs import eager_logits, noise
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import cpu_vec_isa, select_algorithm

from inference_lib.backends import get_backend
from inference_lib.backends import torch_compile as compiler
from inference_lib.backends.pytorch import WEIGHTS_FILE
from inference_lib.backends.shared.fusion import fuse_convolutions
from inference_lib.backends.torch_compile import Recipe, pad_channels, prepare, space_to_depth
from inference_lib.backends.torch_compile.backend import CACHE_FOLDER, PACKAGE_FILE
from inference_lib.backends.torch_compile.inductor import compiling
from inference_lib.seam import MODELS, PRECISIONS, Artifact, Workload, build
from inference_lib.support.errors import CourseError
from inference_lib.zoo.networks import load_pretrained

NAMES = ("torch-compile", "aot-inductor")


def test_what_inductor_writes_to_standard_error_is_not_shown_and_what_it_raises_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A search for kernels writes its candidates there, without a setting that keeps it from doing so."""

    def search() -> None:
        select_algorithm.sys.stderr.write("AUTOTUNE addmm(16x128, 16x6272, 6272x128)")
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"), compiling():
        search()
    sys.stderr.write("after")
    assert capsys.readouterr() == ("", "after")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("model", "batch_size"), [*((model, 1) for model in MODELS), ("vanilla_cnn", 5)])
def test_the_runners_compute_what_the_model_computes(root: Path, name: str, model: str, batch_size: int) -> None:
    backend, workload = get_backend(name), Workload(model, batch_size, "fp32", "cpu")
    first, second = noise(workload), noise(workload, seed=1)
    with backend.load(build(backend, workload, root)) as runner:
        logits = runner.infer(first)
        kept = logits.copy()
        runner.upload(second)
        runner.compute()
        in_parts = runner.download()
    for found, batch in ((logits, first), (in_parts, second)):
        expected = eager_logits(model, batch)
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    np.testing.assert_array_equal(logits, kept)
    assert logits.dtype == np.float32


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "recipe",
    [Recipe(), Recipe(channels=4), Recipe(channels=8), Recipe(space_to_depth=True), Recipe(16, space_to_depth=True)],
    ids=["plain", "4 channels", "8 channels", "space to depth", "space to depth, 16 channels"],
)
def test_every_recipe_prepares_the_same_function(model: str, recipe: Recipe) -> None:
    workload = Workload(model, 2, "fp32", "cpu")
    prepared, batch = prepare(load_pretrained(model), workload, recipe), noise(workload)
    expected = eager_logits(model, batch)
    logits = prepared(torch.from_numpy(batch)).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.modules())


@pytest.mark.parametrize(
    ("change", "read"),
    [
        (lambda m: pad_channels(m, 4), (4, 7, 2)),
        (lambda m: pad_channels(m, 8), (8, 7, 2)),
        (space_to_depth, (12, 4, 1)),
    ],
)
def test_the_first_convolution_is_changed_in_a_copy(change: object, read: tuple[int, int, int]) -> None:
    model = load_pretrained("resnet18")
    changed, _ = change(model)  # type: ignore[operator]
    found = changed.conv1
    assert (found.in_channels, found.kernel_size[0], found.stride[0]) == read
    assert model.conv1.weight.shape == (64, 3, 7, 7)
    assert changed.fc.weight is model.fc.weight  # nothing else is copied


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_images_enter_as_the_host_has_them_and_leave_as_the_weights_are(precision: str) -> None:
    workload = Workload("vanilla_cnn", 1, precision, "cuda")
    prepared = prepare(load_pretrained("vanilla_cnn").to(workload.torch_dtype), workload, Recipe(channels=4))
    assert {p.dtype for p in prepared.parameters()} == {workload.torch_dtype}
    assert prepared(torch.from_numpy(noise(workload))).dtype == workload.torch_dtype


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_stored_precision_is_read_from_the_library(root: Path, precision: str) -> None:
    backend, workload = get_backend("aot-inductor"), Workload("vanilla_cnn", 1, precision, "cpu")
    assert backend.stored_precision(build(backend, workload, root)) == precision


def test_exporting_leaves_the_recipe_as_it_was(root: Path) -> None:
    build(get_backend("aot-inductor"), Workload("vanilla_cnn", 1, "fp32", "cpu"), root)
    assert compiler.RECIPES["cpu"] == Recipe()  # PyTorch adds options of its own to those it is given


def test_an_fp32_library_under_an_fp16_label_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = get_backend("aot-inductor")
    wrong = build(backend, Workload("vanilla_cnn", 1, "fp32", "cpu"), root).directory / PACKAGE_FILE
    monkeypatch.setattr(compiler.backend, "compile_ahead", lambda model, images, path, recipe: shutil.copy(wrong, path))
    with pytest.raises(CourseError, match="fp32 weights where fp16 was asked for"):
        build(backend, Workload("vanilla_cnn", 1, "fp16", "cpu"), tmp_path)


def test_ahead_of_time_weights_are_rounded_once_after_the_batch_norms_are_folded_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = []
    monkeypatch.setattr(compiler.backend, "compile_ahead", lambda model, *_: prepared.append(model))
    monkeypatch.setattr(compiler.backend, "check_runtime", bool)
    workload = Workload("vanilla_cnn", 1, "fp16", "cpu")
    get_backend("aot-inductor").export(load_pretrained("vanilla_cnn"), workload, tmp_path)
    exact = dict(prepare(load_pretrained("vanilla_cnn"), Workload("vanilla_cnn", 1, "fp32", "cpu")).named_parameters())
    for name, weights in prepared[0].named_parameters():
        assert torch.equal(weights, exact[name].half())


def test_a_fused_model_has_the_type_that_is_asked_for() -> None:
    fused = fuse_convolutions(load_pretrained("vanilla_cnn"), torch.float16)
    assert {weights.dtype for weights in fused.parameters()} == {torch.float16}


@pytest.mark.parametrize(("device", "index"), [("cpu", -1), ("cuda", 0), ("cuda:1", 1)])
def test_a_library_is_loaded_on_the_gpu_of_its_workload(
    device: str, index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda _, **options: loaded.append(options))
    monkeypatch.setattr(compiler.backend, "_runner", lambda *_: None)
    get_backend("aot-inductor").load(Artifact(Workload("vanilla_cnn", 1, "fp32", device), tmp_path))
    assert loaded == [{"run_single_threaded": True, "device_index": index}]


def test_freezing_folds_batch_norms_and_is_done_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval().requires_grad_(False)
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    counters.clear()
    with compiler.compiling():
        call = compiler.compiled(model, images)
    assert counters["inductor"]["binary_folding"] > 0
    with torch.inference_mode():
        torch.testing.assert_close(call(images), model(images))
    assert counters["stats"]["unique_graphs"] == 1  # compiled once, while the options held


@pytest.mark.parametrize("name", NAMES)
def test_what_is_compiled_is_kept_apart(name: str) -> None:
    cells = [("cpu", 1, "fp32"), ("cuda", 1, "fp32"), ("cuda", 2, "fp32"), ("cuda", 1, "tf32"), ("cuda", 1, "fp16")]
    workloads = [Workload("resnet18", size, precision, device) for device, size, precision in cells]
    assert len({get_backend(name).artifact_key(w) for w in workloads}) == len(workloads)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["torch", "cpu", "gpu", "recipes"])
def test_what_is_compiled_depends_on_what_compiled_it_and_for_what(
    name: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = get_backend(name).versions()
    if key == "recipes":
        monkeypatch.setitem(compiler.RECIPES, "cuda", Recipe(channels=8))
    elif key == "torch":
        monkeypatch.setattr(torch, "__version__", "0.1")
    elif key == "cpu":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "Z80")
    else:
        monkeypatch.setattr(compiler.backend, "gpu_identity", lambda: "another GPU")
    after = get_backend(name).versions()
    assert {name for name in before if before[name] != after[name]} == {key}


LOAD_AGAIN = """
import sys
import tempfile
from pathlib import Path
import numpy as np
from torch._dynamo.utils import counters
from torch._inductor import cpp_builder
from inference_lib.backends import get_backend
from inference_lib.seam import Workload, build
def refuse(command, cwd): raise AssertionError("compiled at load: " + command)
cpp_builder.run_compile_cmd = refuse
backend, workload = get_backend("torch-compile"), Workload("vanilla_cnn", 1)
with backend.load(build(backend, workload, Path(sys.argv[1]))) as runner:
    np.save(sys.argv[2], runner.infer(np.load(sys.argv[3])))
print("traced", counters["stats"]["unique_graphs"])
"""


def test_another_process_compiles_nothing_and_traces_once(root: Path, tmp_path: Path) -> None:
    backend, workload = get_backend("torch-compile"), Workload("vanilla_cnn", 1)
    artifact = build(backend, workload, root)
    assert {path.name for path in artifact.directory.iterdir()} == {CACHE_FOLDER, WEIGHTS_FILE, "manifest.json"}
    np.save(tmp_path / "batch.npy", noise(workload))
    paths = [str(path) for path in (root, tmp_path / "logits.npy", tmp_path / "batch.npy")]
    environment = os.environ | {"PYTHONPATH": str(Path(compiler.__file__).parents[3])}
    command = [sys.executable, "-W", "ignore", "-c", LOAD_AGAIN, *paths]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["traced", "1"]  # the first inference does not trace again
    expected = eager_logits("vanilla_cnn", noise(workload))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-4, atol=1e-4)


def test_the_caches_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with compiler.compiling(tmp_path):
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
        assert Path(os.environ["TRITON_CACHE_DIR"]).parent == tmp_path
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"
    assert "TRITON_CACHE_DIR" not in os.environ


@pytest.mark.gpu
def test_a_gpu_s_program_is_found_in_the_cache(root: Path) -> None:
    backend, workload = get_backend("torch-compile"), Workload("resnet18", 1, "fp16", "cuda")
    artifact = build(backend, workload, root)
    counters.clear()
    torch._dynamo.reset()
    with backend.load(artifact):
        assert counters["inductor"]["fxgraph_cache_hit"] >= 1
        assert counters["inductor"]["fxgraph_cache_miss"] == 0


@pytest.mark.gpu
def test_a_gpu_s_kernels_are_tuned_when_they_are_exported_and_not_when_they_are_loaded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    backend, workload = get_backend("torch-compile"), Workload("resnet18", 1, "fp16", "cuda")
    artifact = build(backend, workload, root)
    torch._dynamo.reset()
    monkeypatch.setattr(CachingAutotuner, "benchmark_all_configs", lambda *_, **__: pytest.fail("tuned again"))
    with backend.load(artifact) as runner:
        runner.infer(noise(workload))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_compiler_is_said_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_backend(name).availability("cpu").usable
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = get_backend(name).availability("cpu")
    assert not found.usable
    assert "no-such-compiler" in found.reason
    assert "apt-get install g++" in found.remedy


@pytest.mark.parametrize(("flags", "known"), [("-O2", True), ("-mno-such-instructions", False)])
def test_vector_instructions_are_believed_if_the_compiler_knows_them(
    flags: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    instructions = cpu_vec_isa.VecAVX2()
    monkeypatch.setattr(instructions, "build_arch_flags", lambda: flags)
    loaded: list[object] = []
    monkeypatch.setattr(subprocess, "check_call", loaded.append)  # Inductor's own test ends in another process
    with compiler.believing_the_processor():
        assert instructions.check_build("") is known
    assert not loaded


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_triton_is_said_for_a_gpu_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference_lib.backends.pytorch.gpu_works", lambda: True)
    monkeypatch.setattr(compiler.inductor, "find_spec", lambda name: None)
    assert get_backend(name).availability("cpu").usable
    assert get_backend(name).availability("cuda").reason == "triton is not installed"


def test_a_compiler_that_is_switched_off_is_noticed(tmp_path: Path) -> None:
    """The variable is read when PyTorch is imported, so another process has to see it."""
    program = (
        "import sys; from pathlib import Path; from inference_lib.backends import get_backend\n"
        "from inference_lib.seam import Workload, build\n"
        "from inference_lib.support.errors import CourseError\n"
        "backend = get_backend('torch-compile')\n"
        "try: build(backend, Workload('vanilla_cnn', 1, 'fp32', 'cpu'), Path(sys.argv[1]))\n"
        "except CourseError as error: print('refused:', error)"
    )
    environment = os.environ | {"TORCH_COMPILE_DISABLE": "1", "PYTHONPATH": str(Path(compiler.__file__).parents[3])}
    command = [sys.executable, "-c", program, str(tmp_path)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.startswith("refused: torch.compile compiled nothing; unset TORCH_COMPILE_DISABLE")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_library_runs_without_the_course_s_code(root: Path, tmp_path: Path, device: str) -> None:
    backend, workload = get_backend("aot-inductor"), Workload("vanilla_cnn", 1, "fp32", device)
    package = build(backend, workload, root).directory / PACKAGE_FILE
    np.save(tmp_path / "images.npy", noise(workload))
    program = (
        "import sys; sys.modules['inference_lib'] = sys.modules['torchvision'] = None\n"
        "import numpy, torch\n"
        "from torch._inductor.cpu_vec_isa import VecISA\n"
        "VecISA.check_build = lambda *_: True  # else loading compiles, for each set of instructions\n"
        "torch.backends.cudnn.allow_tf32 = False\n"
        "images = torch.from_numpy(numpy.load('images.npy')).to(sys.argv[2])\n"
        "call = torch._inductor.aoti_load_package(sys.argv[1], run_single_threaded=True)\n"
        "numpy.save('logits.npy', call(images).cpu().numpy())"
    )
    command = [sys.executable, "-X", "faulthandler", "-c", program, str(package), device]
    subprocess.run(command, cwd=tmp_path, check=True)
    expected = eager_logits("vanilla_cnn", noise(workload))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "recipe", [Recipe(channels=4), Recipe(channels=8), Recipe(16, space_to_depth=True), Recipe(cudnn_fusion=True)]
)
def test_every_recipe_compiles_to_the_same_function_on_a_gpu(recipe: Recipe) -> None:
    workload = Workload("resnet18", 4, "fp16", "cuda")
    images = torch.from_numpy(noise(workload)).cuda()
    expected = eager_logits("resnet18", noise(workload))
    with compiler.compiling(), torch.inference_mode():
        model = prepare(load_pretrained("resnet18").cuda().half(), workload, recipe)
        logits = compiler.compiled(model, images, recipe)(images).float().cpu().numpy()
    assert np.abs(logits - expected).max() <= PRECISIONS["fp16"].tolerance * np.abs(expected).max()


def command_of(folder: Path) -> list[str]:
    """Return the words of the command that links a library in ``folder`` with one that is there."""
    from torch._inductor.cpp_builder import BuildOptionsBase, CppBuilder

    options = BuildOptionsBase(compiler="g++", libraries_dirs=[str(folder)], libraries=["torch"])
    builder = CppBuilder("name", [str(folder / "a.o"), str(folder / "b.o")], options, str(folder))
    return shlex.split(builder.get_command_line())


def test_paths_with_spaces_stay_whole_in_the_compiler_s_command(tmp_path: Path) -> None:
    folder = tmp_path / "my environment's folder"
    with compiler.quoting_paths():
        words = command_of(folder)
    assert {f"-L{folder}", str(folder / "a.o"), str(folder / "b.o"), str(folder / "name.so")} <= set(words)
    assert f"-L{tmp_path / 'plain'}" in command_of(tmp_path / "plain")  # PyTorch's own way is back


def test_a_model_is_compiled_and_loaded_where_paths_have_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a temporary folder"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    backend, workload = get_backend("torch-compile"), Workload("vanilla_cnn", 1)
    with backend.load(build(backend, workload, folder)) as runner:
        np.testing.assert_allclose(
            runner.infer(noise(workload)), eager_logits("vanilla_cnn", noise(workload)), rtol=1e-4, atol=1e-4
        )


def test_a_library_with_a_c_library_of_its_own_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    static = tmp_path / "g++"
    static.write_text('#!/bin/sh\nexec g++ "$@" -static-libstdc++\n')
    static.chmod(0o755)
    chosen = torch._inductor.config.patch({"cpp.cxx": (None, str(static))})
    with chosen, pytest.raises(CourseError, match=r"links the C\+\+ library statically.*set CXX to another"):
        build(get_backend("aot-inductor"), Workload("vanilla_cnn", 1), tmp_path / "artifacts")


def test_tuned_kernels_are_not_tuned_again_in_an_artifact_that_was_moved(tmp_path: Path) -> None:
    """As an export leaves it: compiled and tuned in a folder of its own, which is then renamed."""
    from torch._inductor.runtime import triton_heuristics
    from torch._inductor.runtime.autotune_cache import AutotuneCache
    from torch._inductor.runtime.triton_compat import Config

    variants = [Config({"XBLOCK": block}, num_warps=4, num_stages=1) for block in (512, 1024)]
    made, moved = tmp_path / "made", tmp_path / "moved"
    source = made / "xy" / "cxyz.py"
    source.parent.mkdir(parents=True)
    cache = AutotuneCache.create({}, str(source), triton_heuristics.hash_configs(variants))
    assert cache is not None
    cache.save(variants[1], 1000)
    made.rename(moved)

    def left_to_tune() -> list[Config]:
        kernel = object.__new__(triton_heuristics.CachingAutotuner)  # as it comes out of Inductor's cache
        kernel.filename, kernel.inductor_meta, kernel.compile_results = str(source), {}, []
        for variant in variants:
            kernel.compile_results.append(object.__new__(triton_heuristics.StaticTritonCompileResult))
            kernel.compile_results[-1].config = variant
        kernel.recheck_autotune_cache(lambda: kernel)
        return [result.config for result in kernel.compile_results]

    assert left_to_tune() == variants
    with compiler.compiling(moved):
        assert left_to_tune() == variants[1:]
    assert left_to_tune() == variants
