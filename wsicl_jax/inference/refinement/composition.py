"""Scores of both looks put together on the target's own grid, slab by slab."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float16, UInt8, UInt16
from scipy import ndimage

from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.geometry.grids import WorkingGrid, resize_window, smoothed_for
from wsicl_jax.inference.refinement.tiles import fade
from wsicl_jax.model.dual_branch import THRESHOLD

_SLAB_VOXELS = 2**22
"""Voxels that are put together at a time."""


class TileScore(NamedTuple):
    """The second look at one box of the turned target."""

    box: Box
    score: Float[np.ndarray, "X Y Z"]
    """The network's output, on the tile's own grid; float32."""


class Scores(NamedTuple):
    """What the network says of one structure."""

    whole: Float[np.ndarray, "X Y Z"]
    """First look, on the working grid; float32."""
    tiles: Sequence[TileScore] = ()


class Composition:
    """A label map that structures are put into one after another; the higher score wins.

    Memory is that of the label map, of one score where there are several structures, and of the
    probabilities that are asked for.
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
        """`shape` is that of the whole target; `grid` is of the box `crop` of it. Outside of that
        nothing is found."""
        self._crop = crop
        self._grid = grid
        self._overlap = overlap
        self._values = values
        kind = np.uint8 if max(values.values()) <= 255 else np.uint16
        self.label_map: UInt8[np.ndarray, "x y z"] | UInt16[np.ndarray, "x y z"]
        self.label_map = np.zeros(shape, kind)
        self.probabilities: dict[str, Float16[np.ndarray, "x y z"]] = {}
        self._keep = probabilities
        self._best = np.zeros(grid.shape, np.float32) if len(values) > 1 else None

    def add(self, name: str, scores: Scores) -> None:
        """Put one structure in."""
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
        smooth = smoothed_for(scores.whole, shape)
        region = Box((0, 0, 0), shape) if everywhere else _above_cut(smooth, shape, scores.tiles)
        if region is None:
            return
        thick = max(_SLAB_VOXELS // int(np.prod(region.extent[1:])), 1)
        for first in range(region.start[0], region.stop[0], thick):
            last = min(first + thick, region.stop[0])
            slab = Box((first, *region.start[1:]), (last, *region.stop[1:]))
            yield slab, self._blended(scores, smooth, slab)

    def _blended(self, scores: Scores, smooth: np.ndarray, slab: Box) -> np.ndarray:
        shape = self._grid.turned_shape
        score = resize_window(smooth, shape, slab)
        near = [t for t in scores.tiles if t.box.common(slab) is not None]
        if not near:
            return score
        total, weight = np.zeros_like(score), np.zeros_like(score)
        for tile in near:
            common = tile.box.common(slab)
            there = _moved(common, tile.box.start)
            ramps = fade(tile.box, shape, self._overlap)
            x, y, z = (r[s] for r, s in zip(ramps, there.slices, strict=True))
            share = x[:, None, None] * y[:, None] * z
            here = _moved(common, slab.start).slices
            extent = tile.box.extent
            closer = resize_window(smoothed_for(tile.score, extent), extent, there)
            total[here] += share * closer
            weight[here] += share
        # Where tiles fade out, the first look takes what they leave.
        left = np.maximum(1 - weight, 0)
        return (total + left * score) / np.maximum(weight, 1)


def coarse_prediction_of(
    whole: Float[np.ndarray, "X Y Z"], shape: Shape3, box: Box
) -> Float[np.ndarray, "X Y Z"]:
    """What the first look says of a box of the turned target, on a tile's grid."""
    cells = np.array(whole.shape) / shape
    step = np.array(box.extent) / whole.shape * cells
    first = (np.array(box.start) * cells) + (step - 1) / 2
    return ndimage.affine_transform(
        whole, step, first, whole.shape, order=1, mode="nearest", output=np.float32
    )


def _as_probability(score: np.ndarray) -> np.ndarray:
    """In half precision, but on the same side of `THRESHOLD`."""
    rounded = np.clip(score, 0, 1).astype(np.float16)
    rounded[(score > THRESHOLD) & (rounded <= THRESHOLD)] = np.nextafter(
        np.float16(THRESHOLD), np.float16(1)
    )
    return rounded


def _above_cut(smooth: np.ndarray, shape: Shape3, tiles: Sequence[TileScore]) -> Box | None:
    """The box of all voxels that may be above `THRESHOLD`; interpolation reaches one cell."""
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
