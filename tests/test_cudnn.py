"""The cuDNN backend without a GPU: its program is the model, its numbers fit, its launches compute what they should."""

import io
import json
import math
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, astuple, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import objects
import pytest
import torch
from cudnn_on_cpu import HostKernels, HostPlan, compile_on_host, timed_on_host
from processes import alive, ends
from torch import nn
from torch.nn import functional

from inference_lib.backends import get_backend
from inference_lib.backends.cudnn import backend, choice, compiler, compilers, execution, plans, search
from inference_lib.backends.cudnn.arithmetic import LARGEST, Network, Stored, _fused, network_of
from inference_lib.backends.cudnn.calibration import QUANTILES, calibrated, observe, scales_of
from inference_lib.backends.cudnn.compiler import Spec
from inference_lib.backends.cudnn.compilers import CONTEXT_BYTES, Compilers
from inference_lib.backends.cudnn.emulate import emulate
from inference_lib.backends.cudnn.kernels import compile_kernels
from inference_lib.backends.cudnn.pixels import filters, forms
from inference_lib.backends.cudnn.plans import Forms, Timed
from inference_lib.backends.cudnn.program import PICTURES, Convolution, Program, program_of
from inference_lib.backends.cudnn.search import Search
from inference_lib.measure.workers import Worker, WorkerError
from inference_lib.seam import FASHION_MNIST, MODELS, Artifact, Workload
from inference_lib.support.errors import CourseError
from inference_lib.zoo.networks import load_pretrained

INT8, FP8, FP16 = torch.int8, torch.float8_e4m3fn, torch.float16
SHAPE = (3, 224, 224)

each_model = pytest.mark.parametrize("model", MODELS)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ compiles the kernels for the host")


def pictures(count: int, split: str = "test") -> torch.Tensor:
    FASHION_MNIST.ensure()
    batch = np.empty((count, *SHAPE), np.float32)
    FASHION_MNIST.read(0, batch, split)
    return torch.from_numpy(batch)


@cache
def program(model: str) -> Program:
    return program_of(load_pretrained(model), SHAPE)


@cache
def network(model: str, dtype: torch.dtype) -> Network:
    if dtype not in LARGEST:
        return network_of(program(model), dtype, {})
    largest = observe(program(model), [pictures(4, "train")])[0]
    wide = frozenset({PICTURES} if dtype == FP8 else ())
    return network_of(program(model), dtype, scales_of(program(model), dtype, largest), wide)


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@each_model
def test_a_program_is_its_model(model: str) -> None:
    batch = pictures(2)
    with torch.inference_mode():
        wanted = load_pretrained(model)(batch)
    assert difference(emulate(network(model, torch.float32), batch), wanted) < 1e-5


def test_everything_between_two_convolutions_of_a_resnet_is_in_them() -> None:
    kinds = [type(operation).__name__ for operation in program("resnet18").operations]
    assert {kind: kinds.count(kind) for kind in kinds} == {"Convolution": 21, "MaxPool": 1, "Mean": 1}
    assert sum(c.shortcut is not None for c in program("resnet18").convolutions) == 8
    assert sum(c.ceiling == math.inf for c in program("resnet18").convolutions) == 17
    assert sum(c.ceiling == 6 for c in program("mobilenet_v2").convolutions) == 35


