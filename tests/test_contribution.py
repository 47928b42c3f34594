"""Machines that readers bring: what is believed, what is refused, and that a file can do no harm."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_lib.backends import BACKENDS
from inference_lib.cli import main
from inference_lib.course import parcel
from inference_lib.course.contribution import (
    NOBODY_YET,
    THOROUGH,
    as_markdown,
    describe,
    machines,
    problems,
)
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.support import paths
from inference_lib.support.errors import CourseError
from inference_lib.support.places import places_in

MakeRecord = Callable[..., Record]

TIMES = {"pytorch": 2.0, "onnxruntime": 1.0, "tensorrt": 0.5}


@pytest.fixture
def make(make_record: MakeRecord) -> MakeRecord:
    """Return a function that makes a record of the simulated machine with its backend's own title."""

    def made(backend: str, milliseconds: float, **changed: object) -> Record:
        return make_record(milliseconds, backend=backend, title=BACKENDS[backend].title, **changed)

    return made


@pytest.fixture
def records(make: MakeRecord) -> list[Record]:
    """Two runs of one set: what somebody with TensorRT would bring."""
    return [make(name, ms * factor, run=run) for run, factor in (("1", 1.0), ("2", 1.1)) for name, ms in TIMES.items()]


@pytest.fixture
def archive(records: list[Record], tmp_path: Path) -> Path:
    path = tmp_path / "contribution.zip"
    parcel.pack(parcel.of_this_machine(records, measured_by="A. Reader"), path)
    return path


def test_what_is_packed_is_believed_added_and_read_again(archive: Path, records: list[Record], tmp_path: Path) -> None:
    assert problems(parcel.unpack(archive)) == []
    added = parcel.add(archive, tmp_path / "machines")
    assert added == tmp_path / "machines" / "nvidia-test-gpu"
    assert [path.name for path in added.parent.iterdir()] == [added.name]
    (brought,) = machines(added.parent).values()
    assert (brought.name, brought.measured_by) == (added.name, "A. Reader")
    assert brought.machines == {"cuda": "NVIDIA Test GPU"}
    assert json.loads((added / "description.json").read_text())["rows"] == 3
    assert sorted(brought.records, key=lambda r: r.key) == sorted(records, key=lambda r: r.key)
    with pytest.raises(CourseError, match="nvidia-test-gpu is there already; move it away"):
        parcel.add(archive, added.parent)
    assert [path.name for path in added.parent.iterdir()] == [added.name]


def test_a_machine_has_a_table_of_its_own_with_how_its_claims_held(records: list[Record]) -> None:
    found = {name: describe(records, name) for name in ("mine", "yours")}
    page = as_markdown(found, ["pytorch", "tensorrt"])
    assert page.count('class="measured-table"') == 2
    assert "**mine** (NVIDIA Test GPU): of 3 pairs of rows, the first run calls 3 faster or slower" in page
    table = page.split("```")[1]
    assert "4.0 times faster" in table
    assert "ONNX Runtime" not in table
    assert "2.2" not in table  # the second run's time
    assert as_markdown(found, ["tvm"]) == as_markdown({}) == NOBODY_YET


def changed(record: Record, **changes: object) -> Record:
    return record.model_copy(update=changes)


def in_invocations(record: Record, **changes: object) -> Record:
    return changed(record, invocations=[i.model_copy(update=changes) for i in record.invocations])


