"""What looks like a mistake in what was given, or in what was found, and what to do about it.

Each remark is for people: the work goes on, since all of it may be meant.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Integer, Num

_MANY_LABELS = 20
"""A label map of more labels than this is seldom meant as one structure."""

_IMAGE_VALUES = 256
"""Fewer values than these are no image, however they are spread."""

_NEARLY_ALL = 0.95
"""Share of an image from which on a mask of it tells hardly anything apart."""

_OF_LABELS = 0.7
"""Share of neighbours with the same value from which on an image is taken for a label map."""

_OF_INTENSITIES = 0.4
"""The share below which a label map is taken for an image; small parcels have more."""

_SAMPLED_VOXELS = 2**21
"""About so many voxels of a large image are looked at."""


def on_image(image: Num[np.ndarray, "x y z"]) -> tuple[str, ...]:
    """Of an image that is to be segmented, or that shows a structure."""
    # The first voxel against all others, before anything costs more.
    if (image == image.flat[0]).all():
        return (
            f"the image is {float(image.flat[0]):g} everywhere, so that nothing can be seen in it; "
            "check the file and its channel",
        )
    sample = _sampled(image)
    whole = sample.min() >= 0 and np.array_equal(np.rint(sample), sample)
    if whole and _share_of_same_neighbours(sample) >= _OF_LABELS:
        return (
            "the image looks like a label map: neighbours mostly have the same whole number; check "
            "that it was not exchanged with its labels",
        )
    return ()


def on_mask(
    label: Integer[np.ndarray, "x y z"],
    inside: Bool[np.ndarray, "x y z"],
    labels: Sequence[int] | None,
) -> tuple[str, ...]:
    """Of a label map that shows a structure on a context image.

    `inside` is what was taken of it, `labels` the values that were chosen; None: all but 0.
    """
    sample = _sampled(label)
    values = np.unique(sample)
    if len(values) > _IMAGE_VALUES and _share_of_same_neighbours(sample) < _OF_INTENSITIES:
        return (
            f"the mask looks like an image: {len(values)} values that change from voxel to voxel; "
            "check that it was not exchanged with its image",
        )
    said = []
    count = len(np.setdiff1d(values, 0))
    if labels is None and count > _MANY_LABELS:
        said.append(
            f"all {count} labels of the mask are taken as one structure; choose some with `labels`"
        )
    share = np.count_nonzero(inside) / inside.size
    if share > _NEARLY_ALL:
        said.append(
            f"the mask covers {share:.0%} of its image; check that inside and outside are not "
            "exchanged"
        )
    return tuple(said)


def on_result(
    label_map: Integer[np.ndarray, "x y z"], structures: Mapping[str, int]
) -> tuple[str, ...]:
    """Of the label map that was found in a target; `structures` gives the value of each."""
    largest = max(structures.values())
    # Plane by plane: counting takes eight bytes for each voxel.
    counts = sum(np.bincount(plane.ravel(), minlength=largest + 1) for plane in label_map)
    missing = [name for name, value in structures.items() if not counts[value]]
    said = []
    if missing:
        said.append(
            f"nothing was found of {', '.join(missing)}; check that the context images show it as "
            "the target does, add some, or mark it on the target"
        )
    for name, value in structures.items():
        share = counts[value] / label_map.size
        if share > _NEARLY_ALL:
            said.append(
                f"{share:.0%} of the image is marked as {name}; check the prompts of the context "
                "images"
            )
    return tuple(said)


def on_own_context(place: int) -> str:
    """Of a target that is one of its own context images, counted from 1."""
    return (
        f"the target is its own context image {place}: the result says nothing of how other "
        "images are segmented"
    )


def _sampled(voxels: np.ndarray) -> np.ndarray:
    """Planes across the last axis, fewer of a large image."""
    return voxels[:, :, :: max(voxels.size // _SAMPLED_VOXELS, 1)]


def _share_of_same_neighbours(voxels: np.ndarray) -> float:
    """Along the longer of the first two axes, where there is anything but background."""
    along = np.moveaxis(voxels, int(np.argmax(voxels.shape[:2])), 0)
    here, there = along[:-1], along[1:]
    background = voxels.flat[0]
    counted = (here != background) | (there != background)
    return float((here == there)[counted].mean()) if counted.any() else 0.0
