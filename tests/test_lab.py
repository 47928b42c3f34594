"""The lab of a chapter: which shelf a record is taken from."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from inference_lib.lab import TRUST, Lab
from inference_lib.measure.profiles import get_profile
from inference_lib.records.machine import Machine, this_machine
from inference_lib.records.record import Accuracy, Record
from inference_lib.records.store import RecordStore

MakeRecord = Callable[..., Record]
HERE, PUBLISHED, OTHER = 1.0, 2.0, 9.0


@pytest.fixture
def make_lab(tmp_path: Path, make_record: MakeRecord, machine: Machine) -> Callable[[str], Lab]:
    """Return a function that opens a lab with a record of each device on each shelf, told apart by their latency.

    On its own shelf lie records of another profile, run and machine, too, on the published one those of a second run.
    """
    shelves = {}
    for latency in (HERE, PUBLISHED):
        shelves[latency] = RecordStore(tmp_path / str(latency))
        for device in ("cpu", "cuda"):
            shelves[latency].write(make_record(latency, device=device, profile="quick"))
            shelves[latency].write(make_record(OTHER, device=device, profile="quick", run="2"))
        other = machine.model_copy(update={"gpu": "Another GPU", "cpu": "Another CPU"})
        shelves[HERE].write(make_record(OTHER, device=device, profile="quick", machine=other))
        shelves[HERE].write(make_record(OTHER, device=device, profile="full"))
    return lambda device: Lab(get_profile("quick"), device, machine, shelves[HERE], shelves[PUBLISHED])


def told(records: Sequence[Record]) -> list[tuple[str, float]]:
    return [(record.device, round(record.latency.end_to_end.p50, 6)) for record in records]


@pytest.mark.parametrize(("device", "shelf"), [("cuda", HERE), ("cpu", PUBLISHED)])
def test_records_of_a_gpu_and_its_host_come_from_here_if_here_is_one(
    make_lab: Callable[[str], Lab], device: str, shelf: float
) -> None:
    lab = make_lab(device)
    found = {"cuda": lab.gpu_records(), "cpu": lab.host_records()}
    for of, records in found.items():
        assert told(records) == [(of, shelf)]


def test_a_comparison_has_this_device_here_and_the_gpu_where_published(make_lab: Callable[[str], Lab]) -> None:
    compared = make_lab("cpu").compare(["pytorch"])
    assert told(compared.here) == [("cpu", HERE)]
    assert told(compared.published) == [("cuda", PUBLISHED)]
    alone = make_lab("cuda").compare(["pytorch"], device="cpu")
    assert {r.device for r in (*alone.here, *alone.published)} == {"cpu"}


def test_a_comparison_has_the_precisions_that_are_asked_for(
    make_lab: Callable[[str], Lab], make_record: MakeRecord
) -> None:
    lab = make_lab("cpu")
    for precision in ("tf32", "fp16", "bf16"):
        lab.store.write(make_record(device="cpu", precision=precision, profile="quick"))
    assert [r.precision for r in lab.compare(["pytorch"]).here] == ["fp32", "fp16", "bf16"]
    assert [r.precision for r in lab.compare(["pytorch"], precisions=["tf32"]).here] == ["tf32"]


def test_records_are_those_of_this_machine_profile_and_run(make_lab: Callable[[str], Lab]) -> None:
    assert sorted(told(make_lab("cpu").records())) == [("cpu", HERE), ("cuda", HERE)]


def test_accuracies_on_few_and_on_all_pictures_compare(
    make_lab: Callable[[str], Lab], make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table had 96.9 % of a row that saw the first thousand pictures beside 95.3 % of one that saw all."""
    monkeypatch.setenv(TRUST, "1")
    lab = make_lab("cpu")
    for backend, images, percent in (("pytorch", 1_000, 96.9), ("torchscript", 10_000, 95.3)):
        seen = Accuracy(
            accuracy_percent=percent, agreement_percent=100, largest_difference=0, images=images, gained=0, lost=0
        )
        found = make_record(device="cpu", profile="quick", backend=backend, accuracy=seen, machine=this_machine())
        lab.store.write(found)
    rows = lab.benchmark(["pytorch", "torchscript"], ["resnet18"])
    assert [row.accuracy and row.accuracy.accuracy_percent for row in rows] == [95.3, 95.3]


def test_functions_of_a_chapter_take_turns_and_wait_for_the_device(
    make_lab: Callable[[str], Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    calls = {"one": lambda: None, "other": lambda: None}
    assert set(make_lab("cpu").turns(calls).rounds) == {"one", "other"}
    assert waits == []
    make_lab("cuda").turns(calls)
    assert waits
