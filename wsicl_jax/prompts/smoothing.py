"""The prompt channels of a context set: rasterized prompts, smoothed together."""

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
    """Smooth the rasterized prompts of a context set.

    A few points or slices on one image say little about the border of a structure; those of all
    images together say more. Each channel is blurred by a Gaussian, whose standard deviation along
    each axis is the share `smoothing` of the extent of all prompts. Each blurred channel is scaled
    to a maximum of 1. One common factor then scales the mean over the context set to a maximum
    of 1, which makes it about 0.5 at the border of the structure. Half of the channel before
    smoothing is added, so values can exceed 1.

    Channels do not change if `is_mask` holds (a mask of the whole structure), if they are empty, or
    if `smoothing` is 0. Negative values, of negative prompts, do not change either, and are not
    blurred. The published method has no smoothing.
    """
    positive = np.maximum(channels, 0)
    places = [n for n, whole in enumerate(is_mask) if not whole and positive[n].any()]
    if not smoothing or not places:
        return channels
    deviations = [smoothing * side for side in Box.around(positive.any(axis=0)).extent]
    blurred = np.stack(
        [ndimage.gaussian_filter(positive[n], deviations, mode="constant") for n in places]
    )
    blurred /= blurred.max(axis=(1, 2, 3), keepdims=True)
    smoothed = channels.copy()
    smoothed[places] = blurred / blurred.mean(axis=0).max() + positive[places] / 2
    return np.where(channels < 0, channels, smoothed)


def contains_mask(prompts: Sequence[Prompt]) -> bool:
    """Whether a mask of the whole structure is among the prompts of an image."""
    return "mask" in map(kind_of, prompts)
