"""Training on a reader's own pictures, and what is kept of it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from inference_lib.seam import find_model
from inference_lib.support.errors import CourseError
from inference_lib.zoo import folder_training, training
from inference_lib.zoo.folder_training import train_on
from inference_lib.zoo.image_folder import Preprocessing
from inference_lib.zoo.networks import VanillaCNN
from inference_lib.zoo.trained import Trained, load_trained, read_facts, save_trained

NETWORK = """
from typing import NamedTuple
from torch import nn

def make(num_classes=2):
    first = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
    network = nn.Sequential(*first, nn.Flatten(), nn.Linear(8 * 49, num_classes))
    network.input_shape = (1, 16, 16)
    return network

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 7))

class Answer(NamedTuple):
    logits: object
    aux_logits: object

class Auxiliary(nn.Module):
    input_shape = (1, 16, 16)

    def __init__(self, num_classes):
        super().__init__()
        self.body = make(num_classes)

    def forward(self, x):
        logits = self.body(x)
        return Answer(logits, 2 * logits) if self.training else logits

def auxiliary(num_classes=2):
    return Auxiliary(num_classes)
"""


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write pictures of stripes that lie or stand, or slope, with noise: easy, but not without training."""
    folder, random = tmp_path_factory.mktemp("data") / "stripes", np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    for name, slope in {"lying": rows, "standing": columns, "sloping": rows + columns}.items():
        (folder / name).mkdir(parents=True)
        for number in range(40):
            picture = 128 + 60 * np.sin(slope + random.uniform(0, 6)) + 20 * random.normal(size=(16, 16))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    (folder.parent / "network.py").write_text(NETWORK)
    return folder


def backbone(stripes: Path, name: str = "make") -> str:
    return f"{stripes.parent / 'network.py'}:{name}"


def test_a_network_of_ones_own_learns_and_its_file_tells_all_that_is_needed(stripes: Path, tmp_path: Path) -> None:
    said: list[str] = []
    result, path = train_on(backbone(stripes), stripes, directory=tmp_path, epochs=40, progress=False, say=said.append)
    assert result.test_accuracy > 80  # a third is luck
    facts = read_facts(path)
    assert facts.class_names == ("lying", "sloping", "standing")
    assert facts.preprocessing.shape == (1, 16, 16)
    assert 0.4 < facts.preprocessing.mean[0] < 0.6
    assert 0.1 < facts.preprocessing.std[0] < 0.3
    model = find_model(f"{backbone(stripes)}@{path}")
    assert (model.outputs, model.class_names, model.input_shape) == (3, facts.class_names, (1, 16, 16))
    assert model.prepare is not None
    right = 0
    for name in facts.class_names:
        inputs = np.stack([model.prepare(file) for file in sorted((stripes / name).iterdir())])
        with torch.inference_mode():
            found = model.load()(torch.from_numpy(inputs)).argmax(1)
        right += int((found == facts.class_names.index(name)).sum())
    assert right > 0.8 * 120  # prepared from the file as they were in training
    history = json.loads((tmp_path / "stripes-make.history.json").read_text())
    assert len(history["history"]) == 40
    assert {path.name for path in tmp_path.iterdir()} == {"stripes-make.history.json", "stripes-make.safetensors"}
    assert said == []


def test_a_network_with_auxiliary_answers_in_training_learns_by_its_logits(stripes: Path, tmp_path: Path) -> None:
    """GoogLeNet and Inception v3 do so."""
    options = {"directory": tmp_path, "epochs": 1, "limit": 20, "progress": False}
    plain, _ = train_on(backbone(stripes), stripes, **options)
    result, _ = train_on(backbone(stripes, "auxiliary"), stripes, **options)
    assert result.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"])


def test_one_training_does_not_take_the_file_of_another(stripes: Path, tmp_path: Path) -> None:
    options = {"directory": tmp_path, "epochs": 1, "limit": 20, "progress": False}
    _, path = train_on(backbone(stripes), stripes, **options)
    before = path.read_bytes()
    other_network, other_folder = tmp_path / "elsewhere.py", tmp_path / "elsewhere" / "stripes"
    other_network.write_text(NETWORK)
    shutil.copytree(stripes, other_folder)
    damaged = tmp_path / "damaged" / path.name
    damaged.parent.mkdir()
    damaged.write_text("something else")
    for spec, folder, changed in (
        (f"{other_network}:make", stripes, {}),
        (backbone(stripes), other_folder, {}),
        (backbone(stripes), stripes, {"directory": damaged.parent}),
    ):
        with pytest.raises(
            CourseError, match=r"stripes-make.safetensors is there already, .*; choose another --output"
        ):
            train_on(spec, folder, **options | changed)
    assert path.read_bytes() == before
    assert train_on(backbone(stripes), stripes, **options)[1] == path  # the same once more