class Branches(nn.Module):
    """Two convolutions, of which the earlier one adds the later one's rectified result."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.read_twice = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        b = torch.relu(self.b(x))
        total = functional.relu6(a + b)
        return (total * a if self.read_twice else total).flatten(1)


def test_a_shortcut_is_computed_before_it_is_added() -> None:
    model, batch = Branches().eval(), torch.randn(2, 3, 5, 5)
    found = program_of(model, (3, 5, 5))
    assert [operation.name for operation in found.operations] == ["b", "a"]
    with torch.inference_mode():
        assert difference(emulate(network_of(found, torch.float32, {}), batch), model(batch)) < 1e-6


class Adds(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1.0


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid()), "Sigmoid"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2)), "holes"),
        (nn.Sequential(nn.ReLU()), "ReLU"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(2)), "more than one pixel"),
        (Adds(), "shortcut"),
    ],
)
def test_an_operation_that_has_no_place_is_named(model: nn.Module, said: str) -> None:
    with pytest.raises(CourseError, match=said) as caught:
        program_of(model.eval(), (3, 8, 8))
    assert "\n" not in str(caught.value)


def test_a_convolution_whose_result_others_read_too_adds_nothing() -> None:
    model = Branches().eval()
    model.read_twice = True
    with pytest.raises(CourseError, match="shortcut"):
        program_of(model, (3, 5, 5))


def test_groups_other_than_depthwise_are_refused() -> None:
    grouped = program_of(nn.Sequential(nn.Conv2d(4, 8, 1, groups=2)).eval(), (4, 4, 4))
    with pytest.raises(CourseError, match="2 groups"):
        network_of(grouped, FP16, {})


@pytest.mark.parametrize("dtype", [INT8, FP8], ids=str)
@each_model
def test_eight_bits_are_nearly_the_model(model: str, dtype: torch.dtype) -> None:
    batch = pictures(8)
    found, wanted = emulate(network(model, dtype), batch), emulate(network(model, torch.float32), batch)
    assert 0 < difference(found, wanted) < (0.15 if dtype == INT8 else 0.4)
    assert (found.argmax(1) == wanted.argmax(1)).float().mean() >= 0.85


def test_integers_are_rounded_to_the_nearest_and_end_where_their_type_does() -> None:
    numbers = torch.tensor([-1e9, -128.4, -2.5, -0.5, 0.5, 1.5, 2.51, 127.6])
    assert Stored(INT8).of(numbers).tolist() == [-128, -128, -2, 0, 0, 2, 3, 127]
    assert Stored(FP8).of(torch.tensor([1e9, -1e9, 17.0])).tolist() == [448, -448, 16]


def test_the_share_in_eight_bits_is_that_of_the_products() -> None:
    """All of ResNet-18 but its linear layer; depthwise filters stay in 16 bits, and readers of what is widened."""
    whole = network("resnet18", INT8)
    linear = program("resnet18").convolutions[-1]
    total = sum(map(program("resnet18").products, program("resnet18").convolutions))
    assert total == 1_813_566_464  # 1.82 GFLOP by the usual count, with a head of 10 classes
    assert whole.share_in_eight_bits() == pytest.approx(1 - program("resnet18").products(linear) / total)
    assert 0.9 < network("mobilenet_v2", INT8).share_in_eight_bits() < 0.94
    widened = whole.widened("maxpool")
    readers = program("resnet18").readers("maxpool")
    assert [widened.fused[reader.name].weight.dtype for reader in readers] == [FP16]
    lost = sum(program("resnet18").products(reader) for reader in program("resnet18").convolutions if reader in readers)
    assert whole.share_in_eight_bits() - widened.share_in_eight_bits() == pytest.approx(lost / total)


def test_a_relu6_needs_no_steps_above_six_and_a_pool_keeps_those_it_reads() -> None:
    largest = dict.fromkeys(program("mobilenet_v2").shapes, 60.0)
    scales = scales_of(program("mobilenet_v2"), INT8, largest)
    assert scales["features_0_0"] == pytest.approx(6 / 127)
    assert scales["features_1_conv_1"] == pytest.approx(60 / 127)
    largest = {name: float(place) for place, name in enumerate(program("vanilla_cnn").shapes, 1)}
    scales = scales_of(program("vanilla_cnn"), INT8, largest)
    assert scales["features_3"] == scales["features_0"]


def test_rare_large_numbers_are_cut_off_where_the_logits_are_nearer_then() -> None:
    """One pixel in 16,384 is a thousand times as large as the others, and the filter that reads it is zero there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    batch = torch.randn(1, 2, 128, 128)
    batch[0, 1, 5, 5] = 1000.0
    with torch.no_grad():
        model[0].weight[:, 1] = 0
    found = program_of(model, (2, 128, 128))
    one, _, other, _ = (scales_of(found, INT8, largest)[PICTURES] for largest in observe(found, [batch]))
    assert one > 50 * other
    chosen = calibrated(found, INT8, [batch])
    assert chosen.stored[PICTURES].scale < one / 50
    assert QUANTILES[0] == 1.0


GEOMETRIES = [
    (3, 8, 7, 2, 3, 32),
    (16, 16, 3, 1, 1, 8),
    (8, 16, 3, 2, 1, 8),
    (3, 8, 11, 4, 5, 32),
    (8, 16, 1, 2, 0, 8),
]


