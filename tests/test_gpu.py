"""NVML's readings, on made-up GPUs."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pynvml
import pytest
import torch

from inference_lib.measure import gpu
from inference_lib.records.record import Clocks

READINGS = [
    "nvmlDeviceGetMaxClockInfo",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetComputeRunningProcesses",
]
IDLE, BUSY = "GPU-idle", "GPU-busy"


class FakeNvml:
    """Two GPUs in PCI order, of which a process sees the second one only; it answers NVML's questions about each."""

    def __init__(self, clocks: list[int] | None = None, throttle: int = 0) -> None:
        self.clocks, self.throttle, self.millijoules = clocks or [1980], throttle, 0
        self.asked: set[str] = set()
        self.uuids = {IDLE, BUSY}
        self.processes: list[SimpleNamespace] = []

    def answer(self, name: str) -> Callable[..., object]:
        def ask(handle: str, *_: object) -> object:
            self.asked.add(handle)
            assert handle in self.uuids
            return getattr(self, name)(handle)

        return ask

    def by_uuid(self, uuid: str) -> str:
        if uuid not in self.uuids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def nvmlDeviceGetMaxClockInfo(self, _: str) -> int:  # noqa: N802
        return 2000

    def nvmlDeviceGetClockInfo(self, _: str) -> int:  # noqa: N802
        return self.clocks.pop(0) if len(self.clocks) > 1 else self.clocks[0]

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=0 if handle == IDLE else 50)

    def nvmlDeviceGetPowerUsage(self, _: str) -> int:  # noqa: N802
        return 300_000

    def nvmlDeviceGetTemperature(self, _: str) -> int:  # noqa: N802
        return 40

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: str) -> int:  # noqa: N802
        return self.throttle

    def nvmlDeviceGetTotalEnergyConsumption(self, _: str) -> int:  # noqa: N802
        self.millijoules += 60_000
        return self.millijoules

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=(3 if handle == IDLE else 700) * gpu.MIB)

    def nvmlDeviceGetComputeRunningProcesses(self, _: str) -> list[SimpleNamespace]:  # noqa: N802
        return self.processes


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts a made-up NVML in place; ``missing`` are readings that this GPU does not offer."""

    def missing_reading(*_: object) -> object:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def install(nvml: FakeNvml, missing: tuple[str, ...] = (), uuid: str = "busy") -> FakeNvml:
        for name in READINGS:
            monkeypatch.setattr(pynvml, name, missing_reading if name in missing else nvml.answer(name))
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", nvml.by_uuid)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: pytest.fail("asked by index"))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=uuid))
        return nvml

    gpu.handle.cache_clear()
    yield install
    gpu.handle.cache_clear()


def test_nvml_is_asked_about_the_gpu_that_this_process_sees(pretend) -> None:
    """``CUDA_VISIBLE_DEVICES=1``: PyTorch's device 0 is NVML's second one."""
    nvml = pretend(FakeNvml())
    assert gpu.memory_used_mib(0) == 700
    assert gpu.read(0).busy_percent == 50
    gpu.clocks(0)
    gpu.wake_clocks(0, lambda: None)
    gpu.process_memory_mib(0)
    assert nvml.asked == {BUSY}


def test_a_slice_of_a_gpu_is_found_by_its_own_kind_of_name(pretend) -> None:
    nvml = FakeNvml()
    nvml.uuids = {"MIG-busy"}
    pretend(nvml)
    assert gpu.read(0).busy_percent == 50


def test_a_gpu_that_nvml_does_not_know_has_no_readings_and_can_be_measured(pretend) -> None:
    pretend(FakeNvml(), uuid="unknown")
    assert gpu.read(0) == gpu.Reading(None, None, None, None, 0)
    assert gpu.clocks(0) == Clocks(sm_mhz=None, throttle_reasons=[])
    assert gpu.memory_used_mib(0) is None
    assert gpu.process_memory_mib(0) is None
    gpu.wake_clocks(0, lambda: None)


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        ("nvmlDeviceGetPowerUsage", {"power_w"}),
        ("nvmlDeviceGetUtilizationRates", {"busy_percent"}),
        ("nvmlDeviceGetTemperature", {"temperature_c"}),
        ("nvmlDeviceGetClockInfo", {"sm_clock_mhz"}),
        ("nvmlDeviceGetTotalEnergyConsumption", {"energy_mj_per_image"}),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", set()),
    ],
)
def test_a_reading_that_is_missing_is_none_and_the_others_stay(
    pretend, monkeypatch: pytest.MonkeyPatch, missing: str, names: set[str]
) -> None:
    pretend(FakeNvml(), missing=(missing,))
    monkeypatch.setattr(gpu, "SETTLE_S", 0.0)
    load = gpu.sample_load(0, lambda: time.sleep(0.001) or 1, 0.15).model_dump()
    assert {name for name, value in load.items() if value is None} == names


def test_readings_that_come_and_go_are_averaged_over_those_that_came() -> None:
    readings = [gpu.Reading(50, 1980, None, 40, 0), gpu.Reading(None, 1990, 300.0, 42, 0)]
    found = gpu.summary(readings, None, 1.0)
    assert (found.busy_percent, found.sm_clock_mhz, found.power_w, found.temperature_c) == (50, 1985, 300, 41)


def test_a_load_is_summed_up(pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(FakeNvml(throttle=pynvml.nvmlClocksThrottleReasonSwPowerCap))
    monkeypatch.setattr(gpu, "SETTLE_S", 0.0)
    images = 0

    def step() -> int:
        nonlocal images
        images += 1
        time.sleep(0.001)
        return 1

    load = gpu.sample_load(0, step, 0.3)
    assert (load.busy_percent, load.sm_clock_mhz, load.power_w, load.temperature_c) == (50, 1980, 300, 40)
    assert load.energy_mj_per_image == pytest.approx(60_000 / (images - 1))  # the first step only warms up
    assert load.throttle_reasons == ["power cap"]
    assert load.samples >= 1
    assert load.seconds >= 0.3


def test_a_load_too_short_to_be_sampled_is_read_once(pretend) -> None:
    pretend(FakeNvml())
    load = gpu.sample_load(0, lambda: 1, 0.01)
    assert (load.samples, load.busy_percent) == (1, 50)


def samplers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "watch" in thread.name]


def test_the_sampler_ends_where_a_step_raises(pretend) -> None:
    pretend(FakeNvml())
    steps = iter([1, 1])

    def step() -> int:
        try:
            return next(steps)
        except StopIteration:
            assert samplers()
            raise RuntimeError("CUDA error") from None

    with pytest.raises(RuntimeError, match="CUDA error"):
        gpu.sample_load(0, step, 5.0)
    assert not samplers()


def test_clocks_are_awake_once_near_their_highest(pretend) -> None:
    nvml = pretend(FakeNvml([345, 1200, 1900, 1980]))
    now = iter(range(10**6))
    gpu.wake_clocks(0, lambda: None, clock=lambda: next(now) / 1000)
    assert nvml.clocks == [1980]


def test_a_gpu_that_never_wakes_is_given_up(pretend) -> None:
    pretend(FakeNvml([345]))
    moments, steps = iter(range(10**6)), []
    gpu.wake_clocks(0, lambda: steps.append(1), clock=lambda: next(moments) / 1000)
    passed = next(moments) / 1000
    assert gpu.CLOCK_LIMIT_S <= passed < gpu.CLOCK_LIMIT_S + 2 * gpu.CLOCK_CHECK_S
    assert steps


def test_the_clocks_of_a_moment_name_what_holds_them_down(pretend) -> None:
    both = pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    pretend(FakeNvml([1410], throttle=both))
    assert gpu.clocks(0) == Clocks(sm_mhz=1410, throttle_reasons=["power cap", "temperature (hardware)"])


def test_an_idle_gpu_or_one_set_to_a_clock_is_not_throttled(pretend) -> None:
    harmless = pynvml.nvmlClocksThrottleReasonGpuIdle | pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting
    pretend(FakeNvml([1980], throttle=harmless))
    assert gpu.clocks(0).throttle_reasons == []


@pytest.mark.parametrize(
    ("processes", "found"),
    [
        ([("me", 512)], 512),
        ([("other", 900), ("me", 512)], 512),
        ([("other", 900)], None),
        ([("me", None)], None),  # a container's driver tells the process and not its memory
        ([], None),
    ],
)
def test_the_memory_of_this_process_alone(
    pretend, monkeypatch: pytest.MonkeyPatch, processes: list, found: float | None
) -> None:
    nvml, pids = pretend(FakeNvml()), {"me": 10, "other": 11}
    monkeypatch.setattr(gpu.os, "getpid", lambda: pids["me"])
    nvml.processes = [
        SimpleNamespace(pid=pids[name], usedGpuMemory=None if mib is None else mib * gpu.MIB) for name, mib in processes
    ]
    assert gpu.process_memory_mib(0) == found
