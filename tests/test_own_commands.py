"""A reader's own model and pictures at the prompt: trained, listed, predicted, exported, measured, chosen."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference_lib import cli
from inference_lib.records.store import RecordStore
from inference_lib.zoo import fashion_mnist

NETWORKS = Path(__file__).with_name("brought.py")
GREY = f"{NETWORKS}:grey"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return the exit status of a command, and what it printed to standard output and standard error."""
    capsys.readouterr()
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write pictures of ten classes: a bright band, higher or lower."""
    folder = tmp_path_factory.mktemp("own") / "bands"
    for label in range(10):
        (folder / f"band {label}").mkdir(parents=True)
        for number in range(10):
            picture = np.random.default_rng(number).integers(0, 60, (28, 28), np.uint8)
            picture[2 + 2 * label : 5 + 2 * label] += 190
            Image.fromarray(picture).save(folder / f"band {label}" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def weights(pictures: Path) -> Path:
    """Train once for all tests."""
    out = pictures.parent / "trained"
    options = ["--input-shape", "1x28x28", "--epochs", "60", "--device", "cpu", "--output", str(out)]
    assert cli.main(["train", GREY, "--data", str(pictures), *options]) == 0
    return out / "bands-grey.safetensors"


@pytest.fixture(scope="module")
def model(weights: Path) -> str:
    """What is typed for the trained network: the code that makes it, and its weights."""
    return f"{GREY}@{weights}"


@pytest.mark.parametrize("backend", ["pytorch", "onnxruntime"])
def test_a_trained_network_names_what_it_sees(
    backend: str, model: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [pictures / f"band {label}" / "0.png" for label in (0, 7)]
    options = ["--backend", backend, "--device", "cpu", "--output", tmp_path, "--top", 2]
    status, out, _ = run(capsys, "predict", model, *shown, *options, "--json")
    assert status == 0
    found = json.loads(out)
    assert [next(iter(classes)) for classes in found.values()] == ["band 0", "band 7"]
    assert all(len(classes) == 2 and sum(classes.values()) <= 1.0001 for classes in found.values())
    status, out, _ = run(capsys, "predict", model, shown[0], *options)
    assert out.startswith(f"{shown[0]}: band 0 ")
    assert out.count("%") == 2


def test_a_network_of_the_course_sees_a_trouser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = fashion_mnist.split_of("test")
    Image.fromarray(images[labels == 1][0]).save(tmp_path / "picture.png")
    options = ["--device", "cpu", "--output", tmp_path / "artifacts"]
    status, out, _ = run(capsys, "predict", "vanilla_cnn", tmp_path / "picture.png", *options)
    assert (status, out.split(": ")[1].startswith("Trouser 9")) == (0, True)


def test_a_picture_or_a_model_that_cannot_be_read_is_one_line(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_text("no picture")
    for arguments, said in (
        ([model, tmp_path / "a.png"], "a.png cannot be read: it is no picture"),
        ([model, tmp_path / "b.png"], "b.png cannot be read: No such file"),
        ([f"{NETWORKS}:sequence", tmp_path / "a.png", "--input-shape", "4x64"], "does not read pictures"),
        ([f"{NETWORKS}:TwoOutputs", tmp_path / "a.png"], "returns 2 outputs; wrap it"),
    ):
        status, out, error = run(capsys, "predict", *arguments, "--device", "cpu", "--output", tmp_path)
        assert (status, out) == (1, "")
        (line,) = error.splitlines()
        assert said in line


def test_weights_are_listed_and_verified(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "weights", "verify", "--directory", weights.parent)
    lines = out.splitlines()
    assert (status, len(lines)) == (0, 4)
    assert all(line.endswith("verified") for line in lines[:3])
    assert lines[3].endswith("whole; its network is made by code, which is not run here")
    assert "bands-grey.safetensors" in lines[3]
    assert "60 epochs on CPU" in lines[3]
    damaged = weights.parent / "damaged" / weights.name
    damaged.parent.mkdir()
    damaged.write_bytes(weights.read_bytes()[:-200])
    status, out, _ = run(capsys, "weights", "verify", "--directory", damaged.parent)
    assert (status, "train again" in out.splitlines()[3]) == (1, True)
    status, out, _ = run(capsys, "weights", "--directory", damaged.parent)
    assert (status, "verified" in out) == (0, False)


def test_options_of_ones_own_pictures_need_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capsys, "train", "vanilla_cnn", "--flip")
    assert (status, error) == (1, "error: --flip is for your own pictures; give them with --data DIR\n")


def test_own_model_and_pictures_are_measured_and_chosen(
    model: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--backend", "pytorch", "onnxruntime", "--precision", "fp32", "--device", "cpu", "--profile", "smoke"]
    places = ["--records", tmp_path / "records"]
    status, out, error = run(capsys, "benchmark", "--model", model, "--data", pictures, *grid, *places)
    assert status == 0, error
    records = RecordStore(tmp_path / "records").read()
    assert [record.pictures for record in records] == ["bands", "bands"]
    assert {record.model_title for record in records} == {"bands-grey.safetensors"}
    (name,) = {record.model for record in records}
    assert re.fullmatch(rf"bands-grey-{records[0].model_hash[:8]}-[0-9a-f]{{8}}", name)  # and of the pictures
    assert all(record.accuracy and record.accuracy.images == 20 for record in records)  # as many as there are
    assert all(record.accuracy and (record.accuracy.accuracy_percent or 0) > 50 for record in records)
    for name in (model, "bands-grey.safetensors"):
        status, out, _ = run(capsys, "choose", "--model", name, *places, "--min-accuracy", 50)
        assert status == 0
        assert "ONNX Runtime" in out
    status, out, _ = run(capsys, "choose", "--model", model, *places, "--max-latency-ms", 0.000001)
    assert status == 1


def test_without_labels_there_is_no_accuracy_and_the_row_says_what_it_was_checked_on(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--backend", "onnxruntime", "--precision", "fp32", "--device", "cpu", "--profile", "smoke"]
    model = [f"{NETWORKS}:Dropout", "--records", tmp_path]
    status, _, error = run(capsys, "benchmark", "--model", *model, "--data", pictures, *grid)
    assert status == 0, error
    assert "knows other classes than" in error
    (record,) = RecordStore(tmp_path).read()
    assert record.pictures == "bands"
    assert record.accuracy is not None
    assert (record.accuracy.accuracy_percent, record.accuracy.agreement_percent) == (None, 100)
    status, _, error = run(capsys, "benchmark", "--model", *model, *grid)
    assert status == 0, error
    assert {record.pictures for record in RecordStore(tmp_path).read()} == {"bands", "random"}


@pytest.mark.slow
def test_the_whole_flow_without_a_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data, an epoch on 64 pictures, export, benchmark, report, predict: as the reference project's scripts did."""
    trained, records, artifacts = (tmp_path / name for name in ("trained", "records", "artifacts"))
    here = ["--device", "cpu"]
    assert run(capsys, "data")[0] == 0
    options = ["--epochs", 1, "--limit", 64, "--output", trained, *here]
    assert run(capsys, "train", "vanilla_cnn", *options)[0] == 0
    model = trained / "vanilla_cnn.safetensors"
    assert run(capsys, "export", "onnxruntime", model, "--output", artifacts, *here)[0] == 0
    grid = ["--backend", "pytorch", "onnxruntime", "openvino", "--precision", "fp32", "--records", records, *here]
    status, out, error = run(capsys, "benchmark", "--model", model, "--profile", "smoke", *grid)
    assert status == 0, error
    assert out.count("100.00") == 3  # the agreement of each
    assert "Vanilla CNN (trained once more)" in {record.model_title for record in RecordStore(records).read()}
    assert "vanilla_cnn-" in run(capsys, "report", "--records", records)[1]
    images, labels = fashion_mnist.split_of("test")
    Image.fromarray(images[labels == 1][0]).save(tmp_path / "trouser.png")
    options = ["--backend", "openvino", "--output", artifacts, *here]
    status, out, _ = run(capsys, "predict", model, tmp_path / "trouser.png", *options)
    assert (status, out.count("%")) == (0, 3)
    assert set(re.findall(r"[A-Z][\w/ -]*?(?= [0-9.]+ %)", out)) <= set(fashion_mnist.CLASS_NAMES), out
