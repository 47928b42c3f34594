"""The measurement record: one JSON file per backend, workload and machine, and the folder that keeps them.

Every number in the book comes out of a record. A cell that could not be measured has a record too, with the reason.
"""

import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from inference_lib.errors import CourseError
from inference_lib.files import cannot_write, make_writable, write_atomically
from inference_lib.measure.machine import Machine

SCHEMA_VERSION = 2

UNWRITABLE = ("write records", "make the folder writable or choose another with --records")

Status = Literal["ok", "unavailable", "unsupported", "out_of_memory", "failed"]


class Distribution(BaseModel):
    """A series of times, milliseconds."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    cv_percent: float
    """Standard deviation over mean."""
    median_low: float
    median_high: float
    """Ends of the 95 % confidence interval of the median."""
    samples: int
    stop_reason: str
    quantiles: list[float]
    """At 0, 0.5, ..., 100 percent."""


class Latency(BaseModel):
    """The time of one inference, as a whole and in its parts."""

    end_to_end: Distribution
    upload: Distribution
    compute: Distribution
    download: Distribution


class Build(BaseModel):
    """What it costs to get to the first answer."""

    export_s: float
    load_s: float
    first_inference_s: float
    artifact_mib: float


class Accuracy(BaseModel):
    """The exported model on the test set, alone and beside the FP32 eager reference."""

    accuracy_percent: float
    agreement_percent: float
    """Images on which the predicted class is the reference's."""
    largest_difference: float
    """Largest absolute difference of a logit from the reference, over the largest absolute reference logit."""
    images: int


class Clocks(BaseModel):
    """The GPU right after the timed series: its SM clock, and what held it down."""

    sm_mhz: float
    throttle_reasons: list[str]


class Load(BaseModel):
    """The GPU under back-to-back inferences, sampled through NVML in a phase of its own."""

    busy_percent: float
    sm_clock_mhz: float
    power_w: float
    temperature_c: float
    peak_memory_mib: float
    """Largest memory in use on the GPU, by all processes."""
    energy_mj_per_image: float | None = None
    throttle_reasons: list[str]
    samples: int
    seconds: float


class Record(BaseModel):
    """One cell of the tables."""

    schema_version: int = SCHEMA_VERSION
    status: Status
    reason: str = ""
    backend: str
    title: str
    version: str = ""
    model: str
    batch_size: int
    precision: str
    device: str
    machine: Machine
    profile: str
    measured_on: date
    fingerprint: str = ""
    """Hash of everything that a repetition would share: the library's code, the weights, the machine, the profile."""
    build: Build | None = None
    latency: Latency | None = None
    throughput_images_per_s: float | None = None
    """Batches computed back to back, their images on the device already."""
    overlapped_images_per_s: float | None = None
    """Batches from pinned host memory to pinned host memory, copies and computation overlapped."""
    accuracy: Accuracy | None = None
    gpu_memory_mib: float | None = None
    """Peak GPU memory that this process added to the baseline (NVML, CUDA context included)."""
    gpu_memory_baseline_mib: float | None = None
    """GPU memory in use by the driver and other processes before this process touched the GPU (NVML)."""
    clocks: Clocks | None = None
    load: Load | None = None
    measuring_s: float | None = None
    """What measuring the cell took once it had answered for the first time."""
    flags: list[str] = Field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the cell was measured."""
        return self.status == "ok"

    @property
    def why_not(self) -> str:
        """Why the cell was not measured: its status and the reason; empty if it was."""
        return "" if self.ok else f"{self.status.replace('_', ' ')}: {self.reason}"

    @property
    def fps(self) -> float | None:
        """Images per second of one caller who waits for every answer: batch size over median latency."""
        return self.batch_size / self.latency.end_to_end.p50 * 1e3 if self.latency else None

    @property
    def file_name(self) -> str:
        """Name that the same cell has on every machine's shelf."""
        machine = re.sub(r"[^a-z0-9]+", "-", self.machine.name(self.device).lower()).strip("-")
        return f"{machine}--{self.backend}--{self.model}-{self.device}-{self.precision}-b{self.batch_size}.json"


class RecordStore:
    """A folder of records. Writing is atomic: a reader sees the old record or the new one, never a part."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)

    def write(self, record: Record) -> Path:
        """Write one record, in place of an older one of the same cell.

        Raises:
            CourseError: the folder cannot be written.

        """
        path = self.directory / record.file_name
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomically(path, record.model_dump_json(indent=1, exclude_none=True).encode())
        except OSError as error:
            raise cannot_write(self.directory, error, *UNWRITABLE) from error
        return path

    def check_writable(self) -> None:
        """Raise CourseError now, before anything is measured, if a record could not be written later."""
        make_writable(self.directory, *UNWRITABLE)

    def read(self) -> list[Record]:
        """Return all records, in the order of their file names; none for a folder that does not exist.

        Raises:
            CourseError: a file is not a record of this schema version.

        """
        return [_read(path) for path in sorted(self.directory.glob("*.json"))]

    def find(self, record: Record) -> Record | None:
        """Return the stored record of the same cell, or None."""
        path = self.directory / record.file_name
        return _read(path) if path.exists() else None


def _read(path: Path) -> Record:
    try:
        record = Record.model_validate_json(path.read_bytes())
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

    def fits(record: Record, name: str, value: object) -> bool:
        found = getattr(record, name)
        return found in value if isinstance(value, list | tuple | set) else found == value

    return [r for r in records if r.ok and all(fits(r, name, value) for name, value in wanted.items())]