def test_the_best_epoch_is_kept(stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([50.0, 90.0, 60.0, 90.0, 0.0])  # of the epochs, and of what was kept
    seen: list[torch.Tensor] = []

    def accuracy(model: torch.nn.Module, data: training.LabelledImages) -> float:
        seen.append(model.state_dict()["0.weight"].clone())
        return next(told)

    monkeypatch.setattr(training, "accuracy", accuracy)
    result, _ = train_on(backbone(stripes), stripes, directory=tmp_path, epochs=3, progress=False)
    assert torch.equal(result.model.state_dict()["0.weight"], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_an_interrupted_training_goes_on_and_ends_as_if_it_never_was(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train_on(backbone(stripes), stripes, directory=tmp_path / "whole", epochs=3, progress=False)
    real, steps = training._step, []

    def interrupted(*arguments: object) -> torch.Tensor:
        steps.append(1)
        if len(steps) > 12:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_on(backbone(stripes), stripes, directory=tmp_path / "parts", epochs=3, progress=False)
    monkeypatch.setattr(training, "_step", real)
    parts, _ = train_on(backbone(stripes), stripes, directory=tmp_path / "parts", epochs=3, progress=False)
    assert len(steps) == 13
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, parts.model.state_dict()[name]), name


def test_the_test_pictures_are_opened_after_the_last_epoch(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    load, step = folder_training.image_folder.load, training._step
    monkeypatch.setattr(
        folder_training.image_folder,
        "load",
        lambda pictures, *a, **k: order.append(f"{len(pictures)}") or load(pictures, *a, **k),
    )
    monkeypatch.setattr(training, "_step", lambda *a: order.append("step") or step(*a))
    train_on(backbone(stripes), stripes, directory=tmp_path, epochs=1, progress=False)
    assert order[0] == "96"
    assert order[-1] == "24"
    assert set(order[1:-1]) == {"step"}


def test_mirrors_are_made_only_where_they_are_of_the_same_class() -> None:
    picture = torch.zeros(64, 3, 6, 8, dtype=torch.uint8)
    picture[..., 0] = 200
    kept = training.augment(picture, 0, 0, flip=False)
    assert torch.equal(kept, picture)
    mirrored = training.augment(picture, 0, 0, flip=True)
    assert 0 < (mirrored[:, 0, 0, 7] == 200).sum() < 64
    assert mirrored.shape == picture.shape


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        (
            "nothing",
            {},
            "unknown backbone 'nothing'; choose one of: vanilla_cnn, resnet18, mobilenet_v2; or torchvision",
        ),
        ("torchvision:nothing", {}, "torchvision has no classifier 'nothing'"),
        ("NETWORK:fixed", {"shape": (1, 16, 16)}, "does not return one logit for each of the 3 classes"),
        ("NETWORK:fixed", {}, "does not tell its input's shape; give --input-shape"),
        ("NETWORK:make", {"shape": (1, 4, 4)}, "does not run on 1x4x4: .*; give --input-shape"),
        ("NETWORK:make", {"shape": (5,)}, "pictures have 1 or 3 channels"),
        ("NETWORK:make", {"epochs": 0}, "nothing can be trained"),
        ("NETWORK:make", {"limit": 2}, "leaves 1 pictures to train on, and 2 are needed"),
    ],
)
def test_what_cannot_be_trained_is_one_line(spec: str, options: dict, said: str, stripes: Path, tmp_path: Path) -> None:
    spec = spec.replace("NETWORK", str(stripes.parent / "network.py"))
    with pytest.raises(CourseError, match=said) as error:
        train_on(spec, stripes, directory=tmp_path, progress=False, **options)
    assert "\n" not in str(error.value)


def test_without_imagenet_weights_it_says_so_and_starts_from_random_ones(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    options = {"pretrained": True, "epochs": 1, "limit": 20, "progress": False, "say": said.append}
    train_on(backbone(stripes), stripes, directory=tmp_path, **options)
    (line,) = said
    assert line.startswith("there are no ImageNet weights of ")
    assert line.endswith("; training starts from random weights")

    def refused(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refused)
    with pytest.raises(CourseError, match="the ImageNet weights of resnet18 cannot be had: OSError: no route to host"):
        folder_training.imagenet_state("resnet18")


def test_imagenet_weights_are_taken_into_all_layers_but_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    theirs = models.squeezenet1_1().state_dict()
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda *_, **options: theirs if options["weights_only"] else None
    )
    module = folder_training.backbone("torchvision:squeezenet1_1", 3)
    assert folder_training._start_from_imagenet("torchvision:squeezenet1_1", module) == ""
    mine = module.state_dict()
    assert torch.equal(mine["features.0.weight"], theirs["features.0.weight"])
    assert mine["classifier.1.weight"].shape[0] == 3


def test_the_courses_networks_take_other_classes() -> None:
    for name in ("vanilla_cnn", "mobilenet_v2"):
        assert folder_training.backbone(name, 4).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 4)


