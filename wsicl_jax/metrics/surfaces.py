"""Distances between the surfaces of two masks.

Surfaces and their areas are those of Nikolov et al., "Clinically applicable segmentation of head
and neck anatomy".
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.metrics.shapes import check_same_shape

# Tolerances of rounding errors: of the spacing in 32-bit headers, and of sums of areas.
_SLACK_MM = 1e-5

_PERCENT = 95 - 1e-6


class SurfaceDistances(NamedTuple):
    """Two surfaces and how far they are from each other.

    The surface of an empty mask has no elements; all elements are infinitely far from it.
    """

    from_mask: Float[np.ndarray, " m"]
    """From each surface element of the mask to the truth's nearest, in mm, ascending."""
    mask_areas: Float[np.ndarray, " m"]
    """Of the same elements, in mm²."""
    from_truth: Float[np.ndarray, " t"]
    truth_areas: Float[np.ndarray, " t"]
    field_mm: float
    """Diagonal of the field of view, from corner to corner."""


def surface_distances(
    mask: Bool[np.ndarray, "x y z"],
    truth: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
) -> SurfaceDistances:
    """The distances for `surface_dice` and `hd95_mm`; they take most of the time.

    Outside of the image is background: a mask at the border has a surface there.

    Raises:
        ShapeError: the shapes differ.
        DataError: the spacing is not positive.
    """
    check_same_shape("mask", mask, truth)
    if not all(math.isfinite(side) and side > 0 for side in spacing_mm):
        raise DataError(
            f"the spacing is {tuple(spacing_mm)} mm; expected three positive numbers: mend the "
            "image's header"
        )
    field_mm = math.hypot(*(n * side for n, side in zip(mask.shape, spacing_mm, strict=True)))
    either = mask | truth
    box = Box.around(either)
    nothing = np.empty(0)
    if box is None:
        return SurfaceDistances(nothing, nothing, nothing, nothing, field_mm)
    mask, truth, either = mask[box.slices], truth[box.slices], either[box.slices]
    if not mask.any() or not truth.any():
        # The library fails on these under NumPy 2.
        areas = _surfaces(either, either, spacing_mm)["surfel_areas_gt"]
        alone, empty = (np.full_like(areas, np.inf), areas), (nothing, nothing)
        first, second = (alone, empty) if mask.any() else (empty, alone)
        return SurfaceDistances(*first, *second, field_mm)
    surfaces = _surfaces(truth, mask, spacing_mm)
    return SurfaceDistances(
        surfaces["distances_pred_to_gt"],
        surfaces["surfel_areas_pred"],
        surfaces["distances_gt_to_pred"],
        surfaces["surfel_areas_gt"],
        field_mm,
    )


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Normalised surface Dice, 0 to 1: the share of both surfaces near the other surface.

    Near is at most `tolerance_mm` away. 1 if both masks are empty, 0 if one is.

    Raises:
        ConfigError: the tolerance is negative.
    """
    if not tolerance_mm >= 0:
        raise ConfigError(f"the tolerance is {tolerance_mm} mm; expected 0 or more")
    if not distances.mask_areas.size and not distances.truth_areas.size:
        return 1.0
    from surface_distance import compute_surface_dice_at_tolerance

    return float(compute_surface_dice_at_tolerance(_named(distances), tolerance_mm + _SLACK_MM))


def hd95_mm(distances: SurfaceDistances) -> float:
    """95th percentile of the Hausdorff distance, in mm.

    95 % of the mask's surface lie within a distance of the truth's surface, and the reverse; the
    result is the larger distance. It is 0 if both masks are empty. If one is, it is the diagonal
    of the field of view, so that means stay finite.

    MONAI measures between the centres of the outermost voxels, with equal weights; its numbers
    differ by up to about one voxel.
    """
    sizes = distances.mask_areas.size, distances.truth_areas.size
    if 0 in sizes:
        return distances.field_mm if any(sizes) else 0.0
    from surface_distance import compute_robust_hausdorff

    return float(compute_robust_hausdorff(_named(distances), _PERCENT))


def _surfaces(
    truth: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, np.ndarray]:
    from surface_distance import compute_surface_distances

    return compute_surface_distances(truth, mask, spacing_mm)


def _named(distances: SurfaceDistances) -> dict[str, np.ndarray]:
    return {
        "distances_pred_to_gt": distances.from_mask,
        "surfel_areas_pred": distances.mask_areas,
        "distances_gt_to_pred": distances.from_truth,
        "surfel_areas_gt": distances.truth_areas,
    }
