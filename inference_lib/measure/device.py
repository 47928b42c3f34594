"""What NVML says of the GPU: memory, busy percent, clocks, power, temperature, throttle reasons.

Sampling has a phase of its own, under a steady load that is not timed: a query holds the driver's lock for a moment.
https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import pynvml

from inference_lib.report.records import Clocks, Load

MIB = 2**20
SAMPLE_EVERY_S = 0.05
SETTLE_S = 1.0
"""NVML's busy percent looks back over up to a second: samples before that still see what ran before."""

CLOCK_CHECK_S, CLOCK_LIMIT_S = 0.05, 0.6
FULL_CLOCK = 0.9
"""Share of the highest SM clock that counts as awake."""

THROTTLE_REASONS = {
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "temperature",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "temperature (hardware)",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power brake",
}


@cache
def _handle() -> Any:
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByIndex(0)


def memory_used_mib() -> float:
    """Return the memory in use on the GPU by all processes and the driver, MiB."""
    return pynvml.nvmlDeviceGetMemoryInfo(_handle()).used / MIB


def wake_clocks(step: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Run ``step`` back to back until the SM clock has ramped up from idle; return the clock in MHz.

    An idle GPU runs at a fraction of its clock and takes a moment under load to rise: what is timed before that is
    the power management. A GPU that never gets there (a power cap, say) is given up after ``CLOCK_LIMIT_S``.
    """
    highest = pynvml.nvmlDeviceGetMaxClockInfo(_handle(), pynvml.NVML_CLOCK_SM)
    start = clock()
    while True:
        until = clock() + CLOCK_CHECK_S
        while clock() < until:
            step()
        current = pynvml.nvmlDeviceGetClockInfo(_handle(), pynvml.NVML_CLOCK_SM)
        if current >= FULL_CLOCK * highest or clock() - start >= CLOCK_LIMIT_S:
            return current


def clocks() -> Clocks:
    """Return the SM clock of this moment, and what holds it down if anything does."""
    mask = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(_handle())
    return Clocks(
        sm_mhz=pynvml.nvmlDeviceGetClockInfo(_handle(), pynvml.NVML_CLOCK_SM),
        throttle_reasons=_throttle_reasons([mask]),
    )


def sample_load(step: Callable[[], int], seconds: float) -> Load:
    """Run ``step`` (it returns the images it inferred) for ``seconds`` and sample the GPU meanwhile.

    Busy percent is NVML's ``utilization.gpu``: the share of a window in which any kernel ran. It does not say how
    full the GPU was.
    """
    step()
    readings: list[Reading] = []
    done = threading.Event()

    def watch() -> None:
        begin = time.monotonic()
        while not done.wait(SAMPLE_EVERY_S):
            if time.monotonic() - begin >= SETTLE_S:
                readings.append(_read())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    images, joules_before, start = 0, _joules(), time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        images += step()
    joules = _joules() - joules_before
    done.set()
    watcher.join()
    return _summary(readings or [_read()], joules / images * 1e3 if joules > 0 else None, elapsed)


class Reading(NamedTuple):
    """NVML's answers of one moment."""

    busy_percent: float
    sm_clock_mhz: float
    power_w: float
    temperature_c: float
    memory_mib: float
    throttle_mask: int


def _read() -> Reading:
    handle = _handle()
    return Reading(
        pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        memory_used_mib(),
        pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
    )


def _joules() -> float:
    """Return the energy counter in joules; it moves every 10 to 100 ms. 0 where the GPU has none."""
    try:
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(_handle()) / 1e3
    except pynvml.NVMLError:
        return 0.0


def _summary(readings: Sequence[Reading], energy_mj: float | None, seconds: float) -> Load:
    busy, clock, power, temperature, *_ = (sum(column) / len(readings) for column in zip(*readings, strict=True))
    return Load(
        busy_percent=busy,
        sm_clock_mhz=clock,
        power_w=power,
        temperature_c=temperature,
        peak_memory_mib=max(reading.memory_mib for reading in readings),
        energy_mj_per_image=energy_mj,
        throttle_reasons=_throttle_reasons([reading.throttle_mask for reading in readings]),
        samples=len(readings),
        seconds=seconds,
    )


def _throttle_reasons(masks: Iterable[int]) -> list[str]:
    return sorted({name for mask in masks for bit, name in THROTTLE_REASONS.items() if mask & bit})
