"""Deformable registration of images on one grid, so that context images fit the target.

It increases the squared local correlation of two images step by step, from coarse to fine. This
measure depends neither on brightness and contrast nor on the sign of the contrast. Displacements
are smoothed after each step. The method follows greedy registration (Yushkevich et al.,
Alzheimer's & Dementia 12, 2016), but adds steps instead of composing them.
"""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from wsicl_jax.geometry.axes import Shape3

VERSION = 1
"""Of the method: another number means other predictions of networks that use it."""

_LEVELS = ((4, 30), (2, 20), (1, 10))
"""Factor by which each level is coarser than the grid, and its number of steps."""

_MAX_VOXELS = 300_000
"""Levels with more voxels are left out; the displacement is smooth anyway."""

_MIN_SIDE = 8
"""Least voxels of a level along each axis."""

_WINDOW = 2.0
"""Standard deviation of the window of the local correlation, in voxels of the level."""

_STEP_SMOOTHING = 1.7
"""Standard deviation of the smoothing of each step, in voxels of the level."""

_SMOOTHING = 1.0
"""Standard deviation of the smoothing of the displacement after each step, likewise."""

_STEP = 0.5
"""Largest displacement in one step, likewise."""

_NOISE = 1e-4
"""Added to local variances, so that regions without contrast do not count."""

_MIN_GAIN = 1e-3
"""Gain in mean correlation below which a level keeps the displacement that it started from."""

_CACHED = 32
"""Pairs of images whose displacement is kept, for targets that are segmented repeatedly."""


def registered(
    target: Float[np.ndarray, "x y z"],
    images: Sequence[Float[np.ndarray, "x y z"]] | Float[np.ndarray, "context x y z"],
    channels: Float[np.ndarray, "context x y z"],
) -> tuple[Float[np.ndarray, "context x y z"], Float[np.ndarray, "context x y z"]]:
    """Context images and their prompt channels, deformed so that the images fit the target.

    An image that equals the target does not change. If the target is constant, none changes.
    """
    moved_images, moved_channels = [], []
    for image, channel in zip(images, channels, strict=True):
        field = displacement(target, image)
        moved_images.append(_warped(image, field))
        moved_channels.append(_warped(channel, field))
    return np.stack(moved_images), np.stack(moved_channels)


def displacement(
    target: Float[np.ndarray, "x y z"], image: Float[np.ndarray, "x y z"]
) -> Float[np.ndarray, "3 x y z"]:
    """Where each voxel of the target lies in the image, minus its own index; in voxels.

    The results of the last calls are kept.
    """
    pair = _Pair(target, image)
    field = _displacement(pair)
    pair.forget()  # it may be a key of the cache from now on
    return field


class _Pair:
    """Two images as a key: it equals other keys with the same content."""

    def __init__(self, target: np.ndarray, image: np.ndarray):
        self.target, self.image = target, image
        digest = hashlib.blake2b(repr((target.shape, image.shape)).encode(), digest_size=16)
        for volume in (target, image):
            digest.update(np.ascontiguousarray(volume, np.float32))
        self._digest = digest.digest()

    def forget(self) -> None:
        """Free the images: the cache needs no more than the key."""
        del self.target, self.image

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pair) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)


