"""A contribution as one file: packed here, unpacked where nothing in it can do harm, added to the others."""

import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from inference_lib.course.contribution import (
    DESCRIPTION,
    RECORDS,
    THOROUGH,
    Contribution,
    describe,
    problems,
    read,
)
from inference_lib.records.record import Record
from inference_lib.records.replication import cell
from inference_lib.records.runs import runs_of
from inference_lib.records.store import RecordStore
from inference_lib.seam import MODELS
from inference_lib.support.errors import CourseError, first_line
from inference_lib.support.files import make_writable, shown
from inference_lib.support.places import places_in

MEMBER = re.compile(rf"{re.escape(DESCRIPTION)}|{RECORDS}/[\w.-]{{1,200}}\.json", re.ASCII)
MOST_FILES, MOST_BYTES, MOST_BYTES_A_FILE = 10_000, 200 * 2**20, 2 * 2**20
"""What an archive may hold: an edition has a thousand records of 15 kB or so."""


def without_own(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """Return the records of the course's networks on its pictures, and those of what a reader brought.

    The book compares machines by what everybody can measure; what a reader calls her own is nobody's business.
    """
    found: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        course = MODELS.get(record.model)
        found[course is None or record.pictures != course.dataset.name].append(record)
    return found


def of_this_machine(records: Iterable[Record], name: str = "", measured_by: str = "") -> Contribution:
    """Return what may be contributed of ``records``, without places in their words.

    Those are the cells of the thorough profile that both of the first two runs tried, whatever came of it.
    """
    thorough = [record for record in records if record.profile == THOROUGH.name]
    runs = runs_of(thorough)[:2]
    tried = [{cell(record) for record in thorough if record.run == run} for run in runs]
    both = set.intersection(*tried) if tried else set()
    chosen = [record for record in thorough if record.run in runs and cell(record) in both]
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
