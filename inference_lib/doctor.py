"""Which frameworks work on this machine, and what would mend the others."""

from textwrap import fill

from inference_lib.backends import BACKENDS
from inference_lib.records.machine import this_machine
from inference_lib.seam import DEVICE_KINDS, MODELS, Backend, Workload

WIDTH = 100
"""Columns of a terminal that every line fits in."""


def report() -> str:
    """Return the machine, a line a backend with a note's number for each device that it cannot use, and the notes."""
    machine = this_machine()
    lines = [
        f"GPU     {machine.gpu or 'none'}" + (f", driver {machine.driver}" if machine.driver else ""),
        f"CPU     {machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB",
        f"Python  {machine.python}, torch {machine.packages.get('torch', 'missing')}",
        "",
        _row("backend", "version", *(f"on {kind}" for kind in DEVICE_KINDS)),
    ]
    notes: dict[str, int] = {}
    for backend in BACKENDS.values():
        reasons = [_why_not(backend, kind) for kind in DEVICE_KINDS]
        numbers = [notes.setdefault(reason, len(notes) + 1) if reason else 0 for reason in reasons]
        version = next(filter(None, (backend.availability(kind).version for kind in DEVICE_KINDS)), "-")
        lines.append(_row(backend.name, version, *(f"no [{number}]" if number else "yes" for number in numbers)))
    wrapped = (fill(f"[{n}] {reason}", WIDTH, subsequent_indent="    ") for reason, n in notes.items())
    return "\n".join([*lines, "", *wrapped])


def _row(backend: str, version: str, *devices: str) -> str:
    return f"{backend:<24}{version[:30]:<32}{''.join(f'{device:<12}' for device in devices)}".rstrip()[:WIDTH]


def _why_not(backend: Backend, device: str) -> str:
    """Return why a backend has nothing to do on a kind of device, with what would mend it; empty if it has."""
    found = backend.availability(device)
    if not found.usable:
        return f"{found.reason}; {found.remedy}"
    return backend.supports(Workload(next(iter(MODELS)), 1, "fp32", device)).reason
