"""The lab of a chapter: which shelf a record is taken from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from inference_lib.lab import Lab
from inference_lib.measure.profiles import get_profile
from inference_lib.records.machine import this_machine
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore

MakeRecord = Callable[..., Record]
HERE, PUBLISHED = 1.0, 2.0


@pytest.fixture
def make_lab(tmp_path: Path, make_record: MakeRecord) -> Callable[[str], Lab]:
    """Return a function that opens a lab with a record of each device on each shelf, told apart by their latency."""
    shelves = {}
    for latency in (HERE, PUBLISHED):
        shelves[latency] = RecordStore(tmp_path / str(latency))
        for device in ("cpu", "cuda"):
            shelves[latency].write(make_record(latency, device=device))
    return lambda device: Lab(get_profile("quick"), device, this_machine(), shelves[HERE], shelves[PUBLISHED])


@pytest.mark.parametrize(("device", "shelf"), [("cuda", HERE), ("cpu", PUBLISHED)])
def test_records_of_a_gpu_and_its_host_come_from_here_if_here_is_one(
    make_lab: Callable[[str], Lab], device: str, shelf: float
) -> None:
    lab = make_lab(device)
    found = {"cuda": lab.gpu_records(), "cpu": lab.host_records()}
    for of, records in found.items():
        assert [(r.device, r.latency.end_to_end.p50) for r in records] == [(of, shelf)]


def test_a_comparison_has_this_device_here_and_the_gpu_where_published(make_lab: Callable[[str], Lab]) -> None:
    compared = make_lab("cpu").compare(["pytorch"])
    assert [(r.device, r.latency.end_to_end.p50) for r in compared.here] == [("cpu", HERE)]
    assert [(r.device, r.latency.end_to_end.p50) for r in compared.published] == [("cuda", PUBLISHED)]
    alone = make_lab("cuda").compare(["pytorch"], device="cpu")
    assert {r.device for r in (*alone.here, *alone.published)} == {"cpu"}
