"""MLPerf LoadGen: what it calls invalid is invalid, and nobody waits for an answer that does not come."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from serving import PICTURE, Told
from waits import interrupt, wait_until

from inference_lib.commands import load
from inference_lib.records.record import Record
from inference_lib.seam import Workload
from inference_lib.serve import loadgen, loops
from inference_lib.serve.classifier import out_of_the_collectors_way
from inference_lib.serve.loadgen import SCENARIOS, Run, highest_rate, read_summary, run_loadgen
from inference_lib.serve.loops import closed_loop, open_loop
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.settings import Settings
from inference_lib.serve.trials import serving_of
from inference_lib.support.errors import CourseError

pytest.importorskip("mlperf_loadgen")

SUMMARY = """
Scenario : Server
Completed samples per second    : 491.25
Result is : INVALID
  Performance constraints satisfied : NO
  Min duration satisfied : Yes
  Early stopping satisfied: NO

50.00 percentile latency (ns)   : 2324205
90.00 percentile latency (ns)   : 2464257
99.00 percentile latency (ns)   : 3945779
99.90 percentile latency (ns)   : 5975554
"""


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Let the garbage of the tests before be collected once, and not for every load."""
    with out_of_the_collectors_way():
        yield


def test_a_summary_becomes_numbers_and_the_rules_that_were_not_kept() -> None:
    run = read_summary(SUMMARY, "server", 500.0, Counter())
    assert not run.valid
    assert run.reasons == ["performance constraints not kept", "early stopping not kept"]
    assert (run.samples_per_s, run.latency_ms["p99"]) == (491.25, 3.945779)


def test_a_run_with_requests_that_got_nothing_does_not_count() -> None:
    said = SUMMARY.replace("INVALID", "VALID").replace("NO", "Yes")
    assert read_summary(said, "server", 500.0, Counter()).valid
    run = read_summary(said, "server", 500.0, Counter(OverloadedError=3))
    assert not run.valid
    assert run.reasons == ["requests without an answer: 3 OverloadedError"]


def test_runs_of_one_load_are_kept_in_a_record_with_intervals(make_record: Callable[..., Record]) -> None:
    def run(p99: float, errors: int = 0) -> Run:
        counted = Counter(TimedOutError=errors) if errors else Counter()
        return Run("server", not errors, [], 500.0, 490.0, {"p99": p99}, counted, Counter({8: 10}), errors)

    settings = Settings("pytorch", Workload("vanilla_cnn", 1), max_batch=8)
    said = serving_of("queue", settings, [run(4.0), run(5.0), run(4.5, 2)], 10.0)
    assert (said.max_batch, said.max_wait_ms, said.arrival_rate) == (8, 2, 500.0)
    assert said.latency["p99"].low_ms < said.latency["p99"].ms < said.latency["p99"].high_ms
    assert (said.valid, said.errors, said.batches, said.longest_queue) == (False, {"TimedOutError": 2}, {8: 30}, 2)
    assert serving_of("queue", settings, [run(4.0)], 10.0).latency["p99"].low_ms is None
    rates = [
        serving_of("queue", settings, runs, 10.0).goodput_per_s
        for runs in ([run(4.0), run(9.9)], [run(4.0), run(10.1)], [run(4.0), run(4.0, 1)])
    ]
    assert rates == [500.0, None, None]  # a rate that one run did not keep is not kept
    record = make_record(serving=said)
    assert Record.model_validate_json(record.model_dump_json()) == record
    assert make_record().serving is None


def test_a_summary_without_a_result_is_an_error() -> None:
    with pytest.raises(CourseError, match="names no result"):
        read_summary("LoadGen stopped", "server", 1.0, Counter())


ROOM = 1000
"""For all that come while the host looks elsewhere."""


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_runs_and_every_request_is_answered(scenario: str) -> None:
    told = Told()
    with BatchQueue([told], limit=ROOM) as queue:
        run = run_loadgen(queue, [PICTURE] * 8, scenario, 0.2, rate=500)
    assert run.samples_per_s > 0
    assert not run.errors
    assert sum(told.batches) >= 64
    assert run.batches.total() == len(told.batches)
    assert run.longest_queue <= ROOM
    assert (run.rate == 500) == (scenario == "server")


def test_requests_that_do_not_fit_are_counted_and_offline_they_wait() -> None:
    told = Told((1, 2))
    told.go.clear()
    with BatchQueue([told], limit=4) as queue:

        def let_go() -> None:
            wait_until(lambda: queue.length == 4)  # LoadGen needs a while to begin
            time.sleep(0.5)
            told.go.set()

        threading.Thread(target=let_go, daemon=True).start()
        run = run_loadgen(queue, [PICTURE], "server", 0.1, rate=500)
        assert run.errors["OverloadedError"] >= 1
        assert run.longest_queue == 4
        assert not run_loadgen(queue, [PICTURE], "offline", 0.1, rate=500).errors


def test_a_queue_that_fails_ends_the_run_all_the_same() -> None:
    told = Told()
    told.fails = RuntimeError("broken")
    with BatchQueue([told]) as queue:
        run = run_loadgen(queue, [PICTURE], "server", 0.1, rate=200)
    assert run.errors["FailedError"] >= 1
    assert not run.valid


