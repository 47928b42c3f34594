"""Silence around frameworks that say more than a reader needs."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO


@contextmanager
def silenced(*loggers: str, stdout: bool = True, stderr: bool = True) -> Iterator[None]:
    """Keep hints and progress out of the reader's way: warnings, both streams, what ``loggers`` say below an error.

    Errors still raise. Where a framework logs by Python's root logger ("" here), standard error must stay: the first
    message gives that logger the stream of the moment for good.
    """
    levels = {name: logging.getLogger(name).level for name in loggers}
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        if stdout:
            stack.enter_context(redirect_stdout(StringIO()))
        if stderr:
            stack.enter_context(redirect_stderr(StringIO()))
        for name, level in levels.items():
            logging.getLogger(name).setLevel(logging.ERROR)
            stack.callback(logging.getLogger(name).setLevel, level)
        yield
