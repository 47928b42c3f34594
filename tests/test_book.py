"""The book: both editions render without a warning, and what is kept in git tells nothing about a machine."""

import itertools
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from drawn import smallest_text
from executed_course import executed_course
from rendered import rendered

from inference_lib.course.notebook import code_cells
from inference_lib.report import plots
from inference_lib.support import paths
from inference_lib.support.places import places_in


@pytest.fixture(scope="session", params=["local", "published"])
def pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, BeautifulSoup]:
    """Return the body of every page of an edition, rendered with warnings as errors."""
    html = rendered(request.param, tmp_path_factory)
    return {
        str(path.relative_to(html)): BeautifulSoup(path.read_text(), "html.parser").article
        for folder in ("book", "notebooks")
        for path in sorted((html / folder).glob("*.html"))
    }


@pytest.mark.slow
def test_every_page_is_there(pages: dict[str, BeautifulSoup], request: pytest.FixtureRequest) -> None:
    contents = (paths.ROOT / "_toc.yml").read_text()
    expected = {f"{name}.html" for name in re.findall(r"(?:root|file): (\S+)", contents)}
    if request.node.callspec.params["pages"] == "published":
        published = {f"notebooks/{path.stem}.html" for path in paths.PUBLISHED.glob("*.ipynb")}
        expected = {name for name in expected if name.startswith("book/") or name in published}
    assert set(pages) == expected


@pytest.mark.slow
def test_every_figure_says_what_it_shows(pages: dict[str, BeautifulSoup]) -> None:
    for name, page in pages.items():
        for drawing in page.select("figure svg"):
            assert drawing.get("aria-label"), name
            assert drawing.get("role") == "img", name
        for image in page.find_all("img"):
            assert image.get("alt"), (name, image)
            assert not re.search(r"\.(png|svg|jpe?g)$", image["alt"]), (name, image["alt"])


@pytest.mark.slow
def test_the_text_of_every_figure_can_be_read_on_a_phone(pages: dict[str, BeautifulSoup]) -> None:
    drawn = {name: page.select("figure.measured svg") for name, page in pages.items()}
    small = {name: [d["aria-label"] for d in found if smallest_text(str(d)) < 8] for name, found in drawn.items()}
    assert not {name: found for name, found in small.items() if found}


@pytest.mark.slow
def test_every_measured_figure_and_table_has_a_caption(pages: dict[str, BeautifulSoup]) -> None:
    for name, page in pages.items():
        for shown in page.select("figure.measured, table.measured"):
            caption = shown.find(["figcaption", "caption"])
            assert caption, name
            assert caption.get_text(strip=True), name


@pytest.mark.slow
def test_no_page_shows_what_should_have_been_replaced(pages: dict[str, BeautifulSoup]) -> None:
    for name, page in pages.items():
        text = "".join(each for each in page.strings if each.find_parent("code") is None)  # a page may quote its source
        marks = ("{{ machines", "{{ run_times", "{{ executed")
        for trace in ("{glue", "{cite", *marks, "KeyError", "Traceback (most recent call last)"):
            assert trace not in text, (name, trace)


def requirement(line: str) -> tuple[str, str]:
    """Return the normalized name and the pinned version (or nothing) of a requirement."""
    name = re.match(r"[\w.-]+", line)
    assert name, line
    pin = re.search(r"==([\w.]+)", line)
    return re.sub(r"[-_.]+", "-", name[0]).lower(), pin[1] if pin else ""


def constraints() -> dict[str, str]:
    lines = (paths.ROOT / "constraints.txt").read_text().splitlines()
    return dict(requirement(line) for line in lines if line and not line.startswith("#"))


def test_constraints_pin_whatever_the_project_asks_for() -> None:
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    for line in itertools.chain(project["dependencies"], *project["optional-dependencies"].values()):
        name, version = requirement(line)
        assert name in constraints()
        assert version in ("", constraints()[name]), name


