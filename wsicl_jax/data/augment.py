"""Random changes of an episode, drawn once and applied alike to all its images.

A subset of the backbone's published augmentation (arXiv 2503.02410).
"""

from collections.abc import Sequence

import numpy as np

from wsicl_jax.config import AugmentConfig

_LARGEST_SHIFT = 0.2
_LARGEST_SCALE = 0.1
_NOISE_SD = 0.02

Images = Sequence[np.ndarray]


def augment(
    images: Images,
    masks: Images,
    config: AugmentConfig,
    rng: np.random.Generator,
    *,
    may_invert_mask: bool,
) -> tuple[Images, Images]:
    """The episode's images (float32, about [0, 1]) and masks (bool), changed alike.

    `may_invert_mask` is for mask prompts only: nobody puts boxes on a background.
    """
    axes = [axis for axis in range(3) if rng.random() < config.flip]
    images = [np.flip(image, axes) for image in images]
    masks = [np.flip(mask, axes) for mask in masks]
    if rng.random() < config.invert_mask and may_invert_mask:
        masks = [~mask for mask in masks]
    if rng.random() < config.invert_image:
        images = [1 - image for image in images]
    if rng.random() < config.scale:
        factor = np.float32(1 + rng.uniform(-_LARGEST_SCALE, _LARGEST_SCALE))
        images = [image * factor for image in images]
    if rng.random() < config.shift:
        offset = np.float32(rng.uniform(-_LARGEST_SHIFT, _LARGEST_SHIFT))
        images = [image + offset for image in images]
    if rng.random() < config.noise:
        images = [
            image + _NOISE_SD * rng.standard_normal(image.shape, np.float32) for image in images
        ]
    return images, masks
