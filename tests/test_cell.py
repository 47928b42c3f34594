"""What makes a record less trustworthy, and how a series is summed up."""

import numpy as np
import pytest

from inference_lib.measure.cell import HIGH_CV_PERCENT, distribution, flags
from inference_lib.measure.timing import Samples, median_interval
from inference_lib.records.record import Clocks, Load


def load(*reasons: str) -> Load:
    return Load(
        busy_percent=90,
        sm_clock_mhz=1980,
        power_w=300,
        temperature_c=50,
        peak_memory_mib=900,
        throttle_reasons=list(reasons),
        samples=4,
        seconds=1.2,
    )


def test_a_steady_cell_at_full_clocks_has_no_flags(make_record) -> None:
    assert flags(make_record(clocks=Clocks(sm_mhz=1980, throttle_reasons=[]), load=load())) == []


@pytest.mark.parametrize(
    ("clocks", "under_load"), [(["power cap"], []), ([], ["power cap"]), (["power cap"], ["power cap"])]
)
def test_clocks_held_down_in_either_phase_flag_the_record(make_record, clocks: list, under_load: list) -> None:
    record = make_record(clocks=Clocks(sm_mhz=1200, throttle_reasons=clocks), load=load(*under_load))
    assert flags(record) == ["clocks were held down: power cap"]


def test_every_reason_is_named_once(make_record) -> None:
    record = make_record(clocks=Clocks(sm_mhz=1200, throttle_reasons=["temperature"]), load=load("power cap"))
    assert flags(record) == ["clocks were held down: power cap, temperature"]


def test_a_scattered_latency_flags_the_record(make_record) -> None:
    record = make_record()
    record.latency.end_to_end.cv_percent = HIGH_CV_PERCENT + 8
    assert flags(record) == ["latency varies by 18 %"]
    record.latency.end_to_end.cv_percent = HIGH_CV_PERCENT
    assert flags(record) == []


@pytest.mark.parametrize(("images_per_s", "found"), [(750.0, ["throughput is 25 % below FPS"]), (960.0, [])])
def test_a_queue_slower_than_one_caller_flags_the_record(make_record, images_per_s: float, found: list) -> None:
    assert flags(make_record(4.0, batch_size=4, throughput_images_per_s=images_per_s)) == found


def test_a_series_keeps_its_median_interval_and_why_it_ended() -> None:
    times = np.random.default_rng(0).lognormal(size=100)
    summed = distribution(Samples(times, "time budget"))
    assert (summed.median_low, summed.median_high) == median_interval(times)
    assert summed.median_low <= summed.p50 <= summed.median_high
    assert summed.stop_reason == "time budget"
