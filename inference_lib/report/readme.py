"""The results in the README: written by ``publish`` from the published records, never by hand."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from inference_lib.records.record import Record
from inference_lib.records.store import select
from inference_lib.report.choose import latency_ms, quickest
from inference_lib.report.plots import provenance
from inference_lib.report.tables import ends, markdown_table, replicated, replication_counts
from inference_lib.report.words import label, tied, times_faster
from inference_lib.seam import PRECISIONS

BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)

ONE_RUN = "This edition holds one run of the grid, so no second one has checked its claims."

TWO_RUNS = (
    "Every row was measured in two runs. A pair is two rows that answer the same question; for a claim, the first run "
    "says that one of them is faster. The second run contradicts so many claims, and does not confirm so many. "
    "Ratios are compatible where they differ by no more than their intervals allow: 95 of 100, if those are honest."
)


def results(records: Sequence[Record]) -> str:
    """Return the README's results: the best GPU rows of the first run, what it lacks, and how its claims held."""
    first = min((record.run for record in records), default="")
    gpu = [r for r in records if r.device == "cuda" and r.run == first]
    measured = select(gpu)
    if not measured:
        return "Nothing published yet."
    parts = [provenance(measured), markdown_table(best_rows(measured)), *absent(gpu)]
    held = replicated(records)
    if held is None:
        return "\n\n".join([*parts, ONE_RUN])
    return "\n\n".join([*parts, TWO_RUNS, markdown_table(replication_counts(held))])


def best_rows(records: Sequence[Record]) -> pd.DataFrame:
    """Return a row a model: the plain loop (PyTorch eager) and the quickest row at batch 1, and the most images.

    The loop is in FP32, or where that was not measured in what was. Times are medians end to end in ms with their 95 %
    intervals; the most productive row is that of any batch size, and has a column where throughput was measured.
    """
    rows = []
    for model in dict.fromkeys(record.model for record in records):
        mine = select(records, model=model)
        single = select(mine, batch_size=1)
        if not single:
            continue
        loops, best = select(single, backend="pytorch"), quickest(single)
        loop = select(loops, precision="fp32") or loops[:1]
        rows.append(
            {
                "model": model,
                "plain loop, ms": f"{PRECISIONS[loop[0].precision].title} {_time(loop[0])}" if loop else "-",
                "quickest row": label(best),
                "its ms": _time(best),
                "against the loop": times_faster(loop, [best]),
                "not clearly slower than it": tied(best, single),
                "most images per second": _most_productive(mine),
            }
        )
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def _most_productive(records: Sequence[Record]) -> str | None:
    most = max(records, key=lambda record: record.throughput_images_per_s or 0)
    images = most.throughput_images_per_s
    return f"{images:,.0f}: {label(most)}, batch {most.batch_size}" if images else None


def absent(records: Sequence[Record]) -> list[str]:
    """Return a line for each reason why rows at batch 1 were not measured, with the frameworks it keeps out."""
    reasons: dict[str, dict[str, None]] = {}
    for record in records:
        if not record.ok and record.batch_size == 1:
            reasons.setdefault(record.why_not, {})[record.title] = None
    lines = [f"- {', '.join(titles)}: {reason}" for reason, titles in reasons.items()]
    return ["Without a row of numbers:", "\n".join(lines)] if lines else []


def _time(record: Record) -> str:
    median = record.median("end_to_end")
    interval = ends(median)
    return f"{latency_ms(record):.3f}" + (f" ({interval})" if interval else "")


def update(readme: Path, records: Sequence[Record]) -> None:
    """Replace the block of results in ``readme``, where it has one."""
    text = readme.read_text()
    readme.write_text(BLOCK.sub(lambda block: f"{block[1]}{results(records)}\n{block[2]}", text))
