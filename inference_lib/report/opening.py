"""The figure that opens the course: what one network takes in every framework, from the plain loop to the bound."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from IPython.display import HTML
from matplotlib.figure import Figure

from inference_lib.measure.plan import BASELINE
from inference_lib.measure.roofline import published_ceilings
from inference_lib.records.record import Record
from inference_lib.records.runs import runs_of
from inference_lib.records.statistics import Interval
from inference_lib.records.store import select
from inference_lib.report import canvas, plots
from inference_lib.report.bracket import Bracket
from inference_lib.report.choose import latency_ms, level_with, quickest
from inference_lib.report.style import style_of
from inference_lib.report.words import label
from inference_lib.seam import MODELS, PRECISIONS

SHOWN = "resnet18"
"""The network of the figure."""


@dataclass(frozen=True)
class Opening:
    """The rows of the figure, one picture at a time, the slowest first, and what a figure says in words."""

    records: list[Record]
    """The loop that everybody writes, and every way of running the same network in its quickest precision, eight bits
    left out.
    """
    loop: Record | None
    bound_ms: float | None
    """What the machine's measured ceilings allow in the precision of the quickest row, all operations fused."""

    @property
    def best(self) -> Record:
        """The quickest row."""
        return quickest(self.records)

    @property
    def alt(self) -> str:
        """The figure in words."""
        rows = "; ".join(f"{label(record)} {latency_ms(record):.2f} ms" for record in self.records)
        bound = f" The bound of the hardware is {self.bound_ms:.3f} ms." if self.bound_ms else ""
        return f"Bars: one picture through {self.best.model_title}, from the slowest to the quickest: {rows}.{bound}"

    @property
    def caption(self) -> str:
        """What was measured, and where."""
        level = level_with(self.best, self.records)
        ties = f" The hollow ones are not clearly slower than {label(self.best)}." if level else ""
        bound = " The bound is the roofline of chapter 03." if self.bound_ms else ""
        return (
            f"{self.best.model_title}, one picture from NumPy array to NumPy array; medians with 95 % intervals, each "
            f"framework in its quickest precision of 16 bits or more.{ties}{self._doubts}{bound} "
            f"{plots.provenance(self.records)}"
        )

    @property
    def _doubts(self) -> str:
        """What makes rows less trustworthy than the others, and which."""
        of: dict[str, list[str]] = {}
        for record in self.records:
            for flag in record.flags:
                of.setdefault(flag, []).append(label(record))
        return "".join(f" {' and '.join(names)}: {flag}." for flag, names in of.items())


def opening(records: Sequence[Record], ceilings: Path | None = None) -> Opening | None:
    """Return what the figure shows of the first run's rows at batch 1, None where nothing was measured.

    Of a GPU where there is one, with the bound where its ceilings are in the folder ``ceilings`` (by default, the
    published ones). Rows in eight bits are left out: they are another trade.
    """
    timed = [record for record in select(records, run=runs_of(records)[:1], batch_size=1) if record.latency]
    exact = [record for record in timed if not PRECISIONS[record.precision].calibrated]
    measured = select(exact, device="cuda") or exact
    model = next((name for name in (SHOWN, *MODELS) if select(measured, model=name)), None)
    if model is None:
        return None
    mine = select(measured, model=model)
    loop = plain_loop(mine)
    ways = [quickest(select(mine, title=title)) for title in dict.fromkeys(r.title for r in mine)]
    shown = [r for r in ways if r.backend != BASELINE] + ([loop] if loop else [])
    shown.sort(key=latency_ms, reverse=True)
    return Opening(shown, loop, _bound_ms(quickest(shown), ceilings))


def plain_loop(records: Sequence[Record]) -> Record | None:
    """Return the loop that most programs start with: in FP32, or where that was not measured, in what was."""
    loops = select(records, backend=BASELINE)
    return next(iter(select(loops, precision="fp32") or loops), None)


def _bound_ms(record: Record, folder: Path | None) -> float | None:
    ceilings = published_ceilings(record.machine.name(record.device), folder)
    if ceilings is None or record.model not in MODELS or record.precision not in ceilings.flops:
        return None
    return Bracket(record.model, record.precision, ceilings).ends_ms(record.batch_size)[0]


def figure(found: Opening) -> HTML:
    """Return the figure for a page: it takes the page's colours, light or dark."""
    return plots.show_figure(_drawn(found), found.alt, found.caption)


def svg(found: Opening) -> str:
    """Return the figure as a file of its own, which takes the colours that its reader's system prefers."""
    drawing = re.search(r"<svg.*</svg>", plots.show_figure(_drawn(found), found.alt).data, re.DOTALL)
    assert drawing
    style = (
        "<style>svg { color: #1f2328; fill: currentColor; font-family: sans-serif }\n"
        "@media (prefers-color-scheme: dark) { svg { color: #e6edf3 } }</style>"
    )
    return re.sub(r"(<svg[^>]*>)", rf"\1{style}", drawing[0], count=1) + "\n"


def png(found: Opening) -> bytes:
    """Return the figure as a picture for places that show nothing else, black on white, about 1,200 pixels wide."""
    buffer = io.BytesIO()
    _drawn(found).savefig(buffer, format="png", dpi=1200 / canvas.WIDTH, facecolor="white")
    return buffer.getvalue()


def _drawn(found: Opening) -> Figure:
    level = [id(record) for record in level_with(found.best, found.records)]
    names = [_named(found, record) for record in found.records]
    medians = [record.median("end_to_end") for record in found.records]
    colors = [style_of(record.backend).color for record in found.records]
    if found.bound_ms:
        names.append(f"what the hardware allows, {PRECISIONS[found.best.precision].title}")
        medians.append(Interval(found.bound_ms))
        colors.append(plots.INK)
    drawn, (axes,) = canvas.new_figure(height=0.31 * len(names) + 0.7)
    lengths = [median.value for median in medians]
    bars = axes.barh(range(len(names)), lengths, xerr=plots.reach(medians), color=colors, ecolor=plots.INK, height=0.62)
    for bar, color, record in zip(bars, colors, found.records, strict=False):
        if id(record) in level:
            bar.set(facecolor="none", edgecolor=color, linewidth=1.8)
    axes.bar_label(bars, [f"{length:.3g} ms" for length in lengths], padding=5)
    plots.name_rows(axes, names, "one picture, ms")
    axes.margins(x=0.27, y=0.02)
    axes.set(xlim=(0, None))
    return drawn


def _named(found: Opening, record: Record) -> str:
    return f"the loop everybody writes, {PRECISIONS[record.precision].title}" if record is found.loop else label(record)