@pytest.mark.parametrize(("inside", "outputs", "size", "stride", "padding", "width"), GEOMETRIES)
def test_pixels_side_by_side_give_the_same_convolution(
    inside: int, outputs: int, size: int, stride: int, padding: int, width: int
) -> None:
    torch.manual_seed(0)
    channels = 4 if inside == 3 else inside
    weight = torch.randn(outputs, inside, size, size, dtype=torch.float64)
    convolution = Convolution("a", "x", weight, torch.zeros(outputs), (stride, stride), (padding, padding))
    memory = torch.randn(2, width, width, channels, dtype=torch.float64)
    picture = memory[..., :inside].permute(0, 3, 1, 2)
    wanted = functional.conv2d(picture, weight, None, stride, padding).permute(0, 2, 3, 1)
    rows, columns = wanted.shape[1:3]
    found = forms(convolution, channels, (width, width), (rows, columns), rows=True)
    assert len(found) >= 2
    assert {form.rows for form in found} == {1, stride}
    for form in found:
        wide = memory.view(2, width // form.rows, form.rows, width // form.inputs, form.inputs, channels)
        wide = wide.permute(0, 4, 2, 5, 1, 3).flatten(1, 3)
        wide = functional.pad(wide, (form.before[1], form.after[1], form.before[0], form.after[0]))
        filter_ = filters(convolution, form, weight, channels).permute(0, 3, 1, 2)
        result = functional.conv2d(wide, filter_, None, form.stride).permute(0, 2, 3, 1)
        torch.testing.assert_close(result.reshape(2, rows, columns, outputs), wanted)


def test_pictures_are_laid_out_for_their_only_reader() -> None:
    """Every other row is skipped, so a pixel may hold two of them, unless something else reads the pictures as well."""

    def rows(network_: Network, name: str) -> set[int]:
        convolution = next(c for c in network_.program.convolutions if c.name == name)
        return {form.rows for form, _ in execution.specs_of(network_, convolution, 2)}

    one = network("resnet18", INT8)
    assert rows(one, "conv1") == {1, 2}
    assert rows(one, "layer2_0_conv1") == {1}
    two = program_of(Branches().eval(), (3, 8, 8))
    for convolution in two.convolutions:
        convolution.stride = (2, 2)
        assert rows(network_of(two, FP16, {}), convolution.name) == {1}


def test_convolutions_with_many_channels_are_left_as_they_are() -> None:
    many = next(c for c in program("resnet18").convolutions if c.name == "layer3_1_conv1")
    assert [form.outputs for form in forms(many, 256, (14, 14), (14, 14))] == [0]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the host do what the GPU would."""
    for name, stand_in in {"Kernels": HostKernels, "Plan": HostPlan}.items():
        monkeypatch.setattr(execution, name, stand_in)
    monkeypatch.setattr(execution, "compile_kernels", partial(compile_on_host, tmp_path))


def saved(path: Path, found: Network, channels: int, batch: int = 2) -> Path:
    specs = [
        spec
        for convolution in found.program.convolutions
        if execution.is_cudnn(convolution)
        for _, spec in execution.specs_of(found, convolution, batch)
    ]
    execution.save(path, found, batch, torch.float32, timed_on_host(specs, channels), "sm_90")
    return path


@needs_compiler
@pytest.mark.parametrize("channels", [0, 128], ids=["as they are", "side by side"])
@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        ("vanilla_cnn", FP16),
        ("vanilla_cnn", INT8),
        ("vanilla_cnn", FP8),
        ("resnet18", FP16),
        ("resnet18", INT8),
        ("mobilenet_v2", INT8),
    ],
)
def test_launches_compute_what_the_emulator_does(
    tmp_path: Path, host: None, model: str, dtype: torch.dtype, channels: int
) -> None:
    found, batch = network(model, dtype), pictures(2)
    path = saved(tmp_path / "model", found, channels)
    pixels = {one["pixels"] for one in execution.facts_of(path)["choices"].values()}
    assert pixels == {0} if channels == 0 else pixels > {0}
    logits = execution.Executable(path, torch.device("cpu"))(batch)
    # sums in another order round otherwise now and then, and the head rounds its biases to FP16
    assert difference(logits.float(), emulate(found, batch, torch.float64)) < (2e-3 if dtype == FP16 else 2e-2)


@needs_compiler
def test_a_network_of_two_types_is_computed_in_both(tmp_path: Path, host: None) -> None:
    found, batch = network("resnet18", INT8).widened("layer1_0_conv2").widened("layer2_0_conv2"), pictures(2)
    path = saved(tmp_path / "model", found, 0)
    launches = {one["name"]: one.get("spec", {}) for one in execution.facts_of(path)["launches"]}
    assert launches["layer1_1_conv1"]["reads"] == "HALF"
    assert launches["layer1_1_conv2"]["shortcut"] == "HALF"
    assert launches["layer1_0_conv2"]["writes"] == "HALF"
    logits = execution.Executable(path, torch.device("cpu"))(batch)
    assert difference(logits.float(), emulate(found, batch, torch.float64)) < 2e-2


@needs_compiler
def test_labels_are_read_from_the_artifact(tmp_path: Path, host: None) -> None:
    workload = Workload("vanilla_cnn", 2, "fp16", "cuda")
    shares = {}
    for dtype, wanted in ((FP16, "fp16"), (INT8, "fp16+int8")):
        directory = tmp_path / wanted
        directory.mkdir()
        saved(directory / backend.MODEL_FILE, network("vanilla_cnn", dtype), 0)
        artifact = Artifact(workload, directory)
        assert get_backend("cudnn").stored_precision(artifact) == wanted
        shares[wanted] = backend.Cudnn().eight_bits_percent(artifact)
    assert shares == {"fp16": 0, "fp16+int8": pytest.approx(98.8, abs=0.1)}


def test_the_kernels_compile_for_a_gpu() -> None:
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:
        pytest.skip(str(error))
    names = {
        launch["kernel"] for model in MODELS for launch in described(network(model, INT8)) if launch["kind"] == "kernel"
    }
    for architecture in ("sm_90", "sm_80"):
        content, called = compile_kernels(names, architecture)
        assert content[:4] == b"\x7fELF"
        assert set(called) == names
    compile_kernels(["max_pool<Float8, Float8, 16>"], "sm_90")
    with pytest.raises(CourseError, match="cannot be compiled"):
        compile_kernels(["mean<Nothing, Float16>"], "sm_90")


def described(found: Network) -> list[execution.Description]:
    chosen = {c.name: execution.specs_of(found, c, 2)[0] for c in found.program.convolutions if execution.is_cudnn(c)}
    return execution.describe(found, 2, torch.float32, chosen)


H100 = {
    "deviceVer": 900,
    "deviceName": "NVIDIA H100 80GB HBM3",
    "maxGridSize": [2147483647, 65535, 65535],
    "maxBlockSize": [1024, 1024, 64],
    "regsPerBlock": 65536,
    "multiProcessorCount": 132,
    "warpSize": 32,
    "maxSharedMemoryPerBlock": 49152,
    "maxSharedMemoryPerBlockOptin": 232448,
    "reservedSharedMemoryPerBlock": 1024,
    "maxRegistersPerSM": 65536,
    "maxCtasPerSM": 32,
    "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048,
    "pciDeviceId": 0,
    "isTccDriver": 0,
    "supportCoopLaunch": 1,
    "smClockRateKHz": 1980000,
    "memClockRateKHz": 2619000,
    "l2CacheSize": 52428800,
    "driverVer": 13000,
    "cudaDeviceId": 0,
    "totalGlobalMem": 85017755648,
    "cudnnVersion": 91900,
}
"""What cuDNN wants to know of a GPU; with it, graphs are made without one."""


@pytest.mark.parametrize("dtype", [FP16, INT8, FP8], ids=str)
def test_cudnn_takes_the_graph_of_every_convolution(dtype: torch.dtype) -> None:
    cudnn = pytest.importorskip("cudnn")
    properties = cudnn.create_device_properties(json.dumps(H100))
    specs = {
        spec
        for model in MODELS
        for convolution in filter(execution.is_cudnn, program(model).convolutions)
        for _, spec in execution.specs_of(network(model, dtype), convolution, 2)
    }
    assert len(specs) > 20
    for spec in specs:
        assert compiler.graph_of(spec, device_property=properties).find_tensor("nothing") is None
        assert Spec.of(json.loads(json.dumps(asdict(spec)))) == spec


def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Spec, object]]:
    """Let a formula say how fast a plan is; return what is asked for, and among which kernels, as it happens."""
    asked: list[tuple[Spec, object]] = []

    def fastest(convolutions: Iterable[Forms], compilers: object, among: object = None) -> dict[Spec, Timed]:
        specs = [spec for forms in convolutions for spec in forms]
        asked.extend((spec, among) for spec in specs)
        return {spec: Timed(b"", (7, 0), cost(spec), 9.0, 1, 1) for spec in specs}

    def cost(spec: Spec) -> float:
        slow, fast = spec.size[0] == 56, spec.reads == "HALF" and spec.channels == 64
        return 10.0 + 20 * slow - 3 * fast + 4 * (spec.writes == "HALF") + (spec.size[0] != spec.size[1])

    monkeypatch.setattr(search, "fastest_plans", fastest)
    monkeypatch.setattr(Search, "compilers", None)
    return asked


def test_only_that_is_widened_which_is_faster_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large pictures are slow, in eight bits most of all; but for two tensors, writing 16 costs more than is won."""
    asked = stand_in(monkeypatch)
    before = network("resnet18", INT8)
    after, timed = choice.fastest_types(before, 2, Search())
    changed = {name for name in before.stored if before.stored[name] != after.stored[name]}
    assert changed == {"maxpool", "layer1_1_conv2"}  # a pool writes it for nothing, and two convolutions read the other
    assert choice.microseconds(after, 2, timed) < choice.microseconds(before, 2, timed)
    halves = {(spec.channels, spec.stride) for spec, _ in asked if spec.reads == "HALF" and spec.kernel == (3, 3)}
    assert (256, (2, 2)) in halves  # half the products of the others, in the same time
    assert (256, (1, 1)) not in halves  # nothing is faster already


def test_a_tensor_stays_in_eight_bits_where_its_readers_have_no_plan_in_16(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    every = search.fastest_plans
    monkeypatch.setattr(
        search, "fastest_plans", lambda *asked: {s: t for s, t in every(*asked).items() if s.reads == "INT8"}
    )
    before = network("resnet18", INT8)
    after, _ = choice.fastest_types(before, 2, Search())
    assert after.stored == before.stored


def test_exports_that_share_a_search_choose_as_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stem, which FP8 leaves in FP16, is searched once, and nothing else instead of it."""
    asked, shared = stand_in(monkeypatch), Search()
    networks = [network("vanilla_cnn", dtype) for dtype in (FP16, INT8, FP8)]
    networks[2] = networks[2].widened("features_0")
    jobs = [(one, batch) for batch in (4, 2) for one in networks]

    def chosen(one: Network, batch: int, found: Search) -> tuple:
        after, timed = choice.fastest_types(one, batch, found)
        forms = execution.fastest_forms(after, batch, timed)
        return after.stored, {name: (form, timed[spec]) for name, (form, spec) in forms.items()}

    together = [chosen(one, batch, shared) for one, batch in jobs]
    fewer = len(asked)
    assert together == [chosen(one, batch, Search()) for one, batch in jobs]
    once, often = (Counter(spec for spec, among in part if among is None) for part in (asked[:fewer], asked[fewer:]))
    assert once.keys() == often.keys()
    assert set(once.values()) == {1}
    again = [spec for spec in often if often[spec] == 2]
    assert again
    assert {(spec.reads, spec.writes) for spec in again} == {("HALF", "HALF")}


def test_what_competed_with_some_kernels_only_is_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, found = stand_in(monkeypatch), Search()
    for among in (frozenset({(7, 2)}), None, None, frozenset({(7, 1)})):
        assert set(found.plans([(SPEC, OTHER), (OTHER,), (OTHER,)], among)) == {SPEC, OTHER}
    few = frozenset({(7, 2)})
    assert asked == [(SPEC, few), (OTHER, few), (OTHER, few), (SPEC, None), (OTHER, None), (OTHER, None)]


def test_scales_are_found_once_for_all_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Compilers(SimpleNamespace):
        def counting(self, part: str) -> object:
            return nullcontext()

    monkeypatch.setattr(Search, "compilers", Compilers())
    found, made = Search(), []
    for key in ("int8", "fp8", "int8"):
        found.network(key, lambda key=key: made.append(key) or network("resnet18", INT8))  # type: ignore[misc]
    assert made == ["int8", "fp8"]


def test_a_form_that_a_worse_engine_computes_does_not_compete() -> None:
    few, many, odd, none = (replace(SPEC, channels=channels) for channels in (4, 32, 64, 128))
    named = {few: [(7, 26), (7, 1)], many: [(4, 0)], odd: [(9, 1)], none: []}
    assert plans.competitors((few, many, odd, none), named) == (many, odd, none)
    assert plans.competitors((few, odd), named) == (few, odd)
    assert plans.competitors((few,), named) == (few,)


class FakeGpu:
    """A clock that launches move on, in place of CUDA's graphs and events: a plan is what its launches take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.replays, self.captured = 0.0, {}, None  # type: ignore[var-annotated]
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                pass

            def record(self) -> None:
                self.at = gpu.now

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, end: "Event") -> float:
                return (end.at - self.at) / 1e3

        class Graph:
            def replay(self) -> None:
                gpu.now += 200.0 + sum(self.launches)  # the launch of the graph, and what was captured
                gpu.replays[self.launches[0]] = gpu.replays.get(self.launches[0], 0) + 1

        def capture(queue: Callable[[], None], stream: object) -> Graph:
            graph = Graph()
            graph.launches = gpu.captured = []  # type: ignore[attr-defined]
            queue()
            gpu.captured = None
            return graph

        stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
        for name, value in {
            "Event": Event,
            "Stream": lambda: stream,
            "stream": lambda one: nullcontext(),
            "current_stream": lambda: stream,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(plans, "captured", capture)
        monkeypatch.setattr(plans, "example", lambda spec: {compiler.RESULT: torch.zeros(1)})
        monkeypatch.setattr(plans, "reference", lambda spec, tensors: torch.zeros(1))
        monkeypatch.setattr(plans, "Plan", lambda content: SimpleNamespace(queue=lambda _: gpu.launch(float(content))))

    def launch(self, microseconds: float) -> None:
        if self.captured is None:
            self.now += microseconds
        else:
            self.captured.append(microseconds)


def test_a_plan_that_is_clearly_slower_is_not_replayed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch)
    took = [300.0, 120.0, 110.0, 100.0, 240.0, 130.0, 900.0]
    contents = {(4, number): str(one).encode() for number, one in enumerate(took)}
    times, _ = plans.times_of(SPEC, contents)
    assert min(times, key=times.__getitem__) == (4, 3)
    assert sorted(times, key=times.__getitem__)[:3] == [(4, 3), (4, 2), (4, 1)]
    assert times[4, 6] == math.inf  # its only launch said it all
    assert gpu.replays == {300.0: 3, 120.0: 6, 110.0: 6, 100.0: 6, 240.0: 1, 130.0: 3}
    monkeypatch.setattr(plans, "SLOWER", math.inf)
    patient, _ = plans.times_of(SPEC, contents)
    assert sorted(patient, key=patient.__getitem__) == sorted(times, key=times.__getitem__)


def test_small_plans_are_not_given_up_for_what_the_launch_of_a_graph_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch)
    plans.times_of(SPEC, {(4, 0): b"4.0", (4, 1): b"12.0"})
    assert gpu.replays == {4.0: 6, 12.0: 6}


