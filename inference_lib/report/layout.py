"""How a table is shown: on a page as HTML, in a terminal or a README as text."""

import html
import math
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from IPython.display import HTML
from pandas.io.formats.style import Styler

MISSING = "-"

LARGEST, NOT_A_NUMBER = "largest difference", "not a number"
"""A difference is computed for every row that has one: a gap there is an answer that was no number."""

INTERVAL = "95 %"
"""Heads the column of an interval, whose cells are text and stand where numbers do."""

EIGHT_BITS = "in 8 bits %"
"""Heads the part of the multiply-adds whose factors have eight bits: there is none where a precision is no such."""

UNIT_FORMATS = {", ms": "{:.3f}", ", s": "{:.2f}"}
"""How numbers are written in a column whose name ends so; those of others go by the whole name."""

DIGITS = 4
"""Significant digits of a number that is no integer, in a column that nobody gave a format."""

SMALLEST = 1e-5
"""What is smaller, and not zero, has an exponent there."""

FORMATS = {
    "accuracy %": "{:.2f}",
    "agreement %": "{:.2f}",
    "latency ms": "{:.3f}",
    "p99 ms": "{:.3f}",
    "device ms": "{:.3f}",
    "FPS": "{:,.0f}",
    "images/s": "{:,.0f}",
    "throughput images/s": "{:,.0f}",
    "GPU memory MiB": "{:,.0f}",
    "GPU busy %": "{:.0f}",
    "compatible %": "{:.1f}",
    "on images": "{:,.0f}",
    "images": "{:,.0f}",
    "file MB": "{:.1f}",
    "mJ per image": "{:.2f}",
    "energy mJ/image": "{:,.1f}",
    EIGHT_BITS: "{:.1f}",
    LARGEST: "{:.1e}",
    "times PyTorch": "{:.1f}",
    "times faster": "{:.2f}",
    "ms": "{:.3f}",
    "points": "{:+.2f}",
    "p": "{:.2g}",
}


def show_table(
    table: pd.DataFrame, caption: str = "", formats: dict[str, str] | None = None, notes: Iterable[str] = ()
) -> HTML:
    """Return ``table`` as HTML: numbers formatted and right-aligned, gaps shown as a dash, ``notes`` numbered below it.

    Columns may have two levels; formats go by the lower one.
    """
    lowest = {name: str(name[-1] if isinstance(name, tuple) else name) for name in table.columns}
    wanted = {LARGEST: form(LARGEST)} | {last: form(last) for last in lowest.values()} | (formats or {})
    table = table.reset_index(drop=True)  # rows of several tables put together may have the same numbers
    known = {name: wanted[last] or plain(table[name]) for name, last in lowest.items()}
    numbers = [n for n, last in lowest.items() if last == INTERVAL or pd.api.types.is_numeric_dtype(table[n])]
    styled = (
        Styler(table, cell_ids=False, uuid=f"{zlib.crc32(caption.encode()):x}")
        .format(known, na_rep=MISSING, escape="html")
        .format(wanted[LARGEST], na_rep=NOT_A_NUMBER, subset=[n for n, last in lowest.items() if last == LARGEST])
        .hide(axis="index")
        .set_caption(html.escape(caption, quote=False))
        .set_td_classes(pd.DataFrame("number", index=table.index, columns=table.columns)[numbers])
        .set_table_attributes('class="measured"')
    )
    page = styled.to_html().replace('<style type="text/css">\n</style>\n', "")
    below = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    listed = f'<ol class="measured-notes">{below}</ol>' if below else ""
    return HTML(f'<div class="measured-table">{page}</div>{listed}')


def form(name: str) -> str | None:
    """Return the number format of a column by its name, or by the unit at the name's end: ``load, s``."""
    by_unit = next((text for unit, text in UNIT_FORMATS.items() if name.endswith(unit)), None)
    return FORMATS.get(name, by_unit)


def plain(column: pd.Series) -> Callable[[Any], Any]:
    """Return what writes the cells of ``column`` where it has no format: floats so that they can be read, others as is.

    A column of floats may hold whole numbers only, because of a gap; they are written as such.
    """
    numbers = [cell for cell in column if isinstance(cell, float) and math.isfinite(cell)]
    whole = all(number == int(number) for number in numbers)

    def write(cell: Any) -> Any:
        if not isinstance(cell, float) or not math.isfinite(cell):
            return cell
        rounded = f"{cell:.{DIGITS - 1}e}"
        if 0 < abs(cell) < SMALLEST:
            return rounded
        decimals = DIGITS - 1 - int(rounded.partition("e")[2])
        return f"{cell:,.{0 if whole or not cell else max(0, decimals)}f}"

    return write


def text_table(table: pd.DataFrame, kind: str = "simple") -> str:
    """Return ``table`` for a terminal, or in Markdown (``pipe``): a gap is a dash, numbers are right-aligned."""
    shown, sides = table.astype(object), []
    for name in table.columns:
        number = pd.api.types.is_numeric_dtype(table[name])
        given = form(str(name)) if number else None
        write = given.format if given else plain(table[name])
        shown[name] = [MISSING if pd.isna(value) else str(write(value)) for value in table[name]]
        sides.append("right" if number else "left")
    return shown.to_markdown(index=False, tablefmt=kind, disable_numparse=True, colalign=sides)
