"""Executing chapters: tiny ones, in a folder of their own."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import write_ipynb
from stale import stale_published
from waits import wait_until

from inference_lib.backends import BACKENDS
from inference_lib.course import book, contents, contribution, edition, notebook, parcel
from inference_lib.course import run as course
from inference_lib.course.contents import Course, chapters, find_chapters, is_up_to_date, stamp_of
from inference_lib.course.pages import Marks
from inference_lib.measure.benchmark import Session
from inference_lib.measure.plan import Rival
from inference_lib.measure.profiles import get_profile
from inference_lib.measure.roofline import Ceilings
from inference_lib.records.machine import this_machine
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.seam import Availability
from inference_lib.support import paths
from inference_lib.support.errors import CourseError

HEADER = """\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A title
#
# Some words.

# %% tags=["parameters"]
profile = "quick"
device = "auto"
records_dir = None

"""


def write_chapter(course_: Course, name: str, code: str, header: str = HEADER) -> Path:
    source = course_.root / "notebooks" / f"{name}.py"
    source.write_text(header + "# %%\n" + textwrap.dedent(code))
    return source


def course_in(folder: Path) -> Course:
    made = Course(folder, folder / "_build")
    (folder / "notebooks").mkdir()
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nparts:\n- caption: One\n  chapters:\n"
        "  - file: notebooks/01_first\n  - file: notebooks/02_second\n  - file: notebooks/03_planned\n"
    )
    write_chapter(made, "01_first", "print(1 + 1)\n")
    write_chapter(made, "02_second", "print(2 + 2)\n")
    return made


@pytest.fixture
def tiny(tmp_path: Path) -> Course:
    """A course of two chapters that run in an instant."""
    return course_in(tmp_path)


def run(tiny: Course, *names: str, **options: object) -> list[str]:
    """Execute chapters; return the names of those that failed."""
    return course.run_chapters(list(names) or None, device="cpu", course=tiny, **{"grid": False} | options)


@pytest.fixture(scope="module")
def executed_once(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """The tiny course as if it had been executed on a GPU with the full profile, for ``executed`` to copy."""
    made = course_in(tmp_path_factory.mktemp("executed"))
    run(made)
    for path in made.executed.glob("*.ipynb"):
        notebook_ = nbformat.read(path, as_version=4)
        notebook_.metadata[notebook.STAMP] |= {"profile": "full", "device": "cuda"}
        nbformat.write(notebook_, path)
    return made


@pytest.fixture
def executed(tmp_path: Path, executed_once: Course, make_record: Callable[..., Record]) -> Course:
    """The tiny course as if it had been executed on a GPU with the full profile, and one record."""
    shutil.copytree(executed_once.root, tmp_path, dirs_exist_ok=True)
    made = Course(tmp_path, tmp_path / "_build")
    RecordStore(made.records).write(make_record())
    return made


def test_chapters_come_from_the_table_of_contents(tiny: Course) -> None:
    assert [chapter.name for chapter in chapters(tiny)] == ["01_first", "02_second"]


def test_a_chapter_is_found_by_name_or_number(tiny: Course) -> None:
    assert [c.name for c in find_chapters(["02", "notebooks/01_first.py"], tiny)] == ["02_second", "01_first"]
    with pytest.raises(CourseError, match="unknown chapter '09'; choose one of: 01_first, 02_second"):
        find_chapters(["09"], tiny)


@pytest.mark.parametrize(("options", "match"), [({"profile": "fast"}, "profile 'fast'"), ({"device": "tpu"}, "'tpu'")])
def test_an_unknown_profile_or_device_is_refused_before_anything_runs(tiny: Course, options: dict, match: str) -> None:
    with pytest.raises(CourseError, match=match):
        course.run_chapters(course=tiny, **{"device": "cpu"} | options)
    assert not tiny.executed.exists()


def test_the_hash_is_that_of_the_code_alone(tiny: Course) -> None:
    source = chapters(tiny)[0].source
    before = notebook.code_hash(notebook.source_notebook(source))
    source.write_text(source.read_text().replace("Some words", "Other words"))
    same = notebook.source_notebook(source)
    same.cells.insert(2, nbformat.v4.new_code_cell("profile = 'full'", metadata={"tags": [notebook.INJECTED]}))
    same.cells[1].outputs = [nbformat.v4.new_output("stream", text="x")]
    assert notebook.code_hash(same) == before
    source.write_text(source.read_text().replace("1 + 1", "1 + 2"))
    assert notebook.code_hash(notebook.source_notebook(source)) != before


def test_code_moved_to_another_cell_changes_the_hash() -> None:
    def made_of(*cells: str) -> str:
        return notebook.code_hash(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]))

    assert made_of("a\nb", "c") != made_of("a", "b\nc")


def test_a_chapter_runs_once_until_something_changes(tiny: Course, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny) == []
    first = nbformat.read(tiny.executed / "01_first.ipynb", as_version=4)
    stamp = first.metadata[notebook.STAMP]
    assert (stamp.profile, stamp.device) == ("quick", "cpu")
    assert stamp.seconds > 0
    assert notebook.code_cells(first)[-1].outputs[0].text == "2\n"
    capsys.readouterr()

    assert run(tiny) == []
    assert capsys.readouterr().out.splitlines() == ["[1/2] 01_first: up to date", "[2/2] 02_second: up to date"]

    write_chapter(tiny, "02_second", "print(3)\n")
    assert run(tiny) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("up to date")
    assert lines[1].endswith(" s")

    chapter = chapters(tiny)[0]
    assert is_up_to_date(chapter, dict(stamp) | {"seconds": stamp.seconds}, tiny)
    for changed in (
        {"profile": "full"},
        {"device": "cuda"},
        {"library_sha256": "another"},
        {"environment_sha256": "x"},
    ):
        assert not is_up_to_date(chapter, dict(stamp) | changed, tiny)
    (tiny.executed / "01_first.failed.ipynb").touch()  # by code that was taken back
    assert not is_up_to_date(chapter, dict(stamp), tiny)


SUMMARY = HEADER.replace("#   kernelspec:", "#   inference_lib:\n#     summary: true\n#   kernelspec:")


def test_a_summary_is_run_last_wherever_it_stands(tiny: Course, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen: the chapter behind it made it stale, and the same command executed it again."""
    write_chapter(tiny, "01_first", "print(1 + 1)\n", SUMMARY)
    for said in ("s", "up to date"):
        assert run(tiny) == []
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in lines] == ["[1/2] 02_second", "[2/2] 01_first"]
        assert all(line.endswith(said) for line in lines)


