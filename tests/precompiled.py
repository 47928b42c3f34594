"""A C++ compiler that reads PyTorch's headers once a test session, and not once a kernel.

Inductor writes a file for each kernel. Each includes headers that GCC reads for seconds, and a loop that it compiles
in a part of one. In the tests, a folder in front of PATH holds a ``g++`` that compiles such a header when it is first
included with certain flags, and then calls the system's compiler with that header's folder in front. GCC itself passes
over a compiled header that does not fit, and reads the header.
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

FIRST = re.compile(r"\s*#include <(torch/csrc/inductor/[\w/]+\.h)>")
"""What stands at the beginning of a file whose header can be compiled ahead."""

SCRIPT = """#!/bin/sh
case "$*" in
  *.cpp*) exec {ours} {real} "$@" ;;
  *) exec {real} "$@" ;;
esac
"""


def put_in_front(folder: Path) -> None:
    """Write the compiler to ``folder``, which PATH names first from now on; nothing where there is no GCC."""
    real = shutil.which("g++")
    if real is None:
        return
    ours = shlex.join([sys.executable, "-IS", __file__, str(folder)])
    (folder / "g++").write_text(SCRIPT.format(ours=ours, real=shlex.join([real])))
    (folder / "g++").chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def command(real: str, given: list[str], folder: Path) -> list[str]:
    """Return the command of the system's compiler, with a compiled header if the source begins with one."""
    sources = [word for word in given if word.endswith(".cpp")]
    found = FIRST.match(Path(sources[0]).read_text()) if len(sources) == 1 and Path(sources[0]).exists() else None
    if found is None:
        return [real, *given]
    kept = [word for word in given if word not in (*sources, "-c", "-shared") and not word.startswith(("-l", "-L"))]
    if "-o" in kept:
        del kept[kept.index("-o") : kept.index("-o") + 2]
    place = folder / hashlib.sha256(repr((found[1], kept)).encode()).hexdigest()[:16]
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)  # given back when the file is closed
        compiled = place / f"{found[1]}.gch"
        if not compiled.parent.exists():
            compiled.parent.mkdir(parents=True)
            (place / "header.hpp").write_text(found[0])
            ahead = [real, "-x", "c++-header", *kept, str(place / "header.hpp"), "-o", str(compiled)]
            subprocess.run(ahead, capture_output=True, check=False)
    return [real, f"-I{place}", *given]


if __name__ == "__main__":
    place, compiler, *words = sys.argv[1:]
    os.execv(compiler, command(compiler, words, Path(place)))
