"""What is made when an edition is rendered, and put where its mark, a name in double braces, stands in a page."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from inference_lib.course import contribution
from inference_lib.course.contents import Course, chapters
from inference_lib.course.contribution import Contribution
from inference_lib.course.notebook import STAMP, raw_html
from inference_lib.records.record import Record
from inference_lib.records.runs import runs_of
from inference_lib.records.store import RecordStore, select
from inference_lib.report import explorer
from inference_lib.report.opening import Opening, figure, opening
from inference_lib.report.plots import provenance

MARK = re.compile(r"{{ (?P<name>opening|explorer|edition|executed|machines|run_times):?(?P<said>[\w -]*) }}")

STATIC = "../_static"
"""Where the static files of the site are, seen from a page under ``book/``."""


@dataclass(frozen=True)
class Marks:
    """The marks of one edition, ``local`` or ``published``; the published one shows nothing of this machine."""

    edition: str
    course: Course

    def fill(self, text: str, chapter: str = "") -> str:
        """Return the Markdown of a page, which may be the ``chapter`` of that name, with what its marks stand for."""

        def made(found: re.Match[str]) -> str:
            makers: dict[str, Callable[[], str]] = {
                "opening": self._opening,
                "explorer": self._explorer,
                "edition": self._measured_on,
                "executed": self._executed_on,
                "machines": lambda: contribution.as_markdown(self._brought, found["said"].split()),
                "run_times": lambda: self._run_times(chapter),
            }
            return makers[found["name"]]()

        return MARK.sub(made, text)

    @cached_property
    def opening(self) -> Opening | None:
        """What opens the book: of the published GPU, or of this machine where nothing is published."""
        return opening(self._published or self._here, self.course.published / "ceilings")

    @cached_property
    def _published(self) -> list[Record]:
        return RecordStore(self.course.published / "records").read()

    @cached_property
    def _here(self) -> list[Record]:
        return RecordStore(self.course.records).read() if self.edition == "local" else []

    @cached_property
    def _brought(self) -> dict[str, Contribution]:
        return contribution.machines(self.course.published / "machines")

    def _opening(self) -> str:
        nothing = "*Nothing was measured yet, so there is no figure.*"
        return raw_html(figure(self.opening).data) if self.opening else nothing

    def _explorer(self) -> str:
        """Return all rows there are: the published machine's, those that readers brought, and this machine's."""
        brought = {name: each.records for name, each in self._brought.items()}
        page = explorer.page([*self._published, *self._here], f"{STATIC}/explorer.js", brought)
        return raw_html(f'<link rel="stylesheet" href="{STATIC}/explorer.css">\n{page}')

    def _measured_on(self) -> str:
        """Return what the published edition was measured on, by run."""
        records = [record for record in self._published if record.ok]
        lines = [f"- Run {run}: {provenance(select(records, run=run))}" for run in runs_of(records)]
        return "\n".join(lines) or "- Nothing is published yet."

    def _executed_on(self) -> str:
        """Return which chapters of this edition were executed where, a line for each machine and profile."""
        folder = self.course.executed if self.edition == "local" else self.course.published
        found: dict[str, list[str]] = {}
        for chapter in chapters(self.course):
            for stamp in _stamps(folder / f"{chapter.name}.ipynb"):
                link = f"[{chapter.name.split('_')[0]}](../notebooks/{chapter.name})"
                found.setdefault(_where(stamp), []).append(link)
        lines = [f"- On {where}: {', '.join(links)}" for where, links in found.items()]
        return "\n".join(lines) or "- No chapter was executed yet."

    def _run_times(self, chapter: str) -> str:
        """Return how long a chapter ran, here and on the machine of the published edition."""
        folders = [*([self.course.executed] if self.edition == "local" else []), self.course.published]
        stamps = [stamp for folder in folders for stamp in _stamps(folder / f"{chapter}.ipynb")]
        return "; ".join(f"{stamp['seconds']:.0f} s on {_where(stamp)}" for stamp in stamps) or "not executed yet"


def _stamps(path: Path) -> list[dict[str, Any]]:
    """Return what the executed notebook at ``path`` says of its making; nothing where there is no whole one."""
    try:
        return [json.loads(path.read_bytes())["metadata"].get(STAMP, {})]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return []


def _where(stamp: dict[str, Any]) -> str:
    return f"{stamp['machine']} ({stamp['profile']} profile)"
