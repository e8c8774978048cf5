"""Names that users choose (structures, data sets, cases) in file names, tables and figures."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LONGEST = 100
"""Most bytes of a name within a file's name, which may have 255."""

_LONGEST_IN_FIGURE = 60
"""Most characters of a name in a figure."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets take a cell that begins with one of these for a formula."""


def cut(text: str, longest: int = LONGEST) -> str:
    """The beginning of a text, in at most `longest` bytes of UTF-8."""
    return text.encode()[:longest].decode(errors="ignore")


def file_name(text: str) -> str:
    """A name as a valid part of a path; different names give different parts.

    If the name has other characters than letters, digits and `-_.=`, or is too long, they become
    `_` and a hash is appended.
    """
    safe = "".join(c if c.isalnum() or c in "-_.=" else "_" for c in text)
    if safe and safe == text and not safe.startswith(".") and len(safe.encode()) <= LONGEST:
        return safe
    ending = f"-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"
    return cut(safe.lstrip("."), LONGEST - len(ending)) + ending


def csv_cell(value: Any) -> Any:
    """The value of a table's cell for a CSV file.

    Floats keep all digits, None becomes empty, and text that spreadsheets would take for a formula
    gets an apostrophe in front.
    """
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return "" if value is None else value


def in_figure(name: str) -> str:
    """A name for a figure: on one line, and not too long.

    Matplotlib's legend ignores names that begin with an underscore, so a space is put in front.
    """
    plain = re.sub(r"[^\x20-\U0010ffff]+", " ", name)
    if len(plain) > _LONGEST_IN_FIGURE:
        plain = f"{plain[: _LONGEST_IN_FIGURE - 3]}..."
    return f" {plain}" if plain.startswith("_") else plain


@contextmanager
def literal_text() -> Iterator[None]:
    """Within the block, `$` in figures is plain text and starts no formula."""
    import matplotlib as mpl  # slow to import

    with mpl.rc_context({"text.parse_math": False}):
        yield


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
