"""Damaged files and odd command lines: what is refused is one clear line, and nothing but the named folder changes.

In all 5,000 inputs are tried. What they are does not change from run to run.
"""

import argparse
import ast
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from copy import deepcopy
from functools import cache
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import objects
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image
from test_data import idx

from inference_lib import cli
from inference_lib.commands import options as common
from inference_lib.course import parcel
from inference_lib.course.contribution import describe, problems
from inference_lib.measure.profiles import get_profile
from inference_lib.measure.workers import Worker, WorkerError, end, first_to_answer
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.report.tables import in_format
from inference_lib.seam import DEVICE_KINDS, Workload, find_artifact, find_model
from inference_lib.support import paths
from inference_lib.support.errors import CourseError
from inference_lib.zoo import fashion_files, image_folder
from inference_lib.zoo.networks import load_pretrained, weights_sha256
from inference_lib.zoo.trained import Trained, load_trained, read_facts, save_trained

MakeRecord = Callable[..., Record]


def inputs(count: int, **drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Try ``count`` inputs, the same ones in every run."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    chosen = settings(max_examples=count, derandomize=True, database=None, suppress_health_check=checks)
    return lambda test: chosen(given(**drawn)(test))


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Draw what may have become of a file: cut short, other bytes in it or behind its first ones, something else."""
    kind, chance = draw(st.sampled_from(["cut", "changed", "head", "noise", "twice"])), draw(st.randoms())
    if kind == "cut":
        return whole[: chance.randrange(len(whole))]
    if kind == "changed":
        content = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8, 64))):
            content[chance.randrange(min(len(whole), chance.choice((16, 256, len(whole)))))] = chance.randrange(256)
        return bytes(content)
    noise = draw(st.binary(max_size=64))
    return {"head": whole[: chance.randrange(64)] + noise, "noise": noise, "twice": whole * 2 + noise}[kind]


ODD: list[Any] = [None, True, -1, 0, 10**30, 1e308, 0.5, "", "two\nlines", "../../up", "\0", "ü\ud800", [], {}, [[]]]
ODD += [float("nan"), float("-inf"), [0.0], [-1.0], "9" * 300, {"": ""}, "/etc/passwd:x", "2026-01-02"]


@st.composite
def other_json(draw: st.DrawFn, whole: bytes) -> bytes:
    """Draw a JSON file of which a value, or several, is another one, or is missing; or one that is damaged."""
    if draw(st.integers(0, 2)) == 0:
        return draw(damaged(whole) | st.sampled_from([b"", b"[" * 9999, b"\xff\xfe", b"[]", b"null", b"1" * 9999]))
    chance, value = draw(st.randoms()), json.loads(whole)
    for _ in range(chance.choice((1, 1, 1, 3))):
        value = _with_another(value, chance)
    return json.dumps(value).encode()


def _with_another(value: Any, chance: random.Random) -> Any:
    if not value or not isinstance(value, dict | list) or chance.random() < 0.1:
        return deepcopy(chance.choice(ODD))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    deep = [key for key in keys if isinstance(value[key], dict | list) and chance.random() < 0.5]
    key = chance.choice(deep or keys)
    if chance.random() < 0.1:
        del value[key]
    else:
        value[key] = _with_another(value[key], chance)
    return value


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@contextmanager
def refused_in_one_line() -> Iterator[None]:
    """Let nothing pass but an error of one line that names a cause and a remedy."""
    try:
        yield
    except CourseError as error:
        assert len(str(error).splitlines()) == 1, str(error)  # noqa: PT017


@pytest.fixture
def unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in; at the end there is nothing in it but the file called ``it``, and what was there before."""
    before = set(paths.ROOT.iterdir())
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} <= {"it"}
    beside = {paths.ARTIFACTS, paths.BUILD, paths.DATA}  # which other tests may make meanwhile
    assert set(paths.ROOT.iterdir()) - beside == before - beside


# Records


@pytest.fixture
def whole_record(make_record: MakeRecord) -> bytes:
    return make_record(timing={"rounds": 3}).model_dump_json(exclude_none=True).encode()


