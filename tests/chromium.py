"""A real browser for tests of pages: the system's Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def a_browser() -> Iterator[Any]:
    """Yield a browser; skip the test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra test)")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here; on Debian, install the package chromium")
    with api.sync_playwright() as driver:
        options = ["--no-sandbox"] if os.getuid() == 0 else []
        started = driver.chromium.launch(executable_path=program, args=options)
        yield started
        started.close()


@contextmanager
def a_tab() -> Iterator[Any]:
    """Yield a new tab; skip the test where there is no browser."""
    with a_browser() as started:
        yield started.new_context().new_page()
