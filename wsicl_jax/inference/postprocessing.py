"""Optional corrections of a predicted label map: the largest component, and filled holes."""

import numpy as np
from jaxtyping import UInt8, UInt16
from scipy import ndimage

from wsicl_jax.geometry.axes import Box

BYTES_PER_VOXEL = 4 + 3
"""Peak memory of both corrections: numbers of components, and masks."""

_NEIGHBOURS = np.ones((3, 3, 3))
"""Voxels that share a corner belong to one component."""


def keep_largest_component(
    label_map: UInt8[np.ndarray, "x y z"] | UInt16[np.ndarray, "x y z"], value: int
) -> None:
    """Set all but the largest connected component of a structure to 0, in place."""
    box = Box.around(label_map == value)
    if box is None:
        return
    inside = label_map[box.slices]
    components, count = ndimage.label(inside == value, _NEIGHBOURS)
    if count > 1:
        largest = 1 + np.bincount(components.ravel())[1:].argmax()
        inside[(components != largest) & (components > 0)] = 0


def fill_holes(
    label_map: UInt8[np.ndarray, "x y z"] | UInt16[np.ndarray, "x y z"], value: int
) -> None:
    """Give background that a structure encloses in 3D the structure's value, in place."""
    box = Box.around(label_map == value)
    if box is None:
        return
    inside = label_map[box.slices]
    filled = ndimage.binary_fill_holes(inside == value)
    inside[filled & (inside == 0)] = value
