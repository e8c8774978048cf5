"""Prompts sampled from a structure's mask, as a person would place them."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage

from wsicl_jax.config import PromptKind
from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts.jitter import jittered
from wsicl_jax.prompts.kinds import Mask, Point, Prompt, Scribble, SliceMask


def draw(
    kind: PromptKind,
    mask: Mask,
    count: int,
    rng: np.random.Generator,
    *,
    jitter: float = 0.0,
) -> list[Prompt]:
    """Sample `count` distinct prompts of one kind on a structure.

    - `point`: one of the structure's voxels.
    - `box`: a tight 2D box on a slice that crosses it, along any axis.
    - `scribble`: on distinct slices, along any axis, a line from a voxel of the structure's
      largest part to the voxel farthest away, near the middle of the part.
    - `mask2d`: the structure on distinct slices, along any axis.
    - `box3d`, `mask`: its tight box, or the structure itself; one only, for any `count`.

    Slices with the same voxels count once. A small structure can have less than `count` prompts,
    an absent one has none. `jitter` is the amount of `jitter.jittered`; 0: exact prompts.
    """
    if not mask.any():
        return []
    prompts = _SAMPLERS[kind](mask, count, rng)
    return [jittered(prompt, mask, jitter, rng) for prompt in prompts] if jitter else prompts


def boxes_on_slices(mask: Mask, axis: int) -> Iterator[Box]:
    """The tight 2D box on each slice along an axis that crosses the mask, in ascending order."""
    one, other = (a for a in range(3) if a != axis)
    # Projections of the structure on each slice along either axis of the slice.
    projections = {a: mask.any(axis=b) for a, b in ((one, other), (other, one))}
    ends = {a: _ends(flat if a > axis else flat.T) for a, flat in projections.items()}
    for index in np.flatnonzero(projections[one].any(axis=0 if axis > one else 1)).tolist():
        start, stop = [index] * 3, [index + 1] * 3
        for a, (first, last) in ends.items():
            start[a], stop[a] = first[index], last[index] + 1
        yield Box(tuple(start), tuple(stop))


def scribble_on(mask: Mask, axis: int, index: int, start: int) -> Scribble:
    """A line on a slice, from voxel number `start` (modulo the size) of the mask's largest part.

    It ends at the voxel farthest away inside. Steps near the border cost more than steps in the
    middle.
    """
    from skimage.graph import MCP_Geometric  # slow to import, and few need it

    part = _largest_part(mask.take(index, axis))
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    places = np.argwhere(part)
    first = places[start % len(places)]
    paths = MCP_Geometric(np.where(part, 1 / np.maximum(depth, 1) ** 2, np.inf))
    costs, _ = paths.find_costs([tuple(first)])
    reached = np.where(np.isfinite(costs), costs, -1)
    line = paths.traceback(np.unravel_index(reached.argmax(), part.shape))
    return Scribble(tuple(_inserted(place, axis, index) for place in line))


def _points(mask: Mask, count: int, rng: np.random.Generator) -> list[Prompt]:
    voxels = np.flatnonzero(mask)
    chosen = rng.choice(len(voxels), min(count, len(voxels)), replace=False)
    places = np.column_stack(np.unravel_index(voxels[chosen], mask.shape))
    return [Point(*map(float, place)) for place in places]


def _boxes(mask: Mask, count: int, rng: np.random.Generator) -> list[Prompt]:
    # A structure one voxel wide can have the same box on slices of different axes.
    boxes = list(dict.fromkeys(box for axis in range(3) for box in boxes_on_slices(mask, axis)))
    chosen = rng.choice(len(boxes), min(count, len(boxes)), replace=False)
    return [boxes[i] for i in chosen]


def _slices(mask: Mask, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    # Slices of different axes with the same box have the same voxels: one is enough.
    places: dict[Box, tuple[int, int]] = {}
    for axis in range(3):
        for box in boxes_on_slices(mask, axis):
            places.setdefault(box, (axis, box.start[axis]))
    crossing = list(places.values())
    chosen = rng.choice(len(crossing), min(count, len(crossing)), replace=False)
    return [crossing[i] for i in chosen]


def _scribbles(mask: Mask, count: int, rng: np.random.Generator) -> list[Prompt]:
    slices = _slices(mask, count, rng)
    starts = rng.integers(mask.size, size=len(slices)).tolist()
    lines = [scribble_on(mask, *place, start) for place, start in zip(slices, starts, strict=True)]
    # In a thin or broken structure, slices of two axes can have the same line.
    return list(dict.fromkeys(lines))


def _slice_masks(mask: Mask, count: int, rng: np.random.Generator) -> list[Prompt]:
    return [SliceMask(axis, i, mask.take(i, axis)) for axis, i in _slices(mask, count, rng)]


def _box3d(mask: Mask, count: int, rng: np.random.Generator) -> list[Prompt]:
    box = Box.around(mask)
    return [box] if box else []


def _mask(mask: Mask, count: int, rng: np.random.Generator) -> list[Prompt]:
    return [mask]


_SAMPLERS: dict[PromptKind, Callable[[Mask, int, np.random.Generator], list[Prompt]]] = {
    "point": _points,
    "box": _boxes,
    "scribble": _scribbles,
    "mask2d": _slice_masks,
    "box3d": _box3d,
    "mask": _mask,
}


def _ends(filled: np.ndarray) -> tuple[list[int], list[int]]:
    """First and last filled index of each row."""
    last = filled.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    return filled.argmax(axis=1).tolist(), last.tolist()


def _largest_part(flat: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(flat, np.ones((3, 3)))
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax() if count > 1 else flat


def _inserted(place: tuple[int, int], axis: int, index: int) -> tuple[float, float, float]:
    x, y, z = map(float, np.insert(place, axis, index))
    return x, y, z
