import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from inference_lib.seam import MODELS
from inference_lib.support import files
from inference_lib.support.errors import CourseError
from inference_lib.zoo.networks import (
    PRETRAINED,
    create_model,
    load_pretrained,
    save_pretrained,
    weights_sha256,
)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A folder with freshly made weights of the vanilla CNN."""
    save_pretrained("vanilla_cnn", create_model("vanilla_cnn"), tmp_path)
    return tmp_path


def message(error: pytest.ExceptionInfo[CourseError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("name", "parameters"), [("vanilla_cnn", 908_458), ("resnet18", 11_181_642), ("mobilenet_v2", 2_236_682)]
)
def test_a_model_has_its_published_size_and_ten_outputs(name, parameters):
    model = create_model(name).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 10)


def test_an_unknown_model_is_refused_with_the_names_there_are():
    for ask in (create_model, load_pretrained, weights_sha256):
        with pytest.raises(CourseError) as error:
            ask("resnet19")
        assert all(name in message(error) for name in ("resnet19", *MODELS))


def test_weights_are_stored_in_fp16_and_the_rest_in_fp32(stored):
    model = create_model("vanilla_cnn")
    tensors = load_file(stored / "vanilla_cnn.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    for key, tensor in tensors.items():
        if key.endswith("num_batches_tracked"):
            assert tensor.dtype == torch.int64
        else:
            assert tensor.dtype == (torch.float16 if tensor.dim() > 1 else torch.float32), key


def test_a_running_variance_outside_the_range_of_fp16_survives(tmp_path):
    model = create_model("vanilla_cnn")
    extremes = torch.tensor([1e-9, 1e6]).repeat(16)
    model.features[1].running_var.copy_(extremes)
    save_pretrained("vanilla_cnn", model, tmp_path)
    assert torch.equal(load_pretrained("vanilla_cnn", tmp_path).features[1].running_var, extremes)


def test_a_loaded_model_is_the_saved_one_rounded_to_fp16(tmp_path):
    model = create_model("vanilla_cnn").eval()
    save_pretrained("vanilla_cnn", model, tmp_path)
    loaded = load_pretrained("vanilla_cnn", tmp_path)
    assert not loaded.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded.head[2].weight, model.head[2].weight.half().float())
    x = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(loaded(x), model(x), atol=1e-2, rtol=1e-2)


def test_loading_leaves_the_random_numbers_of_the_caller_alone(stored):
    before = torch.get_rng_state()
    load_pretrained("vanilla_cnn", stored)
    assert torch.equal(before, torch.get_rng_state())


def test_changed_weights_are_refused(stored):
    path = stored / "vanilla_cnn.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CourseError) as error:
        load_pretrained("vanilla_cnn", stored)
    text = message(error)
    assert str(path) in text
    assert weights_sha256("vanilla_cnn", stored)[:12] in text
    assert f"git checkout -- {path}" in text
    assert "python -m inference_lib train vanilla_cnn" in text


def test_missing_weights_are_named_with_two_remedies(stored):
    (stored / "vanilla_cnn.safetensors").unlink()
    with pytest.raises(CourseError, match=r"missing.*git checkout.*inference_lib train vanilla_cnn"):
        load_pretrained("vanilla_cnn", stored)


def test_a_folder_without_a_checksum_is_refused(stored):
    with pytest.raises(CourseError, match="no checksum for resnet18"):
        weights_sha256("resnet18", stored)
    (stored / "checksums.json").write_text("{")
    with pytest.raises(CourseError, match="not valid JSON"):
        weights_sha256("vanilla_cnn", stored)


def test_saving_keeps_the_checksums_of_the_other_models(stored):
    before = weights_sha256("vanilla_cnn", stored)
    save_pretrained("mobilenet_v2", create_model("mobilenet_v2"), stored)
    assert weights_sha256("vanilla_cnn", stored) == before
    assert load_pretrained("mobilenet_v2", stored)
    assert sorted(path.name for path in stored.iterdir()) == [
        "checksums.json",
        "mobilenet_v2.safetensors",
        "vanilla_cnn.safetensors",
    ]


def test_an_interrupted_save_leaves_the_old_weights(stored, monkeypatch):
    before = load_pretrained("vanilla_cnn", stored).head[2].weight

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained("vanilla_cnn", create_model("vanilla_cnn"), stored)
    assert torch.equal(load_pretrained("vanilla_cnn", stored).head[2].weight, before)
    assert len(list(stored.iterdir())) == 2


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_of_the_course_load_and_belong_to_their_learning_curve(name):
    assert isinstance(load_pretrained(name), nn.Module)
    history = json.loads((PRETRAINED / f"{name}.history.json").read_text())
    assert history["name"] == name
    assert [entry["epoch"] for entry in history["history"]] == list(range(1, history["recipe"]["epochs"] + 1))
    assert history["test_accuracy"] > 92


def test_the_weights_of_the_course_are_small_enough_for_git():
    assert sum(path.stat().st_size for path in PRETRAINED.glob("*.safetensors")) < 30e6
