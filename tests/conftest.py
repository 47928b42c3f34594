"""Shared fixtures: made-up machines and records, and GPU tests skipped where there is no GPU."""

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import cores  # before PyTorch, which looks at them
import numpy as np
import precompiled
import preloading
import pytest
import torch
from hypothesis import settings
from shared import session_folder
from xdist.scheduler import LoadScopeScheduling

from inference_lib.records.machine import Machine
from inference_lib.records.record import Accuracy, Build, Carried, Invocation, Load, Parts, Record
from inference_lib.records.statistics import QUANTILES
from inference_lib.seam import MODELS
from inference_lib.support import paths
from inference_lib.support.garbage import look_seldom

ALONE = {"test_threads", "test_every_core_computes_and_no_core_is_taken_from_others"}
"""Modules and tests that measure: nothing runs beside them."""

look_seldom()
preloading.prepare()

settings.register_profile("no deadline", deadline=None)  # a timing is never a test
settings.load_profile("no deadline")

CHAPTERS = "test_chapters"

WITH_ONE_REFERENCE = {"test_onnxruntime", "test_openvino", "test_pytorch", "test_torchscript", "test_tvm"}
"""They ask the models of the course the same, and their answers are computed once."""

EARLY = ("a chapter: 01", "test_servers", "test_cluster", "one reference", "a chapter", "test_browser")
EARLY += ("test_torch_compile", "test_commands", "test_book", CHAPTERS)
"""How the names begin of what takes longest, and after it of what needs all chapters: late, it would keep one process
waiting for another. The first chapter measures the grid, and the others wait for that; "one reference" finds there what
it would export a second time."""


def part_of(nodeid: str) -> str:
    """Return what a test shares a process with, for what they set up together: its module, or one of the chapters."""
    module, _, test = nodeid.partition("::")
    name = Path(module).stem
    if {name, test} & ALONE:
        return "alone"
    if name == CHAPTERS and "[" in test:
        return f"a chapter: {test.partition('[')[2]}"
    return "one reference" if name in WITH_ONE_REFERENCE else name


def when(item: pytest.Item) -> int:
    part = part_of(item.nodeid)
    return next((n for n, name in enumerate(EARLY) if part.startswith(name)), len(EARLY) + (part == "alone"))


class PartByPart(LoadScopeScheduling):
    """Gives a process that has nothing left the next part."""

    def _split_scope(self, nodeid: str) -> str:
        return part_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> PartByPart:
    config.option.loadscopereorder = False
    return PartByPart(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Let everything that a session compiles share the headers that it reads; processes of the session inherit it.

    So they do with Ctrl-C, which a shell lets what it starts in the background ignore.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if cores.WORKER:
        return
    folder = Path(tempfile.mkdtemp())
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    precompiled.put_in_front(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=when)
    for item in items:
        if part_of(item.nodeid) == "alone":
            item.add_marker("alone")
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    alone = item.get_closest_marker("alone") is not None
    with cores.running(alone, session_folder(item.config._tmp_path_factory) / "running"):
        return (yield)


@pytest.fixture(scope="session")
def root() -> Path:
    """The course's own artifacts, for the tests that only read them: what one exports, another and a chapter use."""
    return paths.ARTIFACTS


@pytest.fixture
def machine() -> Machine:
    return Machine(
        gpu="NVIDIA Test GPU",
        gpu_memory_mib=80_000,
        driver="1.2.3",
        cpu="Test CPU",
        cores=2,
        threads=2,
        memory_gib=24,
        system="Linux x86_64",
        python="3.12.3",
        packages={"torch": "2.11.0"},
        commit=None,
    )


P99_OVER_MEDIAN = 1.5


def invocations_of(
    milliseconds: float,
    count: int = 3,
    *,
    rounds: int = 20,
    iterations: int = 400,
    spread: float = 0.0,
    luck: float = 0.0,
    seed: int = 0,
    device_ms: float | None = None,
    carried: dict[str, float] | None = None,
) -> list[Invocation]:
    """Return made-up invocations: each has luck of its own, its rounds scatter by ``spread`` (standard deviations of
    the logarithm). Rows that are ``carried`` have the given milliseconds and no luck.
    """
    random = np.random.default_rng(seed)
    found = []
    for number in range(1, count + 1):
        centre = milliseconds * np.exp(luck * random.normal())
        times = (centre * np.exp(spread * random.normal(size=rounds))).tolist()
        device = [time * device_ms / milliseconds for time in times] if device_ms else []
        rows = {
            name: Carried(end_to_end_ms=[ms] * rounds, device_ms=[ms / 2] * rounds if device_ms else [])
            for name, ms in (carried or {}).items()
        }
        slow = QUANTILES // 100 + 1  # those at 99 percent and above
        found.append(
            Invocation(
                number=number,
                iterations=iterations,
                end_to_end_ms=times,
                device_ms=device,
                quantiles=[centre] * (QUANTILES - slow) + [centre * P99_OVER_MEDIAN] * slow,
                pace_ms=[0.04] * rounds,
                carried=rows,
            )
        )
    return found


@pytest.fixture
def make_record(machine: Machine) -> Callable[..., Record]:
    """Return a function that makes a measured record of ``milliseconds``, of 0 invocations one that was not measured.

    ``timing`` are arguments of ``invocations_of``; other keyword arguments replace the record's attributes.
    """

    def make(milliseconds: float = 2.0, count: int = 3, timing: dict | None = None, **changed: object) -> Record:
        device, model = str(changed.get("device", "cuda")), str(changed.get("model", "resnet18"))
        on_gpu, measured = device == "cuda", count > 0
        times = {"device_ms": 0.8 * milliseconds if on_gpu else None} | (timing or {})
        attributes = {
            "status": "ok",
            "backend": "pytorch",
            "title": "PyTorch (eager)",
            "version": "2.11.0",
            "model": model,
            "model_title": MODELS[model].title if model in MODELS else model,
            "batch_size": 1,
            "precision": "fp32",
            "device": device,
            "machine": machine,
            "profile": "full",
            "rivals": "one set",
            "measured_on": date(2026, 1, 2),
            "fingerprint": "f",
            "invocations": invocations_of(milliseconds, count, **times),
        }
        if measured:
            attributes |= {
                "build": Build(export_s=1, load_s=1, first_inference_s=0.1, artifact_mib=44, alone=True),
                "parts": Parts(upload=0.1, compute=milliseconds - 0.2, download=0.1),
                "throughput_images_per_s": 600.0,
                "accuracy": Accuracy(
                    accuracy_percent=95.0, agreement_percent=100.0, largest_difference=1e-6, images=10_000
                ),
            }
        if measured and on_gpu:
            attributes |= {
                "gpu_memory_mib": 512.0,
                "load": Load(
                    busy_percent=40,
                    sm_clock_mhz=1980,
                    power_w=120,
                    temperature_c=35,
                    energy_mj_per_image=200,
                    throttle_reasons=[],
                    samples=20,
                    seconds=1,
                ),
            }
        return Record(**(attributes | changed))

    return make
