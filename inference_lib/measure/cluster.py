"""The grid spread over the GPUs of a Ray cluster (or over its hosts, for a CPU grid): one set at a time on each.

A *station* is one GPU with its share of the host's cores, or one host. What is compared (a model at a batch size) stays
together and is dealt out before anything is measured. Each station exports what its share needs, waits until all have,
and then passes through its share as often as the profile says, as one machine would. The head measures nothing and
needs no GPU.
See https://docs.ray.io/en/releases-2.60.0/ray-core/actors.html.
"""

import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from inference_lib.measure.benchmark import Progress, Session
from inference_lib.measure.plan import Rival, RivalSet, empty_record
from inference_lib.measure.profiles import Profile
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.seam import Model
from inference_lib.support.cores import cores_of, keep_to
from inference_lib.support.errors import CourseError
from inference_lib.support.failures import reason_of
from inference_lib.support.progress import bar

TRIES = 2
"""A set whose station died is measured anew on another, once."""

ANSWER_LIMIT_S = 3600.0
"""The longest wait for the exports of a share, or for one invocation of a set."""

LISTEN_S = 1.0
"""How often what the stations say is handed on."""

CONNECT_LIMIT_S = 10.0

NO_CLUSTER = "no Ray cluster answers at {}; start one with `ray start --head`"


class Station:
    """What runs beside a GPU: a session of its own. Public methods are what the cluster's head asks for."""

    def __init__(self, place: tuple[int, int], known: Sequence[Record], **options: Any) -> None:
        """Begin at ``place``, the so-manieth station of so many on this host, with the ``options`` of a session."""
        keep_to(cores_of(*place))  # so that no station disturbs another
        store = RecordStore(Path(tempfile.mkdtemp(prefix="station-")))
        for record in known:
            store.write(record)
        self._session = Session(store=store, **options)

    def prepare(self, rivals: Sequence[Rival]) -> tuple[list[Record], list[RivalSet]]:
        """Export what ``rivals`` lack; return what is known of them, and the sets to measure."""
        sets = self._session.prepare(rivals)
        return [self._session.records[rival] for rival in rivals], sets

    def invocation(self, one: RivalSet, number: int, place: str) -> list[Record]:
        """Run one invocation of a set; return the records of its members."""
        self._session.invocation(one, number, place)
        return [self._session.records[rival] for rival in one.members]


@dataclass
class Share:
    """One station and what it has to do."""

    name: str
    actor: Any
    rivals: list[Rival] = field(default_factory=list)
    left: list[tuple[RivalSet, int]] = field(default_factory=list)
    """Invocations that are not done: set and number, in the order of the passes; empty until all is exported."""

    @property
    def unfinished(self) -> list[Rival]:
        """What is lost where the station dies."""
        sets = {one.name: one for one, _ in self.left}
        return [rival for one in sets.values() for rival in one.members] if sets else self.rivals


