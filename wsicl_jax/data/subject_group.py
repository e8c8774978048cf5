"""Subjects that share one structure: what an episode is made of."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

_MAX_COMPARED_LABELS = 16
"""Up to this number of labels, comparing with each is faster than a table of all values."""

Subject = tuple[Float[np.ndarray, "x y z"], Integer[np.ndarray, "x y z"]]
"""Image in [0, 1] and label map of one subject, on one grid."""


class Group(NamedTuple):
    """Subjects on one grid with one structure: the target first, then its context images."""

    images: list[Float[np.ndarray, "x y z"]]
    masks: list[Bool[np.ndarray, "x y z"]]


def group_of(subjects: Sequence[Subject], labels: Sequence[int] | np.ndarray) -> Group:
    """The subjects with the union of these labels as their structure."""
    return Group(
        [image for image, _ in subjects], [mask_of(label, labels) for _, label in subjects]
    )


def mask_of(
    label: Integer[np.ndarray, "x y z"], labels: Sequence[int] | np.ndarray
) -> Bool[np.ndarray, "x y z"]:
    """Where a label map has any of these labels."""
    if len(labels) > _MAX_COMPARED_LABELS:
        return np.isin(label, labels)
    mask = label == labels[0]
    for value in labels[1:]:
        mask |= label == value
    return mask


def is_visible(mask: Bool[np.ndarray, "x y z"], min_voxels: int) -> bool:
    """Whether a mask has enough voxels and does not fill the volume."""
    return bool(np.count_nonzero(mask) >= min_voxels and not mask.all())
