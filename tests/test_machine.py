"""What a measurement belongs to: the hardware as the process sees it."""

from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import torch

from inference_lib.records import machine as module
from inference_lib.records.machine import Machine, this_machine


@pytest.mark.parametrize(
    ("content", "processors"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None), ("nonsense", None), (None, None)],
)
def test_a_container_s_share_of_the_processors(tmp_path: Path, content: str | None, processors: float | None) -> None:
    path = tmp_path / "cpu.max"
    if content is not None:
        path.write_text(content)
    assert module._cpu_quota(path) == processors


def test_a_machine_is_called_by_what_does_the_work(machine: Machine) -> None:
    assert machine.name("cuda") == "NVIDIA Test GPU"
    assert machine.name("cpu") == "Test CPU (2 cores)"
    assert machine.model_copy(update={"gpu": None}).name("cuda") == "Test CPU (2 cores)"


def test_this_machine_has_the_processors_and_threads_of_this_process() -> None:
    found = this_machine()
    assert found.cores >= 1
    assert found.threads == torch.get_num_threads()
    assert found.memory_gib > 0
    assert found.packages["torch"] == torch.__version__.split("+")[0]


def test_the_gpu_is_the_one_that_pytorch_calls_by_this_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML's own index may be another GPU's; it is asked for the driver alone, and may not be there at all."""
    cards = [SimpleNamespace(name=f"card {n}", total_memory=n * 2**30) for n in (1, 2)]

    def no_nvml() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
    monkeypatch.setattr(pynvml, "nvmlInit", no_nvml)
    assert module._gpu(1) == ("card 2", 2048, None)