def test_the_conda_environment_has_every_extra_in_the_same_versions_and_a_compiler() -> None:
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    *packages, of_pip = yaml.safe_load((paths.ROOT / "environment.yml").read_text())["dependencies"]
    assert {"python=3.12", "pip", "gxx"} <= set(packages)
    pinned, *named, ours = of_pip["pip"]
    assert pinned == "-c constraints.txt"
    assert set(named) <= set(constraints())
    extras = re.fullmatch(r"-e \.\[(.+)\]", ours)
    assert extras
    assert sorted(extras[1].split(",")) == sorted(project["optional-dependencies"])


def kept_files() -> list[Path]:
    """Return the files that git keeps, or will once they are added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("not a git checkout")
    files = [paths.ROOT / name for name in result.stdout.split("\0") if name]
    return [path for path in files if path.is_file() and path.suffix not in (".png", ".safetensors", ".gz")]


@pytest.mark.parametrize(
    "forbidden",
    [
        pytest.param(r"[a-z.]*(debian|pypi|npm)[a-z]*\.(org|com|io)", id="package registries"),
        pytest.param(r"(?<![\w.:/~-])/(root|work|home/\w+|Users/\w+)/", id="home folders"),
        pytest.param(r"(?<![\w.:/~-])/tmp/\w", id="temporary folders"),
        pytest.param(r"(?i)\bissues? #?\d+\b|\bworktrees?\b|\bsub-?agents?\b", id="how the work was done"),
    ],
)
def test_no_kept_file_names_a_machine_s_own_places(forbidden: str) -> None:
    found = [
        f"{path.relative_to(paths.ROOT)}: {match.group()}"
        for path in kept_files()
        for match in re.finditer(forbidden, path.read_text(errors="replace"))
    ]
    assert found == []


def strings_in(value: object) -> Iterator[str]:
    """Yield every text in an output, pictures left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for kind, part in value.items():
            if not kind.startswith("image/") or "svg" in kind:
                yield from strings_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings_in(part)


def places_in_outputs(folder: Path) -> list[str]:
    """Return what the outputs of the executed chapters in ``folder`` name that means nothing elsewhere."""
    return [
        f"{path.name}: {place}"
        for path in sorted(folder.glob("*.ipynb"))
        for cell in code_cells(nbformat.read(path, as_version=4))
        for text in strings_in(cell.outputs)
        for place in places_in(text)
    ]


def test_published_outputs_and_records_name_no_place() -> None:
    records = (paths.PUBLISHED / "records").glob("*.json")
    found = [f"{path.name}: {place}" for path in records for place in places_in(path.read_text())]
    assert found + places_in_outputs(paths.PUBLISHED) == []


@pytest.mark.slow
def test_outputs_and_records_made_here_name_no_place(tmp_path_factory: pytest.TempPathFactory) -> None:
    """They would be published as they are."""
    made = executed_course(tmp_path_factory)
    found = [f"{path.name}: {place}" for path in made.records.glob("*.json") for place in places_in(path.read_text())]
    assert found + places_in_outputs(made.executed) == []


def test_a_place_is_found_in_an_output_and_what_everybody_has_is_not() -> None:
    home, host = "/" + "somebody/at/home.py", "packages.example.internal"
    assert places_in(f"File {home}, line 1") == [home]
    assert places_in(f"Looking in indexes: https://{host}/simple") == [host]
    assert places_in("see https://github.com/a/b and /proc/self/schedstat, 3/4, </td>, cell.py, data/x.gz") == []
    assert places_in('<img src="data:image/png;base64,AA/BB/CC">') == []


def test_a_figure_shrinks_as_a_whole_on_a_narrow_screen() -> None:
    """With a viewBox, and a height that follows the width, nothing is cut off and nothing has to be scrolled."""
    figure, _ = plots.new_figure()
    assert re.search(r'<svg [^>]*viewBox="0 0 [\d.]+ [\d.]+"', plots.show_figure(figure, "alt", "caption").data)
    style = (paths.ROOT / "book" / "_static" / "course.css").read_text()
    rules = re.findall(r"figure\.measured > svg \{(.*?)\}", style, re.DOTALL)
    assert [("max-width: 100%" in rule, "height: auto" in rule) for rule in rules] == [(True, True)]
    assert not re.findall(r"figure\.measured[^{]*\{[^}]*(?:min-width|overflow-x)", style)
