"""Checksums in JSON files, which show whether the content has changed since it was written."""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

from wsicl_jax.errors import DataError, UnreachableError, reason
from wsicl_jax.storage.documents import RepeatedKeyError, parse_json, read_file
from wsicl_jax.storage.object_path import Place

CHECKSUM = "checksum"
"""Key of the checksum in JSON content."""

_CHECKSUM_IN_LINE = re.compile(rf'"{CHECKSUM}": (\d{{1,10}}), '.encode())

_LARGEST = 2**30
"""Largest file in bytes."""


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON content with a checksum of it."""
    return {**content, CHECKSUM: _checksum(content)}


def has_valid_digest(content: Any) -> bool:
    """Whether JSON content is a mapping with the valid checksum of `with_digest`."""
    if not isinstance(content, dict) or CHECKSUM not in content:
        return False
    return content[CHECKSUM] == _checksum({k: v for k, v in content.items() if k != CHECKSUM})


def to_line(content: Mapping[str, Any]) -> bytes:
    """JSON content of `with_digest` as a line that `is_valid_line` can check."""
    return json.dumps(content, sort_keys=True).encode()


def is_valid_line(line: bytes) -> bool:
    """Whether a line is as `to_line` made it; other JSON with a valid checksum is not.

    Its keys are in the order of the checksum, so that nothing needs to be parsed.
    """
    found = _CHECKSUM_IN_LINE.search(line)
    if not found:
        return False
    return zlib.crc32(line[: found.start()] + line[found.end() :]) == int(found[1])


def read_verified(path: Place, what: str, form: int) -> dict[str, Any]:
    """Content of a JSON file with a checksum and a `format`, without these two keys.

    `what` names the kind of file in messages; `form` is the expected format.

    Raises:
        DataError: it cannot be read, was changed, or has another format.
    """
    try:
        content = parse_json(read_file(path, _LARGEST), nan=True)
    except RepeatedKeyError:
        content = None
    except UnreachableError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a {what}: {reason(error)}") from None
    if not has_valid_digest(content):
        raise DataError(f"{path} is no {what}, or has been changed since it was written")
    if content.get("format") != form:
        raise DataError(f"{path} has format {content.get('format')}; expected {form}")
    return {k: v for k, v in content.items() if k not in ("format", CHECKSUM)}


def digest_of(content: Any) -> str:
    """Hash of JSON content; the order of keys does not matter."""
    encoded = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
