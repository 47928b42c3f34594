"""An exported model on disk."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference_lib.seam.workload import Workload

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """An exported model on disk, and the manifest that says what it was made from."""

    workload: Workload
    directory: Path
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of everything that was exported."""
        return sum(f.stat().st_size for f in self.directory.rglob("*") if f.is_file() and f.name != MANIFEST)
