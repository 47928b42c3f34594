"""One invocation of a set, with made-up workers: who takes a turn when, what counts, and what a death costs."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from inference_lib.measure import rounds
from inference_lib.measure.cell import Turn
from inference_lib.measure.plan import Rival, RivalSet
from inference_lib.measure.profiles import PROFILES
from inference_lib.measure.rounds import Outcome, Race, host_pace_ms
from inference_lib.measure.workers import Deadline, WorkerError
from inference_lib.records.record import Accuracy, Build, Clocks, Load
from inference_lib.seam import Workload

ROUNDS = 5
PROFILE = replace(PROFILES["full"], rounds=ROUNDS, iterations=10, turn_s=0.02, sweep=(1, 8), sweep_cpu=(1, 8))
FIRST_ROUND_MS = 1000.0
"""What a turn of the round that does not count takes: it must be nowhere in the results."""


@dataclass
class Host:
    """The made-up machine: what every worker was told, and which of them fail at what."""

    log: list[tuple[str, str]] = field(default_factory=list)
    iterations: dict[str, list[int]] = field(default_factory=dict)
    alive: list[str] = field(default_factory=list)
    fails: dict[tuple[str, str], int] = field(default_factory=dict)
    """A backend and a command: which call of it fails."""
    stalls: int = 0
    """How many times the parts are measured while the host stands still."""

    def told(self, command: str) -> list[str]:
        """Return the backends that got ``command``, in order."""
        return [backend for backend, asked in self.log if asked == command]


class FakeWorker:
    """Answers like a worker with a Cell. A turn in round n takes n ms, times 2 for a baseline."""

    host: Host

    def __init__(self, make: Callable, backend: str, workload: Workload, images: int) -> None:
        self.backend, self.workload, self.counts = backend, workload, {}
        self.images = images
        self.host.alive.append(backend)

    def tell(self, command: str, *arguments: Any) -> None:
        self.pending = command, arguments

    def answer(self, limit: Deadline) -> Any:
        command, arguments = self.pending
        assert limit.left_s > 0
        self.host.log.append((self.backend, command))
        self.counts[command] = self.counts.get(command, 0) + 1
        if self.host.fails.get((self.backend, command)) == self.counts[command]:
            raise WorkerError(f"{self.backend} failed at {command}")
        return getattr(self, command)(*arguments)

    def ask(self, command: str, *arguments: Any, limit_s: float) -> Any:
        self.tell(command, *arguments)
        return self.answer(Deadline(limit_s))

    def kill(self) -> None:
        if self.backend in self.host.alive:
            self.host.alive.remove(self.backend)

    def strike(self) -> None:
        self.kill()

    # A cell's commands

    def load(self, warm_up_s: float) -> tuple[Build, float]:
        return Build(export_s=1, load_s=1, first_inference_s=1, artifact_mib=1), 0.001

    def memory_mib(self) -> float:
        return 500.0

    def wake(self) -> None:
        pass

    def _ms(self, number: int) -> float:
        if number == 1:
            return FIRST_ROUND_MS
        return (number - 1) * (2.0 if self.backend == "pytorch" else 1.0)

    def turn(self, iterations: int, discarded: int) -> Turn:
        assert discarded >= 1
        self.host.iterations.setdefault(self.backend, []).append(iterations)
        return Turn([self._ms(self.counts["turn"])] * iterations, waited_percent=5.0)

    def device_turn(self, iterations: int, discarded: int) -> Turn:
        return Turn([self._ms(self.counts["device_turn"]) / 10] * iterations, waited_percent=0.0)

    def clocks(self) -> Clocks:
        return Clocks(sm_mhz=1980, throttle_reasons=[])

    def parts(self, budget_s: float) -> dict[str, float]:
        upload = 100.0 if self.counts["parts"] <= self.host.stalls else 0.1
        return {"upload": upload + self.counts["parts"] / 1000, "compute": 0.8, "download": 0.1}

    def throughput(self, budget_s: float) -> float:
        return 1000.0

    def overlapped(self, budget_s: float) -> float:
        return 2000.0

    def steady_load(self, seconds: float) -> Load:
        return Load(throttle_reasons=[], samples=3, seconds=seconds)

    def evaluate(self, images: int) -> Accuracy:
        return Accuracy(accuracy_percent=95, agreement_percent=100, largest_difference=0, images=images)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host()
    monkeypatch.setattr(FakeWorker, "host", found, raising=False)
    monkeypatch.setattr(rounds, "Worker", FakeWorker)
    monkeypatch.setattr(rounds.gpu, "memory_used_mib", lambda index: 1000.0)
    return found


def a_set(*backends: str, carried: tuple[str, ...] = (), device: str = "cpu", batch_size: int = 1) -> RivalSet:
    workload = Workload("vanilla_cnn", batch_size, "fp16" if device == "cuda" else "fp32", device)
    members, along = (tuple(Rival(name, workload) for name in names) for names in (backends, carried))
    return RivalSet("a set", members, along)


def race(rivals: RivalSet, seed: int = 1, **asked: Any) -> dict[str, Outcome]:
    outcomes = Race(rivals, PROFILE, seed).run(1, **({"phases": False} | asked))
    return {rival.backend: outcome for rival, outcome in outcomes.items()}


TRIO = ("onnxruntime", "openvino", "tvm")


def in_rounds(host: Host, count: int) -> list[list[str]]:
    turns = host.told("turn")
    return [turns[start : start + count] for start in range(0, len(turns), count)]


def test_everyone_takes_one_turn_in_every_round(host: Host) -> None:
    race(a_set(*TRIO))
    played = in_rounds(host, 3)
    assert len(played) == ROUNDS + 1  # the first one wakes the machine up
    assert all(sorted(one) == sorted(TRIO) for one in played)


def test_the_order_is_drawn_anew_in_each_round_and_repeats_with_the_seed(host: Host) -> None:
    def orders(seed: int) -> list[list[str]]:
        host.log.clear()
        race(a_set(*TRIO), seed)
        return in_rounds(host, 3)

    first = orders(1)
    assert len({tuple(one) for one in first}) > 1
    assert orders(1) == first
    assert orders(2) != first


def test_the_first_round_does_not_count(host: Host) -> None:
    for outcome in race(a_set(*TRIO)).values():
        assert outcome.invocation.end_to_end_ms == [1.0, 2.0, 3.0, 4.0, 5.0]
        assert max(outcome.invocation.quantiles) == 5.0
        assert len(outcome.invocation.pace_ms) == ROUNDS
        assert outcome.invocation.iterations == sum(host.iterations["tvm"][1:])
        assert outcome.invocation.waited_percent == 5.0
        assert outcome.invocation.device_ms == []


def test_the_first_round_says_how_many_inferences_fill_a_turn(host: Host) -> None:
    """Loading guessed 1 ms while the others were still at work; the first turn took a second an inference."""
    race(a_set(*TRIO))
    assert host.iterations["tvm"] == [10] + [PROFILE.least_iterations] * ROUNDS


def test_a_large_batch_has_half_the_rounds_and_two_at_least(host: Host) -> None:
    outcomes = race(a_set(*TRIO, batch_size=64))
    assert len(outcomes["tvm"].invocation.end_to_end_ms) == PROFILE.rounds_at(64, "cpu") == 2


def test_a_rival_that_dies_in_the_third_round_is_dropped_and_the_others_stay_aligned(host: Host) -> None:
    host.fails["openvino", "turn"] = 1 + 3
    outcomes = race(a_set(*TRIO))
    assert str(outcomes["openvino"].failure) == "openvino failed at turn"
    assert outcomes["openvino"].invocation is None
    for name in ("onnxruntime", "tvm"):
        assert outcomes[name].failure is None
        assert outcomes[name].invocation.end_to_end_ms == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert host.told("turn").count("openvino") == 4
    assert host.alive == []


@pytest.mark.parametrize("command", ["load", "memory_mib", "wake", "device_turn", "clocks"])
def test_whatever_a_rival_fails_at_costs_its_own_row_alone(host: Host, command: str) -> None:
    first = "tensorrt"
    host.fails[first, command] = 1
    outcomes = race(a_set(first, "tvm", "pytorch", device="cuda"))
    assert command in str(outcomes[first].failure)
    for name in ("tvm", "pytorch"):
        assert outcomes[name].failure is None
        assert len(outcomes[name].invocation.device_ms) == len(outcomes[name].invocation.end_to_end_ms) == ROUNDS
        assert outcomes[name].clocks.sm_mhz == 1980
    assert host.alive == []


@pytest.mark.parametrize("command", ["parts", "throughput", "steady_load", "evaluate"])
def test_a_phase_that_fails_costs_its_own_row_alone(host: Host, command: str) -> None:
    host.fails["tensorrt", command] = 1
    rivals = a_set("tensorrt", "tvm", device="cuda")
    outcomes = race(rivals, phases=True, evaluate=rivals.members)
    assert command in str(outcomes["tensorrt"].failure)
    good = outcomes["tvm"]
    assert (good.failure, good.parts.compute, good.throughput_images_per_s, good.load.samples) == (None, 0.8, 1000, 3)
    assert good.accuracy.images == PROFILE.images("cuda")


@pytest.mark.parametrize(("stalls", "times", "upload"), [(0, 1, 0.101), (1, 2, 0.102), (9, 3, 100.001)])
def test_parts_that_met_a_stall_are_measured_again(host: Host, stalls: int, times: int, upload: float) -> None:
    host.stalls = stalls
    parts = race(a_set("tvm"), phases=True)["tvm"].parts
    assert host.told("parts") == ["tvm"] * times
    assert parts.upload == pytest.approx(upload)


def test_everyone_may_die(host: Host) -> None:
    for name in TRIO:
        host.fails[name, "turn"] = 2
    assert all(outcome.failure for outcome in race(a_set(*TRIO), phases=True).values())
    assert host.alive == []


def test_workers_are_ended_when_something_else_goes_wrong(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "host_pace_ms", interrupted)
    with pytest.raises(KeyboardInterrupt):
        race(a_set(*TRIO))
    assert host.alive == []


def test_rows_that_go_along_land_in_the_invocations_of_the_others(host: Host) -> None:
    outcomes = race(a_set("tvm", carried=("pytorch", "pytorch-cudagraph"), device="cuda"), phases=True)
    carried = outcomes["tvm"].invocation.carried
    assert set(carried) == {"pytorch", "pytorch-cudagraph"}
    assert carried["pytorch"].end_to_end_ms == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert carried["pytorch-cudagraph"].device_ms == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert outcomes["pytorch"].parts is None  # what goes along is not published, and has no phases


def test_a_baseline_in_the_set_is_carried_by_the_others_of_its_precision_alone(host: Host) -> None:
    half, single = (Workload("vanilla_cnn", 1, precision, "cuda") for precision in ("fp16", "fp32"))
    members = (Rival("pytorch", half), Rival("tvm", half), Rival("tvm", single))
    outcomes = Race(RivalSet("a set", members), PROFILE, 1).run(1, phases=False)
    assert [list(outcomes[rival].invocation.carried) for rival in members] == [[], ["pytorch"], []]


def test_a_baseline_that_died_is_carried_by_nobody(host: Host) -> None:
    host.fails["pytorch", "turn"] = 3
    assert race(a_set("tvm", carried=("pytorch",)))["tvm"].invocation.carried == {}


def test_phases_wait_until_all_rounds_are_over(host: Host) -> None:
    race(a_set(*TRIO), phases=True)
    commands = [command for _, command in host.log]
    assert commands.index("parts") > max(n for n, command in enumerate(commands) if command == "turn")
    assert "steady_load" not in commands  # a CPU has none


@pytest.mark.parametrize(("size", "count"), [(1, 0), (8, 1)])
def test_overlapped_copies_are_timed_at_the_largest_batch(host: Host, size: int, count: int) -> None:
    race(a_set("tvm", device="cuda", batch_size=size), phases=True)
    assert host.told("overlapped") == ["tvm"] * count


@pytest.mark.parametrize(("cores", "together", "waves"), [(1, 1, 3), (2, 1, 3), (4, 2, 2), (8, 3, 1)])
def test_half_as_many_start_side_by_side_as_there_are_cores(
    host: Host, monkeypatch: pytest.MonkeyPatch, cores: int, together: int, waves: int
) -> None:
    monkeypatch.setattr(rounds.os, "sched_getaffinity", lambda _: set(range(cores)))
    sizes = []
    monkeypatch.setattr(rounds, "Deadline", lambda limit: sizes.append(len(host.alive)) or Deadline(limit))
    race(a_set(*TRIO))
    assert len(sizes) >= waves
    assert sizes[:waves] == [min(3, (wave + 1) * together) for wave in range(waves)]


def test_memory_that_nvml_does_not_tell_apart_is_the_device_s_growth(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = iter([1000.0, 1600.0, 1600.0, 1900.0])
    monkeypatch.setattr(rounds.os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(rounds.gpu, "memory_used_mib", lambda index: next(used))
    monkeypatch.setattr(FakeWorker, "memory_mib", lambda self: None)
    outcomes = race(a_set("tvm", "tensorrt", device="cuda"))
    assert [(o.gpu_memory_mib, o.gpu_memory_source) for o in outcomes.values()] == [
        (600, "NVML, growth of the device's used memory"),
        (300, "NVML, growth of the device's used memory"),
    ]


def test_the_host_s_pace_is_its_best_of_a_few() -> None:
    moments = iter([0, 3, 10, 11, 20, 24, 30, 39, 40, 42])
    assert host_pace_ms(lambda: next(moments)) == pytest.approx(1000)
