"""Fashion-MNIST: finding or downloading it, and turning its images into the input of the models.

70,000 grey images of 28 x 28 pixels in ten classes (https://github.com/zalandoresearch/fashion-mnist).
"""

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
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from inference_lib.support.errors import CourseError, named
from inference_lib.support.paths import DATA

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

IMAGE_SIZE = 224
"""Height and width of the models' input in pixels: eight times the 28 of the data set."""

MEAN, STD = 0.2860, 0.3530
"""Of the training images, scaled to 0..1."""

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
PREFIXES = {"train": "train", "test": "t10k"}
IMAGES_HEADER, LABELS_HEADER = 16, 8
"""Bytes before the pixels and before the labels in an idx file."""


def load_fashion_mnist(split: str, directory: Path = DATA) -> tuple[np.ndarray, np.ndarray]:
    """Return images (uint8, N x 28 x 28) and labels (int64, N) of ``split``: "train" (60,000) or "test" (10,000).

    Downloads what is missing (see :func:`ensure_fashion_mnist`). Raise CourseError for an unknown split, for a file
    that is cut short or corrupt, and for data that can neither be found nor downloaded.
    """
    prefix, folder = named("split", split, PREFIXES), ensure_fashion_mnist(directory)
    pixels = _read(folder, f"{prefix}-images-idx3-ubyte")[IMAGES_HEADER:]
    labels = _read(folder, f"{prefix}-labels-idx1-ubyte")[LABELS_HEADER:]
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28).copy()  # A copy, because bytes are read-only.
    return images, np.frombuffer(labels, np.uint8).astype(np.int64)


def check(folder: Path) -> None:
    """Read all four files in ``folder``; raise CourseError for the first whose content is not the published one."""
    for name in SHA256:
        _read(folder, name)


@cache
def split_of(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what load_fashion_mnist does, read once per process."""
    return load_fashion_mnist(split)


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


def preprocess(
    images: np.ndarray, dtype: np.typing.DTypeLike = np.float32, out: np.ndarray | None = None
) -> np.ndarray:
    """Return the models' input (``dtype``, N x 3 x 224 x 224, contiguous) for ``images`` (uint8, N x 28 x 28).

    Scaled to 0..1, normalized, enlarged bilinearly by eight, and repeated for the three colour channels. The values
    are computed in FP32 and rounded to ``dtype`` (float16 or float32) last. They are written to ``out`` if it is given
    (in ``dtype``, of the result's shape): new memory costs more time than what is written to it.

    Raise CourseError for anything else: a picture in floats or with other levels would be classified wrongly without
    a word.
    """
    _check_pictures(images)
    grey = enlarge(torch.from_numpy(np.ascontiguousarray(images)), IMAGE_SIZE)
    out = np.empty((len(images), 3, IMAGE_SIZE, IMAGE_SIZE), dtype) if out is None else out
    # Rounding one channel before repeating it moves a third of the bytes.
    target = torch.from_numpy(out)
    target.copy_(grey.to(target.dtype).expand_as(target))
    return out


def _check_pictures(images: np.ndarray) -> None:
    """Raise CourseError, with what would mend it, for anything but 8-bit grey pictures of 28 x 28 pixels."""
    side = IMAGE_SIZE // 8
    pillow = f'with Pillow, np.stack([np.asarray(p.convert("L").resize(({side}, {side}))) for p in pictures])'
    if not isinstance(images, np.ndarray):
        raise CourseError(f"{type(images).__name__} is not a NumPy array of pictures; {pillow}")
    if images.dtype != np.uint8:
        remedies = {"f": "multiply 0..1 by 255 and round", "u": "divide 16 bits by 257", "b": "multiply by 255"}
        first = remedies.get(images.dtype.kind, "bring them to 0..255")
        raise CourseError(f"pictures of type {images.dtype} cannot be prepared; {first}, then use .astype(np.uint8)")
    if images.ndim != 3 or images.shape[1:] != (side, side):
        shape = " x ".join(map(str, images.shape))
        raise CourseError(f"pictures of shape {shape} cannot be prepared; give N x {side} x {side} grey ones: {pillow}")


def enlarge(images: torch.Tensor, size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return ``images`` (uint8, N x 28 x 28) normalized and resized (``dtype``, N x 1 x size x size)."""
    # Normalizing first gives the same values (bilinear weights sum to one) and touches fewer pixels.
    normalized = (images.float() / 255 - MEAN) / STD
    return F.interpolate(normalized[:, None].to(dtype), (size, size), mode="bilinear", align_corners=False)


def _locate(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}.gz", folder / name)
    return next((path for path in candidates if path.is_file()), None)


def _read(folder: Path, name: str) -> bytes:
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
