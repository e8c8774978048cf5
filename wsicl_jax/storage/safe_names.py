"""Names that people give, of structures, data sets and cases: text wherever they are shown."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LONGEST = 100
"""Bytes of a name as a part of a file's name, which has room for 255 in all."""

_LONGEST_SHOWN = 60
"""Characters of a name in a figure."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets run a cell that begins so."""


def cut(text: str, longest: int = LONGEST) -> str:
    """The beginning of a text, in at most so many bytes of UTF-8."""
    return text.encode()[:longest].decode(errors="ignore")


def file_name(text: str) -> str:
    """A name as a part of a path: other names give other parts, whatever is in them.

    Letters that paths know are kept, others become `_` and a hash; so does what is too long.
    """
    safe = "".join(c if c.isalnum() or c in "-_.=" else "_" for c in text)
    if safe and safe == text and not safe.startswith(".") and len(safe.encode()) <= LONGEST:
        return safe
    ending = f"-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"
    return cut(safe.lstrip("."), LONGEST - len(ending)) + ending


def csv_cell(value: Any) -> Any:
    """What a cell of a table is written as, so that no spreadsheet takes text for a formula.

    Floats have all their digits, None is nothing, and text that begins as formulas do begins with
    an apostrophe.
    """
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return "" if value is None else value


def in_figure(name: str) -> str:
    """A name as a figure shows it: on one line, of bearable length.

    Matplotlib leaves a line out of the legend whose name begins with an underscore.
    """
    plain = re.sub(r"[^\x20-\U0010ffff]+", " ", name)
    shown = plain if len(plain) <= _LONGEST_SHOWN else f"{plain[: _LONGEST_SHOWN - 3]}..."
    return f" {shown}" if shown.startswith("_") else shown


@contextmanager
def literal_text() -> Iterator[None]:
    """In figures that are made within, `$` is a dollar and begins no formula."""
    import matplotlib as mpl  # slow to import, and names elsewhere need none of it

    with mpl.rc_context({"text.parse_math": False}):
        yield


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
