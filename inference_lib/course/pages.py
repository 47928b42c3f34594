"""Prose pages with parts that are made from records when the book is rendered, each where its mark stands."""

import re
from collections.abc import Callable

from inference_lib.course import contribution
from inference_lib.course.notebook import raw_html
from inference_lib.course.run import Course
from inference_lib.records.record import Record
from inference_lib.records.runs import runs_of
from inference_lib.records.store import RecordStore, select
from inference_lib.report import explorer
from inference_lib.report.opening import Opening, figure, opening
from inference_lib.report.plots import provenance

MARK = re.compile(r"^{{ (?P<name>opening|explorer|edition) }}$", re.MULTILINE)

STATIC = "../_static"
"""Where the static files of the site are, seen from a page under ``book/``."""


def fill(text: str, edition: str, course: Course) -> str:
    """Return the Markdown of a page of ``edition`` with what its marks stand for."""
    made: dict[str, Callable[[], str]] = {
        "opening": lambda: _opening(edition, course),
        "explorer": lambda: _explorer(edition, course),
        "edition": lambda: _edition(course),
    }
    return MARK.sub(lambda found: made[found["name"]](), text)


def published(course: Course) -> list[Record]:
    """Return the records of the published edition."""
    return RecordStore(course.published / "records").read()


def here(edition: str, course: Course) -> list[Record]:
    """Return the records made on this machine; the published edition shows none of them."""
    return RecordStore(course.records).read() if edition == "local" else []


def opening_of(edition: str, course: Course) -> Opening | None:
    """Return what opens the book: of the published GPU, or of this machine where nothing is published."""
    return opening(published(course) or here(edition, course), course.published / "ceilings")


def _opening(edition: str, course: Course) -> str:
    found = opening_of(edition, course)
    return raw_html(figure(found).data) if found else "*Nothing was measured yet, so there is no figure.*"


def _explorer(edition: str, course: Course) -> str:
    """Return all rows there are: the published machine's, those that readers brought, and this machine's."""
    brought = contribution.machines(course.published / "machines").values()
    records = [*published(course), *(r for each in brought for r in each.records), *here(edition, course)]
    style = f'<link rel="stylesheet" href="{STATIC}/explorer.css">'
    return raw_html(f"{style}\n{explorer.page(records, f'{STATIC}/explorer.js')}")


def _edition(course: Course) -> str:
    """Return what the published edition was measured on, by run."""
    records = [record for record in published(course) if record.ok]
    lines = [f"- Run {run}: {provenance(select(records, run=run))}" for run in runs_of(records)]
    return "\n".join(lines) or "- Nothing is published yet."
