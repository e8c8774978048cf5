"""What changes labels or geometry, on the host before prompts are drawn.

The backbone's published augmentation (arXiv 2503.02410), drawn once for all images of an
episode. What changes intensities alone is in `intensity.py`.
"""

from collections.abc import Callable

import numpy as np

from wsicl_jax.config import AugmentConfig, EpisodeConfig
from wsicl_jax.data.augmentation.masks import dilated, eroded, sobel_edge
from wsicl_jax.data.augmentation.spatial import (
    PLANES,
    Deformation,
    draw_turn,
    quarter_turns,
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
    """The episode's images (float32, about [0, 1]) and masks (bool), changed alike.

    Geometry comes first: flips, turns, elastic deformation, turns of each image by itself
    (with `may_rotate90_each`, for synthetic cohorts); then the images lose planes, while masks
    stay sharp; then masks are dilated or eroded, replaced by their edges, inverted (with
    `may_invert_mask`, for mask prompts: nobody puts boxes on a background). A change that
    would leave any mask of the group with fewer than `min_voxels` voxels, or full, is left out.
    """
    images, masks = group
    shape = images[0].shape

    def drawn(probability: float) -> bool:
        return rng.random() < probability

    axes = [axis for axis in range(3) if drawn(config.flip)]
    turns = tuple(
        draw_turn(shape, plane, rng) if drawn(config.rotate90) else 0
        for plane in range(len(PLANES))
    )

    images, masks = ([quarter_turns(np.flip(x, axes), turns) for x in part] for part in group)
    if drawn(config.elastic):
        deformation = Deformation.draw(shape, config.elastic_displacement, rng)
        deformed = [deformation.mask(mask) for mask in masks]
        if _all_visible(deformed, min_voxels):
            images, masks = [deformation.image(image) for image in images], deformed
    if may_rotate90_each and drawn(config.rotate90_each):
        each = [
            tuple(draw_turn(shape, plane, rng, fewest=0) for plane in range(len(PLANES)))
            for _ in images
        ]
        images, masks = (
            [quarter_turns(x, turns) for x, turns in zip(part, each, strict=True)]
            for part in (images, masks)
        )
    if drawn(config.subsample):
        axis = int(rng.integers(3))
        factor = int(rng.integers(config.subsample_factor[0], config.subsample_factor[1] + 1))
        first = int(rng.integers(min(factor, shape[axis])))
        images = [subsampled(image, axis, factor, first) for image in images]
    if drawn(config.resize_mask):
        masks = _changed(masks, dilated if drawn(0.5) else eroded, min_voxels)
    if drawn(config.edge_mask):
        masks = _changed(masks, sobel_edge, min_voxels)
    if may_invert_mask and drawn(config.invert_mask):
        masks = _changed(masks, np.logical_not, min_voxels)
    return Group(images, masks)


def _changed(
    masks: list[np.ndarray], change: Callable[[np.ndarray], np.ndarray], min_voxels: int
) -> list[np.ndarray]:
    new = [change(mask) for mask in masks]
    return new if _all_visible(new, min_voxels) else masks


def _all_visible(masks: list[np.ndarray], min_voxels: int) -> bool:
    return all(is_visible(mask, min_voxels) for mask in masks)
