"""One invocation of a set: the rivals are started anew, all stay alive, and each takes a turn in every round.

While one has its turn the others wait for a command, without using a core. Their order is drawn anew in each round.
"""

import math
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from inference_lib.measure import gpu
from inference_lib.measure.cell import Cell, Turn
from inference_lib.measure.plan import Rival, RivalSet, references_of
from inference_lib.measure.profiles import Profile
from inference_lib.measure.workers import Deadline, Worker, WorkerError, end
from inference_lib.records.record import Accuracy, Build, Carried, Clocks, Invocation, Load, Parts
from inference_lib.records.statistics import quantile_sketch

LOAD_LIMIT_S, TURN_LIMIT_S, PHASE_LIMIT_S = 300.0, 120.0, 900.0
"""The longest wait for a start, for a turn, and for a phase of its own, such as 10,000 images."""

WARM_UP_TURNS = 4
DEVICE_ITERATIONS = 3
DISCARDED = 0.25
"""The first inferences of a turn, as a part of those that count, do not: others used the caches meanwhile."""

STALLED = 4.0
"""Parts that take so many times what an inference took in the rounds met a stall of the host."""

PACE_BYTES = 300_000
PACE_REPEATS = 5

MANY_CORES = 8
"""With so many, all rivals start at once; with fewer, half as many as there are cores, since each computes with all."""


@dataclass
class Outcome:
    """What one invocation found out about one rival, called as in its record."""

    build: Build | None = None
    invocation: Invocation | None = None
    parts: Parts | None = None
    throughput_images_per_s: float | None = None
    overlapped_images_per_s: float | None = None
    gpu_memory_mib: float | None = None
    gpu_memory_source: str = ""
    clocks: Clocks | None = None
    load: Load | None = None
    accuracy: Accuracy | None = None
    failure: WorkerError | None = None
    turns: list[Turn] = field(default_factory=list)
    device_turns: list[Turn] = field(default_factory=list)


