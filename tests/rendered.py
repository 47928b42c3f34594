"""Both editions of the book, each rendered once a test session, with warnings as errors."""

from functools import cache
from pathlib import Path

import pytest
from executed_course import executed_course

from inference_lib.course import book
from inference_lib.course.run import Course
from inference_lib.support import paths


def rendered(edition: str, factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a rendered edition; skip the test where nothing is published yet."""
    if edition == "local":
        return _render(edition, executed_course(factory)[0].build)
    if not any(paths.PUBLISHED.glob("*.ipynb")):
        pytest.skip("nothing is published yet")
    return _render(edition, factory.getbasetemp() / "published")


@cache
def _render(edition: str, build: Path) -> Path:
    return book.render(edition, strict=True, course=Course(build=build)).first_page.parent