def test_a_file_that_is_not_what_train_writes_is_one_line(tmp_path: Path) -> None:
    facts = Trained(
        backbone="vanilla_cnn", class_names=("a", "b"), preprocessing=Preprocessing(height=224, width=224), pictures="p"
    )
    path = tmp_path / "net.safetensors"
    save_trained(path, VanillaCNN(2), facts)
    assert load_trained(path)
    save_trained(path, VanillaCNN(3), facts)
    with pytest.raises(CourseError, match=r"does not fit vanilla_cnn \(.*\); train again"):
        load_trained(path)
    whole = path.read_bytes()
    for content, said in (
        (whole[:100], "train again"),
        (b"", "train again"),
        (whole[:8] + b"{}" + whole[10:], "train again"),
    ):
        path.write_bytes(content)
        with pytest.raises(CourseError, match=said) as error:
            find_model(str(path))
        assert "\n" not in str(error.value)
    with pytest.raises(CourseError, match="does not exist; make it with: python -m inference_lib train"):
        find_model(str(tmp_path / "none.safetensors"))
    path.write_bytes((Path(training.__file__).parent / "pretrained" / "vanilla_cnn.safetensors").read_bytes())
    with pytest.raises(CourseError, match="holds weights alone"):
        find_model(str(path))


def test_code_that_a_file_names_is_run_only_where_the_reader_names_it_too(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = train_on(backbone(stripes), stripes, directory=stripes.parent / "out", epochs=1, limit=20, progress=False)
    assert str(stripes.parent).encode() not in path.read_bytes()
    monkeypatch.chdir(stripes.parent)
    with pytest.raises(CourseError, match=r"no file may say what is run; type network.py:make@out/.*.safetensors$"):
        find_model(str(path))
    assert find_model("network.py:make@out/stripes-make.safetensors").outputs == 3
    ran = tmp_path / "ran"
    for place in ("trap.py", "trap"):
        (tmp_path / "trap.py").write_text(f"open({str(ran)!r}, 'w')\n{NETWORK}")
        facts = read_facts(path).model_copy(update={"backbone": f"{tmp_path / place if '.' in place else place}:make"})
        save_trained(tmp_path / "from_somebody.safetensors", nn.Linear(1, 1), facts)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(CourseError, match=r"no file may say what is run; type trap.*:make@from_somebody") as error:
            find_model("from_somebody.safetensors")
        assert "\n" not in str(error.value)
        assert not ran.exists()
    with pytest.raises(CourseError, match=r"does not fit .*trap.py:make"):
        find_model("trap.py:make@from_somebody.safetensors")
    assert ran.exists()


def test_a_file_that_names_its_network_in_more_than_a_line_is_not_ours(tmp_path: Path) -> None:
    facts = Trained.model_construct(
        backbone="vanilla_cnn\n\x1b[2J",
        class_names=("a",),
        preprocessing=Preprocessing(height=8, width=8),
        pictures="p",
    )
    save_trained(tmp_path / "net.safetensors", nn.Linear(1, 1), facts)
    with pytest.raises(CourseError, match="is not what the command train writes"):
        find_model(str(tmp_path / "net.safetensors"))


def test_a_training_does_not_go_on_with_a_network_that_was_changed_since(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, kept = tmp_path / "network.py", {"directory": tmp_path, "epochs": 2, "progress": False}
    network.write_text(NETWORK)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder_training, "tested", interrupted)  # at the end, when every epoch is kept
        with pytest.raises(KeyboardInterrupt):
            train_on(f"{network}:make", stripes, **kept)
    network.write_text(NETWORK.replace("8", "4"))
    result, _ = train_on(f"{network}:make", stripes, **kept)
    assert len(result.history) == 2
    assert sum(p.numel() for p in result.model.parameters()) < 1000


def test_pictures_that_fill_the_cache_of_files_can_be_trained_on_and_too_many_cannot(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, memory = os.sysconf, tmp_path / "meminfo"
    monkeypatch.setattr(os, "sysconf", lambda name: 0 if name == "SC_AVPHYS_PAGES" else asked(name))
    train_on(backbone(stripes), stripes, directory=tmp_path, epochs=1, limit=20, progress=False)
    memory.write_text("MemTotal:       24683724 kB\nMemFree:        20000000 kB\nMemAvailable:          9 kB\n")
    monkeypatch.setattr(folder_training, "MEMINFO", memory)
    with pytest.raises(
        CourseError, match=r"20 pictures of 1x16x16 take 0.0 GiB of memory, and 0.0 are free; use fewer"
    ):
        train_on(backbone(stripes), stripes, directory=tmp_path, epochs=1, limit=20, progress=False)
