"""Numbers for sentences: each is computed from records, and says so where there is none."""

from collections.abc import Callable, Sequence

from inference_lib.records.comparison import compare
from inference_lib.records.record import Kind, Record

NOT_MEASURED = "(not measured)"

TIMES_FROM = 1.15
"""A smaller ratio is told in percent: rounded to "1.0 times", it would say nothing."""


def number(records: Sequence[Record], read: Callable[[Record], float | None], form: str = "{:.2f}") -> str:
    """Return ``read`` of the one record, formatted."""
    value = read(records[0]) if len(records) == 1 else None
    return NOT_MEASURED if value is None else form.format(value)


def times_faster(slow: Sequence[Record], fast: Sequence[Record], kind: Kind = "end_to_end") -> str:
    """Return how the one record ``fast`` compares with ``slow``, end to end or on the ``device``.

    ``2.1 times faster``, ``1.3 times slower``, ``4 % slower``, ``about as fast``, or ``not clearly faster or slower``
    where the uncertainty of the two leaves it open. From fewer than three invocations, only the ratio is told.
    """
    if len(slow) != 1 or len(fast) != 1 or not (slow[0].latency and fast[0].latency):
        return NOT_MEASURED
    if kind == "device" and not (slow[0].latency.device and fast[0].latency.device):
        return NOT_MEASURED
    found = compare(slow[0], fast[0], kind)
    if found.low is None:
        return f"{found.ratio:.2f} times as fast here (too few invocations for a verdict)"
    if found.verdict in ("faster", "slower"):
        return f"{_times(max(found.ratio, 1 / found.ratio))} {found.verdict}"
    return {"same": "about as fast", "cannot tell": "not clearly faster or slower"}[found.verdict]


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio >= TIMES_FROM else f"{(ratio - 1) * 100:.0f} %"


def machines(records: Sequence[Record]) -> str:
    """Return the names of the machines that ``records`` come from."""
    return ", ".join(dict.fromkeys(r.machine.name(r.device) for r in records)) or NOT_MEASURED


def verdict(records: Sequence[Record], model: str) -> str:
    """Say whether every measured export of ``model`` still is the model."""
    mine = [r for r in records if r.model == model and r.status in ("ok", "failed")]
    broken = sorted({f"{r.title} {r.precision}: {r.reason}" for r in mine if not r.ok})
    if broken:
        return "; ".join(broken)
    return "every export agrees with the reference" if mine else NOT_MEASURED
