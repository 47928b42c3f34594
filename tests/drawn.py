"""What a reader sees of a drawn figure."""

import re

PHONE = 342
"""The width of a figure on a screen of 390 pixels, measured there."""


def smallest_text(svg: str) -> float:
    """Return the size of the smallest text of a figure on a phone, which shrinks it to the width of the page, pixels.

    A figure without text has none that is too small.
    """
    viewbox = re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+) [\d.]+"', svg, re.IGNORECASE)
    assert viewbox, "not a figure"
    sizes = re.findall(r"\bfont(?:-size)?:[^;\"]*?([\d.]+)px", svg)
    return min(map(float, sizes), default=float("inf")) * PHONE / float(viewbox[1])
