"""Two measurements of the same cells, before and after a change: what got faster, what got slower, what was lost."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from inference_lib.records.comparison import Comparison, compare
from inference_lib.records.record import Record
from inference_lib.records.replication import cell


@dataclass(frozen=True)
class Change:
    """One cell, measured before; ``found`` is above 1 where it got faster, None where it was not measured after."""

    before: Record
    after: Record
    found: Comparison | None

    @property
    def verdict(self) -> Literal["faster", "slower", "same", "cannot tell", "lost"]:
        """What may be said: ``slower`` only where the intervals of the two medians leave no other way."""
        return self.found.verdict if self.found else "lost"

    @property
    def is_worse(self) -> bool:
        """Whether a change that did this should not pass."""
        return self.verdict in ("slower", "lost")

    @property
    def host(self) -> float | None:
        """How much quicker the host was after, by the fixed piece of work in every round; None: unknown."""
        paces = (self.before.host_pace_ms, self.after.host_pace_ms)
        return paces[0] / paces[1] if paces[0] and paces[1] else None


def changes(before: Iterable[Record], after: Iterable[Record]) -> list[Change]:
    """Return a change for each cell that was measured before and tried after on the same kind of machine.

    The two are different lives of their processes, whatever their runs and sets are called: medians are compared, and
    no rounds.
    """
    tried = {_place(record): record.model_copy(update={"run": "after"}) for record in after}
    found = []
    for record in before:
        mine, other = record.model_copy(update={"run": "before"}), tried.get(_place(record))
        if mine.invocations and mine.ok and other is not None:
            measured = other.ok and other.invocations
            found.append(Change(mine, other, compare(mine, other) if measured else None))
    return found


def _place(record: Record) -> tuple[str, ...]:
    return record.machine.name(record.device), *cell(record)
