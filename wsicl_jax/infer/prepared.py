"""An image ready for the network: on the working grid, and held for a closer look."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt16

from wsicl_jax.axes import spacing_of
from wsicl_jax.config import VolumeConfig
from wsicl_jax.data.images import Volume
from wsicl_jax.geometry import WorkingGrid
from wsicl_jax.intensity import normalise

_STEPS = np.iinfo(np.uint16).max
"""Intensities are held in so many steps, a thousandth of what percentiles already cut."""

BYTES_PER_VOXEL = 4 + 4 + 4
"""What preparing holds at once: the image, its normalised copy, and that one smoothed."""


class Prepared(NamedTuple):
    """One image, context or target."""

    grid: WorkingGrid
    """From the whole image to the network's input."""
    affine: Float[np.ndarray, "4 4"]
    """Of the image's own grid, to RAS+ mm."""
    image: Float[np.ndarray, "X Y Z"]
    """The whole image on the working grid, in [0, 1]."""
    own: UInt16[np.ndarray, "x y z"] | None
    """The image on its own grid, 0 to 1 in 65,536 steps; None if no closer look will be taken."""

    @property
    def spacing_mm(self) -> Float[np.ndarray, "3"]:
        """Spacing of the image turned to RAS+."""
        return np.array(spacing_of(self.affine))[list(self.grid.order)]

    def view(self, grid: WorkingGrid) -> Float[np.ndarray, "X Y Z"]:
        """What a grid over a part of the image shows of it, in [0, 1]."""
        if self.own is None:
            raise ValueError("the image was prepared without its own voxels")
        return grid.image(self.own) / np.float32(_STEPS)


def prepare(volume: Volume, config: VolumeConfig, *, own: bool) -> Prepared:
    """Intensities normalised over the whole image; `own` holds its own voxels too."""
    grid = WorkingGrid.of(volume.image.shape, volume.affine, config.grid)
    image = normalise(volume.image, config.percentiles)
    on_grid = grid.image(image)
    held = None
    if own:
        image *= _STEPS
        held = np.rint(image, out=image).astype(np.uint16)
    return Prepared(grid, volume.affine, on_grid, held)
