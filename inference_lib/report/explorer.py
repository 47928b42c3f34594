"""The explorer's page: every row of every machine as a plain table, and the same rows as data for its script.

Statistics stay here, where they are tested: the script (``book/_static/explorer.js``) gets medians with their intervals
and, of rows at the same batch size, which are tied. What it does by itself is to filter, to apply the limits of
:func:`choose` and to rank, to price, to draw, and to keep all that in the address. It is one small file without a
library: the smallest bundle of DataTables (ITables') weighs more than everything else on the page and would bring
none of these.
"""

import html
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from inference_lib.backends import SERVED_WITHOUT_PYTHON
from inference_lib.records.comparison import SAME_WITHIN
from inference_lib.records.pairs import of_all_pictures
from inference_lib.records.record import Record
from inference_lib.records.runs import runs_of
from inference_lib.records.store import select_all
from inference_lib.report.choose import images_per_s, is_level, latency_ms, not_measured
from inference_lib.report.flat import flat_row
from inference_lib.report.layout import MISSING, form
from inference_lib.report.plots import provenance
from inference_lib.report.style import style_of
from inference_lib.report.tables import DEVICE_NAMES
from inference_lib.seam import PRECISIONS

COLUMNS = {
    "framework": "framework",
    "precision": "precision",
    "batch": "batch",
    "model": "model",
    "device": "device",
    "machine": "machine",
    "ms": "latency ms",
    "low": "95 %",
    "alone": "device ms",
    "p99": "p99 ms",
    "rate": "images/s",
    "accuracy": "accuracy %",
    "memory": "GPU memory MiB",
    "energy": "energy mJ/image",
}
"""What a row of the table shows, by what the data call it; a note, and what the script computes, come after."""


Brought = Mapping[str, Sequence[Record]]
"""The records of machines that readers brought, by the contribution's name."""


def shelves(records: Iterable[Record], brought: Brought = MappingProxyType({})) -> dict[str, list[Record]]:
    """Return the records by machine and profile, each of its first run: what is ranked together, as in ``choose``.

    GPUs come first; within a shelf, the quickest of each model and batch size. A cell that is there twice (published,
    and in a reader's own folder) counts once. What is ``brought`` has shelves of its own, which begin with its name:
    hardware of one name may be two machines. Rows of a server under load are another measurement, and left out.
    """
    ours = {record.key: record for record in records}.values()
    found: dict[tuple[str, str], list[Record]] = {}
    for name, theirs in (("", ours), *brought.items()):
        for record in sorted(of_all_pictures(r for r in theirs if r.serving is None), key=_order):
            machine = record.machine.name(record.device)
            found.setdefault((f"{name}: {machine}" if name else machine, record.profile), []).append(record)
    several = len({profile for _, profile in found}) > 1
    return {
        f"{machine} ({profile})" if several else machine: select_all(mine, run=runs_of(mine)[0])
        for (machine, profile), mine in sorted(found.items(), key=lambda shelf: shelf[1][0].device != "cuda")
    }


def _order(record: Record) -> tuple[str, int, float]:
    median = record.median("end_to_end").value if record.invocations else math.inf
    return record.model, record.batch_size, median


def row(shelf: str, record: Record) -> dict[str, Any]:
    """Return what the page says of a record: times in ms, memory in MiB, energy in mJ; None where not measured."""
    flat = flat_row(record)
    return {
        "machine": shelf,
        "model": record.model,
        "framework": record.title,
        "device": DEVICE_NAMES[record.device],
        "precision": PRECISIONS[record.precision].title,
        "batch": record.batch_size,
        "ms": flat["latency_p50_ms"],
        "low": flat["latency_low_ms"],
        "high": flat["latency_high_ms"],
        "alone": flat["device_ms"],
        "p99": flat["latency_p99_ms"],
        "rate": images_per_s(record) if record.invocations else None,
        "accuracy": flat["accuracy_percent"],
        "memory": record.gpu_memory_mib,
        "energy": record.load.energy_mj_per_image if record.load else None,
        "why": not_measured(record),
        "python": record.backend not in SERVED_WITHOUT_PYTHON,
        "calibrated": PRECISIONS[record.precision].calibrated,
        "flags": "; ".join(record.flags),
        "ties": [],
    }


def data(records: Iterable[Record], brought: Brought = MappingProxyType({})) -> dict[str, Any]:
    """Return what the script works on.

    ``rows`` are those of :func:`row`. The ``ties`` of one are the numbers of the rows before it, by latency or by rate,
    that it is not clearly slower than; of rows at the same batch size, which alone may have met in the same rounds.
    Others are compared by their intervals. ``drawn`` is how a framework is drawn.
    """
    rows: list[dict[str, Any]] = []
    drawn: dict[str, dict[str, str]] = {}
    for shelf, mine in shelves(records, brought).items():
        numbered = list(enumerate(mine, len(rows)))
        rows += [row(shelf, record) for record in mine]
        drawn |= {r.title: {"color": (s := style_of(r.backend)).color, "marker": s.marker} for r in mine}
        for number, better in _ties(numbered):
            rows[number]["ties"].append(better)
    return {"rows": rows, "drawn": drawn, "same_within": SAME_WITHIN}


def _ties(numbered: Sequence[tuple[int, Record]]) -> Iterator[tuple[int, int]]:
    """Yield the number of each row with that of a better one that it is tied with, both at the same batch size."""
    measured = {number: record for number, record in numbered if record.ok and record.latency}
    by_latency = sorted(measured, key=lambda number: latency_ms(measured[number]))
    by_rate = sorted(measured, key=lambda number: -images_per_s(measured[number]))
    ranked = dict.fromkeys(pair for order in (by_latency, by_rate) for pair in itertools.combinations(order, 2))
    for better, number in ranked:
        best, row = measured[better], measured[number]
        if (best.model, best.batch_size) == (row.model, row.batch_size) and is_level(best, row):
            yield number, better


def page(records: Sequence[Record], script: str, brought: Brought = MappingProxyType({})) -> str:
    """Return the explorer as HTML: its table, its data, and the address of its script."""
    found = data(records, brought)
    head = "".join(f'<th scope="col" data-key="{key}"{_css_class(key)}>{title}</th>' for key, title in COLUMNS.items())
    body = "\n".join(f"<tr>{_cells(each)}</tr>" for each in found["rows"])
    # "</script" would end the script element early, and "<!--<script" would keep it from ending.
    told = json.dumps(found, separators=(",", ":")).replace("<", "\\u003c")
    measured = [record for mine in shelves(records, brought).values() for record in mine if record.ok]
    return (
        f'<div id="explorer"></div>\n<div class="measured-table" id="explorer-table" tabindex="0" role="region" '
        f'aria-label="All rows"><table class="measured"><caption>{html.escape(provenance(measured))}</caption>'
        f'<thead><tr>{head}<th scope="col">note</th></tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n'
        f'<script type="application/json" id="explorer-data">{told}</script>\n<script defer src="{script}"></script>'
    )


def _css_class(key: str) -> str:
    return ' class="number"' if key in ("batch", "low") or form(COLUMNS[key]) else ""


def _cells(each: dict[str, Any]) -> str:
    cells = "".join(f"<td{_css_class(key)}>{html.escape(_text(each, key))}</td>" for key in COLUMNS)
    return f"{cells}<td>{html.escape(each['why'] or each['flags'])}</td>"


def _text(each: dict[str, Any], key: str) -> str:
    if each[key] is None:
        return MISSING
    if key == "low":
        return f"{each['low']:.3f}\u2013{each['high']:.3f}"
    return (form(COLUMNS[key]) or "{}").format(each[key])
