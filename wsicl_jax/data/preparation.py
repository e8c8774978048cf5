"""What a conversion does to a case once: turn, crop, scale intensities, resample.

Nothing is lost on the way back: the grid of the original files, and what became of it, is in
`SourceGrid`, whose `grid.restore_label` takes a prediction to the files' own voxels.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Num

from wsicl_jax.axes import Box, Shape3, spacing_of
from wsicl_jax.config import PreparationConfig
from wsicl_jax.data.catalogue import SourceFile, SourceGrid
from wsicl_jax.geometry import WorkingGrid
from wsicl_jax.intensity import normalise, percentile_range


class Prepared(NamedTuple):
    """A case as it is stored."""

    image: Num[np.ndarray, "c x y z"]
    label: Integer[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    source: SourceGrid


def prepare(
    image: Num[np.ndarray, "c x y z"],
    label: Integer[np.ndarray, "_ _ _"],
    affine: Float[np.ndarray, "4 4"],
    files: Sequence[SourceFile],
    config: PreparationConfig,
) -> Prepared:
    """A case from its files' voxels.

    Intensities are scaled by percentiles of the whole volume, before it is cropped and
    resampled, as training does it. Integer images keep their type where nothing is computed.
    """
    way = _way(image, label, affine, config)
    intensities = None
    if config.percentiles is not None:
        intensities = tuple(percentile_range(channel, config.percentiles) for channel in image)
        image = np.stack([normalise(channel, config.percentiles) for channel in image])
    # `label` picks voxels and keeps their type; where no voxel changes, so may an image.
    bring = way.label if way.grid == way.covered.extent else way.image
    return Prepared(
        np.stack([bring(channel) for channel in image]),
        way.label(label),
        way.affine(affine),
        SourceGrid(tuple(files), np.asarray(affine, np.float64), way, intensities),
    )


def _way(
    image: np.ndarray, label: np.ndarray, affine: np.ndarray, config: PreparationConfig
) -> WorkingGrid:
    way = WorkingGrid(label.shape, label.shape)
    if config.ras:
        way = WorkingGrid.of(label.shape, affine)
    if config.crop:
        way = replace(way, crop=_foreground(image, label, way))
    extent = way.covered.extent
    return replace(way, grid=_target_shape(extent, spacing_of(way.affine(affine)), config))


def _foreground(image: np.ndarray, label: np.ndarray, whole: WorkingGrid) -> Box | None:
    """The box, after turning, where there is anything; None if that is everywhere or nowhere."""
    lowest = image.min(axis=(1, 2, 3), keepdims=True)
    anything = (image > lowest).any(axis=0) | (label != 0)
    box = Box.around(whole.label(anything))
    return None if box is None or box.extent == whole.turned_shape else box


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
