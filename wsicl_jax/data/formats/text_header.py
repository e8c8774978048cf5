"""Headers in text, as NRRD and MetaImage have them: their numbers, and the voxels they declare."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from wsicl_jax.data.formats.decoded import Declared, Decoded
from wsicl_jax.data.formats.payload import read_bytes, read_text, shown
from wsicl_jax.errors import DataError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_MOST_DIMENSIONS = 16

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf)", re.IGNORECASE
)

_COLOURS = (3, 4)
"""Values in each voxel of colours, with or without opacity, if they are of 8 bits."""


@dataclass(frozen=True)
class Fields:
    """The fields of a header by name."""

    path: Path
    values: dict[str, str]

    def text(self, name: str, *, default: str | None = None) -> str:
        """A field's text. Raises `DataError` if it is missing and there is no default."""
        found = self.values.get(name, default)
        if found is None:
            raise DataError(f"{self.path} cannot be read, its header has no {name!r}")
        return found

    def whole(self, name: str, *, least: int = 0, default: int | None = None) -> int:
        """A field with one whole number. Raises `DataError` if it is none."""
        if name not in self.values and default is not None:
            return default
        (found,) = self.wholes(name, 1, least=least)
        return found

    def wholes(self, name: str, count: int, *, least: int = 0) -> tuple[int, ...]:
        """A field with so many whole numbers. Raises `DataError` if it has others."""
        words = self.text(name).split()
        found = tuple(int(word) for word in words if _WHOLE.fullmatch(word))
        if not len(found) == len(words) == count or min(found) < least:
            raise self.error(name, f"expected {count} whole numbers of {least} or more")
        return found

    def numbers(self, name: str, count: int, text: str | None = None) -> list[float]:
        """A field, or a part of it, with so many numbers. Raises `DataError` if it has others."""
        words = (self.text(name) if text is None else text).split()
        found = [float(word) for word in words if _NUMBER.fullmatch(word)]
        if not len(found) == len(words) == count:
            raise self.error(name, f"expected {count} numbers")
        return found

    def error(self, name: str, expected: str) -> DataError:
        """The error for a field that is not as it should be."""
        return DataError(
            f"{self.path} has {name!r} {shown(self.values.get(name, ''))!r} in its header; "
            f"{expected}"
        )


def dimensions(fields: Fields, name: str) -> int:
    """How many axes there are. Raises `DataError` if there are more than anything has."""
    count = fields.whole(name, least=1)
    if count > _MOST_DIMENSIONS:
        raise fields.error(name, f"expected at most {_MOST_DIMENSIONS}")
    return count


@dataclass(frozen=True)
class Volume:
    """The voxels that a header declares, and where they lie."""

    path: Path
    sizes: tuple[int, ...]
    """Of all axes, the fastest first."""
    spatial: tuple[int, ...]
    """Which of the axes lie in space."""
    kind: np.dtype
    """Of each value, as it is stored."""
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
            DataError: these are no three axes in space with at most one of channels, or they are
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
        where = {"header": self.header, "skipped_lines": self.skipped_lines}
        if self.text:
            values = read_text(self.files, self.kind, declared.values, **where)
        else:
            where |= {"skipped": self.skipped, "compressed": self.compressed}
            values = read_bytes(self.files, declared.bytes, **where).view(self.kind)
        turned = values.reshape(self.sizes, order="F").transpose(self._order)
        voxels = np.ascontiguousarray(turned.reshape(declared.shape), self.kind.newbyteorder("="))
        remarks = self.remarks
        if len(self.spatial) == 4 and len(declared.shape) == 3:
            remarks = (*remarks, "4D with one frame, taken as 3D")
        return Decoded(voxels, self.affine, remarks, self.oriented)


def affine_of(steps: Float[np.ndarray, "3 3"], origin: Sequence[float]) -> Float[np.ndarray, "4 4"]:
    """The affine of the step along each of three axes, and of the first voxel's place."""
    affine = np.eye(4)
    affine[:3, :3] = steps.T
    affine[:3, 3] = origin
    return affine