def test_widening_computes_anew_what_touches_the_tensor() -> None:
    before = network("resnet18", INT8)
    after = before.widened("layer1_0_conv2")
    anew = {name for name in before.fused if after.fused[name] is not before.fused[name]}
    assert anew == {"layer1_0_conv2", "layer1_1_conv1", "layer1_1_conv2"}  # writes, reads, adds it
    whole = {c.name: _fused(c, after.stored) for c in after.program.convolutions}
    for name, fused in after.fused.items():
        for part, other in zip(astuple(fused), astuple(whole[name]), strict=True):
            assert torch.equal(part, other) if isinstance(part, torch.Tensor) else part == other


def test_a_convolution_without_a_plan_is_named() -> None:
    with pytest.raises(CourseError, match=r"no plan for the convolution conv1 in INT8"):
        execution.fastest_forms(network("resnet18", INT8), 2, {})


def test_plans_agree_up_to_steps_of_their_type() -> None:
    wanted = torch.tensor([[3.0, -128.0, 100.0]])
    assert plans.agrees(wanted.to(INT8), wanted + 1, steps=1.0)
    assert not plans.agrees(wanted.to(INT8), wanted + torch.tensor([0.0, 0.0, 2.0]), steps=1.0)
    assert plans.agrees(wanted.half(), wanted * 1.0005, steps=1.0)
    assert not plans.agrees(wanted.half(), wanted * 1.01, steps=1.0)


