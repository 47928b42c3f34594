"""Labels of points and of scales: moved, or taken away, until none covers another."""

import itertools
import math
import re
from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.axis import Axis, Tick, XTick
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox, BboxBase

DISTANCES = (6, 12, 20, 30, 42, 56)
"""From a point to its label, in points; a near place is better than a far one."""

POINT = 5
"""The size of a point that a label keeps free, in points."""

NUMBER = re.compile(r"[-\N{MINUS SIGN}]?[\d.,]+")
"""A tick's label that others make up for; one that is a name has none."""


def places(first: int) -> Iterator[tuple[float, float, str, str]]:
    """Yield places beside a point, the best first: the way there, in points, and how a label is aligned there.

    ``first`` is the direction that is tried first at every distance, in degrees: 0 is to the right.
    """
    if first == 0:
        yield from ((DISTANCES[0], up, "left", "center") for up in (0, 9, -9, 18, -18))
    for distance, turn in itertools.product(DISTANCES, range(0, 360, 45)):
        across, up = (way(math.radians(first + turn)) for way in (math.cos, math.sin))
        aside = "center" if abs(across) < 0.1 else "left" if across > 0 else "right"
        yield distance * across, distance * up, aside, "center" if abs(up) < 0.1 else "bottom" if up > 0 else "top"


def spread(axes: Axes, first: int = 0) -> None:
    """Give every label of ``axes`` the best of its ``places`` where it covers no point and no label that has one.

    Labels are what ``axes.annotate`` made. Call this last, when the figure has everything that takes room in it. A
    label that finds no free place within the figure is taken away: a table says what it said.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    labels = [child for child in axes.texts if isinstance(child, Annotation)]
    half = POINT / 2 * figure.dpi / 72
    points = [axes.transData.transform(label.xy) for label in labels]
    taken: list[BboxBase] = [Bbox.from_extents(*(point - half), *(point + half)) for point in points]
    for label in labels:
        for across, up, aside, above in places(first):
            label.set_position((across, up))
            label.set(ha=aside, va=above)
            box = label.get_window_extent()
            inside = figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and axes.bbox.y0 <= box.y0
            if inside and box.y1 <= axes.bbox.y1 and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
        else:
            label.remove()


def thin(figure: Figure) -> None:
    """Take away each label of a point and each number of a scale that would cover another text.

    Titles, legends and names stay, and of numbers those that were there first: major before minor.
    """
    figure.draw_without_rendering()
    scales = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [tick for get in (Axis.get_major_ticks, Axis.get_minor_ticks) for axis in scales for tick in get(axis)]
    beside = [tick.label1 for tick in ticks if _is_drawn(tick)]
    points = [text for axes in figure.axes for text in axes.texts if isinstance(text, Annotation)]
    spare = [text for text in (*beside, *points) if text in points or NUMBER.fullmatch(text.get_text())]
    left_out = {*spare, *(text for tick in ticks if not _is_drawn(tick) for text in (tick.label1, tick.label2))}
    taken = [text.get_window_extent() for text in figure.findobj(Text) if text not in left_out and _shows(text)]
    for text in filter(_shows, spare):
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            text.set_visible(False)
        else:
            taken.append(box)
    figure.set_layout_engine("none")  # what was seen to fit is what is drawn


def _is_drawn(tick: Tick) -> bool:
    """Tell whether a tick lies within its scale, and the scale is shown."""
    axis = tick.axes.xaxis if isinstance(tick, XTick) else tick.axes.yaxis
    low, high = sorted(axis.get_view_interval())
    slack = 1e-6 * (high - low)
    return tick.axes.axison and low - slack <= tick.get_loc() <= high + slack


def _shows(text: Text) -> bool:
    return text.get_visible() and bool(text.get_text().strip())
