"""Where a second look goes: tiles of the target around what the first look found, and views of
the context images that show the same place at the same size."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.config import InferenceConfig
from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.inference.prepared_image import PreparedImage
from wsicl_jax.prompts import Prompt, bounds

_COARSER = 2 ** (1 / 3)
"""Tiles that are too many become wider by this factor at a time."""


class Tiles(NamedTuple):
    """Boxes of the turned target, one size for all."""

    boxes: list[Box]
    centre_mm: Float[np.ndarray, "3"]
    """Middle of what the first look found, along the turned axes, from their first faces."""


def tiles_around(
    found: Bool[np.ndarray, "X Y Z"], target: PreparedImage, config: InferenceConfig
) -> Tiles | None:
    """Tiles over a mask on the working grid that is not empty; None if none would show more.

    A tile's voxels are the target's own, or as close to them as `refine_max_tiles` tiles allow.
    """
    grid = target.grid
    cells = np.array(grid.turned_shape) / grid.grid
    inside = Box.around(found)
    if inside is None:
        raise ValueError("nothing was found that tiles could go around")
    low, high = np.array(inside.start) * cells, np.array(inside.stop) * cells
    centre_mm = (low + high) / 2 * target.spacing_mm
    reach = np.maximum(config.refine_margin * (high - low), cells)
    low = np.floor(np.maximum(low - reach, 0)).astype(int)
    high = np.ceil(np.minimum(high + reach, grid.turned_shape)).astype(int)
    wider = 1.0
    while wider < cells.max():
        size = np.minimum(np.rint(wider * np.array(grid.grid)).astype(int), grid.turned_shape)
        starts = [
            _starts(int(a), int(b), int(n), int(whole), config.refine_overlap)
            for a, b, n, whole in zip(low, high, size, grid.turned_shape, strict=True)
        ]
        if math.prod(map(len, starts)) <= config.refine_max_tiles * 8:
            corners = itertools.product(*starts)
            boxes = [Box(corner, tuple((corner + size).tolist())) for corner in corners]
            boxes = [box for box in boxes if _shows(found, box, cells)]
            if len(boxes) <= config.refine_max_tiles:
                return Tiles(boxes, centre_mm)
        wider *= _COARSER
    return None


def fade(box: Box, whole: Shape3, overlap: float) -> list[Float[np.ndarray, " n"]]:
    """A tile's weight along each axis: 1 inside, falling to its faces, but not at the image's."""
    ramps = []
    for start, stop, size in zip(box.start, box.stop, whole, strict=True):
        n = stop - start
        position = np.arange(n) + 0.5
        width = max(overlap * n, 1.0)
        before = np.inf if start == 0 else position
        behind = np.inf if stop == size else n - position
        ramp = np.minimum(np.minimum(before, behind) / width, 1.0)
        ramps.append(np.broadcast_to(ramp, n).astype(np.float32))
    return ramps


class PromptExtent(NamedTuple):
    """The box around all prompts of an image, in voxels of the turned image from its first
    faces."""

    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]


def extent_of_prompts(prompts: Sequence[Prompt], grid: WorkingGrid) -> PromptExtent:
    """The box around prompts in an image's own voxels, of which there is at least one."""
    each = [bounds(prompt) for prompt in prompts]
    low = np.min([a for a, _ in each], axis=0) + 0.5
    high = np.max([b for _, b in each], axis=0) + 0.5
    turned = []
    for axis, flip, size in zip(grid.order, grid.flips, grid.turned_shape, strict=True):
        a, b = low[axis], high[axis]
        turned.append((size - b, size - a) if flip else (a, b))
    ends = np.array(turned)
    return PromptExtent(ends[:, 0], ends[:, 1])


def crop_of_context(
    context: PreparedImage, prompted: PromptExtent, tile: Box, tiles: Tiles, target: PreparedImage
) -> WorkingGrid:
    """The part of a context image that lies to its prompts as the tile to what was found.

    It has the tile's extent in mm, and is moved as little as needed to stay in the image and to
    touch the prompts. Along an axis where the image is shorter, it is the whole axis.
    """
    spacing_mm = target.spacing_mm
    extent_mm = np.array(tile.extent) * spacing_mm
    offset_mm = (np.add(tile.start, tile.stop) / 2) * spacing_mm - tiles.centre_mm
    low, high = prompted
    extent = extent_mm / context.spacing_mm
    middle = (low + high) / 2 + offset_mm / context.spacing_mm
    # Half a voxel of the prompts at least: a box on one slice is all of that slice.
    middle = np.clip(middle, low - extent / 2 + 0.5, high + extent / 2 - 0.5)
    return context.grid.view(middle, extent)


def _starts(low: int, high: int, size: int, whole: int, overlap: float) -> list[int]:
    """Where tiles of a size start that cover a range of an axis evenly, inside of the image."""
    if high - low <= size:
        middle = (low + high - size) / 2
        return [int(np.clip(round(middle), 0, whole - size))]
    count = math.ceil((high - low - size) / (size * (1 - overlap))) + 1
    return [round(x) for x in np.linspace(low, high - size, count)]


def _shows(found: np.ndarray, box: Box, cells: np.ndarray) -> bool:
    start = np.floor(np.array(box.start) / cells).astype(int)
    stop = np.ceil(np.array(box.stop) / cells).astype(int)
    return bool(found[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].any())
