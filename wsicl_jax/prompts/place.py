"""Prompts from an image's own voxels to those of a working grid."""

import numpy as np
from jaxtyping import Bool

from wsicl_jax.axes import Box
from wsicl_jax.errors import PromptError
from wsicl_jax.geometry import WorkingGrid
from wsicl_jax.prompts.kinds import Point, Prompt, Scribble, SliceMask


def on_grid(
    prompt: Prompt, grid: WorkingGrid
) -> Point | Box | Scribble | SliceMask | Bool[np.ndarray, "X Y Z"]:
    """A prompt of the volume on its working grid.

    A mask, or one on a slice, that no voxel's centre of the working grid falls into is marked by
    the voxel nearest to its centroid, so that a small structure is not lost.

    Raises:
        PromptError: the prompt lies outside the volume, is empty, or is a mask of another shape.
    """
    if isinstance(prompt, Point):
        return Point(*grid.point(prompt))
    if isinstance(prompt, Scribble):
        return Scribble(tuple(grid.point(position) for position in prompt.path))
    if isinstance(prompt, Box):
        return grid.box(prompt)
    if isinstance(prompt, SliceMask):
        return _slice_on_grid(prompt, grid)
    if np.shape(prompt) != grid.shape:
        raise PromptError(f"mask is {np.shape(prompt)} but its image {grid.shape}")
    return _mask_on_grid(np.asarray(prompt, bool), grid)


def _mask_on_grid(mask: np.ndarray, grid: WorkingGrid) -> np.ndarray:
    placed = grid.label(mask)
    if not placed.any() and mask.any():
        placed = placed.copy()
        placed[_voxel(grid.point(np.argwhere(mask).mean(axis=0).tolist()))] = True
    return placed


def _slice_on_grid(prompt: SliceMask, grid: WorkingGrid) -> SliceMask:
    if not 0 <= prompt.index < grid.shape[prompt.axis]:
        raise PromptError(
            f"slice {prompt.index} across axis {prompt.axis} lies outside the image of "
            f"{grid.shape} voxels"
        )
    if prompt.mask.shape != tuple(np.delete(grid.shape, prompt.axis)):
        raise PromptError(
            f"mask on a slice across axis {prompt.axis} is {prompt.mask.shape} but its image "
            f"{grid.shape}"
        )
    axis = grid.order.index(prompt.axis)
    index = grid.box(prompt.box).start[axis]
    # The slice is repeated along its axis (a view), so that it cannot fall between two voxels.
    whole = np.broadcast_to(np.expand_dims(prompt.mask, prompt.axis), grid.shape)
    placed = grid.label(whole).take(index, axis)
    if not placed.any() and prompt.mask.any():
        centre = np.insert(np.argwhere(prompt.mask).mean(axis=0), prompt.axis, prompt.index)
        placed[tuple(np.delete(_voxel(grid.point(centre.tolist())), axis))] = True
    return SliceMask(axis, index, placed)


def _voxel(position: tuple[float, float, float]) -> tuple[int, int, int]:
    x, y, z = (int(np.floor(value + 0.5)) for value in position)
    return x, y, z
