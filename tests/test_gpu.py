"""NVML's readings, on a made-up GPU."""

from types import SimpleNamespace

import pynvml
import pytest

from inference_lib.measure import gpu as device
from inference_lib.records.record import Clocks


class FakeGpu:
    """Answers NVML's questions; its SM clock rises with every reading."""

    def __init__(self, clocks: list[int], throttle: int = 0) -> None:
        self.clocks, self.throttle, self.millijoules = clocks, throttle, 0

    def clock(self, *_: object) -> int:
        return self.clocks.pop(0) if len(self.clocks) > 1 else self.clocks[0]

    def energy(self, *_: object) -> int:
        self.millijoules += 60_000
        return self.millijoules


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch):
    def install(gpu: FakeGpu) -> FakeGpu:
        answers = {
            "nvmlDeviceGetMaxClockInfo": lambda *_: 2000,
            "nvmlDeviceGetClockInfo": gpu.clock,
            "nvmlDeviceGetUtilizationRates": lambda *_: SimpleNamespace(gpu=50),
            "nvmlDeviceGetPowerUsage": lambda *_: 300_000,
            "nvmlDeviceGetTemperature": lambda *_: 40,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda *_: gpu.throttle,
            "nvmlDeviceGetTotalEnergyConsumption": gpu.energy,
            "nvmlDeviceGetMemoryInfo": lambda *_: SimpleNamespace(used=700 * device.MIB),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, answer)
        monkeypatch.setattr(device, "_handle", lambda: None)
        return gpu

    return install


def test_clocks_are_awake_once_near_their_highest(pretend) -> None:
    gpu = pretend(FakeGpu([345, 1200, 1900, 1980]))
    assert device.wake_clocks(lambda: None) == 1900
    assert gpu.clocks == [1980]


def test_a_gpu_that_never_wakes_is_given_up(pretend) -> None:
    pretend(FakeGpu([345]))
    now = iter(range(10**6))
    assert device.wake_clocks(lambda: None, clock=lambda: next(now) / 100) == 345


def test_a_load_is_summed_up(pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(FakeGpu([1980], throttle=pynvml.nvmlClocksThrottleReasonSwPowerCap))
    monkeypatch.setattr(device, "SETTLE_S", 0.0)
    images = 0

    def step() -> int:
        nonlocal images
        images += 1
        return 1

    load = device.sample_load(step, 0.2)
    assert (load.busy_percent, load.sm_clock_mhz, load.power_w, load.temperature_c) == (50, 1980, 300, 40)
    assert load.energy_mj_per_image == pytest.approx(60_000 / (images - 1))  # the first step only warms up
    assert load.throttle_reasons == ["power cap"]
    assert load.peak_memory_mib == 700
    assert load.samples >= 2


def test_the_clocks_of_a_moment_name_what_holds_them_down(pretend) -> None:
    both = pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    pretend(FakeGpu([1410], throttle=both))
    assert device.clocks() == Clocks(sm_mhz=1410, throttle_reasons=["power cap", "temperature (hardware)"])


def test_an_idle_gpu_or_one_set_to_a_clock_is_not_throttled(pretend) -> None:
    harmless = pynvml.nvmlClocksThrottleReasonGpuIdle | pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting
    pretend(FakeGpu([1980], throttle=harmless))
    assert device.clocks().throttle_reasons == []
