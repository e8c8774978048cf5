"""Positions and boxes of users, in voxels or millimetres, converted to voxels of an image."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from nibabel.orientations import io_orientation

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import PromptError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts import Point

Coordinates = Literal["voxel", "mm"]
"""Voxel indices in the image's axis order, or RAS+ millimetres."""

Number = float | int | np.number
Position = Sequence[Number] | np.ndarray
"""Three numbers, along the axes of the coordinates."""

Ranges = Sequence[Sequence[Number]] | np.ndarray
"""A lower and an upper end along each of three axes."""

MOST_PROMPTS = 10_000
"""Limit on one image; nobody clicks more."""

MOST_POSITIONS = 50_000
"""Limit for all lines and outlines of one file together, or for one line."""

_VOXEL_DECIMALS = 3
"""Decimals of voxel positions that come from mm; a float32 affine is no more precise."""

_UNITS: dict[Coordinates, str] = {"voxel": "voxel", "mm": "mm (RAS+)"}


def point_in(volume: Volume, position: Position, coordinates: Coordinates) -> Point:
    """A position as a point of the image.

    Raises:
        PromptError: it is not three finite numbers, or outside the image.
    """
    values = numbers(position, (3,), "a position is three numbers")
    voxel = to_voxels(values[None], volume)[0] if coordinates == "mm" else values
    point = Point(*voxel.tolist())
    shape = volume.image.shape
    if not all(-0.5 <= value <= size - 0.5 for value, size in zip(point, shape, strict=True)):
        raise PromptError(
            f"{values.tolist()} {_UNITS[coordinates]} is at voxel "
            f"({', '.join(f'{v:.4g}' for v in point)}), outside the image of {shape} voxels"
        )
    return point


def box_in(volume: Volume, ranges: Ranges, coordinates: Coordinates) -> Box:
    """Three ranges as a box of the image.

    In voxels the ranges are half-open. In mm the box contains all voxels that the ranges meet;
    a range with equal ends is one slice. On an oblique grid it is the smallest box of voxels
    around the eight corners.

    Raises:
        PromptError: a range is reversed, empty, or in voxels no whole number, or the box leaves
            the image.
    """
    values = numbers(ranges, (3, 2), "a box is three ranges, [[x0, x1], [y0, y1], [z0, z1]]")
    text = f"{values.tolist()} {_UNITS[coordinates]}"
    low, high = values.T
    if (low > high).any():
        raise PromptError(f"{text} has a reversed range; give the smaller end first")
    if coordinates == "mm":
        corners = np.array(list(itertools.product(*values)))
        main = io_orientation(volume.affine)[:, 0].astype(int)
        # On an oblique grid the corners of a flat box lie on many slices.
        flat = np.flatnonzero(low[main] == high[main]).tolist()
        return box_around(to_voxels(corners, volume), volume, text, flat)
    if (low == high).any():
        raise PromptError(
            f"{text} is empty; voxel ranges are half-open, [7, 8] is the slice of index 7"
        )
    if (values != np.rint(values)).any():
        raise PromptError(f"{text} has ends that are not whole; expected whole numbers of voxels")
    return _checked(low, high, volume, text)


def box_around(
    corners: Float[np.ndarray, "n 3"], volume: Volume, text: str, flat: Iterable[int] = ()
) -> Box:
    """The smallest box of voxels that contains positions in voxels.

    Along the axes `flat` it is the one slice in the middle. `text` names it in errors.

    Raises:
        PromptError: the box leaves the image.
    """
    low, high = corners.min(axis=0), corners.max(axis=0)
    start = np.floor(low + 0.5)
    stop = np.maximum(np.ceil(high + 0.5), start + 1)
    for axis in flat:
        start[axis] = np.floor((low + high)[axis] / 2 + 0.5)
        stop[axis] = start[axis] + 1
    return _checked(start, stop, volume, text)


def to_voxels(positions_mm: Float[np.ndarray, "n 3"], volume: Volume) -> Float[np.ndarray, "n 3"]:
    """Positions in RAS+ mm as voxels of the image, without rounding errors of a float32 affine."""
    offsets = (positions_mm - volume.affine[:3, 3]).T
    return np.round(np.linalg.solve(volume.affine[:3, :3], offsets).T, _VOXEL_DECIMALS)


def check_count(count: int, what: str = "prompts", most: int = MOST_PROMPTS) -> None:
    """Raises `PromptError` if an image has more prompts, or a file more positions, than it may."""
    if count > most:
        raise PromptError(
            f"there are {count:,} {what}; expected at most {most:,}, for more give a mask"
        )


def numbers(source: object, shape: tuple[int, ...], expected: str) -> Float[np.ndarray, "..."]:
    """Finite numbers as an array of `shape`, float64.

    Raises:
        PromptError: `source` is something else; the message begins with `expected`.
    """
    try:
        values = np.array(source)
    # Rows of different length, huge numbers, or no numbers.
    except (ValueError, OverflowError, TypeError):
        values = np.array("")
    # numpy would convert text to numbers.
    if values.dtype.kind not in "iuf" or values.shape != shape or not np.isfinite(values).all():
        raise PromptError(f"{expected}, got {_brief(source)}")
    return values.astype(np.float64)


def _checked(start: np.ndarray, stop: np.ndarray, volume: Volume, text: str) -> Box:
    shape = volume.image.shape
    if not np.isfinite([start, stop]).all():
        raise PromptError(f"{text} is far outside the image of {shape} voxels")
    box = Box(tuple(map(int, start)), tuple(map(int, stop)))
    if min(box.start) < 0 or any(np.greater(box.stop, shape)):
        raise PromptError(
            f"{text} is voxels {box.start} to {box.stop}, which leaves the image of {shape} voxels"
        )
    return box


def _brief(source: object) -> str:
    text = str(np.asarray(source).tolist() if isinstance(source, np.ndarray) else source)
    return text if len(text) <= 200 else f"{text[:200]} ..."
