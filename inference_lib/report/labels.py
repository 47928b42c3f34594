"""Labels beside points: moved until none covers another."""

import itertools
import math

from matplotlib.axes import Axes
from matplotlib.text import Annotation

DIRECTIONS = [math.radians(degrees) for degrees in (0, 45, 90, 135, 180, 225, 270, 315)]
DISTANCES = (6, 12, 20, 30, 42, 56)
"""From a point to its label, in points; a near place is better than a far one."""


def spread(axes: Axes) -> None:
    """Give every label of ``axes`` the nearest place beside its point where it covers no label given one before.

    Labels are what ``axes.annotate`` made. Call this last, when the figure has everything that takes room in it. A
    label that finds no free place within the figure is taken away: a table says what it said.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    taken = []
    for label in [child for child in axes.texts if isinstance(child, Annotation)]:
        for distance, angle in itertools.product(DISTANCES, DIRECTIONS):
            across, up = math.cos(angle), math.sin(angle)
            label.set_position((distance * across, distance * up))
            label.set_horizontalalignment("center" if abs(across) < 0.1 else "left" if across > 0 else "right")
            label.set_verticalalignment("center" if abs(up) < 0.1 else "bottom" if up > 0 else "top")
            box = label.get_window_extent()
            inside = figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and axes.bbox.y0 <= box.y0
            if inside and box.y1 <= axes.bbox.y1 and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
        else:
            label.remove()
