"""From a source case to a stored case: turn to RAS+, crop, scale intensities, resample.

`SourceGrid` keeps the mapping from the original files. Its `grid.restore_label` resamples a
prediction to the files' own voxels.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Num

from wsicl_jax.config import PreparationConfig
from wsicl_jax.data.catalogue import SourceFile, SourceGrid
from wsicl_jax.geometry.axes import Box, Shape3, spacing_of
from wsicl_jax.geometry.grids import WorkingGrid, content_box
from wsicl_jax.geometry.intensity import percentile_range, scaled


class StoredCase(NamedTuple):
    """A case of a store."""

    image: Num[np.ndarray, "c x y z"]
    label: Integer[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    source: SourceGrid


def to_stored_case(
    image: Num[np.ndarray, "c x y z"],
    label: Integer[np.ndarray, "_ _ _"],
    affine: Float[np.ndarray, "4 4"],
    files: Sequence[SourceFile],
    config: PreparationConfig,
) -> StoredCase:
    """A stored case from its files' voxels.

    Intensities are scaled by percentiles of the cropped image, before resampling, as in training.
    Integer images keep their type if neither changes values.
    """
    crop = _content(image, label) if config.crop else None
    grid = _stored_grid(label.shape, crop, affine, config)
    intensities = None
    if config.percentiles is not None:
        cropped = image if crop is None else image[:, *crop.slices]
        intensities = tuple(percentile_range(channel, config.percentiles) for channel in cropped)
        image = np.stack(
            [scaled(channel, *ends) for channel, ends in zip(image, intensities, strict=True)]
        )
    # `label` keeps the type of voxels. It also serves images that are not resampled.
    resample = grid.label if grid.grid == grid.covered.extent else grid.image
    return StoredCase(
        np.stack([resample(channel) for channel in image]),
        grid.label(label),
        grid.affine(affine),
        SourceGrid(tuple(files), np.asarray(affine, np.float64), grid, intensities),
    )


def _stored_grid(
    shape: Shape3, crop: Box | None, affine: np.ndarray, config: PreparationConfig
) -> WorkingGrid:
    grid = WorkingGrid.of(shape, affine) if config.ras else WorkingGrid(shape, shape)
    if crop is not None:
        grid = replace(grid, crop=grid.turned_box(crop))
    spacing = spacing_of(grid.affine(affine))
    return replace(grid, grid=_stored_shape(grid.covered.extent, spacing, config))


def _content(image: np.ndarray, label: np.ndarray) -> Box | None:
    """The box of all channels and labels without margins; None if there are no margins."""
    box = functools.reduce(Box.joined, map(content_box, image))
    if (labelled := Box.around(label)) is not None:
        box = box.joined(labelled)
    return None if box.extent == label.shape else box


def _stored_shape(
    extent: Shape3, spacing: tuple[float, float, float], config: PreparationConfig
) -> Shape3:
    if config.grid is not None:
        return config.grid
    if config.spacing_mm is None:
        return extent
    x, y, z = (
        max(round(side * before / after), 1)
        for side, before, after in zip(extent, spacing, config.spacing_mm, strict=True)
    )
    return x, y, z
