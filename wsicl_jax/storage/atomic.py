"""Files that appear under their name only when they are whole."""

import errno
import functools
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_PARTIAL = re.compile(r"(?:\..*\.)?(\d+)@(.*)\.partial")
_FORGOTTEN_SECONDS = 24 * 3600
"""What another machine has not touched for so long is not being written any more."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = tuple(map(os.strerror, _FULL))
"""What libraries say of it in errors of their own kinds."""


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

    On any error it is removed, and `path` stays what it was. What a killed process has left of
    the same is removed, too.
    """
    temporary = partial(path.parent, f".{path.name}.")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # not that of the file beside it, or none
        error.filename2 = None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def partial(directory: Path, prefix: str) -> Path:
    """A name in a directory for what this process makes there, and nobody else.

    What processes that live no more have left there under such names is removed.
    """
    _remove_left(directory)
    return directory / f"{prefix}{os.getpid()}@{socket.gethostname()}.partial"


@functools.cache  # once: a directory may have many files
def _remove_left(directory: Path) -> None:
    for left in directory.glob("*.partial"):
        found = _PARTIAL.fullmatch(left.name)
        if not found or _in_use(left, *found.groups()):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def directory_made(directory: Path) -> Iterator[None]:
    """Make a directory and those above it; at the end, remove again those that are empty.

    Raises:
        OSError: it cannot be made.
    """
    missing = []
    for place in (directory, *directory.parents):
        if place.exists():
            break
        missing.append(place)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # something is in it, and it stays with all above
            for place in missing:
                place.rmdir()


def why_not_writable(path: Path, *, made: bool = False) -> str | None:
    """Why no file can be written there, before anything is computed; None if it can.

    `made`: missing directories will be made.
    """
    if path.is_dir() or (path.exists() and not path.is_file()):
        return "it is no file; give a file's name"
    directory = path.absolute().parent
    while made and not directory.exists():
        directory = directory.parent
    if not directory.exists():
        return f"there is no directory {directory} to write to"
    if not directory.is_dir():
        return f"{directory} is no directory"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"the directory {directory} cannot be written to by you; give another place"
    return None


def why_full(error: BaseException | None) -> str | None:
    """What says that a disk or a quota is full, in an error or what it came from; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return os.strerror(error.errno)
        if found := [text for text in _FULL_TEXTS if text in str(error)]:
            return found[0]
        error = error.__cause__
    return None


def _in_use(path: Path, number: str, host: str) -> bool:
    if host == socket.gethostname():
        return psutil.pid_exists(int(number))
    try:
        return time.time() - path.stat().st_mtime < _FORGOTTEN_SECONDS
    except OSError:
        return True
