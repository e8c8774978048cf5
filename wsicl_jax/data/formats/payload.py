"""Bytes from files that a header describes: regular files only, and no more than it declares."""

import errno
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8

from wsicl_jax.errors import DataError

_GZIP_OR_ZLIB = 47
"""zlib's window bits for either, whichever the first bytes say."""

_MOST_EXPANSION = 1032
"""Deflate makes no more bytes than this of one."""

_CHUNK = 2**16
_PIECE = 2**20
"""Bytes that are read, and made of them, at a time."""

_PADDING = 2**20
"""Bytes that may follow compressed voxels; more show that the header declares too little."""

_LONGEST_LINE = 2**16
_LONGEST_HEADER = 2**22

_MOST_FILES = 100_000
"""Slices in files of their own are fewer."""

_MOST_TEXT_VALUES = 2**22

_LONGEST_VALUE = 64
"""Characters of a number in text, with the space after it."""

_NUMBERED = re.compile(r"%0?\d?d")
"""Where a file's number stands in a pattern of names."""

_SHOWN = 60


class Header(NamedTuple):
    """The lines of a text header."""

    lines: tuple[str, ...]
    size: int
    """Bytes that it takes, at the beginning of its file."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, to read its bytes.

    Raises:
        DataError: it is missing, empty, a folder, a pipe or a device, or cannot be read; also
            where reading it fails later on.
    """
    try:
        # Or else whoever opens a pipe waits until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            kind = os.fstat(descriptor)
            if not stat.S_ISREG(kind.st_mode):
                what = "a folder" if stat.S_ISDIR(kind.st_mode) else "no regular file"
                raise DataError(f"{path} is {what}; expected a file")
            if not kind.st_size:
                raise DataError(f"{path} is empty (0 bytes); copy it again")
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} is missing") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; expected a file") from None
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise DataError(f"{shown(str(path))} is no file's name: it has a NUL in it") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise DataError(f"{shown(str(path))} has a longer name than files can have") from None
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def text_header(path: Path, last: re.Pattern[bytes]) -> Header:
    """The lines of a header in text, up to what `last` matches, or else to the end of the file.

    Raises:
        DataError: as `opened`, or the header or a line is too long to be one.
    """
    with opened(path) as file:
        content = file.read(_LONGEST_HEADER + 1)
    end = last.search(content)
    content = content[: end.end()] if end else content
    lines = content.splitlines()
    if len(content) > _LONGEST_HEADER or any(len(line) > _LONGEST_LINE for line in lines):
        raise DataError(
            f"{path} has a longer header, or a longer line in it, than images have; it may be "
            "damaged or of another kind"
        )
    return Header(tuple(line.decode("utf-8", "replace") for line in lines), len(content))


