"""The grid on a Ray cluster: dealt out, measured by stations side by side, and what a station's death costs."""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference_lib.cli import main
from inference_lib.measure import cluster
from inference_lib.measure.cluster import benchmark_on_cluster
from inference_lib.measure.plan import Rival, grid
from inference_lib.measure.profiles import PROFILES
from inference_lib.measure.stations import stations
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.seam import CPU, Workload
from inference_lib.support.errors import CourseError

ray = pytest.importorskip("ray")

SMOKE = PROFILES["smoke"]
SIZES = (1, 2)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two hosts, which are both this one."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        made.add_node(num_cpus=1)
        made.wait_for_nodes(timeout=60)
        yield made.address
    finally:
        made.shutdown()


def rivals() -> list[Rival]:
    return grid(["pytorch"], ["vanilla_cnn"], CPU, SMOKE, ["fp32"], SIZES)


def test_a_station_that_is_killed_costs_its_set_which_another_one_measures(address: str, tmp_path: Path) -> None:
    lines: list[str] = []
    before = set(Path(tempfile.gettempdir()).glob("station-*"))

    def kill_the_first(line: str) -> None:
        lines.append(line)
        if len(lines) == 1:
            os.kill(_first_station(), signal.SIGKILL)

    store = RecordStore(tmp_path)
    with stations(address, "cpu") as there:
        records = benchmark_on_cluster(there, rivals(), SMOKE, store, progress=kill_the_first, rounds_only=True)
    assert [(r.batch_size, r.status, len(r.invocations)) for r in records] == [(size, "ok", 1) for size in SIZES]
    assert "2 stations" in lines[0]
    assert sum("the station died" in line for line in lines) == 1
    assert {record.key for record in store.read()} == {record.key for record in records}

    def imported_by_a_worker(_: Any) -> list[str]:  # within a function, so that Ray sends all of it
        from inference_lib.measure.workers import Worker

        with Worker(importlib.import_module, "builtins") as worker:
            return worker.ask("eval", "list(__import__('sys').modules)", limit_s=120)

    lines.clear()
    asked = {"rounds_only": True, "trust": True}  # more stations than cores disturb each other
    with stations(address, "cpu") as there:
        again = benchmark_on_cluster(there, rivals(), SMOKE, store, progress=lines.append, **asked)
        imported = ray.get(next(iter(there.actors.values())).__ray_call__.remote(imported_by_a_worker))
    assert again == records
    assert not any("invocation" in line for line in lines)  # all was known
    assert "torch._dynamo" in imported
    assert "ray" not in imported  # it is no part of what is measured
    assert set(Path(tempfile.gettempdir()).glob("station-*")) <= before  # nobody would remove what is left there


def _first_station() -> int:
    """Wait until a station is there; return its process."""
    from ray.util.state import list_actors

    end = time.monotonic() + 60
    while time.monotonic() < end:
        for actor in list_actors():
            if actor.class_name == "Station" and actor.state == "ALIVE":
                return actor.pid
        time.sleep(0.2)
    pytest.fail("no station came up")


def test_a_head_that_starts_stations_has_imported_nothing_that_takes_long() -> None:
    script = "import sys, inference_lib.measure.stations; print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"


def test_a_cluster_that_nobody_started_is_one_line() -> None:
    started = stations("127.0.0.1:1", "cpu")
    with pytest.raises(CourseError, match=r"no Ray cluster answers at 127\.0\.0\.1:1; start one with"), started:
        pytest.fail("there is none")


def test_without_ray_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    asked = ["benchmark", "--cluster", "--device", "cpu", "--records", str(tmp_path)]
    assert main(asked) == 1
    assert "Ray is not installed; run `pip install" in capsys.readouterr().err


# What no cluster here can show: a fake one, whose stations answer or die as they are told


