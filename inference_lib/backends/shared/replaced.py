"""Another function in the place of a framework's, for as long as one of ours needs it."""

from unittest.mock import patch

replaced = patch.object
"""Gives a module or a class (the first argument) another value (the third) under a name, for the time of a block.

For what a framework offers no setting for. The whole process sees the replacement, its other threads, too."""