def benchmark_on_cluster(
    rivals: Sequence[Rival],
    profile: Profile,
    store: RecordStore,
    run: str = "1",
    address: str = "",
    progress: Progress = lambda line: None,
    **options: Any,
) -> list[Record]:
    """Measure ``rivals`` on the cluster at ``address`` (empty: one is started on this host); return a record for each.

    ``options`` are those of ``Session``: ``reuse``, ``time_exports``, ``rounds_only``, ``trust``. A station that dies
    costs its set, which is tried once more elsewhere and then recorded as failed. Raise CourseError where Ray is not
    installed, there is no cluster, or it has no device of the kind that is asked for.
    """
    with _connected(address) as ray:
        from ray.util.queue import Queue

        lines = Queue(actor_options={"num_cpus": 0})  # what the stations say; the head hands it on while it waits
        known = store.read() if options.get("reuse", True) else []
        options |= {"profile": profile, "run": run}
        shares = [
            Share(name, begin(known, progress=lambda line, name=name: lines.put(f"{name}: {line}"), **options))
            for name, begin in _places(ray, rivals[0].workload.device.kind)
        ]
        progress(f"{len(shares)} stations: {', '.join(share.name for share in shares)}")
        head = _Head(ray, profile, store, run, progress, shares, lambda: lines.get_nowait_batch(lines.qsize()))
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
    tries: dict[Rival, int] = field(default_factory=dict)
    records: dict[Rival, Record] = field(default_factory=dict)
    lost: list[Rival] = field(default_factory=list)
    """What stations that died have left."""

    def measure(self, rivals: Sequence[Rival]) -> list[Record]:
        waiting = list(rivals)
        while waiting:
            self._deal(waiting)
            self._prepare()
            self._work()
            waiting = self._to_try_again()
        return [self.records[rival] for rival in rivals]

    def _deal(self, rivals: Sequence[Rival]) -> None:
        """Give what is compared to the station with the least to do, the most expensive first."""
        for share in self.shares:
            share.rivals, share.left = [], []
        groups: dict[tuple[Model, int], list[Rival]] = {}
        for rival in rivals:
            groups.setdefault((rival.workload.model, rival.workload.batch_size), []).append(rival)
            self.tries[rival] = self.tries.get(rival, 0) + 1
        for group in sorted(groups.values(), key=_cost, reverse=True):
            min(self.shares, key=lambda share: _cost(share.rivals)).rivals += group

    def _prepare(self) -> None:
        """Let every station export its share."""
        asked = {share.actor.prepare.remote(share.rivals): share for share in self.shares if share.rivals}
        for share, (records, sets) in self._answers(asked, again=lambda share: None):
            self._take(zip(share.rivals, records, strict=True))
            numbers = range(1, self.profile.invocations + 1)
            share.left = [(one, number) for number in numbers for one in sets]

    def _work(self) -> None:
        """Pass through all shares side by side."""

        def next_of(share: Share) -> Any:
            if not share.left:
                return None
            one, number = share.left[0]
            return share.actor.invocation.remote(one, number, f"({len(share.left)} to go)")

        asked = {future: share for share in self.shares if (future := next_of(share)) is not None}
        with bar(sum(len(share.left) for share in self.shares), "measuring") as shown:
            for share, records in self._answers(asked, again=next_of):
                one, _ = share.left.pop(0)
                self._take(zip(one.members, records, strict=True))
                shown.update()

    def _answers(self, asked: dict[Any, Share], again: Callable[[Share], Any]) -> Iterator[tuple[Share, Any]]:
        """Yield what the stations answer, those that do not die; ``again`` asks one that has answered once more."""
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
                if (following := again(share)) is not None:
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
            empty = record.ok and not record.invocations
            self.records[rival] = record if empty else self.store.keep(record)

    def _to_try_again(self) -> list[Rival]:
        lost, self.lost = self.lost, []
        given_up = [rival for rival in lost if self.tries[rival] >= TRIES]
        for rival in given_up:
            failed = empty_record(rival, self.profile, self.run, "failed", f"its station died, {TRIES} times")
            begun = self.records.get(rival)
            if begun:  # it names the machine, which is not this one
                failed = failed.model_copy(update={"machine": begun.machine})
            if begun and begun.invocations:  # not all of them, so no row that is to be protected
                self.store.write(failed)
                self.records[rival] = failed
            else:
                self.records[rival] = self.store.keep(failed)
        return [rival for rival in lost if rival not in given_up]


def _cost(rivals: Iterable[Rival]) -> float:
    """Return how long rivals take, roughly: a start each, and a large batch as long again."""
    return sum(1 + rival.workload.batch_size / 256 for rival in rivals)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
    except ImportError as error:
        raise CourseError("Ray is not installed; run `pip install -c constraints.txt -e .[serve]`") from error
    _check_answers(address)
    try:
        ray.init(
            address=address or None,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise CourseError(NO_CLUSTER.format(address)) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise CourseError where nobody listens at ``HOST:PORT``: Ray itself would try for four minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_LIMIT_S).close()
    except OSError as error:
        raise CourseError(NO_CLUSTER.format(address)) from error


def _places(ray: Any, kind: str) -> Sequence[tuple[str, Callable[..., Any]]]:
    """Return a name, and what starts a station there, for every GPU of the cluster, or every host for a CPU's grid."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    found = []
    for node in (node for node in ray.nodes() if node["Alive"]):
        stay = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        cores, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
        count, device = (gpus, 1) if kind == "cuda" else (1, 0)
        need = {"num_gpus": device, "num_cpus": max(1, cores // max(1, count))}  # its share: as many threads, too
        actor = ray.remote(Station).options(scheduling_strategy=stay, max_restarts=0, **need)
        name = f"{node['NodeManagerAddress']}-{node['NodeID'][:4]}"
        found += [(f"{name}-{index}", partial(actor.remote, (index, count))) for index in range(count)]
    if not found:
        raise CourseError(f"the cluster has no {kind} device; add a node that has one")
    return found
