"""Figures from records, drawn once for light and dark pages.

A figure is an inline SVG: its ink is the page's text colour, its background the page's own, its text is text. Each
carries a description for readers who do not see it, and a caption that names the machine. It is drawn for a phone: a
wide screen shows it in its own size, a narrow one shrinks the whole, and the smallest text can still be read.
"""

import html
import io
import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter

from inference_lib.measure.roofline import Ceilings
from inference_lib.records.record import Record
from inference_lib.records.statistics import Interval
from inference_lib.report import labels
from inference_lib.report.style import style_of
from inference_lib.report.words import label
from inference_lib.seam import PRECISIONS

INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""

WIDTH = 5.4
"""Inches. A phone shows a figure so wide at 0.88 pixels a point."""

SMALL = 9.2
"""Points: the smallest text in a figure of that width. On a phone it is 8 pixels high."""

# The style of the whole book; set for the process, so that whatever a chapter adds to a figure has it too.
mpl.rcParams.update(
    {
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.titlesize": "medium",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": INK,
        "grid.alpha": 0.15,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "legend.fontsize": SMALL,
        "font.family": "sans-serif",
        "font.size": 10,
        "lines.linewidth": 1.8,
        "svg.fonttype": "none",
    }
)


LINE = 0.2
"""The height of a line of a legend or of a box, inches."""

FLOW_GAP = 0.3
"""Between a row of boxes and the next, inches."""

UNIT_WIDTH = 51
"""The unit of a scale is broken where it is longer, characters; where several panels share the width, sooner."""

PART_COLORS = {"upload": "#56B4E9", "compute": "#D98C00", "download": "#CC79A7"}


