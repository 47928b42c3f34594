"""The real commands on odd machines, in processes of their own: right, or one clear line and no traceback."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from waits import wait_until

from inference_lib import cli
from inference_lib.support import paths
from inference_lib.support.files import let_others_read, write_atomically

PYTHON = [sys.executable, "-m", "inference_lib"]


def command(*arguments: object, python: list[str] = PYTHON, **changed: str | None) -> subprocess.CompletedProcess[str]:
    """Run a command in the course's folder; keyword arguments change its environment, None takes a variable away."""
    environment = {key: value for key, value in (os.environ | changed).items() if value is not None}
    environment["PYTHONPATH"] = str(paths.ROOT)
    line = [*python, *map(str, arguments)]
    return subprocess.run(
        line, env=environment, capture_output=True, text=True, check=False, cwd=paths.ROOT, timeout=300
    )


SEVERAL = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from inference_lib.cli import main

found = []
for line in sys.argv[1:]:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        status = main(line.split())
    found.append((status, out.getvalue(), errors.getvalue()))
print(json.dumps(found))
"""


def commands(
    *lines: str, before: str = "", **changed: str | None
) -> Iterator[tuple[str, subprocess.CompletedProcess[str]]]:
    """Run commands in one process, which imports everything once; yield each with what came of it."""
    result = command(*lines, python=[sys.executable, "-c", before + SEVERAL], **changed)
    assert (result.returncode, result.stderr) == (0, "")
    for line, (status, out, errors) in zip(lines, json.loads(result.stdout), strict=True):
        yield line, subprocess.CompletedProcess(line, status, out, errors)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return what a command that failed said, on one line."""
    assert "Traceback" not in result.stderr
    assert (result.returncode, result.stdout) == (1, ""), result
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "status", "imported"),
    [("--help", 0, cli.COMMANDS), ("benchmark --nonsense", 2, ["benchmark"]), ("nonsense", 2, cli.COMMANDS)],
)
def test_help_and_mistakes_import_no_framework(arguments: str, status: int, imported: list[str]) -> None:
    """They take seconds; what a person waits for is a parser of arguments, of one command where one is asked for."""
    script = f"""
        import sys
        from inference_lib.cli import main
        status = main({arguments.split()!r})
        heavy = {{"torch", "numpy", "pandas", "matplotlib", "pydantic", "rich"}} & set(sys.modules)
        assert not heavy, heavy
        names = sorted(name.split(".")[2] for name in sys.modules if name.startswith("inference_lib.commands."))
        assert [name for name in names if name != "options"] == {imported!r}, names
        sys.exit(status)
    """
    result = command(python=[sys.executable, "-c", textwrap.dedent(script)])
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr


def test_help_names_every_command_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "options" not in cli.COMMANDS
    for name in cli.COMMANDS:
        module = importlib.import_module(f"inference_lib.commands.{name}")
        assert f"{name} {module.__doc__}" in said
        assert "\n" not in module.__doc__


NAMELESS = """
import pwd

def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = nobody
"""

HERE = ("run 99", "doctor")
"""What imports all that is imported for chapters, tables, figures and frameworks."""


def assert_that_they_work(results: Iterable[tuple[str, subprocess.CompletedProcess[str]]]) -> None:
    for line, result in results:
        if line == "run 99":
            assert "unknown chapter '99'" in one_line(result)
        else:
            assert result.returncode == 0, result.stderr
            assert "Traceback" not in result.stderr


def test_a_user_without_a_name_or_a_home_can_do_everything() -> None:
    """A container that was started with a bare number for a user."""
    gone = dict.fromkeys(("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "TORCHINDUCTOR_CACHE_DIR"))
    assert_that_they_work(commands("--help", *HERE, before=NAMELESS, **gone))


def test_settings_that_end_other_people_s_imports_do_not_end_ours(tmp_path: Path) -> None:
    odd = {"MPLBACKEND": "nonsense", "PYTHONWARNINGS": "error", "PYTORCH_JIT": "0"}
    *worked, (_, refused) = commands(*HERE, f"export torchscript vanilla_cnn --device cpu --output {tmp_path}", **odd)
    assert_that_they_work(worked)
    off = "TorchScript cannot export vanilla_cnn fp32 batch 1 on cpu: PYTORCH_JIT=0 turns TorchScript off; unset"
    assert off in one_line(refused)


@pytest.mark.parametrize("writable", [True, False])
def test_what_a_framework_says_is_one_line_and_the_rest_is_in_a_file(tmp_path: Path, writable: bool) -> None:
    (tmp_path / "a file").touch()
    build = tmp_path / ("_build" if writable else "a file/_build")
    script = f"""
        import sys
        from pathlib import Path
        from inference_lib.support import paths
        paths.BUILD = Path({str(build)!r})
        from inference_lib import cli
        from inference_lib.backends.pytorch import PyTorchEager
        def fail(*_):
            raise TypeError("no kernel\\nof that kind")
        PyTorchEager.export = fail
        sys.exit(cli.main(["export", "pytorch", "vanilla_cnn", "--device", "cpu", "--output", {str(tmp_path)!r}]))
    """
    line = one_line(command(python=[sys.executable, "-c", textwrap.dedent(script)]))
    said, _, kept = line.partition("; the whole text is in ")
    assert said.endswith("PyTorch (eager) cannot export vanilla_cnn fp32 batch 1 on cpu: TypeError: no kernel")
    assert bool(kept) == writable
    if writable:
        assert "of that kind" in (tmp_path / kept).read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*PYTHON, "completion", "bash"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=paths.ROOT
        )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: cannot use the output: No space left on device; free some space or choose another place"
    ]


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A checkout in which nothing was made yet."""
    for name in ("notebooks", "book", "_toc.yml", "_config.yml"):
        (tmp_path / name).symlink_to(paths.ROOT / name)
    return tmp_path


@pytest.fixture
def read_only(empty: Path) -> Path:
    """A checkout in which nothing can be made: where a folder would be, there is a file."""
    (empty / "_build").write_text("")
    return empty


def test_a_checkout_that_cannot_be_written_is_refused_before_any_work(read_only: Path) -> None:
    lines = ("train vanilla_cnn --device cpu", "run 01", "book", "book --edition published")
    for _, result in commands(*lines, INFERENCE_ROOT=str(read_only)):
        said = one_line(result)
        assert "cannot " in said
        assert "_build" in said


UNGUARDED = """
from inference_lib import open_lab

