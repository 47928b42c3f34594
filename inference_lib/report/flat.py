"""A record as one flat row, for programs and for whoever picks a few columns of it."""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import pandas as pd

from inference_lib.records.record import Record

COLUMNS = {
    "machine": "",
    "backend": "",
    "model": "",
    "device": "",
    "precision": "",
    "batch_size": "",
    "status": "",
    "reason": "",
    "accuracy_percent": "accuracy.accuracy_percent",
    "agreement_percent": "accuracy.agreement_percent",
    "latency_p50_ms": "latency.end_to_end.p50",
    "latency_p99_ms": "latency.end_to_end.p99.value",
    "upload_ms": "parts.upload",
    "compute_ms": "parts.compute",
    "download_ms": "parts.download",
    "fps": "",
    "throughput_images_per_s": "",
    "gpu_memory_mib": "",
    "gpu_busy_percent": "load.busy_percent",
    "invocations": "",
    "iterations": "latency.end_to_end.iterations",
    "latency_low_ms": "latency.end_to_end.median.low",
    "latency_high_ms": "latency.end_to_end.median.high",
    "device_ms": "latency.device.value",
    "device_low_ms": "latency.device.low",
    "device_high_ms": "latency.device.high",
    "host_pace": "host_pace_ms",
    "run": "",
    "eight_bits_percent": "build.eight_bits_percent",
}
"""The columns, and where in a record each is found, if not under its own name."""


def flat_table(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row a record with the columns of ``report --format csv``; times in ms, empty where not measured."""
    return pd.DataFrame([flat_row(record) for record in records], columns=list(COLUMNS))


def flat_row(record: Record) -> dict[str, Any]:
    """Return a row of :func:`flat_table`, by the names of its columns."""
    paths = {name: (path or name).split(".") for name, path in COLUMNS.items()}
    names = dict.fromkeys(part for part, *_ in paths.values())
    parts = {part: getattr(record, part) for part in names}  # each once: a latency is computed when asked
    flat = {name: reduce(_of, rest, parts[part]) for name, (part, *rest) in paths.items()}
    return flat | {"machine": record.machine.name(record.device), "invocations": len(record.invocations) or None}


def _of(whole: object, name: str) -> Any:
    return None if whole is None else getattr(whole, name)
