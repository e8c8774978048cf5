"""Augmentation of masks: edges, dilation and erosion."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from wsicl_jax.geometry.axes import Box

_FLAT_FACE = 16
"""Magnitude of Sobel's gradient at a flat face between 0 and 1."""

Mask = Bool[np.ndarray, "x y z"]


def sobel_edge(mask: Mask) -> Mask:
    """Where Sobel's gradient has at least half its magnitude at a flat face.

    The result is a band of two voxels, one inside and one outside. The image's border is no edge.
    """
    where = _neighbourhood(mask)
    values = mask[where].astype(np.int16)
    squares = sum(ndimage.sobel(values, axis, mode="nearest") ** 2 for axis in range(3))
    edge = np.zeros_like(mask)
    edge[where] = squares >= (_FLAT_FACE / 2) ** 2
    return edge


def dilated(mask: Mask) -> Mask:
    """The mask with all voxels that share a face with one of its voxels."""
    return _within_neighbourhood(ndimage.binary_dilation, mask)


def eroded(mask: Mask) -> Mask:
    """The mask without voxels that share a face with one outside; the image's border is no edge."""
    return _within_neighbourhood(ndimage.binary_erosion, mask, border_value=1)


def _within_neighbourhood(change, mask: Mask, **options) -> Mask:
    where = _neighbourhood(mask)
    changed = np.zeros_like(mask)
    changed[where] = change(mask[where], **options)
    return changed


def _neighbourhood(mask: Mask) -> tuple[slice, ...]:
    """The part of the volume around a mask that a change by one voxel can affect."""
    box = Box.around(mask)
    if box is None:
        return (slice(0),) * 3
    return tuple(slice(max(a - 2, 0), b + 2) for a, b in zip(box.start, box.stop, strict=True))
