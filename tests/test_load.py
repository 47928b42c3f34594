"""The command ``load``: what it found is told, however it ends."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from serving import PICTURE, Told
from waits import interrupt

from inference_lib.cli import main
from inference_lib.records.store import RecordStore
from inference_lib.seam import Workload
from inference_lib.serve.loops import OpenLoop, Sent
from inference_lib.serve.queue import BatchQueue
from inference_lib.support.errors import CourseError

pytest.importorskip("mlperf_loadgen")

from inference_lib.serve import load
from inference_lib.serve.load import Figure
from inference_lib.serve.loadgen import Run
from inference_lib.serve.service import Service
from inference_lib.serve.settings import Settings
from inference_lib.serve.simulator import Knobs
from inference_lib.serve.soak import Soak, _disturb, soak
from inference_lib.serve.trials import LoadTest

CPU = ["load", "--device", "cpu", "--model", "vanilla_cnn"]


def table(said: str) -> dict[str, list[str]]:
    """Return what follows the name, by the name, of the lines that are figures."""
    return {line[:64].strip(): line[64:].split() for line in said.splitlines() if len(line) > 80}


def test_a_figure_says_what_was_measured_and_whether_the_goal_is_reached() -> None:
    part, whole = Figure("a", "requests/s", value=12_345.6), Figure("b", "images/s")
    share = Figure("c", "%", ">= 80", parts=(part, whole))
    assert str(part).split() == ["a", "12,345.6", "requests/s"]
    assert str(share).split() == ["c", "not", "measured", ">=", "80"]
    for measured, verdict in ((15_000.0, "reached"), (20_000.0, "missed")):
        whole.value = measured
        assert str(share).split()[-1] == verdict
    assert str(Figure("d", "%", "<= 0", value=0)).endswith("reached")
    assert str(Figure("e", "s", "<= 5", value=float("inf"))).endswith("missed")


class Loaded(AbstractContextManager):
    """A stand-in for a model that is loaded."""

    title = "told"

    def __init__(self, *_: object) -> None:
        self.runners = {2: None}

    def __enter__(self) -> Told:  # type: ignore[override]
        return Told((1, 2))

    def __exit__(self, *_: object) -> None:
        pass


def test_a_search_that_is_interrupted_tells_and_keeps_the_highest_rate_that_it_saw(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    asked: list[float] = []

    def run(self: LoadTest, scenario: str, rate: float, seed: int = 0) -> Run:
        asked.append(rate)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return Run(scenario, True, [], rate, rate, {"p50": 1.0, "p99": 2.0})

    monkeypatch.setattr(Settings, "loaded", Loaded)
    monkeypatch.setattr(LoadTest, "run", run)
    assert main([*CPU, "--max-batch", "2", "--loads", "0.5", "--records", str(tmp_path)]) == 130
    said = capsys.readouterr().out
    assert said.count("server: ") == 2
    figures = table(said)
    assert figures["highest rate in this process, p99 within 10 ms"][0] == f"{asked[2]:,.1f}"
    (record,) = RecordStore(tmp_path / "queue-1").read()
    assert record.serving.goodput_per_s == asked[2]
    assert figures["simulated p99 off the measured, worst of 1 loads"][-1] in ("reached", "missed")


def told_service(seconds: dict[int, float]) -> Service:
    times = {size: [taken] * 8 for size, taken in seconds.items()}
    return Service(times, times)


def test_where_one_picture_alone_takes_longer_than_the_limit_no_rate_is_searched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(Settings, "loaded", Loaded)
    monkeypatch.setattr(load, "measure_service", lambda _: told_service({1: 0.012, 2: 0.02}))
    assert main([*CPU, "--max-batch", "2", "--loads", "0.5", "--seconds", "0.2"]) == 0
    said = capsys.readouterr().out
    assert "a picture that finds nobody before it takes 12.0 ms: no rate keeps 10 ms" in said
    assert table(said)["highest rate in this process, p99 within 10 ms"] == ["0.0", "requests/s"]
    assert said.count("server: ") == 0


def test_largest_batches_of_which_two_do_not_fit_into_the_limit_carry_less_than_smaller_ones(
    capsys: pytest.CaptureFixture,
) -> None:
    service = told_service({1: 0.001, 4: 0.002, 8: 0.0035, 64: 0.025})
    test = LoadTest(Told(service.sizes), service, Knobs(64), [PICTURE], 0.2, 10.0)
    test.__dict__["outside"] = 0.0
    found = load._simulated_rate(test)
    said = capsys.readouterr().out
    rates = {int(size): float(rate.replace(",", "")) for size, rate in re.findall(r"(\d+): ([\d,]+)", said)}
    assert round(found) == rates[64] < 0.8 * service.carried(64)
    assert rates[8] == max(rates.values()) > found


@pytest.mark.parametrize(("given", "planned"), [((), 2 * 640), (("--rate", "50"), 50)])
def test_a_run_without_a_rate_is_planned_for_more_than_the_server_was_seen_to_answer(
    given: tuple[str, ...], planned: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: object, pictures: object, scenario: str, seconds: float, rate: float, limit_ms: float) -> Run:
        return Run(scenario, rate == planned, [], None, rate, {"p99": 1.0})

    sent = [Sent(0.0, 0.0, 1.0)] * 640 + [Sent(0.0, 0.0, 1.0, "HTTP 429")] * 9
    monkeypatch.setattr(load, "answers", lambda _: True)
    monkeypatch.setattr(load, "closed_loop", lambda *_: sent)
    monkeypatch.setattr(load, "run_loadgen", run)
    assert main(["load", "--url", "http://127.0.0.1:9", "--scenario", "offline", *given]) == 0


def test_a_rate_that_its_repetitions_do_not_keep_is_no_goodput(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = [Run("server", True, [], 500.0, 500.0, {"p99": p99}) for p99 in (9.0, 11.0, 9.0)]
    options = SimpleNamespace(records=tmp_path, p99_ms=10.0)
    load._write(options, Settings("pytorch", Workload("vanilla_cnn", 1)), "queue", runs)
    assert "p99 was within 10 ms in 2 of 3 runs at that rate: it is no goodput" in capsys.readouterr().out
    (record,) = RecordStore(tmp_path / "queue-1").read()
    assert record.serving.goodput_per_s is None


def test_a_server_that_does_not_start_does_not_end_the_others_and_replicas_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    @contextmanager
    def running(url: str, words: Sequence[str]) -> Iterator[SimpleNamespace]:
        if "local" in words:
            raise CourseError("the server ended at once")
        yield SimpleNamespace(pid=int(words[words.index("--replicas") + 1]))

    def over_http(options: object, url: str, carried: Figure, best: list[Run], pid: int) -> bool:
        carried.value = {1: 100.0, 2: 190.0}[pid]
        best.append(Run("server", True, [], carried.value, carried.value, {"p99": 2.0}))
        return True

    monkeypatch.setattr(load, "running_server", running)
    monkeypatch.setattr(load, "over_http", over_http)
    given = ["--engines", "local", "litserve", "--replicas", "1", "2", "--records", str(tmp_path)]
    assert main([*CPU, *given]) == 1
    said = capsys.readouterr()
    assert said.err.count("error: the server ended at once") == 2
    figures = table(said.out)
    assert figures["litserve, 2 at work: highest rate, p99 within 25 ms"] == ["190.0", "requests/s"]
    assert figures["litserve: 2 at work over 1"] == ["190.0", "%", ">=", "180", "reached"]
    (record,) = RecordStore(tmp_path / "litserve-2").read()
    assert (record.serving.engine, record.serving.replicas, record.serving.goodput_per_s) == ("litserve", 2, 190.0)
    assert figures["local: 2 at work over 1"] == ["not", "measured", ">=", "180"]


def test_several_numbers_of_replicas_need_servers(capsys: pytest.CaptureFixture) -> None:
    assert main([*CPU, "--soak", "--replicas", "2", "3"]) == 1
    assert "are compared with --engines alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kill", "bad_s", "recovered"), [(5.0, 2.0, [2.0]), (5.0, 99.0, [float("inf")]), (18.0, 99.0, [])]
)
def test_after_a_kill_it_is_asked_when_all_was_well_again_where_there_was_time(
    kill: float, bad_s: float, recovered: list[float]
) -> None:
    requests = OpenLoop(None, PICTURE, np.arange(0, 20, 0.01))
    slow = (requests.due >= kill) & (requests.due < kill + bad_s)
    requests.sent[:], requests.answered[:] = requests.due, requests.due + np.where(slow, 0.5, 0.01)
    found = Soak(requests, 100.0, [kill], 1, [])
    assert found.recovered_s(limit_ms=100.0) == pytest.approx(recovered, abs=0.26)


def test_who_is_refused_at_once_does_not_hide_that_the_others_are_answered_in_time_nor_is_he_one_of_them() -> None:
    requests = OpenLoop(None, PICTURE, np.arange(0, 20, 0.01))
    requests.sent[:], requests.answered[:] = requests.due, requests.due + 0.01
    dead = (requests.due >= 5) & (requests.due < 8)
    requests.errors[np.flatnonzero(dead)[::2]] = "OverloadedError"
    found = Soak(requests, 100.0, [5.0], 1, [])
    assert found.recovered_s(100.0, refusing=True) == [0.0]
    assert found.recovered_s(100.0) == pytest.approx([3.0], abs=0.26)
    requests.answered[np.flatnonzero(dead)[1::2]] += 0.5
    assert found.recovered_s(100.0, refusing=True) == pytest.approx([3.0], abs=0.26)
    requests.errors[dead] = "OverloadedError"
    assert found.recovered_s(100.0, refusing=True) == pytest.approx([2.0], abs=0.26)
    requests.errors[dead] = "FailedError"
    assert found.recovered_s(100.0, refusing=True) == pytest.approx([3.0], abs=0.26)


def test_a_limit_that_no_rate_keeps_is_an_error_and_no_soak(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Service({1: [0.2]}, {1: [0.2]})
    monkeypatch.setattr(Settings, "remotes", lambda _: nullcontext([Told((1,))]))
    monkeypatch.setattr("inference_lib.serve.soak.measure_service", lambda _: slow)
    with pytest.raises(CourseError, match="no rate keeps p99 within 100 ms"):
        soak(Settings("onnxruntime", Workload("vanilla_cnn", 1), max_batch=1), 1.0, 1.0, limit_ms=100.0)


def test_a_soak_that_is_interrupted_tells_what_became_of_what_was_sent() -> None:
    with BatchQueue([Told()]) as queue:
        requests = OpenLoop(queue, PICTURE, [0.001 * number for number in range(60_000)])
        threading.Timer(0.5, interrupt).start()
        kills, memory = _disturb(requests, [], 0.1, bool)
        found = Soak(requests, 1000.0, kills, 0, memory)
    assert 0.2 < found.lasted_s < 30
    assert np.isfinite(requests.answered).sum() == np.isfinite(requests.sent).sum() > 100
    assert found.lost == len(kills) == 0
