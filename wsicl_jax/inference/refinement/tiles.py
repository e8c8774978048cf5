"""Refinement of a coarse prediction: the target in tiles, with matching crops of context images."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.config import InferenceConfig
from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.inference.network import CompiledNetwork
from wsicl_jax.inference.prepared_images import CroppedMask, PreparedContext, PreparedImage
from wsicl_jax.inference.refinement.composition import TileScore, coarse_prediction_of
from wsicl_jax.metrics.overlap import dice
from wsicl_jax.model.dual_branch import THRESHOLD
from wsicl_jax.prompts import context_inputs, enforced, has_positive, on_crop
from wsicl_jax.terminal.progress import track

_COARSER = 2 ** (1 / 3)
"""Factor by which tiles widen, as long as there are too many."""


class Tiles(NamedTuple):
    """Boxes of the turned target, all of one size."""

    boxes: list[Box]
    centre_mm: Float[np.ndarray, "3"]
    """Centre of the coarse prediction, in mm along the turned axes, from their first faces."""


def refine_structure(
    network: CompiledNetwork,
    name: str,
    target: PreparedImage,
    contexts: Sequence[PreparedContext],
    coarse: Float[np.ndarray, "X Y Z"],
    show: bool,
) -> tuple[list[TileScore], str]:
    """Scores of the tiles that agree with the coarse prediction, and a remark or "".

    `coarse` is the score on the working grid; `show` draws a progress bar.
    """
    config = network.config
    tiles = tiles_around(coarse > THRESHOLD, target, config)
    if tiles is None:
        return [], "not refined: the structure is too large for tiles of a finer resolution"
    kept = []
    with track(len(tiles.boxes), f"refining {name}", show=show) as bar:
        for box in tiles.boxes:
            score = _tile_score(network, target, contexts, box, tiles)
            if score is not None:
                expected = coarse_prediction_of(coarse, target.grid.turned_shape, box)
                if dice(score > THRESHOLD, expected > THRESHOLD) >= config.refine_min_dice:
                    kept.append(TileScore(box, score))
            bar.advance()
    skipped = len(tiles.boxes) - len(kept)
    if not skipped:
        return kept, ""
    return kept, (
        f"{skipped} of {len(tiles.boxes)} tiles of the refinement were skipped: they contain no "
        "prompt, or contradict the coarse prediction"
    )


def _tile_score(
    network: CompiledNetwork,
    target: PreparedImage,
    contexts: Sequence[PreparedContext],
    box: Box,
    tiles: Tiles,
) -> Float[np.ndarray, "X Y Z"] | None:
    """The network's output for a tile; None if no context image has a prompt in its crop."""
    size = target.grid.grid
    images, prompts, own = [], [], []
    tile = target.grid.cropped(box, size)
    for context in contexts:
        crop = tile
        if context.image is not target:
            crop = crop_of_context(context.image, context.prompt_bounds, box, tiles, target)
        whole = (p.whole() if isinstance(p, CroppedMask) else p for p in context.prompts)
        placed = [on_crop(prompt, crop) for prompt in whole]
        prompts.append([prompt for prompt in placed if prompt is not None])
        if context.image is target:
            own = prompts[-1]
        images.append(context.image.on(crop))
    if not any(map(has_positive, prompts)):
        return None
    weights = np.array([bool(placed) for placed in prompts], np.float32)
    on_tile = target.on(tile)
    inputs = context_inputs(on_tile, images, prompts, network.volume)
    score = network.predict(network.encode(on_tile), *inputs, weights)
    return enforced(score, own, THRESHOLD) if network.config.enforce_prompts else score


def tiles_around(
    mask: Bool[np.ndarray, "X Y Z"], target: PreparedImage, config: InferenceConfig
) -> Tiles | None:
    """Tiles over a mask on the working grid that is not empty; None if none would be finer.

    A tile has the target's own voxels, or voxels as fine as `refine_max_tiles` tiles allow.
    """
    grid = target.grid
    cells = np.array(grid.turned_shape) / grid.grid
    inside = Box.around(mask)
    if inside is None:
        raise ValueError("tiles need a mask that is not empty")
    low, high = np.array(inside.start) * cells, np.array(inside.stop) * cells
    centre_mm = (low + high) / 2 * target.spacing_mm
    margin = np.maximum(config.refine_margin * (high - low), cells)
    low = np.floor(np.maximum(low - margin, 0)).astype(int)
    high = np.ceil(np.minimum(high + margin, grid.turned_shape)).astype(int)
    factor = 1.0
    while factor < cells.max():
        size = np.minimum(np.rint(factor * np.array(grid.grid)).astype(int), grid.turned_shape)
        starts = [
            _starts(int(a), int(b), int(n), int(side), config.refine_overlap)
            for a, b, n, side in zip(low, high, size, grid.turned_shape, strict=True)
        ]
        if math.prod(map(len, starts)) <= config.refine_max_tiles * 8:
            corners = itertools.product(*starts)
            boxes = [Box(corner, tuple((corner + size).tolist())) for corner in corners]
            boxes = [box for box in boxes if _meets(mask, box, cells)]
            if len(boxes) <= config.refine_max_tiles:
                return Tiles(boxes, centre_mm)
        factor *= _COARSER
    return None


def crop_of_context(
    image: PreparedImage,
    prompt_bounds: tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]],
    tile: Box,
    tiles: Tiles,
    target: PreparedImage,
) -> WorkingGrid:
    """The crop of a context image that lies to its prompts as the tile to the coarse prediction.

    It has the tile's extent in mm. It is moved as little as needed to stay in the image and to
    touch the prompts. Along an axis where the image is shorter, it is the whole axis.
    """
    low, high = prompt_bounds
    extent_mm = np.array(tile.extent) * target.spacing_mm
    offset_mm = (np.add(tile.start, tile.stop) / 2) * target.spacing_mm - tiles.centre_mm
    extent = extent_mm / image.spacing_mm
    centre = (low + high) / 2 + offset_mm / image.spacing_mm
    # At least half a voxel of the prompts: a box on one slice is all of that slice.
    centre = np.clip(centre, low - extent / 2 + 0.5, high + extent / 2 - 0.5)
    return image.grid.cropped_around(centre, extent)


def _starts(low: int, high: int, size: int, side: int, overlap: float) -> list[int]:
    """Starts of tiles that cover a range of an axis evenly, within the image."""
    if high - low <= size:
        centred = (low + high - size) / 2
        return [int(np.clip(round(centred), 0, side - size))]
    count = math.ceil((high - low - size) / (size * (1 - overlap))) + 1
    return [round(x) for x in np.linspace(low, high - size, count)]


def _meets(mask: np.ndarray, box: Box, cells: np.ndarray) -> bool:
    """Whether a box of the turned target contains a part of a mask on the working grid."""
    start = np.floor(np.array(box.start) / cells).astype(int)
    stop = np.ceil(np.array(box.stop) / cells).astype(int)
    return bool(mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].any())