def told(record: Record) -> None:
    """Ask a record for everything that is derived from it."""
    assert record.key.file_name == Path(record.key.file_name).name
    for derived in (record.latency, record.fps, record.host_pace_ms, record.why_not):
        assert derived is None or derived == derived


@inputs(800, data=st.data())
def test_a_damaged_record_is_refused_or_can_be_read_as_a_whole(
    unchanged: Path, whole_record: bytes, data: st.DataObject
) -> None:
    path = unchanged / "it" / "a.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.draw(other_json(whole_record)))
    with refused_in_one_line():
        for record in RecordStore(path.parent).read():
            told(record)
            in_format([record], "csv")


# Manifests


@inputs(500, data=st.data())
def test_an_export_whose_manifest_is_damaged_is_stale_or_the_same(unchanged: Path, data: st.DataObject) -> None:
    root, workload = unchanged / "it", Workload("vanilla_cnn", 1)
    writer = objects.Writer(root, unchanged, 0)
    manifest = root / writer.artifact_key(workload) / "manifest.json"
    if not manifest.exists():
        writer.build()
        (unchanged / str(os.getpid())).unlink()
    whole = json.loads(manifest.read_bytes())
    try:
        manifest.write_bytes(data.draw(other_json(json.dumps(whole).encode())))
        if found := find_artifact(writer, workload, root):
            assert {key: found.manifest[key] for key in whole.keys() - {"build_seconds"}}.items() <= whole.items()
    finally:
        manifest.write_text(json.dumps(whole))


# Checksums


@inputs(500, data=st.data())
def test_damaged_checksums_are_refused_and_no_weights_are_loaded_by_them(unchanged: Path, data: st.DataObject) -> None:
    folder = unchanged / "it"
    folder.mkdir(exist_ok=True)
    weights = folder / "vanilla_cnn.safetensors"
    weights.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    (folder / "checksums.json").write_bytes(data.draw(other_json(json.dumps({weights.name: right}).encode())))
    with refused_in_one_line():
        assert isinstance(weights_sha256("vanilla_cnn", folder), str)
    with pytest.raises(CourseError) as refused:
        load_pretrained("vanilla_cnn", folder)
    assert len(str(refused.value).splitlines()) == 1


# Weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a file as the command train writes it, of a small network."""
    path = tmp_path_factory.mktemp("trained") / "a.safetensors"
    figures = image_folder.Preprocessing(height=28, width=28, channels=1, mean=(0.5,), std=(0.5,))
    facts = Trained(backbone="brought:grey", class_names=tuple("abcdefghij"), preprocessing=figures, pictures="mine")
    import brought

    save_trained(path, brought.grey(), facts)
    return path.read_bytes()


@inputs(500, data=st.data())
def test_damaged_weights_are_refused_or_loaded(unchanged: Path, trained: bytes, data: st.DataObject) -> None:
    path = unchanged / "it"
    header = int.from_bytes(trained[:8], "little")
    told = json.loads(trained[8 : 8 + header])
    if data.draw(st.booleans()):  # the container is whole, what it says of itself is another
        told["__metadata__"]["inference_lib"] = data.draw(
            other_json(told["__metadata__"]["inference_lib"].encode())
        ).decode(errors="replace")
        inner = json.dumps(told).encode()
        path.write_bytes(len(inner).to_bytes(8, "little") + inner + trained[8 + header :])
    else:
        path.write_bytes(data.draw(damaged(trained)))
    with refused_in_one_line():
        facts = read_facts(path)
        load_trained(path, "brought:grey")
        size = (facts.preprocessing.height, facts.preprocessing.width)
        if max(size) < 1000:
            picture = image_folder.fitted(Image.new("L", (9, 5)), facts.preprocessing)
            assert image_folder.normalize(picture, facts.preprocessing).shape == facts.preprocessing.shape


# ONNX


