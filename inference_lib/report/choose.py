"""Which framework, precision and batch size to use: a pure function over records, with a reason for every refusal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from inference_lib.backends import SERVED_WITHOUT_PYTHON
from inference_lib.records.comparison import compare, verdict_of
from inference_lib.records.record import Record
from inference_lib.records.statistics import Interval
from inference_lib.records.store import select_all
from inference_lib.report.flat import flat_row
from inference_lib.seam import PRECISIONS
from inference_lib.support.errors import CourseError, unknown_name

Goal = Literal["latency", "throughput"]
GOALS: tuple[Goal, ...] = get_args(Goal)


@dataclass(frozen=True)
class Choice:
    """What the records say about one request."""

    ranked: tuple[Record, ...]
    """Every record that meets the request, the best first."""
    excluded: tuple[tuple[Record, str], ...]
    """Every record that does not, and why."""

    @property
    def best(self) -> Record | None:
        """The record to choose, None if none meets the request."""
        return self.ranked[0] if self.ranked else None


def choose(
    records: Iterable[Record],
    model: str,
    max_p99_ms: float | None = None,
    min_accuracy_percent: float | None = None,
    max_memory_mib: float | None = None,
    max_p50_ms: float | None = None,
    goal: Goal = "latency",
    without_python: bool = False,
    allow_int8: bool = False,
) -> Choice:
    """Return the record of ``model`` that serves ``goal`` best within the limits.

    ``latency`` wants the shortest median, ``throughput`` the most images per second over a long run. Both are end
    to end, copies included, so a caller of ``Runner.infer`` gets what was chosen. ``max_p50_ms`` limits
    the median batch, ``max_p99_ms`` 99 of 100 batches; a p99 exists only where there are samples
    enough for one. A limit on something that was not measured excludes. ``without_python`` wants an artifact
    that a program without Python can load. Rows in INT8 and FP8 are another trade: accuracy for speed, so they are
    left out unless ``allow_int8``.
    """
    records = list(records)
    if records and model not in {record.model for record in records}:
        raise unknown_name("model", model, sorted({record.model for record in records}))
    if goal not in GOALS:
        raise unknown_name("goal", goal, GOALS)
    kept, excluded = [], []
    for record in select_all(records, model=model):
        row = flat_row(record)
        reasons = [
            not_measured(record),
            _beyond("median latency", row["latency_p50_ms"], max_p50_ms, "ms"),
            _beyond("p99 latency", row["latency_p99_ms"], max_p99_ms, "ms"),
            _beyond("accuracy", row["accuracy_percent"], min_accuracy_percent, "%", least=True),
            _beyond("GPU memory", row["gpu_memory_mib"], max_memory_mib, "MiB"),
            "needs Python to run" if without_python and record.backend not in SERVED_WITHOUT_PYTHON else "",
            "" if allow_int8 or not PRECISIONS[record.precision].calibrated else "calibrated; --allow-int8 lets it in",
        ]
        broken = reasons[0] or "; ".join(filter(None, reasons))
        if broken:
            excluded.append((record, broken))
        else:
            kept.append(record)
    key = latency_ms if goal == "latency" else lambda r: -images_per_s(r)
    return Choice(tuple(sorted(kept, key=key)), tuple(excluded))


def pareto_front(records: Iterable[Record]) -> list[Record]:
    """Return the measured records that no other beats in both latency and images per second.

    The quickest comes first. Whatever median latency is allowed, the most productive record is on this front.
    """
    measured = [r for r in records if r.ok and r.latency]
    front: list[Record] = []
    for record in sorted(measured, key=lambda r: (latency_ms(r), -images_per_s(r))):
        if not front or images_per_s(record) > images_per_s(front[-1]):
            front.append(record)
    return front


def quickest(records: Sequence[Record]) -> Record:
    """Return the measured record with the shortest median end-to-end latency."""
    measured = [r for r in records if r.ok and r.latency]
    if not measured:
        raise CourseError("no measured record to choose from; run a framework chapter first")
    return min(measured, key=latency_ms)


def level_with(best: Record, records: Iterable[Record], goal: Goal = "latency") -> list[Record]:
    """Return the measured records that are not clearly worse than ``best``, without itself: ties within the noise."""
    others = (record for record in records if record.ok and record.latency and record is not best)
    return [record for record in others if is_level(best, record, goal)]


def is_level(best: Record, record: Record, goal: Goal = "latency") -> bool:
    """Whether ``record`` is not clearly worse than ``best``; from too few invocations nothing can be told: False."""
    beside = advantage(best, record, goal)
    return beside.low is not None and verdict_of(beside) != "slower"


def advantage(baseline: Record, record: Record, goal: Goal) -> Interval:
    """Return how much better ``record`` serves ``goal`` than ``baseline``: a ratio of times or of images a second."""
    found = compare(baseline, record)
    scale = record.batch_size / baseline.batch_size if goal == "throughput" else 1.0
    ends = (None if end is None else end * scale for end in (found.low, found.high))
    return Interval(found.ratio * scale, *ends)


def places(ranked: Sequence[Record], goal: Goal) -> list[int]:
    """Return the place of each of the ``ranked`` records, from 1; a tie shares the place of the best row in it.

    A row is tied with that best row unless it is clearly worse. To be level with another row of the tie is not enough:
    a noisy row is level with many, and through it the quickest would share a place with rows of ten times its time.
    From too few invocations nothing can be told, and the order is all there is.
    """
    found: list[int] = []
    for number, record in enumerate(ranked):
        first = (place for place in dict.fromkeys(found) if is_level(ranked[place - 1], record, goal))
        found.append(next(first, number + 1))
    return found


def seconds_to_first_answer(record: Record) -> float | None:
    """Return what a record's first answer costs: export, load, and the first inference; None if one was not timed."""
    return record.build.start_s if record.build else None


def break_even(record: Record, baseline: Record) -> float | None:
    """Return after how many inferences ``record`` is ahead of ``baseline`` for good, None for never or unknown.

    Everything counts: export, load, first inference, then one median latency an inference.
    """
    costs = (seconds_to_first_answer(record), seconds_to_first_answer(baseline))
    saved_s = (latency_ms(baseline) - latency_ms(record)) / 1e3
    if saved_s <= 0 or costs[0] is None or costs[1] is None:
        return None
    return max(0.0, (costs[0] - costs[1]) / saved_s)


def latency_ms(record: Record) -> float:
    """Return the median end-to-end latency of a measured record."""
    assert record.latency is not None
    return record.latency.end_to_end.p50


def images_per_s(record: Record) -> float:
    """Return images per second that one caller of a measured record gets over a long run, end to end.

    Batch size over the mean inference. ``Record.fps`` is the rate of the median one, and higher where some are slow.
    """
    return record.batch_size / float(np.mean([invocation.quantiles for invocation in record.invocations])) * 1e3


def not_measured(record: Record) -> str:
    """Return why a record cannot be ranked, empty if it can."""
    return record.why_not or ("" if record.invocations else "latency was not measured")


def _beyond(what: str, value: float | None, limit: float | None, unit: str, *, least: bool = False) -> str:
    """Return in which way a value breaks its limit, the most that is allowed or the ``least``; empty if it does not."""
    if limit is None or (value is not None and (value >= limit if least else value <= limit)):
        return ""
    if value is None:
        return f"{what} was not measured"
    return f"{what} {value:,.5g} {unit}, {'less' if least else 'more'} than {limit:,g} {unit}"
