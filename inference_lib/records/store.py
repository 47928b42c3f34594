"""The folder that keeps records, and how some of them are picked."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from inference_lib.records.record import SCHEMA_VERSION, Key, Record, Status
from inference_lib.records.runs import by_numbers
from inference_lib.support.errors import CourseError
from inference_lib.support.files import cannot_write, make_writable, write_atomically

TRIED: tuple[Status, ...] = ("failed", "out_of_memory")
"""What is said of a row that was tried now. The other reasons why one is not measured hold before anything runs."""

UNWRITABLE = ("write records", "make the folder writable or choose another with --records")


class Shelf(Protocol):
    """What a measurement asks of the place of its records."""

    def find(self, key: Key) -> Record | None:
        """Return the record of this key, or None."""

    def keep(self, record: Record, whole: int) -> None:
        """Take one record of a row, which has so many invocations when it is whole."""


class RecordStore:
    """A folder of records. Writing is atomic: a reader sees the old record or the new one, never a part."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)

    def keep(self, record: Record, whole: int) -> None:
        """Write one record of a row, which has so many invocations when it is whole, unless what is there must stay.

        A row that was measured is never replaced by one that could not be: a whole one by none, a part of one by a
        failure to go on with it alone. While a whole one is measured again it lies aside, and comes back if that fails.
        """
        older, aside = self.find(record.key), self._path(record.key).with_suffix(".before")
        measured = len(older.invocations) if older and older.ok else 0
        tried = record.status in TRIED
        if record.ok:
            if measured >= whole > len(record.invocations):
                self._put(aside, self._path(record.key).read_bytes())
            self.write(record)
            if len(record.invocations) >= whole:
                aside.unlink(missing_ok=True)
        elif tried and aside.exists():
            aside.replace(self._path(record.key))
        elif measured < (whole if tried else 1):
            self.write(record)

    def write(self, record: Record) -> Path:
        """Write one record, in place of an older one of its key; CourseError where the folder cannot be written."""
        return self._put(self._path(record.key), record.model_dump_json(indent=1, exclude_none=True).encode())

    def _put(self, path: Path, content: bytes) -> Path:
        try:
            write_atomically(path, content)
        except OSError as error:
            raise cannot_write(self.directory, error, *UNWRITABLE) from error
        return path

    def check_writable(self) -> None:
        """Raise CourseError now, before anything is measured, if a record could not be written later."""
        make_writable(self.directory, *UNWRITABLE)

    def read(self) -> list[Record]:
        """Return all records, in the order of their file names; none for a folder that does not exist.

        Raise CourseError for a file that is not a record of this schema version.
        """
        return [_read(path) for path in sorted(self.directory.glob("*.json"), key=lambda path: by_numbers(path.name))]

    def find(self, key: Key) -> Record | None:
        """Return the record of this key, or None: another's may have a file of the same name."""
        path = self._path(key)
        found = _read(path) if path.exists() else None
        return found if found and found.key == key else None

    def _path(self, key: Key) -> Path:
        return self.directory / key.file_name


def _read(path: Path) -> Record:
    try:
        record = Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CourseError(f"cannot read {path}: {error.strerror}; move it away or choose another folder") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise CourseError(
            f"{path} is not a measurement record ({first['msg']}); delete it and measure again"
        ) from error
    if record.schema_version != SCHEMA_VERSION:
        raise CourseError(
            f"{path} has record schema {record.schema_version}, this library reads {SCHEMA_VERSION}; "
            "delete it and measure again"
        )
    return record


def select(records: Iterable[Record], **wanted: object) -> list[Record]:
    """Return the measured records with the wanted attributes: ``model="resnet18"``, ``batch_size=[1, 8]``."""
    return [record for record in select_all(records, **wanted) if record.ok]


def select_all(records: Iterable[Record], **wanted: object) -> list[Record]:
    """Return the records with the wanted attributes, measured or not."""

    def fits(record: Record, name: str, value: object) -> bool:
        found = getattr(record, name)
        return found in value if isinstance(value, list | tuple | set) else found == value

    return [r for r in records if all(fits(r, name, value) for name, value in wanted.items())]
