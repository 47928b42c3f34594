"""The command line: outputs for programs, one clear line for mistakes."""

import csv
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from waits import wait_until

from inference_lib.backends import BACKENDS
from inference_lib.cli import main
from inference_lib.commands import completion, weights
from inference_lib.course import book
from inference_lib.course import run as course
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.support import paths

MakeRecord = Callable[..., Record]

COLUMNS = [
    "machine",
    "backend",
    "model",
    "device",
    "precision",
    "batch_size",
    "status",
    "reason",
    "accuracy_percent",
    "agreement_percent",
    "latency_p50_ms",
    "latency_p99_ms",
    "upload_ms",
    "compute_ms",
    "download_ms",
    "fps",
    "throughput_images_per_s",
    "gpu_memory_mib",
    "gpu_busy_percent",
    "invocations",
    "iterations",
    "latency_low_ms",
    "latency_high_ms",
    "device_ms",
    "device_low_ms",
    "device_high_ms",
    "host_pace",
    "run",
    "eight_bits_percent",
]


@pytest.fixture
def records(tmp_path: Path, make_record: MakeRecord) -> Path:
    store = RecordStore(tmp_path / "records")
    store.write(make_record(2.0))
    store.write(
        make_record(
            count=0, backend="onnxruntime", title="ONNX Runtime (run)", status="unavailable", reason="not installed"
        )
    )  # fmt: skip
    return store.directory


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_csv_has_the_documented_columns(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "report", "--records", str(records), "--format", "csv"))))
    assert list(rows[0]) == COLUMNS
    by_backend = {row["backend"]: row for row in rows}
    assert float(by_backend["pytorch"]["fps"]) == pytest.approx(500)
    assert float(by_backend["pytorch"]["latency_p50_ms"]) == 2.0
    assert by_backend["onnxruntime"]["status"] == "unavailable"
    assert by_backend["onnxruntime"]["fps"] == ""


