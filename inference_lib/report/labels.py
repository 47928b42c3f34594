"""Labels beside points: moved until none covers another."""

import itertools
import math
from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import BboxBase

DISTANCES = (6, 12, 20, 30, 42, 56)
"""From a point to its label, in points; a near place is better than a far one."""


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
    """Give every label of ``axes`` the best of its ``places`` where it covers no label that has one already.

    Labels are what ``axes.annotate`` made. Call this last, when the figure has everything that takes room in it. A
    label that finds no free place within the figure is taken away: a table says what it said.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    taken: list[BboxBase] = []
    for label in [child for child in axes.texts if isinstance(child, Annotation)]:
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
