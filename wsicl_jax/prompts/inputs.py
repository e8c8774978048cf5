"""Context images and their prompts as a network receives them, for one target."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wsicl_jax.config import VolumeConfig
from wsicl_jax.geometry.registration import registered
from wsicl_jax.prompts.painted_prompts import PaintedPrompts
from wsicl_jax.prompts.smoothing import pooled_prompts, smoothed_prompts


def context_inputs(
    target: Float[np.ndarray, "x y z"],
    images: Sequence[Float[np.ndarray, "x y z"]],
    context_set: Sequence[PaintedPrompts],
    volume: VolumeConfig,
) -> tuple[Float[np.ndarray, "context x y z"], Float[np.ndarray, "context x y z"]]:
    """The images and the prompt channels of a context set on the working grid.

    `volume` sets the smoothing of prompts, and whether images are registered to the target first.
    """
    if not volume.registration:
        channels = np.stack([prompts.channel for prompts in context_set])
        is_mask = [prompts.is_mask for prompts in context_set]
        return np.stack(images), smoothed_prompts(channels, is_mask, volume.prompt_smoothing)
    names = ("channel", "inside", "outside")
    arrays = [np.stack([getattr(prompts, name) for prompts in context_set]) for name in names]
    moved, *arrays = registered(target, images, *arrays)
    context_set = [
        prompts._replace(**dict(zip(names, of_image, strict=True)))
        for prompts, *of_image in zip(context_set, *arrays, strict=True)
    ]
    return moved, pooled_prompts(context_set, volume.prompt_smoothing)
