"""What a conversion does to a case once: turn, crop, scale intensities, resample.

Nothing is lost on the way back: the grid of the original files, and what became of it, is in
`SourceGrid`, whose `grid.restore_label` takes a prediction to the files' own voxels.
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
    """A case as it is stored."""

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
    """A case from its files' voxels.

    Intensities are scaled by percentiles of what cropping leaves, before it is resampled, as
    training does it. Integer images keep their type where nothing is computed.
    """
    crop = _content(image, label) if config.crop else None
    way = _way(label, crop, affine, config)
    intensities = None
    if config.percentiles is not None:
        kept = image if crop is None else image[:, *crop.slices]
        intensities = tuple(percentile_range(channel, config.percentiles) for channel in kept)
        image = np.stack(
            [scaled(channel, *ends) for channel, ends in zip(image, intensities, strict=True)]
        )
    # `label` picks voxels and keeps their type; where no voxel changes, so may an image.
    bring = way.label if way.grid == way.covered.extent else way.image
    return StoredCase(
        np.stack([bring(channel) for channel in image]),
        way.label(label),
        way.affine(affine),
        SourceGrid(tuple(files), np.asarray(affine, np.float64), way, intensities),
    )


def _way(
    label: np.ndarray, crop: Box | None, affine: np.ndarray, config: PreparationConfig
) -> WorkingGrid:
    way = WorkingGrid(label.shape, label.shape)
    if config.ras:
        way = WorkingGrid.of(label.shape, affine)
    if crop is not None:
        way = replace(way, crop=way.turned_box(crop))
    extent = way.covered.extent
    return replace(way, grid=_target_shape(extent, spacing_of(way.affine(affine)), config))


def _content(image: np.ndarray, label: np.ndarray) -> Box | None:
    """The box where any channel or the label has something; None if that is everywhere."""
    box = functools.reduce(Box.joined, map(content_box, image))
    if (labelled := Box.around(label)) is not None:
        box = box.joined(labelled)
    return None if box.extent == label.shape else box


def _target_shape(
    extent: Shape3, spacing: tuple[float, float, float], config: PreparationConfig
) -> Shape3:
    if config.grid is not None:
        return config.grid
    if config.spacing_mm is None:
        return extent
    x, y, z = (
        max(round(side * have / want), 1)
        for side, have, want in zip(extent, spacing, config.spacing_mm, strict=True)
    )
    return x, y, z
