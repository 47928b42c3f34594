"""What an artifact is made from, a network in evaluation mode, and that it is whole, however many make it at once."""

import fcntl
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import objects
import pytest
from torch import nn

from inference_lib.backends import BACKENDS
from inference_lib.measure.workers import Deadline, Worker
from inference_lib.seam import MODELS, Workload, build
from inference_lib.support import files
from inference_lib.support.errors import CourseError
from inference_lib.support.files import locked
from inference_lib.zoo.networks import create_model, load_pretrained


def test_every_export_gets_a_network_in_evaluation_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left in training mode, a dropout would answer otherwise each time."""
    modes = {}
    training = replace(MODELS["vanilla_cnn"], load=lambda: load_pretrained("vanilla_cnn").train())
    for name, backend in BACKENDS.items():

        def export(_: object, model: nn.Module, *__: object, name: str = name) -> None:
            modes[name] = any(module.training for module in model.modules())

        export.__module__ = type(backend).__module__
        monkeypatch.setattr(type(backend), "export", export)
        monkeypatch.setattr(type(backend), "versions", lambda _: {})
        monkeypatch.setattr(type(backend), "stored_precision", lambda *_: "fp32")
        build(backend, Workload(training, 1), tmp_path / name)
    assert modes == dict.fromkeys(BACKENDS, False)


def test_an_architecture_alone_is_in_training_mode_and_a_trained_network_is_not() -> None:
    for name in MODELS:
        assert create_model(name).training
        assert not load_pretrained(name).training


def test_processes_that_export_one_artifact_at_once_all_succeed_and_leave_one(tmp_path: Path) -> None:
    root, meeting = tmp_path / "artifacts", tmp_path / "meeting"
    meeting.mkdir()
    workers = [Worker(objects.Writer, root, meeting, 3) for _ in range(3)]
    try:
        for worker in workers:
            worker.tell("build")
        found = [worker.answer(Deadline(120)) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert len(list(meeting.iterdir())) == 3  # all of them exported
    assert len({writer for halves in found for writer in halves}) == 1  # nobody's was taken away while it was read
    assert os.listdir(root / "writer") == ["vanilla_cnn"]


def test_a_stale_artifact_is_replaced_as_a_whole(tmp_path: Path) -> None:
    place = tmp_path / "artifacts" / "writer"
    objects.Writer(tmp_path / "artifacts", tmp_path, 0).build()
    (place / "vanilla_cnn" / "third half").touch()
    objects.Writer(tmp_path / "artifacts", tmp_path, 1).build()
    assert os.listdir(place) == ["vanilla_cnn"]
    assert sorted(os.listdir(place / "vanilla_cnn")) == ["first half", "manifest.json", "second half"]


def test_who_waits_for_an_export_of_another_process_is_told_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "LOCK_LIMIT_S", 0.2)
    held, line = tmp_path / "builder.lock", "another process exports to here"
    held.touch()
    with locked(held):
        with (
            pytest.raises(CourseError, match=rf"^{line}; wait for it or end it$"),
            locked(held, holder="exports to here"),
        ):
            pytest.fail("it is held")
        assert capsys.readouterr().err == f"waiting: {line}\n"
        with pytest.raises(CourseError, match=r"another process holds .*builder.lock; wait"), locked(held):
            pytest.fail("it is held")
        assert capsys.readouterr().err == ""
    with locked(held, holder="exports to here"):
        assert capsys.readouterr().err == ""


def test_who_waits_for_a_lock_goes_on_when_it_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ExitStack()
    first.enter_context(locked(tmp_path))
    monkeypatch.setattr(files.time, "sleep", lambda _: first.close())
    with locked(tmp_path), pytest.raises(BlockingIOError), locked(tmp_path, fcntl.LOCK_NB):
        pytest.fail("it is held")
