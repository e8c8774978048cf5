"""The prompt channels of a context set: what is painted on each image, and the smoothing of all."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.prompts.kinds import Prompt, kind_of
from wsicl_jax.prompts.paint import to_channel


def to_channels(
    context_set: Sequence[Sequence[Prompt]], shape: Shape3, *, smoothing: float = 0.0
) -> Float[np.ndarray, "context x y z"]:
    """The prompt channels of a context set: `to_channel` for each image, then `smoothed_prompts`.

    Raises:
        PromptError: as `to_channel`.
    """
    channels = np.zeros((len(context_set), *shape), np.float32)
    for place, prompts in enumerate(context_set):
        channels[place] = to_channel(prompts, shape)
    return smoothed_prompts(
        channels, [contains_mask(prompts) for prompts in context_set], smoothing
    )


def smoothed_prompts(
    channels: Float[np.ndarray, "context x y z"], is_mask: Sequence[bool], smoothing: float
) -> Float[np.ndarray, "context x y z"]:
    """What was painted on the images of a context set, with the smoothing of its prompts.

    A few points or slices on one image tell little of where a structure ends; those of all images
    together do. So each channel is blurred by a Gaussian. Its standard deviation along each axis
    is the share `smoothing` of the extent of what was painted on any image. Each blurred channel is
    scaled to a maximum of 1. One factor then scales all of them, so that their mean over the
    context set has a maximum of 1 and is about 0.5 where the structure ends. Half of what was painted is
    added. The channel of one image can be larger than 1.

    Images of which `is_mask` holds, that is with a mask of their whole structure, and those without
    prompts keep their channels, and so do all with a `smoothing` of 0. Not in the published method.
    """
    places = [n for n, whole in enumerate(is_mask) if not whole and channels[n].any()]
    if not smoothing or not places:
        return channels
    deviations = [smoothing * side for side in Box.around(channels.any(axis=0)).extent]
    blurred = np.stack(
        [ndimage.gaussian_filter(channels[n], deviations, mode="constant") for n in places]
    )
    blurred /= blurred.max(axis=(1, 2, 3), keepdims=True)
    found = channels.copy()
    found[places] = blurred / blurred.mean(axis=0).max() + channels[places] / 2
    return found


def contains_mask(prompts: Sequence[Prompt]) -> bool:
    """Whether a mask of the whole structure is among the prompts of an image."""
    return "mask" in map(kind_of, prompts)
