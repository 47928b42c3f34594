"""Both editions of the book, each rendered once a test session, with warnings as errors."""

from functools import partial
from pathlib import Path

import pytest
from executed_course import executed_course
from shared import once, session_folder

from inference_lib.course import book
from inference_lib.course.contents import Course
from inference_lib.support import paths


def rendered(edition: str, factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a rendered edition; skip the test where nothing is published yet."""
    if edition == "local":
        made = executed_course(factory)
    elif any(paths.PUBLISHED.glob("*.ipynb")):
        made = Course(build=session_folder(factory) / "published")
        made.build.mkdir(exist_ok=True)
    else:
        pytest.skip("nothing is published yet")
    return Path(once(made.build, f"rendered-{edition}", partial(_render, edition, made)))


def _render(edition: str, made: Course) -> str:
    return str(book.render(edition, course=made).folder)
