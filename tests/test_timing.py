"""The timer on a fake clock: what is timed, when it stops, what is reported."""

import gc
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_lib.measure import timing


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeRunner:
    """Takes a fixed time for each part, on a fake clock."""

    stream = None
    at_once = 1

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self.clock, self.seconds, self.seen = clock, seconds, []

    def infer(self, batch: np.ndarray) -> np.ndarray:
        self.seen.append(int(batch[0]))
        self.clock.advance(self.seconds)
        return batch

    def upload(self, batch: np.ndarray) -> None:
        self.clock.advance(self.seconds / 10)

    def compute(self) -> None:
        self.clock.advance(self.seconds)

    def download(self) -> np.ndarray:
        return np.zeros(1)

    def synchronize(self) -> None:
        pass


INPUTS = [np.array([0]), np.array([1]), np.array([2])]


def test_end_to_end_times_the_call_in_milliseconds_and_rotates_inputs() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, 0.002)
    samples = timing.time_end_to_end(runner, INPUTS, timing.StoppingRule(10, min_samples=50), clock)
    assert samples.milliseconds == pytest.approx(2.0)
    assert runner.seen[:4] == [0, 1, 2, 0]


def test_a_steady_series_stops_because_it_is_precise() -> None:
    clock = FakeClock()
    rule = timing.StoppingRule(1e9, min_samples=50)
    samples = timing.time_end_to_end(FakeRunner(clock, 0.002), INPUTS, rule, clock)
    assert (samples.stop_reason, len(samples.milliseconds)) == ("precise", 50)


def test_a_scattered_series_stops_when_the_budget_is_spent() -> None:
    clock = FakeClock()
    scatter = iter(range(10**6))

    def sample() -> float:
        milliseconds = 1.0 + next(scatter) % 7
        clock.advance(milliseconds / 1e3)
        return milliseconds

    samples = timing.collect(sample, timing.StoppingRule(0.5, min_samples=10), clock)
    assert samples.stop_reason == "time budget"
    assert 0.5 <= clock() < 0.51


def test_a_slow_model_gets_its_floor_of_samples_beyond_the_budget() -> None:
    clock = FakeClock()
    samples = timing.time_end_to_end(FakeRunner(clock, 3.0), INPUTS, timing.StoppingRule(0.1), clock)
    assert len(samples.milliseconds) == timing.StoppingRule(0.1).floor_samples


def test_throughput_is_images_over_wall_time() -> None:
    clock = FakeClock()
    result = timing.time_throughput(FakeRunner(clock, 0.01), np.zeros((8, 1)), 1.0, clock)
    assert result.images_per_s == pytest.approx(800)
    assert result.seconds == pytest.approx(result.batches * 0.01)
    assert 0.5 <= result.seconds < 1.1


class SideBySide(FakeRunner):
    """Computes up to four batches at a time: they take no longer than one."""

    at_once = 4

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        super().__init__(clock, seconds)
        self.queued = 0

    def compute(self) -> None:
        self.queued += 1

    def synchronize(self) -> None:
        self.clock.advance(self.seconds * math.ceil(self.queued / self.at_once))
        self.queued = 0


def test_a_queue_is_filled_even_where_one_batch_takes_longer_than_the_budget() -> None:
    clock = FakeClock()
    result = timing.time_throughput(SideBySide(clock, 0.3), np.zeros((8, 1)), 0.1, clock)
    assert result.images_per_s == pytest.approx(4 * 8 / 0.3)
    assert result.batches >= 8


def test_short_queues_with_their_waits_are_not_counted() -> None:
    clock = FakeClock()
    numbers: list[int] = []

    def queue(number: int) -> None:
        numbers.append(number)
        clock.advance(0.001)

    result = timing.fill_budget(queue, lambda: clock.advance(0.05), 8, 2.0, clock)
    assert result.images_per_s > 0.95 * 8000
    assert result.batches < len(numbers)
    assert numbers == list(range(len(numbers)))
    assert clock() < 3.0


def test_warm_up_goes_on_until_two_windows_agree() -> None:
    clock = FakeClock()
    times = iter([8.0] * 10 + [4.0] * 10 + [2.0] * 10 + [1.0] * 1000)
    calls = timing.warm_up(lambda: clock.advance(next(times) / 1e3), budget_s=10, window=10, clock=clock)
    assert calls == 50  # three windows of settling, then the first two that agree


def test_warm_up_respects_its_budget_but_calls_twice() -> None:
    clock = FakeClock()
    assert timing.warm_up(lambda: clock.advance(5.0), budget_s=1.0, clock=clock) == 2


def test_garbage_collection_is_off_inside_and_restored() -> None:
    with timing.no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=300))
def test_the_interval_holds_the_median_and_is_made_of_samples(samples: list[float]) -> None:
    low, high = timing.median_interval(samples)
    assert low <= np.median(samples) <= high
    assert low in samples
    assert high in samples


def test_the_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        low, high = timing.median_interval(random.lognormal(size=101))
        hits += low <= 1.0 <= high
    assert 0.93 <= hits / 1000 <= 0.985


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=300))
def test_the_quantile_sketch_is_sorted_and_spans_the_samples(samples: list[float]) -> None:
    sketch = timing.quantile_sketch(np.array(samples))
    assert len(sketch) == timing.QUANTILES
    assert all(a <= b or math.isclose(a, b, rel_tol=1e-5) for a, b in itertools.pairwise(sketch))
    assert sketch[0] == pytest.approx(min(samples), rel=1e-5)
    assert sketch[-1] == pytest.approx(max(samples), rel=1e-5)


def test_parts_on_a_cpu_are_timed_by_the_host() -> None:
    runner = FakeRunner(FakeClock(), 0.0)
    parts = timing.time_parts(runner, INPUTS, timing.StoppingRule(0.05, min_samples=10))
    assert len(parts.upload.milliseconds) == len(parts.compute.milliseconds) == len(parts.download.milliseconds)
    assert (parts.compute.milliseconds >= 0).all()


def test_the_flush_comes_before_every_sample_and_is_not_timed() -> None:
    clock = FakeClock()
    order = []

    class Runner(FakeRunner):
        def compute(self) -> None:
            order.append("compute")

    timing.time_compute(Runner(clock, 0.0), timing.StoppingRule(0.01, min_samples=5), lambda: order.append("flush"))
    assert order[::2] == ["flush"] * (len(order) // 2)
    assert order[1::2] == ["compute"] * (len(order) // 2)
