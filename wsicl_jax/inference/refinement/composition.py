"""Scores of the coarse prediction and of tiles, composed on the target's own grid in slabs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float16, UInt8, UInt16
from scipy import ndimage

from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.geometry.grids import WorkingGrid, resize_window, smoothed_for
from wsicl_jax.model.dual_branch import THRESHOLD

_SLAB_VOXELS = 2**22
"""Voxels of a slab, about."""


class TileScore(NamedTuple):
    """The network's output for one box of the turned target."""

    box: Box
    score: Float[np.ndarray, "X Y Z"]
    """On the tile's own grid; float32."""


class Scores(NamedTuple):
    """The network's output for one structure."""

    coarse: Float[np.ndarray, "X Y Z"]
    """On the working grid; float32."""
    tiles: Sequence[TileScore] = ()


class Composition:
    """A label map to which structures are added one after another; the higher score wins.

    Memory: the label map, one score if there are several structures, and the probabilities that
    are kept.
    """

    def __init__(
        self,
        shape: Shape3,
        crop: Box,
        grid: WorkingGrid,
        values: Mapping[str, int],
        overlap: float,
        *,
        probabilities: bool,
    ):
        """`shape` is that of the whole target; `grid` is of its box `crop`, and all outside of the
        box is background. `overlap` is the share of a tile's side over which tiles fade."""
        self._crop = crop
        self._grid = grid
        self._overlap = overlap
        self._values = values
        dtype = np.uint8 if max(values.values()) <= 255 else np.uint16
        self.label_map: UInt8[np.ndarray, "x y z"] | UInt16[np.ndarray, "x y z"]
        self.label_map = np.zeros(shape, dtype)
        self.probabilities: dict[str, Float16[np.ndarray, "x y z"]] = {}
        self._keep = probabilities
        self._best = np.zeros(grid.shape, np.float32) if len(values) > 1 else None

    def add(self, name: str, scores: Scores) -> None:
        """Add one structure."""
        labels = self._grid.turned(self.label_map[self._crop.slices])
        best = None if self._best is None else self._grid.turned(self._best)
        kept = None
        if self._keep:
            self.probabilities[name] = np.zeros(self.label_map.shape, np.float16)
            kept = self._grid.turned(self.probabilities[name][self._crop.slices])
        for slab, score in self._slabs(scores, everywhere=self._keep):
            here = slab.slices
            inside = score > THRESHOLD
            if best is not None:
                inside &= score > best[here]
                best[here][inside] = score[inside]
            labels[here][inside] = self._values[name]
            if kept is not None:
                kept[here] = _as_probability(score)

    def _slabs(
        self, scores: Scores, *, everywhere: bool
    ) -> Iterator[tuple[Box, Float[np.ndarray, "X Y Z"]]]:
        shape = self._grid.turned_shape
        smooth = smoothed_for(scores.coarse, shape)
        region = Box((0, 0, 0), shape) if everywhere else _above_cut(smooth, shape, scores.tiles)
        if region is None:
            return
        thickness = max(_SLAB_VOXELS // int(np.prod(region.extent[1:])), 1)
        for first in range(region.start[0], region.stop[0], thickness):
            last = min(first + thickness, region.stop[0])
            slab = Box((first, *region.start[1:]), (last, *region.stop[1:]))
            yield slab, self._blended(scores.tiles, smooth, slab)

    def _blended(self, tiles: Sequence[TileScore], smooth: np.ndarray, slab: Box) -> np.ndarray:
        shape = self._grid.turned_shape
        score = resize_window(smooth, shape, slab)
        near = [tile for tile in tiles if tile.box.common(slab) is not None]
        if not near:
            return score
        total, weight = np.zeros_like(score), np.zeros_like(score)
        for tile in near:
            common = tile.box.common(slab)
            in_tile = _moved(common, tile.box.start)
            ramps = fade(tile.box, shape, self._overlap)
            x, y, z = (r[s] for r, s in zip(ramps, in_tile.slices, strict=True))
            share = x[:, None, None] * y[:, None] * z
            in_slab = _moved(common, slab.start).slices
            extent = tile.box.extent
            refined = resize_window(smoothed_for(tile.score, extent), extent, in_tile)
            total[in_slab] += share * refined
            weight[in_slab] += share
        # Where tiles fade out, the coarse prediction has the rest of the weight.
        rest = np.maximum(1 - weight, 0)
        return (total + rest * score) / np.maximum(weight, 1)


def coarse_prediction_of(
    coarse: Float[np.ndarray, "X Y Z"], shape: Shape3, box: Box
) -> Float[np.ndarray, "X Y Z"]:
    """The coarse score within a box of the turned target, on a tile's grid."""
    cells = np.array(coarse.shape) / shape
    step = np.array(box.extent) / coarse.shape * cells
    first = (np.array(box.start) * cells) + (step - 1) / 2
    return ndimage.affine_transform(
        coarse, step, first, coarse.shape, order=1, mode="nearest", output=np.float32
    )


def fade(box: Box, shape: Shape3, overlap: float) -> list[Float[np.ndarray, " n"]]:
    """A tile's weight along each axis: 1 inside, falling to its faces, but not at the image's."""
    ramps = []
    for start, stop, size in zip(box.start, box.stop, shape, strict=True):
        n = stop - start
        position = np.arange(n) + 0.5
        width = max(overlap * n, 1.0)
        before = np.inf if start == 0 else position
        behind = np.inf if stop == size else n - position
        ramp = np.minimum(np.minimum(before, behind) / width, 1.0)
        ramps.append(np.broadcast_to(ramp, n).astype(np.float32))
    return ramps


def _as_probability(score: np.ndarray) -> np.ndarray:
    """In half precision, but on the same side of `THRESHOLD`."""
    rounded = np.clip(score, 0, 1).astype(np.float16)
    rounded[(score > THRESHOLD) & (rounded <= THRESHOLD)] = np.nextafter(
        np.float16(THRESHOLD), np.float16(1)
    )
    return rounded


def _above_cut(smooth: np.ndarray, shape: Shape3, tiles: Sequence[TileScore]) -> Box | None:
    """The box of all voxels that can be above `THRESHOLD`; interpolation reaches one cell."""
    boxes = [tile.box for tile in tiles]
    cells = Box.around(smooth > THRESHOLD)
    if cells is not None:
        size = np.array(shape) / smooth.shape
        start = np.floor(np.maximum((np.array(cells.start) - 1) * size, 0)).astype(int)
        stop = np.ceil(np.minimum((np.array(cells.stop) + 1) * size, shape)).astype(int)
        boxes.append(Box(tuple(start.tolist()), tuple(stop.tolist())))
    if not boxes:
        return None
    low = np.min([box.start for box in boxes], axis=0)
    high = np.max([box.stop for box in boxes], axis=0)
    return Box(tuple(low.tolist()), tuple(high.tolist()))


def _moved(box: Box, origin: Sequence[int]) -> Box:
    start, stop = np.subtract(box.start, origin), np.subtract(box.stop, origin)
    return Box(tuple(start.tolist()), tuple(stop.tolist()))
