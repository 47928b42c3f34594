"""The results in the README: written by ``publish`` from the published records, never by hand."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from inference_lib.records.record import Record
from inference_lib.records.runs import runs_of
from inference_lib.records.statistics import LEAST_INVOCATIONS
from inference_lib.records.store import select, select_all
from inference_lib.report.choose import Goal, advantage, choose, images_per_s, latency_ms, level_with
from inference_lib.report.layout import text_table
from inference_lib.report.opening import opening, plain_loop, svg
from inference_lib.report.plots import provenance
from inference_lib.report.tables import ends, measured_twice, replicated, replication_counts
from inference_lib.report.words import label
from inference_lib.seam import PRECISIONS
from inference_lib.support.files import write_atomically

FIGURE = Path("book/_static/opening.svg")
"""The README's figure, beside it."""

BLOCK = re.compile(r"(<!-- (?P<name>figure|results) -->\n).*?(<!-- /(?P=name) -->)", re.DOTALL)
"""The parts of a README that ``publish`` writes, each between two comments with its name."""

ONE_RUN = "This edition holds one run of the grid, so no second one has checked its claims."

TWO_RUNS = (
    "A second run measured {}. A pair is two of these that answer the same question; for a claim, the first run says "
    "that one of them is faster. The second run contradicts so many claims, and does not confirm so many. Ratios are "
    "compatible where they differ by no more than their intervals allow: 95 of 100, if those are honest."
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
    return "\n\n".join([*parts, TWO_RUNS.format(measured_twice(records)), text_table(replication_counts(held), "pipe")])


def best_rows(records: Sequence[Record], model: str) -> pd.DataFrame:
    """Return rows of ``model``: the plain loop (PyTorch eager, one picture), the quickest, the most productive.

    The others are what :func:`choose` takes for latency and for throughput, of any batch size; the most productive row
    in eight bits follows, where there is one. Times are medians of a batch end to end with their 95 % intervals; images
    per second are those of one caller who waits, over a long run.
    """
    loop = plain_loop(select(records, model=model, batch_size=1))
    rows = [_row("the plain loop", loop, loop, "latency", ())] if loop else []
    eight = [record for record in select(records, model=model) if PRECISIONS[record.precision].calibrated]
    wanted: list[tuple[str, Goal, Sequence[Record]]] = [
        ("quickest", "latency", records),
        ("most productive", "throughput", records),
        ("in eight bits", "throughput", eight),
    ]
    for what, goal, among in wanted:
        if ranked := choose(among, model, goal=goal, allow_int8=among is eight).ranked:
            rows.append(_row(what, ranked[0], loop, goal, ranked[1:]))
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def _row(what: str, record: Record, loop: Record | None, goal: Goal, others: Sequence[Record]) -> dict[str, object]:
    return {
        "": what,
        "row": label(record),
        "batch": record.batch_size,
        "ms a batch": _time(record),
        "images/s": f"{images_per_s(record):,.0f}",
        "against the loop": _gain(loop, record, goal) if loop and record is not loop else None,
        "not clearly behind it": _level(record, others, goal) if record is not loop else None,
    }


def _gain(loop: Record, record: Record, goal: Goal) -> str:
    """Return how much better ``record`` serves the goal than the loop, where the interval allows to say so."""
    found = advantage(loop, record, goal)
    ratio = f"{found.value:.1f} times" + (" the images" if goal == "throughput" else " as fast")
    interval = f"{found.low:.1f}\u2013{found.high:.1f}" if found.low is not None else "too few starts to tell"
    return f"{ratio} ({interval})"


def _level(best: Record, others: Sequence[Record], goal: Goal) -> str:
    if len(best.invocations) < LEAST_INVOCATIONS:
        return "too few starts to tell"
    tied = level_with(best, others, goal)
    batches = {r.batch_size: "" if r.batch_size == best.batch_size else f", batch {r.batch_size}" for r in tied}
    return "; ".join(f"{label(record)}{batches[record.batch_size]}" for record in tied) or "nothing else"


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
