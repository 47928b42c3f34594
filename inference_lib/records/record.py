"""The measurement record: one cell of the tables, as plain data.

Every number in the book comes out of a record. A cell that could not be measured has a record too, with the reason.
"""

import math
import re
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from inference_lib.records.machine import Machine
from inference_lib.records.serving import Serving
from inference_lib.records.statistics import LEAST_FOR_P99, QUANTILES, Interval, over_invocations

SCHEMA_VERSION = 3

Status = Literal["ok", "unavailable", "unsupported", "left_out", "out_of_memory", "failed"]

Kind = Literal["end_to_end", "device"]
"""Which time: what a caller waits for, or what the device works (CUDA events, its cache flushed)."""


class Key(NamedTuple):
    """What tells two records apart."""

    machine: str
    run: str
    profile: str
    backend: str
    model: str
    device: str
    precision: str
    batch_size: int

    @property
    def file_name(self) -> str:
        """Name of the record's file in its folder."""
        head = re.sub(r"[^a-z0-9]+", "-", f"{self.machine} {self.profile} {self.run}".lower()).strip("-")
        row = f"{self.backend}--{self.model}-{self.device}-{self.precision}-b{self.batch_size}.json"
        return f"{head}--" + re.sub(r"[^\w.-]+", "-", row)


Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Carried(BaseModel):
    """The rounds of a row that went along with a set, so that sets can be compared through it."""

    end_to_end_ms: list[Milliseconds] = Field(min_length=1)
    device_ms: list[Milliseconds] = Field(default_factory=list)

    def of(self, kind: Kind) -> list[float]:
        """Return the rounds of one kind of time, ms."""
        return self.end_to_end_ms if kind == "end_to_end" else self.device_ms


class Invocation(Carried):
    """One life of a set of rivals, each in a process of its own: a number for every round.

    ``end_to_end_ms`` are the medians of this rival's turns, host array to host array; ``device_ms`` those of its turns
    on the device, empty on a CPU.
    """

    number: int
    iterations: int
    """Timed inferences, end to end."""
    quantiles: list[Milliseconds] = Field(min_length=QUANTILES, max_length=QUANTILES)
    """Of single inferences end to end, ms, at 0, 0.5, ..., 100 percent."""
    pace_ms: list[float] = Field(default_factory=list)
    """A fixed piece of host work, timed at the start of each round: how quick the host was."""
    waited_percent: float = 0.0
    """Of the time in which threads ran or could have run, the part in which they had no core; the median turn."""
    carried: dict[str, Carried] = Field(default_factory=dict)
    """Rounds of the rows that went along, by backend."""


class Distribution(NamedTuple):
    """Times of an inference over all invocations, milliseconds."""

    median: Interval
    p90: Interval
    p99: Interval | None
    """Only where the samples carry it: 1,000 iterations or more."""
    cv_percent: float
    """Spread of single inferences: the distance between the 16th and the 84th percentile, halved, over the median."""
    iterations: int
    quantiles: list[float]
    """At 0, 0.5, ..., 100 percent, the invocations' averaged."""

    @property
    def p50(self) -> float:
        """The median, ms."""
        return self.median.value


class Latency(NamedTuple):
    """The time of one inference, as a whole and in its parts."""

    end_to_end: Distribution
    device: Interval | None
    """The model alone, CUDA events around it, the device's cache flushed before, ms; none on a CPU."""


class Parts(BaseModel):
    """Medians of the three parts of one inference after the other, ms, nothing flushed."""

    upload: float
    compute: float
    download: float


def _distribution(invocations: Sequence[Invocation]) -> Distribution:
    sketches = np.array([invocation.quantiles for invocation in invocations])
    pooled, iterations = sketches.mean(axis=0), sum(invocation.iterations for invocation in invocations)

    def quantile(percent: float) -> Interval:
        column = sketches[:, round(percent / 100 * (QUANTILES - 1))]
        return over_invocations([[math.log(ms)] for ms in column])

    low, middle, high = np.interp([0.16, 0.5, 0.84], np.linspace(0, 1, QUANTILES), pooled)
    return Distribution(
        median=over_invocations([[math.log(ms) for ms in i.end_to_end_ms] for i in invocations]),
        p90=quantile(90),
        p99=quantile(99) if iterations >= LEAST_FOR_P99 else None,
        cv_percent=float((high - low) / 2 / middle * 100),
        iterations=iterations,
        quantiles=[float(ms) for ms in pooled],
    )