def on(record: Record, **changes: object) -> Record:
    return changed(record, machine=record.machine.model_copy(update=changes))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: changed(r, schema_version=2), "has record schema 2"),
        (lambda r: changed(r, profile="quick"), "measured with another profile than full"),
        (lambda r: changed(r, fingerprint=""), "does not say which code and versions"),
        (lambda r: changed(r, model="mine-1234abcd"), "no network of the course has that name"),
        (lambda r: changed(r, pictures="patients"), "not checked on the course's pictures"),
        (lambda r: changed(r, version=""), "does not say which code and versions"),
        (lambda r: on(r, packages={}), "does not say which code and versions"),
        (lambda r: changed(r, invocations=r.invocations[:2]), f"fewer than {THOROUGH.invocations} invocations"),
        (lambda r: changed(r, invocations=r.invocations[:1] * 3), f"fewer than {THOROUGH.invocations} invocations"),
        (
            lambda r: in_invocations(r, end_to_end_ms=[2.0] * 5, device_ms=[1.0] * 5),
            f"fewer than {THOROUGH.rounds} rounds",
        ),
        (lambda r: in_invocations(r, iterations=50), f"rounds of {THOROUGH.least_iterations} inferences"),
        (lambda r: in_invocations(r, device_ms=[]), "rounds on the device are not those end to end"),
        (lambda r: in_invocations(r, quantiles=[2.0, 1.0]), "the distribution of its inferences is none"),
        (lambda r: in_invocations(r, end_to_end_ms=[0.1] * 20), "longer or shorter than any of its inferences"),
        (lambda r: changed(r, measured_on=r.measured_on.replace(year=9999)), "in the future"),
        (lambda r: on(r, gpu=None), "a GPU without a name"),
        (lambda r: on(r, cpu="<script>", gpu="<script>"), "a name or a version in it is neither"),
        (lambda r: on(r, packages={"torch": "</td>"}), "a version in it is neither"),
        (lambda r: on(r, commit="<b>"), "a version in it is neither"),
        (lambda r: on(r, system="a|b\n|c"), "a version in it is neither"),
        (lambda r: changed(r, backend="../../etc"), "no backend of this library"),
        (lambda r: changed(r, title="Quickest"), "no backend of this library"),
        (lambda r: changed(r, model="mine"), "no network of the course"),
        (lambda r: changed(r, precision="fp12"), "no workload has that precision"),
        (lambda r: changed(r, batch_size=0), "no workload has that precision"),
        (lambda r: changed(r, flags=["see /" + "somebody/at/home"]), "names a place of the machine"),
        (lambda r: changed(r, accuracy=r.accuracy.model_copy(update={"largest_difference": 0.5})), "not the reference"),
        (lambda r: changed(r, accuracy=None), "answers were not checked on the test set"),
        (lambda r: changed(r, status="failed") if r.run == "2" else r, "was not measured in the second run"),
        (lambda r: changed(r, fingerprint=r.run), "other code or versions measured it in the second run"),
        (lambda r: changed(r, run="1", rivals=r.run), "two records are of the same cell"),
    ],
)
def test_what_would_not_be_believed_is_said(
    records: list[Record], change: Callable[[Record], Record], why: str
) -> None:
    assert any(why in problem for problem in problems(describe([change(record) for record in records])))


def test_one_run_or_one_that_does_not_replicate_is_not_believed(records: list[Record], make: MakeRecord) -> None:
    first = records[:3]
    assert any("there is one run" in problem for problem in problems(describe(first)))
    turned = [make(name, 0.9 / ms, run="2") for name, ms in TIMES.items()]
    (end_to_end, device) = problems(describe([*first, *turned]))
    assert end_to_end == "the second run contradicts 3 of 3 claims of the first (end to end)"
    assert device.endswith("(device)")


def test_a_second_run_that_is_a_copy_of_the_first_is_not_believed(records: list[Record]) -> None:
    copy = [changed(record, run="2") for record in records[:3]]
    assert problems(describe([*records[:3], *copy])) == [
        f"the second run has times of the first, to the last digit: {records[0].key.file_name} and 2 more"
    ]


def test_two_machines_in_one_contribution_are_not_believed(records: list[Record]) -> None:
    two = [*records, *(on(record, gpu="Another GPU") for record in records)]
    assert any("several machines'" in problem for problem in problems(describe(two)))


@pytest.mark.parametrize(
    ("name", "who"), [("../mine", ""), ("mine", "<b>me</b>"), ("mine", "/" + "home/me/x"), ("", "")]
)
def test_a_name_that_is_none_is_not_believed(records: list[Record], name: str, who: str) -> None:
    assert problems(describe(records).model_copy(update={"name": name, "measured_by": who})) != []


def test_places_are_cut_from_reasons_when_a_machine_is_packed(records: list[Record], make: MakeRecord) -> None:
    reason = "cannot open /" + "home/me/lib.so of http://index.local"
    broken = [make("tvm", 1.0, count=0, status="failed", reason=reason, run=run) for run in ("1", "2")]
    found = parcel.of_this_machine([*records, *broken])
    assert found.records[-1].reason == "cannot open lib.so of http://(a host)"
    assert problems(found) == []


def test_what_only_one_run_tried_is_left_out_and_a_second_run_that_failed_is_not(
    records: list[Record], make: MakeRecord
) -> None:
    once, quick, third = make("tvm", 1.0), make("tvm", 1.0, profile="quick", run="2"), make("pytorch", 1.0, run="3")
    assert parcel.of_this_machine([*records, once, quick, third]).records == records
    failed = make("tvm", 1.0, count=0, status="failed", reason="no kernel", run="2")
    (problem,) = problems(parcel.of_this_machine([*records, once, failed]))
    assert problem.startswith("it was not measured in the second run")
    with pytest.raises(CourseError, match=r"no cell of .* that two runs with --profile full tried"):
        parcel.of_this_machine([quick])


