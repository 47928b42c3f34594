"""Which frameworks work on this machine, and what would mend the others."""

import pandas as pd

from inference_lib.backends import BACKENDS
from inference_lib.records.machine import this_machine
from inference_lib.seam import DEVICE_KINDS, MODELS, Backend, Workload


def report() -> str:
    """Return the machine and a line per backend and device: usable, version, why not, what would mend it."""
    machine = this_machine()
    rows = [_row(backend, device) for backend in BACKENDS.values() for device in DEVICE_KINDS]
    head = [
        f"GPU     {machine.gpu or 'none'}" + (f", driver {machine.driver}" if machine.driver else ""),
        f"CPU     {machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB",
        f"Python  {machine.python}, torch {machine.packages.get('torch', 'missing')}",
        "",
    ]
    return "\n".join(head) + pd.DataFrame(rows).to_markdown(index=False, tablefmt="simple")


def _row(backend: Backend, device: str) -> dict[str, str]:
    """Return one line: a backend that is installed may still have nothing to run on ``device``."""
    found = backend.availability(device)
    support = backend.supports(Workload(next(iter(MODELS)), 1, "fp32", device))
    return {
        "backend": backend.name,
        "device": device,
        "usable": "yes" if found.usable and support.ok else "no",
        "version": found.version,
        "why not": found.reason or support.reason,
        "what would mend it": found.remedy,
    }
