"""A C++ compiler that does nothing twice in a test session: it reads PyTorch's headers once, and not once a kernel.

Inductor writes a file for each kernel. Each includes headers that GCC reads for seconds, and a loop that it compiles
in a part of one; a chapter compiles one network in several ways, and most of its kernels are the same. In the tests, a
folder in front of PATH holds a ``g++`` that keeps what it made. It compiles such a header ahead when it is first
included with certain flags, and calls the system's compiler with that header's folder in front: GCC passes over a
compiled header that does not fit, and reads the header itself.
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

FIRST = re.compile(r"(?:\s|//[^\n]*\n)*#include <(torch/csrc/inductor/[\w/]+\.h)>")
"""What stands at the beginning of a file whose header can be compiled ahead, after comments: they name folders."""

FOR_THE_LINKER = ("-shared", "-l", "-L", "-static-lib")
"""How the words of a command begin that change neither a header nor an object."""

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
    (folder / "g++").write_text(SCRIPT.format(ours=ours, real=shlex.quote(real)))
    (folder / "g++").chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def compile_once(folder: Path, real: str, given: list[str]) -> int:
    """Do what the compiler ``real`` is told by the words ``given``; return its exit status."""
    sources = [word for word in given if word.endswith(".cpp")]
    text = Path(sources[0]).read_text() if len(sources) == 1 and Path(sources[0]).exists() else ""
    found = FIRST.match(text)
    if found is None or "-o" not in given:
        return subprocess.call([real, *given])
    text, at = text[found.start(1) :], given.index("-o")
    flags, target = [word for word in given[:at] + given[at + 2 :] if word not in sources], Path(given[at + 1])
    for_object = [word for word in flags if not word.startswith(FOR_THE_LINKER)]
    for_header = [word for word in for_object if word != "-c"]
    place = folder / _hash(found[1], *for_header)
    kept = place / _hash(text, *(for_object if "-c" in flags else flags))
    if kept.exists():
        shutil.copy(kept, target)
        return 0
    _compile_ahead(place, found[1], [real, *for_header])
    status = subprocess.call([real, f"-I{place}", *given])
    if status == 0 and '#include "' not in text:
        part = shutil.copy(target, kept.with_suffix(f".{os.getpid()}"))
        os.replace(part, kept)
    return status


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile_ahead(place: Path, header: str, compiler: list[str]) -> None:
    """Compile ``header`` to the folder ``place``, unless it is there; others wait for it."""
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)  # given back when the file is closed
        made, source, part = place / f"{header}.gch", place / "header.hpp", place / "header.part"
        if made.exists():
            return
        made.parent.mkdir(parents=True, exist_ok=True)
        made.with_suffix("").write_text(f"#include_next <{header}>\n")  # read where it is included once more
        source.write_text(f"#include <{header}>\n")
        command = [*compiler, "-x", "c++-header", str(source), "-o", str(part)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            os.replace(part, made)


if __name__ == "__main__":
    sys.exit(compile_once(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
