"""The queue: who is computed together, and that everybody is answered."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
from serving import PICTURE, Told, picture
from waits import Answers, Clock, wait_until

from inference_lib.serve import queue as waiting
from inference_lib.serve.queue import BatchQueue
from inference_lib.serve.request import ClosedError, FailedError, OverloadedError, Request, TimedOutError
from inference_lib.support.errors import CourseError


@pytest.fixture
def told() -> Iterator[Told]:
    classifier = Told()
    yield classifier
    classifier.go.set()


def held_up(queue: BatchQueue, told: Told, answers: Answers) -> None:
    """Let a first request be computed, and not end."""
    told.go.clear()
    queue.submit(PICTURE, answers)
    assert told.started.wait(10)


def test_each_request_gets_the_logits_of_its_own_picture(told: Told) -> None:
    answers = Answers()
    with BatchQueue([told]) as queue:
        held_up(queue, told, answers)
        for value in range(1, 9):
            queue.submit(picture(value), answers)
        told.go.set()
        found = answers.wait(9)
    assert [request.logits.argmax() for request in found] == [request.pictures[0, 0, 0] for request in found]


def test_those_who_wait_are_computed_together_up_to_the_largest_batch(told: Told) -> None:
    answers = Answers()
    with BatchQueue([told], max_batch=4) as queue:
        held_up(queue, told, answers)
        for _ in range(6):
            queue.submit(PICTURE, answers)
        told.go.set()
        answers.wait(7)
    assert told.batches == [1, 4, 2]
    assert queue.batches == {1: 1, 4: 1, 2: 1}
    assert [request.batch for request in answers.came] == [1, 4, 4, 4, 4, 2, 2]


def test_the_first_waits_for_company_and_a_full_batch_for_nobody(told: Told) -> None:
    answers = Answers()
    with BatchQueue([told], max_batch=2, max_wait_s=30) as queue:
        for _ in range(2):
            queue.submit(PICTURE, answers)
        answers.wait(2)  # long before the waiting time is over
    assert told.batches == [2]


def test_after_the_waiting_time_a_batch_starts_with_whom_it_has(told: Told) -> None:
    with BatchQueue([told], max_batch=8, max_wait_s=0.05) as queue:
        request = queue.ask(PICTURE)
    assert request.batch == 1
    assert request.taken - request.arrived >= 0.05


def test_two_batches_are_under_way_where_the_classifier_takes_two() -> None:
    told, answers = Told(depth=2), Answers()
    with BatchQueue([told], max_batch=1) as queue:
        told.go.clear()
        for _ in range(3):
            queue.submit(PICTURE, answers)
        wait_until(lambda: queue.length == 1)
        assert queue.length == 1
        told.go.set()
        answers.wait(3)


def test_pictures_that_come_together_fill_batches_and_are_handed_back_once_a_batch(told: Told) -> None:
    handed: list[list[Request]] = []
    answers = Answers()
    with BatchQueue([told], max_batch=4) as queue:
        held_up(queue, told, answers)
        done = handed.append
        for tags in ([1, 2, 3], [4, 5, 6, 7, 8, 9]):
            queue.submit_many(np.stack([picture(tag) for tag in tags]), tags, done)
        assert queue.length == 9
        told.go.set()
    assert told.batches == [1, 4, 4, 1]
    assert [[request.tags for request in requests] for requests in handed] == [[[1, 2, 3], [4]], [[5, 6, 7, 8]], [[9]]]
    for request in chain(*handed):
        assert request.logits.argmax(1).tolist() == request.tags


def test_of_pictures_that_come_together_those_that_do_not_fit_are_refused(told: Told) -> None:
    handed: list[list[Request]] = []
    answers = Answers()
    with BatchQueue([told], limit=2) as queue:
        held_up(queue, told, answers)
        queue.submit_many(np.stack([PICTURE] * 5), "abcde", handed.append)
        queue.submit_many(np.stack([PICTURE] * 2), "fg", handed.append)
        told.go.set()
    first, second, computed = (requests[0] for requests in handed)
    assert (first.tags, second.tags, computed.tags) == ("cde", "fg", "ab")
    assert isinstance(first.error, OverloadedError)
    assert isinstance(second.error, OverloadedError)
    assert computed.error is None


def test_a_caller_who_waits_computes_alone_where_nobody_else_is_there(told: Told) -> None:
    threads: list[int] = []
    wait = told.submit

    def submit(pictures: np.ndarray) -> Callable[[], np.ndarray]:
        threads.append(threading.get_ident())
        return wait(pictures)

    told.submit = submit
    answers = Answers()
    with BatchQueue([told]) as queue:
        assert queue.ask(picture(3)).logits.argmax() == 3
        queue.submit(picture(4), answers)
        answers.wait(1)
    assert threads[0] == threading.get_ident() != threads[1]
    with BatchQueue([told], max_wait_s=0.01) as queue:  # somebody may join
        queue.ask(PICTURE)
    assert threads[2] != threading.get_ident()


@pytest.mark.parametrize("depth", [1, 2])
def test_while_a_caller_computes_others_wait_their_turn(depth: int) -> None:
    told, answers = Told(depth=depth), Answers()
    told.go.clear()
    with BatchQueue([told]) as queue:
        asked: list[Request] = []
        caller = threading.Thread(target=lambda: asked.append(queue.ask(PICTURE)))
        caller.start()
        assert told.started.wait(10)
        for _ in range(3):
            queue.submit(PICTURE, answers)
        second = threading.Thread(target=lambda: asked.append(queue.ask(PICTURE)))
        second.start()
        wait_until(lambda: queue.length == 4)
        told.go.set()
        answers.wait(3)
        caller.join(10)
        second.join(10)
    assert told.batches == [1, 4]
    assert [request.batch for request in asked] == [1, 4]


@pytest.mark.parametrize("wrong", [np.zeros((28, 28), np.float32), np.zeros((28, 27), np.uint8)])
def test_an_array_that_would_fail_a_whole_batch_is_refused_alone(told: Told, wrong: np.ndarray) -> None:
    with BatchQueue([told]) as queue:
        for send in (queue.ask, lambda array: queue.submit(array, bool)):
            with pytest.raises(CourseError, match="pictures of uint8, 28 x 28, not of"):
                send(wrong)
        assert queue.ask(PICTURE).logits is not None


def test_a_batch_that_no_runner_holds_is_refused_at_once(told: Told) -> None:
    with pytest.raises(CourseError, match="a batch of 9 pictures is larger than the largest runner, 8"):
        BatchQueue([told], max_batch=9)


def test_a_full_queue_refuses(told: Told) -> None:
    answers = Answers()
    with BatchQueue([told], limit=2) as queue:
        held_up(queue, told, answers)
        for _ in range(2):
            queue.submit(PICTURE, answers)
        queue.submit(PICTURE, answers)
        (refused,) = answers.wait(1)
        assert isinstance(refused.error, OverloadedError)
        assert str(refused.error) == "2 requests wait already; try again later"
        told.go.set()
        assert all(request.error is None for request in answers.wait(4)[1:])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock by which requests arrive and are taken: a host that halts for a moment makes none late."""
    found = Clock()
    monkeypatch.setattr(waiting, "time", SimpleNamespace(perf_counter=found, monotonic=time.monotonic))
    return found