def onnx_bytes() -> bytes:
    generator = np.random.default_rng(0)
    weights = helper.make_tensor(
        "w", TensorProto.FLOAT, (16, 3), generator.normal(size=48).astype("<f4").tobytes(), raw=True
    )
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("x", ["n", 1, 4, 4]), ("y", ["n", 3]))
    ]
    graph = helper.make_graph(nodes, "g", *ends, [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@inputs(500, content=damaged(onnx_bytes()))
def test_a_damaged_onnx_file_is_refused_or_brought(unchanged: Path, content: bytes) -> None:
    folder = unchanged / "it"
    folder.mkdir(exist_ok=True)
    path = folder / "a.onnx"
    path.write_bytes(content)
    with refused_in_one_line():
        model = find_model(str(path))
        assert model.outputs > 0


# The data set


@inputs(500, data=st.data())
def test_a_damaged_data_set_is_refused_or_the_same(
    unchanged: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(fashion_files.SHA256)))
    folder = unchanged / "it"
    folder.mkdir(exist_ok=True)
    monkeypatch.setitem(fashion_files.SHA256, name, hashlib.sha256(idx(name)).hexdigest())
    zipped = data.draw(st.booleans())
    path, other = (folder / f"{name}.gz", folder / name)[:: 1 if zipped else -1]
    other.unlink(missing_ok=True)
    path.write_bytes(data.draw(damaged(gzip.compress(idx(name), mtime=0) if zipped else idx(name))))
    with refused_in_one_line():
        assert fashion_files.read(folder, name) == idx(name)


# Pictures


@cache
def pictures() -> list[bytes]:
    found = []
    random = np.random.default_rng(0)
    for mode, kinds in (("RGB", "JPEG PNG BMP WEBP TIFF GIF"), ("L", "PNG TIFF"), ("RGBA", "PNG WEBP"), ("P", "GIF")):
        image = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).convert(mode)
        for kind in kinds.split():
            made = BytesIO()
            image.save(made, kind)
            found.append(made.getvalue())
    return found


@inputs(500, data=st.data())
def test_a_damaged_picture_is_refused_or_becomes_an_input(unchanged: Path, data: st.DataObject) -> None:
    path = unchanged / "it"
    path.write_bytes(data.draw(st.sampled_from(pictures()).flatmap(damaged)))
    figures = image_folder.Preprocessing(height=8, width=8)
    with refused_in_one_line():
        assert image_folder.prepare(path, figures).shape == (3, 8, 8)


# Contributions


@inputs(500, data=st.data())
def test_a_damaged_contribution_or_one_of_other_facts_is_told_in_lines(
    unchanged: Path, whole_record: bytes, data: st.DataObject
) -> None:
    whole, path = describe([Record.model_validate_json(whole_record)]).model_dump_json().encode(), unchanged / "it"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(parcel.MEMBER, data.draw(other_json(whole)))
    path.write_bytes(data.draw(st.just(path.read_bytes()) | damaged(path.read_bytes())))
    with refused_in_one_line():
        assert all(len(problem.splitlines()) == 1 for problem in problems(parcel.unpack(path)))


# The command line


WORDS = ["", "0", "-1", "1", "3", "1e999", "nan", "9" * 5000, "0x10", "a" * 300, "x/" * 2000, "-", "--", "--help"]
WORDS += ["--=", "@it", "it", "it/it", "/dev/null", "ü b", "two\nlines", os.fsdecode(b"\xff\xfe"), "*", "$(it)", "x"]
WORDS += ["no.onnx", "no.safetensors", "no.py:f", "no:f", ":", "torchvision:", "torchvision:no", "os:getcwd", "cuda:99"]
WORDS += ["vanilla_cnn", "pytorch", "fp32", "cpu", "cuda", "full", "verify", "json", "bash", "1x28x28", "0x0x0"]


def options_of(name: str) -> list[str]:
    (sub,) = [action for action in cli.parser([name])._actions if action.choices]
    return [option for action in sub.choices[name]._actions for option in action.option_strings]


@st.composite
def command_lines(draw: st.DrawFn, names: Sequence[str]) -> list[str]:
    """Draw the name of a command, its own options, other words."""
    name = draw(st.sampled_from(names))
    words = st.sampled_from([*options_of(name), *WORDS]) | st.binary(max_size=9).map(_as_an_argument)
    line = [name, *draw(st.lists(words, max_size=7))]
    return line if draw(st.integers(0, 19)) else line[1:]


def _as_an_argument(letters: bytes) -> str:
    return os.fsdecode(letters.replace(b"\0", b"").replace(b"/", b"_"))


