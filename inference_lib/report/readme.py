"""The results in the README: written by ``publish`` from the published records, never by hand."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from inference_lib.records.comparison import compare
from inference_lib.records.record import Record
from inference_lib.records.replication import honest_percent
from inference_lib.records.runs import runs_of
from inference_lib.records.statistics import LEAST_INVOCATIONS
from inference_lib.records.store import select, select_all
from inference_lib.report.choose import Goal, choose, images_per_s, latency_ms
from inference_lib.report.layout import text_table
from inference_lib.report.opening import opening, plain_loop, svg
from inference_lib.report.plots import provenance
from inference_lib.report.tables import ends, measured_by_other_code, measured_twice, replicated, replication_counts
from inference_lib.report.words import label, tied
from inference_lib.seam import PRECISIONS
from inference_lib.support.files import write_atomically

FIGURE = Path("book/_static/opening.svg")
"""The README's figure, beside it."""

BLOCK = re.compile(r"(<!-- (?P<name>figure|results) -->\n).*?(<!-- /(?P=name) -->)", re.DOTALL)
"""The parts of a README that ``publish`` writes, each between two comments with its name."""

AGAINST, TIED = "against the loop at this batch", "not clearly behind it"
"""Columns of the results."""

ONE_RUN = "This edition holds one run of the grid, so no second one has checked its claims."

TWO_RUNS = (
    "A second run measured {}{}. A pair is two of these that answer the same question; for a claim, the first run says "
    "that one of them is faster. The second run contradicts so many claims, and does not confirm so many. Ratios are "
    "compatible where they differ by no more than both intervals together allow. If all intervals, of {} starts each, "
    "are honest, {:.1f} of 100 are where both runs scatter alike, and at least 95."
)


def results(records: Sequence[Record]) -> str:
    """Return the README's results: a small table a model, what the grid lacks, and how its claims held."""
    gpu = select_all(records, device="cuda", run=runs_of(records)[:1])
    measured = select(gpu)
    if not measured:
        return "Nothing published yet."
    models = dict.fromkeys(record.model for record in measured)
    best = [f"**{model}**\n\n{text_table(best_rows(measured, model), 'pipe')}" for model in models]
    parts = [provenance(measured), *best, *absent(gpu)]
    held = replicated(records)
    if held is None:
        return "\n\n".join([*parts, ONE_RUN])
    later = measured_by_other_code(records)
    code = f", {later} of them with other code or versions than the first" if later else ""
    starts = max(LEAST_INVOCATIONS, min(len(record.invocations) for record in measured))
    said = TWO_RUNS.format(measured_twice(records), code, starts, honest_percent(starts))
    return "\n\n".join([*parts, said, text_table(replication_counts(held), "pipe")])


def best_rows(records: Sequence[Record], model: str) -> pd.DataFrame:
    """Return rows of ``model``: the plain loop (PyTorch eager, one picture), the quickest, the most productive.

    The others are what :func:`choose` takes for latency and for throughput, of any batch size; the most productive row
    in eight bits follows, where there is one. Each is held against the loop at its own batch size: against one picture,
    most of its gain would be the batch's. Times are medians of a batch end to end with their 95 % intervals; images per
    second are those of one caller who waits, over a long run.
    """
    mine = select(records, model=model)
    loop = plain_loop(select(mine, batch_size=1))
    rows = [_row("the plain loop", loop)] if loop else []
    eight = [record for record in mine if PRECISIONS[record.precision].calibrated]
    wanted: list[tuple[str, Goal, Sequence[Record]]] = [
        ("quickest", "latency", records),
        ("most productive", "throughput", records),
        ("in eight bits", "throughput", eight),
    ]
    for what, goal, among in wanted:
        if ranked := choose(among, model, goal=goal, allow_int8=among is eight).ranked:
            best = ranked[0]
            beside = plain_loop(select(mine, batch_size=best.batch_size))
            gain = _gain(beside, best) if beside and beside is not best else None
            rows.append(_row(what, best) | {AGAINST: gain, TIED: tied(best, ranked[1:], goal)})
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def _row(what: str, record: Record) -> dict[str, object]:
    return {
        "": what,
        "row": label(record),
        "batch": record.batch_size,
        "ms a batch": _time(record),
        "images/s": f"{images_per_s(record):,.0f}",
    }


def _gain(loop: Record, record: Record) -> str:
    """Return how much faster ``record`` is than the loop at its batch size, where the interval allows to say so."""
    found = compare(loop, record)
    interval = f"{found.low:.1f}\u2013{found.high:.1f}" if found.low is not None else "too few starts to tell"
    return f"{found.ratio:.1f} times as fast ({interval})"


def absent(records: Sequence[Record]) -> list[str]:
    """Return a line for each reason why a framework has no row at batch 1, with the frameworks that it keeps out."""
    reasons: dict[str, dict[str, None]] = {}
    at_batch_1 = select_all(records, batch_size=1)
    there = {record.backend for record in at_batch_1 if record.ok}
    for record in at_batch_1:
        if record.backend not in there:
            reasons.setdefault(record.why_not, {})[record.title] = None
    lines = [f"- {', '.join(titles)}: {reason}" for reason, titles in reasons.items()]
    return ["Without a row of numbers:", "\n".join(lines)] if lines else []


def _time(record: Record) -> str:
    median = record.median("end_to_end")
    interval = ends(median)
    return f"{latency_ms(record):.3f}" + (f" ({interval})" if interval else "")


def figure(records: Sequence[Record], ceilings: Path | None = None) -> tuple[str, str]:
    """Return the README's figure, and the lines that show it; nothing of either where nothing was measured."""
    found = opening(records, ceilings)
    return (svg(found), f"![{found.alt}]({FIGURE})\n\n{found.caption}") if found else ("", "")


def update(readme: Path, records: Sequence[Record], ceilings: Path | None = None) -> None:
    """Replace the figure and the results in ``readme``, where it has room for them; see :func:`opening`."""
    drawing, shown = figure(records, ceilings)
    blocks = {"figure": shown, "results": results(records)}
    text = readme.read_text(encoding="utf-8")
    text = BLOCK.sub(lambda found: f"{found[1]}{blocks[found['name']]}\n{found[3]}", text)
    write_atomically(readme, text.encode())
    if drawing:
        write_atomically(readme.parent / FIGURE, drawing.encode())
