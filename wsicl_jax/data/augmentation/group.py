"""Augmentation of geometry and labels, on the host before prompts are drawn.

The backbone's published augmentation (arXiv 2503.02410), sampled once for all images of an
episode. `intensity.py` augments intensities.
"""

from collections.abc import Callable

import numpy as np

from wsicl_jax.config import AugmentConfig, EpisodeConfig
from wsicl_jax.data.augmentation.masks import dilated, eroded, sobel_edge
from wsicl_jax.data.augmentation.spatial import (
    PLANES,
    Deformation,
    quarter_turns,
    sample_quarter_turns,
    subsampled,
)
from wsicl_jax.data.subject_group import Group, is_visible


def augment_group(
    group: Group,
    config: AugmentConfig,
    rng: np.random.Generator,
    *,
    may_invert_mask: bool,
    may_rotate90_each: bool,
    min_voxels: int = EpisodeConfig.min_voxels,
) -> Group:
    """The images (float32, about [0, 1]) and masks of an episode, all augmented alike.

    In this order: flips, quarter turns, elastic deformation, and quarter turns of each image
    (with `may_rotate90_each`, for synthetic cohorts). Then images lose planes, while masks stay
    sharp. Then masks are dilated or eroded, replaced by their edges, and inverted (with
    `may_invert_mask`, for mask prompts: nobody draws boxes on a background). A change that would
    leave a mask with fewer than `min_voxels` voxels, or full, is skipped.
    """
    images, masks = group
    shape = images[0].shape

    def happens(probability: float) -> bool:
        return rng.random() < probability

    axes = [axis for axis in range(3) if happens(config.flip)]
    turns = tuple(
        sample_quarter_turns(shape, plane, rng) if happens(config.rotate90) else 0
        for plane in range(len(PLANES))
    )

    images, masks = ([quarter_turns(np.flip(x, axes), turns) for x in part] for part in group)
    if happens(config.elastic):
        deformation = Deformation.sample(shape, config.elastic_displacement, rng)
        deformed = [deformation.mask(mask) for mask in masks]
        if _all_visible(deformed, min_voxels):
            images, masks = [deformation.image(image) for image in images], deformed
    if may_rotate90_each and happens(config.rotate90_each):
        each = [
            tuple(
                sample_quarter_turns(shape, plane, rng, minimum=0) for plane in range(len(PLANES))
            )
            for _ in images
        ]
        images, masks = (
            [quarter_turns(x, turns) for x, turns in zip(part, each, strict=True)]
            for part in (images, masks)
        )
    if happens(config.subsample):
        axis = int(rng.integers(3))
        factor = int(rng.integers(config.subsample_factor[0], config.subsample_factor[1] + 1))
        first = int(rng.integers(min(factor, shape[axis])))
        images = [subsampled(image, axis, factor, first) for image in images]
    if happens(config.resize_mask):
        masks = _changed(masks, dilated if happens(0.5) else eroded, min_voxels)
    if happens(config.edge_mask):
        masks = _changed(masks, sobel_edge, min_voxels)
    if may_invert_mask and happens(config.invert_mask):
        masks = _changed(masks, np.logical_not, min_voxels)
    return Group(images, masks)


def _changed(
    masks: list[np.ndarray], change: Callable[[np.ndarray], np.ndarray], min_voxels: int
) -> list[np.ndarray]:
    changed = [change(mask) for mask in masks]
    return changed if _all_visible(changed, min_voxels) else masks


def _all_visible(masks: list[np.ndarray], min_voxels: int) -> bool:
    return all(is_visible(mask, min_voxels) for mask in masks)
