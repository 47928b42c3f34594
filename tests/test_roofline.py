"""Counted work against counting by hand, the bounds on invented machines, and the kept ceilings."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.text import Annotation
from torch import nn

from inference_lib.backends.shared.cuda import multiplies_fp8
from inference_lib.backends.shared.fusion import CONVOLUTION_ADD_RELU, CONVOLUTION_RELU, fuse_convolutions
from inference_lib.measure import roofline
from inference_lib.measure.roofline import CODE, Ceilings, Measured, published_ceilings
from inference_lib.measure.work import Work, count
from inference_lib.report import plots
from inference_lib.support.errors import CourseError
from inference_lib.zoo.networks import load_pretrained

INPUT = 3 * 224 * 224
MACHINE = Ceilings(flops={"fp32": 100.0, "fp16": 400.0, "int8": 800.0}, bandwidth=10.0, machine="invented", code=CODE)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.linear = nn.Linear(4 * 224 * 224, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.convolution(x).flatten(1))


def shape(batch_size: int) -> tuple[int, ...]:
    return (batch_size, 3, 224, 224)


WEIGHTS = 4 * 3 * 9
MIDDLE = 4 * 224 * 224


@pytest.mark.parametrize("batch_size", [1, 3])
def test_operations_of_a_convolution_and_a_linear_layer(batch_size: int) -> None:
    multiply_adds = batch_size * (MIDDLE * 3 * 9 + MIDDLE * 5)
    assert count(Network(), shape(batch_size)).operations == 2 * multiply_adds


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("tf32", 4), ("fp16", 2), ("bf16", 2), ("int8", 1)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_bytes_of_two_layers(precision: str, size: int, batch_size: int) -> None:
    work = count(Network(), shape(batch_size), precision)
    convolution = batch_size * INPUT + WEIGHTS + batch_size * MIDDLE
    linear = batch_size * MIDDLE + MIDDLE * 5 + 5 + batch_size * 5
    assert work.calls == 2  # the views between them move nothing
    assert work.bytes_unfused == size * (convolution + linear)
    assert work.bytes_fused == size * (batch_size * INPUT + WEIGHTS + MIDDLE * 5 + 5 + batch_size * 5)
    assert work.intensity_unfused == work.operations / work.bytes_unfused
    assert work.intensity_fused == work.operations / work.bytes_fused


def test_counting_leaves_the_model_alone() -> None:
    model = Network().half()
    count(model, shape(2), "fp32")
    assert all(p.device.type == "cpu" and p.dtype is torch.float16 for p in model.parameters())


def test_the_known_networks() -> None:
    resnet, mobilenet = (roofline.work_of(name, 1, "fp32") for name in ("resnet18", "mobilenet_v2"))
    assert resnet.operations == pytest.approx(3.6e9, rel=0.02)
    assert resnet.operations / mobilenet.operations == pytest.approx(6, abs=0.2)
    assert mobilenet.bytes_unfused > resnet.bytes_unfused
    assert mobilenet.calls > 2 * resnet.calls


def test_fusion_moves_less_and_computes_the_same() -> None:
    plain, fused = load_pretrained("resnet18"), fuse_convolutions(load_pretrained("resnet18"))
    targets = [node.target for node in fused.graph.nodes]
    assert CONVOLUTION_RELU in targets
    assert CONVOLUTION_ADD_RELU in targets
    before, after = (count(network, shape(16), "fp16") for network in (plain, fused))
    assert after.operations == before.operations
    assert after.calls < before.calls / 2
    assert after.bytes_fused < after.bytes_unfused < before.bytes_unfused / 2


@pytest.mark.parametrize(
    ("operations", "unfused", "precision", "traffic", "images", "reason"),
    [
        (1000, 50, "fp32", "unfused", 0.4, "compute"),  # 10 s against 5 s
        (1000, 50, "fp16", "unfused", 0.8, "memory"),  # 2.5 s against 5 s
        (1000, 50, "fp16", "fused", 1.6, "compute"),  # 2.5 s against 2 s
    ],
)
def test_the_longer_bound_holds(
    operations: int, unfused: int, precision: str, traffic: roofline.Traffic, images: float, reason: str
) -> None:
    work = Work(batch_size=4, operations=operations, bytes_unfused=unfused, bytes_fused=20, calls=1)
    assert roofline.attainable(work, MACHINE, precision, traffic) == pytest.approx(images)
    assert roofline.limited_by(work, MACHINE, precision, traffic) == reason


def test_a_precision_without_a_ceiling_is_named() -> None:
    with pytest.raises(CourseError, match="bf16"):
        roofline.attainable(Work(1, 1, 1, 1, 1), MACHINE, "bf16")


def test_ceilings_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def measure(device: str) -> Ceilings:
        calls.append(device)
        return MACHINE

    monkeypatch.setattr(roofline, "measure_ceilings", measure)
    folder = tmp_path / "ceilings"
    assert roofline.ceilings("cpu", folder) == roofline.ceilings("cpu", folder) == MACHINE
    assert calls == ["cpu"]

    (kept,) = folder.glob("cpu-*.json")
    older = MACHINE.model_copy(update={"flops": {"fp32": 100.0}}).model_dump_json().encode()  # INT8 was not known then
    by_other_code = MACHINE.model_copy(update={"code": "other"}).model_dump_json().encode()
    for damaged in (b"", b"{", b"{}", kept.read_bytes()[:-9], b"\xff", older, by_other_code):
        kept.write_bytes(damaged)
        calls.clear()
        assert roofline.ceilings("cpu", folder) == MACHINE
        assert calls == ["cpu"]
        assert Ceilings.model_validate_json(kept.read_bytes()) == MACHINE


def test_measured_again_of_each_ceiling_the_higher_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(fp32: float, int8: float, bandwidth: float) -> Ceilings:
        return Ceilings(flops={"fp32": fp32, "int8": int8}, bandwidth=bandwidth, machine="a CPU", code=CODE)

    monkeypatch.setattr(roofline, "measure_ceilings", lambda device: machine(50.0, 300.0, 10.0))
    assert roofline.ceilings("cpu", tmp_path) == machine(50.0, 300.0, 10.0)
    monkeypatch.setattr(roofline, "measure_ceilings", lambda device: machine(90.0, 200.0, 9.0))
    assert roofline.ceilings("cpu", tmp_path) == machine(50.0, 300.0, 10.0)
    assert roofline.ceilings("cpu", tmp_path, again=True) == machine(90.0, 300.0, 10.0)
    assert roofline.ceilings("cpu", tmp_path) == machine(90.0, 300.0, 10.0)


def test_the_cpu_s_ceiling_is_that_of_the_quicker_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_product_rate", lambda precision, device: 90.0)
    monkeypatch.setattr(roofline, "_convolution_rate", {"fp32": 110.0, "int8": 70.0}.__getitem__)
    assert roofline.measure_ceilings("cpu").flops == {"fp32": 110.0, "int8": 90.0}
    monkeypatch.setattr(roofline, "_convolution_rate", {"fp32": 70.0, "int8": 90.0}.__getitem__)
    assert roofline.measure_ceilings("cpu").flops == {"fp32": 90.0, "int8": 90.0}


def test_this_machine_has_ceilings() -> None:
    found = roofline.measure_ceilings("cpu")
    assert found.flops.keys() == {"fp32", "int8"}
    assert min(found.flops.values()) > 1e8
    assert found.bandwidth > 1e8


@pytest.mark.gpu
def test_a_gpu_is_faster_in_lower_precision() -> None:
    found = roofline.measure_ceilings("cuda")
    assert found.flops["fp16"] > found.flops["tf32"] > found.flops["fp32"] > 1e12
    assert found.flops["int8"] > 1.2 * found.flops["fp16"]
    if multiplies_fp8():
        assert found.flops["fp8"] > 1.2 * found.flops["fp16"]
    assert found.bandwidth > 1e11


def test_products_of_integers_are_tried_in_both_layouts() -> None:
    a, b = (torch.randint(-9, 9, (32, 32), dtype=torch.int8) for _ in range(2))
    found = [product() for product in roofline._integer_products(a, b)]
    assert [product.tolist() for product in found] == [(a.int() @ each.int()).tolist() for each in (b, b.t())]
    assert len(roofline._products(a.float(), b.float())) == 1


def test_a_processor_multiplies_integers_by_every_library_that_quantized_layers_have() -> None:
    """A plain loop, which PyTorch's other product is without VNNI, gave a bound that a row was 27 times below.

    Nor is one library enough: the product that does not know AMX gave a bound that a row was twice as fast as.
    """
    before = torch.backends.quantized.engine
    a = torch.randint(0, 3, (16, 16), dtype=torch.int8)
    b = torch.randint(-2, 2, (16, 16), dtype=torch.int8)
    products = roofline._products(a, b)
    assert len(products) == len({before, "onednn"} & set(torch.backends.quantized.supported_engines))
    for product in products:
        assert product().is_quantized
        assert product().dequantize().tolist() == (a.float() @ b.float()).tolist()
    assert torch.backends.quantized.engine == before


def test_a_processor_s_convolutions_of_integers_are_those_of_the_numbers() -> None:
    images, weights = torch.randint(0, 3, (1, 4, 5, 5)).float(), torch.randint(-2, 2, (4, 4, 3, 3)).float()
    for engine in roofline._engines():
        found = roofline._quantized_convolution(images, weights, engine)()
        assert found.is_quantized
        assert found.dequantize().tolist() == torch.conv2d(images, weights).tolist()


@pytest.mark.parametrize(("device", "asked"), [("cpu", [1, 2, 4]), ("cuda", [1])])
def test_products_on_a_processor_grow_until_they_are_long(device: str, asked: list[int]) -> None:
    """On 16 cores, a product of a fifth of a millisecond had a rate that a network's passed."""
    scales = []

    def measure(scale: int) -> tuple[float, float]:
        scales.append(scale)
        return {1: (30.0, 3e-3), 2: (100.0, 6e-3), 4: (160.0, 10e-3)}[scale]

    highest = {"cpu": 100.0 / 6e-3, "cuda": 30.0 / 3e-3}[device]  # the best, not the last
    assert roofline._highest_rate(measure, device) == highest
    assert scales == asked


