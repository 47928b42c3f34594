"""Shared fixtures: made-up machines and records, and GPU tests skipped where there is no GPU."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import torch

from inference_lib.records.machine import Machine
from inference_lib.records.record import Accuracy, Build, Distribution, Latency, Load, Record


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of artifacts for the tests that only read them."""
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture
def machine() -> Machine:
    return Machine(
        gpu="NVIDIA Test GPU",
        gpu_memory_mib=80_000,
        driver="1.2.3",
        cpu="Test CPU",
        cores=2,
        memory_gib=24,
        system="Linux x86_64",
        python="3.12.3",
        packages={"torch": "2.11.0"},
        commit=None,
    )


def series(milliseconds: float) -> Distribution:
    return Distribution(
        p50=milliseconds,
        p90=milliseconds,
        p95=milliseconds,
        p99=milliseconds * 1.5,
        mean=milliseconds,
        cv_percent=1.0,
        median_low=milliseconds,
        median_high=milliseconds,
        samples=200,
        stop_reason="precise",
        quantiles=[milliseconds] * 201,
    )


@pytest.fixture
def make_record(machine: Machine) -> Callable[..., Record]:
    """Return a function that makes a measured record; keyword arguments replace its attributes."""

    def make(milliseconds: float = 2.0, **changed: object) -> Record:
        return Record(
            **(
                {
                    "status": "ok",
                    "backend": "pytorch",
                    "title": "PyTorch (eager)",
                    "version": "2.11.0",
                    "model": "resnet18",
                    "batch_size": 1,
                    "precision": "fp32",
                    "device": "cuda",
                    "machine": machine,
                    "profile": "full",
                    "measured_on": date(2026, 1, 2),
                    "fingerprint": "f",
                    "build": Build(export_s=1, load_s=1, first_inference_s=0.1, artifact_mib=44),
                    "latency": Latency(
                        end_to_end=series(milliseconds),
                        upload=series(0.1),
                        compute=series(milliseconds - 0.2),
                        download=series(0.1),
                    ),
                    "throughput_images_per_s": 600.0,
                    "accuracy": Accuracy(
                        accuracy_percent=95.0, agreement_percent=100.0, largest_difference=1e-6, images=10_000
                    ),
                    "gpu_memory_mib": 512.0,
                    "load": Load(
                        busy_percent=40,
                        sm_clock_mhz=1980,
                        power_w=120,
                        temperature_c=35,
                        peak_memory_mib=900.0,
                        energy_mj_per_image=200,
                        throttle_reasons=[],
                        samples=20,
                        seconds=1,
                    ),
                }
                | changed
            )
        )

    return make
