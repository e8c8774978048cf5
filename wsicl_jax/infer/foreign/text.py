"""Text files that people's tools write."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from wsicl_jax.errors import DataError
from wsicl_jax.infer.positions import numbers

_LARGEST_BYTES = 2**26
"""Prompts of a million clicks take less; what is larger is no file of prompts."""


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        DataError: it cannot be read, is empty, larger than any list of prompts, or no UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_BYTES:
            raise DataError(
                f"{size / 1e6:.0f} MB; a file of prompts has {_LARGEST_BYTES / 1e6:.0f} at most"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError("no text in UTF-8; it may be damaged or of another kind") from error
    if not text.strip():
        raise DataError("empty; save it again")
    return text


def position_of(cells: Sequence[str]) -> Float[np.ndarray, "3"]:
    """Three cells of a table as numbers.

    Raises:
        PromptError: they are none, or not finite.
    """
    given: Sequence = cells
    with contextlib.suppress(ValueError):
        given = [float(cell) for cell in cells]
    return numbers(given, (3,), "a position is three numbers")
