"""Machines that readers bring: records in one file, checked for everything that would not be believed.

Each stands beside the edition's own in ``book/published/machines/NAME``: a description and a folder of records. Tables
show a machine by itself, so that no two cards are ever mixed.
"""

import math
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ValidationError

from inference_lib.backends import BACKENDS
from inference_lib.measure import accuracy
from inference_lib.measure.profiles import get_profile
from inference_lib.records.record import Record
from inference_lib.records.replication import cell, replication
from inference_lib.records.statistics import QUANTILES
from inference_lib.records.store import RecordStore, select
from inference_lib.report.rivals import Rivals
from inference_lib.report.words import held
from inference_lib.seam import DEVICE_KINDS, MODELS, PRECISIONS
from inference_lib.support.errors import CourseError, first_line
from inference_lib.support.files import make_writable, shown
from inference_lib.support.places import places_in

DESCRIPTION, RECORDS = "description.json", "records"

THOROUGH = get_profile("full")
"""What a contribution is measured with: the profile of an edition."""

MOST_CONTRADICTED = 2.0
"""Claims of the first run that the second may contradict, percent, as in the command ``replicate``."""

MEMBER = re.compile(rf"{re.escape(DESCRIPTION)}|{RECORDS}/[\w.-]{{1,200}}\.json", re.ASCII)
MOST_FILES, MOST_BYTES, MOST_BYTES_A_FILE = 10_000, 200 * 2**20, 2 * 2**20
"""What an archive may hold: an edition has a thousand records of 15 kB or so."""

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
        raise CourseError(f"there are no records of the {THOROUGH.name} profile to contribute")
    machines = {record.device: record.machine.name(record.device) for record in records}
    own = machines.get("cuda") or next(iter(machines.values()))
    runs = sorted({record.run for record in records})
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
    if record.accuracy and not 0 <= record.accuracy.accuracy_percent <= 100:
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


# In and out of a file


def of_this_machine(records: Iterable[Record], name: str = "", measured_by: str = "") -> Contribution:
    """Return what may be contributed of ``records``: those of the thorough profile, without places in their words."""
    chosen = [record for record in records if record.profile == THOROUGH.name]
    told = [{"reason": _placeless(r.reason), "flags": [_placeless(flag) for flag in r.flags]} for r in chosen]
    return describe([r.model_copy(update=update) for r, update in zip(chosen, told, strict=True)], name, measured_by)


def _placeless(text: str) -> str:
    for place in places_in(text):
        text = text.replace(place, place.rsplit("/", 1)[-1] if place.startswith("/") else "(a host)")
    return text


def pack(found: Contribution, archive: Path) -> None:
    """Write a contribution to one file."""
    make_writable(archive.parent, "write the contribution", "name another file")
    part = archive.with_name(f".{archive.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(DESCRIPTION, found.description.model_dump_json(indent=1))
            for record in found.records:
                text = record.model_dump_json(indent=1, exclude_none=True)
                file.writestr(f"{RECORDS}/{record.key.file_name}", text)
        os.replace(part, archive)
    finally:
        part.unlink(missing_ok=True)


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


@contextmanager
def unpacked(archive: Path, parent: Path | None = None) -> Iterator[tuple[Path, Contribution]]:
    """Unpack a contribution into a passing folder beside others in ``parent``, and yield it with what it holds.

    Nothing is written but files with the names that a contribution has, in that folder: no links, no paths, no more
    and no larger than an edition's.

    Raises:
        CourseError: the file is no such archive.

    """
    with tempfile.TemporaryDirectory(dir=parent, prefix=".contribution-", ignore_cleanup_errors=True) as made:
        folder = Path(made, "machine")
        (folder / RECORDS).mkdir(parents=True)
        for name, content in _members(archive):
            (folder / name).write_bytes(content)
        try:
            found = read(folder)
        except CourseError as error:  # which names the file in a folder that will be gone
            raise CourseError(f"{shown(archive)}: {str(error).replace(f'{folder}/', '')}") from error
        yield folder, found


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield name and content of each file in an archive that holds nothing else than a contribution does."""
    try:
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
            _check_members(archive, members)
            for member in members:
                with file.open(member) as stream:
                    content = stream.read(MOST_BYTES_A_FILE + 1)  # what the archive says of sizes may be wrong
                if len(content) > MOST_BYTES_A_FILE:
                    raise _refusal(archive, f"{member.filename} is too large")
                yield PurePosixPath(member.filename), content
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error) as error:
        raise _refusal(archive, f"it cannot be unpacked ({first_line(str(error)) or type(error).__name__})") from error
    except OSError as error:
        raise CourseError(f"cannot read {shown(archive)}: {error.strerror or error}") from error


def _check_members(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if odd := next((name for name in names if not MEMBER.fullmatch(name)), None):
        raise _refusal(archive, f"{odd!r:.80} in it is neither {DESCRIPTION} nor a record")
    if any(member.external_attr >> 16 & 0o170000 not in (0, 0o100000) for member in members):
        raise _refusal(archive, "something in it is not a plain file")
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise _refusal(archive, "it is compressed in another way")
    if len(set(names)) < len(names):
        raise _refusal(archive, "two files in it have the same name")
    if len(names) > MOST_FILES or sum(member.file_size for member in members) > MOST_BYTES:
        raise _refusal(archive, f"it holds more than {MOST_FILES:,} files or {MOST_BYTES // 2**20} MiB")


def _refusal(archive: Path, why: str) -> CourseError:
    return CourseError(f"{shown(archive)} is not a contribution: {why}; ask for one made by `contribute`")


def add(archive: Path, machines_folder: Path) -> Path:
    """Put the machine of a contribution beside the others, and return its folder; the records are written anew.

    Raises:
        CourseError: it is not believed, its name is taken, or the folder cannot be written.

    """
    make_writable(machines_folder, "add a machine")
    with unpacked(archive, machines_folder) as (folder, found):
        if wrong := problems(found):
            raise CourseError(f"{shown(archive)} is not believed: {wrong[0]}")
        target = machines_folder / found.description.name
        if target.exists():
            raise CourseError(f"{shown(target)} is there already; move it away to take this one")
        shutil.rmtree(folder)
        for record in found.records:
            RecordStore(folder / RECORDS).write(record)
        (folder / DESCRIPTION).write_text(found.description.model_dump_json(indent=1) + "\n")
        os.replace(folder, target)
    return target


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
    page = "\n".join(line for line in table.data.splitlines() if line.strip())
    said = f"**{about.name}** ({', '.join(about.machines.values())}{who}). Of all its rows: {held(counts)}."
    return f"{said}\n\n```{{raw}} html\n{page}\n```"
