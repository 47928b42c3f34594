import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from inference_lib import cli
from inference_lib.seam import MODELS
from inference_lib.support.errors import CourseError
from inference_lib.zoo import training
from inference_lib.zoo.networks import load_pretrained
from inference_lib.zoo.training import RECIPES, LabelledImages, augment, split, train


@pytest.fixture(autouse=True)
def small_task(monkeypatch):
    """Two brightnesses to tell apart, few images, small batches."""

    def load(part):
        generator = np.random.default_rng(len(part))
        labels = generator.integers(0, 2, 96 if part == "train" else 16).astype(np.int64)
        noise = generator.integers(0, 50, (len(labels), 28, 28))
        return (noise + 150 * labels[:, None, None]).astype(np.uint8), labels

    monkeypatch.setattr(training, "load_fashion_mnist", load)
    monkeypatch.setattr(training, "VALIDATION_IMAGES", 16)
    monkeypatch.setitem(RECIPES, "vanilla_cnn", replace(RECIPES["vanilla_cnn"], batch_size=16, learning_rate=0.005))


@pytest.fixture
def quick(tmp_path):
    return partial(train, "vanilla_cnn", directory=tmp_path, epochs=1, limit=32)


def numbered(count: int) -> LabelledImages:
    numbers = torch.arange(count)
    return LabelledImages(numbers[:, None, None].expand(-1, 28, 28), numbers)