@pytest.mark.parametrize("dtype", [INT8, torch.float8_e4m3fn, torch.float16])
def test_numbers_that_were_cut_off_were_not_rounded(dtype: torch.dtype) -> None:
    exact = torch.linspace(-100.0, 100.0, 1003)
    rounded = Stored(dtype).of(exact).to(dtype)
    below = (rounded.float().abs() <= exact.abs()).float()
    step = torch.ones_like(exact) if dtype == INT8 else 2.0 ** exact.abs().log2().floor() * torch.finfo(dtype).eps
    cut_off = (rounded.float() - (1 - below) * exact.sign() * step).to(dtype)
    assert plans.agrees(rounded, exact, steps=0.5)
    assert plans.agrees(cut_off, exact, steps=1.0)
    assert not plans.agrees(cut_off, exact, steps=0.5)


def test_plans_that_round_compete_alone_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch)
    monkeypatch.setattr(plans, "example", lambda spec: {compiler.RESULT: torch.zeros(1, dtype=INT8)})
    monkeypatch.setattr(plans, "reference", lambda spec, tensors: torch.full((1,), 6.7))

    def plan(content: bytes) -> SimpleNamespace:
        microseconds, result = map(float, content.split())

        def queue(tensors: dict[int, torch.Tensor]) -> None:
            tensors[compiler.RESULT].fill_(result)
            gpu.launch(microseconds)

        return SimpleNamespace(queue=queue)

    monkeypatch.setattr(plans, "Plan", plan)
    cuts, rounds, wrong = b"50.0 6", b"100.0 7", b"10.0 5"
    for contents, kept in (([cuts, rounds, wrong], (rounds, 2, 1)), ([cuts, wrong], (cuts, 1, 0))):
        found = plans._fastest(SPEC, {(4, number): content for number, content in enumerate(contents)})
        assert found is not None
        assert (found.plan, found.tried, found.rounding) == kept
    assert plans._fastest(SPEC, {(4, 2): wrong}) is None


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that lets another script do the compiling, in two processes."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2 * CONTEXT_BYTES, 2**34))
    monkeypatch.setattr(compilers.os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(plans, "_fastest", lambda spec, found: Timed(b"", min(found), 1.0, 1.0, len(found), len(found)))

    def write(compiles: str, names: str = NAMES) -> Path:
        path = tmp_path / "script.py"
        path.write_text(SCRIPT.format(names=names, compiles=compiles))
        monkeypatch.setattr(compiler, "__file__", str(path))
        return path

    return write


@pytest.fixture
def compile_with(script: Callable[..., Path]) -> object:
    """Return a function that searches for plans, with the compiling done as it is told."""

    def run(compiles: str, among: object = frozenset({(7, 2)}), names: str = NAMES) -> dict[Spec, Timed]:
        script(compiles, names)
        with Compilers() as compilers:
            return plans.fastest_plans([(SPEC,), (OTHER,)], compilers, among)  # type: ignore[arg-type]

    return run


SPEC = Spec(1, 64, (8, 8), 64, (1, 1), (1, 1), (0, 0), (0, 0), "INT8", "INT8")
OTHER = replace(SPEC, reads="HALF")
SCRIPT = """
import json, os, sys, time
for line in sys.stdin:
    spec, kernel = json.loads(line)
    half, answer = spec["reads"] == "HALF", "cGxhbg=="
    if kernel is None:
        answer = {names}
    else:
        {compiles}
    print(json.dumps(answer), flush=True)
"""
NAMES = "[[[2, None]], [[7, 1], [7, 2], [9, 1]]]"
"""One kernel of the heuristic's and three others; what is compiled is for a test to say."""


def test_processes_compile_the_kernels_that_compete(compile_with) -> None:  # type: ignore[no-untyped-def]
    found = compile_with("pass")
    assert {spec: (timed.kernel, timed.tried) for spec, timed in found.items()} == dict.fromkeys(
        (SPEC, OTHER), ((2, None), 2)
    )


def test_what_is_named_for_another_convolution_is_compiled_first(compile_with, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """(7, 3) is named for one convolution, and is the last of the other's others."""
    asked: list[list[object]] = []
    compile_all = Compilers.plans

    def watch(self: Compilers, pairs: list[tuple[Spec, object]], needed: int) -> list[bytes | None]:
        asked.append([kernel for _, kernel in pairs[needed:]])
        return compile_all(self, pairs, needed)  # type: ignore[arg-type]

    monkeypatch.setattr(Compilers, "plans", watch)
    compile_with("pass", None, "[[[7, 1]], [[7, 2], [7, 3]]] if half else [[[7, 3]], [[7, 1], [7, 2]]]")
    assert asked == [[(7, 1), (7, 3), (7, 2), (7, 2)]]


@pytest.mark.parametrize("how", ["os.abort()", "time.sleep(60)"])
def test_a_process_that_ends_or_hangs_costs_its_own_plan(compile_with, monkeypatch, how: str) -> None:  # type: ignore[no-untyped-def]
    for limit in ("COMPILE_LIMIT_S", "SPARE_S"):
        monkeypatch.setattr(compilers, limit, 2.0)
    assert SPEC in compile_with(f"if half: {how}")


def test_a_process_that_ended_is_replaced(compile_with, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Both processes end at their first plan; what is asked next is answered all the same, for the same GPU."""
    main = threading.main_thread()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3 if threading.current_thread() is main else 0)
    found = compile_with("if kernel[0] == 2 or sys.argv[1] != '3': os.abort()", None)
    assert {spec: timed.tried for spec, timed in found.items()} == {SPEC: 3, OTHER: 3}


def test_processes_are_kept_for_the_exports_that_follow_and_end_with_the_last(script, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Every task is answered by one of two processes, and nobody asks for what is known."""
    log = tmp_path / "tasks"
    script(f"print(os.getpid(), kernel, file=open({str(log)!r}, 'a'))")
    with Search() as found:
        for convolution in (SPEC, OTHER, SPEC):
            assert found.plans([(convolution,)])[convolution].tried == 4
        pids = {int(line.split()[0]) for line in log.read_text().splitlines()}
        assert pids <= {process._process.pid for process in found.compilers._every}
        assert len(found.compilers._every) == 2
    assert len(log.read_text().splitlines()) == 8
    assert all(process.ended for process in found.compilers._every)


def test_processes_that_were_ended_for_the_sake_of_another_cost_nothing_later(script, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """One hangs, so that both are ended; in the next search each plan is there."""
    monkeypatch.setattr(compilers, "COMPILE_LIMIT_S", 2.0)
    script("if half: time.sleep(60)")
    with Search() as found:
        assert found.plans([(OTHER,), (SPEC,)], frozenset())[SPEC].tried == 1
        assert found.plans([(replace(SPEC, batch=2),)])[replace(SPEC, batch=2)].tried == 4


def test_compilers_end_with_the_process_that_started_them(script: Callable[..., Path]) -> None:
    with Worker(objects.Compiling, script("pass")) as exporter:
        pids = exporter.ask("compilers", limit_s=60)
        assert all(map(alive, pids))
        assert exporter.pid
        os.kill(exporter.pid, signal.SIGKILL)  # it alone: its compilers find their tasks at an end
        assert all(map(ends, pids))
        with pytest.raises(WorkerError):
            exporter.ask("compilers", limit_s=60)


def test_where_nothing_is_compiled_the_reason_is_told(compile_with, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CourseError, match="plans failed: ValueError: no such engine"):
        compile_with("raise ValueError('no such engine')")
    with pytest.raises(CourseError, match="kernels failed: ImportError: no front end"):
        compile_with("pass", names="exec('raise ImportError(\"no front end\")')")
    for limit in ("COMPILE_LIMIT_S", "SPARE_S"):
        monkeypatch.setattr(compilers, limit, 1.0)
    with pytest.raises(CourseError, match="took more than 1 s"):
        compile_with("time.sleep(60)")


@pytest.mark.parametrize(("spare", "tried"), [(60.0, 4), (-1.0, 1)])
def test_a_kernel_that_nobody_named_is_compiled_while_there_is_time(compile_with, monkeypatch, spare, tried) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(compilers, "SPARE_S", spare)
    found = compile_with("if kernel[0] != 2: time.sleep(0.1)", None)
    assert tried <= found[SPEC].tried <= max(tried, 2)  # a process may have begun one before it was taken back


def test_a_process_answers_each_task_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    runtime = pytest.importorskip("cuda.bindings.runtime")
    devices: list[int] = []
    monkeypatch.setattr(runtime, "cudaSetDevice", lambda device: (devices.append(device),))  # type: ignore[func-returns-value]
    monkeypatch.setitem(sys.modules, "cudnn", SimpleNamespace(create_handle=lambda: "handle"))
    monkeypatch.setattr(compiler, "find_compiler", lambda: None)
    monkeypatch.setattr(compiler, "kernels_of", lambda spec, handle: ([(4, 0)], [(4, 1)]))
    monkeypatch.setattr(compiler, "compiled", lambda spec, kernel, handle: b"plan" if kernel == (4, 0) else None)
    tasks = [[asdict(SPEC), kernel] for kernel in (None, (4, 0), (4, 1))]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(task) + "\n" for task in tasks)))
    compiler.main(1)
    assert devices == [1]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        [[[4, 0]], [[4, 1]]],
        "cGxhbg==",
        None,
    ]


