"""What the figures of the book show: records, spans of time, stages and plain numbers, drawn on a canvas."""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.text import Text

from inference_lib.measure.roofline import Ceilings
from inference_lib.records.record import Record
from inference_lib.records.statistics import Interval
from inference_lib.records.store import select_all
from inference_lib.report import labels
from inference_lib.report.canvas import INK, SMALL, new_figure, plain_ticks, show_figure
from inference_lib.report.style import style_of
from inference_lib.report.words import label
from inference_lib.seam import PRECISIONS

LINE = 0.2
"""The height of a line of a legend or of a box, inches."""

FLOW_GAP = 0.3
"""Between a row of boxes and the next, inches."""

UNIT_WIDTH = 51
"""The unit of a scale is broken where it is longer, characters; where several panels share the width, sooner."""

PART_COLORS = {"upload": "#56B4E9", "compute": "#D98C00", "download": "#CC79A7"}


def provenance(records: Sequence[Record]) -> str:
    """Return the machine, the software and the days that ``records`` come from, for a caption."""
    days: dict[str, set[str]] = {}
    for record in records:
        machine = record.machine
        driver = f", driver {machine.driver}" if record.device == "cuda" and machine.driver else ""
        source = f"{machine.name(record.device)}{driver}, torch {machine.packages.get('torch')}"
        days.setdefault(source, set()).add(str(record.measured_on))
    sources = [f"{source}, {' and '.join(sorted(measured))}" for source, measured in sorted(days.items())]
    return f"Measured on {'; '.join(sources)}." if sources else "Nothing measured yet."


def precision_alpha(name: str) -> float:
    """Return how opaque a line is where a figure shows several precisions: the less is multiplied, the stronger."""
    precision = PRECISIONS[name]
    if precision.storage != name:
        return 0.7  # TF32 stores what FP32 stores, and multiplies less of it
    return 0.45 if precision.bits >= 32 else 1.0


def reach(intervals: Sequence[Interval]) -> np.ndarray:
    """Return how far each interval reaches below and above its value, for Matplotlib's error bars; 0 without one."""
    ends = [[i.value if end is None else end for end in (i.low, i.high)] for i in intervals]
    return np.abs(np.reshape(ends, (-1, 2)).T - [i.value for i in intervals])


def latency_ecdf(records: Sequence[Record], axes: Axes) -> None:
    """Draw the share of inferences that took at most so long: one line a record, log scale in time."""
    for record in records:
        assert record.latency is not None
        sketch = record.latency.end_to_end.quantiles
        axes.plot(sketch, np.linspace(0, 100, len(sketch)), **_line(record, records))
    axes.set(xscale="log", xlabel="end-to-end latency, ms", ylabel="inferences at most this slow, %")
    plain_ticks(axes, "x")
    _legend_above(axes)


def throughput_over_latency(records: Sequence[Record], axes: Axes) -> None:
    """Draw images per second over latency, one line a backend and precision, one point a batch size.

    A point's bar is the 95 % interval of its latency.
    """
    measured = [record for record in records if record.latency]
    for backend, precision in dict.fromkeys((record.backend, record.precision) for record in measured):
        points = select_all(measured, backend=backend, precision=precision)
        points.sort(key=lambda record: record.batch_size)
        medians = [record.median("end_to_end") for record in points]
        milliseconds, fps = [median.value for median in medians], [record.fps or 0.0 for record in points]
        look = _line(points[0], records) | {"marker": style_of(backend).marker, "markersize": 5}
        axes.errorbar(milliseconds, fps, xerr=reach(medians), **look)
        for record, ms, images in zip(points, milliseconds, fps, strict=True):
            axes.annotate(str(record.batch_size), (ms, images), (4, -9), textcoords="offset points", fontsize=SMALL)
    axes.set(
        xscale="log", yscale="log", xlabel="end-to-end latency of a batch, ms", ylabel="images per second, end to end"
    )
    plain_ticks(axes, "x", "y")
    _legend_above(axes)
    labels.spread(axes, first=-45)


def _line(record: Record, among: Sequence[Record]) -> dict[str, Any]:
    """Return how the line of a record is drawn; one precision alone needs no telling apart."""
    style, precisions = style_of(record.backend), {other.precision for other in among}
    alpha = precision_alpha(record.precision) if len(precisions) > 1 else 1
    return {"color": style.color, "linestyle": style.dash, "alpha": alpha, "label": label(record)}


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
    mark: dict[str, Any] = {"fmt": "|", "color": INK, "markersize": 14, "markeredgewidth": 2}
    bar: dict[str, Any] = {"xerr": reach(medians), "elinewidth": 1, "capsize": 2}
    axes.errorbar([median.value for median in medians], positions, **mark, **bar, label="end to end")
    name_rows(axes, [label(r) for r in records], "median, ms")
    _legend_above(axes, columns=4)


def name_rows(axes: Axes, names: Sequence[str], unit: str) -> None:
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
    name_rows(axes, list(rows), "time →")
    axes.set_xticks([])


def measured_timeline(events: pd.DataFrame, axes: Axes) -> None:
    """Draw measured spans (measure.operations.timeline), a line for each ``row``; neighbours differ in shade."""
    rows = list(dict.fromkeys(events["row"]))
    for position, row in enumerate(rows):
        mine = events[events["row"] == row]
        color = PART_COLORS["compute"] if row == "device" or len(rows) == 1 else "#8A8F98"
        for first, alpha in ((0, 1.0), (1, 0.55)):
            spans = list(zip(mine["start_ms"][first::2], mine["length_ms"][first::2], strict=True))
            axes.broken_barh(spans, (position - 0.3, 0.6), color=color, alpha=alpha, linewidth=0)
    name_rows(axes, rows, "ms")


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
    labels.spread(axes)


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
    name_rows(axes, labels, unit)