def test_training_learns_while_the_rate_rises_then_falls(quick):
    result = quick(epochs=4, limit=None)
    losses = [entry["train_loss"] for entry in result.history]
    assert losses[-1] < 0.7 * losses[0]
    assert result.test_accuracy > 80
    rates = [entry["lr"] for entry in result.history]
    assert len(rates) == 4
    assert rates[0] < rates[1] > rates[2] > rates[3]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(quick):
    first, again, other = (quick(seed=seed).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.2.weight"], other["head.2.weight"])


def test_a_trial_of_a_few_pictures_leaves_no_accuracy_behind(quick, tmp_path, capsys):
    assert quick().limit == 32
    content = json.loads((tmp_path / "vanilla_cnn.history.json").read_text())
    assert content["limit"] == 32
    assert not {"test_accuracy", "validation_accuracy"} & set(content)
    assert cli.main(["weights", "--directory", str(tmp_path)]) == 0
    assert "a trial, 1 epochs on CPU" in capsys.readouterr().out
    few = ["--device", "cpu", "--limit", "20", "--epochs", "1", "--output", str(tmp_path)]
    assert cli.main(["train", "vanilla_cnn", *few]) == 0
    assert "% (a trial: of 20 pictures at most), weights in" in capsys.readouterr().out


def test_weights_and_learning_curve_are_stored_as_measured(quick, tmp_path):
    result = quick(limit=None)
    stored = load_pretrained("vanilla_cnn", tmp_path)
    test = training._load("test", "cpu")
    assert training.accuracy(stored, test) == result.test_accuracy
    content = json.loads((tmp_path / "vanilla_cnn.history.json").read_text())
    assert content["history"] == result.history
    assert content["recipe"]["epochs"] == 1
    assert content["test_accuracy"] == result.test_accuracy
    assert (content["device"], content["seed"]) == ("CPU", 0)


def test_an_unknown_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(CourseError, match="unknown model 'lenet'; choose one of: vanilla_cnn"):
        train("lenet", directory=tmp_path)


def test_every_model_has_a_recipe():
    assert list(RECIPES) == list(MODELS)


def test_the_split_is_seeded_and_disjoint():
    data = numbered(60_000)
    learning, validation = split(data, 5_000, seed=1)
    assert (len(learning), len(validation)) == (55_000, 5_000)
    assert torch.equal(torch.cat([learning.labels, validation.labels]).sort().values, data.labels)
    assert torch.equal(validation.images[:, 0, 0], validation.labels)
    assert torch.equal(split(data, 5_000, seed=1)[1].labels, validation.labels)
    assert not torch.equal(split(data, 5_000, seed=2)[1].labels, validation.labels)


def test_augmentation_without_shift_and_square_flips_some_images():
    torch.manual_seed(0)
    images = torch.randint(256, (64, 28, 28), dtype=torch.uint8)
    result = augment(images, shift=0, erase=0)
    kept = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(2)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 16 < kept.sum() < 48


def test_augmentation_shifts_by_the_limit_at_most():
    torch.manual_seed(0)
    images = torch.zeros(200, 28, 28, dtype=torch.uint8)
    images[:, 10, 10] = 255
    _, rows, columns = augment(images, shift=2, erase=0).nonzero(as_tuple=True)
    assert set(rows.tolist()) == set(range(8, 13))
    assert set(columns.tolist()) == {*range(8, 13), *range(15, 20)}  # 17 is 10 mirrored.


def test_augmentation_erases_a_square_in_half_of_the_images():
    torch.manual_seed(0)
    images = torch.full((400, 28, 28), 7, dtype=torch.uint8)
    changed = augment(images, shift=0, erase=10) != images
    touched = changed.flatten(1).any(1)
    assert 120 < touched.sum() < 240
    assert changed.any(2).sum(1).max() <= 10
    assert changed.any(1).sum(1).max() <= 10


def test_accuracy_counts_the_last_partial_batch(monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", 4)

    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.full((len(x),), 1), 10).float()

    labels = torch.tensor([1, 1, 0, 1, 1, 0])
    assert training.accuracy(Constant(), LabelledImages(numbered(6).images, labels)) == pytest.approx(100 * 4 / 6)


def test_biases_and_normalization_do_not_decay():
    model = MODELS["vanilla_cnn"].create()
    decayed, free = training._optimizer(model, RECIPES["vanilla_cnn"]).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (5e-4, 0)
    assert all(p.dim() > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_the_command_line_says_what_was_measured(tmp_path, capsys):
    options = ["--device", "cpu", "--epochs", "1", "--limit", "16", "--output", str(tmp_path)]
    assert cli.main(["train", "vanilla_cnn", *options]) == 0
    assert "vanilla_cnn: validation" in capsys.readouterr().out
    assert (tmp_path / "vanilla_cnn.safetensors").is_file()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_trained(quick, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained for nothing"))
    with pytest.raises(CourseError, match=r"cannot write weights to .*file.*--output"):
        quick(directory=tmp_path / "file" / "weights")


class StoppedError(Exception):
    pass


def test_an_interrupted_training_goes_on_after_its_last_epoch_and_gives_the_same_weights(quick, tmp_path, monkeypatch):
    whole = quick(epochs=4, directory=tmp_path / "whole")
    validate, epochs = training.accuracy, []

    def stop_in_the_third_epoch(*arguments):
        epochs.append(len(epochs) + 1)
        if len(epochs) == 3:
            raise StoppedError
        return validate(*arguments)

    monkeypatch.setattr(training, "accuracy", stop_in_the_third_epoch)
    with pytest.raises(StoppedError):
        quick(epochs=4)
    monkeypatch.setattr(training, "accuracy", lambda *arguments: epochs.append("again") or validate(*arguments))
    resumed = quick(epochs=4)
    assert epochs == [1, 2, 3, *["again"] * 4]  # two epochs, then the stored weights on both sets
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert [entry["epoch"] for entry in resumed.history] == [1, 2, 3, 4]
    assert not list(tmp_path.glob(".*"))


def test_a_training_with_other_choices_starts_anew(quick, tmp_path):
    checkpoint = training.Checkpoint(tmp_path / ".vanilla_cnn.unfinished.pt", [{}, 1, None])
    checkpoint.save({}, [{"epoch": 1}], torch.device("cpu"))
    assert len(quick(epochs=2).history) == 2
    checkpoint.path.write_bytes(b"cut short")
    with pytest.raises(CourseError, match="is damaged; delete it"):
        quick()
