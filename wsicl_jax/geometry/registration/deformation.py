"""Deformable registration, which follows the affine one.

The method follows greedy registration (Yushkevich et al., Alzheimer's & Dementia 12, 2016), but
adds steps instead of composing them.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from wsicl_jax.geometry.registration.affine import affine_field
from wsicl_jax.geometry.registration.ascent import MIN_SIDE, STEP, improved, level_grid, with_length
from wsicl_jax.geometry.registration.resampling import rescaled, resized, smoothed

_LEVELS = ((4, 30), (2, 20), (1, 10))
"""Factor by which each level is coarser than the grid, and its number of steps."""

_MAX_VOXELS = 300_000
"""Levels with more voxels are left out; the displacement is smooth anyway."""

_STEP_SMOOTHING = 1.7
"""Standard deviation of the smoothing of each step, in voxels of the level."""

_SMOOTHING = 1.0
"""Standard deviation of the smoothing of the deformation after each step, likewise."""


def deformed(
    target: Float[np.ndarray, "x y z"],
    image: Float[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 3"],
) -> Float[np.ndarray, "3 x y z"]:
    """The displacement that fits best, starting from an affine one (`affine.affine_field`)."""
    deformation = np.zeros((3, *(MIN_SIDE,) * 3), np.float32)
    for factor, steps in _LEVELS:
        grid = level_grid(target.shape, factor)
        if factor == _LEVELS[0][0] or np.prod(grid) <= _MAX_VOXELS:
            small_target, small_image = (resized(x, grid) for x in (target, image))
            start = affine_field(affine, grid)
            field = start + rescaled(deformation, grid)
            deformation = improved(field, small_target, small_image, steps, _from(start)) - start
    return affine_field(affine, target.shape) + rescaled(deformation, target.shape)


def _from(
    start: Float[np.ndarray, "3 x y z"],
) -> Callable[[np.ndarray, np.ndarray, float], np.ndarray]:
    """Steps of a deformation; only what is added to `start` is smoothed."""

    def advanced(field: np.ndarray, ascent: np.ndarray, _: float) -> np.ndarray:
        step = with_length(smoothed(ascent, _STEP_SMOOTHING), STEP)
        return start + smoothed(field - start + step, _SMOOTHING)

    return advanced
