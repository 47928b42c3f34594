"""Faster, slower, the same, or cannot tell: what two records allow to say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from inference_lib.records.record import Carried, Key, Kind, Record
from inference_lib.records.statistics import Interval, log_ratios, over_invocations

Verdict = Literal["faster", "slower", "same", "cannot tell"]

SAME_WITHIN = 0.015
"""Medians of the same captured graph differ by about a percent from process to process: less is no difference."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Interval):
    """How much faster one record is than another: the ratio, its 95 % interval if there is one, what that allows."""

    verdict: Verdict
    paired: bool
    """Whether the two took turns: their ratio is then that within a round, in which the host was the same."""

    @property
    def ratio(self) -> float:
        """The estimate."""
        return self.value


def compare(baseline: Record, candidate: Record, kind: Kind = "end_to_end") -> Comparison:
    """Compare two measured records; a ratio above 1 means that ``candidate`` is faster.

    Rivals of one set are compared within their rounds, and so is a row with one that its set carried along. Sets are
    compared through a row that both have. What has nothing in common is compared by its medians. Where two intervals
    are combined, they add up as the legs of a right triangle do. A win is claimed only where the whole interval lies
    beyond ``SAME_WITHIN``.
    """
    rounds = _rounds(baseline, candidate, kind)
    if rounds:
        found = over_invocations(rounds)
    else:
        found = _through_carried(baseline, candidate, kind) or _divided(baseline.median(kind), candidate.median(kind))
    return Comparison(found.value, found.low, found.high, verdict=verdict_of(found), paired=bool(rounds))


def _rounds(baseline: Record, candidate: Record, kind: Kind) -> list[list[float]]:
    """Return the logarithm of the ratio in every round that both took part in, a list an invocation."""
    if _same_set(baseline, candidate):
        return _in_rounds(baseline, _of_the_same_lives(baseline, candidate), kind)
    if _place(baseline) != _place(candidate):
        return []
    carried = {i.number: i.carried[baseline.backend] for i in candidate.invocations if baseline.backend in i.carried}
    if carried:
        return [[-log for log in logs] for logs in _in_rounds(candidate, carried, kind)]
    carried = {i.number: i.carried[candidate.backend] for i in baseline.invocations if candidate.backend in i.carried}
    return _in_rounds(baseline, carried, kind)


def _same_set(one: Record, other: Record) -> bool:
    names = [(r.rivals, r.run, r.profile, r.machine.name(r.device)) for r in (one, other)]
    return bool(one.rivals) and names[0] == names[1]


def _of_the_same_lives(one: Record, other: Record) -> dict[int, Carried]:
    """Return the invocations of ``other`` in which ``one`` took turns with it, by number.

    A set that is measured again has the same name. What tells its lives apart is the host's pace in each round, which
    is timed once for all rivals.
    """
    paces = {i.number: i.pace_ms for i in one.invocations}
    return {i.number: i for i in other.invocations if paces.get(i.number) == i.pace_ms}


def _place(record: Record) -> Key:
    """Return the record's key without the backend: carried rows are rows of this place."""
    return record.key._replace(backend="")


def _in_rounds(record: Record, others: Mapping[int, Carried], kind: Kind) -> list[list[float]]:
    """Return log(record / other) in each round of each invocation that both have."""
    return [
        log_ratios(invocation.of(kind), other)
        for invocation in record.invocations
        if invocation.number in others and (other := others[invocation.number].of(kind))
    ]


def _through_carried(baseline: Record, candidate: Record, kind: Kind) -> Interval | None:
    """Compare two sets through a row that went along with both, the quietest if there are several."""
    if _place(baseline) != _place(candidate):
        return None
    ways = []
    for name in sorted(_carried_by(baseline) & _carried_by(candidate)):
        legs = []
        for record in (baseline, candidate):
            rows = {i.number: i.carried[name] for i in record.invocations if name in i.carried}
            legs.append(_in_rounds(record, rows, kind))
        if all(legs):
            ways.append(_divided(*map(over_invocations, legs)))
    return min(ways, key=lambda way: way.log_half_width or math.inf) if ways else None


def _carried_by(record: Record) -> set[str]:
    return {name for invocation in record.invocations for name in invocation.carried}


def _divided(slow: Interval, fast: Interval) -> Interval:
    """Return the ratio of two estimates that share nothing."""
    ratio = slow.value / fast.value
    if slow.log_half_width is None or fast.log_half_width is None:
        return Interval(ratio)
    half = math.hypot(slow.log_half_width, fast.log_half_width)
    return Interval(ratio, ratio * math.exp(-half), ratio * math.exp(half))


def verdict_of(ratio: Interval) -> Verdict:
    """Say what the interval of a ratio allows."""
    more, less = 1 + SAME_WITHIN, 1 / (1 + SAME_WITHIN)
    if ratio.low is None or ratio.high is None:
        return "cannot tell"
    if ratio.low > more:
        return "faster"
    if ratio.high < less:
        return "slower"
    return "same" if less <= ratio.low and ratio.high <= more else "cannot tell"
