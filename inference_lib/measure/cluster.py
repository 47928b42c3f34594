"""The grid spread over the stations of a Ray cluster: one set at a time on each.

What is compared (a model at a batch size) stays together and is dealt out before anything is measured, the most
expensive first. Each station exports what its share needs and passes through it as often as the profile says, as one
machine would; none waits for another, since each has its own cores and its own GPU. The head measures nothing.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference_lib.measure.benchmark import Progress
from inference_lib.measure.plan import Rival, RivalSet, empty_record
from inference_lib.measure.profiles import Profile
from inference_lib.measure.stations import Stations
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.seam import Model
from inference_lib.support.errors import CourseError
from inference_lib.support.failures import reason_of
from inference_lib.support.progress import bar

TRIES = 2
"""A set whose station died is measured anew on another, once."""

ANSWER_LIMIT_S = 3600.0
"""The longest wait for the exports of a share, or for one invocation of a set."""

LISTEN_S = 1.0
"""How often what the stations say is handed on."""


@dataclass
class Share:
    """One station and what it has to do."""

    name: str
    actor: Any
    rivals: list[Rival] = field(default_factory=list)
    left: list[tuple[RivalSet, int]] | None = None
    """Invocations that are not done: set and number, in the order of the passes; None until all is exported."""

    @property
    def unfinished(self) -> list[Rival]:
        """What is lost where the station dies."""
        if self.left is None:
            return self.rivals
        return [rival for one in {one.name: one for one, _ in self.left}.values() for rival in one.members]

    def steps(self, invocations: int) -> int:
        """Return how many invocations of a rival are to come, at most."""
        return invocations * len(self.rivals) if self.left is None else sum(len(one.members) for one, _ in self.left)


def benchmark_on_cluster(
    stations: Stations,
    rivals: Sequence[Rival],
    profile: Profile,
    store: RecordStore,
    run: str = "1",
    progress: Progress = lambda line: None,
    **options: Any,
) -> list[Record]:
    """Measure ``rivals`` on the ``stations`` of a cluster; return a record for each.

    ``options`` are those of ``Session``: ``reuse``, ``time_exports``, ``rounds_only``, ``trust``. A station that dies
    costs its set, which is tried once more elsewhere and then recorded as failed.
    """
    known = store.read() if options.get("reuse", True) else []
    options |= {"profile": profile, "run": run}
    shares = [Share(name, actor) for name, actor in stations.actors.items()]
    progress(f"{len(shares)} stations: {', '.join(stations.actors)}")
    head = _Head(stations.ray, profile, store, run, progress, shares, stations.said, (known, options))
    return head.measure(rivals)


@dataclass
class _Head:
    """Deals the sets out, collects the records, and deals again what a dead station leaves."""

    ray: Any
    profile: Profile
    store: RecordStore
    run: str
    progress: Progress
    shares: list[Share]
    said: Callable[[], list[str]]
    """Returns the lines that the stations said since the last call."""
    begin: tuple[list[Record], dict[str, Any]] = ([], {})
    """What a station's session begins with."""
    tries: dict[Rival, int] = field(default_factory=dict)
    records: dict[Rival, Record] = field(default_factory=dict)
    lost: list[Rival] = field(default_factory=list)
    """What stations that died have left."""

    def measure(self, rivals: Sequence[Rival]) -> list[Record]:
        waiting = list(rivals)
        while waiting:
            self._deal(waiting)
            self._work()
            waiting = self._to_try_again()
        return [self.records[rival] for rival in rivals]

    def _deal(self, rivals: Sequence[Rival]) -> None:
        """Give what is compared to the station with the least to do, the most expensive first."""
        for share in self.shares:
            share.rivals, share.left = [], None
        groups: dict[tuple[Model, int], list[Rival]] = {}
        for rival in rivals:
            groups.setdefault((rival.workload.model, rival.workload.batch_size), []).append(rival)
            self.tries[rival] = self.tries.get(rival, 0) + 1
        for group in sorted(groups.values(), key=_cost, reverse=True):
            min(self.shares, key=lambda share: _cost(share.rivals)).rivals += group

    def _work(self) -> None:
        """Let every station export its share and pass through it, side by side."""
        numbers = range(1, self.profile.invocations + 1)
        with bar(sum(share.steps(len(numbers)) for share in self.shares), "measuring") as shown:
            for share, answer in self._answers():
                before = share.steps(len(numbers))
                if share.left is None:
                    records, sets = answer
                    self._take(zip(share.rivals, records, strict=True))
                    share.left = [(one, number) for number in numbers for one in sets]
                else:
                    one, _ = share.left.pop(0)
                    self._take(zip(one.members, answer, strict=True))
                shown.update(before - share.steps(len(numbers)))

    def _next_of(self, share: Share) -> Any:
        """Ask a station for what comes next; return what will be its answer, or None where it has done all."""
        if share.left is None:
            return share.actor.prepare.remote(share.rivals, *self.begin) if share.rivals else None
        if not share.left:
            return None
        one, number = share.left[0]
        return share.actor.invocation.remote(one, number, f"({len(share.left)} to go)")

    def _answers(self) -> Iterator[tuple[Share, Any]]:
        """Yield what the stations answer, those that do not die, and ask them for what comes next at once."""
        asked = {future: share for share in self.shares if (future := self._next_of(share)) is not None}
        while asked:
            for future in self._first_of(list(asked)) or list(asked):
                share = asked.pop(future)
                try:
                    answer = self.ray.get(future, timeout=1)
                except (self.ray.exceptions.RayActorError, self.ray.exceptions.GetTimeoutError) as error:
                    self._bury(share, error)
                    continue
                except self.ray.exceptions.RayTaskError as error:
                    raise CourseError(f"{share.name}: {reason_of(error.cause)}") from error
                yield share, answer
                if (following := self._next_of(share)) is not None:
                    asked[following] = share

    def _first_of(self, futures: list[Any]) -> list[Any]:
        """Wait for one of ``futures``, handing on what is said meanwhile; return what there is, in the end nothing."""
        end = time.monotonic() + ANSWER_LIMIT_S
        while True:
            ready, _ = self.ray.wait(futures, timeout=LISTEN_S)
            for line in self.said():
                self.progress(line)
            if ready or time.monotonic() > end:
                return ready

    def _bury(self, share: Share, error: Exception) -> None:
        self.ray.kill(share.actor)
        self.shares.remove(share)
        self.lost += share.unfinished
        self.progress(f"{share.name}: the station died ({type(error).__name__})")
        if not self.shares:
            raise CourseError(f"every station of the cluster died, the last one was {share.name}; nothing can go on")

    def _take(self, found: Iterable[tuple[Rival, Record]]) -> None:
        for rival, record in found:
            self.records[rival] = record
            if record.invocations or not record.ok:
                self.store.keep(record, self.profile.invocations)

    def _to_try_again(self) -> list[Rival]:
        lost, self.lost = self.lost, []
        given_up = [rival for rival in lost if self.tries[rival] >= TRIES]
        for rival in given_up:
            failed = empty_record(rival, self.profile, self.run, "failed", f"its station died, {TRIES} times")
            begun = self.records.get(rival)
            if begun:  # it names the machine, which is not this one
                failed = failed.model_copy(update={"machine": begun.machine})
            self.records[rival] = failed
            self.store.keep(failed, self.profile.invocations)
        return [rival for rival in lost if rival not in given_up]


def _cost(rivals: Iterable[Rival]) -> float:
    """Return how long rivals take, roughly: a start each, and a large batch as long again."""
    return sum(1 + rival.workload.batch_size / 256 for rival in rivals)
