"""Which cells a grid has, who takes turns with whom, which cells cannot run, and how thorough a profile is."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from inference_lib.backends import BACKENDS, get_backend
from inference_lib.measure import memory, plan
from inference_lib.measure.benchmark import whole_grid
from inference_lib.measure.plan import (
    Rival,
    RivalSet,
    empty_record,
    fingerprint,
    grid,
    references_of,
    sets_of,
    why_not,
)
from inference_lib.measure.profiles import HOST_ROUNDS, PROFILES, Profile, get_profile
from inference_lib.measure.throughput import fill_budget
from inference_lib.records.machine import Machine
from inference_lib.records.statistics import LEAST_FOR_P99
from inference_lib.seam import MODELS, Device, Support, Workload, find_model
from inference_lib.support.errors import CourseError

CPU, GPU = Device("cpu"), Device("cuda")
QUICK, FULL = PROFILES["quick"], PROFILES["full"]


# Profiles


@pytest.mark.parametrize("amount", [f.name for f in dataclasses.fields(Profile) if f.name not in ("name",)])
def test_a_profile_that_measures_more_never_measures_less_of_anything(amount: str) -> None:
    quick, full = getattr(QUICK, amount), getattr(FULL, amount)
    if isinstance(quick, tuple):
        assert set(quick) <= set(full)
    else:
        assert quick <= full


def test_what_is_searched_for_each_batch_size_or_calibrated_is_measured_at_the_ends() -> None:
    def sizes(backend: str, precision: str, device: Device = GPU) -> list[int]:
        return [r.workload.batch_size for r in grid([backend], ["resnet18"], device, FULL, [precision])]

    assert sizes("pytorch", "fp16") == list(FULL.sweep)
    assert sizes("cudnn", "fp16") == sizes("cudnn", "int8") == sizes("tensorrt", "int8") == list(FULL.ends("cuda"))
    assert sizes("pytorch", "fp32") == [1]
    assert sizes("openvino", "int8", CPU) == list(FULL.sweep_cpu)
    assert [r.workload.batch_size for r in grid(["cudnn"], ["resnet18"], GPU, FULL, ["fp16"], [8])] == [8]


def iterations_at_1(device: str, one_s: float) -> int:
    return FULL.invocations * FULL.rounds_at(1, device) * FULL.iterations_of(one_s, 1, device)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_full_profile_carries_a_p99_at_batch_1_and_no_verdict_rests_on_fewer_than_three_invocations(
    device: str,
) -> None:
    assert iterations_at_1(device, 0.001) >= LEAST_FOR_P99
    assert FULL.invocations >= 3
    assert QUICK.invocations == 1


def test_a_processor_has_fewer_rounds_since_its_threads_take_long_to_sleep() -> None:
    assert FULL.rounds_at(1, "cpu") == QUICK.rounds_at(1, "cpu") == HOST_ROUNDS < FULL.rounds_at(1, "cuda")
    assert FULL.rounds_at(8, "cpu") == FULL.rounds_at(8, "cuda") <= FULL.rounds_at(1, "cpu")
    assert get_profile("smoke").rounds_at(1, "cpu") == 2


def test_the_throughput_of_a_processor_that_wakes_up_slowly_is_that_of_one_that_is_awake() -> None:
    now, calls = 0.0, iter([0.007] * 12 + [0.0035] * 10_000)  # seconds, as seen on a host with 16 cores

    def queue(number: int) -> None:
        nonlocal now
        now += next(calls)

    found = fill_budget(queue, lambda: None, 1, FULL.throughput_s("cpu"), lambda: now)
    assert found.images_per_s == pytest.approx(1 / 0.0035, rel=0.05)
    assert FULL.throughput_s("cuda") == FULL.budget_s


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("one_s", [1e-9, 1e-4, 0.005, 0.015])
def test_the_full_profile_has_300_iterations_of_a_cell_at_batch_1(device: str, one_s: float) -> None:
    assert iterations_at_1(device, one_s) >= 300


@pytest.mark.parametrize("one_s", [0.1, 1.0, 60.0])
def test_the_longest_inferences_still_take_three_in_every_round(one_s: float) -> None:
    assert FULL.iterations_of(one_s, 256, "cuda") == FULL.iterations_of(one_s, 8, "cpu") == 3


def test_a_turn_lasts_no_longer_than_it_may() -> None:
    profile = replace(FULL, iterations=1000, turn_s=0.2, least_iterations=3)
    times = (1e-9, 0.001, 0.02, 0.1)
    assert [profile.iterations_of(one_s, 1, "cuda") for one_s in times] == [1000, 200, 10, 3]
    assert [profile.iterations_of(one_s, 8, "cpu") for one_s in times] == [1000, 200, 10, 3]


@pytest.mark.parametrize(
    ("precision", "device", "images"),
    [
        ("fp32", "cpu", 1_000),
        ("bf16", "cpu", 1_000),
        ("int8", "cpu", 10_000),
        ("fp16", "cuda", 10_000),
        ("int8", "cuda", 10_000),
        ("tf32", "cuda", 1_000),
    ],
)
def test_all_pictures_are_for_rows_that_may_have_lost_something(precision: str, device: str, images: int) -> None:
    rival = Rival("openvino", Workload("vanilla_cnn", 1, precision, device))
    assert rival.images(get_profile("full")) == images
    assert rival.images(replace(get_profile("full"), test_images=20_000, few_test_images=20_000)) == 10_000
    if device == "cpu":
        assert rival.images(get_profile("quick")) == get_profile("quick").few_test_images


def test_an_unknown_profile_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(CourseError, match="unknown profile 'huge'; choose one of: smoke, quick, full"):
        get_profile("huge")


# The grid


def cells(rivals: list[Rival]) -> list[tuple[str, str, str, int]]:
    return [(r.backend, r.workload.model.name, r.workload.precision.name, r.workload.batch_size) for r in rivals]


def test_a_grid_has_a_cell_for_every_combination_in_order() -> None:
    found = cells(grid(["tvm", "pytorch"], ["resnet18", "vanilla_cnn"], CPU, FULL, ["fp32"], [8, 1]))
    models = ("resnet18", "vanilla_cnn")
    assert found == [(b, m, "fp32", size) for b in ("tvm", "pytorch") for m in models for size in (1, 8)]


def test_each_backend_may_have_precisions_of_its_own() -> None:
    asked = {"onnxruntime": ["fp32"], "openvino": ["fp32", "bf16"]}
    found = cells(grid(list(asked), ["resnet18"], CPU, FULL, asked, [1]))
    assert [(backend, precision) for backend, _, precision, _ in found] == [
        ("onnxruntime", "fp32"),
        ("openvino", "fp32"),
        ("openvino", "bf16"),
    ]


def test_the_profile_says_what_is_measured_where_nothing_is_asked_for() -> None:
    on_cpu = cells(grid(["pytorch"], ["resnet18"], CPU, FULL))
    assert [(precision, size) for *_, precision, size in on_cpu] == [("fp32", size) for size in FULL.sweep_cpu]
    on_gpu = [(precision, size) for *_, precision, size in cells(grid(["pytorch"], ["resnet18"], GPU, FULL))]
    assert on_gpu == [("fp32", 1)] + [("fp16", size) for size in FULL.sweep]


def test_an_edition_has_tf32_of_one_backend_alone_and_fp32_at_a_large_batch_of_pytorch() -> None:
    backends, models = list(BACKENDS), list(MODELS)
    edition = whole_grid(backends, models, GPU, FULL)
    assert {r.backend for r in edition if r.workload.precision.name == "tf32"} == {"pytorch-cudagraph"}
    large = {r.backend for r in edition if r.workload.precision.name == "fp32" and r.workload.batch_size > 1}
    assert large == {"pytorch", "pytorch-cudagraph"}
    assert len(edition) == len(set(edition))
    assert all(r.workload.precision.name != "tf32" for r in whole_grid(backends, models, CPU, FULL))


def test_an_edition_has_eight_bits_of_the_backends_that_have_them_and_a_quick_grid_has_none() -> None:
    def eight(device: Device, profile: Profile) -> set[tuple[str, str]]:
        asked = whole_grid(list(BACKENDS), ["vanilla_cnn"], device, profile)
        return {(r.backend, r.workload.precision.name) for r in asked if r.workload.precision.calibrated}

    assert eight(CPU, FULL) >= {(name, "int8") for name in ("onnxruntime", "openvino", "openvino-throughput")}
    assert {("cudnn", "int8"), ("cudnn", "fp8"), ("tensorrt", "int8")} <= eight(GPU, FULL)
    assert not {name for name, _ in eight(GPU, FULL)} & {"pytorch", "onnxruntime", "tvm", "openvino"}
    assert eight(CPU, QUICK) == eight(GPU, QUICK) == set()


# Sets


NAMES = ("pytorch", "onnxruntime", "openvino", "tvm")


@pytest.fixture(autouse=True)
def everything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every cell run when sets are made; the tests of why_not call the function itself."""
    monkeypatch.setattr(plan, "why_not", lambda rival: None)


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    room_for(99, monkeypatch)


