"""Smooth random fields, and volumes deformed by them.

Positions run from -1 to 1 over each side of a volume. Nothing here calls a matrix library, whose
threads would compete with those of training.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from scipy import ndimage

from wsicl_jax.geometry.axes import Shape3

_WAVES = 8
_SAMPLES_PER_PERIOD = 8
_ALONG = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))


def smooth_field(
    rng: np.random.Generator, shape: Sequence[int], channels: int, frequency: float
) -> Float[np.ndarray, "c x y z"]:
    """A random smooth field of unit variance: a few plane waves of up to `frequency` periods.

    Large fields are computed on a coarser grid and interpolated linearly.
    """
    coarse = [min(side, int(_SAMPLES_PER_PERIOD * frequency) + 3) for side in shape]
    direction = rng.uniform(-frequency, frequency, (3, _WAVES)) * np.pi
    # A plane wave is a product over the axes.
    x, y, z = (
        np.exp(1j * np.linspace(-1, 1, side)[:, None] * direction[axis]).astype(np.complex64)
        for axis, side in enumerate(coarse)
    )
    phase = np.exp(2j * np.pi * rng.random((channels, _WAVES)))
    amplitude = phase * rng.normal(0, 1, (channels, _WAVES)) * np.sqrt(2 / _WAVES)
    first = amplitude.astype(np.complex64)[:, None] * x
    plane = np.einsum("yk,zk->kyz", y, z)
    field = np.einsum("cxk,kyz->cxyz", first.real, plane.real)
    field -= np.einsum("cxk,kyz->cxyz", first.imag, plane.imag)
    return interpolate(field, shape)


def interpolate(
    field: Float[np.ndarray, "c x y z"], shape: Sequence[int]
) -> Float[np.ndarray, "c X Y Z"]:
    """A field on a finer grid, linear between the samples; the outermost samples coincide."""
    for axis, side in enumerate(shape):
        samples = field.shape[axis + 1]
        if samples != side:
            field = sampled(field, axis, np.linspace(0, samples - 1, side))
    return field


def sampled(
    field: Float[np.ndarray, "c x y z"], axis: int, positions: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "c X Y Z"]:
    """A field at positions along one axis, in samples from the first one, linear between."""
    last = field.shape[axis + 1] - 1
    positions = np.clip(positions, 0, last)
    low = np.minimum(positions.astype(int), max(last - 1, 0))
    weight = along(axis, (positions - low).astype(np.float32))
    start = field.take(low, axis + 1)
    return start + weight * (field.take(np.minimum(low + 1, last), axis + 1) - start)


@functools.cache
def centres(side: int) -> Float[np.ndarray, "x"]:
    """Positions of the centres of a side's voxels; read-only."""
    positions = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / side) - 1
    positions.setflags(write=False)
    return positions


def along(axis: int, values: np.ndarray) -> np.ndarray:
    """A line of values as an array of three axes that varies along one of them."""
    return values.reshape(_ALONG[axis])


def sample_deformation(
    rng: np.random.Generator, sides: Sequence[int], shape: Shape3, *, bend: float, pose: float
) -> Float[np.ndarray, "3 X Y Z"]:
    """A random deformation: the position of each voxel of `shape` in a volume of these sides, in
    voxels from the volume's first faces.

    `bend` is the typical displacement of a smooth field, `pose` that of a linear map and a
    shift, both as a share of half the volume.
    """
    turn = np.eye(3) + rng.normal(0, pose, (3, 3))
    shift = rng.normal(0, pose / 2, 3)
    positions = smooth_field(rng, shape, 3, frequency=1.5) * np.float32(
        bend * rng.uniform(0.6, 1.4)
    )
    positions += smooth_field(rng, shape, 3, frequency=4.0) * np.float32(bend * rng.uniform(0, 0.2))
    for axis, side in enumerate(sides):
        position = positions[axis]
        for other, count in enumerate(shape):
            line = centres(count) * turn[other, axis] + (shift[axis] if other == axis else 0)
            position += along(other, line.astype(np.float32))
        position += 1
        position *= np.float32(side / 2)
    return positions


def nearest(
    volume: Integer[np.ndarray, "x y z"], positions: Float[np.ndarray, "3 X Y Z"]
) -> Integer[np.ndarray, "X Y Z"]:
    """The voxels of a volume nearest to these positions; its border repeats outside."""
    index = 0
    for side, position in zip(volume.shape, positions, strict=True):
        # Truncation towards 0 serves as floor, since negative positions are clipped anyway.
        voxel = position.astype(np.int32)
        index = index * side + np.clip(voxel, 0, side - 1, out=voxel)
    return volume.ravel().take(index)


def linear(
    volume: Float[np.ndarray, "x y z"], positions: Float[np.ndarray, "3 X Y Z"]
) -> Float[np.ndarray, "X Y Z"]:
    """As `nearest`, for a grey image: linear between voxels; float32."""
    return ndimage.map_coordinates(
        volume, positions - np.float32(0.5), np.float32, order=1, mode="nearest"
    )
