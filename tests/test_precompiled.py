"""The tests' own compiler: what it gives is what the system's gives, and nothing is compiled twice."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from precompiled import compile_once

GCC = shutil.which("g++") or ""
pytestmark = pytest.mark.skipif(not GCC, reason="no GCC here")

HEADER = "torch/csrc/inductor/small.h"


@pytest.fixture
def header(tmp_path: Path) -> Path:
    path = tmp_path / "include" / HEADER
    path.parent.mkdir(parents=True)
    path.write_text("#pragma once\ninline int one() { return 1; }\n")
    return path


def compiled(tmp_path: Path, code: str, compiler: str = GCC, comment: str = "") -> Path | None:
    """Compile ``code`` behind a comment and the header to a library; None where the compiler refuses."""
    source, library = tmp_path / "a kernel.cpp", tmp_path / "a kernel.so"
    source.write_text(f'{comment}\n#include <{HEADER}>\nextern "C" {code}')
    library.unlink(missing_ok=True)
    given = [str(source), f"-I{tmp_path / 'include'}", "-shared", "-fPIC", "-o", str(library)]
    folder = tmp_path / "kept here"
    folder.mkdir(exist_ok=True)
    return library if compile_once(folder, compiler, given) == 0 else None


def test_a_header_is_read_once_and_a_kernel_compiled_once(tmp_path: Path, header: Path) -> None:
    first = compiled(tmp_path, "int two() { return one() + one(); }")
    assert ctypes.CDLL(str(first)).two() == 2
    content = first.read_bytes()
    header.unlink()  # it was compiled, and nobody needs it any more
    shutil.copy(compiled(tmp_path, "int three() { return one() + 2; }"), tmp_path / "other.so")
    assert ctypes.CDLL(str(tmp_path / "other.so")).three() == 3
    again = compiled(tmp_path, "int two() { return one() + one(); }", compiler="false")
    assert again.read_bytes() == content


def test_a_comment_before_the_header_does_not_count_and_the_header_may_be_included_again(
    tmp_path: Path, header: Path
) -> None:
    code = f"int two() {{ return one() + one(); }}\n#include <{HEADER}>\n"
    first = compiled(tmp_path, code, comment="// written to a/folder")
    assert ctypes.CDLL(str(first)).two() == 2
    assert list(tmp_path.rglob("small.h.gch"))
    assert compiled(tmp_path, code, compiler="false", comment="// written to another/folder")


def test_what_the_compiler_refuses_is_refused_and_not_kept(
    tmp_path: Path, header: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert compiled(tmp_path, "int two() { return nothing(); }") is None
        assert "nothing" in capfd.readouterr().err


def test_the_session_compiles_with_it_and_what_is_no_kernel_is_the_system_s(tmp_path: Path) -> None:
    assert Path(GCC).read_text().startswith("#!/bin/sh")
    (tmp_path / "a.cpp").write_text("int main() { return 7; }")
    subprocess.run(["g++", "a.cpp", "-o", "a"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "a"], check=False).returncode == 7
    assert "g++" in subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout
