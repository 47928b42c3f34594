"""Did the claims hold? Two runs of one grid, every pair of rivals compared in both.

Two ratios are compatible where their logarithms differ by no more than the root of the summed squares of their 95 %
half widths. That is wider than a 95 % interval of the difference would be: see :func:`honest_percent`.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from scipy import special  # scipy.stats takes a second to import

from inference_lib.records.comparison import Comparison, compare
from inference_lib.records.record import Kind, Record
from inference_lib.records.statistics import CONFIDENCE, LEAST_INVOCATIONS

WORST = 10
"""Pairs that a report lists by name."""

MOST_CONTRADICTED = 2.0
"""Percent of the first run's claims that the second may contradict, where nobody asks for another limit."""


@dataclass(frozen=True)
class Pair:
    """Two rivals, compared in both runs."""

    baseline: Record
    candidate: Record
    first: Comparison
    second: Comparison

    @property
    def name(self) -> str:
        """Which two, and at what."""
        a, b = self.baseline, self.candidate
        return f"{b.backend} {b.precision} / {a.backend} {a.precision}, {a.model} batch {a.batch_size} on {a.device}"

    @property
    def claimed(self) -> bool:
        """Whether the first run says faster or slower."""
        return self.first.verdict in ("faster", "slower")

    @property
    def contradicted(self) -> bool:
        """Whether the second run says the opposite of what the first claims."""
        return {self.first.verdict, self.second.verdict} == {"faster", "slower"}

    @property
    def confirmed(self) -> bool:
        """Whether the second run says the same as the first claims."""
        return self.claimed and self.first.verdict == self.second.verdict

    @property
    def distance(self) -> float | None:
        """How far apart the ratios are, in units of what their intervals allow; None where one has no interval."""
        one, other = self.first.log_half_width, self.second.log_half_width
        if one is None or other is None:
            return None
        allowed = math.hypot(one, other)
        return abs(math.log(self.first.ratio / self.second.ratio)) / max(allowed, 1e-12)

    @property
    def compatible(self) -> bool | None:
        """Whether the ratios differ by no more than their combined intervals."""
        return None if self.distance is None else self.distance <= 1


def honest_percent(invocations: int = LEAST_INVOCATIONS) -> float:
    """Return how many of 100 pairs are compatible if every interval, of so many invocations, holds what it promises.

    Student's t is long for few invocations. The difference of two ratios has twice the degrees of freedom, where both
    runs scatter alike, and a shorter t, but the two half widths that it is held against have the long one. Where one
    run scatters far more than the other its interval alone decides, and it is the intervals' own 95.
    """
    degrees = invocations - 1
    reach = special.stdtrit(degrees, 0.5 + CONFIDENCE / 2)
    return 100 * float(2 * special.stdtr(2 * degrees, reach) - 1)


def cell(record: Record) -> tuple[str, ...]:
    """Return what one cell is called in every run, whatever the machine's name: hosts of one card differ."""
    return (record.profile, record.backend, record.model, record.device, record.precision, str(record.batch_size))


def pairs(first: Iterable[Record], second: Iterable[Record], kind: Kind) -> list[Pair]:
    """Return every pair of rivals that both runs measured, once, the baseline before the candidate in name order."""
    mine, theirs = _measured(first, kind), _measured(second, kind)
    found = []
    for a, b in itertools.combinations(sorted(mine.keys() & theirs.keys()), 2):
        if all(run[a].rivals and _set_of(run[a]) == _set_of(run[b]) for run in (mine, theirs)):
            runs = (compare(mine[a], mine[b], kind), compare(theirs[a], theirs[b], kind))
            found.append(Pair(mine[a], mine[b], *runs))
    return found


def _set_of(record: Record) -> tuple[str, str]:
    return record.profile, record.rivals


def _measured(records: Iterable[Record], kind: Kind) -> dict[tuple[str, ...], Record]:
    return {cell(r): r for r in records if r.ok and r.invocations and all(i.of(kind) for i in r.invocations)}


def summary(found: Sequence[Pair]) -> dict[str, Any]:
    """Return the counts of ``found`` under the keys of ``replicate --format json``."""
    claims = [pair for pair in found if pair.claimed]
    told = [pair for pair in found if pair.compatible is not None]
    worst = sorted(told, key=lambda pair: -(pair.distance or 0))[:WORST]
    return {
        "pairs": len(found),
        "claims": len(claims),
        "contradicted": sum(pair.contradicted for pair in claims),
        "not_confirmed": sum(not pair.confirmed for pair in claims),
        "compatible_percent": 100 * sum(bool(pair.compatible) for pair in told) / len(told) if told else None,
        "worst": [
            {"pair": pair.name, "first": round(pair.first.ratio, 4), "second": round(pair.second.ratio, 4)}
            | {"first_verdict": pair.first.verdict, "second_verdict": pair.second.verdict}
            for pair in worst
        ],
    }


def contradicted_percent(counts: Mapping[str, Any]) -> float:
    """Return how many of 100 claims the second run contradicts, from the counts of :func:`summary`; 0 of none."""
    return 100 * counts["contradicted"] / max(1, counts["claims"])


def replication(first: Sequence[Record], second: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Return the summaries of both kinds of time."""
    return {kind: summary(pairs(first, second, kind)) for kind in get_args(Kind)}