def new_figure(width: float = WIDTH, height: float = 3.6, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure (inches) and its axes in the book's style."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def show_figure(figure: Figure, alt: str, caption: str = "") -> HTML:
    """Return ``figure`` as inline SVG with its description and caption; no text covers another or is too small."""
    for text in figure.findobj(Text):
        text.set_fontsize(max(text.get_fontsize(), SMALL * figure.get_figwidth() / WIDTH))
    for axes in figure.axes:
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            if isinstance(axis.get_major_formatter(), LogFormatter):
                plain_ticks(axes, name)
    labels.thin(figure)
    buffer = io.StringIO()
    # The salt makes ids of one figure differ from another's on the same page, and equal in every run.
    with mpl.rc_context({"svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(INK, "currentColor")
    drawing = re.sub(r"\s*<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    # Two decimals are enough for a coordinate; the numbers that a reader sees stay whole.
    drawing = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d{2})\d+", r"\1", tag[0]), drawing)
    drawing = re.sub(r"font-family: [^;\"]*", "font-family: inherit", drawing)
    described = f'<svg role="img" aria-label="{html.escape(alt)}"'
    drawing = drawing.replace("<svg", described, 1)
    return HTML(f'<figure class="measured">{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>')


def provenance(records: Sequence[Record]) -> str:
    """Return the machine, the software and the day that ``records`` come from, for a caption."""
    sources = {
        (
            r.machine.name(r.device),
            r.machine.driver if r.device == "cuda" else None,
            r.machine.packages.get("torch"),
            r.measured_on.isoformat(),
        )
        for r in records
    }
    described = [
        f"{name}{f', driver {driver}' if driver else ''}, torch {torch}, {day}"
        for name, driver, torch, day in sorted(sources, key=str)
    ]
    return f"Measured on {'; '.join(described)}." if described else "Nothing measured yet."


def precision_alpha(name: str) -> float:
    """Return how opaque a line is where a figure shows several precisions: the less is multiplied, the stronger."""
    precision = PRECISIONS[name]
    if precision.storage != name:
        return 0.7  # TF32 stores what FP32 stores, and multiplies less of it
    return 0.45 if precision.bits >= 32 else 1.0


def reach(intervals: Sequence[Interval]) -> np.ndarray:
    """Return how far each interval reaches below and above its value, for Matplotlib's error bars; 0 without one."""
    return np.array(
        [
            [i.value - (i.value if i.low is None else i.low) for i in intervals],
            [(i.value if i.high is None else i.high) - i.value for i in intervals],
        ]
    )


def latency_ecdf(records: Sequence[Record], axes: Axes) -> None:
    """Draw the share of inferences that took at most so long: one line a record, log scale in time."""
    alphas = _alphas(records)
    for record in records:
        assert record.latency is not None
        sketch = record.latency.end_to_end.quantiles
        style = style_of(record.backend)
        axes.plot(
            sketch,
            np.linspace(0, 100, len(sketch)),
            color=style.color,
            linestyle=style.dash,
            alpha=alphas[record.precision],
            label=label(record),
        )
    axes.set(xscale="log", xlabel="end-to-end latency, ms", ylabel="inferences at most this slow, %")
    plain_ticks(axes, "x")
    _legend_above(axes)


def throughput_over_latency(records: Sequence[Record], axes: Axes) -> None:
    """Draw images per second over latency, one line a backend and precision, one point a batch size.

    A point's bar is the 95 % interval of its latency.
    """
    alphas = _alphas(records)
    for line in _lines([record for record in records if record.latency]):
        style, alpha = style_of(line[0].backend), alphas[line[0].precision]
        medians = [r.latency.end_to_end.median for r in line if r.latency]
        points = [(median.value, r.fps or 0.0) for median, r in zip(medians, line, strict=True)]
        axes.errorbar(
            [ms for ms, _ in points],
            [fps for _, fps in points],
            xerr=reach(medians),
            color=style.color,
            linestyle=style.dash,
            marker=style.marker,
            markersize=5,
            alpha=alpha,
            label=label(line[0]),
        )
        for record, point in zip(line, points, strict=True):
            axes.annotate(str(record.batch_size), point, (4, -9), textcoords="offset points", fontsize=SMALL)
    axes.set(
        xscale="log", yscale="log", xlabel="end-to-end latency of a batch, ms", ylabel="images per second, end to end"
    )
    plain_ticks(axes, "x", "y")
    _legend_above(axes)
    labels.spread(axes, first=-45)


def _alphas(records: Sequence[Record]) -> dict[str, float]:
    """Return how opaque a line of each precision is; one precision alone needs no telling apart."""
    precisions = {record.precision for record in records}
    return {name: precision_alpha(name) if len(precisions) > 1 else 1 for name in precisions}


def _lines(records: Sequence[Record]) -> list[list[Record]]:
    keys = dict.fromkeys((r.backend, r.precision) for r in records)
    return [sorted((r for r in records if (r.backend, r.precision) == key), key=lambda r: r.batch_size) for key in keys]


def stacked_parts(records: Sequence[Record], axes: Axes) -> None:
    """Draw upload, compute and download of each record as one stacked bar, and end-to-end latency as a mark.

    The mark's own bar is the 95 % interval of the latency.
    """
    records = [record for record in records if record.parts]
    positions = range(len(records))
    left = np.zeros(len(records))
    for part, color in PART_COLORS.items():
        widths = np.array([getattr(r.parts, part) for r in records])
        axes.barh(positions, widths, left=left, color=color, label=part, height=0.6)
        left += widths
    medians = [r.median("end_to_end") for r in records]
    axes.errorbar(
        [median.value for median in medians],
        list(positions),
        xerr=reach(medians),
        fmt="|",
        color=INK,
        markersize=14,
        markeredgewidth=2,
        elinewidth=1,
        capsize=2,
        label="end to end",
    )
    _rows(axes, [label(r) for r in records], "median, ms")
    _legend_above(axes, columns=4)


def _rows(axes: Axes, names: Sequence[str], unit: str) -> None:
    """Name what lies in horizontal rows, the first on top, and the unit of their scale, broken where it is long."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    place = axes.get_subplotspec()
    axes.set(xlabel=textwrap.fill(unit, UNIT_WIDTH // (place.get_gridspec().ncols if place else 1)))


def _legend_above(axes: Axes, columns: int = 2) -> None:
    """Put the legend over the axes, in as many of ``columns`` as there is room for, and make the figure so much taller.

    There, it covers no data.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    lines = axes.get_legend_handles_labels()
    for across in range(columns, 0, -1):
        legend = figure.legend(*lines, loc="outside upper left", ncols=across, columnspacing=1, borderaxespad=0)
        if across == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + LINE * math.ceil(len(legend.get_texts()) / across))


def plain_ticks(axes: Axes, *names: str) -> None:
    """Label a log scale with plain numbers (0.3, 20, 10,000), and minor ticks too where decades are few."""
    for name in names:
        axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
        low, high = sorted(axis.get_view_interval())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        shown = "123456789" if high / low < 3 else "235" if high / low < 30 else "3"
        few = FuncFormatter(lambda value, _, shown=shown: f"{value:,.6g}" if f"{value:.0e}"[0] in shown else "")
        axis.set_minor_formatter(few if high / low < 300 else NullFormatter())


def flow(stages: Sequence[Sequence[str]], axes: Axes) -> None:
    """Draw boxes from the top down, a row a stage, an arrow from each box to every box of the next stage.

    The figure becomes as tall as they need.
    """
    box = {"boxstyle": "round,pad=0.4", "facecolor": "none", "edgecolor": INK}
    before: list[Text] = []
    depth = 0.0
    for stage in stages:
        height = LINE * (1 + max(text.count("\n") for text in stage))
        places = [((number + 0.5) / len(stage), depth + height / 2) for number in range(len(stage))]
        style: dict[str, Any] = {"fontsize": SMALL, "ha": "center", "va": "center", "bbox": box}
        now = [axes.text(*place, text, **style) for place, text in zip(places, stage, strict=True)]
        for start, end in itertools.product(before, now):
            patches = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
            arrow = {"arrowstyle": "->", "color": INK, "shrinkA": 2, "shrinkB": 2}
            axes.annotate("", end.get_position(), start.get_position(), arrowprops=arrow | patches)
        before, depth = now, depth + height + FLOW_GAP
    axes.set(xlim=(0, 1), ylim=(depth - FLOW_GAP, 0))
    axes.set_axis_off()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(depth - FLOW_GAP / 2)


def timeline(rows: dict[str, list[tuple[float, float]]], colors: Sequence[str], axes: Axes) -> None:
    """Draw a row of spans (start, length) for each label, without a scale: for sketches."""
    for position, (spans, color) in enumerate(zip(rows.values(), colors, strict=True)):
        axes.broken_barh(spans, (position - 0.3, 0.6), color=color)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.set(xlabel="time →")


def measured_timeline(events: pd.DataFrame, axes: Axes) -> None:
    """Draw measured spans (measure.operations.timeline), a line for each ``row``; neighbours differ in shade."""
    rows = list(dict.fromkeys(events["row"]))
    for position, row in enumerate(rows):
        mine = events[events["row"] == row]
        color = PART_COLORS["compute"] if row == "device" or len(rows) == 1 else "#8A8F98"
        for first, alpha in ((0, 1.0), (1, 0.55)):
            spans = list(zip(mine["start_ms"][first::2], mine["length_ms"][first::2], strict=True))
            axes.broken_barh(spans, (position - 0.3, 0.6), color=color, alpha=alpha, linewidth=0)
    _rows(axes, rows, "ms")


def roofline(points: pd.DataFrame, ceilings: Ceilings, axes: Axes) -> None:
    """Draw measured throughputs under the roofs of their precisions: FLOP/s over FLOP/byte, both axes logarithmic.

    ``points`` is a table from measure.roofline.roofline_table. Each row is a mark at its unfused intensity; of the rows
    of one model, batch size and intensity, the highest bears the label of all.
    """
    precisions = list(dict.fromkeys(points["precision"]))
    ridge = max(ceilings.flops[precision] for precision in precisions) / ceilings.bandwidth
    low, high = min(points["FLOP/byte"].min(), ridge) / 2, max(points["FLOP/byte"].max(), ridge) * 2
    intensity = np.geomspace(low, high, 200)
    for precision in precisions:
        roof = np.minimum(ceilings.flops[precision], intensity * ceilings.bandwidth) / 1e12
        axes.plot(intensity, roof, color=INK, alpha=precision_alpha(precision))
        label = f"{PRECISIONS[precision].title} {roof[-1]:,.{0 if roof[-1] >= 100 else 2}f} TFLOP/s"
        axes.annotate(label, (high, roof[-1]), (6, 0), textcoords="offset points", va="center", fontsize=SMALL)
    for point in points.to_dict("records"):
        style, place = style_of(point["backend"]), (point["FLOP/byte"], point["FLOP/s"] / 1e12)
        alpha = precision_alpha(point["precision"])
        axes.plot(*place, color=style.color, marker=style.marker, alpha=alpha, linestyle="none")
    alike = points.groupby(["model", "batch", "FLOP/byte"], sort=False)["FLOP/s"]
    for point in points.loc[alike.idxmax()].to_dict("records"):
        label, place = f"{point['model']}, {point['batch']}", (point["FLOP/byte"], point["FLOP/s"] / 1e12)
        axes.annotate(label, place, (6, -3), textcoords="offset points", fontsize=SMALL)
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="FLOP per byte, nothing fused", ylabel="TFLOP/s")
    plain_ticks(axes, "x", "y")


def show_bars(values: Mapping[str, float], color: str, unit: str, alt: str, caption: str) -> HTML:
    """Return a figure of its own with one bar for each of ``values``; see ``bars`` and ``show_figure``."""
    figure, (axes,) = new_figure(height=0.35 * len(values) + 0.65)
    bars(list(values), list(values.values()), color, unit, axes)
    return show_figure(figure, alt, caption)


def bars(labels: Sequence[str], values: Sequence[float], color: str, unit: str, axes: Axes) -> None:
    """Draw one horizontal bar a label, its value beside it."""
    drawn = axes.barh(range(len(labels)), values, color=color, height=0.6)
    axes.bar_label(drawn, fmt="{:,.4g}", padding=3, fontsize=SMALL, color=INK)
    axes.margins(x=0.15)
    _rows(axes, labels, unit)