def test_a_rate_that_a_row_passes_is_no_ceiling(make_record) -> None:
    """PyTorch's integer product was a tenth of what the device does, and a published row was four times as fast."""
    row = make_record(precision="int8", throughput_images_per_s=60.0)
    rate = 60.0 * roofline.work_of(row.model, 1, "int8").operations / row.batch_size
    here = row.machine.name(row.device)

    def believed(int8: float, machine: str = here) -> dict[str, float] | None:
        found = Ceilings(flops={"fp16": 1.0, "int8": int8}, bandwidth=1e12, machine=machine)
        kept = roofline.never_passed(found, [row])
        return kept and kept.flops

    assert believed(1.1 * rate) == {"fp16": 1.0, "int8": 1.1 * rate}
    assert believed(0.9 * rate) == {"fp16": 1.0}
    assert believed(0.9 * rate, "another machine") == {"fp16": 1.0, "int8": 0.9 * rate}
    alone = Ceilings(flops={"int8": 0.9 * rate}, bandwidth=1e12, machine=here)
    assert roofline.never_passed(alone, [row]) is None


@pytest.fixture
def table(make_record) -> pd.DataFrame:
    measured = Measured("pytorch", "PyTorch (eager)", "mobilenet_v2", 8, "fp16", 50.0)
    empty = make_record(throughput_images_per_s=None)
    return roofline.roofline_table([make_record(throughput_images_per_s=60.0), empty, measured], MACHINE)