def answered(line: list[str]) -> None:
    """Run a command in this process: done, or one line that says why not."""
    out, errors = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        status = cli.main(line)
    said = errors.getvalue()
    assert status in (0, 1, 2), (line, status)
    assert "Traceback" not in said
    if status == 2 or (status == 1 and not out.getvalue()):
        assert said.startswith("error: "), (line, said)
        assert said.count("\n") == 1, (line, said)


@pytest.fixture
def _sigterm_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_sigterm_as_before")
@inputs(800, line=command_lines(cli.COMMANDS))
def test_a_command_runs_with_values_that_can_be_meant_or_says_which_cannot(
    unchanged: Path, monkeypatch: pytest.MonkeyPatch, line: list[str]
) -> None:
    seen: list[argparse.Namespace] = []
    for name in cli.COMMANDS:
        monkeypatch.setattr(f"inference_lib.commands.{name}.run", seen.append)
    answered(line)
    for value in [value for options in seen for value in vars(options).values()]:
        for number in value if isinstance(value, list) else [value]:
            assert not isinstance(number, int | float) or 0 <= number < 2**31, line


CHEAP = ["choose", "completion", "contribute", "export", "predict", "replicate", "report", "run", "weights"]


@pytest.mark.usefixtures("_sigterm_as_before")
@inputs(200, line=command_lines(CHEAP))
def test_commands_that_are_asked_for_nonsense_say_so_and_write_nothing(
    unchanged: Path, monkeypatch: pytest.MonkeyPatch, line: list[str]
) -> None:
    (unchanged / "it").mkdir(exist_ok=True)
    monkeypatch.chdir(unchanged / "it")  # what is named is there
    for place in ("BUILD", "ARTIFACTS", "PUBLISHED"):
        monkeypatch.setattr(paths, place, unchanged / "it" / place)
    monkeypatch.setattr("inference_lib.backends.pytorch.PyTorchEager.export", lambda *_: 1 / 0)
    monkeypatch.setattr("inference_lib.course.run.run_chapters", lambda *_, **__: [])
    answered(line)


