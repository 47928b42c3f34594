"""Machines that readers bring: their records, checked for everything that would not be believed.

Each stands beside the edition's own in ``book/published/machines/NAME``: a description and a folder of records. Tables
show a machine by itself, so that no two cards are ever mixed.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ValidationError

from inference_lib.backends import BACKENDS
from inference_lib.course.notebook import raw_html
from inference_lib.measure import accuracy
from inference_lib.measure.profiles import get_profile
from inference_lib.records.record import Record
from inference_lib.records.replication import cell, replication
from inference_lib.records.runs import runs_of
from inference_lib.records.statistics import QUANTILES
from inference_lib.records.store import RecordStore, select
from inference_lib.report.rivals import Rivals
from inference_lib.report.words import held
from inference_lib.seam import DEVICE_KINDS, MODELS, PRECISIONS
from inference_lib.support.errors import CourseError, first_line
from inference_lib.support.files import shown
from inference_lib.support.places import places_in

DESCRIPTION, RECORDS = "description.json", "records"

THOROUGH = get_profile("full")
"""What a contribution is measured with: the profile of an edition."""

MOST_CONTRADICTED = 2.0
"""Claims of the first run that the second may contradict, percent, as in the command ``replicate``."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
WORDS = re.compile(r"[\w .,:;()@+/'-]{0,120}")
"""A name of hardware, software or a person: nothing that a page would take for markup."""


class Description(BaseModel):
    """What a page says of a contributed machine. All but the name and who measured is read off the records."""

    name: str
    measured_by: str = ""
    machines: dict[str, str]
    """What a reader calls the machine, by the kind of device that did the work."""
    measured_on: date
    """The last day."""
    runs: list[str]
    versions: dict[str, str]
    rows: int
    """Measured cells of the first run."""


@dataclass(frozen=True)
class Contribution:
    """One machine with all that was measured on it."""

    description: Description
    records: list[Record]

    @property
    def first_run(self) -> list[Record]:
        """The records of the first run, measured or not; the others say how far its claims hold."""
        return [record for record in self.records if record.run == self.description.runs[0]]


def describe(records: Sequence[Record], name: str = "", measured_by: str = "") -> Contribution:
    """Return ``records`` with what they say of their machine; without a ``name``, it is the machine's own.

    Raises:
        CourseError: there are none.

    """
    if not records:
        tried = f"no cell of the course's networks that two runs with --profile {THOROUGH.name} tried"
        raise CourseError(f"there is nothing to contribute: {tried}")
    machines = {record.device: record.machine.name(record.device) for record in records}
    own = machines.get("cuda") or next(iter(machines.values()))
    runs = runs_of(records)
    described = Description(
        name=name or re.sub(r"[^a-z0-9]+", "-", own[:60].lower()).strip("-"),
        measured_by=measured_by,
        machines=machines,
        measured_on=max(record.measured_on for record in records),
        runs=runs,
        versions=records[0].machine.packages,
        rows=len(select(records, run=runs[0])),
    )
    return Contribution(described, list(records))


# What would not be believed


def problems(found: Contribution) -> list[str]:
    """Return why a contribution is not believed, a line each; none if it is."""
    about = found.description
    lines = [*_wrong_with_the_whole(found)]
    cells: dict[str, list[Record]] = {}
    for record in found.records:
        for problem in (*_wrong_with_what_it_says(record), *(_wrong_with_its_numbers(record) if record.ok else ())):
            cells.setdefault(problem, []).append(record)
    lines += [f"{problem}: {_named(records)}" for problem, records in cells.items()]
    if lines:
        return lines
    first, second = (select(found.records, run=run) for run in about.runs[:2])
    return [*_not_measured_twice(first, second), *_not_replicated(first, second)]


def _named(records: Sequence[Record]) -> str:
    more = f" and {len(records) - 1} more" if len(records) > 1 else ""
    return f"{records[0].key.file_name}{more}"


