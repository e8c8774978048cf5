"""Quarter turns, elastic deformation and subsampling of volumes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import interpolate, ndimage

from wsicl_jax.geometry.axes import Shape3

PLANES = ((0, 1), (0, 2), (1, 2))
"""The planes of a volume, by the axes that span them."""

_CONTROL_CELLS = 4
"""Cells of the grid of control points along each axis. Displacements of up to 0.4 of a cell, which
is 0.1 of a side, cannot fold (Choi and Lee 2000)."""


def quarter_turns(volume: np.ndarray, turns: Sequence[int]) -> np.ndarray:
    """The volume rotated by a number of quarter turns in each of `PLANES`, one after another.

    Even numbers keep the shape of planes with unequal sides.
    """
    for plane, count in zip(PLANES, turns, strict=True):
        volume = np.rot90(volume, count, plane)
    return volume


def sample_quarter_turns(
    shape: Shape3, plane: int, rng: np.random.Generator, *, minimum: int = 1
) -> int:
    """`minimum` to 3 quarter turns of a plane; if its sides are unequal, 2 or none."""
    first, second = PLANES[plane]
    square = shape[first] == shape[second]
    return int(rng.integers(minimum, 4)) if square else 2 * int(rng.integers(minimum, 2))


class Deformation(NamedTuple):
    """The mapping from a deformed volume to the original one."""

    positions: Float[np.ndarray, "3 x y z"]
    """For each voxel of the deformed volume, its position in voxels of the original."""

    def image(self, image: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
        """The deformed image, with linear interpolation; its border repeats outside."""
        return ndimage.map_coordinates(image, self.positions, order=1, mode="nearest")

    def mask(self, mask: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
        """The deformed mask: where linear interpolation gives 0.5 or more."""
        return self.image(mask.astype(np.float32)) >= 0.5

    @classmethod
    def sample(
        cls, shape: Shape3, max_displacement: float, rng: np.random.Generator
    ) -> "Deformation":
        """A smooth random deformation of at most `max_displacement`, as a share of each side.

        Cubic B-splines interpolate random displacements of control points.
        """
        points = _CONTROL_CELLS + 3
        size = (3, points, points, points)
        positions = rng.uniform(-max_displacement, max_displacement, size).astype(np.float32)
        # Not `@`: the threads of a matrix library would compete with those of training.
        for axis, side in enumerate(shape):
            positions = np.einsum("ij,cjkl->ckli", _spline_weights(side), positions)
            positions[axis] *= side
        positions += np.indices(shape, np.float32)
        return cls(positions)


def subsampled(
    image: Float[np.ndarray, "x y z"], axis: int, factor: int, first: int
) -> Float[np.ndarray, "x y z"]:
    """The image with only every `factor`-th plane, from plane `first`; the others are interpolated.

    Planes before the first and after the last kept plane repeat it.
    """
    kept = np.arange(first, image.shape[axis], factor)
    position = (np.arange(image.shape[axis], dtype=np.float32) - first) / factor
    position = np.clip(position, 0, len(kept) - 1)
    below = position.astype(int)
    above = np.minimum(below + 1, len(kept) - 1)
    share = (position - below).astype(np.float32)
    share = share.reshape([-1 if a == axis else 1 for a in range(3)])
    planes = image.take(kept, axis)
    return planes.take(below, axis) * (1 - share) + planes.take(above, axis) * share


def _spline_weights(side: int) -> Float[np.ndarray, "side points"]:
    """Cubic weights of the control points for each voxel along an axis; each row sums to 1."""
    position = (np.arange(side) + 0.5) * _CONTROL_CELLS / side
    knots = np.arange(-3, _CONTROL_CELLS + 4)
    return interpolate.BSpline.design_matrix(position, knots, 3).toarray().astype(np.float32)
