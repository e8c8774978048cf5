"""Prompts in voxels of an image, converted to voxels of a working grid or of a crop."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.errors import PromptError
from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.prompts.kinds import Negative, Point, Prompt, Scribble, SliceMask, positions_of


def on_grid(
    prompt: Prompt, grid: WorkingGrid
) -> Point | Box | Scribble | SliceMask | Negative | Bool[np.ndarray, "X Y Z"]:
    """A prompt of the volume on its working grid.

    A mask that contains no voxel centre of the working grid becomes the voxel nearest to its
    centroid, so that a small structure is not lost.

    Raises:
        PromptError: the prompt lies outside the volume, is empty, or is a mask of another shape.
    """
    if isinstance(prompt, Negative):
        return Negative(on_grid(prompt.prompt, grid))
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


def on_crop(
    prompt: Prompt, grid: WorkingGrid
) -> Point | Box | Scribble | SliceMask | Negative | Bool[np.ndarray, "X Y Z"] | None:
    """The part of a prompt in the box that `grid` covers, on that grid; None if it is empty.

    Raises:
        PromptError: a mask is of another shape than the volume.
    """
    if isinstance(prompt, Negative):
        placed = on_crop(prompt.prompt, grid)
        return None if placed is None else Negative(placed)
    covered = _in_volume(grid)
    if isinstance(prompt, Point):
        return on_grid(prompt, grid) if _inside(prompt, covered) else None
    if isinstance(prompt, Scribble):
        path = tuple(position for position in prompt.path if _inside(position, covered))
        return on_grid(Scribble(path), grid) if path else None
    if isinstance(prompt, Box):
        common = prompt.common(covered)
        return None if common is None else grid.box(common)
    if isinstance(prompt, SliceMask):
        if not covered.start[prompt.axis] <= prompt.index < covered.stop[prompt.axis]:
            return None
        within = tuple(np.delete(np.array(covered.slices, object), prompt.axis))
        inside = np.zeros_like(prompt.mask)
        inside[within] = prompt.mask[within]
        return _slice_on_grid(prompt._replace(mask=inside), grid) if inside.any() else None
    if np.shape(prompt) != grid.shape:
        raise PromptError(f"mask is {np.shape(prompt)} but its image {grid.shape}")
    placed = grid.label(np.asarray(prompt, bool))
    return placed if placed.any() else None


def bounds(prompt: Prompt) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """The lower and upper faces of the smallest box around a prompt that is not empty, in voxels.

    The centre of a voxel is at a whole number, and its faces half a voxel before and behind.
    """
    if isinstance(prompt, Negative):
        return bounds(prompt.prompt)
    if isinstance(prompt, Point | Scribble):
        path = positions_of(prompt)
        return path.min(axis=0) - 0.5, path.max(axis=0) + 0.5
    if isinstance(prompt, SliceMask):
        flat = np.argwhere(prompt.mask)
        low, high = flat.min(axis=0), flat.max(axis=0)
        ends = [np.insert(end, prompt.axis, prompt.index) for end in (low, high)]
        return ends[0] - 0.5, ends[1] + 0.5
    box = prompt if isinstance(prompt, Box) else Box.around(np.asarray(prompt))
    if box is None:
        raise PromptError("mask is empty")
    return np.array(box.start) - 0.5, np.array(box.stop) - 0.5


def turned_bounds(
    prompts: Sequence[Prompt], grid: WorkingGrid
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Lower and upper faces of the box around prompts, of which there is at least one.

    Negative prompts count only where there are no others. In voxels of the volume turned to RAS+,
    counted from its first faces.
    """
    positive = [prompt for prompt in prompts if not isinstance(prompt, Negative)]
    each = [bounds(prompt) for prompt in positive or prompts]
    low = np.min([a for a, _ in each], axis=0) + 0.5
    high = np.max([b for _, b in each], axis=0) + 0.5
    ends = np.array(
        [
            (size - high[axis], size - low[axis]) if flip else (low[axis], high[axis])
            for axis, flip, size in zip(grid.order, grid.flips, grid.turned_shape, strict=True)
        ]
    )
    return ends[:, 0], ends[:, 1]


def box_around(prompts: Sequence[Prompt], shape: Shape3) -> Box | None:
    """The smallest box of voxels of a volume around its prompts; None without prompts."""
    around = None
    for prompt in prompts:
        low, high = (np.floor(face + 1).astype(int) for face in bounds(prompt))
        # A point on the last face belongs to the last voxel.
        low = np.clip(low, 0, np.subtract(shape, 1))
        high = np.clip(high, low + 1, shape)
        box = Box(tuple(low.tolist()), tuple(high.tolist()))
        around = box if around is None else around.joined(box)
    return around


def _in_volume(grid: WorkingGrid) -> Box:
    """The box that a grid covers, in voxels and axes of the volume."""
    start, stop = [0, 0, 0], [0, 0, 0]
    for axis, flip, size, low, high in zip(
        grid.order,
        grid.flips,
        grid.turned_shape,
        grid.covered.start,
        grid.covered.stop,
        strict=True,
    ):
        start[axis], stop[axis] = (size - high, size - low) if flip else (low, high)
    return Box(tuple(start), tuple(stop))


def _inside(position: Sequence[float], box: Box) -> bool:
    ends = zip(position, box.start, box.stop, strict=True)
    return all(low - 0.5 <= value <= high - 0.5 for value, low, high in ends)


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
    index = grid.box(prompt.box.common(_in_volume(grid))).start[axis]
    # The slice is repeated along its axis (a view), so it cannot fall between two voxels.
    whole = np.broadcast_to(np.expand_dims(prompt.mask, prompt.axis), grid.shape)
    placed = grid.label(whole).take(index, axis)
    if not placed.any() and prompt.mask.any():
        centre = np.insert(np.argwhere(prompt.mask).mean(axis=0), prompt.axis, prompt.index)
        placed[tuple(np.delete(_voxel(grid.point(centre.tolist())), axis))] = True
    return SliceMask(axis, index, placed)


def _voxel(position: tuple[float, float, float]) -> tuple[int, int, int]:
    x, y, z = (int(np.floor(value + 0.5)) for value in position)
    return x, y, z
