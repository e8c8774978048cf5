"""Episodes of crops at a higher resolution, as refinement sees a target.

All images of a group show the same part of the structure, at the same extent in mm.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.data.subject_group import Group, is_visible
from wsicl_jax.geometry.axes import Box, spacing_of
from wsicl_jax.geometry.grids import WorkingGrid

_MARGIN = 0.25
"""Crops may reach this far beyond the structure, as a share of its extent."""

_MAX_OFFSET = 0.1
"""Largest offset of a crop from the centre of a structure that fits into it, as a share of the
crop's extent."""

_TRIES = 4


class FullResolutionCase(NamedTuple):
    """A case on its own grid, with the mapping to the working grid."""

    image: Float[np.ndarray, "x y z"]
    """In [0, 1]."""
    mask: Bool[np.ndarray, "x y z"]
    """The structure, not empty."""
    affine: Float[np.ndarray, "4 4"]
    grid: WorkingGrid

    @property
    def spacing_mm(self) -> Float[np.ndarray, "3"]:
        """Spacing of the case turned to RAS+."""
        return np.array(spacing_of(self.affine))[list(self.grid.order)]


def cropped_group(
    cases: Sequence[FullResolutionCase], min_voxels: int, rng: np.random.Generator
) -> Group | None:
    """A random crop of these cases in which every mask is visible; None if a few tries fail."""
    for _ in range(_TRIES):
        crop = random_crop(cases, rng)
        if crop is None:
            return None
        if all(is_visible(mask, min_voxels) for mask in crop.masks):
            return crop
    return None


def random_crop(cases: Sequence[FullResolutionCase], rng: np.random.Generator) -> Group | None:
    """The cases, the target first, cropped around one place of the structure.

    The resolution is sampled between full resolution and that of the working grid over the whole
    target. None if the working grid already has full resolution.
    """
    target = cases[0]
    downsampling = np.array(target.grid.turned_shape) / target.grid.grid
    if downsampling.max() <= 1:
        return None
    zoom = np.exp(rng.uniform(0, np.log(downsampling.max())))
    extent = np.minimum(zoom * np.array(target.grid.grid), target.grid.turned_shape)
    boxes = [Box.around(case.grid.turned(case.mask)) for case in cases]
    low, high = np.array(boxes[0].start), np.array(boxes[0].stop)
    reach = np.maximum(((1 + 2 * _MARGIN) * (high - low) - extent) / 2, _MAX_OFFSET * extent)
    offset_mm = rng.uniform(-reach, reach) * target.spacing_mm
    extent_mm = extent * target.spacing_mm
    crops = Group([], [])
    for case, box in zip(cases, boxes, strict=True):
        centre = np.add(box.start, box.stop) / 2 + offset_mm / case.spacing_mm
        crop = case.grid.cropped_around(centre, extent_mm / case.spacing_mm)
        crops.images.append(crop.image(case.image))
        crops.masks.append(crop.label(case.mask))
    return crops
