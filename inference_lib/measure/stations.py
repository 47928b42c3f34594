"""The stations of a Ray cluster, started before anything else: they import while the process that started them does.

A station is one GPU with its share of the host's cores, or one host. This module imports nothing that takes long, and
a station starts what its workers are forked from before it imports PyTorch itself: seen, half a minute before the first
export, one after the other.
See https://docs.ray.io/en/releases-2.60.0/ray-core/actors.html.
"""

import importlib
import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from inference_lib.measure.beside import import_beside
from inference_lib.support.cores import cores_of, keep_to
from inference_lib.support.errors import CourseError

if TYPE_CHECKING:
    from inference_lib.measure.benchmark import Session
    from inference_lib.measure.plan import Rival, RivalSet
    from inference_lib.records.record import Key, Record

CONNECT_LIMIT_S = 10.0

NO_CLUSTER = "no Ray cluster answers at {}; start one with `ray start --head`"


class Memory:
    """The records of a station: the head writes what it finds, and Ray ends it too quickly to tidy a folder up."""

    def __init__(self, records: "Iterable[Record]") -> None:
        self._records = {record.key: record for record in records}

    def find(self, key: "Key") -> "Record | None":
        """Return the record of this key, or None."""
        return self._records.get(key)

    def keep(self, record: "Record", whole: int) -> None:
        """Remember one record, whatever was there."""
        self._records[record.key] = record


class Station:
    """What runs beside a GPU: a session of its own. Public methods are what the cluster's head asks for."""

    def __init__(self, name: str, place: tuple[int, int], lines: Any) -> None:
        """Begin as ``name`` at ``place``, the so-manieth of so many on this host; put what is said into ``lines``."""
        keep_to(cores_of(*place))  # so that no station disturbs another
        sys.modules["__main__"] = ModuleType("__main__")  # or each worker would import the script of Ray's, and Ray
        import_beside()
        self._session: Session | None = None
        self._say = lambda line: lines.put(f"{name}: {line}")

    def begin(self) -> None:
        """Import what measures."""
        importlib.import_module("inference_lib.measure.benchmark")

    def prepare(
        self, rivals: "Sequence[Rival]", known: "Sequence[Record]", options: dict[str, Any]
    ) -> "tuple[list[Record], list[RivalSet]]":
        """Export what ``rivals`` lack; return what is known of them, and the sets to measure.

        The first time, a session with these ``options`` begins, to which the ``known`` records are known.
        """
        if self._session is None:
            from inference_lib.measure.benchmark import Session

            self._session = Session(store=Memory(known), progress=self._say, **options)
        sets = self._session.prepare(rivals)
        return [self._session.records[rival] for rival in rivals], sets

    def invocation(self, one: "RivalSet", number: int, place: str) -> "list[Record]":
        """Run one invocation of a set that was prepared; return the records of its members."""
        assert self._session is not None
        self._session.invocation(one, number, place)
        return [self._session.records[rival] for rival in one.members]


@dataclass
class Stations:
    """The stations of a cluster, by name, and what they say."""

    ray: Any
    actors: dict[str, Any]
    lines: Any

    def said(self) -> list[str]:
        """Return the lines since the last call."""
        return self.lines.get_nowait_batch(self.lines.qsize())


@contextmanager
def stations(address: str, kind: str) -> Iterator[Stations]:
    """Start a station for each device of ``kind`` on the cluster at ``address`` (empty: one is started on this host).

    Raise CourseError where Ray is not installed, there is no cluster, or it has no such device.
    """
    with _connected(address) as ray:
        from ray.util.queue import Queue

        lines = Queue(actor_options={"num_cpus": 0})
        yield Stations(ray, _started(ray, kind, lines), lines)


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


def _started(ray: Any, kind: str, lines: Any) -> dict[str, Any]:
    """Start a station for every GPU of the cluster, or for every host where a CPU is measured."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    found = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        stay = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        cores, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
        count, device = (gpus, 1) if kind == "cuda" else (1, 0)
        need = {"num_gpus": device, "num_cpus": max(1, cores // max(1, count))}  # its share: as many threads, too
        actor = ray.remote(Station).options(scheduling_strategy=stay, max_restarts=0, **need)
        for index in range(count):
            name = f"{node['NodeManagerAddress']}-{node['NodeID'][:4]}-{index}"
            found[name] = actor.remote(name, (index, count), lines)
    if not found:
        raise CourseError(f"the cluster has no {kind} device; add a node that has one")
    begun = [actor.__ray_ready__.remote() for actor in found.values()]
    ray.wait(begun, num_returns=len(begun), timeout=CONNECT_LIMIT_S)  # seen: 4 s longer beside imports
    for actor in found.values():
        actor.begin.remote()
    return found
