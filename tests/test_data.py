import gzip
import hashlib
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from inference_lib import cli
from inference_lib.seam import MODELS
from inference_lib.support.errors import CourseError
from inference_lib.support.paths import DATA
from inference_lib.zoo import fashion_files as data
from inference_lib.zoo.fashion_files import ensure_fashion_mnist
from inference_lib.zoo.fashion_mnist import CLASS_NAMES, load_fashion_mnist, preprocess
from inference_lib.zoo.networks import load_pretrained

COUNTS = {"train": 6, "t10k": 5}


def idx(name: str) -> bytes:
    """A small file in the format of the data set: a header, then pixels or labels."""
    generator = np.random.default_rng(len(name))
    count = COUNTS[name.split("-")[0]]
    if "images" in name:
        return bytes(16) + generator.integers(0, 256, (count, 28, 28), np.uint8).tobytes()
    return bytes(8) + generator.integers(0, 10, count, np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small data set, and a machine without any other and without a network."""
    monkeypatch.setattr(data, "SHA256", {name: hashlib.sha256(idx(name)).hexdigest() for name in data.SHA256})
    monkeypatch.setattr(data, "SYSTEM", tmp_path / "nothing here")
    for way in ("_download_with_torchvision", "_download_with_apt"):
        monkeypatch.setattr(data, way, offline)
    folder = tmp_path / "data"
    folder.mkdir()
    fill(folder)
    return folder


def fill(folder: Path, compressed: bool = True) -> None:
    for name in data.SHA256:
        content = gzip.compress(idx(name)) if compressed else idx(name)
        (folder / (f"{name}.gz" if compressed else name)).write_bytes(content)


def offline(temporary: Path) -> Path:
    raise OSError("no network\nin this test")


def test_images_and_labels_come_out_as_written(folder):
    images, labels = load_fashion_mnist("test", folder)
    assert (images.shape, images.dtype) == ((5, 28, 28), np.uint8)
    assert (labels.shape, labels.dtype) == ((5,), np.int64)
    assert images.tobytes() == idx("t10k-images-idx3-ubyte")[16:]
    assert labels.astype(np.uint8).tobytes() == idx("t10k-labels-idx1-ubyte")[8:]
    assert len(load_fashion_mnist("train", folder)[0]) == 6


def test_uncompressed_files_and_torchvisions_layout_are_found(folder, tmp_path):
    raw = tmp_path / "other" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    fill(raw, compressed=False)
    assert ensure_fashion_mnist(tmp_path / "other") == raw
    for ours, theirs in zip(load_fashion_mnist("test", folder), load_fashion_mnist("test", raw), strict=True):
        assert np.array_equal(ours, theirs)


def test_the_systems_package_is_used_where_it_is(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SYSTEM", folder)
    assert ensure_fashion_mnist(tmp_path / "empty") == folder
    assert not (tmp_path / "empty").exists()


def test_an_unknown_split_is_refused(folder):
    with pytest.raises(CourseError, match="unknown split 'validation'; choose one of: train, test"):
        load_fashion_mnist("validation", folder)


@pytest.mark.parametrize("kept", [0, 10, -12, -1])
def test_a_file_cut_short_is_named_with_the_remedy(folder, kept):
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CourseError, match="cut short or corrupt" if kept else "is empty") as error:
        load_fashion_mnist("test", folder)
    assert str(path) in str(error.value)
    assert "move it away, then run: python -m inference_lib data" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_changed_pixel_is_noticed(folder):
    content = bytearray(idx("t10k-images-idx3-ubyte"))
    content[-1] ^= 1
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(CourseError, match="wrong SHA-256"):
        load_fashion_mnist("test", folder)


@pytest.mark.parametrize("name", data.SHA256)
@pytest.mark.parametrize("compressed", [True, False])
def test_an_intact_file_of_another_data_set_is_called_that_and_never_corrupt(folder, name, compressed):
    kind, sizes = (b"\0\0\x08\x03", [7, 28, 28]) if "images" in name else (b"\0\0\x08\x01", [7])
    header = kind + np.array(sizes, ">i4").tobytes()
    content = header + bytes(int(np.prod(sizes)))
    (folder / f"{name}.gz").unlink()
    path = folder / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(CourseError, match="not Fashion-MNIST: an intact file, 7") as error:
        data.check(folder)
    assert str(path) in str(error.value)
    assert "corrupt" not in str(error.value)
    assert "delete" not in str(error.value)


def test_the_command_checks_the_content_of_all_four_files(tmp_path, capsys):
    folder = Path(os.environ.get("INFERENCE_DATA", DATA))
    if not all((folder / f"{name}.gz").is_file() for name in data.SHA256):
        pytest.skip("no data set here")

    def command() -> tuple[int, str, str]:
        return cli.main(["data", "--directory", str(tmp_path)]), *capsys.readouterr()

    for name in data.SHA256:
        (tmp_path / f"{name}.gz").symlink_to(folder / f"{name}.gz")
    assert command()[1] == f"{tmp_path}\n"
    for name, content, said in (
        ("train-labels-idx1-ubyte", b"<!DOCTYPE html><html>Log in</html>", "is a web page"),
        ("t10k-images-idx3-ubyte", b"", "is empty"),
        ("train-images-idx3-ubyte", (folder / "train-images-idx3-ubyte.gz").read_bytes()[:-9], "is cut short"),
    ):
        path = tmp_path / f"{name}.gz"
        path.unlink()
        path.write_bytes(content)
        status, out, error = command()
        path.unlink()
        path.symlink_to(folder / path.name)
        assert (status, out) == (1, "")
        assert error.startswith(f"error: {path} {said}")
        assert error.count("\n") == 1


def test_without_a_network_one_line_names_all_three_ways(folder, tmp_path):
    with pytest.raises(CourseError) as error:
        ensure_fashion_mnist(tmp_path / "empty")
    text = str(error.value)
    assert "\n" not in text
    for part in ("connect to the internet", "dataset-fashion-mnist", "train-images-idx3-ubyte.gz", "in this test"):
        assert part in text
    assert list((tmp_path / "empty").iterdir()) == []


def test_the_second_way_is_tried_when_the_first_fails(folder, tmp_path, monkeypatch):
    def download(temporary: Path) -> Path:
        fill(temporary)
        return temporary

    monkeypatch.setattr(data, "_download_with_apt", download)
    target = tmp_path / "empty"
    assert ensure_fashion_mnist(target) == target
    assert sorted(path.name for path in target.iterdir()) == sorted(f"{name}.gz" for name in data.SHA256)


def test_a_corrupt_download_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    def download(temporary: Path) -> Path:
        fill(temporary)
        (temporary / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>Sign in to this network</html>")
        return temporary

    monkeypatch.setattr(data, "_download_with_torchvision", download)
    with pytest.raises(CourseError, match="a web page"):
        ensure_fashion_mnist(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_the_package_is_fetched_without_root_and_without_the_systems_lists(tmp_path, monkeypatch):
    commands = []

    def run(command, *, cwd, **_):
        commands.append(command)
        if "download" in command:
            (cwd / "dataset-fashion-mnist_1_all.deb").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(data.subprocess, "run", run)
    assert data._download_with_apt(tmp_path) == tmp_path / "unpacked/usr/share/datasets/fashion-mnist"
    update, download, unpack = commands
    for command in (update, download):
        assert f"Dir::State::Lists={tmp_path}/lists" in command
        assert f"Dir::Cache={tmp_path}/cache" in command
    assert unpack[:2] == ("dpkg", "-x")


def test_what_a_failing_command_says_is_the_reason(tmp_path):
    def download(temporary: Path) -> Path:
        data._run("sh", "-c", "echo first >&2; echo E: no such package >&2; exit 100", cwd=temporary)
        return temporary

    assert data._attempt(download, tmp_path) == "E: no such package"
    assert "no-such-command" in data._attempt(lambda folder: data._run("no-such-command", cwd=folder), tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_preprocessing_equals_the_plain_formula(dtype):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    scaled = torch.from_numpy(images).float()[:, None].expand(-1, 3, -1, -1) / 255
    expected = (F.interpolate(scaled, scale_factor=8, mode="bilinear", align_corners=False) - 0.2860) / 0.3530
    batch = preprocess(images, dtype)
    assert (batch.shape, batch.dtype) == ((3, 3, 224, 224), dtype)
    assert batch.flags.c_contiguous
    np.testing.assert_allclose(batch, expected.numpy(), atol=1e-5 if dtype == np.float32 else 2e-3)


@settings(max_examples=20)
@given(grey=st.integers(0, 255), count=st.integers(1, 3))
def test_an_even_image_stays_even(grey, count):
    batch = preprocess(np.full((count, 28, 28), grey, np.uint8))
    np.testing.assert_allclose(batch, np.full((count, 3, 224, 224), (grey / 255 - 0.2860) / 0.3530), atol=1e-5)


@pytest.mark.parametrize(
    ("images", "remedy"),
    [
        (np.zeros((2, 28, 28), np.uint16), "divide 16 bits by 257"),
        (np.zeros((2, 28, 28), np.float32), "multiply 0..1 by 255 and round"),
        (np.zeros((2, 28, 28), bool), "multiply by 255"),
        (np.zeros((2, 28, 28), np.int64), "bring them to 0..255"),
        (np.zeros((28, 28), np.uint8), "give N x 28 x 28"),
        (np.zeros((2, 28, 28, 3), np.uint8), "give N x 28 x 28"),
        (np.zeros((2, 32, 32), np.uint8), "give N x 28 x 28"),
        ([np.zeros((28, 28), np.uint8)], "list is not a NumPy array"),
    ],
)
def test_pictures_that_would_be_classified_wrongly_are_refused_with_the_remedy(images, remedy):
    with pytest.raises(CourseError) as error:
        preprocess(images)
    assert remedy in str(error.value)
    assert "\n" not in str(error.value)


def test_preprocessing_leaves_its_input_alone_and_accepts_a_view():
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8)
    before = images.copy()
    every_other = preprocess(images[::2])
    assert np.array_equal(images, before)
    assert np.array_equal(every_other, preprocess(images)[::2])


@pytest.mark.parametrize("name", MODELS)
def test_the_trained_models_know_the_real_test_set(name):
    try:
        images, labels = load_fashion_mnist("test")
    except CourseError as error:
        pytest.skip(str(error))
    assert (len(images), len(CLASS_NAMES)) == (10_000, labels.max() + 1)
    model, count = load_pretrained(name), 96
    with torch.no_grad():
        logits = torch.cat([model(torch.from_numpy(preprocess(part))) for part in np.split(images[:count], 4)])
    assert (logits.argmax(1).numpy() == labels[:count]).mean() > 0.9


@pytest.mark.skipif("INFERENCE_TEST_NETWORK" not in os.environ, reason="INFERENCE_TEST_NETWORK is not set")
def test_the_real_data_set_can_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SYSTEM", tmp_path / "nothing here")
    assert ensure_fashion_mnist(tmp_path) == tmp_path
    assert len(load_fashion_mnist("train", tmp_path)[0]) == 60_000
