"""Another function in the place of a framework's, for as long as one of ours needs it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Give ``owner`` (a module or a class) ``value`` under ``name``, and what it had before when the block ends.

    For what a framework offers no setting for. The whole process sees the replacement, its other threads, too.
    """
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