def _wrong_with_the_whole(found: Contribution) -> Iterator[str]:
    about, records = found.description, found.records
    if not NAME.fullmatch(about.name):
        yield "the name of a machine is made of small letters, digits and hyphens; give one with --name"
    if about != describe(records, about.name, about.measured_by).description:
        yield f"{DESCRIPTION} does not say what the records say"
    if not all(map(WORDS.fullmatch, (about.measured_by, *about.machines.values(), *about.versions.values()))):
        yield f"{DESCRIPTION} holds more than names and versions"
    if len({record.key for record in records}) < len(records):
        yield "two records are of the same cell"
    for device, name in about.machines.items():
        if any(record.device == device and record.machine.name(device) != name for record in records):
            yield f"the records of {device} are several machines'; contribute one at a time"
    if len(about.runs) < 2:
        yield "there is one run; measure the same grid again with --run 2, so that its claims can be checked"
    if not about.rows:
        yield "nothing was measured in the first run"


def _wrong_with_what_it_says(record: Record) -> Iterator[str]:
    """Yield what is odd about the words of a record, whatever was measured."""
    machine = record.machine
    words = [record.version, record.run, record.rivals, machine.name(record.device), machine.driver or ""]
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
    """Yield what is odd about a measured record: too little of it, or numbers that no clock gives."""
    rounds = THOROUGH.rounds_at(record.batch_size)
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
        if not all(math.isfinite(ms) and ms > 0 for ms in (*times, *quantiles, *invocation.device_ms)):
            yield "a time in it is not a positive number"
        elif len(quantiles) != QUANTILES or quantiles != sorted(quantiles):
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
    again = {cell(record) for record in second}
    if once := [record for record in first if cell(record) not in again]:
        yield f"it was not measured in the second run: {_named(once)}"


def _not_replicated(first: Sequence[Record], second: Sequence[Record]) -> Iterator[str]:
    for kind, counts in replication(first, second).items():
        claims, wrong = counts["claims"], counts["contradicted"]
        if 100 * wrong > MOST_CONTRADICTED * claims:
            yield f"the second run contradicts {wrong} of {claims} claims of the first ({kind.replace('_', ' ')})"


# On disk


def read(folder: Path) -> Contribution:
    """Return the contribution in ``folder``.

    Raises:
        CourseError: its description or one of its records cannot be read.

    """
    try:
        about = Description.model_validate_json((folder / DESCRIPTION).read_bytes())
    except FileNotFoundError as error:
        raise CourseError(f"{shown(folder)} has no {DESCRIPTION}; pack it with `contribute`") from error
    except ValidationError as error:
        said = first_line(error.errors()[0]["msg"])
        raise CourseError(f"{DESCRIPTION} of {folder.name} is not a description ({said})") from error
    return Contribution(about, RecordStore(folder / RECORDS).read())


def machines(folder: Path) -> dict[str, Contribution]:
    """Return the contributed machines in ``folder``, by name.

    Raises:
        CourseError: one of them cannot be read, or is not called what its description says.

    """
    found = {path.name: read(path) for path in sorted(folder.glob("[!.]*")) if path.is_dir()}
    for name, each in found.items():
        if each.description.name != name:
            raise CourseError(f"{shown(folder / name)} is called {each.description.name} in its {DESCRIPTION}")
    return found


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
    about, measured = found.description, select(found.first_run, backend=list(rivals))
    if not measured:
        return ""
    rows = [record for record in found.first_run if record.backend in rivals]
    smallest = min(record.batch_size for record in measured)
    table = Rivals.of(rivals, rows, [], list(PRECISIONS)).table(smallest)
    who = f", measured by {about.measured_by}" if about.measured_by else ""
    counts = replication(*(select(found.records, run=run) for run in about.runs[:2]))["end_to_end"]
    said = f"**{about.name}** ({', '.join(about.machines.values())}{who}): {held(counts)}."
    return f"{said}\n\n{raw_html(table.data)}"