def test_a_summary_is_run_again_after_the_others(executed: Course) -> None:
    write_chapter(executed, "02_second", "print(2 + 2)\n", SUMMARY)
    chapter, stamp = chapters(executed)[1], stamp_of(chapters(executed)[1], "full", "cuda")
    for seconds, fresh in ((-10, True), (10, False)):
        other = (executed.executed / "02_second.ipynb").stat().st_mtime + seconds
        os.utime(executed.executed / "01_first.ipynb", (other, other))
        assert is_up_to_date(chapter, stamp, executed) is fresh


def test_a_failing_chapter_names_its_cell_and_leaves_the_others_alone(
    tiny: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    write_chapter(tiny, "01_first", "print('so far')\n\n# %%\n# look\nraise ValueError('first line\\nand the last')\n")
    assert run(tiny) == ["01_first"]
    failed, fine = capsys.readouterr().out.splitlines()
    assert "failed at code cell 3 (`# look`): ValueError: and the last; see" in failed
    assert "01_first.failed.ipynb" in failed
    assert fine.endswith(" s")
    assert [p.name for p in sorted(tiny.executed.iterdir())] == ["01_first.failed.ipynb", "02_second.ipynb"]
    kept = notebook.code_cells(nbformat.read(tiny.executed / "01_first.failed.ipynb", as_version=4))
    assert kept[1].outputs[0].text == "so far\n"

    write_chapter(tiny, "01_first", "print('mended')\n")
    assert run(tiny, "01") == []
    assert [p.name for p in sorted(tiny.executed.iterdir())] == ["01_first.ipynb", "02_second.ipynb"]


def test_a_chapter_that_kills_its_kernel_is_a_failure_like_any_other(
    tiny: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    write_chapter(tiny, "01_first", "import os\nos.kill(os.getpid(), 9)\n")
    assert run(tiny, "01") == ["01_first"]
    assert "failed at code cell 2 (`import os`): the kernel died" in capsys.readouterr().out


def test_a_cell_that_does_not_end_is_ended(
    tiny: Course, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(course, "CELL_S", 3)  # longer than a cell before it takes
    write_chapter(tiny, "01_first", "import time\ntime.sleep(300)\n")
    assert run(tiny, "01") == ["01_first"]
    assert "failed at code cell 2 (`import time`): it did not end within 3 s" in capsys.readouterr().out


def test_a_full_disk_fails_a_chapter_and_leaves_no_half_notebook(
    tiny: Course, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def half(notebook_: object, part: Path, *_: object) -> None:
        part.write_text('{"cells": [')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(course, "_execute", half)
    assert run(tiny) == ["01_first", "02_second"]
    assert capsys.readouterr().out.count("before its first cell: OSError: [Errno 28] No space left on device") == 2
    assert [path.name for path in sorted(tiny.executed.iterdir())] == [
        "01_first.failed.ipynb",
        "02_second.failed.ipynb",
    ]
    nbformat.validate(nbformat.read(tiny.executed / "01_first.failed.ipynb", as_version=4))


@pytest.mark.parametrize(("age_s", "often"), [(1000.0, False), (0.0, True)])
def test_a_chapter_is_written_from_time_to_time_and_at_the_end(
    tiny: Course, monkeypatch: pytest.MonkeyPatch, age_s: float, often: bool
) -> None:
    written: list[int] = []

    def write(executed: notebook.Notebook, path: str) -> None:
        written.append(sum(bool(cell.outputs) for cell in notebook.code_cells(executed)))
        write_ipynb(executed, path)

    monkeypatch.setattr(course, "SAVE_S", age_s)
    monkeypatch.setattr("papermill.engines.write_ipynb", write)
    cells = "\n# %%\n".join(["print(1)"] * 9 + ["1 / 0"])
    write_chapter(tiny, "01_first", cells)
    assert run(tiny, "01") == ["01_first"]
    assert written[-1] == 10  # what failed is told, too
    assert (len(written) > 10) == often
    assert len(set(written)) == (11 if often else 2)


def test_chapters_run_in_the_course_s_folder_with_this_interpreter(tiny: Course) -> None:
    write_chapter(tiny, "01_first", "import os, sys\nprint([os.getcwd(), sys.executable])\n")
    part = tiny.root / "part.ipynb"
    source = notebook.source_notebook(chapters(tiny)[0].source)
    executed = course._execute(source, part, "quick", "cpu", tiny)
    assert notebook.code_cells(executed)[-1].outputs[0].text == f"{[str(tiny.root), sys.executable]}\n"


def test_after_ctrl_c_a_line_says_so_and_the_same_command_goes_on(tiny: Course) -> None:
    """The kernel takes its time to end, so that it still tells how the cell was interrupted, to nobody."""
    code = """\
        import time
        from pathlib import Path

        kernel = get_ipython().kernel
        end = kernel.do_shutdown
        kernel.do_shutdown = lambda restart: time.sleep(1) or end(restart)
        Path("started").touch()
        while Path("wait").exists():
            time.sleep(0.1)
        """
    write_chapter(tiny, "02_second", code)
    (tiny.root / "wait").touch()
    command = [sys.executable, "-m", "inference_lib", "run", "--device", "cpu", "--no-grid"]
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "INFERENCE_ROOT": str(tiny.root)}
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    wait_until(lambda: (tiny.root / "started").exists() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    part = tiny.executed / ".02_second.part.ipynb"
    assert out.splitlines()[-1] == f"[2/2] 02_second: interrupted; what ran is in {part}"
    assert errors == "interrupted: what was finished is kept; the same command goes on from there\n"
    assert process.returncode == 130
    spent = tiny.executed / ".02_second.quick-cpu.seconds"
    assert sorted(p.name for p in tiny.executed.iterdir()) == [part.name, spent.name, "01_first.ipynb"]
    last = notebook.code_cells(nbformat.read(part, as_version=4))[-1]
    assert last.metadata["papermill"]["start_time"]  # the cell that was interrupted
    assert float(spent.read_text()) > 0
    (tiny.root / "wait").unlink()
    again = subprocess.run(command, env=environment, timeout=120, check=True, **pipes)
    assert again.stdout.startswith("[1/2] 01_first: up to date\n[2/2] 02_second: ")
    assert sorted(p.name for p in tiny.executed.iterdir()) == ["01_first.ipynb", "02_second.ipynb"]


def test_the_time_of_an_interrupted_attempt_counts_once(tiny: Course) -> None:
    def seconds() -> float:
        return nbformat.read(tiny.executed / "02_second.ipynb", as_version=4).metadata[notebook.STAMP]["seconds"]

    tiny.executed.mkdir(parents=True)
    (tiny.executed / ".02_second.quick-cpu.seconds").write_text("1000.0")
    assert run(tiny, "02", profile="full") == []
    assert seconds() < 300  # that attempt had another profile
    assert run(tiny, "02") == []
    assert 1000 < seconds() < 1300
    assert run(tiny, "02", force=True) == []
    assert seconds() < 300


def test_outputs_do_not_tell_where_they_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = "/somebody/at/home"
    monkeypatch.setattr(Path, "home", lambda: Path(home))
    root = tmp_path / "course"
    cleaned = notebook.without_paths
    assert cleaned(f"see {root}/data/x.gz", root) == "see data/x.gz"
    assert cleaned(f"in {root}", root) == "in ."
    assert cleaned(f"{root}-two", root).startswith("tmp/")
    assert cleaned(f"{home}/.cache/x", root) == "home/.cache/x"
    for path in (np_file(), os.path.realpath(np_file())):  # an environment may be a link
        assert cleaned(f"File {path}", root) == "File site-packages/numpy/__init__.py"
    assert cleaned(f"{tmp_path.parts[0]}tmp/ipykernel_12/345.py:1: UserWarning", root) == "cell.py:1: UserWarning"


def np_file() -> str:
    import numpy as np

    return np.__file__


def test_cleaning_leaves_only_what_belongs_to_the_chapter(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("1", metadata={"tags": [], "papermill": {"duration": 1}, "execution": {}})
    pieces = [("stdout", "a"), ("stdout", "b"), ("stderr", f"{tmp_path}/x")]
    cell.outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in pieces]
    cell.outputs.append(
        nbformat.v4.new_output("display_data", {"image/png": f"{tmp_path}/", "text/html": f"{tmp_path}/"})
    )
    injected = nbformat.v4.new_code_cell("records_dir = None", metadata={"tags": [notebook.INJECTED]})
    made = nbformat.v4.new_notebook(
        cells=[injected, cell], metadata={"papermill": {"input_path": "x"}, notebook.STAMP: {"profile": "quick"}}
    )
    cleaned = notebook.clean(made, tmp_path)
    assert set(cleaned.metadata) == {"language_info", notebook.STAMP}
    assert cleaned.cells[0].metadata.tags == [notebook.INJECTED, "remove-cell"]
    assert cleaned.cells[1].metadata == {}
    assert [output.get("text") for output in cleaned.cells[1].outputs] == ["ab", "x", None]
    assert cleaned.cells[1].outputs[2].data == {"image/png": f"{tmp_path}/", "text/html": ""}


def test_html_from_anybody_does_not_leave_its_block() -> None:
    assert notebook.raw_html("<li>why\n```\n\n:::\n# A title</li>").count("\n") == 2


def test_a_folder_that_cannot_be_written_is_one_line(tiny: Course) -> None:
    tiny.build.write_text("a file where a folder should be")
    with pytest.raises(CourseError, match=r"cannot write to .*executed.*make the folder writable"):
        run(tiny)


def test_publishing_and_staleness(executed: Course) -> None:
    (executed.build / "ceilings").mkdir()
    ceilings = Ceilings(flops={"fp32": 1e15}, bandwidth=1e12, machine="a GPU").model_dump_json(indent=1)
    for name, content in {"cuda-1.json": ceilings, "cpu-1.json": ceilings, "cuda-2.json": "{}"}.items():
        (executed.build / "ceilings" / name).write_text(content)
    assert edition.publish(course=executed) == ["01_first", "02_second"]
    assert RecordStore(executed.published / "records").read() == RecordStore(executed.records).read()
    assert [path.name for path in (executed.published / "ceilings").iterdir()] == ["cuda-1.json"]
    assert (executed.published / "ceilings/cuda-1.json").read_text() == ceilings
    assert stale_published(executed) == []

    source = chapters(executed)[0].source
    source.write_text(source.read_text().replace("Some words", "Better words"))
    assert stale_published(executed) == []
    source.write_text(source.read_text().replace("1 + 1", "1 + 3"))
    assert stale_published(executed) == ["01_first"]
    with pytest.raises(CourseError, match="the code of chapter 01_first has changed"):
        edition.publish(course=executed)


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_not_for_an_edition_is_refused_and_the_edition_stays_as_it_was(
    executed: Course, make_record: Callable[..., Record]
) -> None:
    edition.publish(course=executed)
    before, store = snapshot(executed.published), RecordStore(executed.records)

    def refused(match: str) -> None:
        with pytest.raises(CourseError, match=match) as error:
            edition.publish(course=executed)
        assert "\n" not in str(error.value)
        assert snapshot(executed.root / "book") == before

    other_gpu = make_record().machine.model_copy(update={"gpu": "Another GPU"})
    other = store.write(make_record(machine=other_gpu))
    refused("records of Another GPU and NVIDIA Test GPU")
    other.unlink()
    broken = executed.records / "a.json"
    broken.write_text("{}")
    refused("a.json is not a measurement record")
    broken.unlink()
    run(executed, "02")
    refused("chapter 02_second was executed with the quick profile on cpu; publish what a GPU made.*--any-profile")
    edition.publish(course=executed, any_profile=True)


def test_records_that_are_not_for_an_edition_are_left_out_with_a_line(
    executed: Course, make_record: Callable[..., Record]
) -> None:
    store, said = RecordStore(executed.records), list[str]()
    without_gpu = make_record().machine.model_copy(update={"gpu": None})
    store.write(make_record(1.0, profile="quick"))
    store.write(make_record(device="cpu", machine=without_gpu))
    store.write(make_record(model="secret-1234abcd"))
    edition.publish(course=executed, say=said.append)
    assert RecordStore(executed.published / "records").read() == [make_record()]
    assert said == [
        "left out: 1 records of your own models or pictures, which nobody else can measure",
        "left out: 2 records of another profile than full, or of a machine without a GPU",
    ]
    before = snapshot(executed.published)
    (executed.records / make_record().key.file_name).unlink()
    with pytest.raises(CourseError, match=r"no record in .*records is for an edition; publish what a GPU made"):
        edition.publish(course=executed, say=said.append)
    assert snapshot(executed.published) == before
    edition.publish(course=executed, any_profile=True, say=said.append)
    profiles = {record.profile for record in RecordStore(executed.published / "records").read()}
    assert profiles == {"full", "quick"}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"cells": 3}'])
def test_a_damaged_chapter_is_told_in_a_line_and_executed_again(executed: Course, content: str) -> None:
    (executed.executed / "01_first.ipynb").write_text(content)
    with pytest.raises(CourseError, match=r"01_first.ipynb is no notebook \(.*; delete it and execute") as error:
        edition.publish(course=executed)
    assert "\n" not in str(error.value)
    assert not is_up_to_date(chapters(executed)[0], {}, executed)
    assert "02_second" in Marks("local", executed).fill("{{ executed }}")


def test_runs_stand_side_by_side_in_the_edition(executed: Course, make_record: Callable[..., Record]) -> None:
    edition.publish(course=executed)
    second = executed.build / "second"
    RecordStore(second).write(make_record(3.0, run="2"))
    edition.publish(records=second, course=executed)
    assert {record.run for record in RecordStore(executed.published / "records").read()} == {"1", "2"}


def test_an_edition_is_replaced_as_a_whole_or_not_at_all(executed: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    edition.publish(course=executed)
    before = snapshot(executed.root / "book")
    written = []

    def full(self: RecordStore, record: Record) -> None:
        written.append(record)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordStore, "write", full)
    with pytest.raises(OSError, match="No space left"):
        edition.publish(course=executed)
    assert written
    assert snapshot(executed.root / "book") == before


@pytest.mark.parametrize("killed", ["before the old edition was removed", "between the two"])
def test_an_edition_survives_a_publishing_that_was_killed(executed: Course, killed: str) -> None:
    edition.publish(course=executed)
    before, old = snapshot(executed.published), executed.published.with_name(".published.old")
    if killed == "between the two":
        os.replace(executed.published, old)
    else:
        shutil.copytree(executed.published, old)
    (executed.executed / "01_first.ipynb").unlink()
    assert edition.publish(course=executed) == ["02_second"]
    assert snapshot(executed.published) == before
    assert not old.exists()


def test_a_reader_of_the_readme_sees_the_old_one_or_the_new_one(executed: Course) -> None:
    readme = executed.root / "README.md"
    readme.write_text("<!-- results -->\nNothing\n<!-- /results -->\n")
    with readme.open() as reader:
        edition.publish(course=executed)
        assert reader.read() == "<!-- results -->\nNothing\n<!-- /results -->\n"
    assert "NVIDIA Test GPU" in readme.read_text()


def test_a_rendering_that_does_not_end_is_ended(tiny: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny.root / "_config.yml").write_text("title: Tiny\n")
    monkeypatch.setattr(book, "JUPYTER_BOOK", "import time; time.sleep(60)")
    monkeypatch.setattr(book, "RENDER_S", 0.2)
    with pytest.raises(CourseError, match=r"cannot be rendered, see .*: ERROR: Jupyter Book did not end within 0.2 s"):
        book.render("local", course=tiny)


def test_a_book_folder_that_cannot_be_written_is_one_line(executed: Course) -> None:
    (executed.root / "book").write_text("a file where a folder should be")
    with pytest.raises(CourseError, match=r"cannot publish to .*book: .*; make the folder writable"):
        edition.publish(course=executed)


def test_without_chapters_or_records_there_is_nothing_to_publish(executed: Course) -> None:
    shutil.rmtree(executed.records)
    with pytest.raises(CourseError, match="no records in"):
        edition.publish(course=executed)
    shutil.rmtree(executed.executed)
    with pytest.raises(CourseError, match="no executed chapters"):
        edition.publish(course=executed)


def test_a_page_has_the_source_s_words_and_the_execution_s_outputs(executed: Course) -> None:
    (executed.root / "_config.yml").write_text("title: Tiny\n")
    source = chapters(executed)[0].source
    source.write_text(source.read_text().replace("Some words", "Better words"))
    folder = book.stage("local", executed).folder
    page = nbformat.read(folder / "notebooks" / "01_first.ipynb", as_version=4)
    assert "Better words" in page.cells[0].source
    assert [cell.metadata.get("tags") for cell in page.cells] == [None, ["parameters"], None, None]
    assert "{download}`script <../downloads/01_first.py>`" in page.cells[-1].source
    assert page.cells[2].outputs[0].text == "2\n"

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (folder / "left_over.md").write_text("gone from the course")
    book.stage("local", executed)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == {
        path: mtime for path, mtime in before.items() if path.is_file()
    }


def test_a_card_says_how_long_the_chapter_ran_and_where(executed: Course) -> None:
    source = chapters(executed)[0].source
    source.write_text(source.read_text().replace("Some words.", "It took {{ run_times }}."))
    edition.publish(course=executed)
    (executed.root / "_config.yml").write_text("title: x\n")
    page = nbformat.read(book.stage("local", executed).folder / "notebooks" / "01_first.ipynb", as_version=4)
    (sentence,) = [line for line in page.cells[0].source.splitlines() if "It took" in line]
    assert sentence.count(this_machine().name("cpu")) == 2  # here, and in the published edition
    assert "full profile" in sentence


def test_a_page_tells_which_chapters_were_executed_where(executed: Course) -> None:
    edition.publish(course=executed)
    first = executed.published / "01_first.ipynb"
    elsewhere = nbformat.read(first, as_version=4)
    elsewhere.metadata[notebook.STAMP] |= {"machine": "Another Machine", "profile": "quick"}
    nbformat.write(elsewhere, first)
    assert Marks("published", executed).fill("{{ executed }}").splitlines() == [
        "- On Another Machine (quick profile): [01](../notebooks/01_first)",
        f"- On {this_machine().name('cpu')} (full profile): [02](../notebooks/02_second)",
    ]
    assert "Another Machine" not in Marks("local", executed).fill("{{ executed }}")
    nothing = Marks("local", Course(executed.root, executed.root / "elsewhere"))
    assert nothing.fill("{{ executed }}") == "- No chapter was executed yet."


def test_a_machine_that_a_reader_brought_is_shown_without_executing_anything_and_outlives_a_new_edition(
    executed: Course, make_record: Callable[..., Record]
) -> None:
    (executed.root / "_config.yml").write_text("title: x\n")
    source = chapters(executed)[0].source
    source.write_text(source.read_text().replace("Some words.", "{{ machines: pytorch tvm }}"))

    def page(name: str) -> str:
        edition.publish(course=executed)
        staged = book.stage(name, executed).folder / "notebooks" / "01_first.ipynb"
        return nbformat.read(staged, as_version=4).cells[0].source

    assert contribution.NOBODY_YET in page("local")
    records = [make_record(ms, run=run, device="cpu") for run, ms in (("1", 2.0), ("2", 2.1))]
    parcel.pack(contribution.describe(records, "a-laptop"), executed.root / "x.zip")
    parcel.add(executed.root / "x.zip", executed.published / "machines")
    for name in ("local", "published"):
        assert "**a-laptop** (Test CPU (2 cores))" in page(name)
        assert 'class="measured-table"' in page(name)
        assert "2.100" not in page(name)  # the second run judges claims, and is not shown


def test_the_published_edition_leaves_out_what_was_not_published(
    executed: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    (executed.root / "_config.yml").write_text("title: Tiny\n")
    edition.publish(course=executed)
    (executed.published / "01_first.ipynb").unlink()
    contents = (book.stage("published", executed).folder / "_toc.yml").read_text()
    assert [f"notebooks/{name}" in contents for name in ("01_first", "02_second")] == [False, True]
    assert "the published edition has no 01_first yet" in capsys.readouterr().out


SPHINX = """
import pathlib, sys
static = pathlib.Path(sys.argv[4], "_build", "html", "_static")
static.mkdir(parents=True, exist_ok=True)
(static / "course.css").write_text("the first one")
"""


def test_a_new_style_sheet_is_shown_though_no_page_changed(tiny: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "JUPYTER_BOOK", SPHINX)
    (tiny.root / "_config.yml").write_text("title: Tiny\n")
    (tiny.root / "book" / "_static").mkdir(parents=True)
    (tiny.root / "book" / "_static" / "course.css").write_text("p { color: red }")
    folder = book.render("local", course=tiny).folder
    assert (folder / "_static" / "course.css").read_text() == "p { color: red }"


def staged_pages(course_: Course) -> tuple[dict[str, nbformat.NotebookNode], list[str]]:
    """Return the pages of the local edition and the names of the broken ones."""
    (course_.root / "_config.yml").write_text("title: Tiny\n")
    staged = book.stage("local", course_)
    pages = {path.stem: nbformat.read(path, as_version=4) for path in (staged.folder / "notebooks").glob("*.ipynb")}
    return pages, staged.broken


def test_a_failed_chapter_becomes_a_page_that_shows_where_and_why(tiny: Course) -> None:
    write_chapter(
        tiny, "01_first",
        "print('so far')\n\n# %% [markdown]\n# It is {glue:text}`01-x:.1f`.\n\n# %%\n# look\n"
        "raise ValueError('first line\\nand the last')\n\n# %%\nprint('never')\n",
    )  # fmt: skip
    assert run(tiny) == ["01_first"]
    pages, broken = staged_pages(tiny)
    assert broken == ["01_first"]
    page = pages["01_first"]
    assert page.cells[0].source.startswith("# A title")
    note = page.cells[1].source
    assert "at code cell 3 (`# look`): ValueError: and the last" in note
    assert note.index("{dropdown}") < note.index("Traceback") < note.index("run `python -m inference_lib run 01_first`")
    assert "\x1b" not in note
    assert notebook.code_cells(page)[1].outputs[0].text == "so far\n"
    assert page.cells[-1].source.startswith("# look")  # the page ends where the chapter did
    assert page.cells[-1].outputs == []
    assert "It is (not measured)." in page.cells[-2].source
    assert notebook.code_cells(pages["02_second"])[-1].outputs[0].text == "4\n"


def test_a_chapter_without_fresh_outputs_becomes_a_page_that_says_so(executed: Course) -> None:
    (executed.executed / "01_first.ipynb").unlink()
    pages, broken = staged_pages(executed)
    assert broken == ["01_first"]
    assert [cell.source.splitlines()[0] for cell in pages["01_first"].cells] == ["# A title", "::::{error}"]
    assert "This chapter was not executed: chapter 01_first has no outputs in" in pages["01_first"].cells[1].source
    write_chapter(executed, "02_second", "print(5)\n")
    pages, broken = staged_pages(executed)
    assert broken == ["01_first", "02_second"]
    assert "the code of chapter 02_second has changed since it was executed" in pages["02_second"].cells[1].source


def test_what_is_installed_later_makes_a_chapter_stale(executed: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that was unavailable for want of a package is measured once it is there."""
    chapter = chapters(executed)[0]

    def fresh() -> bool:
        return is_up_to_date(chapter, stamp_of(chapter, "full", "cuda"), executed)

    assert fresh()
    newer = this_machine().model_copy(update={"packages": {"tensorrt": "10"}})
    for place, name, changed in (
        (contents, "this_machine", lambda: newer),
        (type(BACKENDS["tensorrt"]), "availability", lambda *_: Availability(True, "10")),
    ):
        contents.environment_hash.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(place, name, changed)
            assert not fresh()
    contents.environment_hash.cache_clear()
    committed = this_machine().model_copy(update={"commit": "another"})
    monkeypatch.setattr(contents, "this_machine", lambda: committed)
    assert fresh()
    contents.environment_hash.cache_clear()


def test_the_whole_grid_is_measured_before_all_chapters_and_only_then(
    tiny: Course, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = []

    def measure(session: Session, rivals: list[Rival]) -> None:
        session.progress(f"{len(rivals)} cells")
        measured.append((session.store.directory, {rival.workload.device.kind for rival in rivals}))
        raise CourseError("no reference")

    monkeypatch.setattr(Session, "measure", measure)
    run(tiny, "01", grid=True)
    run(tiny, grid=False)
    assert measured == []
    run(tiny, grid=True)  # everything is up to date, and so are the records
    assert measured == []
    capsys.readouterr()
    assert run(tiny, grid=True, force=True) == []
    assert measured == [(tiny.records, {"cpu"})]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("measuring the grid on ")
    assert printed[2] == "  not all of it: no reference"
    assert printed[3].startswith("[1/2] 01_first")


def test_a_machine_with_a_gpu_measures_its_cpu_too_with_the_backends_that_run_there(
    tiny: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: dict[str, set[str]] = {}

    def measure(_: Session, rivals: list[Rival]) -> None:
        for rival in rivals:
            measured.setdefault(rival.workload.device.kind, set()).add(rival.backend)

    monkeypatch.setattr(Session, "measure", measure)
    course.measure_grid(get_profile("quick"), "cuda", tiny)
    assert measured["cuda"] == set(BACKENDS)
    assert {"pytorch", "openvino", "tvm"} <= measured["cpu"]
    assert not {"pytorch-cudagraph", "tensorrt"} & measured["cpu"]
