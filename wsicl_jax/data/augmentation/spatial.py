"""Changes of where things lie: turns, elastic deformation, and lost planes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import interpolate, ndimage

from wsicl_jax.geometry.axes import Shape3

PLANES = ((0, 1), (0, 2), (1, 2))
"""The planes of a volume, by the axes that span them."""

_CONTROL_CELLS = 4
"""Cells of the grid of control points along each axis: displacements of up to 0.4 of a cell
cannot fold (Choi and Lee 2000), and 0.1 of a side is that."""


def quarter_turns(volume: np.ndarray, turns: Sequence[int]) -> np.ndarray:
    """The volume turned by so many quarters in each of `PLANES`, one after another.

    The shape stays if planes of unequal sides are turned by even numbers.
    """
    for plane, count in zip(PLANES, turns, strict=True):
        volume = np.rot90(volume, count, plane)
    return volume


def draw_turn(shape: Shape3, plane: int, rng: np.random.Generator, *, fewest: int = 1) -> int:
    """`fewest` to 3 quarter turns of a plane; 2, or none, if it has unequal sides."""
    first, second = PLANES[plane]
    square = shape[first] == shape[second]
    return int(rng.integers(fewest, 4)) if square else 2 * int(rng.integers(fewest, 2))


class Deformation(NamedTuple):
    """Where the voxels of a deformed volume come from."""

    positions: Float[np.ndarray, "3 x y z"]
    """In voxels of the volume that is deformed."""

    def image(self, image: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
        """An image deformed, with linear interpolation; beyond its border it goes on."""
        return ndimage.map_coordinates(image, self.positions, order=1, mode="nearest")

    def mask(self, mask: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
        """A mask deformed: it holds where it does by half or more."""
        return self.image(mask.astype(np.float32)) >= 0.5

    @classmethod
    def draw(cls, shape: Shape3, largest: float, rng: np.random.Generator) -> "Deformation":
        """A smooth random deformation, at most `largest` as a share of each side.

        Displacements are drawn at control points and joined by cubic B-splines.
        """
        points = _CONTROL_CELLS + 3
        drawn = rng.uniform(-largest, largest, (3, points, points, points)).astype(np.float32)
        # Not `@`: the threads of a matrix library would fight with the training's for the cores.
        for axis, side in enumerate(shape):
            drawn = np.einsum("ij,cjkl->ckli", _spline_weights(side), drawn)
            drawn[axis] *= side
        drawn += np.indices(shape, np.float32)
        return cls(drawn)


def subsampled(
    image: Float[np.ndarray, "x y z"], axis: int, factor: int, first: int
) -> Float[np.ndarray, "x y z"]:
    """The image with one of `factor` planes kept, from plane `first`, the others interpolated.

    Those before the first and after the last that is kept repeat it.
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
    """Weights of the control points for each voxel along an axis, cubic; each row sums to 1."""
    position = (np.arange(side) + 0.5) * _CONTROL_CELLS / side
    knots = np.arange(-3, _CONTROL_CELLS + 4)
    return interpolate.BSpline.design_matrix(position, knots, 3).toarray().astype(np.float32)