class Build(BaseModel):
    """What it costs to get to the first answer, seconds."""

    export_s: float | None = None
    """Exporting with nothing else running; None where it was exported beside others."""
    load_s: float
    first_inference_s: float
    artifact_mib: float
    alone: bool = False
    """Whether it was loaded and answered first with nothing else running, too."""
    eight_bits_percent: float | None = None
    """Of a calibrated export's multiply-adds, the part whose factors have eight bits, read back from what runs."""

    @property
    def start_s(self) -> float | None:
        """From the network to its first answer; None where others were exported and loaded beside it."""
        return None if self.export_s is None or not self.alone else self.export_s + self.load_s + self.first_inference_s


class Accuracy(BaseModel):
    """The exported model on the test set, alone and beside the FP32 eager reference."""

    model_config = ConfigDict(ser_json_inf_nan="constants")
    accuracy_percent: float | None = None
    """None where nobody knows what the pictures show."""
    agreement_percent: float
    """Images on which the predicted class is the reference's."""
    largest_difference: float
    """Largest absolute difference of a logit from the reference, over the largest absolute reference logit."""
    images: int
    gained: int | None = None
    """Images that the reference classifies wrongly and the export correctly."""
    lost: int | None = None
    """The other way round; None in records from before either was counted."""


class Clocks(BaseModel):
    """The GPU right after the timed rounds: its SM clock, and what held it down."""

    sm_mhz: float | None = None
    throttle_reasons: list[str]


class Load(BaseModel):
    """The GPU under back-to-back inferences, sampled through NVML in a phase of its own; None: no such reading."""

    busy_percent: float | None = None
    sm_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
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
    model_title: str
    batch_size: int
    precision: str
    device: str
    machine: Machine
    profile: str
    run: str = "1"
    """Which pass over the whole grid: runs are compared with each other, and never mixed."""
    rivals: str = ""
    """Names the set of rivals that took turns with this one: only within it are rounds the same rounds."""
    measured_on: date
    fingerprint: str = ""
    """Hash of everything that a repetition would share: the library's code, the weights, the machine, the profile."""
    build: Build | None = None
    invocations: list[Invocation] = Field(default_factory=list)
    parts: Parts | None = None
    throughput_images_per_s: float | None = None
    """Batches computed back to back, their images on the device already."""
    overlapped_images_per_s: float | None = None
    """Batches from pinned host memory to pinned host memory, copies and computation overlapped."""
    accuracy: Accuracy | None = None
    pictures: str = "fashion-mnist"
    """The data set that answers were checked on; ``random`` where the model has none."""
    model_hash: str = ""
    """Of its weights (and, for a reader's own model, of its code)."""
    gpu_memory_mib: float | None = None
    """GPU memory that NVML counts for the measuring process, CUDA context included, once it has answered."""
    gpu_memory_source: str = ""
    """How that was read: of the process, or the device's growth while nothing else started."""
    clocks: Clocks | None = None
    load: Load | None = None
    flags: list[str] = Field(default_factory=list)
    serving: Serving | None = None
    """What it did under load, where that was measured; such a record has a profile of its own."""

    @property
    def key(self) -> Key:
        """What tells this record apart from all others."""
        machine = self.machine.name(self.device)
        cell = (self.backend, self.model, self.device, self.precision, self.batch_size)
        return Key(machine, self.run, self.profile, *cell)

    @property
    def latency(self) -> Latency | None:
        """What the invocations and parts say; None where nothing was timed."""
        if not self.invocations:
            return None
        device = self.median("device") if all(i.device_ms for i in self.invocations) else None
        return Latency(_distribution(self.invocations), device)

    def median(self, kind: Kind) -> Interval:
        """Return the median over invocations, ms, with its 95 % interval where they are enough."""
        return over_invocations([[math.log(ms) for ms in invocation.of(kind)] for invocation in self.invocations])

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
        latency = self.latency
        return self.batch_size / latency.end_to_end.p50 * 1e3 if latency else None

    @property
    def host_pace_ms(self) -> float | None:
        """Median of the fixed piece of host work over all rounds, ms."""
        paces = sorted(pace for invocation in self.invocations for pace in invocation.pace_ms)
        return paces[len(paces) // 2] if paces else None
