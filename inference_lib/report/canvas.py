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

MARK = re.compile(
    r'\s*<use xlink:href="#(?P<mark>\w+)" x="(?P<x>[-.\d]+)" y="(?P<y>[-.\d]+)" style="(?P<style>[^"]*)"/>'
)

MARKS = re.compile(
    r'<use xlink:href="#(?P<mark>\w+)" x="[^"]*" y="[^"]*" style="(?P<style>[^"]*)"/>'
    r'(?:\s*<use xlink:href="#(?P=mark)" x="[^"]*" y="[^"]*" style="(?P=style)"/>){99,}'
)
"""A hundred marks of a drawing, or more, that are alike."""

PLACES = 2
"""A point of a figure has so many in a row: marks of one place cover each other."""

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
    drawing, said = _light(_drawn(figure, alt)), html.escape(caption)
    return HTML(f'<figure class="measured">{drawing}<figcaption>{said}</figcaption></figure>')


def _drawn(figure: Figure, alt: str) -> str:
    """Return a figure as SVG that takes the page's ink and font."""
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
    return drawing.replace("<svg", described, 1)


def _light(drawing: str) -> str:
    """Return an SVG that looks the same, and does not keep a phone busy for seconds with tens of thousands of marks.

    A mark behind its like is left out. Of the others, a hundred or more that are alike become the corners of one line
    that is not drawn.
    """
    seen = set[tuple[str, ...]]()

    def first(mark: re.Match[str]) -> str:
        place = (mark["mark"], *(str(round(float(mark[at]) * PLACES)) for at in "xy"), mark["style"])
        if place in seen:
            return ""
        seen.add(place)
        return mark[0]

    def line(run: re.Match[str]) -> str:
        corners = " ".join(f"{mark['x']} {mark['y']}" for mark in MARK.finditer(run[0]))
        name, mark = f"{run['mark']}-{run.start()}", f'<use xlink:href="#{run["mark"]}" style="{run["style"]}"/>'
        return (
            f'<marker id="{name}" markerUnits="userSpaceOnUse" style="overflow: visible">{mark}</marker>'
            f'<path d="M {corners}" style="fill: none; marker: url(#{name})"/>'
        )

    return MARKS.sub(line, MARK.sub(first, drawing))


def plain_ticks(axes: Axes, *names: str) -> None:
    """Label a log scale with plain numbers (0.3, 20, 10,000), and minor ticks too where decades are few."""
    for name in names:
        axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
        low, high = sorted(axis.get_view_interval())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        shown = "123456789" if high / low < 3 else "235" if high / low < 30 else "3"
        few = FuncFormatter(lambda value, _, shown=shown: f"{value:,.6g}" if f"{value:.0e}"[0] in shown else "")
        axis.set_minor_formatter(few if high / low < 300 else NullFormatter())
