"""Overlap of a mask with the truth."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from wsicl_jax.metrics.shapes import check_same_shape
from wsicl_jax.metrics.surfaces import hd95_mm, surface_dice, surface_distances


class Overlap(NamedTuple):
    """Agreement of a mask with the truth."""

    dice: float
    surface_dice: float
    hd95_mm: float


def overlap(
    mask: Bool[np.ndarray, "x y z"],
    truth: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float,
) -> Overlap:
    """Dice, normalised surface Dice and HD95 of one target, from one computation of distances.

    Raises:
        ShapeError: the shapes differ.
        DataError: the spacing is not positive.
        ConfigError: the tolerance is negative.
    """
    distances = surface_distances(mask, truth, spacing_mm)
    return Overlap(dice(mask, truth), surface_dice(distances, tolerance_mm), hd95_mm(distances))


def dice(mask: Bool[np.ndarray, "*shape"], truth: Bool[np.ndarray, "*shape"]) -> float:
    """Dice coefficient, 0 to 1; 1 if both are empty, 0 if one is.

    Raises:
        ShapeError: the shapes differ.
    """
    check_same_shape("mask", mask, truth)
    size = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / size if size else 1.0
