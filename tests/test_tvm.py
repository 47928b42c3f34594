"""The TVM backend: the compiled library is the model, in the precision of its label, scheduled as it should be."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inputs import CELLS, eager_logits, largest_difference, noise, square
from torch import nn

from inference_lib.backends import get_backend
from inference_lib.backends.tvm import backend as tvm_backend
from inference_lib.backends.tvm import machine as tvm_machine
from inference_lib.backends.tvm.backend import (
    MODEL_FILE,
    compile_module,
    constants,
    cuda_target,
    dlight_rules,
    import_model,
    lower,
    schedule,
    target_of,
    tuned_schedules,
)
from inference_lib.seam import Artifact, Workload, build
from inference_lib.support.errors import CourseError
from inference_lib.zoo.networks import load_pretrained

tvm = pytest.importorskip("tvm")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library compile for an H100, which takes none."""
    for module in (tvm_backend, tvm_machine):
        monkeypatch.setattr(module, "gpu_architecture", lambda: "sm_90")


@pytest.mark.parametrize(("model", "batch_size"), [cell for cell in CELLS if cell[1] != 3])  # each is compiled apart
def test_a_library_computes_what_the_model_computes(root: Path, model: str, batch_size: int) -> None:
    backend, workload = get_backend("tvm"), Workload(model, batch_size, "fp32", "cpu")
    artifact = build(backend, workload, root)
    with backend.load(artifact) as runner:
        for batch in (noise(workload), square(workload)):
            logits = runner.infer(batch)
            assert largest_difference(logits, eager_logits(model, batch)) < 1e-4
            assert logits.dtype == np.float32
        runner.upload(batch)
        runner.compute()
        np.testing.assert_array_equal(runner.download(), logits)
    assert {file.name for file in artifact.directory.iterdir()} == {MODEL_FILE, "manifest.json"}


def test_an_answer_that_was_kept_is_not_overwritten(root: Path) -> None:
    backend, workload = get_backend("tvm"), Workload("vanilla_cnn", 1, "fp32", "cpu")
    with backend.load(build(backend, workload, root)) as runner:
        kept = runner.infer(noise(workload))
        copied = kept.copy()
        runner.infer(square(workload))
    np.testing.assert_array_equal(kept, copied)


class Head(nn.Module):
    """Pools to one pixel and classifies, as resnet18 and mobilenet_v2 do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 6, 7, stride=4, padding=3)
        self.inside = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.narrow(x)
        return torch.relu(self.inside(x) + x)


class Odd(nn.Module):
    """Numbers of channels and of classes that fill no vector: a dense and a depthwise convolution, and a head."""

    def __init__(self, size: int) -> None:
        super().__init__()
        first = nn.Conv2d(3, size, 3, stride=8, padding=1)
        depthwise = nn.Conv2d(size, size, 3, padding=1, groups=size)
        self.layers = nn.Sequential(first, nn.ReLU(), nn.Conv2d(size, size, 3, padding=1), depthwise, nn.ReLU6())
        self.head = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(self.layers(x), 1).flatten(1))


class AxesFromTheLast(nn.Module):
    """Names axes as PyTorch's attention does, and joins tensors along a new one."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 6, 3, stride=16, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.narrow(x)
        squeezed = x.unsqueeze(0).transpose(0, -2).squeeze(-2)
        first, *_ = x.permute(0, -1, -2, 1).unbind(-1)
        return torch.stack([squeezed.sum(2).transpose(0, 1), first], -1)


