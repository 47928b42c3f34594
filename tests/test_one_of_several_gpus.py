"""``--device cuda:1``: every command that takes a device works on one GPU of several."""

import os
import subprocess
import sys

import pynvml
import pytest
import torch

from inference_lib import cli
from inference_lib.commands import options as common

WORDS = {"export": ["pytorch", "vanilla_cnn"], "predict": ["vanilla_cnn", "a.png"], "train": ["vanilla_cnn"]}
"""What must stand before the options of a command."""


def commands_with_a_device() -> list[str]:
    """Return the commands whose device is where work is done, not what records are chosen by."""
    (subs,) = [action for action in cli.parser()._actions if action.choices]
    found = {
        name: [action for action in sub._actions if action.dest == "device" and not action.choices]
        for name, sub in subs.choices.items()
    }
    return [name for name, actions in found.items() if actions]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that knows two GPUs, and a user who hides none."""
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setenv(common.VISIBLE, "")


def taken(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Return the exit status, the device that the command gets, and the GPUs that it, and what it starts, see."""
    got = []
    monkeypatch.setattr(f"inference_lib.commands.{name}.run", lambda options: got.append(options.device))
    status = cli.main([name, *WORDS.get(name, []), "--device", device])
    code = f"import os; print(os.environ[{common.VISIBLE!r}])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return status, "".join(got), seen


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", commands_with_a_device())
def test_every_command_sees_the_gpu_that_was_named_and_no_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(name, "cuda:1", monkeypatch) == (0, "cuda", "1")


def test_those_that_compute_take_a_device() -> None:
    assert {"benchmark", "book", "export", "predict", "run", "serve", "train"} <= set(commands_with_a_device())


@pytest.mark.usefixtures("two_gpus")
def test_the_first_one_is_named_like_the_others_and_without_a_number_all_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert taken("train", "cuda", monkeypatch) == (0, "cuda", "")
    assert taken("train", "cuda:0", monkeypatch) == (0, "cuda", "0")


def test_among_some_that_are_seen_it_is_the_second_of_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(common.VISIBLE, "3,GPU-5a")
    assert taken("train", "cuda:1", monkeypatch) == (0, "cuda", "GPU-5a")


@pytest.mark.usefixtures("two_gpus")
def test_one_that_is_not_there_or_comes_too_late_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert taken("train", "cuda:2", monkeypatch) == (1, "", "")
    assert capsys.readouterr().err == (
        "error: there is no cuda:2: the GPUs here are cuda:0 to cuda:1; choose another --device\n"
    )
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert taken("train", "cuda:1", monkeypatch) == (1, "", "")
    assert "CUDA has started in this process" in capsys.readouterr().err


def test_where_there_is_no_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    monkeypatch.delenv(common.VISIBLE, raising=False)
    assert cli.main(["train", "vanilla_cnn", "--device", "cuda:1"]) == 1
    assert capsys.readouterr().err == ("error: there is no cuda:1: no NVIDIA GPU answers; choose another --device\n")
    assert common.VISIBLE not in os.environ
