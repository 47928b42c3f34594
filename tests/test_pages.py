"""The prose pages: links lead to headings, listings can be read, commands are ones; the glossary is in order."""

import re
import subprocess
from argparse import ArgumentParser
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from prose import BOOK, commands, headings, links, listings, target_of, text_of

from inference_lib import cli
from inference_lib.backends import get_backend
from inference_lib.course.contents import find_chapters
from inference_lib.seam import find_model
from inference_lib.seam.precision import find_precision
from inference_lib.support.errors import CourseError

PROSE = sorted(BOOK.glob("*.md"))


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.stem)
def test_every_link_leads_to_a_heading_that_is_there(page: Path) -> None:
    for link in links(page):
        if re.match(r"\w+:", link):
            continue
        source, anchor = target_of(page, link)
        assert source.exists(), f"{page.name}: nothing at {link}"
        assert not anchor or anchor in headings(source), f"{page.name}: no heading for {link}"


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.stem)
def test_every_listing_can_be_read_by_whom_it_is_for(page: Path) -> None:
    for listing in listings(page):
        if listing.kind == "python":
            compile(listing.code, page.name, "exec")
        if listing.kind == "bash":
            subprocess.run(["bash", "-n"], input=listing.code, text=True, check=True)


NAMES: dict[str, Callable[[str], object]] = {
    "backend": get_backend,
    "model": find_model,
    "models": find_model,
    "precision": find_precision,
    "chapters": lambda name: find_chapters([name]),
}
"""What a command's options name, and who knows it: each raises CourseError for a name that it does not know."""


def look_up_names(arguments: list[str]) -> None:
    """Parse a command; raise CourseError where it names a backend, model, precision or chapter that is none."""
    options = vars(cli.parser(arguments).parse_args(arguments))
    for key, find in NAMES.items():
        given = options.get(key) or []
        for name in [given] if isinstance(given, str) else given:
            find(name)


@pytest.mark.parametrize("page", [*PROSE, BOOK.parent / "README.md"], ids=lambda page: page.stem)
def test_every_command_of_the_course_is_one_and_names_what_there_is(page: Path) -> None:
    for arguments in commands(page):
        look_up_names(arguments)


@pytest.mark.parametrize("line", ["export resnet18 aot-inductor", "benchmark --backend pytorch tvn", "run 04 18"])
def test_a_command_that_names_what_is_not_there_is_found(line: str) -> None:
    with pytest.raises(CourseError, match=r"unknown (backend|chapter)"):
        look_up_names(line.split())


def test_the_readme_names_the_commands_that_print_for_a_program() -> None:
    text = (BOOK.parent / "README.md").read_text()
    said = re.search(r"standard output; ([^.]+) print them for a program with `--json`", text)
    assert said
    able = set()
    for name in cli.COMMANDS:
        parser = ArgumentParser()
        import_module(f"inference_lib.commands.{name}").arguments(parser)
        able |= {name} if "--json" in parser.format_help() else set()
    assert set(re.findall(r"`(\w+)`", said[1])) == able


ONE_SCREEN = 280
"""Words of a page that opens a part."""

TERMS = {"winograd", "dispatcher", "multiprocessor", "amx", "dlight", "bf16", "wave quantization", "goodput"}


def terms() -> list[str]:
    """Return the glossary's terms, in the page's order."""
    body = (BOOK / "glossary.md").read_text().split("```{glossary}\n")[1].split("\n```")[0]
    return [line for line in body.splitlines() if line and not line.startswith(" ")]


def test_the_glossary_is_in_order_and_has_each_term_once() -> None:
    keys = [re.sub(r"[^a-z0-9 ]", "", term.lower()) for term in terms()]
    assert keys == sorted(set(keys))
    assert {term.lower() for term in terms()} >= TERMS


def test_every_term_that_a_page_leads_to_is_in_the_glossary() -> None:
    known = {term.lower() for term in terms()}
    pages = [*BOOK.glob("*.md"), *(BOOK.parent / "notebooks").glob("*.py")]
    used = {(page.stem, term) for page in pages for term in re.findall(r"{term}`([^`]+)`", text_of(page))}
    asked = {(page, re.sub(r".*<(.+)>$", r"\1", re.sub(r"\s+", " ", term)).lower()) for page, term in used}
    assert {(page, term) for page, term in asked if term not in known} == set()


@pytest.mark.parametrize("page", sorted(BOOK.glob("part_*.md")), ids=lambda page: page.stem)
def test_a_part_opens_on_one_screen_and_names_its_chapters(page: Path) -> None:
    contents = (BOOK.parent / "_toc.yml").read_text()
    part = contents.split(f"- file: book/{page.stem}\n")[1].split("- caption")[0]
    named = {Path(target_of(page, link)[0]).stem for link in links(page)}
    assert {Path(name).name for name in re.findall(r"file: (notebooks/\S+)", part)} <= named
    assert len(page.read_text().split()) <= ONE_SCREEN
