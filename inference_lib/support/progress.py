"""How much is left of what takes longer than a few seconds: a bar, where somebody watches, and nothing anywhere else.

It is drawn on standard error when there is news, twice a second at most, and vanishes at the end.
"""

import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TextIO, TypeVar

from tqdm import tqdm

DELAY_S = 3.0
"""What is over sooner needs no bar."""

INTERVAL_S = 0.5
TICK_S = 1.0

FORMAT = "{l_bar}{bar}| {n:.0f} of {total:.0f}, {elapsed} so far, {remaining} left{postfix}"

T = TypeVar("T")


def watched() -> bool:
    """Whether a person sees what is written now: at a terminal, or in a notebook that is open.

    A notebook's kernel is told with each cell whether somebody is there who could answer a question (``allow_stdin`` of
    https://jupyter-client.readthedocs.io/en/stable/messaging.html#execute). JupyterLab and its kind say yes; papermill,
    nbconvert, nbval and all else that executes a notebook to keep its outputs say no.
    """
    if Bar.shown_by is not None or (sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        return True
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if (kernel := getattr(shell, "kernel", None)) is None:
        return False
    return bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


class Bar(tqdm):
    """A bar of steps, see :func:`bar`. The remaining time is that of the steps so far, on average, times those left."""

    monitor_interval = 0  # no thread that looks after bars: it would take a core from what is measured

    shown_by: ClassVar[Callable[[str], object] | None] = None
    """Gets the bar's text in place of standard error, the empty one at its end: for what draws there itself."""

    def update(self, n: float | None = 1) -> bool | None:
        """Count ``n`` steps more, up to all of them."""
        return super().update(min(n or 0, (self.total or 0) - self.n))

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar, unless it is too early for one; say whether it was drawn here."""
        if not self._late():
            return False
        self.last_print_t = self._time()  # or the end would take it for one that was never drawn
        if Bar.shown_by is None:
            return super().display(msg, pos)
        Bar.shown_by(str(self) if msg is None else msg)
        return False

    def clear(self, *args: Any, **options: Any) -> None:
        """Make room for a line, where the bar has taken any."""
        if self._late() and Bar.shown_by is None:
            super().clear(*args, **options)

    def _late(self) -> bool:
        return self._time() - self.start_t >= self.delay


def no_bar() -> Bar:
    """Return a bar that shows nothing."""
    return Bar(disable=True)


def bar(total: float, what: str, done: float = 0) -> Bar:
    """Return a bar of ``total`` steps, to be entered; ``update`` counts one. Inside another bar, it shows nothing.

    ``done`` steps were made before, and say nothing of the time that the others take.
    """
    if not watched() or Bar._instances:
        return Bar(total=total, disable=True)
    return Bar(
        total=total,
        desc=what,
        initial=done,
        delay=DELAY_S,
        leave=False,
        mininterval=INTERVAL_S,
        miniters=0,
        smoothing=0,
        bar_format=FORMAT,
        dynamic_ncols=True,
    )


def each(items: Collection[T], what: str) -> Iterator[T]:
    """Yield ``items``, each of which is a step."""
    with bar(len(items), what) as shown:
        for item in items:
            yield item
            shown.update()


@contextmanager
def ticking(seconds: float, what: str) -> Iterator[None]:
    """Show how much is left of work that takes about ``seconds`` and tells nothing meanwhile.

    Where somebody watches, a thread draws once a second.
    """
    over = threading.Event()
    with bar(seconds, what) as shown:

        def tick() -> None:
            while not over.wait(TICK_S):
                shown.update(TICK_S)

        ticker = threading.Thread(target=tick, daemon=True)
        if not shown.disable:
            ticker.start()
        try:
            yield
        finally:
            over.set()
            if not shown.disable:
                ticker.join()


def say(line: str, file: TextIO | None = None) -> None:
    """Print a line, by default to standard output, above the bar that may be there."""
    with Bar.external_write_mode(file):
        print(line, file=file, flush=True)
