"""The axis order, boxes and spacing, for the whole package.

Every volume has its axes in the file's order, `(X, Y, Z)`; batches are
`(batch, X, Y, Z, channel)` and context sets `(batch, context, X, Y, Z, channel)`.
A box is half-open: it contains the voxels `start <= index < stop`.
World coordinates are millimetres in RAS+ (x to the right, y to the front, z up),
as in NIfTI; `affine @ (i, j, k, 1)` is the world position of a voxel's centre.
"""

from typing import NamedTuple

import numpy as np

Shape3 = tuple[int, int, int]
Index3 = tuple[int, int, int]


class Box(NamedTuple):
    """A half-open box of voxels: `start <= index < stop` on each axis."""

    start: Index3
    stop: Index3

    @property
    def extent(self) -> Shape3:
        """Number of voxels along each axis."""
        x, y, z = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index into an array."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    def common(self, other: "Box") -> "Box | None":
        """The intersection with another box; None if it is empty."""
        start, stop = np.maximum(self.start, other.start), np.minimum(self.stop, other.stop)
        if not np.less(start, stop).all():
            return None
        return Box(tuple(start.tolist()), tuple(stop.tolist()))

    def joined(self, other: "Box") -> "Box":
        """The smallest box that contains both."""
        start, stop = np.minimum(self.start, other.start), np.maximum(self.stop, other.stop)
        return Box(tuple(start.tolist()), tuple(stop.tolist()))

    @classmethod
    def around(cls, mask: np.ndarray) -> "Box | None":
        """The tight box around the non-zero voxels of a 3D mask; None if there are none."""
        ranges = [occupied(mask, axis) for axis in range(3)]
        if not ranges[0].size:
            return None
        return cls(tuple(int(r[0]) for r in ranges), tuple(int(r[-1]) + 1 for r in ranges))


def occupied(mask: np.ndarray, axis: int) -> np.ndarray:
    """Indices of the slices along `axis` on which a 3D mask has non-zero voxels, ascending."""
    return np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel spacing in mm along each axis of a 4x4 affine."""
    x, y, z = np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0).tolist()
    return x, y, z
