"""Rivals side by side: the table, the figures and the records that every "How fast?" is made of."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown, display

from inference_lib.backends import get_backend
from inference_lib.records.record import Record
from inference_lib.records.store import select, select_all
from inference_lib.report import plots
from inference_lib.report.layout import INTERVAL, show_table
from inference_lib.report.tables import ends, noted
from inference_lib.report.words import against, by_batch, label, machines, once, times_faster
from inference_lib.seam import MODELS, PRECISIONS, find_model

NOTHING = "nothing measured yet"

COMPARED = "rows are compared by their ratio within a round"
"""So a verdict need not be the quotient of the two medians beside it."""

LAUNCHES_COUNT = "compute includes the waits for launches"
"""Nothing is queued before it, as it is for the time on the device."""


@dataclass(frozen=True)
class Rivals:
    """The records of some rivals, ordered by model, then precision, then rival; those without times say why."""

    rivals: tuple[str, ...]
    """Names of backends, in the order of tables and figures; the first is the baseline of the table."""
    here: list[Record]
    """Of this lab, on the device of the comparison."""
    published: list[Record]

    @classmethod
    def of(
        cls, rivals: Sequence[str], here: Iterable[Record], published: Iterable[Record], precisions: Sequence[str]
    ) -> "Rivals":
        """Return the comparison of ``rivals`` in ``precisions``; other records are left out.

        Lab.compare calls this with the right shelves.
        """

        def shelf(records: Iterable[Record]) -> list[Record]:
            return _in_order(rivals, select_all(records, backend=list(rivals), precision=list(precisions)))

        return cls(tuple(rivals), shelf(here), shelf(published))

    def shown(self, model: str, *precisions: str) -> list[Record]:
        """Return the records of ``model`` that figures draw, in ``precisions``, or in all of them where none is named.

        They are a GPU's: measured here, else published. Where a GPU has none, they are all that was measured here of
        the model, whatever the precision.
        """
        wanted = {"device": "cuda", "model": model, "precision": precisions or tuple(PRECISIONS)}
        return select(self.here, **wanted) or select(self.published, **wanted) or select(self.here, model=model)

    def by_rival(self, model: str, precision: str, batch_size: int = 1) -> dict[str, list[Record]]:
        """Return for each rival a list of the one record of this cell, empty where there is none: for sentences."""
        cell = select(self.shown(model, precision), precision=precision, batch_size=batch_size)
        return {rival: select(cell, backend=rival) for rival in self.rivals}

    def verdict(
        self, mine: str, model: str = "resnet18", precision: str = "fp16", batch_sizes: Sequence[int] = (1, 256)
    ) -> str:
        """Return how the rival ``mine`` compares end to end with each other, as a sentence without full stop."""
        cells = {size: self.by_rival(model, precision, size) for size in batch_sizes}
        records = [record for cell in cells.values() for record in cell[mine]]
        if not records:
            title = next((r.title for r in (*self.here, *self.published) if r.backend == mine), mine)
            return f"{title} ran on none of the machines whose records are here, so there is nothing to compare yet"
        clauses = []
        for rival in self.rivals:
            met = {size: cell for size, cell in cells.items() if cell[rival] and rival != mine}
            said = by_batch({size: times_faster(cell[rival], cell[mine]) for size, cell in met.items()})
            if met:
                title = next(iter(met.values()))[rival][0].title
                clauses.append(f"against {title} it is {said}")
        head = f"On {machines(records)}, {PRECISIONS[precision].title}, {records[0].title} end to end"
        return f"{head}: {once('; '.join(clauses))}"

    def show(self, mine: str, model: str = "resnet18", precision: str = "fp16") -> None:
        """Display the table, how the rival ``mine`` fared, and where it was measured, the three figures."""
        display(self.table(), Markdown(f"{self.verdict(mine, model, precision)}."))
        if select(self.shown(model, precision), backend=mine):
            for draw in (self.latencies, self.parts, self.batches):
                display(draw(model, precision))

    def table(self, batch_size: int = 1) -> HTML:
        """Return the table at ``batch_size``: a row a cell; for each machine, this one first, what was measured there.

        That is the median end to end, its 95 % interval, how it compares with the first rival in the same precision,
        and the time on the device. A row that was not measured says why below the table.
        """
        once: dict[tuple[str, ...], Record] = {}
        for record in _in_order(self.rivals, select_all((*self.here, *self.published), batch_size=batch_size)):
            cell = (record.backend, record.model, record.precision, record.machine.name(record.device))
            once.setdefault(cell, record)  # here first: where this machine is the published one, its own
        rows = list(once.values())
        marks, notes = noted(rows)
        cells: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
        for record, mark in zip(rows, marks, strict=True):
            key = (record.title, record.model, PRECISIONS[record.precision].title)
            cells.setdefault(key, {})[record.machine.name(record.device)] = self._measured(record, mark, rows)
        names = ("framework", "model", "precision")
        data: dict[tuple[str, str], list] = {("", name): [key[i] for key in cells] for i, name in enumerate(names)}
        for machine in dict.fromkeys(r.machine.name(r.device) for r in (*self.here, *self.published)):
            for name in dict.fromkeys(name for cell in cells.values() for name in cell.get(machine, {})):
                column = [cell.get(machine, {}).get(name) for cell in cells.values()]
                data |= {(machine, name): column} if any(value is not None for value in column) else {}
        table = pd.DataFrame(data)
        measured = select(rows)
        compared = f"; {COMPARED}" if measured else ""
        caption = f"Median end-to-end latency at batch {batch_size}, ms{compared}. {plots.provenance(measured)}"
        return show_table(table, caption, notes=notes)

    def _measured(self, record: Record, mark: str, rows: Sequence[Record]) -> dict[str, Any]:
        """Return what the table says of one record, by column."""
        versus = f"against {get_backend(self.rivals[0]).title}"
        if not (record.ok and record.latency):
            return {"ms": None, INTERVAL: None, versus: mark, "on the device, ms": None}
        whole, device = record.latency.end_to_end.median, record.latency.device
        baseline = self._baseline(record, rows)
        compared = "baseline" if baseline is record else against(baseline, record) if baseline else ""
        return {
            "ms": whole.value,
            INTERVAL: ends(whole),
            versus: f"{compared} {mark}".strip() or None,
            "on the device, ms": device.value if device else None,
        }

    def _baseline(self, record: Record, rows: Sequence[Record]) -> Record | None:
        """Return the first rival's record of the same cell, in FP32 where it has none of the same precision."""
        for precision in (record.precision, "fp32"):
            wanted = {"backend": self.rivals[0], "model": record.model, "precision": precision, "run": record.run}
            for found in select(rows, **wanted):
                if found.latency and found.machine.name(found.device) == record.machine.name(record.device):
                    return found
        return None

    def latencies(self, model: str, *precisions: str) -> HTML:
        """Return the figure of every inference at batch 1: the share that took at most so long, %, over ms."""
        records, name = select(self.shown(model, *precisions), batch_size=1), f"{find_model(model).title} at batch 1"
        return _figure(plots.latency_ecdf, records, 2.9, f"Distribution of the end-to-end latency of {name}", name)

    def parts(self, model: str, *precisions: str) -> HTML:
        """Return the figure of upload, compute and download at batch 1 beside the end-to-end latency, ms."""
        records = [r for r in select(self.shown(model, *precisions), batch_size=1) if r.parts]
        name = f"{find_model(model).title} at batch 1"
        alt = f"Upload, compute and download time of {name}, with the end-to-end latency"
        note = f"; {LAUNCHES_COUNT}" if any(record.device == "cuda" for record in records) else ""
        return _figure(plots.stacked_parts, records, 0.45 * len(records) + 1.0, alt, name, note)

    def batches(self, model: str, *precisions: str) -> HTML:
        """Return the figure of images per second over the latency of a batch, ms, a point a batch size."""
        records, name = self.shown(model, *precisions), find_model(model).title
        sizes = ", ".join(map(str, sorted({record.batch_size for record in records}))) or "(none)"
        alt = f"Images per second over latency of {name} at batch sizes {sizes}"
        note = "; numbers beside the points are batch sizes"
        return _figure(plots.throughput_over_latency, records, 3.6, alt, name, note)


