"""JSON with a checksum over everything in it: whether what is read is what was written."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

CHECKSUM = "checksum"
"""The key under which sealed JSON keeps its checksum."""


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON content with a checksum over everything in it."""
    return {**content, CHECKSUM: _checksum(content)}


def is_sealed(content: Any) -> bool:
    """Whether JSON content is a mapping with the checksum that `seal` gave it."""
    if not isinstance(content, dict) or CHECKSUM not in content:
        return False
    return content[CHECKSUM] == _checksum({k: v for k, v in content.items() if k != CHECKSUM})


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
