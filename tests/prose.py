"""The prose pages, read as a reader's browser does: their headings, links and listings."""

import re
import shlex
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from myst_parser.mdit_to_docutils.base import default_slugify

from inference_lib.course.notebook import source_notebook
from inference_lib.support import paths

BOOK = paths.ROOT / "book"

FENCE = re.compile(r"^(?P<fence>`{3,})(?P<kind>\S*)[^\n]*\n.*?^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
LISTING = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w+)\n(?P<code>.*?)^(?P=indent)```$(?:\n\n```text\n(?P<prints>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+(?:\([^()]*\)[^()\s]*)?)\)")
COMMAND = re.compile(r"^(?:\w+=\S+ )*(?:\.venv/bin/)?python -m inference_lib (?P<arguments>[^#|>&\n]*)", re.MULTILINE)


@dataclass(frozen=True)
class Listing:
    """A fenced block of code, and the text block that follows it at once: what it prints."""

    kind: str
    code: str
    prints: str | None


@cache
def text_of(page: Path) -> str:
    """Return the markdown of a page, or of a chapter's source."""
    if page.suffix != ".py":
        return page.read_text()
    return "\n\n".join(cell.source for cell in source_notebook(page).cells if cell.cell_type == "markdown")


def without_code(text: str) -> str:
    """Return a page's text without its listings of code, in which `#` begins a comment and no heading."""
    return FENCE.sub(lambda found: found[0] if found["kind"].startswith("{") else "", text)


def headings(page: Path) -> list[str]:
    """Return the anchors of a page's headings, as MyST makes them."""
    found = re.findall(r"^#{1,4} (.+)$", without_code(text_of(page)), re.MULTILINE)
    return [default_slugify(title.replace("`", "").strip()) for title in found]


def links(page: Path) -> list[str]:
    """Return the targets of a page's links, those in listings left out."""
    return [found["target"] for found in LINK.finditer(without_code(text_of(page)))]


def target_of(page: Path, link: str) -> tuple[Path, str]:
    """Return the source of the page that a relative ``link`` of ``page`` leads to, and the anchor in it, if any."""
    name, _, anchor = link.partition("#")
    path = (page.parent / name).resolve() if name else page
    sources = [path, path.with_suffix(".py"), path.with_name(path.name + ".py"), path.with_name(path.name + ".md")]
    return next((source for source in sources if source.is_file()), path), anchor


def listings(page: Path, part: str = "") -> list[Listing]:
    """Return a page's listings with what they print; those of one ``part``, by its heading, where one is named."""
    text = page.read_text()
    if part:
        text = text.split(f"\n## {part}\n")[1].split("\n## ")[0]
    found = []
    for block in LISTING.finditer(text):
        if block["kind"] != "text":
            found.append(Listing(block["kind"], textwrap.dedent(block["code"]), block["prints"]))
    return found


def messages(page: Path) -> list[str]:
    """Return the lines of the error messages that a page shows where it says what one sees; `[...]` is left out."""
    seen = re.findall(r"^\*\*You see\*\*(.*?)^\*\*Likely\*\*", page.read_text(), re.MULTILINE | re.DOTALL)
    shown = [text for part in seen for text in re.findall(r"^```text\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)]
    return [line.replace("[...]", " ").strip() for text in shown for line in text.splitlines() if line.strip()]


def commands(page: Path, part: str = "") -> list[list[str]]:
    """Return the arguments of each command of the course that a page, or a part of it, tells its reader to type."""
    typed = "\n".join(listing.code for listing in listings(page, part) if listing.kind == "bash")
    return [shlex.split(found["arguments"]) for found in COMMAND.finditer(typed)]
