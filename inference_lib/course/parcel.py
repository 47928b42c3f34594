"""A contribution as one file: what of a machine's records goes into it, and how it joins the others."""

import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from inference_lib.course.contribution import THOROUGH, Contribution, describe, problems, write
from inference_lib.records.record import Record
from inference_lib.records.replication import cell
from inference_lib.records.runs import runs_of
from inference_lib.seam import MODELS
from inference_lib.support.errors import CourseError, first_line
from inference_lib.support.files import make_writable, shown, write_atomically
from inference_lib.support.places import places_in

MEMBER = "contribution.json"
"""The one member of the archive that is read; whatever else is in it stays there."""

MOST_BYTES = 200 * 2**20
"""What it may hold: an edition has a thousand records of 15 kB or so."""


def without_own(records: Sequence[Record], say: Callable[[str], None]) -> list[Record]:
    """Return the records of the course's networks on its pictures, and ``say`` how many others were left out.

    The book compares machines by what everybody can measure; what a reader calls her own is nobody's business.
    """
    found = [r for r in records if r.model in MODELS and r.pictures == MODELS[r.model].dataset.name]
    if own := len(records) - len(found):
        say(f"left out: {own} records of your own models or pictures, which nobody else can measure")
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
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(MEMBER, found.model_dump_json(indent=1, exclude_none=True))
    write_atomically(archive, content.getvalue())


def unpack(archive: Path) -> Contribution:
    """Return the contribution in a file that may come from anybody: it is read into memory, and nothing is written.

    Raises:
        CourseError: the file is no such archive.

    """
    try:
        with zipfile.ZipFile(archive) as file, file.open(MEMBER) as stream:
            content = stream.read(MOST_BYTES + 1)  # what the archive says of its size may be wrong
        if len(content) > MOST_BYTES:
            raise _refusal(archive, f"it holds more than {MOST_BYTES // 2**20} MiB")
        return Contribution.model_validate_json(content)
    except KeyError as error:
        raise _refusal(archive, f"it has no {MEMBER}") from error
    except ValidationError as error:
        raise _refusal(archive, first_line(error.errors()[0]["msg"])) from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error) as error:
        raise _refusal(archive, f"it cannot be unpacked ({first_line(str(error)) or type(error).__name__})") from error
    except OSError as error:
        raise CourseError(f"cannot read {shown(archive)}: {error.strerror or error}") from error


def _refusal(archive: Path, why: str) -> CourseError:
    return CourseError(f"{shown(archive)} is not a contribution: {why}; ask for one made by `contribute`")


def add(archive: Path, machines_folder: Path) -> Path:
    """Put the machine of a contribution beside the others, and return its folder.

    Raises:
        CourseError: it is not believed, its name is taken, or the folder cannot be written.

    """
    found = unpack(archive)
    if wrong := problems(found):
        raise CourseError(f"{shown(archive)} is not believed: {wrong[0]}")
    make_writable(machines_folder, "add a machine")
    target = machines_folder / found.name
    if target.exists():
        raise CourseError(f"{shown(target)} is there already; move it away to take this one")
    with tempfile.TemporaryDirectory(dir=machines_folder, prefix=".", ignore_cleanup_errors=True) as made:
        write(found, Path(made, "machine"))
        os.replace(Path(made, "machine"), target)
    return target