class Race:
    """One invocation of one set. ``outcomes`` has an entry for everyone when it is over, whatever happened.

    ``advanced`` is told, between turns, how many steps are done: one is one part of the invocation, for one rival.
    """

    def __init__(
        self, rivals: RivalSet, profile: Profile, seed: int, advanced: Callable[[float], object] = lambda steps: None
    ) -> None:
        self.rivals, self.profile, self._advanced = rivals, profile, advanced
        asked = rivals.members[0].workload
        self._turns = 1 + profile.rounds_at(asked.batch_size, asked.device.kind)
        self._done, self._step = 0.0, 1.0
        self.outcomes = {rival: Outcome() for rival in rivals.everyone}
        self._workers: dict[Rival, Worker] = {}
        self._one_s: dict[Rival, float] = {}
        self._order = random.Random(seed)
        self._pace: list[float] = []
        self._seconds: dict[str, float] = {}

    def run(self, number: int, *, phases: bool, evaluate: Iterable[Rival] = ()) -> dict[Rival, Outcome]:
        """Start everyone, run the rounds, then the phases of their own; end everyone."""
        try:
            self._timed("starting", self._start)
            self._timed("rounds", self._rounds)
            self._conclude(number)
            if phases:
                self._timed("phases of their own", self._phases)
            self._timed("test set", lambda: self._evaluate(list(evaluate)))
        finally:
            end(self._workers.values())
        return self.outcomes

    def _timed(self, what: str, step: Callable[[], object]) -> None:
        start, done = time.monotonic(), self._done + len(self.outcomes)
        self._step = 1 / self._turns if what == "rounds" else 1.0
        step()
        self._seconds[what] = time.monotonic() - start
        self._advance(done)  # whoever dropped out meanwhile

    def _advance(self, steps: float) -> None:
        self._done = steps
        self._advanced(steps)

    @property
    def spent(self) -> str:
        """What the parts of the invocation took, in words."""
        return ", ".join(f"{what} {seconds:.1f} s" for what, seconds in self._seconds.items())

    # Starting

    def _start(self) -> None:
        """Load everyone: all at once on a host with many cores, else half as many at a time as there are cores.

        Where NVML does not tell processes apart, only a rival that started alone has a figure for its memory.
        """
        cores = len(os.sched_getaffinity(0))
        together = len(self.outcomes) if cores >= MANY_CORES else max(1, cores // 2)
        waiting = list(self.outcomes)
        while waiting:
            wave, waiting = waiting[:together], waiting[together:]
            before = self._device_memory(wave[0]) if len(wave) == 1 else None
            for rival in wave:
                self._workers[rival] = Worker(Cell, rival.backend, rival.workload, rival.images(self.profile))
                turns = WARM_UP_TURNS if rival.workload.on_gpu else 1  # a processor's rivals warm up one by one
                self._workers[rival].tell("load", turns * self.profile.turn_s)
            limit = Deadline(LOAD_LIMIT_S)
            for rival in wave:
                with self._failing(rival):
                    self.outcomes[rival].build, self._one_s[rival] = self._workers[rival].answer(limit)
            for rival in list(self._workers.keys() & set(wave)):
                self._remember_memory(rival, before)

    def _device_memory(self, rival: Rival) -> float | None:
        return gpu.memory_used_mib(rival.workload.device.index) if rival.workload.on_gpu else None

    def _remember_memory(self, rival: Rival, before: float | None) -> None:
        if not rival.workload.on_gpu:
            return
        outcome = self.outcomes[rival]
        with self._failing(rival):
            outcome.gpu_memory_mib = self._workers[rival].ask("memory_mib", limit_s=TURN_LIMIT_S)
        if outcome.gpu_memory_mib is not None:
            outcome.gpu_memory_source = "NVML, of this process"
        elif before is not None and (after := self._device_memory(rival)) is not None:
            outcome.gpu_memory_mib = after - before
            outcome.gpu_memory_source = "NVML, growth of the device's used memory"

    @contextmanager
    def _failing(self, rival: Rival) -> Iterator[None]:
        """Catch a worker's failure: it costs its own row, and the others go on."""
        try:
            yield
        except WorkerError as error:
            self.drop(rival, error)
        self._advance(self._done + self._step)

    def drop(self, rival: Rival, failure: WorkerError) -> None:
        """Take a rival out of the race, with the reason."""
        self.outcomes[rival].failure = failure
        self._workers.pop(rival).kill()

    # Rounds

    def _rounds(self) -> None:
        """Give everyone a turn in each round; the first one wakes the machine up and does not count."""
        for rival in list(self._workers)[:1]:
            if rival.workload.on_gpu:
                with self._failing(rival):
                    self._workers[rival].ask("wake", limit_s=TURN_LIMIT_S)
        for number in range(self._turns):
            pace, order = host_pace_ms(), list(self._workers)
            self._order.shuffle(order)
            for rival in order:
                with self._failing(rival):
                    self._turn(rival, counts=number > 0)
            if number > 0:
                self._pace.append(pace)

    def _turn(self, rival: Rival, *, counts: bool) -> None:
        worker, outcome, asked = self._workers[rival], self.outcomes[rival], rival.workload
        iterations = self.profile.iterations_of(self._one_s[rival], asked.batch_size, asked.device.kind)
        turn = worker.ask("turn", iterations, math.ceil(iterations * DISCARDED), limit_s=TURN_LIMIT_S)
        device = None
        if asked.on_gpu:
            device = worker.ask("device_turn", min(iterations, DEVICE_ITERATIONS), 1, limit_s=TURN_LIMIT_S)
        if counts:
            outcome.turns.append(turn)
            outcome.device_turns += [device] if device else []
        else:
            self._one_s[rival] = median(turn.samples) / 1e3  # the others were still loading when it was guessed

    def _conclude(self, number: int) -> None:
        """Put the turns of everyone who is still there together."""
        for rival in list(self._workers):
            outcome = self.outcomes[rival]
            samples = np.array([ms for turn in outcome.turns for ms in turn.samples])
            outcome.invocation = Invocation(
                number=number,
                end_to_end_ms=_medians(outcome.turns),
                device_ms=_medians(outcome.device_turns),
                iterations=len(samples),
                quantiles=quantile_sketch(samples),
                pace_ms=[_rounded(ms) for ms in self._pace],
                waited_percent=round(median(turn.waited_percent for turn in outcome.turns), 2),
            )
            if rival.workload.on_gpu:
                with self._failing(rival):
                    outcome.clocks = self._workers[rival].ask("clocks", limit_s=TURN_LIMIT_S)
        for rival in self._workers:
            invocation = self.outcomes[rival].invocation
            for other in references_of(rival, self._workers):
                rounds = self.outcomes[other].invocation
                if invocation and rounds:
                    row = Carried(end_to_end_ms=rounds.end_to_end_ms, device_ms=rounds.device_ms)
                    invocation.carried[other.backend] = row

    # Phases of their own

    def _phases(self) -> None:
        """Measure what is not a matter of rounds, one member at a time."""
        budget, profile = self.profile.budget_s, self.profile
        for rival in [r for r in self.rivals.members if r in self._workers]:
            worker, outcome = self._workers[rival], self.outcomes[rival]
            with self._failing(rival):
                outcome.parts = self._parts(rival)
                back_to_back_s = profile.throughput_s(rival.workload.device.kind)
                outcome.throughput_images_per_s = worker.ask("throughput", back_to_back_s, limit_s=PHASE_LIMIT_S)
                if profile.samples_load(rival.workload):
                    outcome.load = worker.ask("steady_load", profile.load_s, limit_s=PHASE_LIMIT_S)
                if rival.workload.batch_size == profile.ends(rival.workload.device.kind)[-1]:
                    outcome.overlapped_images_per_s = worker.ask("overlapped", budget, limit_s=PHASE_LIMIT_S)

    def _parts(self, rival: Rival) -> Parts:
        """Return the medians of upload, compute and download; series that met a stall are measured again."""
        invocation = self.outcomes[rival].invocation
        most_ms = STALLED * median(invocation.end_to_end_ms) if invocation else 0.0
        tries: list[dict[str, float]] = []
        while not tries or (len(tries) < self.profile.tries and sum(tries[-1].values()) > most_ms):
            tries.append(self._workers[rival].ask("parts", self.profile.budget_s, limit_s=PHASE_LIMIT_S))
        return Parts(**min(tries, key=lambda found: sum(found.values())))

    def _evaluate(self, chosen: list[Rival]) -> None:
        """Let those who are asked answer all test pictures: nothing is timed any more. On a GPU all do so at once."""
        asked = [rival for rival in chosen if rival in self._workers]
        together = [asked] if asked and asked[0].workload.on_gpu else [[rival] for rival in asked]
        for group in together:
            for rival in group:
                self._workers[rival].tell("evaluate", rival.images(self.profile))
            limit = Deadline(PHASE_LIMIT_S)
            for rival in group:
                with self._failing(rival):
                    self.outcomes[rival].accuracy = self._workers[rival].answer(limit)


def _medians(turns: Iterable[Turn]) -> list[float]:
    return [_rounded(median(turn.samples)) for turn in turns]


def _rounded(ms: float) -> float:
    return float(f"{ms:.5g}")


def host_pace_ms(clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long the host takes for a fixed piece of work, ms: a copy and a loop in Python; the best of a few."""
    source = np.ones(PACE_BYTES, np.uint8)
    target, times = np.empty_like(source), []
    for _ in range(PACE_REPEATS):
        start = clock()
        np.copyto(target, source)
        sum(range(2000))
        times.append((clock() - start) * 1e3)
    return min(times)
