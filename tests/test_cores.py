"""The cores of a host among processes, and keeping one to its own."""

import os
import subprocess
import sys

import pytest

from inference_lib.support.cores import cores_of

KEPT = """
import os, threading
from inference_lib.support.cores import keep_to
over, core = threading.Event(), min(os.sched_getaffinity(0))
early = threading.Thread(target=over.wait)
early.start()
keep_to([core])
threads = [early.native_id, threading.get_native_id()]
print(all(os.sched_getaffinity(thread) == {core} for thread in threads))
over.set()
"""


@pytest.mark.parametrize(("place", "own"), [((0, 1), range(8)), ((1, 4), (2, 3)), ((2, 3), (4, 5)), ((9, 16), (1,))])
def test_each_process_gets_as_many_cores(
    place: tuple[int, int], own: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert cores_of(*place) == list(own)


def test_threads_that_were_there_before_are_kept_to_the_cores_too() -> None:
    said = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    assert said.stdout == "True\n"
