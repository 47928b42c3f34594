"""A model under load, as part of a record: how it was served, what was sent, and what came back."""

from pydantic import BaseModel, Field


class LatencyQuantile(BaseModel):
    """A quantile of the latencies under load, ms, with its 95 % interval over runs where there are three or more."""

    ms: float
    low_ms: float | None = None
    high_ms: float | None = None


class Serving(BaseModel):
    """One load on one server."""

    engine: str
    """``queue`` (in process), ``local``, ``litserve`` or ``ray``."""
    replicas: int
    max_batch: int
    max_wait_ms: float
    scenario: str
    """LoadGen's, see ``serve/loadgen.py``."""
    valid: bool
    """Whether LoadGen counts every run."""
    reasons: list[str] = Field(default_factory=list)
    """Why it does not."""
    arrival_rate: float | None = None
    """Requests a second that were sent, at random times; None where a scenario has no rate."""
    answered_per_s: float
    latency: dict[str, LatencyQuantile]
    """By name: p50, p90, p99, p99.9."""
    limit_ms: float
    goodput_per_s: float | None = None
    """The highest arrival rate that was seen to keep p99 within ``limit_ms``, in every run; None where none was."""
    batches: dict[int, int] = Field(default_factory=dict)
    """How many batches of each size were computed; empty where the engine does not tell."""
    errors: dict[str, int] = Field(default_factory=dict)
    """Requests without an answer, by kind; those that waited too long are ``TimedOutError``, over HTTP ``HTTP 504``."""
    longest_queue: int | None = None
    """The most requests that were seen waiting."""
    gpu_busy_percent: float | None = None
    energy_mj_per_request: float | None = None