lab = open_lab(device="cpu", records_dir={records!r})
lab.benchmark(["pytorch"], ["vanilla_cnn"], batch_sizes=[1])
"""


def test_a_script_without_a_guard_is_told_which_line_it_lacks(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(UNGUARDED.format(records=str(tmp_path / "records")))
    line = one_line(command(python=[sys.executable, str(script)]))
    assert 'if __name__ == "__main__":' in line
    assert not list((tmp_path / "records").glob("*.json"))


def processes_with(text: str) -> list[int]:
    """Return the processes of this machine in whose command line or environment ``text`` stands."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            said = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in said and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def started(*arguments: str, mark: str, python: list[str] = PYTHON, **changed: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "COURSE_TEST_MARK": mark} | changed
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*python, *arguments], env=environment, cwd=paths.ROOT, text=True, **pipes)


def assert_that_it_ends_with_all_that_it_started(run: subprocess.Popen[str], mark: str) -> None:
    """Ask a command to terminate."""
    run.terminate()
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 143, errors
    assert "Traceback" not in errors
    wait_until(lambda: not processes_with(mark), limit_s=10)
    assert processes_with(mark) == []


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found through /proc")
def test_sigterm_ends_the_workers_too(tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    arguments = ["benchmark", "--device", "cpu", "--records", str(tmp_path / "records"), "--backend", "pytorch"]
    run = started(*arguments, "--model", "vanilla_cnn", "--batch-size", "1", "256", mark=mark)
    wait_until(lambda: len(processes_with(mark)) >= 3)  # itself, what starts workers, a worker
    assert_that_it_ends_with_all_that_it_started(run, mark)


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found through /proc")
@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler that goes on for long")
def test_sigterm_in_an_export_ends_exporters_and_their_compilers(empty: Path) -> None:
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    arguments = ["benchmark", "--export-only", "--device", "cpu", "--backend", "aot-inductor", "--model", "resnet18"]
    run = started(*arguments, "--batch-size", "1", mark=mark, INFERENCE_ROOT=str(empty))
    wait_until(lambda: run.poll() is not None or list(empty.glob("artifacts/*/.*.part")))
    assert run.poll() is None, run.communicate()
    assert_that_it_ends_with_all_that_it_started(run, mark)
    assert not list(empty.glob("artifacts/*/resnet18*"))  # nobody went on until it was done


def test_ctrl_c_in_a_training_tells_the_truth_about_what_is_kept(tmp_path: Path) -> None:
    arguments = ["train", "vanilla_cnn", "--device", "cpu", "--epochs", "500", "--limit", "64", "--output"]
    run = started(*arguments, str(tmp_path), mark="")
    kept = tmp_path / ".vanilla_cnn.unfinished.pt"
    wait_until(kept.exists)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert errors.splitlines()[-1] == "interrupted: what was finished is kept; the same command goes on from there"
    assert kept.stat().st_size > 1e6
    again = started(*arguments, str(tmp_path), mark="")
    before = kept.stat().st_mtime_ns
    wait_until(lambda: kept.stat().st_mtime_ns != before)
    again.kill()
    again.communicate()
    epochs = [entry["epoch"] for entry in torch.load(kept, weights_only=True)["history"]]
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) > 1


BEGUN = "import sys; from inference_lib.cli import main; print('begun', flush=True); sys.exit(main())"


def test_ctrl_c_while_things_are_imported_is_one_line() -> None:
    for delay_s in (0.1, 0.5, 1.1):
        run = started("doctor", mark="", python=[sys.executable, "-c", BEGUN])
        assert run.stdout is not None
        run.stdout.readline()  # a slow host takes its time to start Python
        time.sleep(delay_s)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
        if run.returncode == 0:  # it was done
            continue
        assert run.returncode == 130, errors
        assert errors.splitlines()[-1].startswith("interrupted: ")
        assert "Traceback" not in errors


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o644)])
def test_what_is_written_can_be_read_by_whom_the_umask_lets(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_what_a_library_wrote_for_its_owner_alone_can_be_read_by_whom_the_umask_lets(
    tmp_path: Path, umask: int, folder: int, file: int
) -> None:
    made = tmp_path / "artifact"
    made.mkdir(mode=0o700)
    (made / "weights").touch(mode=0o600)
    before = os.umask(umask)
    try:
        let_others_read(made)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (made, made / "weights")] == [folder, file]
