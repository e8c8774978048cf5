"""Bytes of voxels from regular files, no more than a header declares."""

import errno
import math
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from wsicl_jax.errors import DataError

_GZIP_OR_ZLIB = 47
"""zlib's window bits for both formats; the first bytes tell them apart."""

_MAX_EXPANSION = 1032
"""Deflate's largest number of bytes from one."""

_CHUNK = 2**16
_PIECE = 2**20
"""Bytes that are read, and uncompressed, at a time."""

_PADDING = 2**20
"""Bytes that may follow compressed voxels; with more, the header declares too few voxels."""

MAX_LINE = 2**16

_MAX_TEXT_VALUES = 2**22

_MAX_VALUE_LENGTH = 64
"""Characters of a number in text, with the space after it."""

_MAX_MESSAGE = 60
"""Characters of a file's text that a message repeats."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, to read its bytes.

    Raises:
        DataError: it is missing, empty, a folder, a pipe or a device, or cannot be read; also
            where reading it fails later on.
    """
    try:
        # Opening a pipe would wait until somebody writes into it.
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
    except ValueError:
        if "\0" not in str(path):
            raise
        raise DataError(f"{excerpt(str(path))} is no file's name: it has a NUL in it") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise DataError(f"{excerpt(str(path))} has a longer name than files can have") from None
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def excerpt(text: str) -> str:
    """Text from a file for a message: on one line, and short."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    return (
        line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]}... ({len(line)} characters)"
    )


def beginning(path: Path, count: int, *, compressed: bool = False) -> bytes:
    """The first bytes of a file, or of what it holds compressed; fewer if it has no more.

    Raises:
        DataError: as `opened`, or the compressed bytes are damaged.
    """
    with opened(path) as file:
        if not compressed:
            return file.read(count)
        content = b""
        for piece in _inflated(path, file):
            content += piece
            if len(content) >= count:
                break
        return content[:count]


def read_bytes(
    files: Sequence[Path],
    count: int,
    *,
    header: int = 0,
    skipped_lines: int = 0,
    skipped: int | None = 0,
    compressed: bool = False,
) -> UInt8[np.ndarray, " byte"]:
    """`count` bytes, of each file the same share, one after another.

    They begin after `header` bytes, then `skipped_lines`, and then `skipped` uncompressed bytes;
    None: they end with the file.

    Raises:
        DataError: as `opened`, the files hold fewer bytes, compressed ones many more, or these
            are damaged.
    """
    each, rest = divmod(count, len(files))
    if rest:
        raise DataError(f"{files[0]}: {count} bytes of voxels cannot be in {len(files)} files")
    content: np.ndarray | None = None
    for number, path in enumerate(files):
        with opened(path) as file:
            _skip(file, header, skipped_lines)
            available = max(0, _size_of(file) - file.tell())
            if not compressed:
                begin = max(0, available - each) if skipped is None else min(skipped, available)
                file.seek(begin, os.SEEK_CUR)
                available -= begin
            if each > available * (_MAX_EXPANSION if compressed else 1):
                raise _too_short(path, each)
            # Allocated after the check, since a header may declare any size.
            content = np.empty(count, np.uint8) if content is None else content
            part = memoryview(content)[number * each : (number + 1) * each]
            done = _fill(path, file, part, skipped or 0) if compressed else file.readinto(part)
            if done < each:
                raise _too_short(path, each)
    return content


def _fill(path: Path, file: BinaryIO, part: memoryview, skip: int) -> int:
    """Uncompress the bytes after `skip` into `part`; the number of bytes.

    The whole file is read, so that zlib checks the checksum at its end.
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
    """The uncompressed bytes, piece by piece."""
    stream, compressed = zlib.decompressobj(_GZIP_OR_ZLIB), b""
    try:
        while compressed := compressed or file.read(_CHUNK):
            if stream.eof:
                # Zeros only fill a block; other bytes begin another compressed part.
                if not compressed.strip(b"\0"):
                    compressed = b""
                    continue
                stream = zlib.decompressobj(_GZIP_OR_ZLIB)
            yield stream.decompress(compressed, _PIECE)
            compressed = stream.unused_data if stream.eof else stream.unconsumed_tail
    except zlib.error as error:
        raise DataError(f"{path} cannot be read, it may be damaged or cut off: {error}") from error
    if not stream.eof:
        raise DataError(f"{path} cannot be read, it may be damaged or cut off: its end is missing")


def _size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _skip(file: BinaryIO, header: int, lines: int) -> None:
    file.seek(min(header, _size_of(file)))
    for _ in range(lines):
        if not file.readline(MAX_LINE):
            break


def _too_short(path: Path, expected: int) -> DataError:
    return DataError(
        f"{path} cannot be read, it may be damaged or cut off: it has fewer than the {expected} "
        "bytes of voxels that its header declares"
    )


def read_text(
    files: Sequence[Path], kind: np.dtype, count: int, *, header: int = 0, skipped_lines: int = 0
) -> np.ndarray:
    """`count` numbers in text, of each file the same share. Raises as `read_bytes`."""
    if count > _MAX_TEXT_VALUES:
        raise DataError(f"{files[0]} has {count} voxels in text; save it compressed instead")
    values: list[bytes] = []
    for path in files:
        with opened(path) as file:
            _skip(file, header, skipped_lines)
            values += file.read(_MAX_VALUE_LENGTH * math.ceil(count / len(files))).split()
    if len(values) < count:
        raise DataError(
            f"{files[0]} cannot be read, it may be cut off: it has {len(values)} voxels of {count}"
        )
    number = float if kind.kind == "f" else int
    try:
        return np.array([number(value) for value in values[:count]], kind)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{files[0]} has voxels in text that are no {kind}") from error
