"""The sixty questions: each place is there, and holds the words that it is named for."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from myst_parser.mdit_to_docutils.base import default_slugify
from prose import BOOK, target_of, text_of

PAGE = BOOK / "questions.md"

QUESTION = re.compile(
    r"^(?P<number>\d+)\. (?P<asked>.+\?.*?) \[(?P<title>.+)\]\((?P<link>\S+)\): \*(?P<words>.+)\*$", re.MULTILINE
)


@dataclass(frozen=True)
class Question:
    """What is asked, the place that answers, and the words to look for."""

    number: int
    link: str
    words: str


def questions() -> list[Question]:
    return [Question(int(q["number"]), q["link"], q["words"]) for q in QUESTION.finditer(PAGE.read_text())]


def section(page: Path, anchor: str) -> str:
    """Return the text under the heading with this anchor, deeper headings included; nothing where it is missing."""
    parts = re.split(r"^(#{1,4}) (.+)$", text_of(page), flags=re.MULTILINE)
    found, depth = "", 0
    for hashes, title, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if depth and len(hashes) <= depth:
            break
        if not depth and default_slugify(title.replace("`", "").strip()) == anchor:
            depth = len(hashes)
        found += text if depth else ""
    return found


def plain(text: str) -> str:
    """Return ``text`` in one line, without emphasis and roles, for a search."""
    return re.sub(r"\s+", " ", re.sub(r"\{[\w:]+\}|[*`]", "", text)).lower()


def test_there_are_fifteen_of_each_kind() -> None:
    kinds = re.split(r"^## .+$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert [len(QUESTION.findall(kind)) for kind in kinds] == [15, 15, 15, 15]
    assert [question.number for question in questions()] == list(range(1, 61))


@pytest.mark.parametrize("question", questions(), ids=lambda question: str(question.number))
def test_the_place_that_answers_holds_the_words(question: Question) -> None:
    page, anchor = target_of(PAGE, question.link)
    assert page.exists(), question.link
    answer = section(page, anchor)
    assert answer, f"no heading for {question.link}"
    assert plain(question.words) in plain(answer), f"{question.link} does not say {question.words!r}"


def test_a_section_ends_where_the_next_one_begins(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\none\n\n## B\n\ntwo\n\n### C\n\nthree\n\n## D\n\nfour\n")
    assert plain(section(page, "b")).strip() == "two three"
    assert section(page, "e") == ""
