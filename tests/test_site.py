"""The site around the chapters: what is made when it is rendered, and nothing that leads nowhere."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pytest
import snowballstemmer
import yaml
from bs4 import BeautifulSoup
from chromium import a_tab
from prose import BOOK, commands

from inference_lib import cli
from inference_lib.course import book, edition, reference, site
from inference_lib.course.contents import Chapter, Course
from inference_lib.course.notebook import STAMP, code_cells, source_notebook
from inference_lib.course.pages import Marks
from inference_lib.course.site import Site
from inference_lib.records.record import Record
from inference_lib.records.store import RecordStore
from inference_lib.support import paths
from inference_lib.support.errors import CourseError

MakeRecord = Callable[..., Record]

WORKFLOWS = sorted((paths.ROOT / ".github" / "workflows").glob("*.yml"))

HERE = Site("https://example.org/course", "https://github.com/somebody/course")

MESSAGE = "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"


# What GitHub reads


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("vendor.citation-file-format", [paths.ROOT / "CITATION.cff"]),
    ],
)
def test_what_github_reads_follows_its_schema(schema: str, files: list[Path]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert files
    assert done.returncode == 0, done.stdout


RUNNERS = "self-hosted-runner: {labels: [gpu]}\n"
"""The labels of a runner of one's own, which a linter cannot know."""


def linted(folder: Path) -> str:
    """Return what a linter of workflows says of those in ``folder``: actionlint, or its fork that is a wheel."""
    (folder / "labels.yaml").write_text(RUNNERS)
    options = ["-config-file", str(folder / "labels.yaml")]
    command = ["actionlint", *options]
    if not shutil.which("actionlint"):
        pytest.importorskip("jactionlint", reason="needs actionlint, or jactionlint (the extra test)")
        command = [sys.executable, "-m", "jactionlint", "--profile=correctness", "--strict-exit", "--no-hints"]
        command += ["--config-file", str(folder / "labels.yaml")]
    files = map(str, sorted(folder.glob("*.yml")))
    return subprocess.run([*command, *files], capture_output=True, text=True, check=False).stdout


def test_a_linter_of_workflows_finds_nothing(tmp_path: Path) -> None:
    for path in WORKFLOWS:
        shutil.copy(path, tmp_path)
    assert linted(tmp_path) == ""


@pytest.mark.parametrize("wrong", ["needs: rendr", "steps.pagse", "ubuntu-lates"])
def test_a_fault_in_a_workflow_that_the_schema_allows_is_found(wrong: str, tmp_path: Path) -> None:
    right = {"needs: rendr": "needs: render", "steps.pagse": "steps.pages", "ubuntu-lates": "ubuntu-latest"}[wrong]
    text = (paths.ROOT / ".github" / "workflows" / "pages.yml").read_text()
    assert right in text
    (tmp_path / "pages.yml").write_text(text.replace(right, wrong))
    assert f'"{re.split("[ .]", wrong)[-1]}"' in linted(tmp_path)


