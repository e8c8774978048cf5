"""Ascent of the squared local correlation of two images, by their displacement."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.geometry.registration.resampling import smoothed, warped

STEP = 0.5
"""Largest displacement in one step, in voxels of the level."""

MIN_GAIN = 1e-3
"""Gain in mean correlation below which the displacement stays as it was."""

MIN_SIDE = 8
"""Least voxels of a level along each axis."""

_WINDOW = 2.0
"""Standard deviation of the window of the local correlation, in voxels of the level."""

_NOISE = 1e-4
"""Added to local variances, so that regions without contrast do not count."""


def level_grid(shape: Shape3, factor: int) -> Shape3:
    """The grid of a level that is `factor` times as coarse."""
    return tuple(max(min(side, MIN_SIDE), -(-side // factor)) for side in shape)


def improved(
    field: Float[np.ndarray, "3 x y z"],
    target: Float[np.ndarray, "x y z"],
    image: Float[np.ndarray, "x y z"],
    steps: int,
    advanced: Callable[[np.ndarray, np.ndarray, float], np.ndarray],
) -> Float[np.ndarray, "3 x y z"]:
    """The best of the displacements after each step, or the given one.

    `advanced` takes a displacement, the direction of ascent and the share of the steps done, and
    returns the next displacement.
    """
    correlation = LocalCorrelation(target)
    best, best_mean = field, np.inf
    for step in range(steps + 1):
        moved = warped(image, field)
        mean, by_intensity = correlation.mean_and_derivative(moved)
        if step == 0:
            best_mean = mean + MIN_GAIN
        elif mean > best_mean:
            best, best_mean = field, mean
        ascent = np.stack(np.gradient(moved)) * by_intensity
        if step == steps or not ascent.any():
            break
        field = advanced(field, ascent, step / steps)
    return best


def with_length(ascent: Float[np.ndarray, "3 *any"], length: float) -> Float[np.ndarray, "3 *any"]:
    """Scaled, so that the longest vector has this length; zeros stay."""
    longest = float(np.sqrt((ascent**2).sum(axis=0).max()))
    return ascent * np.float32(length / longest if longest else 0)


class LocalCorrelation:
    """Squared local correlation of images with one target."""

    def __init__(self, target: Float[np.ndarray, "x y z"]):
        self._target = target
        self._mean, square = smoothed(np.stack([target, target**2]), _WINDOW)
        self._variance = square - self._mean**2 + _NOISE

    def mean_and_derivative(
        self, image: Float[np.ndarray, "x y z"]
    ) -> tuple[float, Float[np.ndarray, "x y z"]]:
        """The mean over all voxels, and its derivative by each intensity of the image."""
        products = np.stack([image, image**2, self._target * image])
        mean, square, product = smoothed(products, _WINDOW)
        variance = square - mean**2 + _NOISE
        covariance = product - self._mean * mean
        ratio = covariance / (self._variance * variance)
        squared = ratio * covariance
        share = squared / variance
        a, a_mean, b, b_mean = smoothed(
            np.stack([ratio, ratio * self._mean, share, share * mean]), _WINDOW
        )
        return float(squared.mean()), a * self._target - a_mean - b * image + b_mean
