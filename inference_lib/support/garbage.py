"""How often Python looks for garbage: by itself, too often for a process that imports or compiles."""

import gc

OBJECTS = 200_000
"""Made since the last look before the next one. An import of PyTorch makes 240,000 that stay, and looking through them
again and again took a sixth of a command's start."""


def look_seldom() -> None:
    """Look for garbage in this process, and in what is forked from it, after ``OBJECTS`` new objects."""
    gc.set_threshold(OBJECTS)
