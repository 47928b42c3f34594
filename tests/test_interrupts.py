"""Signals are answered when it does no harm."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inference_lib.support import paths
from inference_lib.support.interrupts import uninterrupted

INTERRUPTED = "import os, signal; os.kill(os.getpid(), signal.SIG{}); sum(range(1000)); print('imported', flush=True)"

IMPORTS = """
import signal, sys, time
from inference_lib.support.interrupts import after_imports
for number in (signal.SIGINT, signal.SIGTERM):
    after_imports(number, signal.default_int_handler)
try:
    import outer
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_an_import_is_finished_before_a_signal_is_answered(tmp_path: Path, name: str) -> None:
    (tmp_path / "inner.py").write_text(INTERRUPTED.format(name))
    (tmp_path / "outer.py").write_text("import inner; print('and what imports it', flush=True)")
    environment = os.environ | {"PYTHONPATH": f"{paths.ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.stdout.split("\n") == ["imported", "and what imports it", "interrupted", ""], done.stderr


def test_a_signal_waits_for_what_must_not_be_cut_in_two() -> None:
    said: list[str] = []

    def whole() -> None:
        with uninterrupted(lambda: said.append("asked to end")):
            signal.raise_signal(signal.SIGINT)
            said.append("done")

    with pytest.raises(KeyboardInterrupt):
        whole()
    assert said == ["asked to end", "done"]
