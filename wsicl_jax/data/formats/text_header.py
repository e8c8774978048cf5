"""Headers in text, of NRRD and MetaImage: their fields, and the voxels that they declare."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wsicl_jax.data.formats.decoded import Declared, Decoded
from wsicl_jax.data.formats.payload import MAX_LINE, excerpt, opened, read_bytes, read_text
from wsicl_jax.errors import DataError

_MAX_HEADER = 2**22
_MAX_FILES = 100_000
"""An image in one file per slice has fewer."""

_NUMBER_IN_NAME = re.compile(r"%0?\d?d")
"""The place of a file's number in a pattern of names."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_MAX_DIMENSIONS = 16

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf)", re.IGNORECASE
)

_COLOURS = (3, 4)
"""Values of a voxel of colours, with or without opacity, if they have 8 bits."""


class Header(NamedTuple):
    """The lines of a text header."""

    lines: tuple[str, ...]
    size: int
    """Its bytes, at the beginning of its file."""


def text_header(path: Path, last: re.Pattern[bytes]) -> Header:
    """The lines of a header in text, up to the match of `last`, or else to the end of the file.

    Raises:
        DataError: as `opened`, or the header or a line is too long to be one.
    """
    with opened(path) as file:
        content = file.read(_MAX_HEADER + 1)
    end = last.search(content)
    content = content[: end.end()] if end else content
    lines = content.splitlines()
    if len(content) > _MAX_HEADER or any(len(line) > MAX_LINE for line in lines):
        raise DataError(
            f"{path} has a longer header, or a longer line in it, than images have; it may be "
            "damaged or of another kind"
        )
    return Header(tuple(line.decode("utf-8", "replace") for line in lines), len(content))


@dataclass(frozen=True)
class Fields:
    """The fields of a header by name."""

    path: Path
    values: dict[str, str]

    def text(self, name: str, *, default: str | None = None) -> str:
        """A field's text. Raises `DataError` if it is missing and there is no default."""
        value = self.values.get(name, default)
        if value is None:
            raise DataError(f"{self.path} cannot be read, its header has no {name!r}")
        return value

    def whole(self, name: str, *, least: int = 0, default: int | None = None) -> int:
        """A field with one whole number. Raises `DataError` if it is none."""
        if name not in self.values and default is not None:
            return default
        (value,) = self.wholes(name, 1, least=least)
        return value

    def wholes(self, name: str, count: int, *, least: int = 0) -> tuple[int, ...]:
        """A field with `count` whole numbers. Raises `DataError` if it has others."""
        words = self.text(name).split()
        values = tuple(int(word) for word in words if _WHOLE.fullmatch(word))
        if not len(values) == len(words) == count or min(values) < least:
            raise self.error(name, f"expected {count} whole numbers of {least} or more")
        return values

    def numbers(self, name: str, count: int, text: str | None = None) -> list[float]:
        """A field, or a part of it, with `count` numbers. Raises `DataError` if it has others."""
        words = (self.text(name) if text is None else text).split()
        values = [float(word) for word in words if _NUMBER.fullmatch(word)]
        if not len(values) == len(words) == count:
            raise self.error(name, f"expected {count} numbers")
        return values

    def error(self, name: str, expected: str) -> DataError:
        """The error for an invalid field."""
        return DataError(
            f"{self.path} has {name!r} {excerpt(self.values.get(name, ''))!r} in its header; "
            f"{expected}"
        )


def dimensions(fields: Fields, name: str) -> int:
    """The number of axes. Raises `DataError` if it is absurd."""
    count = fields.whole(name, least=1)
    if count > _MAX_DIMENSIONS:
        raise fields.error(name, f"expected at most {_MAX_DIMENSIONS}")
    return count


