"""JSON with a checksum over everything in it: whether what is read is what was written."""

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsicl_jax.errors import DataError, reason
from wsicl_jax.storage.documents import RepeatedKeyError, parse_json, read_file

CHECKSUM = "checksum"
"""The key under which sealed JSON keeps its checksum."""

_LARGEST = 2**30
"""Bytes of a file."""


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON content with a checksum over everything in it."""
    return {**content, CHECKSUM: _checksum(content)}


def has_valid_digest(content: Any) -> bool:
    """Whether JSON content is a mapping with the checksum that `with_digest` gave it."""
    if not isinstance(content, dict) or CHECKSUM not in content:
        return False
    return content[CHECKSUM] == _checksum({k: v for k, v in content.items() if k != CHECKSUM})


def read_verified(path: Path, what: str, form: int) -> dict[str, Any]:
    """The content of a file of sealed JSON that names its format, without checksum and format.

    Raises:
        DataError: it cannot be read as `what`, was changed, or has another format than `form`.
    """
    try:
        content = parse_json(read_file(path, _LARGEST), nan=True)
    except RepeatedKeyError:
        content = None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a {what}: {reason(error)}") from None
    if not has_valid_digest(content):
        raise DataError(f"{path} is no {what}, or has been changed since it was written")
    if content.get("format") != form:
        raise DataError(f"{path} has format {content.get('format')}; expected {form}")
    return {k: v for k, v in content.items() if k not in ("format", CHECKSUM)}


def digest_of(content: Any) -> str:
    """Hash of JSON content, whatever the order of its keys."""
    encoded = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
