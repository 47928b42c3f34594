"""The simulated queue against what can be computed by hand, and the law against the simulation."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from serving import PICTURE, Told

from inference_lib.serve import queue as waiting
from inference_lib.serve import service as serving
from inference_lib.serve import trials
from inference_lib.serve.loadgen import Run, outside_s
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.queueing import highest_rate, mean_wait_s, slowest_s, steady_batch
from inference_lib.serve.request import FailedError, Request
from inference_lib.serve.service import Service, measure_service
from inference_lib.serve.simulator import Knobs, poisson, simulate
from inference_lib.serve.trials import CALIBRATED, LoadTest, simulated_rate
from inference_lib.support.errors import CourseError


def service(first_ms: float = 2.0, each_ms: float = 0.1, largest: int = 32, depth: int = 1) -> Service:
    sizes = [2**power for power in range(largest.bit_length())]
    times = {size: [(first_ms + each_ms * size) / 1e3] for size in sizes}
    return Service(times, times, depth)


def test_one_at_a_time_waits_as_pollaczek_and_khinchine_say() -> None:
    one = service(largest=1, first_ms=0.9, each_ms=0.1)
    for rate in (300.0, 600.0, 800.0):
        found = simulate(poisson(rate, 100_000, seed=1), one, Knobs(1, limit=10**9))
        assert found.latencies_s.mean() - 1e-3 == pytest.approx(mean_wait_s(rate, 1e-3), rel=0.08)
    assert mean_wait_s(1000, 1e-3) == float("inf")


def test_a_batch_is_who_came_while_the_last_one_was_computed() -> None:
    found = simulate([0.0, 0.001, 0.0015, 0.0019, 0.5], service(2.0, 0.0), Knobs(32))
    assert found.batches == {1: 2, 3: 1}
    assert found.latencies_s == pytest.approx([0.002, 0.003, 0.0025, 0.0021, 0.002])


def test_the_first_waits_for_company() -> None:
    found = simulate([0.0, 0.003, 0.0049, 0.0051], service(2.0, 0.0), Knobs(32, max_wait_s=0.005))
    assert found.batches == {3: 1, 1: 1}
    assert found.latencies_s[0] == pytest.approx(0.007)
    assert simulate([0.0, 0.001, 5.0], service(2.0, 0.0), Knobs(2, max_wait_s=1.0)).latencies_s == pytest.approx(
        [0.003, 0.002, 1.002]  # a full batch does not wait
    )


def test_no_batch_is_larger_than_the_largest_and_nobody_is_lost() -> None:
    found = simulate(poisson(20_000, 5000), service(), Knobs(8, limit=100))
    assert max(found.batches) == 8
    assert found.refused > 0
    assert len(found.latencies_s) + found.refused == 5000
    assert found.quantile_ms(100) < 1e3 * (100 / 8 + 2) * service().occupied_s(8)


def test_a_batch_between_two_sizes_costs_as_the_larger() -> None:
    times = {1: [0.001], 8: [0.002], 16: [0.01]}
    found = simulate([0.0] * 9, Service(times, times), Knobs(16))
    assert found.latencies_s == pytest.approx([0.01] * 9)


def test_two_replicas_carry_twice_as_much() -> None:
    rate = 1.5 * service().capacity
    one, two = (simulate(poisson(rate, 20_000), service(), Knobs(32, replicas=n, limit=10**9)) for n in (1, 2))
    assert two.quantile_ms(50) < 20 < one.quantile_ms(50)
    kept = [simulated_rate(service(), Knobs(32, replicas=n, limit=10**9), 20.0) for n in (1, 2)]
    assert kept[1] > 1.9 * kept[0] > 0


def test_a_second_batch_under_way_hides_what_is_not_computing() -> None:
    alone, busy = {8: [0.004]}, {8: [0.002]}
    rate = 8 / 0.003
    found = simulate(poisson(rate, 20_000), Service(alone, busy, depth=2), Knobs(8, limit=10**9))
    assert found.quantile_ms(99) < 20
    assert simulate(poisson(rate, 20_000), Service(alone, alone), Knobs(8, limit=10**9)).quantile_ms(99) > 1000


def test_a_thread_that_goes_on_with_the_next_batch_is_not_woken() -> None:
    service = Service({1: [0.003]}, {1: [0.002]})
    assert simulate([0.1, 0.101, 0.5], service, Knobs(1)).latencies_s == pytest.approx([0.003, 0.004, 0.003])


def test_slow_batches_are_drawn_as_often_as_they_were_measured() -> None:
    times = {1: [0.001] * 95 + [0.05] * 5}
    found = simulate(np.arange(2000.0), Service(times, times), Knobs(1))
    assert found.quantile_ms(50) == pytest.approx(1)
    assert found.quantile_ms(99) == pytest.approx(50)


def test_batches_settle_where_one_takes_as_long_as_its_requests_to_come() -> None:
    fixed = service(10.0, 0.0, largest=64)
    assert steady_batch(1000, fixed, 64) == 10
    assert steady_batch(10, fixed, 64) == 1
    assert steady_batch(1e6, fixed, 64) == 64
    mean = simulate(poisson(1000, 50_000), fixed, Knobs(64)).mean_batch
    assert mean == pytest.approx(10, rel=0.15)


def test_the_law_says_about_what_the_simulation_does() -> None:
    for load in (0.3, 0.5, 0.7):
        rate = load * service().capacity
        found = simulate(poisson(rate, 50_000), service(), Knobs(32)).quantile_ms(99)
        assert found == pytest.approx(slowest_s(rate, service(), 32) * 1e3, rel=0.25)


def test_the_highest_rate_keeps_the_limit_and_a_higher_one_breaks_it() -> None:
    knobs = Knobs(32)
    rate = simulated_rate(service(), knobs, 8.0)
    assert simulate(poisson(rate, 20_000), service(), knobs).quantile_ms(99) <= 8.0
    assert simulate(poisson(1.1 * rate, 20_000), service(), knobs).quantile_ms(99) > 8.0
    assert highest_rate(service(), 32, 0.008) == pytest.approx(rate, rel=0.25)
    assert highest_rate(service(), 32, 0.001) == simulated_rate(service(), knobs, 1.0) == 0.0


def test_a_predicted_latency_has_the_time_outside_of_the_queue_timed_once_at_a_low_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fixed, timed = service(2.0, 0.0), []

    def outside(queue: BatchQueue, pictures: list[np.ndarray], due: list[float]) -> list[float]:
        timed.append(due)
        return [0.24, 0.25, 3.0]  # the last one, a hiccup of the machine

    def run(self: LoadTest, scenario: str, rate: float, seed: int = 0) -> Run:
        return Run(scenario, True, [], rate, rate, {"p99": 100.0})

    monkeypatch.setattr(trials, "outside_s", outside)
    monkeypatch.setattr(LoadTest, "run", run)
    test = LoadTest(Told(), fixed, Knobs(8), [PICTURE], 1.0, 10.0)
    for trial in test.predict_and_measure([0.3, 0.9]):
        alone = simulate(poisson(trial.rate, len(trial.simulated.latencies_s)), fixed, Knobs(8))
        assert trial.simulated.latencies_s == pytest.approx(alone.latencies_s + 0.25)
    assert simulated_rate(fixed, Knobs(8), 200.0, outside=test.outside) == 0.0 < simulated_rate(fixed, Knobs(8), 200.0)
    (due,) = timed
    assert len(due) / due[-1] == pytest.approx(CALIBRATED * fixed.carried(8), rel=0.15)


def test_time_outside_of_the_queue_is_that_before_it_and_after_it_and_none_within() -> None:
    before, within, after = 0.004, 0.03, 0.006

    class Held(Told):
        def submit(self, pictures: np.ndarray) -> Callable[[], np.ndarray]:
            time.sleep(within)
            return super().submit(pictures)

    class Far(BatchQueue):
        def submit_many(self, pictures: np.ndarray, tags: Sequence[float], done: Callable) -> None:
            def told(answered: list[Request]) -> None:
                time.sleep(after)
                done(answered)

            time.sleep(before)
            super().submit_many(pictures, tags, told)

    with Far([Held()]) as queue:
        found = outside_s(queue, [PICTURE], [0.05 * number for number in range(10)])
    assert len(found) == 10
    assert min(found) >= before + after
    assert np.median(found) < within


def test_the_way_to_a_queue_that_answers_nobody_cannot_be_timed_and_one_refusal_does_not_matter() -> None:
    told = Told((1,))
    with BatchQueue([told], limit=1) as queue:
        assert 1 <= len(outside_s(queue, [PICTURE], [0.0, 0.0, 0.0])) < 3
    told.fails = RuntimeError("CUDA out of memory")
    with BatchQueue([told]) as queue, pytest.raises(FailedError, match="CUDA out of memory"):
        outside_s(queue, [PICTURE], [0.0, 0.001])


def test_batches_are_timed_on_their_way_through_the_queue() -> None:
    class Slow(Told):
        def submit(self, pictures: np.ndarray) -> Callable[[], np.ndarray]:
            time.sleep(0.002)
            return super().submit(pictures)

    slow = Slow((1, 4))
    found = measure_service(slow, 0.01)
    assert found.sizes == (1, 4)
    assert min(len(samples) for samples in (*found.alone.values(), *found.busy.values())) >= 8
    assert min(found.alone_s(4), found.occupied_s(4)) >= 0.002
    assert {1, 4} <= set(slow.batches)


def test_a_classifier_that_fails_cannot_be_timed() -> None:
    told = Told((1,))
    told.fails = RuntimeError("CUDA out of memory")
    with pytest.raises(FailedError, match="CUDA out of memory"):
        measure_service(told, 0.01)


def test_a_batch_that_takes_too_long_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told((1,))
    told.go.clear()
    monkeypatch.setattr(serving, "BATCH_S", 0.05)
    monkeypatch.setattr(waiting, "CLOSING_S", 0.05)
    with pytest.raises(CourseError, match=r"batches of 1 pictures do not end within 0.05 s; choose a smaller one"):
        measure_service(told, 0.01)
    told.go.set()
