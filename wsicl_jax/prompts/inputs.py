"""Context images and their prompts as a network receives them, for one target."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wsicl_jax.config import VolumeConfig
from wsicl_jax.geometry.registration import registered
from wsicl_jax.prompts.kinds import Prompt
from wsicl_jax.prompts.paint import to_channel
from wsicl_jax.prompts.painted_prompts import contains_mask, painted
from wsicl_jax.prompts.smoothing import pooled_prompts, smoothed_prompts


def context_inputs(
    target: Float[np.ndarray, "x y z"],
    images: Sequence[Float[np.ndarray, "x y z"]],
    prompts: Sequence[Sequence[Prompt]],
    volume: VolumeConfig,
) -> tuple[Float[np.ndarray, "context x y z"], Float[np.ndarray, "context x y z"]]:
    """The images and the prompt channels of a context set on the working grid.

    `prompts` are those of each image, in voxels of the grid. `volume` sets their smoothing, and
    whether images are registered to the target first.

    Raises:
        PromptError: as `to_channel`.
    """
    if not volume.registration:
        channels = np.stack([to_channel(on_image, target.shape) for on_image in prompts])
        is_mask = [contains_mask(on_image) for on_image in prompts]
        return np.stack(images), smoothed_prompts(channels, is_mask, volume.prompt_smoothing)
    context_set = [painted(on_image, target.shape) for on_image in prompts]
    names = ("channel", "inside", "outside")
    arrays = [np.stack([getattr(one, name) for one in context_set]) for name in names]
    moved, *arrays = registered(target, images, *arrays)
    context_set = [
        one._replace(**dict(zip(names, of_image, strict=True)))
        for one, *of_image in zip(context_set, *arrays, strict=True)
    ]
    return moved, pooled_prompts(context_set, volume.prompt_smoothing)
