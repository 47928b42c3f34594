"""Numbers in sentences: a code cell glues a value to a name, and markdown of the same page shows it.

``glue("04-speedup", 3.2)`` emits a display output that nobody sees. The book's renderer, myst-nb, finds it by its
metadata and puts it where the markdown says ``{glue:text}`04-speedup:.1f` ``, formatted like Python's ``format``.
No part of myst-nb is needed to run the cell, so a machine without the book's tools can run it.

How it works: the metadata ``{"scrapbook": {"name": NAME, "mime_prefix": PREFIX}}`` mark the output, and PREFIX stands
before each of its MIME types, so that no program displays it. ``{glue:text}`` reads ``text/plain``, takes it for a
Python literal (so a string loses its quotes) and formats that; a format such as ``.1f`` therefore needs a plain
number, which is why NumPy's are converted. ``{glue:}`` shows the richest form of the value instead, such as a table.

A name is found on its own page only, and a second use of it there is a warning. Names start with the chapter's number,
which keeps them apart in the whole book.
"""

from typing import Any

from IPython.core.formatters import format_display_data
from IPython.display import display

PREFIX = "application/papermill.record/"


def glue(name: str, value: Any) -> None:
    """Make ``value`` available to the page's markdown as ``name``."""
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 0) == 1 else value
    data, metadata = format_display_data(value)
    metadata["scrapbook"] = {"name": name, "mime_prefix": PREFIX}
    display({PREFIX + mime: content for mime, content in data.items()}, raw=True, metadata=metadata)