def room_for(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the memory hold so many rivals, whatever they are."""
    monkeypatch.setattr(plan.memory, "fits", lambda rivals: len(rivals) <= count)


def rivals_of(*names: str, size: int = 1, precision: str = "fp32", device: Device = GPU) -> list[Rival]:
    return [Rival(name, Workload("resnet18", size, precision, device)) for name in names]


@pytest.mark.usefixtures("roomy")
def test_a_set_shares_model_batch_size_and_device_and_holds_all_rivals_of_it() -> None:
    rivals = grid(NAMES, ["resnet18", "vanilla_cnn"], CPU, FULL) + rivals_of(*NAMES)
    sets = sets_of(rivals)
    assert sorted(map(str, rivals)) == sorted(str(member) for one in sets for member in one.members)
    places = [{(r.workload.model, r.workload.batch_size, r.workload.device) for r in one.members} for one in sets]
    assert all(len(place) == 1 for place in places)
    assert len(sets) == len({place.pop() for place in places}) == 2 * len(FULL.sweep_cpu) + 1


@pytest.mark.usefixtures("roomy")
def test_the_largest_batches_of_a_model_come_first_and_models_in_the_order_asked() -> None:
    sets = sets_of(grid(NAMES, ["vanilla_cnn", "resnet18"], CPU, FULL))
    order = [(s.members[0].workload.model.name, s.members[0].workload.batch_size) for s in sets]
    assert order == [(model, size) for model in ("vanilla_cnn", "resnet18") for size in sorted(FULL.sweep_cpu)[::-1]]


def test_little_room_splits_a_set_and_keeps_a_precision_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rivals = [r for precision in ("fp32", "fp16") for r in rivals_of(*NAMES, precision=precision)]
    room_for(len(NAMES) + 1, monkeypatch)  # with the quiet row that goes along
    sets = sets_of(rivals)
    assert [{r.workload.precision.name for r in one.members} for one in sets] == [{"fp32"}, {"fp16"}]


def test_no_set_is_larger_than_the_room_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    rivals = [r for precision in ("fp32", "tf32", "fp16") for r in rivals_of(*NAMES, precision=precision)]
    for room in range(2, 14):  # two always fit
        room_for(room, monkeypatch)
        sets = sets_of(rivals)
        assert all(len(one.members) <= 2 or len(one.everyone) <= room for one in sets)
        assert sorted(str(r) for one in sets for r in one.members) == sorted(map(str, rivals))


@pytest.mark.usefixtures("roomy")
def test_a_set_without_the_baseline_carries_it_along_in_each_of_its_precisions() -> None:
    members = rivals_of("tvm", "openvino") + rivals_of("tvm", precision="fp16")
    (one,) = sets_of(members)
    along = {(r.backend, r.workload.precision.name) for r in one.carried}
    assert along == {(name, p) for name in ("pytorch", "pytorch-cudagraph") for p in ("fp32", "fp16")}
    (whole,) = sets_of([*members, *one.carried])
    assert whole.carried == ()


@pytest.mark.usefixtures("roomy")
def test_a_row_that_cannot_run_is_not_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "why_not", lambda r: ("unsupported", "no") if r.backend == plan.QUIET else None)
    (one,) = sets_of(rivals_of("tvm"))
    assert [r.backend for r in one.carried] == ["pytorch"]


@pytest.mark.usefixtures("roomy")
def test_equal_members_make_equal_names_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(*names: str, **place: Any) -> str:
        (one,) = sets_of(rivals_of(*names, **place))
        return one.name

    assert name("tvm", "openvino") == name("openvino", "tvm")
    everyone = rivals_of(*NAMES) + rivals_of(*NAMES, precision="fp16")
    room_for(len(NAMES) + 1, monkeypatch)
    of_a_part = sets_of(everyone)[1].name
    assert of_a_part == sets_of(everyone[len(NAMES) :])[0].name  # what is left after an interruption
    names = [name("tvm"), name("openvino"), name("tvm", "openvino"), name("tvm", size=8), name("tvm", precision="fp16")]
    names.append(name("tvm", device=CPU))
    assert len(set(names)) == len(names)


def test_references_are_the_baseline_and_the_quiet_row_of_the_same_workload() -> None:
    everyone = rivals_of("pytorch", "pytorch-cudagraph", "tvm") + rivals_of("pytorch", precision="fp16")
    tvm = everyone[2]
    assert [r.backend for r in references_of(tvm, everyone)] == ["pytorch", "pytorch-cudagraph"]
    assert all(r.workload == tvm.workload for r in references_of(tvm, everyone))
    assert [r.backend for r in references_of(everyone[0], everyone)] == ["pytorch-cudagraph"]


RECORDED_MIB = {
    "fp32": {"pytorch": (3342, 4390), "pytorch-cudagraph": (3708, 4818)},
    "tf32": {"pytorch-cudagraph": (2876, 4524)},
    "fp16": {
        "pytorch": (2160, 2532),
        "pytorch-cudagraph": (2002, 2708),
        "torchscript": (2268, 1896),
        "torchscript-cudagraph": (1938, 2094),
        "torch-compile": (1666, 2220),
        "aot-inductor": (1542, 2116),
        "onnxruntime": (1926, 5454),
        "onnxruntime-iobinding": (1926, 5454),
        "onnxruntime-cudagraph": (2576, 5618),
        "tvm": (1388, 1822),
        "tvm-cudagraph": (1388, 1822),
        "cudnn": (1446, 2016),
    },
    "int8": {"cudnn": (1250, 1428)},
    "fp8": {"cudnn": (1446, 1524)},
}
"""GPU memory of each row at batch 256 on an H100, as its process was recorded: of resnet18, and of mobilenet_v2."""


def sets_on(machine: Machine, monkeypatch: pytest.MonkeyPatch, size: int = 256, **sizes: float) -> list[RivalSet]:
    """Return the sets of the rows of ``RECORDED_MIB`` on a machine with memories of these ``sizes``."""
    monkeypatch.setattr(memory, "this_machine", lambda index=0: machine.model_copy(update=sizes))
    rows = RECORDED_MIB if size == 256 else {"fp16": RECORDED_MIB["fp16"]}
    missing = ("unsupported", "no such row")
    known = {(name, precision) for precision in rows for name in rows[precision]}
    monkeypatch.setattr(plan, "why_not", lambda r: None if (r.backend, r.workload.precision.name) in known else missing)
    return sets_of([r for p in rows for r in rivals_of(*rows[p], size=size, precision=p)])


def recorded_mib(rivals: Iterable[Rival]) -> list[tuple[int, int]]:
    return [RECORDED_MIB[r.workload.precision.name][r.backend] for r in rivals]


def test_batch_256_is_one_set_on_a_card_of_80_gb(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    (whole,) = sets_on(machine, monkeypatch, gpu_memory_mib=81_079, memory_gib=125.9)
    assert len(whole.members) == 17
    assert whole.carried == ()
    recorded = [max(pair) for pair in recorded_mib(whole.members)]
    needs = [memory.gpu_mib(rival) for rival in whole.members]
    assert all(taken <= need for taken, need in zip(recorded, needs, strict=True))
    assert sum(recorded) < sum(needs) < 1.3 * sum(recorded)


@pytest.mark.parametrize("gib", [8, 12, 16, 24, 32, 40, 48, 64])
def test_what_was_recorded_of_a_set_fits_in_a_smaller_card(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, gib: int
) -> None:
    sets = sets_on(machine, monkeypatch, gpu_memory_mib=gib * 1024, memory_gib=256)
    assert len(sets) > 1
    for one in sets:
        taken = [sum(column) for column in zip(*recorded_mib(one.everyone), strict=True)]
        assert max(taken) <= gib * 1024 or len(one.members) <= 2
    if gib == 48:  # eight bits meet the sixteen that they are compared with
        assert [{r.workload.precision.name for r in one.members} for one in sets][1:] == [
            {"fp16"},
            {"fp16", "int8", "fp8"},
        ]


@pytest.mark.parametrize(
    ("sizes", "members"), [({"gpu_memory_mib": 4096, "memory_gib": 512}, 3), ({"memory_gib": 8}, 2)]
)
def test_a_laptop_measures_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, sizes: dict[str, float], members: int
) -> None:
    sets = sets_on(machine, monkeypatch, size=1, **sizes)
    assert len(sets[0].members) == members
    assert max(len(one.everyone) for one in sets) <= 4


@pytest.mark.parametrize(("gib", "size", "room"), [(4, 1, 5), (24, 1, 35), (24, 64, 7), (1, 256, 2)])
def test_how_many_fit_is_a_matter_of_the_machine_s_memory(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, gib: float, size: int, room: int
) -> None:
    monkeypatch.setattr(memory, "this_machine", lambda index=0: machine.model_copy(update={"memory_gib": gib}))
    everyone = rivals_of("pytorch", "pytorch-cudagraph", *["openvino"] * 50, size=size, device=CPU)
    assert len(sets_of(everyone)[0].members) == room


def test_a_small_gpu_holds_fewer_than_its_host(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    small = machine.model_copy(update={"gpu_memory_mib": 4096, "memory_gib": 512})
    monkeypatch.setattr(memory, "this_machine", lambda index=0: small)
    on_gpu, on_cpu = (sets_of(rivals_of(*NAMES, precision="fp16", device=place)) for place in (GPU, CPU))
    assert len(on_gpu) > len(on_cpu) == 1


# Which cells cannot run


class SomeSizes:
    """Stands for a backend that can do a few batch sizes only."""

    name, title = "some-sizes", "Some sizes"

    def __init__(self, usable: bool = True) -> None:
        self.usable = usable

    def availability(self, device: str) -> Any:
        found = get_backend("pytorch").availability("cpu")
        return found if self.usable else replace(found, usable=False, reason="not installed", remedy="install it")

    def supports(self, workload: Workload) -> Support:
        return Support(workload.batch_size != 8, "" if workload.batch_size != 8 else "no kernel for batch 8")


def test_each_cell_has_an_answer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "get_backend", lambda name: SomeSizes())
    found = [why_not(Rival("some-sizes", Workload("resnet18", size))) for size in (1, 8, 64)]
    assert found == [None, ("unsupported", "no kernel for batch 8"), None]


def test_a_framework_that_is_not_there_says_what_would_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "get_backend", lambda name: SomeSizes(usable=False))
    assert why_not(Rival("some-sizes", Workload("resnet18", 1))) == ("unavailable", "not installed; install it")


def test_an_empty_record_has_the_cell_and_the_reason() -> None:
    rival = Rival("pytorch", Workload("resnet18", 8, "fp32", "cpu"))
    record = empty_record(rival, FULL, "2", "unsupported", "no kernel")
    assert (record.backend, record.title, record.model_title) == ("pytorch", "PyTorch (eager)", "ResNet-18")
    assert (record.batch_size, record.device, record.profile, record.run) == (8, "cpu", "full", "2")
    assert record.why_not == "unsupported: no kernel"
    assert isinstance(record.measured_on, date)


# What a repetition shares


def test_what_a_fingerprint_depends_on() -> None:
    resnet, vanilla = find_model("resnet18"), find_model("vanilla_cnn")
    asked = [
        ("pytorch", resnet, CPU, QUICK),
        ("onnxruntime", resnet, CPU, QUICK),
        ("pytorch", vanilla, CPU, QUICK),
        ("pytorch", resnet, CPU, replace(QUICK, rounds=9)),
    ]
    assert len({fingerprint(*each) for each in asked}) == len(asked)


FINGERPRINT = """
from inference_lib.measure.plan import fingerprint
from inference_lib.measure.profiles import PROFILES
from inference_lib.records.machine import this_machine
from inference_lib.seam import Device, find_model
print(this_machine().threads, fingerprint("pytorch", find_model("vanilla_cnn"), Device("cpu"), PROFILES["quick"]))
"""


def test_how_a_backend_is_made_belongs_to_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO's two rows are of one class and one file."""
    model, quick = find_model("vanilla_cnn"), PROFILES["quick"]
    found = {name: plan.fingerprint(name, model, CPU, quick) for name in BACKENDS}
    assert len(set(found.values())) == len(found)
    monkeypatch.setattr(get_backend("openvino"), "title", "in other words")
    plan.fingerprint.cache_clear()
    assert plan.fingerprint("openvino", model, CPU, quick) == found["openvino"]


def test_an_accuracy_of_fp32_is_not_that_of_tf32() -> None:
    """Seen: three published TF32 rows had FP32's, digit for digit; both precisions run one artifact."""
    fp32, tf32 = (Rival("pytorch-cudagraph", Workload("vanilla_cnn", 1, name, GPU)) for name in ("fp32", "tf32"))
    assert fp32.key[:2] == tf32.key[:2]
    assert fp32.key != tf32.key


def test_the_number_of_threads_belongs_to_the_machine_and_the_fingerprint() -> None:
    """With ``OMP_NUM_THREADS=1`` a row is another row: it must not be taken for one that had all cores."""

    def asked(threads: str) -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        return subprocess.Popen([sys.executable, "-c", FINGERPRINT], env=environment, stdout=subprocess.PIPE, text=True)

    side_by_side = [asked("1"), asked("2")]
    (one, of_one), (two, of_two) = (process.communicate()[0].split() for process in side_by_side)
    assert (one, two) == ("1", "2")
    assert of_one != of_two