def test_a_queue_that_has_ended_ends_the_run_all_the_same() -> None:
    queue = BatchQueue([Told()])
    queue.close()
    assert run_loadgen(queue, [PICTURE], "server", 0.1, rate=200).errors["ClosedError"] >= 1


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_model_that_hangs_ends_the_run_with_a_line(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "ANSWER_S", 0.3)
    told = Told()
    told.go.clear()
    with BatchQueue([told], limit=8) as queue:
        with pytest.raises(CourseError, match=r"^\d+ requests got no answer, and there was none at all for 0.3 s; "):
            run_loadgen(queue, [PICTURE], scenario, 0.1, rate=500)
        told.go.set()  # what comes now is too late, and LoadGen must not hear of it


def test_a_model_that_pauses_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "ANSWER_S", 5.0)
    told = Told()
    told.go.clear()
    with BatchQueue([told]) as queue:
        threading.Timer(1.5, told.go.set).start()
        assert not run_loadgen(queue, [PICTURE], "single_stream", 0.1).errors


@pytest.mark.parametrize("scenario", ["server", "offline"])
def test_a_run_that_is_interrupted_ends_and_another_can_begin(scenario: str) -> None:
    told = Told()
    told.go.clear()
    with BatchQueue([told], limit=8) as queue:
        threading.Timer(0.3, interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run_loadgen(queue, [PICTURE], scenario, 0.6, rate=50)
        told.go.set()
        assert run_loadgen(queue, [PICTURE], scenario, 0.1, rate=50).samples_per_s > 0


def test_an_unknown_scenario_is_named_and_the_command_line_knows_the_others() -> None:
    assert load.SCENARIOS == SCENARIOS
    with pytest.raises(CourseError, match="choose one of: single_stream"):
        run_loadgen(BatchQueue([Told()]), [PICTURE], "poisson", 0.1)


@pytest.mark.parametrize("start", [10.0, 400.0, 700.0, 5000.0])
def test_the_search_finds_the_highest_rate(start: float) -> None:
    def measure(rate: float) -> Run:
        return Run("server", True, [], rate, rate, {"p99": 1.0 if rate <= 730 else 50.0})

    rate, runs = highest_rate(measure, start, 10.0)
    assert 730 / 1.05 <= rate <= 730
    assert len(runs) < (8 if start == 700.0 else 30)
    assert max(run.rate for run in runs) <= max(start, 2 * 730)  # a server that is asked for more needs long to recover


@pytest.mark.parametrize("off", [1 / 10_000, 10_000])
def test_the_guess_of_a_search_may_be_wrong_by_orders_of_magnitude(off: float) -> None:
    def measure(rate: float) -> Run:
        return Run("server", True, [], rate, rate, {"p99": 1.0 if rate <= 730 else 50.0})

    assert 730 / 1.05 <= highest_rate(measure, 730 * off, 10.0)[0] <= 730


def test_a_run_that_was_disturbed_is_repeated() -> None:
    disturbed = iter([True, False] * 40)

    def measure(rate: float) -> Run:
        return Run("server", True, [], rate, rate, {"p99": 50.0 if next(disturbed) or rate > 730 else 1.0})

    assert 730 / 1.05 <= highest_rate(measure, 400.0, 10.0)[0] <= 730
    assert highest_rate(measure, 400.0, 10.0, tries=1)[0] < 400


def test_a_rate_that_is_far_too_high_is_not_tried_again() -> None:
    rates: list[float] = []

    def measure(rate: float) -> Run:
        rates.append(rate)
        return Run("server", True, [], rate, min(rate, 500.0), {"p99": 1.0 if rate <= 500 else 50.0})

    assert 500 / 1.05 <= highest_rate(measure, 900.0, 10.0)[0] <= 500
    assert all(rates.count(rate) == (1 if rate < 500 or rate > 625 else 2) for rate in rates)


def test_the_search_ends_where_no_rate_holds_and_errors_do_not_hold() -> None:
    slow = lambda rate: Run("server", True, [], rate, rate, {"p99": 99.0})  # noqa: E731
    assert highest_rate(slow, 100.0, 10.0)[0] == 0.0
    refusing = lambda rate: Run("server", False, [], rate, rate, {"p99": 1.0}, Counter(OverloadedError=1))  # noqa: E731
    assert highest_rate(refusing, 100.0, 10.0)[0] == 0.0


def test_an_open_loop_measures_from_the_time_a_request_was_due() -> None:
    told = Told()
    with BatchQueue([told], limit=2) as queue:
        sent = open_loop(queue, PICTURE, [0.0, 0.0, 0.0, 0.0, 0.01])
    assert [request.due for request in sorted(sent, key=lambda r: r.due)] == [0.0, 0.0, 0.0, 0.0, 0.01]
    assert all(request.latency_s >= request.answered - request.sent >= 0 for request in sent)


def test_a_refusal_is_an_answer() -> None:
    queue = BatchQueue([Told()])
    queue.close()
    assert [request.error for request in open_loop(queue, PICTURE, [0.0, 0.001])] == ["ClosedError"] * 2


def test_a_closed_loop_never_has_more_under_way_than_callers() -> None:
    told = Told()
    with BatchQueue([told], max_wait_s=0.002) as queue:
        sent = closed_loop(queue, PICTURE, callers=3, seconds=0.2)
    assert len(sent) > 3
    assert max(told.batches) <= 3


@pytest.mark.parametrize(
    "load", [lambda queue: open_loop(queue, PICTURE, [0.0] * 2), lambda queue: closed_loop(queue, PICTURE, 2, 0.01)]
)
def test_requests_that_nobody_answers_are_not_left_out_without_a_word(
    load: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told((1, 2))
    told.go.clear()
    monkeypatch.setattr(loops, "DRAINED_S", 0.05)
    with BatchQueue([told]) as queue:
        with pytest.raises(CourseError, match=r"request.* got no answer within 0.05 s"):
            load(queue)
        told.go.set()
