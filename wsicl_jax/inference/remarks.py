"""Remarks on likely mistakes in images, masks and results, each with what to check.

A remark stops nothing, since everything may be intended.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Integer, Num

from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.inference.result import count_voxels

_MANY_LABELS = 20
"""A label map with more labels is rarely intended as one structure."""

_MIN_IMAGE_VALUES = 256
"""A volume with fewer values is no image."""

_NEARLY_ALL = 0.95
"""A mask of more than this share of an image is suspicious."""

_LABEL_MAP_SHARE = 0.7
"""Share of equal neighbours from which on an image looks like a label map."""

_IMAGE_SHARE = 0.4
"""Share of equal neighbours below which a label map looks like an image."""

_MIN_SLICES = 4
"""An image with fewer slices along an axis is hardly a volume."""

_SAMPLED_VOXELS = 2**21
"""Voxels of a large image that are examined, about."""


def on_image(image: Num[np.ndarray, "x y z"]) -> tuple[str, ...]:
    """Remarks on a target or a context image."""
    # The first voxel against all others, before anything costs more.
    if (image == image.flat[0]).all():
        return (
            f"the image is {float(image.flat[0]):g} everywhere, so it shows no structure; check "
            "the file and its channel",
        )
    sample = _sampled(image)
    is_whole = sample.min() >= 0 and np.array_equal(np.rint(sample), sample)
    if is_whole and _share_of_equal_neighbours(sample) >= _LABEL_MAP_SHARE:
        return (
            "the image looks like a label map: neighbours mostly have the same whole number; check "
            "that image and label map are not exchanged",
        )
    return ()


def on_grid(grid: WorkingGrid) -> tuple[str, ...]:
    """A remark on an image with so few slices that it is hardly a volume."""
    slices = min(grid.turned_shape)
    if slices >= _MIN_SLICES:
        return ()
    cells = grid.grid[grid.turned_shape.index(slices)]
    return (
        f"only {slices} slice{'s' * (slices > 1)} along an axis, where the working grid has "
        f"{cells}; a structure needs more than {cells // (2 * slices)} slices of that grid to be "
        "visible, and the network knows volumes only: do not rely on this result",
    )


def on_mask(
    label: Integer[np.ndarray, "x y z"],
    inside: Bool[np.ndarray, "x y z"],
    labels: Sequence[int] | None,
) -> tuple[str, ...]:
    """Remarks on the label map of a context image.

    `inside` is the structure's mask, `labels` its labels; None: all but 0.
    """
    sample = _sampled(label)
    values = np.unique(sample)
    many_values = len(values) > _MIN_IMAGE_VALUES
    if many_values and _share_of_equal_neighbours(sample) < _IMAGE_SHARE:
        return (
            f"the mask looks like an image: {len(values)} values that change from voxel to voxel; "
            "check that image and mask are not exchanged",
        )
    remarks = []
    count = len(np.setdiff1d(values, 0))
    if labels is None and count > _MANY_LABELS:
        remarks.append(
            f"all {count} labels of the mask are taken as one structure; choose some with `labels`"
        )
    share = np.count_nonzero(inside) / inside.size
    if share > _NEARLY_ALL:
        remarks.append(
            f"the mask covers {share:.0%} of its image; check that inside and outside are not "
            "exchanged"
        )
    return tuple(remarks)


def on_result(
    label_map: Integer[np.ndarray, "x y z"], structures: Mapping[str, int]
) -> tuple[str, ...]:
    """Remarks on the label map of a target; `structures` gives the value of each."""
    counts = count_voxels(label_map, structures)
    remarks = []
    if missing := [name for name, count in counts.items() if not count]:
        remarks.append(
            f"nothing was found of {', '.join(missing)}; check that the context images resemble "
            "the target, add some, or mark it on the target"
        )
    for name, count in counts.items():
        share = count / label_map.size
        if share > _NEARLY_ALL:
            remarks.append(
                f"{share:.0%} of the image is marked as {name}; check the prompts of the context "
                "images"
            )
    return tuple(remarks)


def on_same_image(number: int) -> str:
    """A remark on a target that is also one of its context images, counted from 1."""
    return (
        f"the target is its own context image {number}: this result does not show how well other "
        "images are segmented"
    )


def _sampled(voxels: np.ndarray) -> np.ndarray:
    """Planes across the last axis, fewer of a large image."""
    return voxels[:, :, :: max(voxels.size // _SAMPLED_VOXELS, 1)]


def _share_of_equal_neighbours(voxels: np.ndarray) -> float:
    """Along the longer of the first two axes, where either neighbour is not background."""
    along = np.moveaxis(voxels, int(np.argmax(voxels.shape[:2])), 0)
    first, second = along[:-1], along[1:]
    background = voxels.flat[0]
    foreground = (first != background) | (second != background)
    return float((first == second)[foreground].mean()) if foreground.any() else 0.0
