"""Where the course keeps things. Everything but the published edition is made at run time."""

import os
from pathlib import Path

ROOT = Path(os.environ.get("INFERENCE_ROOT", Path(__file__).resolve().parents[2]))

NOTEBOOKS = ROOT / "notebooks"
"""Chapter sources (jupytext percent format)."""

PUBLISHED = ROOT / "book" / "published"
"""The published edition: executed chapters and the records behind them."""

BUILD = ROOT / "_build"
"""The local edition: executed chapters, records, the rendered book."""

ARTIFACTS = ROOT / "artifacts"
"""Exported models."""

DATA = Path(os.environ.get("INFERENCE_DATA", ROOT / "data"))
"""Fashion-MNIST."""
