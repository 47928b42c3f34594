"""Which frameworks work on this machine, and what would mend the others."""

import pandas as pd

from inference_lib.backends import BACKENDS
from inference_lib.backends.base import DEVICES
from inference_lib.measure.machine import this_machine


def report() -> str:
    """Return the machine and a line per backend and device: usable, version, why not, what would mend it."""
    machine = this_machine()
    rows = [
        {
            "backend": name,
            "device": device,
            "usable": "yes" if (found := backend.availability(device)).usable else "no",
            "version": found.version,
            "why not": found.reason,
            "what would mend it": found.remedy,
        }
        for name, backend in BACKENDS.items()
        for device in DEVICES
    ]
    head = [
        f"GPU     {machine.gpu or 'none'}" + (f", driver {machine.driver}" if machine.driver else ""),
        f"CPU     {machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB",
        f"Python  {machine.python}, torch {machine.packages.get('torch', 'missing')}",
        "",
    ]
    return "\n".join(head) + pd.DataFrame(rows).to_markdown(index=False, tablefmt="simple")
