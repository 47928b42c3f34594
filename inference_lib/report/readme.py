"""The results in the README: written by ``publish`` from the published records, never by hand."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from inference_lib.records.record import Record
from inference_lib.records.store import select
from inference_lib.report.choose import latency_ms, quickest
from inference_lib.report.plots import label_of, provenance
from inference_lib.report.tables import markdown_scoreboards, markdown_table
from inference_lib.report.words import times_faster

BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)


def results(records: Sequence[Record]) -> str:
    """Return the README's results for GPU ``records``: best row against the plain loop, then the scoreboards."""
    single = [r for r in records if r.device == "cuda" and r.batch_size == 1]
    parts = [provenance(select(single)), markdown_table(speedups(single)), markdown_scoreboards(single)]
    return "\n\n".join(parts)


def speedups(records: Sequence[Record]) -> pd.DataFrame:
    """Return each model's quickest record beside the plain loop (PyTorch eager, FP32): latencies in ms, the verdict."""
    rows = []
    for model in dict.fromkeys(r.model for r in records):
        loop = select(records, model=model, backend="pytorch", precision="fp32")
        if loop:
            best = quickest(select(records, model=model))
            times = [f"{latency_ms(record):.3f}" for record in (loop[0], best)]
            rows.append((model, times[0], label_of(best), times[1], times_faster(loop, [best])))
    return pd.DataFrame(rows, columns=["model", "plain loop, ms", "quickest row", "its ms", "against the loop"])


def update(readme: Path, records: Sequence[Record]) -> None:
    """Replace the block of results in ``readme``, where it has one."""
    text = readme.read_text()
    readme.write_text(BLOCK.sub(lambda block: f"{block[1]}{results(records)}\n{block[2]}", text))
