"""Every chapter and its solutions, executed once a test session with the least profile, on the CPU."""

import contextlib
import io
from functools import cache
from pathlib import Path

import pytest
from solutions import executing_solutions

from inference_lib.course import run as course
from inference_lib.course.run import Course

NAMES = [chapter.name for chapter in course.chapters()]
SOLUTIONS = "solutions"
"""The folder, beside the executed chapters', of what their solutions gave."""


def executed_course(factory: pytest.TempPathFactory) -> tuple[Course, str]:
    """Return the course whose chapters are executed in a temporary folder, and the lines that were printed."""
    return _execute(factory.getbasetemp() / "course")


@cache
def _execute(build: Path) -> tuple[Course, str]:
    made = Course(build=build)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), executing_solutions(build / SOLUTIONS):
        course.run_chapters(profile="smoke", device="cpu", grid=True, course=made)
    return made, printed.getvalue()
