"""The bones of a chapter: a question, a bound, a guess, the answer folded, exercises; read in the sources."""

import re

import pytest
from executed_course import NAMES
from prose import text_of

from inference_lib.support import paths

DROPDOWN = re.compile(r"^:::\{dropdown\} (?P<title>[^\n]+)\n(?P<inside>.*?)^:::$", re.MULTILINE | re.DOTALL)

GUESS = re.compile(r"\bguess\b|\bpredict\b", re.IGNORECASE)

UNBOUNDED = {"02_measuring_inference"}
"""Asks by which factor a mistake changes a number: no ceiling of a machine bounds that."""

chapters = pytest.mark.parametrize("name", NAMES)


def prose(name: str) -> str:
    return text_of(paths.NOTEBOOKS / f"{name}.py")


@chapters
def test_a_chapter_opens_with_a_question(name: str) -> None:
    title, first = prose(name).split("\n\n")[:2]
    assert title.startswith("# ")
    assert "?" in first


@chapters
def test_a_reader_guesses_before_the_answer_which_is_folded_and_measured(name: str) -> None:
    text = prose(name)
    answers = [found for found in DROPDOWN.finditer(text) if "{glue:" in found["inside"]]
    assert answers
    for answer in answers:
        section = text[text.rfind("\n## ", 0, answer.start()) : answer.start()]
        assert GUESS.search(section), f"nobody is asked to guess before {answer['inside']}"
    assert name in UNBOUNDED or re.search(r"\bbounds?\b", text[: answers[-1].start()], re.IGNORECASE)


@chapters
def test_a_chapter_ends_with_exercises_key_points_and_reading(name: str) -> None:
    titles = re.findall(r"^## (.+)$", prose(name), re.MULTILINE)
    assert titles[-3:] == ["Exercises", "Key points", "Further reading"]


STUMBLED = (
    "the larger a part of it is the same delay", "in use may be for one node", "is not there, or was not and is",
    "pays for most of it no second time", "about manners", "most inference that nobody writes about",
    "need not make the whole quicker; where they do",
)  # fmt: skip
"""Sentences that readers stumbled over: they do not come back."""


def test_no_page_holds_a_sentence_that_readers_stumbled_over() -> None:
    pages = [*paths.NOTEBOOKS.glob("*.py"), *(paths.ROOT / "book").glob("*.md")]
    said = {page.name: re.sub(r"\s+", " ", text_of(page)) for page in pages}
    assert len(said) > 25
    assert [(name, words) for name, text in said.items() for words in STUMBLED if words in text] == []
