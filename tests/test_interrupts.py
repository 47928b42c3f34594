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


ENDS = """
import signal, time
from inference_lib.support.interrupts import after_imports
after_imports(signal.SIGINT, signal.default_int_handler)

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.3)

slow = Slow()
import inner
"""


def ended(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{paths.ROOT}{os.pathsep}{folder}"}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_an_import_is_finished_before_a_signal_is_answered(tmp_path: Path, name: str) -> None:
    (tmp_path / "inner.py").write_text(INTERRUPTED.format(name))
    (tmp_path / "outer.py").write_text("import inner; print('and what imports it', flush=True)")
    done = ended(IMPORTS, tmp_path)
    assert done.stdout.split("\n") == ["imported", "and what imports it", "interrupted", ""], done.stderr


def test_what_ends_before_its_signal_is_answered_ends_well(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text(INTERRUPTED.format("INT"))
    assert ended(ENDS, tmp_path).returncode == 0


def test_a_signal_waits_for_what_must_not_be_cut_in_two() -> None:
    said: list[str] = []

    def whole() -> None:
        with uninterrupted(lambda: said.append("asked to end")):
            signal.raise_signal(signal.SIGINT)
            said.append("done")

    with pytest.raises(KeyboardInterrupt):
        whole()
    assert said == ["asked to end", "done"]