def shown(text: str) -> str:
    """Text from a file for a message: on one line, and not longer than a person reads."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}... ({len(line)} characters)"


def files_of(header: Path, named: Sequence[str]) -> tuple[Path, ...]:
    """The files that a header names, each beside or below it.

    Raises:
        DataError: one is missing, or lies elsewhere, by its name or by a link.
    """
    folder = Path(os.path.realpath(header.parent))
    found = []
    for name in named:
        try:
            place = Path(os.path.realpath(folder / name))
            is_there = place.exists()
        except (OSError, ValueError) as error:
            raise DataError(f"{header} names a file {shown(name)!r}, which cannot be") from error
        if not place.is_relative_to(folder):
            raise DataError(
                f"{header} names the file {shown(name)!r}, which is not beside or below it; copy "
                "that file there and name it without a folder"
            )
        if not is_there:
            raise DataError(f"{header} names the file {shown(name)!r}, which is missing")
        found.append(header.parent / name)
    return tuple(found)


def numbered(header: Path, pattern: str, numbers: Sequence[str]) -> list[str]:
    """The names that a pattern, such as `slice%03d.raw`, stands for, from first to last by step.

    Raises:
        DataError: the pattern or its numbers are not well formed, or stand for too many.
    """
    try:
        first, last, step = map(int, numbers)
        count = (last - first) // step + 1
    except (ValueError, ZeroDivisionError):
        count = 0
    if not 0 < count <= _MOST_FILES or len(_NUMBERED.findall(pattern)) != 1:
        raise DataError(
            f"{header} names files by {shown(' '.join((pattern, *numbers)))!r}; expected a "
            "pattern with one %d, and the first number, the last and the step"
        )
    before, after = _NUMBERED.split(pattern)
    if "%" in before + after:
        raise DataError(f"{header} names files by {shown(pattern)!r}; expected one %d in it")
    number = _NUMBERED.search(pattern)[0]
    return [f"{before}{number % i}{after}" for i in range(first, first + count * step, step)]


def beginning(path: Path, count: int, *, compressed: bool = False) -> bytes:
    """The first bytes of a file, or of what it holds compressed; fewer if it has no more.

    Raises:
        DataError: as `opened`, or the compressed bytes are damaged.
    """
    with opened(path) as file:
        if not compressed:
            return file.read(count)
        found = b""
        for piece in _inflated(path, file):
            found += piece
            if len(found) >= count:
                break
        return found[:count]


def read_bytes(
    files: Sequence[Path],
    count: int,
    *,
    header: int = 0,
    skipped_lines: int = 0,
    skipped: int | None = 0,
    compressed: bool = False,
) -> UInt8[np.ndarray, " byte"]:
    """So many bytes, of each file the same share, one after another.

    They begin after `header` bytes, then `skipped_lines`, and then `skipped` bytes of what is
    uncompressed; None: they end with the file.

    Raises:
        DataError: as `opened`, the files hold fewer bytes, compressed ones many more, or these
            are damaged.
    """
    each, rest = divmod(count, len(files))
    if rest:
        raise DataError(f"{files[0]}: {count} bytes of voxels cannot be in {len(files)} files")
    found: np.ndarray | None = None
    for number, path in enumerate(files):
        with opened(path) as file:
            _skip(file, header, skipped_lines)
            there = max(0, _size_of(file) - file.tell())
            if not compressed:
                begin = max(0, there - each) if skipped is None else min(skipped, there)
                file.seek(begin, os.SEEK_CUR)
                there -= begin
            if each > there * (_MOST_EXPANSION if compressed else 1):
                raise _too_short(path, each)
            # Only now: a header may declare anything.
            found = np.empty(count, np.uint8) if found is None else found
            part = memoryview(found)[number * each : (number + 1) * each]
            done = _fill(path, file, part, skipped or 0) if compressed else file.readinto(part)
            if done < each:
                raise _too_short(path, each)
    return found


def _fill(path: Path, file: BinaryIO, part: memoryview, skip: int) -> int:
    """Uncompress into `part` what comes after `skip` bytes; how much that was.

    All of the file is read, so that the checksum at its end is compared.
    """
    done = after = 0
    for piece in _inflated(path, file):
        begin = min(skip, len(piece))
        skip -= begin
        taken = piece[begin : begin + len(part) - done]
        part[done : done + len(taken)] = taken
        done += len(taken)
        after += len(piece) - begin - len(taken)
        if after > _PADDING:
            raise DataError(
                f"{path} unpacks to more than the {len(part)} bytes of voxels that its header "
                "declares; the header may be damaged"
            )
    return done


def _inflated(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """What compressed bytes hold, piece by piece."""
    stream, given = zlib.decompressobj(_GZIP_OR_ZLIB), b""
    try:
        while given := given or file.read(_CHUNK):
            if stream.eof:
                # Zeros fill up a block; else it was compressed in parts.
                if not given.strip(b"\0"):
                    given = b""
                    continue
                stream = zlib.decompressobj(_GZIP_OR_ZLIB)
            yield stream.decompress(given, _PIECE)
            given = stream.unused_data if stream.eof else stream.unconsumed_tail
    except zlib.error as error:
        raise DataError(f"{path} cannot be read, it may be damaged or cut off: {error}") from error
    if not stream.eof:
        raise DataError(f"{path} cannot be read, it may be damaged or cut off: its end is missing")


def _size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _skip(file: BinaryIO, header: int, lines: int) -> None:
    file.seek(min(header, _size_of(file)))
    for _ in range(lines):
        if not file.readline(_LONGEST_LINE):
            break


def _too_short(path: Path, expected: int) -> DataError:
    return DataError(
        f"{path} cannot be read, it may be damaged or cut off: it has fewer than the {expected} "
        "bytes of voxels that its header declares"
    )


def read_text(
    files: Sequence[Path], kind: np.dtype, count: int, *, header: int = 0, skipped_lines: int = 0
) -> np.ndarray:
    """So many numbers in text, of each file the same share. Raises as `read_bytes`."""
    if count > _MOST_TEXT_VALUES:
        raise DataError(f"{files[0]} has {count} voxels in text; save it compressed instead")
    values: list[bytes] = []
    for path in files:
        with opened(path) as file:
            _skip(file, header, skipped_lines)
            values += file.read(_LONGEST_VALUE * math.ceil(count / len(files))).split()
    if len(values) < count:
        raise DataError(
            f"{files[0]} cannot be read, it may be cut off: it has {len(values)} voxels of {count}"
        )
    number = float if kind.kind == "f" else int
    try:
        return np.array([number(value) for value in values[:count]], kind)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{files[0]} has voxels in text that are no {kind}") from error
