"""Every chapter and its solutions, executed once a test session with the least profile, on the CPU."""

import contextlib
import io
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from solutions import executing_solutions

from inference_lib.course import run as course
from inference_lib.course.run import Course
from inference_lib.measure.profiles import get_profile

NAMES = [chapter.name for chapter in course.chapters()]
SOLUTIONS = "solutions"
"""The folder, beside the executed chapters', of what their solutions gave."""


def executed_course(factory: pytest.TempPathFactory) -> tuple[Course, str]:
    """Return the course whose chapters are executed in a temporary folder, and the lines that were printed."""
    return _execute(factory.getbasetemp() / "course")


@cache
def _execute(build: Path) -> tuple[Course, str]:
    """Measure the grid once, then execute the chapters side by side: with this profile no number means anything.

    Each has a core of its own: threads of two frameworks that share one wait for each other, spinning, for minutes.
    """
    made = Course(build=build)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        course.measure_grid(get_profile("smoke"), "cpu", made)
    context, cores = multiprocessing.get_context("spawn"), sorted(os.sched_getaffinity(0))[:2]
    free = context.Queue()
    for core in cores:
        free.put(core)
    with ProcessPoolExecutor(len(cores), context, initializer=_keep_to_one, initargs=(free,)) as pool:
        lines = list(pool.map(partial(_execute_one, build), NAMES))
    return made, printed.getvalue() + "".join(lines)


def _keep_to_one(free: Any) -> None:
    os.sched_setaffinity(0, {free.get()})


def _execute_one(build: Path, name: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), executing_solutions(build / SOLUTIONS):
        course.run_chapters([name], profile="smoke", device="cpu", course=Course(build=build))
    return printed.getvalue()
