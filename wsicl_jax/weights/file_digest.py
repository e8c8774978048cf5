"""The digest that a file of weights carries: whether what is read is what was written."""

import hashlib
from collections.abc import Iterable

DIGEST = "wsicl_jax_digest"
"""Its name among the metadata."""

BLANK = "0" * 64
"""Stands in its place while it is computed."""


def digest_of(parts: Iterable[bytes | memoryview]) -> str:
    """Hash of these parts in their order, each with its length; as long as `BLANK`."""
    digest = hashlib.blake2b(digest_size=len(BLANK) // 2)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def check_digest(told: str | None, parts: Iterable[bytes | memoryview]) -> bool:
    """Whether there is a digest; the one that is there is right.

    Raises:
        ValueError: it is of other parts.
    """
    if told is None:
        return False
    if told != digest_of(parts):
        raise ValueError("it is damaged: its digest does not fit, a part of it has changed")
    return True