def zipped(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (zipped({"../contribution.json": b"{}"}), "it has no contribution.json"),
        (zipped({"contribution.json": b" " * (2**20 + 1)}), "holds more than 1 MiB"),
        (zipped({"contribution.json": b"{"}), "Invalid JSON"),
        (zipped({"contribution.json": b'{"name": "a", "records": []}'}), "should have at least 1 item"),
        (b"PK\x03\x04 and nothing more", "cannot be unpacked"),
        (b"", "cannot be unpacked"),
    ],
    ids=["another name", "too large", "cut short", "empty", "no directory", "nothing"],
)
def test_a_file_that_is_no_contribution_is_one_line_and_leaves_nothing(
    tmp_path: Path, content: bytes, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parcel, "MOST_BYTES", 2**20)
    (tmp_path / "x.zip").write_bytes(content)
    assert main(["contribute", "--check", str(tmp_path / "x.zip")]) == 1
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    with pytest.raises(CourseError):
        parcel.add(tmp_path / "x.zip", tmp_path / "machines")
    assert [path.name for path in tmp_path.rglob("*")] == ["x.zip"]


def test_what_else_an_archive_holds_stays_in_it(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("../outside.py", b"")
    parcel.add(archive, tmp_path / "machines")
    assert list(tmp_path.rglob("outside.py")) == []


@pytest.mark.parametrize("name", ["nowhere.zip", "."])
def test_a_file_that_cannot_be_read_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contribute", "--check", name]) == 1
    assert capsys.readouterr().err.startswith(f"error: cannot read {name}: ")


def test_the_command_packs_or_says_every_reason_why_not(
    records: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = RecordStore(tmp_path / "records"), tmp_path / "mine.zip"
    for record in records:
        store.write(changed(record, version=""))
    command = ["contribute", "--records", str(store.directory), "--name", "my-machine", "--by", "Me", str(out)]
    assert main(command) == 1
    said = capsys.readouterr()
    assert said.err == (
        "not believed: it does not say which code and versions measured it: "
        "nvidia-test-gpu-full-1--onnxruntime--resnet18-cuda-fp32-b1.json and 5 more\n"
    )
    assert not out.exists()
    for record in records:
        store.write(record)
    store.write(changed(records[0], profile="quick"))
    assert main(command) == 0
    assert out.exists()
    described = json.loads(capsys.readouterr().out)
    assert (described["name"], described["measured_by"], described["runs"]) == ("my-machine", "Me", ["1", "2"])
    assert main(["contribute", "--check", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == described
    for option in ("--add", "--check"):
        assert main(["contribute", option, str(out), "--name", "another"]) == 1
        assert "to change them, pack it anew" in capsys.readouterr().err
    assert main([*command[:-1], "mine.tar.gz"]) == 1


def test_what_is_the_readers_own_stays_with_the_reader(
    records: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = RecordStore(tmp_path / "records"), tmp_path / "mine.zip"
    command = ["contribute", "--records", str(store.directory), str(out)]
    for record in records[:2]:
        store.write(changed(record, model="secret-1234abcd", model_title="secret.safetensors"))
        store.write(changed(record, pictures="patients"))
    assert main(command) == 1
    left_out, nothing = capsys.readouterr().err.splitlines()
    assert left_out == "left out: 4 records of your own models or pictures, which nobody else can measure"
    assert nothing.startswith("error: there is nothing to contribute: no cell of the course's networks that two runs")
    for record in records:
        store.write(record)
    assert main(command) == 0
    assert capsys.readouterr().err.splitlines() == [left_out.replace("4", "2")]  # theirs took the place of the others
    with zipfile.ZipFile(out) as file:
        told = b"".join(file.read(name) for name in file.namelist())
    assert b"secret" not in told
    assert b"patients" not in told


BROUGHT = sorted((paths.PUBLISHED / "machines").glob("*"))


@pytest.mark.skipif(not BROUGHT, reason="no reader has brought a machine yet")
def test_the_machines_in_the_book_are_believed() -> None:
    found = machines(paths.PUBLISHED / "machines")
    assert [f"{name}: {problem}" for name, each in found.items() for problem in problems(each)] == []
    texts = [path.read_text() for folder in BROUGHT for path in folder.rglob("*.json")]
    assert [place for text in texts for place in places_in(text)] == []
