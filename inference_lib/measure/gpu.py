"""What the GPU reports of itself, through NVML: memory, busy time, clocks, power, temperature, throttle reasons.

Sampling has a phase of its own, under a steady load that is not timed: a query holds the driver's lock for a moment.
A reading that a GPU does not offer is None, and the others are taken all the same.
https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple

import pynvml
import torch

from inference_lib.records.record import Clocks, Load

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
def handle(index: int) -> Any:
    """Return NVML's handle of the GPU that this process calls ``cuda:index``.

    NVML counts all GPUs in PCI order; a process sees those of ``CUDA_VISIBLE_DEVICES``, in an order of its own. Its
    UUID is the same for both, that of a slice (MIG) starts otherwise. Raise NVMLError where NVML does not know it.
    """
    pynvml.nvmlInit()
    uuid = torch.cuda.get_device_properties(index).uuid
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")


def _ask(query: Callable[..., Any], index: int, *arguments: Any) -> Any:
    """Return what NVML answers, None where this GPU (a slice of one, an older one) has no such reading."""
    try:
        return query(handle(index), *arguments)
    except pynvml.NVMLError:
        return None


def memory_used_mib(index: int) -> float | None:
    """Return the memory in use on the GPU by all processes and the driver, MiB."""
    found = _ask(pynvml.nvmlDeviceGetMemoryInfo, index)
    return None if found is None else found.used / MIB


def process_memory_mib(index: int) -> float | None:
    """Return the GPU memory of this process, MiB; None where NVML does not tell processes apart (in a container)."""
    found = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, index) or []
    used = [process.usedGpuMemory for process in found if process.pid == os.getpid()]
    return used[0] / MIB if used and used[0] else None


def wake_clocks(index: int, step: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> None:
    """Run ``step`` back to back until the SM clock has ramped up from idle.

    An idle GPU runs at a fraction of its clock and takes a moment under load to rise: what is timed before that is
    the power management. A GPU that never gets there (a power cap, say) is given up after ``CLOCK_LIMIT_S``.
    """
    highest = _ask(pynvml.nvmlDeviceGetMaxClockInfo, index, pynvml.NVML_CLOCK_SM)
    start = clock()
    while True:
        until = clock() + CLOCK_CHECK_S
        while clock() < until:
            step()
        current = _sm_clock(index)
        awake = highest is None or current is None or current >= FULL_CLOCK * highest
        if awake or clock() - start >= CLOCK_LIMIT_S:
            return


def clocks(index: int) -> Clocks:
    """Return the SM clock of this moment, and what holds it down if anything does."""
    mask = _ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, index)
    return Clocks(sm_mhz=_sm_clock(index), throttle_reasons=_throttle_reasons([mask or 0]))


def _sm_clock(index: int) -> float | None:
    return _ask(pynvml.nvmlDeviceGetClockInfo, index, pynvml.NVML_CLOCK_SM)


def sample_load(index: int, step: Callable[[], int], seconds: float) -> Load:
    """Run ``step`` (it returns the images it inferred) for ``seconds`` and sample the GPU meanwhile.

    Busy percent is NVML's ``utilization.gpu``: the share of a window in which any kernel ran. It does not say how
    full the GPU was. The sampler ends with the load, also where ``step`` raises.
    """
    step()
    readings: list[Reading] = []
    done = threading.Event()

    def watch() -> None:
        begin = time.monotonic()
        while not done.wait(SAMPLE_EVERY_S):
            if time.monotonic() - begin >= SETTLE_S:
                readings.append(read(index))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        images, joules_before, start = 0, _joules(index), time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            images += step()
        joules_after = _joules(index)
    finally:
        done.set()
        watcher.join()
    spent = None if joules_before is None or joules_after is None else joules_after - joules_before
    return summary(readings or [read(index)], spent / images * 1e3 if spent else None, elapsed)


class Reading(NamedTuple):
    """NVML's answers of one moment; None where the GPU has no such reading."""

    busy_percent: float | None
    sm_clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    throttle_mask: int


def read(index: int) -> Reading:
    """Return one reading of the GPU."""
    busy, milliwatts = _ask(pynvml.nvmlDeviceGetUtilizationRates, index), _ask(pynvml.nvmlDeviceGetPowerUsage, index)
    return Reading(
        None if busy is None else busy.gpu,
        _sm_clock(index),
        None if milliwatts is None else milliwatts / 1e3,
        _ask(pynvml.nvmlDeviceGetTemperature, index, pynvml.NVML_TEMPERATURE_GPU),
        _ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, index) or 0,
    )


def _joules(index: int) -> float | None:
    """Return the energy counter in joules; it moves every 10 to 100 ms. None where the GPU has none."""
    millijoules = _ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, index)
    return None if millijoules is None else millijoules / 1e3


def summary(readings: Sequence[Reading], energy_mj: float | None, seconds: float) -> Load:
    """Return the means of ``readings``, each over those that have it."""

    def mean(values: Iterable[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return fmean(there) if there else None

    busy, clock, power, temperature, masks = zip(*readings, strict=True)
    return Load(
        busy_percent=mean(busy),
        sm_clock_mhz=mean(clock),
        power_w=mean(power),
        temperature_c=mean(temperature),
        energy_mj_per_image=energy_mj,
        throttle_reasons=_throttle_reasons(masks),
        samples=len(readings),
        seconds=seconds,
    )


def _throttle_reasons(masks: Iterable[int]) -> list[str]:
    return sorted({name for mask in masks for bit, name in THROTTLE_REASONS.items() if mask & bit})
