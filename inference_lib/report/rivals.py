"""Rivals side by side: the table, the figures and the records that every "How fast?" is made of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from IPython.display import HTML
from matplotlib.axes import Axes

from inference_lib.records.record import Record
from inference_lib.records.store import select
from inference_lib.report import plots
from inference_lib.report.tables import show_table, side_by_side
from inference_lib.report.words import machines, times_faster
from inference_lib.seam import PRECISIONS, find_model

NOTHING = "nothing measured yet"


@dataclass(frozen=True)
class Rivals:
    """The measured records of some rivals, ordered by model, then precision, then rival."""

    rivals: tuple[str, ...]
    """Names of backends, in the order of tables and figures."""
    here: list[Record]
    """Measured by this lab, on the device of the comparison."""
    published: list[Record]

    @classmethod
    def of(
        cls, rivals: Sequence[str], here: Iterable[Record], published: Iterable[Record], precisions: Sequence[str]
    ) -> "Rivals":
        """Return the comparison of ``rivals`` in ``precisions``; other records are left out, and those without times.

        Lab.compare calls this with the right shelves.
        """

        def shelf(records: Iterable[Record]) -> list[Record]:
            return _in_order(rivals, select(records, backend=list(rivals), precision=list(precisions)))

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
        self,
        mine: str,
        against: Mapping[str, str],
        model: str = "resnet18",
        precision: str = "fp16",
        batch_sizes: Sequence[int] = (1, 256),
    ) -> str:
        """Return how the rival ``mine`` compares end to end with others, as a sentence without its full stop.

        ``against`` maps what the sentence calls each of them to the backend's name.
        """
        cells = {size: self.by_rival(model, precision, size) for size in batch_sizes}
        records = [record for cell in cells.values() for record in cell[mine]]
        if not records:
            return "It ran on none of the machines whose records are here, so there is nothing to compare yet"
        clauses = [
            f"against {name} it is "
            + " and ".join(f"{times_faster(cell[rival], cell[mine])} at batch {size}" for size, cell in cells.items())
            for name, rival in against.items()
        ]
        head = f"On {machines(records)}, {PRECISIONS[precision].title}, {records[0].title} end to end"
        return f"{head}: {'; '.join(clauses)}"

    def table(self, batch_size: int = 1) -> HTML:
        """Return the table of median end-to-end latencies, ms: a row a cell, a column a machine, this one first.

        Where this machine is the published one, its own records are shown.
        """
        machines = list(dict.fromkeys(r.machine.name(r.device) for r in (*self.here, *self.published)))
        rows = select((*self.published, *self.here), batch_size=batch_size)
        caption = f"Median end-to-end latency at batch {batch_size}, ms. {plots.provenance(rows)}"
        return show_table(side_by_side(_in_order(self.rivals, rows), machines), caption)

    def latencies(self, model: str, *precisions: str) -> HTML:
        """Return the figure of every inference at batch 1: the share that took at most so long, %, over ms."""
        records = select(self.shown(model, *precisions), batch_size=1)
        name = f"{find_model(model).title} at batch 1"
        caption = _with_precisions(name, records)
        return _figure(plots.latency_ecdf, records, 3.6, f"Distribution of the end-to-end latency of {name}", caption)

    def parts(self, model: str, *precisions: str) -> HTML:
        """Return the figure of upload, compute and download at batch 1 beside the end-to-end latency, ms."""
        records = select(self.shown(model, *precisions), batch_size=1)
        name = f"{find_model(model).title} at batch 1"
        alt = f"Upload, compute and download time of {name}, with the end-to-end latency"
        return _figure(plots.stacked_parts, records, 0.45 * len(records) + 1.2, alt, _with_precisions(name, records))

    def batches(self, model: str, *precisions: str) -> HTML:
        """Return the figure of images per second over the latency of a batch, ms, a point a batch size."""
        records = self.shown(model, *precisions)
        sizes = ", ".join(str(size) for size in sorted({record.batch_size for record in records}))
        alt = f"Images per second over latency of {find_model(model).title} at batch sizes {sizes or '(none)'}"
        caption = f"{_with_precisions(find_model(model).title, records)}; numbers beside the points are batch sizes"
        return _figure(plots.throughput_over_latency, records, 4.2, alt, caption)


def _in_order(rivals: Sequence[str], records: Iterable[Record]) -> list[Record]:
    """Return ``records`` by model in the order they come, then precision and rival in the book's order."""
    records = list(records)
    models = list(dict.fromkeys(record.model for record in records))

    def place(record: Record) -> tuple[int, int, int]:
        precision = list(PRECISIONS).index(record.precision)
        return models.index(record.model), precision, rivals.index(record.backend)

    return sorted(records, key=place)


def _with_precisions(name: str, records: Sequence[Record]) -> str:
    """Return ``name`` and the precisions that ``records`` really have, in their order."""
    return ", ".join(dict.fromkeys([name, *(PRECISIONS[record.precision].title for record in records)]))


def _figure(
    draw: Callable[[Sequence[Record], Axes], None], records: Sequence[Record], height: float, alt: str, caption: str
) -> HTML:
    """Draw ``records``, name them in the description and their machine in the caption; or say that there are none."""
    figure, (axes,) = plots.new_figure(height=height if records else 0.6)
    if records:
        draw(records, axes)
    else:
        axes.text(0.5, 0.5, NOTHING, ha="center", va="center")
        axes.set_axis_off()
    rows = ", ".join(dict.fromkeys(plots.label_of(record) for record in records)) or NOTHING
    return plots.show_figure(figure, f"{alt}: {rows}.", f"{caption}. {plots.provenance(records)}")
