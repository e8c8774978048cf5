"""Files that appear under their name only when they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one piece: whoever reads `path` sees the old content or all of the new.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    with appearing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A name beside `path`; the file that lies there at the end becomes `path`.

    On any error it is removed, and `path` stays what it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
