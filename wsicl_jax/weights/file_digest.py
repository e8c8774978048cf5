"""The digest in a file of weights, which shows whether the file is unchanged."""

import hashlib
from collections.abc import Iterable

DIGEST = "wsicl_jax_digest"
"""Key of the digest in a file's metadata."""

BLANK = "0" * 64
"""Takes the place of the digest while it is computed."""


def digest_of(parts: Iterable[bytes | memoryview]) -> str:
    """Hash of these parts in this order, each with its length; as long as `BLANK`."""
    digest = hashlib.blake2b(digest_size=len(BLANK) // 2)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def check_digest(digest: str | None, parts: Iterable[bytes | memoryview]) -> bool:
    """Whether the file has a digest; if it has one, it fits these parts.

    Raises:
        ValueError: it does not fit.
    """
    if digest is None:
        return False
    if digest != digest_of(parts):
        raise ValueError("it is damaged: its content does not fit its digest")
    return True