def test_one_run_is_not_compared_with_itself(
    tmp_path: Path, make_record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        RecordStore(tmp_path / folder).write(make_record())
    for second in ("a", "b"):  # the folder again, and a copy of it
        assert cli.main(["replicate", "--records", str(tmp_path / "a"), str(tmp_path / second)]) == 1
        assert "a run would be compared with itself; name two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("benchmark --batch-size 0", "argument --batch-size: 0 is not a number from 1 on"),
        ("benchmark --batch-size two", "argument --batch-size: invalid whole number value: 'two'"),
        ("export pytorch resnet18 --batch-size -3", "argument --batch-size: -3 is not a number from 1 on"),
        ("train vanilla_cnn --epochs 0", "argument --epochs: 0 is not a number from 1 on"),
        ("train vanilla_cnn --seed -1", "argument --seed: -1 is not a number from 0 on"),
        ("choose --model resnet18 --max-latency-ms nan", "argument --max-latency-ms: nan is not a number above 0"),
        ("serve --port 99999", "argument --port: 99999 is not a port; choose one up to 65535"),
        ("serve --timeout-s 0", "argument --timeout-s: 0 is not a number above 0"),
        ("benchmark --device tpu", "unknown device 'tpu'; choose one of: auto, cpu, cuda"),
        ("book --profile huge", "argument --profile: invalid choice: 'huge' (choose from "),
        ("serve --engine torchserve", "argument --engine: invalid choice: 'torchserve' (choose from "),
        ("load --scenario burst", "argument --scenario: invalid choice: 'burst' (choose from "),
        ("report --records {file}", "{file} is a file; give a folder"),
        ("choose --model resnet18 --records {file}", "{file} is a file; give a folder"),
    ],
)
def test_a_first_mistake_is_one_line_before_anything_is_imported(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a").touch()
    names = {"file": tmp_path / "a"}
    script = f"""if True:
        import sys
        sys.modules["torch"] = sys.modules["numpy"] = sys.modules["pandas"] = None  # an import of these would fail
        from inference_lib.cli import main
        sys.exit(main({line.format(**names).split()!r}))
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith(f"error: {message.format(**names)}")
    assert done.stderr.count("\n") == 1


def test_the_command_line_knows_the_devices_and_the_profiles() -> None:
    assert ("auto", *DEVICE_KINDS) == common.DEVICES
    assert [get_profile(name).name for name in common.PROFILES] == list(common.PROFILES)


# Processes that are killed, or meet; disks and users that refuse


@pytest.fixture
def endless(make_record: MakeRecord) -> Callable[[Path], Worker]:
    """Return what starts a process that can export and keep records in a folder."""
    record = make_record(timing={"rounds": 3}).model_dump_json()

    def start(folder: Path) -> Worker:
        worker = Worker(objects.Endless, folder, record)
        worker.ask("ready", limit_s=120)
        return worker

    return start


def exports(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "artifacts" / "writer"))


def test_a_folder_is_usable_whenever_a_process_was_killed(tmp_path: Path, endless: Callable[[Path], Worker]) -> None:
    chance, left = random.Random(0), 0
    for _ in range(50):
        worker = endless(tmp_path)
        worker.tell("for_ever")
        time.sleep(chance.uniform(0.0, 0.1))
        worker.kill()
        # A name with a dot is an export in the making, which nobody reads: there the manifest may be half written.
        for manifest in tmp_path.glob("artifacts/*/[!.]*/manifest.json"):
            assert {path.name for path in manifest.parent.iterdir()} == {"manifest.json", "first half", "second half"}
            json.loads(manifest.read_text())
        assert {record.status for record in RecordStore(tmp_path / "records").read()} <= {"ok"}
        left += len(list(tmp_path.glob("artifacts/*/.*")))
    assert left  # some were hit in the middle of an export
    with endless(tmp_path) as survivor:
        assert len(set(survivor.ask("once", limit_s=60))) == 1
    assert exports(tmp_path) == ["vanilla_cnn"]
    assert len(RecordStore(tmp_path / "records").read()) == 3


def test_two_at_once_never_show_a_part_and_leave_the_other_s_work_alone(
    tmp_path: Path, endless: Callable[[Path], Worker]
) -> None:
    workers, manifest = [endless(tmp_path), endless(tmp_path)], tmp_path / "artifacts/writer/vanilla_cnn/manifest.json"
    try:
        for worker in workers:
            worker.tell("for_ever")
        begin, seen = time.monotonic(), set()
        while (elapsed := time.monotonic() - begin) < 2 or (
            len(seen) < 2 and elapsed < 60
        ):  # a slow disk has few turns
            assert len(RecordStore(tmp_path / "records").read()) <= 3
            with suppress(FileNotFoundError):  # between the old export and the new one there is none
                seen.add(json.loads(manifest.read_text())["versions"]["turn"].split(",")[0])
        assert first_to_answer(workers, 0) == []  # both are at it still: none has raised
        assert seen == {str(worker.pid) for worker in workers}
    finally:
        end(workers)


@pytest.mark.parametrize("limit", ["once_without_rights", "once_in_files_of"])
def test_a_user_with_few_rights_is_told_and_leaves_nothing(limit: str, endless: Callable[[Path], Worker]) -> None:
    with tempfile.TemporaryDirectory(prefix="hard to break ü") as made:  # pytest's own folders are for one user alone
        folder = Path(made, "mine")
        folder.mkdir()
        folder.parent.chmod(0o755)
        folder.chmod(0o555 if limit == "once_without_rights" else 0o777)
        worker = endless(folder)
        arguments = [] if limit == "once_without_rights" else [1000]
        with pytest.raises(WorkerError, match=r"cannot write records to .*: (Permission denied|File too large); make"):
            worker.ask(limit, *arguments, limit_s=60)
        assert [path.name for path in folder.rglob("*") if path.is_file()] == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 200 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_what_does_not_fit_and_nothing_else(disk: Path, make_record: MakeRecord) -> None:
    store, record = RecordStore(disk / "records"), make_record()

    def write_many() -> None:
        for batch_size in range(1, 100):
            store.write(record.model_copy(update={"batch_size": batch_size}))

    with pytest.raises(CourseError, match="No space left on device; make the folder writable or choose another"):
        write_many()
    kept = store.read()
    assert [r.batch_size for r in sorted(kept, key=lambda r: r.batch_size)] == list(range(1, len(kept) + 1))
    assert {path.suffix for path in store.directory.iterdir()} == {".json"}
    writer = objects.Endless(disk, record.model_dump_json())
    with pytest.raises(OSError, match="No space left on device"):
        writer.build()
    assert exports(disk) == []
    with suppress(OSError):
        (disk / "rest").write_bytes(bytes(300_000))
    with pytest.raises((CourseError, OSError), match="No space left"):
        parcel.pack(describe([record], "mine"), disk / "mine.zip")
    assert not list(disk.glob("*mine*"))


# Odd surroundings


@pytest.fixture(scope="module")
def commas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The surroundings of a user who writes decimal commas."""
    folder = tmp_path_factory.mktemp("locales")
    make = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")]
    if not shutil.which("localedef") or subprocess.run(make, capture_output=True, check=False).returncode > 1:
        pytest.skip("no locale with decimal commas can be made here")
    return {"LOCPATH": str(folder), "LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}


SCRIPT = """if True:
    import locale, sys
    locale.setlocale(locale.LC_ALL, "")  # as some libraries do
    print(locale.localeconv()["decimal_point"], flush=True)
    from inference_lib.cli import main
    folder = sys.argv[1]
    done = main(["export", "pytorch", "vanilla_cnn", "--device", "cpu", "--output", folder])
    sys.exit(done or main(["report", "--records", folder + "/records", "--format", "csv"]))
"""


def in_odd_surroundings(folder: Path, **changed: str | None) -> list[str]:
    environment = {key: value for key, value in (os.environ | changed).items() if value is not None}
    line = [sys.executable, "-c", SCRIPT, str(folder)]
    done = subprocess.run(line, cwd=paths.ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


@pytest.fixture
def place(tmp_path: Path, make_record: MakeRecord) -> Path:
    folder = tmp_path / "Straße nach Süden, 2 — 测试"
    RecordStore(folder / "records").write(make_record())
    return folder


def test_neither_a_home_nor_a_language_is_needed(place: Path) -> None:
    gone = dict.fromkeys(("HOME", "LANG", "LC_CTYPE", "PYTHONUTF8"))
    found = in_odd_surroundings(place, **gone, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert found[0] == "."
    assert found[1].startswith(str(place).encode("ascii", "backslashreplace").decode())
    assert (place / "pytorch").is_dir()


def test_decimal_commas_change_no_figure(place: Path, commas: dict[str, str]) -> None:
    comma, made, *table = in_odd_surroundings(place, **commas)
    assert comma == ","
    assert made.startswith(str(place))
    assert table == in_format(RecordStore(place / "records").read(), "csv").splitlines()


# Files that run code when they are read

PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
HARMLESS = {"dumps", "UnpicklingError"}
FROM_ITS_PARENT = "pickle.load(sys.stdin.buffer)"
"""What a process of ours writes to another one's standard input is no file."""


def read_with_code_in_it(source: str) -> list[str]:
    """Return what would run what a file says."""
    nodes = list(ast.walk(ast.parse(source)))
    spared = {node.func for node in nodes if isinstance(node, ast.Call) and ast.unparse(node) == FROM_ITS_PARENT}
    return [ast.unparse(node) for node in nodes if node not in spared and _runs_a_file(node)]


def _runs_a_file(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in PICKLES
    if isinstance(node, ast.Attribute):
        return ast.unparse(node.value) in PICKLES and node.attr not in HARMLESS
    if not isinstance(node, ast.Call):
        return False
    name, said = ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}
    unsafe = name.endswith(("torch.load", "load_state_dict_from_url")) and said.get("weights_only") != "True"
    return unsafe or "read_pickle" in name or said.get("allow_pickle", "False") != "False"


def test_no_pickle_is_ever_loaded() -> None:
    sources = [*paths.ROOT.glob("inference_lib/**/*.py"), *paths.NOTEBOOKS.glob("*.py")]
    assert {str(path): bad for path in sources if (bad := read_with_code_in_it(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from pickle import loads",
        "import pickle\npickle.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=trusted)",
        "torch.hub.load_state_dict_from_url(url)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
    ],
)
def test_a_pickle_that_would_be_loaded_is_found(source: str) -> None:
    assert len(read_with_code_in_it(source)) == 1