def _in_order(rivals: Sequence[str], records: Iterable[Record]) -> list[Record]:
    """Return ``records`` by model, then precision and rival, in the book's order; a reader's own models come last."""
    records = list(records)
    models = list(dict.fromkeys([*MODELS, *(record.model for record in records)]))

    def place(record: Record) -> tuple[int, int, int]:
        precision = list(PRECISIONS).index(record.precision)
        return models.index(record.model), precision, rivals.index(record.backend)

    return sorted(records, key=place)


def _figure(
    draw: Callable[..., None], records: Sequence[Record], height: float, alt: str, name: str, note: str = ""
) -> HTML:
    """Draw ``records``, or say that there are none.

    Rows are named in the description; the precisions that they really have, and the machine, in the caption.
    """
    figure, (axes,) = plots.new_figure(height=height if records else 0.6)
    if records:
        draw(records, axes)
    else:
        axes.text(0.5, 0.5, NOTHING, ha="center", va="center")
        axes.set_axis_off()
    rows = ", ".join(dict.fromkeys(label(record) for record in records)) or NOTHING
    shown = ", ".join(dict.fromkeys([name, *(PRECISIONS[record.precision].title for record in records)]))
    return plots.show_figure(figure, f"{alt}: {rows}.", f"{shown}{note}. {plots.provenance(records)}")