def test_an_engine_competes_where_no_better_one_is_named() -> None:
    assert compiler.of_the_best_engine([(4, 3), (2, 23), (4, 3), (7, 0), (9, 1)]) == [(4, 3), (9, 1)]
    assert compiler.of_the_best_engine([(7, 0), (2, 5)]) == [(7, 0)]
    assert compiler.of_the_best_engine([(2, 23), (2, 5)]) == [(2, 23), (2, 5)]
    assert compiler.of_the_best_engine([]) == []


@pytest.mark.parametrize(
    ("precision", "device", "reason"), [("fp16", "cpu", "GPU"), ("fp32", "cuda", "FP16"), ("bf16", "cuda", "FP16")]
)
def test_what_is_not_measured_says_why(precision: str, device: str, reason: str) -> None:
    support = get_backend("cudnn").supports(Workload("vanilla_cnn", 1, precision, device))
    assert not support.ok
    assert reason in support.reason


def test_a_cpu_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "GPU" in get_backend("cudnn").supports(Workload("resnet18", 1, "fp16", "cpu")).reason
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert "pip install" in get_backend("cudnn").availability("cuda").remedy


def test_plans_are_chosen_for_a_batch_size_and_a_precision() -> None:
    workloads = [Workload("resnet18", size, "fp16", "cuda") for size in (1, 8)]
    assert len({get_backend("cudnn").artifact_key(workload) for workload in workloads}) == 2