OPERATORS: dict[str, Callable[[], nn.Module]] = {
    "strided convolution, no bias": lambda: nn.Conv2d(3, 6, 3, stride=8, padding=1, bias=False),
    "batch norm, ReLU6": lambda: nn.Sequential(nn.Conv2d(3, 6, 1, stride=8), nn.BatchNorm2d(6).eval(), nn.ReLU6()),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(3, 8, 1, stride=4), nn.Conv2d(8, 8, 3, padding=1, groups=8)),
    "overlapping pooling": lambda: nn.Sequential(nn.Conv2d(3, 6, 1, stride=8), nn.MaxPool2d(3, 2, 1)),
    "shortcut": Shortcut,
    "axes from the last": AxesFromTheLast,
    "head": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, stride=4), Head()),
} | {f"{size} channels": partial(Odd, size) for size in (3, 5, 7)}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_each_kind_of_layer_is_compiled_correctly(name: str, precision: str) -> None:
    torch.manual_seed(0)
    model = OPERATORS[name]().requires_grad_(False).eval()
    workload = Workload("resnet18", 2, precision, "cuda")  # a CPU computes FP16 too, slowly: the graph is the same
    batch = noise(workload)
    expected = model(torch.from_numpy(batch).float()).numpy()
    executable = compile_module(import_model(model, workload), "cpu")
    found = tvm.relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(batch)).numpy()
    assert found.dtype == workload.host_dtype
    assert largest_difference(found.astype(np.float32), expected) < {"fp32": 1e-5, "fp16": 2e-3}[precision]


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_odd_sizes_are_shared_among_cores_and_scheduled_for_a_gpu(size: int, batch_size: int) -> None:
    model = Odd(size).requires_grad_(False).eval()
    module = import_model(model, Workload("resnet18", batch_size, "fp16", "cuda"))
    for target, sign in ((target_of("cpu"), "T.parallel"), (cuda_target("sm_90"), "threadIdx.x")):
        lowered = lower(module, target)
        scheduled = schedule(lowered, target)
        programs = {v.name_hint: f for v, f in scheduled.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
        dense = [name for name in programs if "conv2d" in name]
        assert len(dense) == 3
        if size > 1:  # not unrolled as a whole, which took minutes
            assert all(sign in programs[name].script() for name in dense)
        assert tvm.compile(scheduled, target)


@pytest.mark.parametrize("model", ["vanilla_cnn", "mobilenet_v2"])
def test_every_loop_program_is_scheduled_on_a_cpu(model: str) -> None:
    module = import_model(load_pretrained(model), Workload(model, 1, "fp32", "cpu"))
    target = target_of("cpu")
    lowered = lower(module, target)
    programs = [f for f in schedule(lowered, target).functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    assert len(programs) > 5
    assert all("T.parallel" in program.script() and "T.vectorized" in program.script() for program in programs)
    assert sum("transpose" in variable.name_hint for variable in lowered.get_global_vars()) <= 2  # in and out


def test_tuned_schedules_are_used_where_they_fit_and_rules_elsewhere() -> None:
    """Those that come with the course are for vanilla_cnn, batch 1."""
    if (schedules := tuned_schedules("cpu")) is None:
        pytest.skip("no tuned schedules for this kind of processor")
    target, changed = target_of("cpu"), {}
    for batch_size in (1, 2):
        lowered = lower(import_model(load_pretrained("vanilla_cnn"), Workload("vanilla_cnn", batch_size)), target)
        ruled, tuned = schedule(lowered, target), schedule(lowered, target, schedules)
        changed[batch_size] = [
            variable.name_hint
            for variable, program in ruled.functions_items()
            if isinstance(program, tvm.tirx.PrimFunc) and program.script() != tuned[variable.name_hint].script()
        ]
    assert sum("conv2d" in name for name in changed[1]) == 3
    assert changed[2] == []


def test_what_is_tuned_is_kept_only_where_it_beats_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three programs with a candidate each, one candidate is quicker. The search is replaced by its result."""
    pytest.importorskip("cloudpickle")
    from tvm.s_tir.meta_schedule.database import JSONDatabase

    from inference_lib.backends.tvm import tuning as tvm_tuning

    if (schedules := tuned_schedules("cpu")) is None:
        pytest.skip("no tuned schedules for this kind of processor")
    target = target_of("cpu")
    lowered = lower(import_model(load_pretrained("vanilla_cnn"), Workload("vanilla_cnn", 1)), target)
    names = sorted(v.name_hint for v in lowered.get_global_vars() if "conv2d" in v.name_hint)
    programs = [(name, tvm_tuning.normalized(lowered[name])) for name in names]
    times = iter([9.0, 4.0, 3.0, 5.0])  # by the rules, by the search; of the first program, of the second

    def time_or_fail(*_: object) -> float:
        if (found := next(times, None)) is None:
            raise CourseError("the third does not run")
        return found

    monkeypatch.setattr(tvm_tuning, "microseconds", time_or_fail)
    tvm_tuning.keep_better(JSONDatabase(work_dir=str(schedules)), programs, target, None, None, tmp_path)
    kept = JSONDatabase(work_dir=str(tmp_path))
    records = [kept.query_tuning_record(program, target, name) for name, program in programs]
    assert [record is not None for record in records] == [True, False, False]
    assert [float(seconds) for seconds in records[0].run_secs] == [pytest.approx(4e-6)]
    assert "the third does not run" in capsys.readouterr().out


def test_candidates_are_compiled_and_timed_and_a_broken_one_takes_no_other_along() -> None:
    pytest.importorskip("cloudpickle")
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.meta_schedule.builder import BuilderInput
    from tvm.s_tir.meta_schedule.runner import LocalRunner

    from inference_lib.backends.tvm.tuning import candidate_builder, microseconds, normalized, tuning_target

    builder, runner, target = candidate_builder(), LocalRunner(), tuning_target("cpu")
    lowered = lower(import_model(load_pretrained("vanilla_cnn"), Workload("vanilla_cnn", 1)), target)
    name = next(v for v in lowered.get_global_vars() if "conv2d" in v.name_hint)
    program = normalized(lowered[name])
    arguments = ArgInfo.from_prim_func(program["main"])
    assert 1 < microseconds(program, arguments, target, builder, runner) < 1e6
    with pytest.raises(CourseError, match="does not run"):
        microseconds(program, arguments[:1], target, builder, runner)
    twice = tvm.IRModule({"main": program["main"], "other": program["main"]})  # two of one name
    for _ in range(2):  # the second round in the processes of the first
        good, broken = builder.build([BuilderInput(program, target), BuilderInput(twice, target)])
        assert Path(good.artifact_path).exists()
        assert good.error_msg is None
        assert broken.artifact_path is None
        assert broken.error_msg.startswith("exception")


@pytest.mark.parametrize(
    ("cpu", "level"),
    [("emeraldrapids", "x86-64-v4"), ("znver4", "x86-64-v4"), ("haswell", "x86-64-v3"), ("core2", None)],
)
def test_the_level_of_a_cpu_is_that_of_its_instructions(
    monkeypatch: pytest.MonkeyPatch, cpu: str, level: str | None
) -> None:
    monkeypatch.setattr(tvm_machine, "host_target", lambda: tvm.target.Target({"kind": "llvm", "mcpu": cpu}))
    assert tvm_machine.cpu_level() == level


COUNT_CORES = """
import os, sys
from pathlib import Path
from inference_lib.backends import get_backend
from inference_lib.seam import Workload, build
before = os.sched_getaffinity(0)
backend = get_backend("tvm")
with backend.load(build(backend, Workload("vanilla_cnn", 1, "fp32", "cpu"), Path(sys.argv[1]))) as runner:
    runner.compute()
import torch, tvm
print(tvm.get_global_func("runtime.NumThreads")() == torch.get_num_threads(), os.sched_getaffinity(0) == before)
"""


def test_every_core_computes_and_no_core_is_taken_from_others(root: Path) -> None:
    """TVM takes half of the cores on x86, and binds the thread that calls it: a worker started later inherits that."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("TVM_")}
    command = [sys.executable, "-W", "ignore", "-c", COUNT_CORES, str(root)]
    result = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "True"]


def test_without_tuned_schedules_there_is_no_folder_to_read(tmp_path: Path) -> None:
    (tmp_path / tvm_machine.schedules_name("cpu")).mkdir()  # empty, as a folder that waits to be filled
    assert tuned_schedules("cpu", tmp_path) is None


def test_scheduling_leaves_its_input_alone() -> None:
    target = target_of("cpu")
    imported = import_model(load_pretrained("vanilla_cnn"), Workload("vanilla_cnn", 1))
    before = imported.script()
    lowered = lower(imported, target)
    assert imported.script() == before
    schedule(lowered, target)
    assert "T.parallel" not in lowered.script()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_stored_precision_is_read_from_the_library(hopper: None, tmp_path: Path, precision: str) -> None:
    backend, workload = get_backend("tvm"), Workload("vanilla_cnn", 1, precision, "cuda")
    backend.export(load_pretrained("vanilla_cnn"), workload, tmp_path)
    assert backend.stored_precision(Artifact(workload, tmp_path)) == precision
    numbers = sum(math.prod(shape) for _, shape in constants(tmp_path / MODEL_FILE))
    assert numbers > sum(weight.numel() for weight in load_pretrained("vanilla_cnn").parameters()) * 0.99


def test_an_fp32_library_under_an_fp16_label_is_refused(
    hopper: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tvm_backend, "import_model", lambda model, _: import_model(model, Workload("vanilla_cnn", 1, "fp32", "cuda"))
    )
    with pytest.raises(CourseError, match="fp32 weights where fp16 was asked for"):
        build(get_backend("tvm"), Workload("vanilla_cnn", 1, "fp16", "cuda"), tmp_path)


def programs_of(workload: Workload, rules: list[object] | None = None) -> dict[str, str]:
    """Return the scheduled loop programs of a workload for an H100, by name, as text."""
    target = cuda_target("sm_90")
    module = import_model(load_pretrained(workload.model.name), workload)
    scheduled = schedule(lower(module, target), target, rules=rules)
    return {v.name_hint: f.script() for v, f in scheduled.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}


def blocks_of(program: str) -> int:
    """Return how many thread blocks a scheduled program starts."""
    return math.prod(int(n) for n in re.findall(r'thread_binding\(T\.int64\((\d+)\), thread="blockIdx', program))


def test_every_fp16_convolution_uses_tensor_cores_and_no_fp32_one() -> None:
    half = programs_of(Workload("vanilla_cnn", 1, "fp16", "cuda"))
    assert ["wmma" in text for name, text in half.items() if "conv2d" in name] == [True] * 3
    full = programs_of(Workload("vanilla_cnn", 1, "fp32", "cuda"))
    assert not any("mma" in text for text in full.values())  # FP32 is IEEE
    by_dlight = programs_of(Workload("vanilla_cnn", 1, "fp16", "cuda"), dlight_rules())
    assert sum("wmma" in text for text in by_dlight.values()) == 1


def test_small_products_are_spread_over_the_gpu() -> None:
    """The last convolutions of resnet18 at batch 1 have 49 pixels."""
    workload = Workload("resnet18", 1, "fp32", "cuda")
    ours, dlights = (programs_of(workload, rules) for rules in (None, dlight_rules()))
    last = [name for name in ours if "conv2d9" in name]
    assert last
    assert all(blocks_of(dlights[name]) < 20 and blocks_of(ours[name]) >= 100 for name in last)
    large = Workload("resnet18", 64, "fp32", "cuda")
    assert programs_of(large)[last[0]] == programs_of(large, dlight_rules())[last[0]]


def test_small_products_are_spread_over_tensor_cores_too() -> None:
    workload = Workload("resnet18", 1, "fp16", "cuda")
    ours, dlights = (programs_of(workload, rules) for rules in (None, dlight_rules()))
    convolutions = [name for name in ours if "conv2d" in name]
    assert all("wmma" in ours[name] for name in convolutions)
    last = [name for name in convolutions if "conv2d9" in name]
    assert last
    assert all(blocks_of(dlights[name]) <= 32 <= blocks_of(ours[name]) for name in last)


def test_a_tile_is_the_largest_of_which_there_are_enough_for_every_multiprocessor() -> None:
    from inference_lib.backends.tvm.gpu import ENOUGH, MULTIPROCESSORS, FilledMatmul, Product, filling, tile_count
    from inference_lib.backends.tvm.tensor_cores import TensorCores

    side = (2 * ENOUGH, MULTIPROCESSORS // 2)
    for tiles in (TensorCores.tiles, FilledMatmul.tiles):
        sizes = [tile.rows * tile.columns for tile in tiles]
        assert sizes == sorted(sizes, reverse=True)
        for tile in tiles:
            covered = Product(tile.rows * side[0], tile.columns * side[1], 64, "float16")
            assert tile_count(covered, tile) == ENOUGH * MULTIPROCESSORS
            assert filling(tiles, covered) is tile
            assert tile_count(covered._replace(columns=covered.columns + 1), tile) > ENOUGH * MULTIPROCESSORS
        assert filling(tiles, Product(1, 1, 1, "float16")) is tiles[-1]


def cuda_source(module: Any) -> str:
    """Return the CUDA code in a compiled module, found among what it imports."""
    if module.kind == "cuda":
        return module.inspect_source()
    return next(filter(None, map(cuda_source, module.imports)), "")


@pytest.mark.parametrize("model", ["vanilla_cnn", "mobilenet_v2"])
@pytest.mark.skipif(tvm_machine.cuda_toolkit() is None, reason="NVIDIA's compiler needs CUDA's headers")
def test_what_the_rules_write_for_a_gpu_compiles(hopper: None, model: str) -> None:
    """Where there is no GPU, TVM leaves it to the machine that has one."""
    from tvm.support.nvcc import compile_cuda

    executable = compile_module(import_model(load_pretrained(model), Workload(model, 8, "fp16", "cuda")), "cuda")
    with cuda_target("sm_90"):
        assert len(compile_cuda(cuda_source(executable.mod), target_format="cubin")) > 10_000


def test_a_depthwise_convolution_takes_a_thread_for_each_output_and_is_right() -> None:
    """The schedule runs on the CPU here, its threads one after another."""
    from inference_lib.backends.tvm.gpu import ShortSums

    torch.manual_seed(0)
    depthwise = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU6())
    model = nn.Sequential(nn.Conv2d(3, 6, 3, stride=16), depthwise, nn.MaxPool2d(3, 2, 1)).requires_grad_(False).eval()
    workload, target = Workload("resnet18", 1, "fp32", "cuda"), target_of("cpu")
    module = lower(import_model(model, workload), target, ("NHWC", "OHWI"))
    found = {}
    for variable, function in list(module.functions_items()):
        if isinstance(function, tvm.tirx.PrimFunc) and (made := ShortSums().apply(function, target, False)):
            found[variable.name_hint] = text = made.mod.script()
            serial = re.sub(r'T\.thread_binding\((.*?), thread="[^"]*"\)', r"T.serial(\1)", text)
            module[variable] = tvm.script.from_source(serial)["main"].with_attr("tirx.is_scheduled", True)
    assert sorted("pool" in name for name in found) == [False, True]  # the pooling too, and not the first convolution
    assert all('T.int64(256), thread="threadIdx.x"' in text for text in found.values())
    batch = noise(workload)
    machine = tvm.relax.VirtualMachine(tvm.compile(module, target), tvm.cpu())
    logits = machine["main"](tvm.runtime.tensor(batch)).numpy()
    assert largest_difference(logits, model(torch.from_numpy(batch)).numpy()) < 1e-5


def test_the_kernels_between_input_and_output_are_captured_together(hopper: None) -> None:
    workload = Workload("resnet18", 1, "fp16", "cuda")
    module = import_model(load_pretrained("resnet18"), workload)
    plain, graph = (compile_module(module, "cuda", cuda_graph=on).as_text() for on in (False, True))
    assert "cuda_graph" not in plain
    captured = graph[graph.index("@main_cuda_graph_capture:") :]
    assert captured[: captured.index("  ret ")].count("call  fused_conv2d") == 20


def test_a_graph_needs_a_gpu() -> None:
    support = get_backend("tvm-cudagraph").supports(Workload("vanilla_cnn", 1, "fp32", "cpu"))
    assert not support.ok
    assert "GPU" in support.reason


@pytest.mark.parametrize(
    ("precision", "device", "reason"),
    [("fp16", "cpu", "FP16"), ("tf32", "cpu", "TF32"), ("tf32", "cuda", "TF32"), ("bf16", "cuda", "BF16")],
)
def test_what_is_not_measured_says_why(precision: str, device: str, reason: str) -> None:
    support = get_backend("tvm").supports(Workload("vanilla_cnn", 1, precision, device))
    assert not support.ok
    assert reason in support.reason


def test_what_is_compiled_in_is_in_the_key() -> None:
    workloads = [
        Workload("resnet18", size, precision, device)
        for size in (1, 8)
        for precision in ("fp32", "fp16")
        for device in ("cpu", "cuda")
    ]
    backends = [get_backend(name) for name in ("tvm", "tvm-cudagraph")]
    assert len({b.artifact_key(workload) for b in backends for workload in workloads}) == 2 * len(workloads)


@pytest.mark.gpu
def test_the_gpu_runner_works_on_its_own_stream(root: Path) -> None:
    """Batches queued back to back are each answered, while another stream is busy."""
    backend, workload = get_backend("tvm"), Workload("vanilla_cnn", 4, "fp32", "cuda")
    matrix = torch.ones(4096, 4096, device="cuda")
    with backend.load(build(backend, workload, root)) as runner:
        expected = {name: eager_logits("vanilla_cnn", make(workload)) for name, make in MAKERS.items()}
        for _ in range(5):
            for name, make in MAKERS.items():
                matrix @ matrix  # on the default stream
                assert largest_difference(runner.infer(make(workload)), expected[name]) < 1e-3
        assert runner.stream != torch.cuda.default_stream()


MAKERS = {"noise": noise, "square": square}
