"""Labels of points that lie close together: each keeps its point and covers no other."""

import itertools

import pytest
from matplotlib.axes import Axes

from inference_lib.report import labels, plots


def labelled(points: list[tuple[float, float]], text: str) -> Axes:
    figure, (axes,) = plots.new_figure()
    for point in points:
        axes.plot(*point, "o")
        axes.annotate(text, point, (6, -3), textcoords="offset points", fontsize="x-small")
    axes.set(xscale="log", yscale="log")
    axes.margins(0.2)
    labels.spread(axes)
    return axes


def overlapping(axes: Axes) -> int:
    boxes = [label.get_window_extent() for label in axes.texts]
    return sum(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("text", ["8", "mobilenet_v2, 256"])
def test_labels_of_close_points_cover_each_other_no_more(text: str) -> None:
    points = [(1 + 0.02 * i, 1 + 0.01 * i) for i in range(6)] + [(10.0, 10.0)]
    axes = labelled(points, text)
    assert len(axes.texts) == len(points)
    assert overlapping(axes) == 0
    assert [label.xy for label in axes.texts] == points


def test_a_label_without_room_is_taken_away_and_the_others_stay_apart() -> None:
    axes = labelled([(1.0, 1.0)] * 60 + [(2.0, 2.0)], "a label")
    assert 10 < len(axes.texts) < 60
    assert overlapping(axes) == 0
