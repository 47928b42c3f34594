"""Hashes that say whether something was made by the code that is here now."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path


def sha256_of(parts: Iterable[bytes]) -> str:
    """Return one SHA-256 for ``parts``; where one ends and the next begins counts, too."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


@cache
def library_hash() -> str:
    """Return the SHA-256 of the library's sources."""
    return sha256_of(source.read_bytes() for source in sorted(Path(__file__).parent.rglob("*.py")))
