"""Effects of a scanner on an image: each one, and all with their probabilities."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from scipy import ndimage

from wsicl_jax.config import ScannerConfig
from wsicl_jax.data.synthesis.fields import along, sampled, smooth_field

_MAX_CUT = 0.3
"""Largest share of a side that is cut off."""


class Slices(NamedTuple):
    """Slices with a thickness of several voxels."""

    axis: int
    thickness: int


def scan(
    rng: np.random.Generator, image: Float[np.ndarray, "x y z"], settings: ScannerConfig
) -> Float[np.ndarray, "x y z"]:
    """The image with random effects of a scanner; float32.

    Thick slices get noise before they are resampled to voxels.
    """
    strength = settings.strength
    if rng.random() < settings.invert:
        image = image.max() + image.min() - image
    if rng.random() < settings.bias:
        image = biased(rng, image, strength * rng.uniform(0.08, 0.25))
    if rng.random() < settings.blur:
        image = ndimage.gaussian_filter(image, strength * rng.uniform(0.3, 1.2), truncate=3)
    slices = None
    if rng.random() < settings.thick_slices:
        slices = Slices(int(rng.integers(3)), int(rng.integers(2, 5)))
        side = image.shape[slices.axis]
        image = sliced(image, slices)
    if rng.random() < settings.speckle:
        image = speckled(rng, image, strength * rng.uniform(0.05, 0.2))
    if rng.random() < settings.rician:
        image = rician(rng, image, strength * rng.uniform(0.01, 0.06))
    if rng.random() < settings.gaussian:
        image = image + _normal(rng, image, strength * rng.uniform(0.01, 0.06))
    if slices is not None:
        image = unsliced(image, slices, side)
    return image.astype(np.float32, copy=False)


def biased(
    rng: np.random.Generator, image: Float[np.ndarray, "x y z"], strength: float
) -> Float[np.ndarray, "x y z"]:
    """Intensities times a smooth field, whose logarithm has this standard deviation."""
    field = smooth_field(rng, image.shape, 1, frequency=1.0)[0]
    return image * np.exp(field * np.float32(strength))


def sliced(image: Float[np.ndarray, "x y z"], slices: Slices) -> Float[np.ndarray, "X Y Z"]:
    """Means over the voxels of each slice; the last slice may be thinner."""
    starts, widths = _slices(slices, image.shape[slices.axis])
    return np.add.reduceat(image, starts, slices.axis) / along(slices.axis, widths)


def unsliced(
    image: Float[np.ndarray, "X Y Z"], slices: Slices, side: int
) -> Float[np.ndarray, "x y z"]:
    """Slices resampled to voxels, linear between their centres; `side` voxels along the axis."""
    starts, widths = _slices(slices, side)
    positions = np.interp(np.arange(side), starts + (widths - 1) / 2, np.arange(len(starts)))
    return sampled(image[None], slices.axis, positions)[0]


def speckled(
    rng: np.random.Generator, image: Float[np.ndarray, "x y z"], strength: float
) -> Float[np.ndarray, "x y z"]:
    """Intensities times 1 plus noise of this standard deviation."""
    return image * (1 + _normal(rng, image, strength))


def rician(
    rng: np.random.Generator, image: Float[np.ndarray, "x y z"], strength: float
) -> Float[np.ndarray, "x y z"]:
    """Magnitude of the image with complex noise of this standard deviation."""
    return np.hypot(image + _normal(rng, image, strength), _normal(rng, image, strength))


def cut(
    rng: np.random.Generator,
    image: Float[np.ndarray, "x y z"],
    label: Integer[np.ndarray, "x y z"],
) -> None:
    """Empty one to three ends of a volume in place; at least half of every label stays.

    An end is skipped if a single plane would take more.
    """
    whole = np.bincount(label.ravel())
    empty = np.float32(rng.choice([0.0, image.min()]))
    cuts = int(rng.integers(1, 4))
    for end in rng.permutation(6):
        axis, last = divmod(int(end), 2)
        side = label.shape[axis]
        max_depth = max(int(side * rng.uniform(0.05, _MAX_CUT)), 1)
        outer = np.moveaxis(label, axis, 0)[:: -1 if last else 1]
        planes = [np.bincount(p.ravel(), minlength=len(whole)) for p in outer[:max_depth]]
        kept = np.bincount(label.ravel(), minlength=len(whole)) - np.cumsum(planes, 0)
        depth = int((kept[:, 1:] >= whole[1:] / 2).all(1).sum())
        if depth:
            part = [slice(None)] * 3
            part[axis] = slice(side - depth, side) if last else slice(0, depth)
            image[tuple(part)] = empty
            label[tuple(part)] = 0
            cuts -= 1
        if not cuts:
            return


def _slices(slices: Slices, side: int) -> tuple[np.ndarray, np.ndarray]:
    """First voxel and number of voxels of each slice."""
    starts = np.arange(0, side, slices.thickness)
    return starts, np.diff(np.append(starts, side)).astype(np.float32)


def _normal(rng: np.random.Generator, image: np.ndarray, strength: float) -> np.ndarray:
    return rng.standard_normal(image.shape, np.float32) * np.float32(strength)
