"""How well a mask agrees with the truth, and an image with the one that was wanted.

Surfaces and their areas are those of Nikolov et al., "Clinically applicable segmentation of head
and neck anatomy" (arXiv:1809.04430), as the library `surface-distance` computes them: a surface
element is a corner of the voxel grid around which not all eight voxels are alike. It weighs as
much as the piece of surface through it, in mm²; the distance of two elements is that of their
corners.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.axes import Box
from wsicl_jax.errors import ConfigError, DataError, ShapeError

HIGHEST_PSNR = 100.0
"""In dB: the PSNR of equal images, which would be infinite, and the largest that is given."""

SSIM_WINDOW = 7
"""Side of the window of SSIM, in voxels; less in images that it does not fit into."""

# Below both, rounding decides: of the spacing in the 32-bit headers of files, of sums of areas.
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
    """Dice coefficient, 0 to 1; 1 where both are empty, 0 where one alone is.

    Raises:
        ShapeError: the shapes differ.
    """
    _check_same_shape("mask", mask, truth)
    size = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / size if size else 1.0


def surface_distances(
    mask: Bool[np.ndarray, "x y z"],
    truth: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
) -> SurfaceDistances:
    """What `surface_dice` and `hd95_mm` are taken from; it costs far more than they do.

    Beyond the edge of the image there is background: a mask that touches it has a surface there.

    Raises:
        ShapeError: the shapes differ.
        DataError: the spacing is not positive.
    """
    _check_same_shape("mask", mask, truth)
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
    found = _surfaces(truth, mask, spacing_mm)
    return SurfaceDistances(
        found["distances_pred_to_gt"],
        found["surfel_areas_pred"],
        found["distances_gt_to_pred"],
        found["surfel_areas_gt"],
        field_mm,
    )


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Normalised surface Dice, 0 to 1: how much of both surfaces lies near the other one.

    Near is at most `tolerance_mm` away. 1 where both masks are empty, 0 where one alone is.

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

    It is the larger of two distances: of that within which 95 % of the mask's surface lie from
    the truth's, and the reverse. 0 where both masks are empty; where one alone is, the diagonal
    of the field of view, so that means stay finite.

    MONAI measures between the centres of the outermost voxels, all of one weight; its numbers
    differ by up to about a voxel.
    """
    sizes = distances.mask_areas.size, distances.truth_areas.size
    if 0 in sizes:
        return distances.field_mm if any(sizes) else 0.0
    from surface_distance import compute_robust_hausdorff

    return float(compute_robust_hausdorff(_named(distances), _PERCENT))


def psnr(
    image: Float[np.ndarray, "x y z"], truth: Float[np.ndarray, "x y z"], data_range: float
) -> float:
    """Peak signal-to-noise ratio in dB; at most `HIGHEST_PSNR`, as for equal images.

    `data_range` is the largest value that there can be less the least: 1 for images in [0, 1].

    Raises:
        ShapeError: the shapes differ.
        DataError: a value is not finite, or the range is not positive.
    """
    from skimage.metrics import peak_signal_noise_ratio

    image, truth = _checked(image, truth, data_range)
    with np.errstate(divide="ignore"):
        ratio = peak_signal_noise_ratio(truth, image, data_range=data_range)
    return min(float(ratio), HIGHEST_PSNR)


def ssim(
    image: Float[np.ndarray, "x y z"], truth: Float[np.ndarray, "x y z"], data_range: float
) -> float:
    """Structural similarity, at most 1 (equal images), as the mean over a 3D image.

    After Wang et al. 2004 (doi:10.1109/TIP.2003.819861), in uniform windows of `SSIM_WINDOW`
    voxels a side; where a side of the image is shorter, the largest odd number that it holds.
    `data_range` as in `psnr`.

    Raises:
        ShapeError: the shapes differ, or a side has less than 3 voxels.
        DataError: a value is not finite, or the range is not positive.
    """
    from skimage.metrics import structural_similarity

    image, truth = _checked(image, truth, data_range)
    shortest = min(image.shape)
    if shortest < 3:
        raise ShapeError(
            f"the image is {image.shape}; SSIM needs 3 voxels or more along each axis: compare "
            "larger images"
        )
    window = min(SSIM_WINDOW, shortest - 1 + shortest % 2)
    return float(structural_similarity(image, truth, data_range=data_range, win_size=window))


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


def _checked(
    image: np.ndarray, truth: np.ndarray, data_range: float
) -> tuple[np.ndarray, np.ndarray]:
    _check_same_shape("image", image, truth)
    if not (math.isfinite(data_range) and data_range > 0):
        raise DataError(f"the range of values is {data_range}; expected a positive number")
    for name, values in (("image", image), ("truth", truth)):
        if not np.isfinite(values).all():
            raise DataError(f"the {name} has values that are not finite; it cannot be compared")
    return image.astype(np.float64), truth.astype(np.float64)


def _check_same_shape(name: str, given: np.ndarray, truth: np.ndarray) -> None:
    if given.shape != truth.shape:
        raise ShapeError(
            f"the {name} is {given.shape} but the truth {truth.shape}; bring both to one grid"
        )