@dataclass(frozen=True)
class DeclaredVolume:
    """The voxels that a header declares, and their position."""

    path: Path
    sizes: tuple[int, ...]
    """Of all axes, the fastest first."""
    spatial: tuple[int, ...]
    """Those of the axes that are in space."""
    kind: np.dtype
    """Of each stored value."""
    affine: Float[np.ndarray, "4 4"]
    """To RAS+ mm, of the first three spatial axes."""
    files: tuple[Path, ...]
    header: int = 0
    """Bytes of each file before its voxels."""
    skipped_lines: int = 0
    """Lines after that."""
    skipped: int | None = 0
    """Bytes after that, uncompressed; None: the voxels end with the file."""
    compressed: bool = False
    text: bool = False
    remarks: tuple[str, ...] = ()
    oriented: bool = True

    @property
    def declared(self) -> Declared:
        """The shape (x, y, z), or (x, y, z, channels), and type.

        Raises:
            DataError: there are not three axes in space with at most one of channels, or voxels are
                colours.
        """
        shape = tuple(self.sizes[axis] for axis in self._order)
        channels = tuple(size for size in shape[3:] if size != 1)
        if len(self.spatial) not in (3, 4) or len(channels) > 1:
            raise DataError(
                f"{self.path} has shape {shape}; expected a 3D volume, or one with channels"
            )
        if len(self.spatial) == 3 and channels and channels[0] in _COLOURS and self.kind == "u1":
            raise DataError(f"{self.path} has voxels of colours; expected grey values or labels")
        return Declared((*shape[:3], *channels), self.kind)

    @property
    def _order(self) -> list[int]:
        """The axes: x, y, z, and those of channels."""
        others = (axis for axis in range(len(self.sizes)) if axis not in self.spatial[:3])
        return [*self.spatial[:3], *others]

    def read(self) -> Decoded:
        """The voxels. Raises `DataError` as `declared`, `read_bytes` and `read_text` do."""
        declared = self.declared
        start = {"header": self.header, "skipped_lines": self.skipped_lines}
        if self.text:
            values = read_text(self.files, self.kind, declared.values, **start)
        else:
            start |= {"skipped": self.skipped, "compressed": self.compressed}
            values = read_bytes(self.files, declared.bytes, **start).view(self.kind)
        turned = values.reshape(self.sizes, order="F").transpose(self._order)
        voxels = np.ascontiguousarray(turned.reshape(declared.shape), self.kind.newbyteorder("="))
        remarks = self.remarks
        if len(self.spatial) == 4 and len(declared.shape) == 3:
            remarks = (*remarks, "4D with one frame, taken as 3D")
        return Decoded(voxels, self.affine, remarks, self.oriented)


def affine_of(steps: Float[np.ndarray, "3 3"], origin: Sequence[float]) -> Float[np.ndarray, "4 4"]:
    """The affine from the step along each of three axes and the first voxel's position."""
    affine = np.eye(4)
    affine[:3, :3] = steps.T
    affine[:3, 3] = origin
    return affine


def voxel_files(
    fields: Fields, name: str, listed: Sequence[str], numbers: Sequence[int]
) -> tuple[Path, ...]:
    """The files of voxels that field `name` gives: one, a list in the lines after it, or a pattern.

    `numbers` are the possible counts of words after a pattern.

    Raises:
        DataError: no name is given, or a file is missing or lies elsewhere than beside or below
            the header.
    """
    text = fields.text(name)
    words = text.split()
    if words[:1] == ["LIST"]:
        if not listed:
            raise fields.error(name, "expected names in the lines after it")
        names = listed
    elif "%" in text and len(words) - 1 in numbers:
        names = numbered_names(fields.path, words[0], words[1:4])
    elif text:
        names = [text]
    else:
        raise fields.error(name, "expected a name")
    return files_of(fields.path, names)


def numbered_names(header: Path, pattern: str, numbers: Sequence[str]) -> list[str]:
    """The names of a pattern such as `slice%03d.raw`, from the first number to the last by a step.

    Raises:
        DataError: the pattern or its numbers are invalid, or give too many names.
    """
    try:
        first, last, step = map(int, numbers)
        count = (last - first) // step + 1
    except (ValueError, ZeroDivisionError):
        count = 0
    if not 0 < count <= _MAX_FILES or len(_NUMBER_IN_NAME.findall(pattern)) != 1:
        raise DataError(
            f"{header} names files by {excerpt(' '.join((pattern, *numbers)))!r}; expected a "
            "pattern with one %d, and the first number, the last and the step"
        )
    before, after = _NUMBER_IN_NAME.split(pattern)
    if "%" in before + after:
        raise DataError(f"{header} names files by {excerpt(pattern)!r}; expected one %d in it")
    number = _NUMBER_IN_NAME.search(pattern)[0]
    return [f"{before}{number % i}{after}" for i in range(first, first + count * step, step)]


def files_of(header: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The files that a header names, each beside or below it.

    Raises:
        DataError: one is missing, or lies elsewhere, by its name or by a link.
    """
    folder = Path(os.path.realpath(header.parent))
    files = []
    for name in names:
        try:
            location = Path(os.path.realpath(folder / name))
            exists = location.exists()
        except (OSError, ValueError) as error:
            raise DataError(f"{header} names a file {excerpt(name)!r}, which cannot be") from error
        if not location.is_relative_to(folder):
            raise DataError(
                f"{header} names the file {excerpt(name)!r}, which is not beside or below it; copy "
                "that file there and name it without a folder"
            )
        if not exists:
            raise DataError(f"{header} names the file {excerpt(name)!r}, which is missing")
        files.append(header.parent / name)
    return tuple(files)
