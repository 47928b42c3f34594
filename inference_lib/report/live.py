"""A table that follows a measurement on a terminal; where there is none, its lines as they come."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from inference_lib.records.record import Record
from inference_lib.report.words import label
from inference_lib.support.progress import Bar

if TYPE_CHECKING:
    from inference_lib.measure.plan import Rival

COLUMNS = ("framework", "model", "batch", "starts", "ms", "note")
NUMBERS = ("batch", "starts", "ms")

AROUND = 9
"""Lines of the terminal that are not rows: the head, the lines about the work and what is left of it, the prompt."""


class Board:
    """What a measurement says of itself while it runs: pass ``say`` as its progress. What is left stands below.

    The table is drawn when there is news, and by nobody in between: a thread that draws would take a core from what is
    measured. It vanishes at the end.
    """

    def __init__(self, records: "Mapping[Rival, Record]", invocations: int, console: Console | None = None) -> None:
        self.records, self.invocations = records, invocations
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._seen: dict[Any, tuple[str, int]] = {}
        self._on_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._line = self._left = ""

    def __enter__(self) -> Self:
        if self._on_terminal:
            self._live.start()
            Bar.shown_by = self._show_left
        return self

    def __exit__(self, *exc: object) -> None:
        Bar.shown_by = None
        self._live.stop()

    def _show_left(self, text: str) -> None:
        self._left = text
        self.say(self._line)

    def say(self, line: str) -> None:
        """Tell a line about the work, with what is known by now above it."""
        if self._on_terminal:
            self._line = line
            self._live.update(self.table(line), refresh=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def table(self, line: str = "") -> Table:
        """Return the rows that changed last, as many as fit, the latest at the bottom."""
        for rival, record in self.records.items():
            state = (record.status, len(record.invocations))
            if (record.ok and not record.invocations) or self._seen.get(rival) == state:
                continue
            self._seen.pop(rival, None)  # to the end
            self._seen[rival] = state
        done = sum(not r.ok or len(r.invocations) >= self.invocations for r in self.records.values())
        about = f"{done} of {len(self.records)} rows done; {line.strip()}"
        below = Text("\n".join(filter(None, (about, self._left))), no_wrap=True, overflow="ellipsis")
        made = Table(caption=below, caption_justify="left", expand=True)
        for name in COLUMNS:
            made.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
        made.columns[-1].ratio = 1  # the note takes what the others leave
        for rival in list(self._seen)[-max(1, self._console.height - AROUND) :]:
            made.add_row(*map(Text, _row(self.records[rival], self.invocations)))
        return made


def _row(record: Record, invocations: int) -> tuple[str, ...]:
    measured = bool(record.invocations)
    return (
        label(record),
        record.model,
        str(record.batch_size),
        f"{len(record.invocations)}/{invocations}" if measured else "",
        f"{record.median('end_to_end').value:.3f}" if measured else "",
        record.why_not or "; ".join(record.flags),
    )
