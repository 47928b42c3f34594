"""Machines that readers bring: their records, checked for everything that would not be believed.

Each stands beside the edition's own in ``book/published/machines/NAME``: a description and a folder of records. Tables
show a machine by itself, so that no two cards are ever mixed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, Field

from inference_lib.backends import BACKENDS
from inference_lib.course.notebook import raw_html
from inference_lib.measure import accuracy
from inference_lib.measure.profiles import get_profile
from inference_lib.records.record import SCHEMA_VERSION, Record
from inference_lib.records.replication import MOST_CONTRADICTED, cell, contradicted_percent, replication
from inference_lib.records.runs import runs_of
from inference_lib.records.store import RecordStore, select, select_all
from inference_lib.report.rivals import Rivals
from inference_lib.report.words import held
from inference_lib.seam import DEVICE_KINDS, MODELS, PRECISIONS
from inference_lib.support.errors import CourseError, first_line
from inference_lib.support.files import shown
from inference_lib.support.places import places_in

DESCRIPTION, RECORDS = "description.json", "records"

THOROUGH = get_profile("full")
"""What an edition is measured with, and so a contribution to it."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
WORDS = re.compile(r"[\w .,:;()@+/'-]{0,120}")
"""A name of hardware, software or a person: nothing that a page would take for markup."""


class Contribution(BaseModel):
    """One machine with all that was measured on it. All but the name and who measured is read off the records."""

    name: str
    measured_by: str = ""
    records: list[Record] = Field(min_length=1)

    @property
    def machines(self) -> dict[str, str]:
        """What a reader calls the machine, by the kind of device that did the work."""
        return {record.device: record.machine.name(record.device) for record in self.records}

    @property
    def runs(self) -> list[str]:
        """The names of the runs; the first is shown, the others say how far its claims hold."""
        return runs_of(self.records)

    def description(self) -> str:
        """Return what a reader is told of it, as JSON; ``rows`` are the measured cells of the first run."""
        about = {
            "name": self.name,
            "measured_by": self.measured_by,
            "machines": self.machines,
            "measured_on": str(max(record.measured_on for record in self.records)),
            "runs": self.runs,
            "versions": self.records[0].machine.packages,
            "rows": len(select(self.records, run=self.runs[0])),
        }
        return json.dumps(about, indent=1, ensure_ascii=False)


def describe(records: Sequence[Record], name: str = "", measured_by: str = "") -> Contribution:
    """Return ``records`` as those of one machine; without a ``name``, it is the machine's own.

    Raises:
        CourseError: there are none.

    """
    if not records:
        tried = f"no cell of the course's networks that two runs with --profile {THOROUGH.name} tried"
        raise CourseError(f"there is nothing to contribute: {tried}")
    found = Contribution(name=name, measured_by=measured_by, records=list(records))
    own = found.machines.get("cuda") or next(iter(found.machines.values()))
    return found.model_copy(update={"name": name or re.sub(r"[^a-z0-9]+", "-", own[:60].lower()).strip("-")})


# What would not be believed


def problems(found: Contribution) -> list[str]:
    """Return why a contribution is not believed, a line each; none if it is."""
    lines = [*_wrong_with_the_whole(found)]
    cells: dict[str, list[Record]] = {}
    for record in found.records:
        for problem in (*_wrong_with_what_it_says(record), *(_wrong_with_its_numbers(record) if record.ok else ())):
            cells.setdefault(problem, []).append(record)
    lines += [f"{problem}: {_named(records)}" for problem, records in cells.items()]
    if lines:
        return lines
    first, second = (select(found.records, run=run) for run in found.runs[:2])
    return [*_not_measured_twice(first, second), *_not_replicated(first, second)]


def _named(records: Sequence[Record]) -> str:
    more = f" and {len(records) - 1} more" if len(records) > 1 else ""
    return f"{records[0].key.file_name}{more}"


def _wrong_with_the_whole(found: Contribution) -> Iterator[str]:
    if not NAME.fullmatch(found.name):
        yield "the name of a machine is made of small letters, digits and hyphens; give one with --name"
    if not WORDS.fullmatch(found.measured_by) or places_in(found.measured_by):
        yield "who measured is told in more than a name"
    if len({record.key for record in found.records}) < len(found.records):
        yield "two records are of the same cell"
    if any(record.machine.name(record.device) != found.machines[record.device] for record in found.records):
        yield "the records are several machines'; contribute one at a time"
    if len(found.runs) < 2:
        yield "there is one run; measure the same grid again with --run 2, so that its claims can be checked"
    if not select(found.records, run=found.runs[0]):
        yield "nothing was measured in the first run"


def _wrong_with_what_it_says(record: Record) -> Iterator[str]:
    """Yield what is odd about the words of a record, whatever was measured."""
    machine = record.machine
    words = [record.version, record.run, record.rivals, machine.name(record.device), machine.driver or ""]
    words += [machine.system, machine.python, machine.commit or ""]
    if record.schema_version != SCHEMA_VERSION:
        yield f"it has record schema {record.schema_version}, this library reads {SCHEMA_VERSION}"
    if record.profile != THOROUGH.name:
        yield f"measured with another profile than {THOROUGH.name}"
    if record.backend not in BACKENDS or record.title != BACKENDS[record.backend].title:
        yield "no backend of this library has that name and title"
    if record.model not in MODELS or record.model_title != MODELS[record.model].title:
        yield "no network of the course has that name and title"
    elif record.pictures != MODELS[record.model].dataset.name:
        yield "its answers were not checked on the course's pictures"
    if record.precision not in PRECISIONS or record.device not in DEVICE_KINDS or record.batch_size < 1:
        yield "no workload has that precision, device or batch size"
    if not all(map(WORDS.fullmatch, [*words, *machine.packages, *machine.packages.values()])):
        yield "a name or a version in it is neither"
    if places_in(record.model_dump_json()):
        yield "it names a place of the machine, such as a path"


