"""Labels of points that lie close together: each keeps its point and covers no other."""

import itertools

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from inference_lib.measure.roofline import Ceilings
from inference_lib.report import labels, plots


def labelled(points: list[tuple[float, float]], text: str) -> Axes:
    _, (axes,) = plots.new_figure()
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
    assert [label.xy for label in axes.texts if isinstance(label, Annotation)] == points


def test_a_label_without_room_is_taken_away_and_the_others_stay_apart() -> None:
    axes = labelled([(1.0, 1.0)] * 60 + [(2.0, 2.0)], "a label")
    assert 10 < len(axes.texts) < 60
    assert overlapping(axes) == 0


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def test_a_roofline_names_every_point_even_where_the_next_one_is_close() -> None:
    cells = {("vanilla_cnn", 1): (28.9, 1.67e12), ("mobilenet_v2", 1): (7.1, 1.79e12), ("resnet18", 1): (62.2, 1.9e13)}
    rows = [
        {"backend": "pytorch", "model": model, "batch": batch, "precision": "fp16", "FLOP/byte": place, "FLOP/s": rate}
        for (model, batch), (place, rate) in cells.items()
    ]
    figure, (axes, _) = plots.new_figure(height=6.4, rows=2)
    plots.roofline(pd.DataFrame(rows), Ceilings(flops={"fp16": 7.64e14}, bandwidth=3.0e12, machine="a GPU"), axes)
    shown = plots.show_figure(figure, alt="a roof").data
    for model, batch in cells:
        assert f">{model}, {batch}<" in shown
    assert ">FP16 764 TFLOP/s<" in shown


def test_a_crowded_figure_loses_numbers_and_labels_of_points_and_no_name() -> None:
    figure, (axes,) = plots.new_figure(width=2.5, height=1.5)
    axes.plot([0.1, 20], [1, 3], label="a line")
    for _ in range(5):
        axes.annotate("a point", (1, 2))
    axes.set(xscale="log", title="A title", xlabel="ms")
    axes.set_yticks([1, 1.1, 3], ["one", "nearly one", "three"])
    axes.legend()
    shown = plots.show_figure(figure, alt="a crowd").data
    kept = [text.get_text() for text in texts(figure)]
    assert kept.count("a point") == 1
    assert {"a line", "A title", "ms", "one", "nearly one", "three", "0.1", "1", "10"} <= set(kept)
    assert shown.count(">a point<") == 1
    boxes = [text.get_window_extent() for text in texts(figure) if text.get_text() != "nearly one"]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_a_scale_that_nobody_formatted_has_plain_numbers() -> None:
    figure, (axes,) = plots.new_figure()
    axes.plot([0.2, 30_000], [60, 80])
    axes.set(xscale="log", yscale="log")
    shown = plots.show_figure(figure, alt="scales").data
    assert ">10,000<" in shown
    assert ">70<" in shown
    assert "10^" not in shown
    assert "mathdefault" not in shown


def test_a_legend_above_takes_its_room_from_the_page_and_not_from_the_lines() -> None:
    heights = []
    for lines in (2, 20):
        figure, (axes,) = plots.new_figure()
        for number in range(lines):
            axes.plot([1, 2], [number, 2], label=f"line {number}")
        plots._legend_above(axes)
        figure.draw_without_rendering()
        heights.append(axes.get_window_extent().height)
    assert heights[1] > 0.8 * heights[0]