def test_who_waited_too_long_is_told_so_and_not_computed(told: Told, clock: Clock) -> None:
    answers = Answers()
    with BatchQueue([told], timeout_s=1) as queue:
        held_up(queue, told, answers)
        queue.submit(PICTURE, answers)
        clock.now += 1.1
        told.go.set()
        first, late = answers.wait(2)
        assert first.error is None
        assert isinstance(late.error, TimedOutError)
        assert queue.ask(PICTURE).error is None
    assert told.batches == [1, 1]


def test_of_one_batch_only_those_who_waited_too_long_are_told_so(told: Told, clock: Clock) -> None:
    answers = Answers()
    with BatchQueue([told], timeout_s=1) as queue:
        held_up(queue, told, answers)
        queue.submit(PICTURE, answers)
        queue.submit(PICTURE, answers)
        clock.now += 1.1
        queue.submit(picture(7), answers)
        told.go.set()
        found = answers.wait(4)
    assert [type(request.error) for request in found] == [type(None), TimedOutError, TimedOutError, type(None)]
    assert found[3].logits.argmax() == 7
    assert [request.batch for request in found] == [told.batches[0], 0, 0, told.batches[1]] == [1, 0, 0, 1]


def test_a_batch_that_fails_is_answered_and_the_next_one_works(told: Told) -> None:
    told.fails = RuntimeError("CUDA out of memory")
    with BatchQueue([told]) as queue:
        with pytest.raises(FailedError, match="the batch failed: CUDA out of memory"):
            queue.ask(PICTURE)
        told.fails = None
        assert queue.ask(PICTURE).logits is not None
    assert queue.replaced == 0


def test_logits_that_are_too_few_are_nobodys(told: Told) -> None:
    told.submit = lambda _: lambda: np.zeros((0, 10), np.float32)
    with BatchQueue([told]) as queue, pytest.raises(FailedError, match="0 rows of logits for 1 pictures"):
        queue.ask(PICTURE)


