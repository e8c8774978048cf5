"""An image ready for the network: on the working grid, and held for a closer look."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt16

from wsicl_jax.config import VolumeConfig
from wsicl_jax.data.images import Volume
from wsicl_jax.geometry.axes import Box, Shape3, spacing_of
from wsicl_jax.geometry.grids import WorkingGrid, content_box
from wsicl_jax.geometry.intensity import normalise

_STEPS = np.iinfo(np.uint16).max
"""Intensities are held in so many steps, a thousandth of what percentiles already cut."""

BYTES_PER_VOXEL = 4 + 4 + 4
"""What preparing holds at once: the image, its normalised copy, and that one smoothed."""


class PreparedImage(NamedTuple):
    """One image, context or target."""

    shape: Shape3
    """Of the whole image, along its own axes."""
    affine: Float[np.ndarray, "4 4"]
    """Of the whole image's own grid, to RAS+ mm."""
    crop: Box
    """What of the whole image is left without its margins, in its own voxels; all else is of that
    part alone."""
    grid: WorkingGrid
    """From the image to the network's input."""
    image: Float[np.ndarray, "X Y Z"]
    """The image on the working grid, in [0, 1]."""
    own: UInt16[np.ndarray, "x y z"] | None
    """The image on its own grid, 0 to 1 in 65,536 steps; None if no closer look will be taken."""
    remarks: tuple[str, ...] = ()
    """What looks like a mistake in it."""

    @property
    def is_whole(self) -> bool:
        """Whether there were no margins."""
        return self.crop.extent == self.shape

    @property
    def spacing_mm(self) -> Float[np.ndarray, "3"]:
        """Spacing of the image turned to RAS+."""
        return np.array(spacing_of(self.affine))[list(self.grid.order)]

    def view(self, grid: WorkingGrid) -> Float[np.ndarray, "X Y Z"]:
        """What a grid over a part of the image shows of it, in [0, 1]."""
        if self.own is None:
            raise ValueError("the image was prepared without its own voxels")
        return grid.image(self.own) / np.float32(_STEPS)


def content_of(volume: Volume, config: VolumeConfig) -> Box:
    """What is taken of an image, in its own voxels: all but margins, if these are cut off."""
    whole = Box((0, 0, 0), volume.image.shape)
    return content_box(volume.image) if config.crop else whole


def prepare_image(
    volume: Volume, config: VolumeConfig, *, own: bool, crop: Box | None = None
) -> PreparedImage:
    """An image cropped to a box, or else to its content, and normalised over that; `own` holds
    its own voxels too."""
    crop = crop or content_of(volume, config)
    grid = WorkingGrid.of(crop.extent, volume.affine, config.grid)
    image = normalise(volume.image[crop.slices], config.percentiles)
    on_grid = grid.image(image)
    held = None
    if own:
        image *= _STEPS
        held = np.rint(image, out=image).astype(np.uint16)
    return PreparedImage(volume.image.shape, volume.affine, crop, grid, on_grid, held)