class FakeRay:
    """Answers at once; a station that is to die does so at its n-th command."""

    class exceptions:  # noqa: N801
        RayActorError, GetTimeoutError = RuntimeError, TimeoutError

        class RayTaskError(Exception):
            @property
            def cause(self) -> Exception:
                return self.args[0]

    def wait(self, futures: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return futures[:1], futures[1:]

    def get(self, future: Any, timeout: float) -> Any:
        return future()

    def kill(self, actor: Any) -> None:
        actor.killed = True


class FakeStation:
    """Says that every rival was measured, until its ``life`` is over."""

    def __init__(self, life: int) -> None:
        self.life, self.killed, self.measured = life, False, []
        self.prepare, self.invocation = (_Remote(self, call) for call in (self._prepare, self._invocation))

    def _prepare(self, rivals: list[Rival], *_: Any) -> Any:
        records = [cluster.empty_record(rival, SMOKE, "1", "ok") for rival in rivals]
        return records, cluster_sets(rivals)

    def _invocation(self, one: Any, number: int, place: str) -> Any:
        self.measured += one.members
        return [cluster.empty_record(rival, SMOKE, "1", "ok") for rival in one.members]


class _Remote:
    def __init__(self, station: FakeStation, call: Any) -> None:
        self.station, self.call = station, call

    def remote(self, *arguments: Any) -> Any:
        def answer() -> Any:
            self.station.life -= 1
            if self.station.life < 0:
                raise FakeRay.exceptions.RayActorError
            return self.call(*arguments)

        return answer


def cluster_sets(rivals: list[Rival]) -> list[Any]:
    from inference_lib.measure.plan import sets_of

    return sets_of(rivals)


def head(tmp_path: Path, lives: list[int]) -> tuple[Any, list[FakeStation], list[str]]:
    stations, lines = [FakeStation(life) for life in lives], []
    shares = [cluster.Share(f"station {number}", station) for number, station in enumerate(stations)]
    return cluster._Head(FakeRay(), SMOKE, RecordStore(tmp_path), "1", lines.append, shares, list), stations, lines


def many() -> list[Rival]:
    return [Rival(name, Workload("vanilla_cnn", size)) for size in (1, 2, 4, 8) for name in ("pytorch", "openvino")]


def test_what_is_compared_stays_together_and_everyone_has_work(tmp_path: Path) -> None:
    made, stations, _ = head(tmp_path, [99, 99])
    records = made.measure(many())
    assert [(r.backend, r.batch_size) for r in records] == [(r.backend, r.workload.batch_size) for r in many()]
    for station in stations:
        sizes = [rival.workload.batch_size for rival in station.measured]
        assert len(sizes) == 4
        assert all(sizes.count(size) == 2 for size in sizes)


def test_the_most_expensive_sets_come_first(tmp_path: Path) -> None:
    made, _, _ = head(tmp_path, [99, 99])
    made._deal(many())
    dealt = [[rival.workload.batch_size for rival in share.rivals] for share in made.shares]
    assert dealt == [[8, 8, 1, 1], [4, 4, 2, 2]]


def test_a_station_measures_while_another_still_exports(tmp_path: Path) -> None:
    made, stations, _ = head(tmp_path, [99, 99])
    measured: list[int] = []

    def slow(*arguments: Any) -> Any:
        measured.append(len(stations[1].measured))
        return stations[0]._prepare(*arguments)

    stations[0].prepare = _Remote(stations[0], slow)
    made.ray.wait = lambda futures, timeout: (futures[-1:], futures[:-1])  # the first one that was asked answers last
    assert all(record.ok for record in made.measure(many()))
    assert measured == [len(many()) // 2]


def test_what_a_station_says_is_handed_on_while_the_head_waits(tmp_path: Path) -> None:
    made, _, lines = head(tmp_path, [99])
    said = iter([["exporting"], ["exported"]])
    made.said = lambda: next(said, [])
    made.ray.wait = lambda futures, timeout: (futures[:1], futures[1:]) if lines else ([], futures)
    made.measure(many()[:2])
    assert lines == ["exporting", "exported"]


@pytest.mark.parametrize("life", [0, 1, 2])
def test_whenever_a_station_dies_its_sets_are_measured_elsewhere(tmp_path: Path, life: int) -> None:
    made, stations, lines = head(tmp_path, [life, 99])
    assert all(record.ok for record in made.measure(many()))
    assert stations[0].killed
    assert set(many()) <= set(stations[0].measured[: 2 * max(0, life - 1)]) | set(stations[1].measured)
    assert lines.count("station 0: the station died (RuntimeError)") == 1


def test_a_set_whose_second_station_dies_too_is_recorded_as_failed(tmp_path: Path) -> None:
    made, _, _ = head(tmp_path, [1, 3, 99])
    records = made.measure(many()[:2])
    assert all(record.ok for record in records)
    made, stations, _ = head(tmp_path / "again", [1, 1, 99])
    records = made.measure(many()[:2])
    assert [(r.status, r.reason) for r in records] == [("failed", "its station died, 2 times")] * 2
    assert stations[2].measured == []


def told(records: dict[int, Record]) -> Any:
    """Return what a station answers whose invocations find ``records``, by their numbers."""
    return lambda one, number, place: [records[number]] * len(one.members)


@pytest.mark.parametrize("whole_before", [False, True])
def test_a_rival_that_fails_in_a_later_invocation_is_failed(
    tmp_path: Path, make_record: Callable[..., Record], whole_before: bool
) -> None:
    """Seen: the row stayed measured, with the invocations of before. A whole row of an earlier run stays on disk."""
    (rival,) = many()[:1]
    made, stations, _ = head(tmp_path, [99])
    made.profile = replace(SMOKE, invocations=3)
    empty = cluster.empty_record(rival, SMOKE, "1", "ok")
    measured = [
        empty.model_copy(update={"invocations": make_record(count=n, device="cpu").invocations}) for n in (1, 3)
    ]
    failed = empty.model_copy(update={"status": "failed", "reason": "died"})
    if whole_before:
        made.store.write(measured[1])
    answers = {1: measured[0], 2: failed, 3: failed}
    stations[0].invocation = _Remote(stations[0], told(answers))
    assert made.measure([rival]) == [failed]
    assert made.store.read() == [measured[1] if whole_before else failed]


def test_what_a_station_cannot_do_is_one_line(tmp_path: Path) -> None:
    def prepare(*_: Any) -> None:
        raise FakeRay.exceptions.RayTaskError(CourseError("no data set; get it"))

    made, stations, _ = head(tmp_path, [99])
    stations[0].prepare = _Remote(stations[0], prepare)
    with pytest.raises(CourseError, match=r"^station 0: no data set; get it$"):
        made.measure(many())


def test_when_every_station_has_died_it_is_one_line(tmp_path: Path) -> None:
    made, _, _ = head(tmp_path, [0])
    with pytest.raises(CourseError, match="every station of the cluster died, the last one was station 0"):
        made.measure(many())
