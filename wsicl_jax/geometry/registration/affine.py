"""Affine registration: shift, turn and scale of a whole image.

It starts from the image as it is and from turned ones, because ascent undoes small turns only.
"""

import functools

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.geometry.registration.ascent import (
    MIN_GAIN,
    STEP,
    LocalCorrelation,
    improved,
    level_grid,
    with_length,
)
from wsicl_jax.geometry.registration.resampling import resized, warped

_LEVELS = ((8, 20), (4, 20))
"""Factor by which each level is coarser than the grid, and its number of steps."""

_TURN = 30.0
"""Degrees; starts are also turned by this angle, either way about each axis."""

_MAX_SCALE = 1.3
"""Most that an image is stretched or shrunk; it must not zoom into noise."""

_MAX_SHIFT = 0.15
"""Largest shift along each axis, as a share of the grid's side."""

_LAST_STEP = 0.1
"""To this the steps of a level fall; largest displacement, in voxels of the level."""


def best_affine(
    target: Float[np.ndarray, "x y z"], image: Float[np.ndarray, "x y z"]
) -> Float[np.ndarray, "4 3"]:
    """The affine displacement (`affine_field`) that fits best.

    The coarsest level begins from the image as it is and from each turned one. What becomes of the
    former and of the best of the latter goes on to the next level.
    """
    shape = target.shape
    advanced = functools.partial(_advanced, sides=np.array(shape))
    candidates = [np.zeros((4, 3), np.float32), *_turns(shape)]
    for factor, steps in _LEVELS:
        grid = level_grid(shape, factor)
        small_target, small_image = (resized(x, grid) for x in (target, image))
        correlation, means = LocalCorrelation(small_target), []
        for number, affine in enumerate(candidates):
            field = affine_field(affine, grid)
            field = improved(field, small_target, small_image, steps, advanced)
            candidates[number] = _affine_of(field)
            means.append(correlation.mean_and_derivative(warped(small_image, field))[0])
        other = 1 + int(np.argmax(means[1:]))
        candidates, means = [candidates[0], candidates[other]], [means[0], means[other]]
    return candidates[means[1] > means[0] + MIN_GAIN]


def _advanced(
    field: Float[np.ndarray, "3 x y z"],
    ascent: Float[np.ndarray, "3 x y z"],
    share: float,
    sides: Int[np.ndarray, "3"],
) -> Float[np.ndarray, "3 x y z"]:
    shape = field.shape[1:]
    length = STEP + share * (_LAST_STEP - STEP)
    step = _affine_of(with_length(affine_field(_affine_of(ascent), shape), length))
    return affine_field(_limited(_affine_of(field) + step, sides), shape)


def _limited(
    affine: Float[np.ndarray, "4 3"], sides: Int[np.ndarray, "3"]
) -> Float[np.ndarray, "4 3"]:
    """With no more shift and scale than allowed, on the grid of these sides."""
    matrix = np.eye(3) + affine[1:].T * sides[:, None] / sides
    left, scales, right = np.linalg.svd(matrix)
    matrix = left @ np.diag(np.clip(scales, 1 / _MAX_SCALE, _MAX_SCALE)) @ right
    linear = (matrix - np.eye(3)) * sides / sides[:, None]
    shift = np.clip(affine[:1], -2 * _MAX_SHIFT, 2 * _MAX_SHIFT)
    return np.concatenate([shift, linear.T]).astype(np.float32)


def _turns(shape: Shape3) -> list[Float[np.ndarray, "4 3"]]:
    """Turns by `_TURN` either way about each axis, as affine displacements."""
    sides = np.array(shape)
    vectors = np.deg2rad(_TURN) * np.concatenate([np.eye(3), -np.eye(3)])
    matrices = Rotation.from_rotvec(vectors).as_matrix() - np.eye(3)
    linear = matrices * sides / sides[:, None]
    return [np.concatenate([np.zeros((1, 3)), part.T]).astype(np.float32) for part in linear]


def affine_field(affine: Float[np.ndarray, "4 3"], shape: Shape3) -> Float[np.ndarray, "3 x y z"]:
    """An affine displacement in voxels: its shift, then its change along each axis.

    `affine` is in half sides of the grid, with places from -1 to 1, so it fits each level.
    """
    halves = np.array(shape, np.float32) / 2
    shift, *changes = (affine * halves)[..., None, None, None]
    places = zip(changes, _places(shape), strict=True)
    return shift + sum(change * place for change, place in places)


def _affine_of(field: Float[np.ndarray, "3 x y z"]) -> Float[np.ndarray, "4 3"]:
    """The affine displacement next to a displacement, by least squares.

    1 and the places along the axes are orthogonal, so each part is a projection by itself.
    """
    shape = field.shape[1:]
    mean = functools.partial(np.mean, axis=(1, 2, 3))
    parts = [mean(field), *(mean(field * place) / (place**2).mean() for place in _places(shape))]
    return np.stack(parts) / (np.array(shape, np.float32) / 2)


def _places(shape: Shape3) -> tuple[Float[np.ndarray, "_ _ _"], ...]:
    """The centres of the voxels along each axis, from -1 to 1 between the faces of the grid."""
    axes = [(np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1 for side in shape]
    return tuple(np.meshgrid(*axes, indexing="ij", sparse=True))
