"""The prompts of one image as arrays: its prompt channel, and how often each voxel is inside."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.prompts.kinds import Negative, Point, Prompt, Scribble, SliceMask, kind_of
from wsicl_jax.prompts.paint import to_channel


class PaintedPrompts(NamedTuple):
    """The prompts of one image on a grid, before smoothing."""

    channel: Float[np.ndarray, "x y z"]
    """What they mark, as `to_channel` paints it."""
    inside: Float[np.ndarray, "x y z"]
    """The number of positive prompts that contain each voxel."""
    outside: Float[np.ndarray, "x y z"]
    """The number of prompts that show that a voxel is not in the structure: it is beside a box or
    mask on the same slice, or outside a 3D box or a mask of the whole structure."""
    is_mask: bool
    """Whether a mask of the whole structure is among them."""
    points: int
    """Number of points, if there are no other positive prompts; 0 otherwise."""


def painted(prompts: Sequence[Prompt], shape: Shape3) -> PaintedPrompts:
    """The prompts of one image on its grid.

    Raises:
        PromptError: as `to_channel`.
    """
    channel = to_channel(prompts, shape)
    inside, outside = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    positive = [prompt for prompt in prompts if not isinstance(prompt, Negative)]
    for prompt in positive:
        if isinstance(prompt, Point | Scribble):
            inside += to_channel([prompt], shape)
        else:
            marked, slices = _marked(prompt, shape)
            inside += marked
            outside[slices] += ~marked[slices]
    only_points = all(isinstance(prompt, Point) for prompt in positive)
    points = len(positive) if only_points else 0
    return PaintedPrompts(channel, inside, outside, contains_mask(prompts), points)


def contains_mask(prompts: Sequence[Prompt]) -> bool:
    """Whether a mask of the whole structure is among the prompts of an image."""
    return "mask" in map(kind_of, prompts)


def _marked(
    prompt: Box | SliceMask | np.ndarray, shape: Shape3
) -> tuple[np.ndarray, tuple[slice, ...]]:
    """The voxels in a box or mask, and the part of the image about which it tells everything."""
    everywhere = tuple(slice(0, side) for side in shape)
    if isinstance(prompt, SliceMask):
        marked = np.zeros(shape, bool)
        marked[prompt.box.slices] = np.expand_dims(prompt.mask, prompt.axis)
        return marked, prompt.box.slices
    if not isinstance(prompt, Box):
        return np.asarray(prompt, bool), everywhere
    marked = np.zeros(shape, bool)
    marked[prompt.slices] = True
    thin = [axis for axis, extent in enumerate(prompt.extent) if extent == 1]
    if len(thin) > 1:  # slices of several axes contain it; on which it was drawn is not known
        return marked, prompt.slices
    return marked, tuple(
        prompt.slices[axis] if axis in thin else whole for axis, whole in enumerate(everywhere)
    )
