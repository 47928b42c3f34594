"""The timer on a fake clock: what is timed, when it stops, what is reported."""

import gc
import math

import numpy as np
import pytest

from inference_lib.measure import throughput, timing


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
        self.clock, self.seconds = clock, seconds

    def upload(self, batch: np.ndarray) -> None:
        self.clock.advance(self.seconds / 10)

    def compute(self) -> None:
        self.clock.advance(self.seconds)

    def download(self) -> np.ndarray:
        return np.zeros(1)

    def synchronize(self) -> None:
        pass


INPUTS = [np.array([0]), np.array([1]), np.array([2])]


def test_a_call_is_timed_in_milliseconds() -> None:
    clock = FakeClock()
    samples = timing.time_call(lambda: clock.advance(0.002), timing.StoppingRule(10, min_samples=50), clock)
    assert samples.milliseconds == pytest.approx(2.0)


def test_a_steady_series_stops_because_it_is_precise() -> None:
    clock = FakeClock()
    rule = timing.StoppingRule(1e9, min_samples=50)
    samples = timing.time_call(lambda: clock.advance(0.002), rule, clock)
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
    samples = timing.time_call(lambda: clock.advance(3.0), timing.StoppingRule(0.1), clock)
    assert len(samples.milliseconds) == timing.StoppingRule(0.1).floor_samples


def test_throughput_is_images_over_wall_time() -> None:
    clock = FakeClock()
    result = throughput.time_throughput(FakeRunner(clock, 0.01), np.zeros((8, 1)), 1.0, clock)
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
    result = throughput.time_throughput(SideBySide(clock, 0.3), np.zeros((8, 1)), 0.1, clock)
    assert result.images_per_s == pytest.approx(4 * 8 / 0.3)
    assert result.batches >= 8


def test_short_queues_with_their_waits_are_not_counted() -> None:
    clock = FakeClock()
    numbers: list[int] = []

    def queue(number: int) -> None:
        numbers.append(number)
        clock.advance(0.001)

    result = throughput.fill_budget(queue, lambda: clock.advance(0.05), 8, 2.0, clock)
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
    with pytest.raises(RuntimeError, match="inside"), timing.no_garbage_collection():
        raise RuntimeError("inside")
    assert gc.isenabled()


class Staged(FakeRunner):
    """Has a clock of its own for each part: ``timing.mark`` reads it."""

    def upload(self, batch: np.ndarray) -> None:
        self.uploaded = [*getattr(self, "uploaded", []), int(batch[0])]
        self.clock.advance(0.001)

    def compute(self) -> None:
        self.clock.advance(0.004)

    def download(self) -> np.ndarray:
        self.clock.advance(0.002)
        return np.zeros(1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Return a clock that marks on a CPU are read from."""
    found = FakeClock()
    monkeypatch.setattr(timing.time, "perf_counter", found)
    return found


def test_each_part_gets_its_own_time_and_inputs_take_turns(clock: FakeClock) -> None:
    runner = Staged(clock, 0)
    parts = timing.time_parts(runner, INPUTS, timing.StoppingRule(10, min_samples=50))
    assert runner.uploaded[:4] == [0, 1, 2, 0]
    for name, milliseconds in {"upload": 1.0, "compute": 4.0, "download": 2.0}.items():
        assert len(parts[name].milliseconds) == 50
        assert parts[name].milliseconds == pytest.approx(milliseconds)


def test_compute_is_timed_without_its_copies_and_without_the_flush(clock: FakeClock) -> None:
    rule = timing.StoppingRule(10, min_samples=50)
    samples = timing.time_compute(Staged(clock, 0), rule, before_each=lambda: clock.advance(0.1))
    assert samples.milliseconds == pytest.approx(4.0)
    assert samples.p50 == pytest.approx(4.0)


def test_the_flush_comes_before_every_inference(clock: FakeClock) -> None:
    order = []

    class Runner(Staged):
        def compute(self) -> None:
            super().compute()
            order.append("compute")

    rule = timing.StoppingRule(10, min_samples=50)
    timing.time_compute(Runner(clock, 0), rule, lambda: order.append("flush"))
    assert order == ["flush", "compute"] * 50


def test_a_number_of_samples_is_taken_without_the_collector() -> None:
    collected = []
    assert timing.take(lambda: collected.append(gc.isenabled()) or 1.5, 4) == [1.5] * 4
    assert collected == [False] * 4
