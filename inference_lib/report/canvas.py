"""A figure of the book: its style, and how it becomes part of a page that is light or dark.

It is an inline SVG: its ink is the page's text colour, its background the page's own, its text is text. Each carries a
description for readers who do not see it. It is drawn for a phone: a wide screen shows it in its own size, a narrow one
shrinks the whole, and the smallest text can still be read.
"""

import html
import io
import re

import matplotlib as mpl
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter

from inference_lib.report import labels

INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""

WIDTH = 5.4
"""Inches. A phone shows a figure so wide at 0.88 pixels a point."""

SMALL = 9.2
"""Points: the smallest text in a figure of that width. On a phone it is 8 pixels high."""

PLACES = 2
"""A point of a figure has so many in a row: markers of one place cover each other."""

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
    drawing = _without_hidden_markers(drawing)
    described = f'<svg role="img" aria-label="{html.escape(alt)}"'
    drawing = drawing.replace("<svg", described, 1)
    return HTML(f'<figure class="measured">{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>')


def _without_hidden_markers(drawing: str) -> str:
    """Return an SVG without the markers that lie behind their like: tens of thousands of points make a page slow."""
    seen = set[tuple[str, ...]]()

    def first(marker: re.Match[str]) -> str:
        symbol, x, y, style = marker.groups()
        place = (symbol, *(str(round(float(at) * PLACES)) for at in (x, y)), style)
        if place in seen:
            return ""
        seen.add(place)
        return marker[0]

    return re.sub(r'\s*<use xlink:href="([^"]*)" x="([-.\d]+)" y="([-.\d]+)" style="([^"]*)"/>', first, drawing)


def plain_ticks(axes: Axes, *names: str) -> None:
    """Label a log scale with plain numbers (0.3, 20, 10,000), and minor ticks too where decades are few."""
    for name in names:
        axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
        low, high = sorted(axis.get_view_interval())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        shown = "123456789" if high / low < 3 else "235" if high / low < 30 else "3"
        few = FuncFormatter(lambda value, _, shown=shown: f"{value:,.6g}" if f"{value:.0e}"[0] in shown else "")
        axis.set_minor_formatter(few if high / low < 300 else NullFormatter())
