"""Files that get their name only when they are complete, and messages about writing."""

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

from wsicl_jax.storage.object_path import ObjectPath, Place

_PARTIAL = re.compile(r"(?:\..*\.)?(\d+)@(.*)\.partial")
_FORGOTTEN_SECONDS = 24 * 3600
"""A temporary file of another machine that is older than this is abandoned."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = tuple(map(os.strerror, _FULL))
"""Texts of these errors, which libraries repeat in errors of their own types."""


def write_whole(path: Place, content: bytes) -> None:
    """Write a file or object atomically: readers see either the old or the whole new content.

    Raises:
        OSError: it cannot be written; no temporary file remains.
    """
    if isinstance(path, ObjectPath):
        path.write_bytes(content)
        return
    with appearing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`; the file written there becomes `path` at the end.

    On an error the temporary file is removed and `path` stays unchanged. Temporary files of
    killed processes are removed as well.
    """
    temporary = partial(path.parent, f".{path.name}.")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # instead of the temporary file
        error.filename2 = None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def partial(directory: Path, prefix: str) -> Path:
    """A temporary path in a directory that belongs to this process alone.

    Temporary files there of processes that no longer run are removed.
    """
    _remove_abandoned(directory)
    return directory / f"{prefix}{os.getpid()}@{socket.gethostname()}.partial"


@functools.cache  # once: a directory may have many files
def _remove_abandoned(directory: Path) -> None:
    for temporary in directory.glob("*.partial"):
        match = _PARTIAL.fullmatch(temporary.name)
        if not match or _in_use(temporary, *match.groups()):
            continue
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def directory_made(directory: Path) -> Iterator[None]:
    """Make a directory and its parents; at the end, remove those of them that are empty.

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
        with suppress(OSError):  # not empty: it stays, with its parents
            for place in missing:
                place.rmdir()


def why_not_writable(path: Path, *, made: bool = False) -> str | None:
    """The reason why no file can be written to `path`, checked beforehand; None if it can.

    `made`: missing directories will be made.
    """
    if path.exists() and not path.is_file():
        what = "a directory" if path.is_dir() else "a pipe or a device"
        return f"it is no file but {what}; give a file's name"
    directory = path.absolute().parent
    while made and not directory.exists():
        directory = directory.parent
    if not directory.exists():
        return f"there is no directory {directory} to write to"
    if not directory.is_dir():
        return f"{directory} is no directory"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"you may not write to the directory {directory}; give another one"
    return None


def why_full(error: BaseException | None) -> str | None:
    """The message of an error, or its cause, that a disk or quota is full; None otherwise."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return os.strerror(error.errno)
        if messages := [text for text in _FULL_TEXTS if text in str(error)]:
            return messages[0]
        error = error.__cause__
    return None


def _in_use(path: Path, number: str, host: str) -> bool:
    if host == socket.gethostname():
        return psutil.pid_exists(int(number))
    try:
        return time.time() - path.stat().st_mtime < _FORGOTTEN_SECONDS
    except OSError:
        return True