def test_who_cannot_take_an_answer_does_not_stop_the_queue(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    def gone(_: Request) -> None:
        raise RuntimeError("Event loop is closed")

    with BatchQueue([told]) as queue:
        queue.submit(PICTURE, gone)
        assert queue.ask(PICTURE).logits is not None
    assert "Event loop is closed" in caplog.text


def test_a_dead_classifier_is_replaced() -> None:
    dead, fresh = Told(), Told()
    dead.fails, dead.dead = RuntimeError("the worker process died (signal 9)"), True
    with BatchQueue([dead], lambda _: fresh) as queue:
        with pytest.raises(FailedError, match="signal 9"):
            queue.ask(PICTURE)
        assert queue.ask(PICTURE).logits is not None
        assert (dead.batches, fresh.batches, queue.replaced) == ([1], [1], 1)
    assert fresh.closed


def test_what_takes_the_place_of_a_dead_one_after_the_end_is_closed_too(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, ended, making = Told(), threading.Event(), threading.Event()

    def slowly(_: Told) -> Told:
        making.set()
        assert ended.wait(10)
        return fresh

    monkeypatch.setattr(waiting, "CLOSING_S", 0.02)
    told.fails, told.dead = RuntimeError("died"), True
    with BatchQueue([told], slowly) as queue:
        with pytest.raises(FailedError, match="died"):
            queue.ask(PICTURE)
        assert making.wait(10)
    ended.set()
    wait_until(lambda: fresh.closed)
    assert fresh.closed


def test_where_nobody_takes_the_place_of_the_last_one_everybody_is_refused(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    def never(_: Told) -> Told:
        raise OSError("no memory")

    answers = Answers()
    caplog.set_level(logging.WARNING)  # whatever another test has switched off
    told.fails, told.dead = RuntimeError("died"), True
    with BatchQueue([told], never, max_batch=1) as queue:
        held_up(queue, told, answers)
        queue.submit(PICTURE, answers)
        told.go.set()
        first, second = answers.wait(2)
        assert isinstance(first.error, FailedError)
        assert isinstance(second.error, ClosedError)
        assert not queue.ready
        with pytest.raises(ClosedError):
            queue.submit(PICTURE, answers)
    assert caplog.text.count("a replica does not come up: OSError: no memory") == waiting.TRIES


def test_while_a_replica_is_dead_as_many_may_wait_as_the_others_answer_in_the_same_time() -> None:
    told, broken, fresh, made, answers = Told(), Told(), Told(), threading.Event(), Answers()
    broken.fails, broken.dead = RuntimeError("died"), True
    told.go.clear()
    broken.go.clear()

    def slowly(_: Told) -> Told:
        assert made.wait(10)
        return fresh

    def refusals() -> list[str]:
        return [str(request.error) for request in answers.came if isinstance(request.error, OverloadedError)]

    with BatchQueue([broken, told], slowly, max_batch=1, limit=4) as queue:
        for _ in (broken, told):
            queue.submit(PICTURE, answers)
        wait_until(lambda: broken.started.is_set() and told.started.is_set())
        for _ in range(5):
            queue.submit(PICTURE, answers)
        assert refusals() == ["4 requests wait already; try again later"]
        broken.go.set()
        answers.wait(2)
        queue.submit_many(np.stack([PICTURE] * 3), "abc", lambda answered: [answers(each) for each in answered])
        assert refusals()[1:] == ["2 requests wait already; try again later"]
        assert queue.length == 4, "whoever waits already is not turned away"
        made.set()
        told.go.set()
        wait_until(lambda: queue.replaced and not queue.length)
        for _ in range(4):
            queue.submit(PICTURE, answers)
    assert len(refusals()) == 2


def test_one_of_two_replicas_goes_on_alone() -> None:
    told, broken, answers = Told(), Told(), Answers()
    broken.fails, broken.dead = RuntimeError("died"), True
    with BatchQueue([broken, told], None, max_batch=1) as queue:
        for _ in range(40):
            queue.submit(PICTURE, answers)
        answers.wait(40)
        failed = [request for request in answers.came if request.error]
        assert len(failed) == len(broken.batches) <= 1


def test_the_end_answers_those_who_are_here_and_refuses_others(told: Told) -> None:
    answers = Answers()
    queue = BatchQueue([told], max_batch=2)
    held_up(queue, told, answers)
    for _ in range(4):
        queue.submit(PICTURE, answers)
    ending = threading.Thread(target=queue.close)
    ending.start()
    told.go.set()
    ending.join(10)
    assert all(isinstance(request.logits, np.ndarray) for request in answers.wait(5))
    with pytest.raises(ClosedError, match="start it again"):
        queue.submit(PICTURE, answers)


def test_the_end_waits_for_a_caller_who_computes(told: Told) -> None:
    told.go.clear()
    asked: list[Request] = []
    queue = BatchQueue([told])
    caller = threading.Thread(target=lambda: asked.append(queue.ask(picture(5))))
    caller.start()
    assert told.started.wait(10)
    ending = threading.Thread(target=queue.close)
    ending.start()
    ending.join(0.05)
    assert ending.is_alive()
    told.go.set()
    ending.join(10)
    caller.join(10)
    assert not ending.is_alive()
    assert asked[0].logits.argmax() == 5


def test_the_end_does_not_wait_for_ever(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "CLOSING_S", 0.05)
    answers = Answers()
    queue = BatchQueue([told])
    held_up(queue, told, answers)
    queue.submit(PICTURE, answers)
    queue.close()
    (refused,) = answers.came
    assert isinstance(refused.error, ClosedError)
    told.go.set()
    answers.wait(2)