def test_workflows_call_what_there_is() -> None:
    """Targets of make, files, and commands of the library with their options."""
    targets = set(re.findall(r"^([a-z]+):", (paths.ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for path in WORKFLOWS for line in path.read_text().splitlines()]
    made = {found[1] for line in lines if (found := re.search(r"^\s*(?:run: )?make ([a-z]+)$", line))}
    assert {"published", "lint", "install"} <= made <= targets
    assert any(line.strip() == "run: .ci/run" for line in lines)
    commands = [line.split("-m inference_lib ")[1].split() for line in lines if "-m inference_lib " in line]
    assert {command[0] for command in commands} == {"doctor", "benchmark", "starts", "replicate", "run", "publish"}
    for name, *options in commands:
        source = (paths.ROOT / "inference_lib" / "commands" / f"{name}.py").read_text()
        shared = (paths.ROOT / "inference_lib" / "commands" / "options.py").read_text()
        assert all(f'"{option}"' in source + shared for option in options if option.startswith("--")), (name, options)


def test_a_new_edition_is_measured_by_hand_on_a_gpu_of_ours_and_ends_in_a_pull_request() -> None:
    found = yaml.safe_load((paths.ROOT / ".github" / "workflows" / "edition.yml").read_text())
    assert list(found[True]) == ["workflow_dispatch"]  # YAML 1.1 reads "on" as true
    (job,) = found["jobs"].values()
    assert {"self-hosted", "gpu"} <= set(job["runs-on"])
    told = {" ".join(command) for command in commands(BOOK / "reproducing.md", "The published edition")}
    steps = "\n".join(step.get("run", "") for step in job["steps"]).splitlines()
    assert "starts --profile full --device cuda" in told
    assert {command for command in told if not command.startswith("run 16 ")} <= {
        step.split("-m inference_lib ")[-1] for step in steps
    }
    assert "create-pull-request" in job["steps"][-1]["uses"]


def test_licence_and_citation_say_the_same_as_the_package() -> None:
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    assert (project["license"], str(cited["version"])) == (cited["license"], project["version"]) == ("MIT", "0.1.0")
    assert (paths.ROOT / "LICENSE").read_text().startswith("MIT License")


# Addresses


def test_without_addresses_nothing_is_configured_that_needs_one() -> None:
    content = (paths.ROOT / "_config.yml").read_bytes()
    assert site.configured(content, Site()) == content
    plain = yaml.safe_load(content)
    assert "repository" not in plain
    assert not any(plain["html"][f"use_{name}_button"] for name in ("repository", "issues", "edit_page"))


def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_SITE", "example.org")
    with pytest.raises(CourseError, match="INFERENCE_SITE is no address of the web: example"):
        Site.of_environment()
    monkeypatch.setenv("INFERENCE_SITE", "https://example.org/course/")
    monkeypatch.setenv("INFERENCE_REPOSITORY", "https://github.com/somebody/course")
    assert Site.of_environment() == HERE


def test_a_chapter_links_to_its_source_and_to_colab_where_these_are() -> None:
    chapter = Chapter("04_pytorch", Path("04_pytorch.py"))
    assert "http" not in site.take_away(chapter, Site(), published=True)
    assert "http" not in site.take_away(chapter, Site("https://example.org"), published=True)
    assert "github.com" not in site.take_away(chapter, Site("", "https://example.org/code"), published=True)
    source = "https://github.com/somebody/course/blob/main/notebooks/04_pytorch.py"
    colab = f"{site.COLAB}/somebody/course/blob/main/book/published/04_pytorch.ipynb"
    known = site.take_away(chapter, HERE, published=True)
    assert [place in known for place in (source, colab)] == [True, True]
    assert colab not in site.take_away(chapter, HERE, published=False)


# A small book, rendered with both addresses


CHAPTER = """\
# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # First
#
# Some words.

# %%
1 + 1
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """Return a course of one chapter and the real explorer, home page and page of changes."""
    root = tmp_path_factory.mktemp("small")
    (root / "notebooks").mkdir()
    (root / "notebooks" / "01_first.py").write_text(CHAPTER)
    shutil.copytree(paths.ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copy(paths.ROOT / "book" / "references.bib", root / "book")
    shutil.copy(paths.ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/01_first\n- file: book/explorer\n"
        "- file: book/library_records\n"
    )
    (root / "book" / "index.md").write_text("# Home\n\n{{ opening }}\n\n{{ edition }}\n")
    (root / "book" / "explorer.md").write_text("# Explorer\n\n{{ explorer }}\n")
    return Course(root, root / "_build")


def publish_small(small: Course, records: list[Record]) -> None:
    """Put a chapter with an error message in its output, and records, into the small course's published edition."""
    (small.published / "records").mkdir(parents=True, exist_ok=True)
    notebook = source_notebook(small.root / "notebooks" / "01_first.py")
    (cell,) = code_cells(notebook)
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"{MESSAGE}\n")]
    notebook.metadata[STAMP] = {"seconds": 1, "machine": "a GPU", "profile": "full"}
    nbformat.write(notebook, small.published / "01_first.ipynb")
    for record in records:
        RecordStore(small.published / "records").write(record)


