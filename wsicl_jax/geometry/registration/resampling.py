"""Volumes and displacements smoothed, resized and warped."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from wsicl_jax.geometry.axes import Shape3


def warped(
    volume: Float[np.ndarray, "x y z"], field: Float[np.ndarray, "3 x y z"]
) -> Float[np.ndarray, "x y z"]:
    """A volume at the places that a displacement names; the border goes on beyond the grid."""
    if not field.any():
        return np.asarray(volume, np.float32)
    places = np.indices(volume.shape, np.float32) + field
    return ndimage.map_coordinates(volume, places, np.float32, order=1, mode="nearest")


def rescaled(field: Float[np.ndarray, "3 a b c"], shape: Shape3) -> Float[np.ndarray, "3 x y z"]:
    """A displacement on a grid of another size over the same extent."""
    scale = np.array(shape, np.float32) / np.array(field.shape[1:], np.float32)
    return resized(field, shape) * scale[:, None, None, None]


def smoothed(volumes: Float[np.ndarray, "n x y z"], sd: float) -> Float[np.ndarray, "n x y z"]:
    """Volumes smoothed by a Gaussian; `sd` is in voxels."""
    return _along_each_axis(volumes, [_gaussian(side, sd) for side in volumes.shape[-3:]])


def resized(volumes: Float[np.ndarray, "*n a b c"], shape: Shape3) -> Float[np.ndarray, "*n x y z"]:
    """Volumes on a grid of another size over the same extent."""
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
