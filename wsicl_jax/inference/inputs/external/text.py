"""Text files of other tools."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from wsicl_jax.errors import DataError, reason
from wsicl_jax.inference.inputs.positions import numbers
from wsicl_jax.storage.documents import DocumentError, as_text, read_file

_LARGEST_BYTES = 2**26
"""Size limit; the largest number of prompts takes less in every format."""


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        DataError: it cannot be read, is empty, larger than any list of prompts, or not UTF-8.
    """
    try:
        text = as_text(read_file(path, _LARGEST_BYTES, "prompts"))
    except OSError as error:
        raise DataError(f"cannot be read: {reason(error)}") from error
    except DocumentError as error:
        raise DataError(f"{error}; the file may be damaged, or of another kind") from error
    if not text.strip():
        raise DataError("empty; save it again")
    return text


def position_of(cells: Sequence[str]) -> Float[np.ndarray, "3"]:
    """Three cells of a table as numbers.

    Raises:
        PromptError: they are not numbers, or not finite.
    """
    values: Sequence = cells
    with contextlib.suppress(ValueError):
        values = [float(cell) for cell in cells]
    return numbers(values, (3,), "a position is three numbers")
