"""What comes before the first answer, timed with nothing else running, and told to the record that is there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from inference_lib.cli import main
from inference_lib.measure import starts
from inference_lib.measure.plan import Rival, empty_record
from inference_lib.measure.profiles import get_profile
from inference_lib.measure.workers import WorkerError
from inference_lib.records.record import Build, Record
from inference_lib.records.store import RecordStore
from inference_lib.report.tables import costs
from inference_lib.seam import Workload

SMOKE = get_profile("smoke")
BESIDE_OTHERS = Build(load_s=99, first_inference_s=99, artifact_mib=1)


def rival(backend: str) -> Rival:
    return Rival(backend, Workload("vanilla_cnn", 1))


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    """Return a store in which the eager row is measured, and ONNX Runtime's is not."""
    found = RecordStore(tmp_path)
    eager = empty_record(rival("pytorch"), SMOKE, "1", "ok")
    found.write(eager.model_copy(update={"build": BESIDE_OTHERS}))
    found.write(empty_record(rival("onnxruntime"), SMOKE, "1", "failed", "it fell"))
    return found


def build_of(store: RecordStore, backend: str) -> Build | None:
    return next(record.build for record in store.read() if record.backend == backend)


def test_what_is_measured_is_exported_and_started_again_alone(store: RecordStore) -> None:
    said: list[str] = []
    told = starts.time_starts([rival("pytorch"), rival("onnxruntime"), rival("tvm")], SMOKE, store, "1", said.append)
    assert [record.backend for record in told] == ["pytorch"]  # what was not measured has nothing to be told
    assert build_of(store, "pytorch") == told[0].build
    assert build_of(store, "onnxruntime") is None
    assert 0 < told[0].build.export_s < 60
    assert 0 < told[0].build.load_s < 60
    assert told[0].build.artifact_mib > 1
    assert told[0].build.start_s > told[0].build.export_s
    assert len(said) == 1


def test_what_fails_keeps_the_record_that_it_had(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(_: Rival) -> Build:
        raise WorkerError("died")

    said: list[str] = []
    monkeypatch.setattr(starts, "_alone", fall)
    assert starts.time_starts([rival("pytorch")], SMOKE, store, "1", said.append) == []
    assert build_of(store, "pytorch") == BESIDE_OTHERS
    assert said == [f"{rival('pytorch')}: died"]


def test_the_command_says_what_to_do_where_nothing_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--model", "vanilla_cnn", "--backend", "pytorch", "--device", "cpu", "--profile", "smoke"]
    assert main(["starts", *asked, "--records", str(tmp_path)]) == 1
    assert "run the benchmark command first" in capsys.readouterr().err


def test_a_load_beside_others_is_no_cost(make_record: Callable[..., Record]) -> None:
    alone = Build(export_s=2, load_s=1, first_inference_s=1, artifact_mib=1, alone=True)
    table = costs([make_record(build=BESIDE_OTHERS), make_record(precision="fp16", build=alone)])
    assert list(table["load, s"].isna()) == [True, False]