def _wrong_with_its_numbers(record: Record) -> Iterator[str]:
    """Yield what is odd about a measured record: too little of it, or numbers that no clock gives.

    That times are positive and quantiles as many as they should be, a record says itself when it is read.
    """
    rounds = THOROUGH.rounds_at(record.batch_size, record.device)
    on_gpu = record.device == "cuda"
    if not record.fingerprint or not record.version or "torch" not in record.machine.packages:
        yield "it does not say which code and versions measured it"
    if on_gpu and not record.machine.gpu:
        yield "it was measured on a GPU without a name"
    if record.measured_on > datetime.now(UTC).date() + timedelta(days=1):
        yield "it was measured in the future"
    if len({invocation.number for invocation in record.invocations}) < THOROUGH.invocations:
        yield f"it has fewer than {THOROUGH.invocations} invocations"
    for invocation in record.invocations:
        times, quantiles = invocation.end_to_end_ms, invocation.quantiles
        if len(times) < rounds or invocation.iterations < rounds * THOROUGH.least_iterations:
            yield f"an invocation has fewer than {rounds} rounds of {THOROUGH.least_iterations} inferences"
        if len(invocation.device_ms) != (len(times) if on_gpu else 0):
            yield "its rounds on the device are not those end to end"
        if quantiles != sorted(quantiles):
            yield "the distribution of its inferences is none"
        elif not all(quantiles[0] * 0.99 <= ms <= quantiles[-1] * 1.01 for ms in times):
            yield "a round took longer or shorter than any of its inferences"
    if record.accuracy and not 0 <= (record.accuracy.accuracy_percent or 0) <= 100:
        yield "its accuracy is not a percentage"
    precision = PRECISIONS.get(record.precision)
    if record.accuracy and precision and accuracy.problem(record.accuracy, precision):
        yield "its answers are not the reference's"


def _not_measured_twice(first: Sequence[Record], second: Sequence[Record]) -> Iterator[str]:
    unchecked = [record for record in first if record.accuracy is None]
    if unchecked:
        yield f"its answers were not checked on the test set: {_named(unchecked)}"
    again = {cell(record): record for record in second}
    if once := [record for record in first if cell(record) not in again]:
        yield f"it was not measured in the second run: {_named(once)}"
    pairs = [(record, again[cell(record)]) for record in first if cell(record) in again]
    if copied := [one for one, other in pairs if _times(one) & _times(other)]:
        yield f"the second run has times of the first, to the last digit: {_named(copied)}"
    if apart := [one for one, other in pairs if one.fingerprint != other.fingerprint]:
        yield f"other code or versions measured it in the second run: {_named(apart)}"


def _times(record: Record) -> set[tuple[float, ...]]:
    return {tuple(invocation.end_to_end_ms) for invocation in record.invocations}


def _not_replicated(first: Sequence[Record], second: Sequence[Record]) -> Iterator[str]:
    for kind, counts in replication(first, second).items():
        claims, wrong = counts["claims"], counts["contradicted"]
        if contradicted_percent(counts) > MOST_CONTRADICTED:
            yield f"the second run contradicts {wrong} of {claims} claims of the first ({kind.replace('_', ' ')})"


# On disk


def write(found: Contribution, folder: Path) -> None:
    """Write a contribution to ``folder``, a file a record."""
    for record in found.records:
        RecordStore(folder / RECORDS).write(record)
    (folder / DESCRIPTION).write_text(f"{found.description()}\n")


def machines(folder: Path) -> dict[str, Contribution]:
    """Return the contributed machines in ``folder``, by name.

    Raises:
        CourseError: one of them cannot be read.

    """
    return {path.name: _read(path) for path in sorted(folder.glob("[!.]*")) if path.is_dir()}


def _read(folder: Path) -> Contribution:
    records = RecordStore(folder / RECORDS).read()
    try:
        who = json.loads((folder / DESCRIPTION).read_bytes())["measured_by"]
        return Contribution(name=folder.name, measured_by=who, records=records)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CourseError(f"{shown(folder)} is no contribution: {first_line(str(error))}; add it again") from error


# What a page shows

NOBODY_YET = (
    "No reader has brought a machine with these rows yet. [Reproducing the numbers](../book/reproducing) says how "
    "three commands bring yours."
)


def as_markdown(found: Mapping[str, Contribution], rivals: Sequence[str] = ()) -> str:
    """Return what contributed machines measured of ``rivals`` (of all backends, where none is named), for a page.

    A machine has a table of its own: the smallest batch, every precision, and how far its claims held.
    """
    names = list(rivals or BACKENDS)
    return "\n\n".join(filter(None, (_section(each, names) for each in found.values()))) or NOBODY_YET


def _section(found: Contribution, rivals: Sequence[str]) -> str:
    first, second = (select(found.records, run=run) for run in found.runs[:2])
    measured = select(first, backend=list(rivals))
    if not measured:
        return ""
    rows = select_all(found.records, run=found.runs[0], backend=list(rivals))
    smallest = min(record.batch_size for record in measured)
    table = Rivals.of(rivals, rows, [], list(PRECISIONS)).table(smallest)
    who = f", measured by {found.measured_by}" if found.measured_by else ""
    counts = replication(first, second)["end_to_end"]
    said = f"**{found.name}** ({', '.join(found.machines.values())}{who}): {held(counts)}."
    return f"{said}\n\n{raw_html(table.data)}"
