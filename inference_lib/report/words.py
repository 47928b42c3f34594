"""Numbers and claims for sentences: each is computed from records, and says so where there is none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inference_lib.records.comparison import Comparison, compare
from inference_lib.records.record import Kind, Record
from inference_lib.records.replication import contradicted_percent
from inference_lib.records.statistics import LEAST_INVOCATIONS
from inference_lib.report.choose import Goal, level_with
from inference_lib.seam import PRECISIONS

NOT_MEASURED = "(not measured)"

TOO_FEW = "(too few invocations for a verdict)"

TIMES_FROM = 1.15
"""A smaller ratio is told in percent: rounded to "1.0 times", it would say nothing."""


def number(records: Sequence[Record], read: Callable[[Record], float | None], form: str = "{:.2f}") -> str:
    """Return ``read`` of the one record, formatted."""
    value = read(records[0]) if len(records) == 1 else None
    return NOT_MEASURED if value is None else form.format(value)


def times_faster(slow: Sequence[Record], fast: Sequence[Record], kind: Kind = "end_to_end") -> str:
    """Return how the one record ``fast`` compares with ``slow``, end to end or on the ``device``.

    ``2.1 times faster``, ``1.3 times slower``, ``4 % slower``, ``about as fast``, or ``not clearly faster or slower``
    where the uncertainty of the two leaves it open. From fewer than three invocations, only the ratio is told. Records
    of two machines are not compared.
    """
    if len(slow) != 1 or len(fast) != 1 or not (slow[0].latency and fast[0].latency):
        return NOT_MEASURED
    if slow[0].machine.name("cpu") != fast[0].machine.name("cpu"):
        return NOT_MEASURED
    if kind == "device" and not (slow[0].latency.device and fast[0].latency.device):
        return NOT_MEASURED
    found = compare(slow[0], fast[0], kind)
    if found.low is None:
        return f"{found.ratio:.2f} times as fast here {TOO_FEW}"
    return _claim(found) or "not clearly faster or slower"


def by_batch(claims: Mapping[int, str]) -> str:
    """Return a clause of a claim for each batch size: ``about as fast at batch 1 and 8``."""
    sizes: dict[str, list[str]] = {}
    for size, claim in claims.items():
        sizes.setdefault(claim, []).append(str(size))
    return " and ".join(f"{claim} at batch {' and '.join(among)}" for claim, among in sizes.items())


def once(said: str) -> str:
    """Return a sentence in which a caveat that several of its claims share stands once, at the end."""
    return f"{said.replace(f' {TOO_FEW}', '')} {TOO_FEW}" if TOO_FEW in said else said


def against(baseline: Record, record: Record, kind: Kind = "end_to_end") -> str:
    """Return how ``record`` compares with ``baseline``, for a cell of a table: a ratio above 1 is faster.

    ``2.1 times faster``, ``about as fast``, ``cannot tell (1.04)``; from too few invocations the ratio: ``1.04``.
    """
    found = compare(baseline, record, kind)
    if found.low is None:
        return f"{found.ratio:.2f}"
    return _claim(found) or f"cannot tell ({found.ratio:.2f})"


def _claim(found: Comparison) -> str:
    """Return what the verdict claims, nothing where it claims nothing."""
    if found.verdict in ("faster", "slower"):
        ratio = max(found.ratio, 1 / found.ratio)
        much = f"{ratio:.1f} times" if ratio >= TIMES_FROM else f"{(ratio - 1) * 100:.0f} %"
        return f"{much} {found.verdict}"
    return "about as fast" if found.verdict == "same" else ""


def label(record: Record) -> str:
    """Return what a row is called: its framework and precision."""
    return f"{record.title} {PRECISIONS[record.precision].title}"


def tied(best: Record, records: Sequence[Record], goal: Goal = "latency") -> str:
    """Name the ``records`` that do not serve ``goal`` clearly worse than ``best``, with their batch size if another."""
    if len(best.invocations) < LEAST_INVOCATIONS:
        return TOO_FEW
    level = level_with(best, records, goal)
    sizes = ["" if r.batch_size == best.batch_size else f" (batch {r.batch_size})" for r in level]
    return ", ".join(f"{label(record)}{size}" for record, size in zip(level, sizes, strict=True)) or "nothing else"


def held(counts: Mapping[str, Any]) -> str:
    """Return how the claims of one run fared in another, from a summary of records.replication."""
    claims, wrong, compatible = counts["claims"], counts["contradicted"], counts["compatible_percent"]
    if not claims or compatible is None:
        return f"of {counts['pairs']:,} pairs of rows, none is claimed to be faster or slower"
    return (
        f"of {counts['pairs']:,} pairs of rows, the first run calls {claims:,} faster or slower; the second run "
        f"contradicts {wrong:,} of these claims ({contradicted_percent(counts):.1f} %) and does not confirm "
        f"{counts['not_confirmed'] - wrong:,} more; {compatible:.0f} of 100 ratios agree within their intervals"
    )


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
