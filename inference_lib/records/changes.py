"""Two measurements of the same cells, before and after a change: what got faster, what got slower, what was lost."""

from collections.abc import Iterable
from typing import Any

from inference_lib.records.comparison import compare
from inference_lib.records.record import Record
from inference_lib.records.replication import cell

WORSE = ("slower", "lost")
"""Verdicts of a change that should not pass."""


def changes(before: Iterable[Record], after: Iterable[Record]) -> list[dict[str, Any]]:
    """Return a row for each cell that was measured before and tried after on the same kind of machine.

    Its ``ratio``, with the ends of its interval, is above 1 where the cell got faster; its ``verdict`` is ``slower``
    only where the intervals of the two medians leave no other way, and ``lost`` where it was not measured after.
    ``host`` is how much quicker the host was after, by the fixed piece of work in every round; None: unknown.

    The two are different lives of their processes, whatever their runs and sets are called: medians are compared, and
    no rounds.
    """
    tried = {_place(record): record for record in after}
    measured = [record for record in before if record.ok and record.invocations and _place(record) in tried]
    return [_change(record, tried[_place(record)]) for record in measured]


def _place(record: Record) -> tuple[str, ...]:
    return record.machine.name(record.device), *cell(record)


def _change(before: Record, after: Record) -> dict[str, Any]:
    names = ("backend", "model", "precision", "batch_size", "device")
    lives = before.model_copy(update={"run": "before"}), after.model_copy(update={"run": "after"})
    found = compare(*lives) if after.ok and after.invocations else None
    times = [record.latency.end_to_end.p50 if record.latency else None for record in lives]
    paces = (before.host_pace_ms, after.host_pace_ms)
    return {name: getattr(before, name) for name in names} | {
        "before_ms": times[0],
        "after_ms": times[1],
        **{name: getattr(found, name, None) for name in ("ratio", "low", "high")},
        "host": paces[0] / paces[1] if paces[0] and paces[1] else None,
        "verdict": found.verdict if found else "lost",
        "note": after.why_not,
    }
