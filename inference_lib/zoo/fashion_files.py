"""The files of Fashion-MNIST: found on this machine or downloaded, and checked."""

import contextlib
import gzip
import hashlib
import io
import os
import socket
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from inference_lib.support.errors import CourseError
from inference_lib.support.paths import DATA

PACKAGE_FOLDER = "usr/share/datasets/fashion-mnist"
"""Where the data is in the package dataset-fashion-mnist of Debian and Ubuntu."""

SYSTEM = Path("/", PACKAGE_FOLDER)
"""Where that package puts the data when it is installed."""

NETWORK_TIMEOUT = 20.0
"""Seconds without an answer after which a download is given up."""

# SHA-256 of the uncompressed files: distributors compress them differently.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
IMAGES_HEADER, LABELS_HEADER = 16, 8
"""Bytes before the pixels and before the labels in an idx file."""


def check(folder: Path) -> None:
    """Read all four files in ``folder``; raise CourseError for the first whose content is not the published one."""
    for name in SHA256:
        read(folder, name)


def ensure_fashion_mnist(directory: Path = DATA) -> Path:
    """Return the folder that holds Fashion-MNIST, downloading it into ``directory`` where it is nowhere on disk.

    Looks in ``directory``, in torchvision's sub-folder of it, and where the system's package puts it; then tries
    torchvision's download and the package, which needs no root. Raise CourseError when all of these fail.
    """
    for folder in (directory, directory / "FashionMNIST" / "raw", SYSTEM):
        if all(_locate(folder, name) for name in SHA256):
            return folder
    failures = [_attempt(way, directory) for way in (_download_with_torchvision, _download_with_apt)]
    if all(failures):
        raise CourseError(
            f"Fashion-MNIST is not in {directory} and cannot be downloaded (torchvision: {failures[0]}; "
            f"apt-get: {failures[1]}); connect to the internet, or install the package dataset-fashion-mnist "
            f"(Debian, Ubuntu), or put the files {', '.join(f'{name}.gz' for name in SHA256)} into {directory}"
        )
    return directory


def _locate(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}.gz", folder / name)
    return next((path for path in candidates if path.is_file()), None)


def read(folder: Path, name: str) -> bytes:
    """Return the uncompressed content of the file ``name``. Raise CourseError when it is not the published one."""
    path = _locate(folder, name)
    if path is None:
        raise CourseError(f"{folder / name}.gz is missing; run: python -m inference_lib data")
    raw = path.read_bytes()
    try:
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
        problem = "" if hashlib.sha256(content).hexdigest() == SHA256[name] else _problem(content)
    except (EOFError, OSError, zlib.error) as error:
        problem = f"cut short or corrupt ({error})"
    if raw.lstrip()[:1] == b"<":
        problem = "a web page, from a proxy or a login perhaps"
    if problem:
        mine = "move it away, then run: python -m inference_lib data"
        remedy = "install the package dataset-fashion-mnist again" if path.parent == SYSTEM else mine
        raise CourseError(f"{path} is {problem if raw else 'empty'}; {remedy}")
    return content


def _problem(content: bytes) -> str:
    """Say what is wrong with a file that can be uncompressed: it may hold other pictures in the same format."""
    kinds = {b"\0\0\x08\x03": (4, IMAGES_HEADER), b"\0\0\x08\x01": (1, LABELS_HEADER)}
    dimensions, header = kinds.get(content[:4], (0, 0))
    sizes = np.frombuffer(content[4:header], ">i4") if len(content) >= header > 0 else np.zeros(1)
    if dimensions and len(content) == header + int(np.prod(sizes)):
        return f"not Fashion-MNIST: an intact file, {' x '.join(map(str, sizes))}, of another data set"
    return f"cut short or corrupt ({len(content):,} bytes, wrong SHA-256)"


def _attempt(download: Callable[[Path], Path], directory: Path) -> str:
    """Run one way to download into a temporary folder, check the files, then move them into ``directory``.

    Return why it failed, on one line, or "" when it did not.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".download-") as temporary:
            folder = download(Path(temporary))
            check(folder)
            for name in SHA256:
                os.replace(folder / f"{name}.gz", directory / f"{name}.gz")
    except (CourseError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
        return lines[-1] if lines else type(error).__name__
    return ""


def _download_with_torchvision(temporary: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    with patience(), contextlib.redirect_stderr(io.StringIO()):  # It shows a progress bar for each file.
        FashionMNIST(str(temporary), download=True)
    return temporary / "FashionMNIST" / "raw"


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Give a download up after ``NETWORK_TIMEOUT``: torchvision and PyTorch's hub would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _download_with_apt(temporary: Path) -> Path:
    """Download and unpack the system's package, as any user, leaving the system's package lists alone."""
    for name in ("lists/partial", "cache/archives/partial"):
        (temporary / name).mkdir(parents=True)
    apt = [
        "apt-get",
        "-qq",
        *("-o", f"Dir::State::Lists={temporary}/lists", "-o", f"Dir::Cache={temporary}/cache"),
        *("-o", f"Acquire::http::Timeout={NETWORK_TIMEOUT:.0f}", "-o", "Acquire::Retries=0"),
        *("-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root"),
    ]
    _run(*apt, "update", cwd=temporary)
    _run(*apt, "download", "dataset-fashion-mnist", cwd=temporary)
    package = next(temporary.glob("dataset-fashion-mnist*.deb"))
    _run("dpkg", "-x", str(package), "unpacked", cwd=temporary)
    return temporary / "unpacked" / PACKAGE_FOLDER


def _run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=300)