def test_a_row_for_every_throughput(table: pd.DataFrame) -> None:
    assert table["model"].tolist() == ["resnet18", "mobilenet_v2"]
    work, row = roofline.work_of("resnet18", 1, "fp32"), table.iloc[0]
    assert row["operations"] == work.operations
    assert row["unfused images/s"] == roofline.attainable(work, MACHINE, "fp32")
    assert row["fused images/s"] == roofline.attainable(work, MACHINE, "fp32", "fused")
    assert row["% of fused"] == pytest.approx(60 / row["fused images/s"] * 100)
    assert row["FLOP/s"] == pytest.approx(60 * work.operations)


def test_the_roofline_figure_has_a_roof_a_precision_and_a_point_a_row(table: pd.DataFrame) -> None:
    figure, (axes,) = plots.new_figure()
    plots.roofline(table, MACHINE, axes)
    page = plots.show_figure(figure, alt="A roofline.").data
    for text in ("resnet18", "mobilenet_v2", "FP32", "FP16"):
        assert text in page


def test_a_column_of_points_is_labelled_once_at_its_highest(table: pd.DataFrame) -> None:
    slower = table.assign(**{"FLOP/s": table["FLOP/s"] / 2})
    _, (axes,) = plots.new_figure()
    plots.roofline(pd.concat([slower, table], ignore_index=True), MACHINE, axes)
    labels = [label for label in axes.texts if isinstance(label, Annotation)]
    marked = [label for label in labels if "TFLOP/s" not in label.get_text()]
    heights = table["FLOP/s"] / 1e12
    assert sorted(label.xy[1] for label in marked) == sorted(heights)


def test_published_ceilings_are_those_of_the_machine_asked_for(tmp_path: Path) -> None:
    mine = Ceilings(flops={"fp32": 1e12}, bandwidth=1e11, machine="My GPU")
    (tmp_path / "cuda-1.json").write_text(mine.model_dump_json())
    (tmp_path / "cuda-0.json").write_text("{")
    assert published_ceilings("My GPU", tmp_path) == mine
    assert published_ceilings("Another GPU", tmp_path) is None
    assert published_ceilings("My GPU", tmp_path / "nowhere") is None
