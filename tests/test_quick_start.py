"""The first page that a reader types from: its commands, one after the other, as they stand there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prose import BOOK, listings

from inference_lib.support import paths

PAGE = BOOK / "quick_start.md"

INSTALL = "make install\n"
DOCTOR = ".venv/bin/python -m inference_lib doctor\n"
"""Takes many seconds, and test_cli.py runs it."""

LEAST = {"benchmark ": "benchmark --profile smoke ", "open_lab()": 'open_lab("smoke")'}
"""What the test changes: the least profile, in which every cell runs and no number means anything."""


@pytest.mark.slow
def test_every_command_of_the_quick_start_works(tmp_path: Path, root: Path) -> None:
    root.mkdir(exist_ok=True)
    for name, there in {".venv": Path(sys.prefix), "artifacts": root}.items():
        (tmp_path / name).symlink_to(there)
    settings = {"INFERENCE_ROOT": str(tmp_path), "INFERENCE_DATA": str(paths.DATA), "PYTHONPATH": str(paths.ROOT)}
    steps = listings(PAGE)
    assert [step.code for step in steps[:2]] == [INSTALL, DOCTOR]
    said = ""
    for step in steps[2:]:
        code = step.code
        for wanted, instead in LEAST.items():
            code = code.replace(wanted, instead)
        if step.kind == "python":
            (tmp_path / "curves.py").write_text(code)
            continue
        result = subprocess.run(
            ["bash", "-e"],
            input=code,
            cwd=tmp_path,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert result.returncode == 0, (code, result.stderr[-1000:])
        said += result.stdout
    for framework in ("PyTorch (eager)", "TorchScript", "ONNX Runtime (run)", "curves.png: "):
        assert framework in said
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
