"""Every chapter and its solutions, executed once a test session with the least profile, on the CPU or on a GPU."""

import contextlib
import io
import os
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import forked
import pytest
from shared import once, session_folder
from solutions import executing_solutions

from inference_lib.course import run as course
from inference_lib.course.contents import Course, chapters
from inference_lib.lab import TRUST
from inference_lib.measure.profiles import get_profile

NAMES = [chapter.name for chapter in chapters()]
LEAST = replace(get_profile("smoke"), test_images=8, few_test_images=8)
"""What the grid is measured with: the profile of the chapters, on fewer pictures."""

SOLUTIONS = "solutions"
"""The folder, beside the executed chapters', of what their solutions gave."""


def executed_chapter(name: str, factory: pytest.TempPathFactory, device: str = "cpu") -> tuple[Course, str]:
    """Return the course in which a chapter was executed, and the line that was printed.

    The grid is measured before the first. With this profile no number means anything, so no chapter measures again
    what other tests disturbed, and exports for a GPU, which take longest, are made side by side.
    """
    made = Course(build=session_folder(factory) / f"course-{device}")
    made.build.mkdir(exist_ok=True)
    once(made.build, "grid", partial(_measure, made, device))
    return made, once(made.build, name, partial(_execute, name, made, device))


def executed_course(factory: pytest.TempPathFactory) -> Course:
    """Return the course once all of its chapters are executed."""
    for name in NAMES:
        made, _ = executed_chapter(name, factory)
    return made


def _measure(made: Course, device: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        course.measure_grid(LEAST, device, made, time_exports=device == "cpu")
    return printed.getvalue()


def _execute(name: str, made: Course, device: str) -> str:
    printed, trusting = io.StringIO(), patch.dict(os.environ, {TRUST: "yes"})
    forking = patch.object(course, "ThisInterpreter", forked.ForkedKernels)
    with contextlib.redirect_stdout(printed), executing_solutions(made.build / SOLUTIONS), trusting, forking:
        course.run_chapters([name], profile=LEAST.name, device=device, course=made)
    return printed.getvalue()
