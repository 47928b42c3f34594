"""How fast can it be? Two ends that a row lies between if its kernels reach the ceilings, and how far it is from them.

The lower end is a bound: no program that does these products is quicker. The upper end is what a program takes that
runs its operations one by one, overlaps nothing and loses nothing in between; a row beyond it loses time to something
that the roofline does not know, such as launches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from IPython.display import HTML, Markdown

from inference_lib.measure.roofline import Ceilings, bounds, work_of
from inference_lib.records.record import Record
from inference_lib.records.statistics import Interval
from inference_lib.report import glue, plots
from inference_lib.report.layout import show_table
from inference_lib.report.rivals import Rivals
from inference_lib.report.style import style_of
from inference_lib.report.tables import reference_table
from inference_lib.report.words import label
from inference_lib.seam import PRECISIONS, find_model

NO_CEILINGS = "This needs the ceilings of a GPU, measured here or published."
NO_BOUND = "The ceilings of this GPU are not measured yet, so there is no bound to hold a time against"


@dataclass(frozen=True)
class Bracket:
    """The two ends for one model in one precision, by the ceilings of one machine; without ceilings it says so."""

    model: str
    precision: str
    ceilings: Ceilings | None

    def ends_ms(self, batch_size: int) -> tuple[float, float]:
        """Return both ends for a batch, ms.

        The lower is the longer of the arithmetic and the traffic of a fused network, done at once; the upper is the sum
        of the arithmetic and the traffic of an unfused one, done one after the other.
        """
        assert self.ceilings is not None
        work = work_of(self.model, batch_size, self.precision)
        fused, unfused = (bounds(work, self.ceilings, self.precision, kind) for kind in ("fused", "unfused"))
        return max(fused.values()) * 1e3, sum(unfused.values()) * 1e3

    def table(self, batch_sizes: Sequence[int]) -> HTML | Markdown:
        """Return both ends for each of ``batch_sizes``, and what the lower end is made of."""
        if not self.ceilings:
            return Markdown(NO_CEILINGS)
        rows = []
        for size in batch_sizes:
            parts = bounds(work_of(self.model, size, self.precision), self.ceilings, self.precision, "fused")
            low, high = self.ends_ms(size)
            rows.append(
                {"batch": size, "arithmetic, ms": parts["compute"] * 1e3, "traffic, fused, ms": parts["memory"] * 1e3}
                | {"at least, ms": low, "one by one, ms": high}
            )
        caption = f"{self._name}, a batch, copies not counted. {self.ceilings.machine}."
        return show_table(pd.DataFrame(rows), caption, {name: "{:.3g}" for name in rows[0] if name != "batch"})

    def gap(self, records: Sequence[Record]) -> str:
        """Return how many times the lower end each of ``records`` takes, as a sentence without full stop.

        The time is that on the device, on a CPU the whole call. Records of other cells or machines are left out.
        Without ceilings, the times alone are told.
        """
        told: dict[int, list[str]] = {}
        for record, time in self._times(records):
            size = record.batch_size
            over = f"{time.value / self.ends_ms(size)[0]:.1f} times" if self.ceilings else f"{time.value:.3f} ms"
            told.setdefault(size, []).append(f"{label(record)} {over}")
        rows = "; ".join(f"at batch {size}, {', '.join(found)}" for size, found in told.items())
        if not self.ceilings:
            return f"{NO_BOUND}: {rows}" if rows else NO_BOUND
        return f"The time over the lower end: {rows}" if rows else "There is no such row to compare yet"

    def figure(self, records: Sequence[Record], batch_size: int) -> HTML | Markdown:
        """Return a figure of the times of ``records`` at ``batch_size``, ms, with the bracket as a band beside them."""
        if not self.ceilings:
            return Markdown(NO_CEILINGS)
        times = [(record, time) for record, time in self._times(records) if record.batch_size == batch_size]
        if not times:
            return Markdown("No such row was measured yet.")
        figure, (axes,) = plots.new_figure(height=0.3 * len(times) + 1.0)
        names = [label(record) for record, _ in times]
        for position, (record, time) in enumerate(times):
            style = style_of(record.backend)
            axes.errorbar(time.value, position, xerr=plots.reach([time]), fmt=style.marker, color=style.color)
        axes.axvspan(*self.ends_ms(batch_size), color="#009E73", alpha=0.25, linewidth=0)
        plots.name_rows(axes, names, "ms a batch")
        axes.set(xscale="log", ylim=(len(times) - 0.4, -0.6))
        plots.plain_ticks(axes, "x")
        alt = f"Time of a batch of {batch_size} for {', '.join(names)}, over a band from the lower to the upper end."
        caption = f"{self._name}, batch {batch_size}, copies not counted; the band is what the roofline expects."
        return plots.show_figure(figure, alt, f"{caption} {plots.provenance([record for record, _ in times])}")

    @property
    def _name(self) -> str:
        return f"{find_model(self.model).title}, {PRECISIONS[self.precision].title}"

    def _times(self, records: Sequence[Record]) -> list[tuple[Record, Interval]]:
        times = []
        for record in records:
            elsewhere = self.ceilings and record.machine.name(record.device) != self.ceilings.machine
            if record.latency and not elsewhere and (record.model, record.precision) == (self.model, self.precision):
                device = record.latency.device
                if device or record.device == "cpu":
                    times.append((record, device or record.latency.end_to_end.median))
        return times


def glue_answer(chapter: str, bracket: Bracket, compared: Rivals, mine: str, reference: tuple[str, str]) -> None:
    """Glue what answers a chapter's guess, for one picture: ``NN-gap``, ``NN-verdict`` and ``NN-reference``.

    They are how far each of the rivals is from the lower end, how the rival ``mine`` fared against the others, and how
    many times the frames per second of the second framework of ``reference`` the first one had in the project that this
    course grew from.
    """
    model, precision = bracket.model, bracket.precision
    cell = compared.by_rival(model, precision)
    table = reference_table(model)
    fps = table[table["precision"] == PRECISIONS[precision].title].set_index("framework")["FPS"]
    first, second = reference
    glue(f"{chapter}-gap", bracket.gap([record for records in cell.values() for record in records]))
    glue(f"{chapter}-verdict", compared.verdict(mine, model, precision, batch_sizes=(1,)))
    glue(f"{chapter}-reference", f"{fps[first] / fps[second]:.1f}")
