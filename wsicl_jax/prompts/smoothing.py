"""The prompt channels of a context set: painted prompts, smoothed together."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts.painted_prompts import PaintedPrompts

_SLICE_SHARE = 0.4
"""Width of the smoothing of boxes and masks on slices, as a share of that of points."""

_LEAST_WIDTH = 0.7
"""Least standard deviation of the smoothing of pooled prompts, in voxels."""

_NO_EVIDENCE = 0.02
"""Share of the largest evidence at which evidence counts half."""


def smoothed_prompts(
    channels: Float[np.ndarray, "context x y z"], is_mask: Sequence[bool], smoothing: float
) -> Float[np.ndarray, "context x y z"]:
    """Smooth the prompt channels of a context set, each image by itself.

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


def pooled_prompts(
    context_set: Sequence[PaintedPrompts], smoothing: float
) -> Float[np.ndarray, "context x y z"]:
    """Smooth the prompts of a context set whose images are registered, all images together.

    The prompts of all images then show one structure. A map of it is made from all of them, and
    each image receives the whole map:

    - If any box or mask has voxels outside it, the map is the share of voxels inside among those
      that are known to be inside or outside, in a Gaussian window (kernel regression). Far from
      all of them it falls to 0.
    - Otherwise, as with points and scribbles, it is the density of prompts (kernel density), as a
      share of its mean at the prompts, at most 1. Few points cover less than the structure, so
      they are smoothed more. Half of an image's own channel is added, so values can exceed 1.

    `smoothing` is the width of the window as a share of the extent of all prompts. The map falls to
    0 at negative prompts. Channels that `smoothed_prompts` leaves unchanged do not change.
    """
    channels = np.stack([prompts.channel for prompts in context_set])
    positive = np.maximum(channels, 0)
    places = [n for n, x in enumerate(context_set) if not x.is_mask and positive[n].any()]
    if not smoothing or not places:
        return channels
    inside = sum(prompts.inside for prompts in context_set)
    outside = sum(prompts.outside for prompts in context_set)
    extent = np.array(Box.around((positive > positive.max() / 2).any(axis=0)).extent)
    if outside.any():
        width = _SLICE_SHARE * smoothing * extent
        share, known = _blurred(inside, width), _blurred(inside + outside, width)
        share /= known + _NO_EVIDENCE * known.max()
    else:
        share = _blurred(inside, smoothing * extent * _missing_extent(context_set))
        share = np.minimum(share * inside.sum() / (share * inside).sum(), 1)
    share *= 1 - np.minimum(np.maximum(-channels, 0).sum(axis=0), 1)
    smoothed = channels.copy()
    smoothed[places] = share if outside.any() else share + positive[places] / 2
    return np.where(channels < 0, channels, smoothed)


def _missing_extent(context_set: Sequence[PaintedPrompts]) -> float:
    """How much more few points are smoothed, because a structure extends beyond them.

    1 for many points, 2 for four; also 1 if there are other prompts.
    """
    count = sum(prompts.points for prompts in context_set)
    if any(not prompts.points and prompts.channel.max() > 0 for prompts in context_set):
        return 1.0
    return count / (count - 2) if count > 2 else 3.0


def _blurred(
    volume: Float[np.ndarray, "x y z"], width: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "x y z"]:
    return ndimage.gaussian_filter(volume, np.maximum(width, _LEAST_WIDTH), mode="constant")