@functools.lru_cache(_CACHED)
def _displacement(pair: _Pair) -> Float[np.ndarray, "3 x y z"]:
    shape = pair.target.shape
    if np.array_equal(pair.target, pair.image):
        return np.zeros((3, *shape), np.float16)
    field = np.zeros((3, *(_MIN_SIDE,) * 3), np.float32)
    for factor, steps in _LEVELS:
        level = tuple(max(min(side, _MIN_SIDE), -(-side // factor)) for side in shape)
        if factor == _LEVELS[0][0] or np.prod(level) <= _MAX_VOXELS:
            target, image = (_resized(x, level) for x in (pair.target, pair.image))
            field = _improved(_rescaled(field, level), target, image, steps)
    # Half precision: a thousandth of a voxel, and half the memory of the cache.
    kept = _rescaled(field, shape).astype(np.float16)
    kept.setflags(write=False)  # all calls with these images share it
    return kept


def _improved(
    field: Float[np.ndarray, "3 x y z"],
    target: Float[np.ndarray, "x y z"],
    image: Float[np.ndarray, "x y z"],
    steps: int,
) -> Float[np.ndarray, "3 x y z"]:
    """The best of the displacements after each step, or the given one."""
    mean, square = _smoothed(np.stack([target, target**2]), _WINDOW)
    variance = square - mean**2 + _NOISE
    best, best_correlation = field, np.inf
    for step in range(steps + 1):
        moved = _warped(image, field)
        m_mean, m_square, product = _smoothed(np.stack([moved, moved**2, target * moved]), _WINDOW)
        m_variance = m_square - m_mean**2 + _NOISE
        covariance = product - mean * m_mean
        ratio = covariance / (variance * m_variance)
        correlation = float((ratio * covariance).mean())
        if step == 0:
            best_correlation = correlation + _MIN_GAIN
        elif correlation > best_correlation:
            best, best_correlation = field, correlation
        if step == steps:
            break
        # The derivative of the mean of covariance^2 / (variance * m_variance) by each intensity.
        share = ratio * covariance / m_variance
        a, a_mean, b, b_mean = _smoothed(
            np.stack([ratio, ratio * mean, share, share * m_mean]), _WINDOW
        )
        by_intensity = a * target - a_mean - b * moved + b_mean
        ascent = _smoothed(np.stack(np.gradient(moved)) * by_intensity, _STEP_SMOOTHING)
        longest = float(np.sqrt((ascent**2).sum(axis=0).max()))
        if longest == 0:
            break
        field = _smoothed(field + np.float32(_STEP / longest) * ascent, _SMOOTHING)
    return best


def _warped(
    volume: Float[np.ndarray, "x y z"], field: Float[np.ndarray, "3 x y z"]
) -> Float[np.ndarray, "x y z"]:
    if not field.any():
        return np.asarray(volume, np.float32)
    places = np.indices(volume.shape, np.float32) + field
    return ndimage.map_coordinates(volume, places, np.float32, order=1, mode="nearest")


def _rescaled(field: Float[np.ndarray, "3 a b c"], shape: Shape3) -> Float[np.ndarray, "3 x y z"]:
    """A displacement on a grid of another size over the same extent."""
    scale = np.array(shape, np.float32) / np.array(field.shape[1:], np.float32)
    return _resized(field, shape) * scale[:, None, None, None]


def _smoothed(volumes: Float[np.ndarray, "n x y z"], sd: float) -> Float[np.ndarray, "n x y z"]:
    return _along_each_axis(volumes, [_gaussian(side, sd) for side in volumes.shape[-3:]])


def _resized(
    volumes: Float[np.ndarray, "*n a b c"], shape: Shape3
) -> Float[np.ndarray, "*n x y z"]:
    sides = zip(volumes.shape[-3:], shape, strict=True)
    return _along_each_axis(volumes, [_interpolation(old, new) for old, new in sides])


def _along_each_axis(
    volumes: Float[np.ndarray, "*n a b c"], matrices: Sequence[Float[np.ndarray, "_ _"]]
) -> Float[np.ndarray, "*n x y z"]:
    """Volumes with a matrix applied along each of the last three axes."""
    first, second, third = matrices
    *lead, a, b, c = volumes.shape
    result = np.asarray(volumes, np.float32).reshape(-1, c) @ third.T
    result = second @ result.reshape(-1, b, len(third))
    result = first @ result.reshape(-1, a, len(second) * len(third))
    return result.reshape(*lead, len(first), len(second), len(third))


@functools.cache
def _gaussian(side: int, sd: float) -> Float[np.ndarray, "side side"]:
    """Smoothing along an axis; the weights of each voxel have the sum 1, also at the border."""
    places = np.arange(side)
    return _with_sum_one(np.exp(-(((places[:, None] - places) / sd) ** 2) / 2))


@functools.cache
def _interpolation(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Linear resizing along an axis whose outer faces stay; it averages where voxels grow."""
    width = max(1.0, old / new)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    return _with_sum_one(np.maximum(0, 1 - np.abs(np.arange(old) - centres[:, None]) / width))


def _with_sum_one(weights: Float[np.ndarray, "new old"]) -> Float[np.ndarray, "new old"]:
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