@pytest.fixture
def html(small: Course, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the small book, rendered once."""
    target = small.build / "published" / "html"
    if not target.exists():
        monkeypatch.setenv("INFERENCE_SITE", HERE.address)
        monkeypatch.setenv("INFERENCE_REPOSITORY", HERE.repository)
        publish_small(small, [make_record(2.0), make_record(1.0, backend="tvm", title="TVM", precision="fp16")])
        book.render("published", course=small)
    return target


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(), "html.parser")


@pytest.mark.slow
def test_the_home_page_shows_the_figure_and_what_was_measured(html: Path) -> None:
    page = soup(html / "book" / "index.html").article
    drawing = page.select_one("figure.measured svg")
    assert "PyTorch (eager) FP32 2.00 ms; TVM FP16 1.00 ms" in drawing["aria-label"]
    assert "Run 1: Measured on NVIDIA Test GPU" in page.get_text()


@pytest.mark.slow
def test_the_explorer_is_loaded_on_its_page_and_nowhere_else(html: Path) -> None:
    users = [path.name for path in html.rglob("*.html") if "explorer.js" in path.read_text()]
    assert users == ["explorer.html"]
    page = soup(html / "book" / "explorer.html")
    assert len(page.select("#explorer-table tbody tr")) == 2
    for node in (
        page.select_one('script[src$="explorer.js"]')["src"],
        page.select_one('link[href$="explorer.css"]')["href"],
    ):
        assert (html / "book" / node).is_file()


@pytest.mark.slow
def test_a_chapter_can_be_taken_away_as_notebook_and_script(html: Path) -> None:
    page = soup(html / "notebooks" / "01_first.html").article
    taken = {link.get_text(): link["href"] for link in page.select("a.download")}
    assert (html / "notebooks" / taken["script"]).read_text() == CHAPTER
    clean = nbformat.read(html / "notebooks" / taken["notebook"], as_version=4)
    assert [cell.source for cell in clean.cells] == ["# First\n\nSome words.", "1 + 1"]
    assert not any(cell.get("outputs") for cell in clean.cells)


@pytest.mark.slow
def test_code_can_be_copied(html: Path) -> None:
    page = soup(html / "notebooks" / "01_first.html")
    assert page.select('script[src*="copybutton.js"]')


@pytest.mark.slow
def test_search_finds_an_error_message_in_an_output(html: Path) -> None:
    """Every word of it leads to the page, as the script of the search looks words up: stemmed, in small letters."""
    text = (html / "searchindex.js").read_text()
    index: dict[str, Any] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    page = index["docnames"].index("notebooks/01_first")
    stem = snowballstemmer.stemmer("porter").stemWord
    stop = {"all", "to", "be", "on", "the", "but", "at", "and", "0"}
    words = {word for word in re.split(r"\W+", MESSAGE.lower()) if word and word not in stop}
    for word in words:
        found = index["terms"].get(stem(word), [])
        assert page in (found if isinstance(found, list) else [found]), word


@pytest.mark.slow
def test_the_search_page_finds_it_in_a_browser(html: Path) -> None:
    with a_tab() as tab:
        tab.goto(f"{(html / 'search.html').as_uri()}?q={quote(MESSAGE)}")
        tab.wait_for_selector("#search-results li a")
        assert tab.locator("#search-results li > a").all_inner_texts() == ["First"]


@pytest.mark.slow
def test_with_an_address_pages_say_what_they_are_and_a_wrong_one_is_met(html: Path) -> None:
    told = {
        tag["property"]: tag["content"] for tag in soup(html / "notebooks" / "01_first.html").select("meta[property]")
    }
    assert told["og:url"] == f"{HERE.address}/notebooks/01_first.html"
    assert told["og:title"] == "First"
    picture = html / told["og:image"].removeprefix(f"{HERE.address}/")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert told["og:image:alt"].startswith("Bars: one picture through ResNet-18")
    lost = soup(html / "404.html")
    assert "No such page" in lost.get_text()
    own = [link["href"] for link in lost.select('link[rel="stylesheet"]') if not link["href"].startswith("http")]
    assert own
    assert all(href.startswith("/course/") for href in own), "it is shown at any depth"


@pytest.mark.slow
def test_with_a_repository_buttons_lead_to_it(html: Path) -> None:
    page = soup(html / "notebooks" / "01_first.html")
    found = {link["href"] for link in page.select("a[href]") if HERE.repository in link["href"]}
    assert HERE.repository in found
    assert any(href.startswith(f"{HERE.repository}/issues/new") for href in found)
    theirs = {href for href in found if "/blob/" in href or "/edit/" in href}
    assert theirs == {f"{HERE.repository}/blob/main/notebooks/01_first.py"}, "the notebook itself is not in there"


def test_the_readme_alone_can_be_written_anew(
    tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course(tmp_path, tmp_path / "_build")
    RecordStore(course.published / "records").write(make_record(2.0))
    edition.update_readme(course)  # where there is no README, nothing happens
    (tmp_path / "README.md").write_text("<!-- results -->\n<!-- /results -->\n")
    monkeypatch.setattr(edition, "update_readme", partial(edition.update_readme, course))
    assert cli.main(["publish", "--readme"]) == 0
    assert re.search(r"\| the plain loop +\| PyTorch \(eager\) FP32", (tmp_path / "README.md").read_text())


def test_the_published_edition_shows_no_records_of_this_machine(small: Course, make_record: MakeRecord) -> None:
    RecordStore(small.records).write(make_record(7.0, backend="tvm"))
    assert "7.000" in Marks("local", small).fill("{{ explorer }}")
    assert "7.000" not in Marks("published", small).fill("{{ explorer }}")


def test_a_page_without_measurements_says_so(tmp_path: Path) -> None:
    nothing = Marks("local", Course(tmp_path, tmp_path / "_build"))
    assert "Nothing was measured yet" in nothing.fill("a\n\n{{ opening }}\n")
    assert "Nothing is published yet" in nothing.fill("{{ edition }}")


# The library's reference


def test_every_room_has_a_page_in_the_contents() -> None:
    contents = (paths.ROOT / "_toc.yml").read_text()
    rooms = {path.name for path in (paths.ROOT / "inference_lib").iterdir() if (path / "__init__.py").exists()}
    assert rooms - {"commands"} <= set(reference.ROOMS)
    assert all(f"- file: book/{reference.page_name(room)}\n" in contents for room in reference.ROOMS)


SOURCE = '''\
"""A module with ``code`` and 3 * 4 (https://example.org/a_b/c.html)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing(Base):
    """A thing of :class:`Other`."""

    size: int | None = None
    """In bytes,
    as told."""
    _hidden: int = 0

    @property
    def large(self) -> bool:
        """Whether it is."""

    def _own(self) -> None: ...


def find(name: str, size: int = 1, *others: int, folder: str = "a, b", **rest: dict[str, int]) -> "Thing":
    """Return it.

    Raises:
        CourseError: there is none, or
            there are two.
        OSError: the disk.

    """


def _private() -> None:
    """Not told."""
'''


def test_the_reference_is_the_docstrings(tmp_path: Path) -> None:
    (tmp_path / "lib" / "seam").mkdir(parents=True)
    (tmp_path / "lib" / "seam" / "things.py").write_text(SOURCE)
    page = reference.page_of("seam", tmp_path / "lib")
    for part in (
        "## `lib.seam.things`\n\nA module with `code` and 3 \\* 4 ([example.org](https://example.org/a_b/c.html)).",
        "### `Thing`\n\n```python\nclass Thing(Base)\n```\n\nA thing of `Other`.",
        "- `size: int | None`: In bytes, as told.",
        "Thing.large -> bool\n```\n\nWhether it is.",
        "find(\n    name: str,\n    size: int = 1,\n    *others: int,\n    folder: str = 'a, b',\n    **rest: dict",
        "Raises:\n\n- CourseError: there is none, or there are two.\n- OSError: the disk.",
    ):
        assert part in page
    assert "_own" not in page
    assert "_hidden" not in page
    assert "Not told" not in page
