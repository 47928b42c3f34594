"""The folder that keeps records, and how some of them are picked."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from inference_lib.records.record import SCHEMA_VERSION, Key, Record
from inference_lib.records.runs import by_numbers
from inference_lib.support.errors import CourseError
from inference_lib.support.files import cannot_write, make_writable, write_atomically

UNWRITABLE = ("write records", "make the folder writable or choose another with --records")


class RecordStore:
    """A folder of records. Writing is atomic: a reader sees the old record or the new one, never a part."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)

    def keep(self, record: Record) -> Record:
        """Write one record and return it; where it could not be measured and an older one was, return that instead."""
        older = None if record.ok else self.find(record.key)
        if older is not None and older.ok:
            return older
        self.write(record)
        return record

    def write(self, record: Record) -> Path:
        """Write one record, in place of an older one of its key; CourseError where the folder cannot be written."""
        path = self.directory / record.key.file_name
        try:
            write_atomically(path, record.model_dump_json(indent=1, exclude_none=True).encode())
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
        """Return the record of this key, or None."""
        path = self.directory / key.file_name
        return _read(path) if path.exists() else None


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