def test_json_holds_the_same_rows_and_has_a_short_form(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("report", "--records", str(records))
    text = printed(capsys, *arguments, "--format", "json")
    rows = json.loads(text)
    assert {row["backend"] for row in rows} == {"pytorch", "onnxruntime"}
    assert list(rows[0]) == COLUMNS
    assert printed(capsys, *arguments, "--json") == text


@pytest.mark.parametrize("kind", ["table", "markdown"])
def test_the_scoreboard_names_machine_rows_and_reasons(
    records: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    text = printed(capsys, "report", "--records", str(records), "--format", kind)
    assert "resnet18, batch 1, NVIDIA Test GPU" in text
    assert "PyTorch (eager)" in text
    assert "unavailable: not installed" in text


def test_doctor_has_a_line_for_every_backend_and_tells_at_length_what_would_mend_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    brief, whole = printed(capsys, "doctor"), printed(capsys, "doctor", "--verbose")
    for text in (brief, whole):
        assert max(map(len, text.splitlines())) <= 100
        names = [line.split()[0] for line in text.splitlines() if line.strip()]
        assert [name for name in names if name in BACKENDS] == list(BACKENDS)
    assert len(brief.splitlines()) <= len(BACKENDS) + 8
    if not torch.cuda.is_available():
        assert "run on a machine with an NVIDIA GPU" in " ".join(whole.split())
        assert re.search(r"^pytorch-cudagraph .* no +no +CUDA graphs exist on NVIDIA GPUs", brief, re.MULTILINE)


def test_a_framework_that_ends_its_process_costs_its_own_lines_in_doctor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        os._exit(1)

    monkeypatch.setattr(type(BACKENDS["tvm"]), "availability", crash)
    lines = {line.split()[0]: line for line in printed(capsys, "doctor").splitlines() if line.strip()}
    for name in ("tvm", "tvm-cudagraph"):
        assert lines[name].endswith("the process that imported it died")
    assert lines["pytorch"].split()[2] == "yes"


def test_a_book_with_a_failed_chapter_is_rendered_and_the_status_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "run_chapters", lambda **_: ["04_pytorch"])
    for broken, status in ((["04_pytorch"], 1), ([], 0)):
        monkeypatch.setattr(book, "render", lambda edition, broken=broken: book.Edition(Path(), broken))
        assert main(["book"]) == status
        said = capsys.readouterr().err
        assert said == (f"without their results, see their pages: {broken[0]}\n" if broken else "")


@pytest.mark.parametrize("line", ["doctor", "benchmark", "predict resnet18 a.png"])
def test_a_python_without_the_packages_is_told_in_one_line_which_one_has_them(line: str) -> None:
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", "-m", "inference_lib", *line.split()]  # -S: no folder of packages
    done = subprocess.run(command, cwd=paths.ROOT, env=bare, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .+ has no package \w+; run `make install`, then `source \S+activate`\n", done.stderr)


def test_a_module_of_ours_that_is_missing_is_no_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inference_lib.doctor", None)
    with pytest.raises(ModuleNotFoundError, match="inference_lib"):
        main(["doctor"])


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("benchmark --model resnet19 --device cpu", "unknown model 'resnet19'"),
        ("export pytorch resnet19 --device cpu", "unknown model 'resnet19'"),
        ("export pytorch-cudagraph resnet18 --device cpu", "CUDA graphs exist on NVIDIA GPUs only"),
        ("report --records nowhere", "no records in nowhere; make some with `python -m inference_lib benchmark`"),
        ("report --records notebooks", "no records in notebooks; make some with"),
        ("run 99_nothing", "99_nothing"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    assert message in failing(capsys, *arguments.split())


def test_a_mistake_is_one_line_though_a_name_in_it_has_two(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "two\nlines").touch()
    assert main(["weights", "--directory", str(tmp_path / "two\nlines")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/two lines is a file; give a folder\n"


def test_an_export_says_how_long_it_took_where_that_was_timed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ("export", "pytorch", "vanilla_cnn", "--device", "cpu", "--output", str(tmp_path))
    assert re.search(r"MiB, \d+\.\d s\n$", printed(capsys, *arguments))
    (manifest,) = tmp_path.rglob("manifest.json")
    untimed = {key: value for key, value in json.loads(manifest.read_text()).items() if key != "build_seconds"}
    manifest.write_text(json.dumps(untimed))  # as a benchmark leaves it that exports several at a time
    assert printed(capsys, *arguments).endswith("MiB, exported beside others before\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_asked_for_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no NVIDIA GPU answers" in failing(capsys, "benchmark", "--device", "cuda")


def test_a_results_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = failing(capsys, "benchmark", "--device", "cpu", "--records", str(tmp_path / "file" / "records"))
    assert "cannot write records to" in message


def test_ctrl_c_keeps_what_was_finished_and_the_next_run_goes_on(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "records")
    command = [sys.executable, "-m", "inference_lib", "benchmark", "--records", str(store.directory), "--device", "cpu"]
    command += ["--backend", "pytorch", "--model", "vanilla_cnn", "--batch-size", "1", "2"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: list(store.directory.glob("*.json")), limit_s=300)
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "goes on from there" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert store.read()


def completed(tmp_path: Path, line: str) -> list[str]:
    """Return how a shell would complete ``line``."""
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n"}
    answers = tmp_path / "answers"
    environment = os.environ | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(answers)}
    subprocess.run([sys.executable, "-m", "inference_lib"], env=environment, check=True, timeout=60)
    return [answer.strip() for answer in answers.read_text().split("\n")]


def test_a_shell_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert completed(tmp_path, "inference-lib ben") == ["benchmark"]
    assert completed(tmp_path, "inference-lib choose --max-") == [
        "--max-latency-ms",
        "--max-p99-ms",
        "--max-memory-mib",
    ]
    for shell in ("bash", "zsh", "fish"):
        assert "inference-lib" in printed(capsys, "completion", shell)
    scripts = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {completion.SCRIPT: "inference_lib.cli:main"}


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space or choose another place"),
        (errno.EACCES, "choose another place"),
        (errno.EROFS, "choose another place"),
        (errno.ENOTDIR, "choose another place"),
    ],
)
def test_space_is_freed_only_where_it_is_what_lacks(
    number: int, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object) -> None:
        raise OSError(number, os.strerror(number), "there")

    monkeypatch.setattr(weights, "run", run)
    assert main(["weights"]) == 1
    assert capsys.readouterr().err == f"error: cannot use there: {os.strerror(number)}; {remedy}\n"
