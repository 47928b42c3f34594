"""Show a reader the library's real source, never a copy of it that can age."""

import inspect
import pkgutil
import textwrap
from typing import Any

from IPython.display import Markdown, display


def show_source(thing: Any, name: str = "") -> None:
    """Show the source of ``thing``, or of ``name`` (dots allowed) in the module called ``thing``.

    It is displayed, not returned, so that one cell can show several.
    """
    if isinstance(thing, str):
        thing = pkgutil.resolve_name(f"{thing}:{name}")
    display(Markdown(f"```python\n{textwrap.dedent(inspect.getsource(thing)).rstrip()}\n```"))
