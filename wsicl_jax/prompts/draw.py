"""Prompts drawn from a structure's mask, as a person would put them there."""

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
    """`count` distinct prompts of one kind on a structure.

    - `point`: among the structure's voxels.
    - `box`: among the tight 2D boxes on the slices that cross it, along any axis.
    - `scribble`: on distinct slices, along any axis, a line from a voxel of the structure's
      largest part there to the one farthest away, which keeps to the middle.
    - `mask2d`: the structure on distinct slices, along any axis.
    - `box3d`, `mask`: its tight box, the structure itself; once, whatever `count` is.

    Slices that show the same voxels count once. A structure with fewer voxels, boxes, slices or
    lines gets fewer prompts, an absent one none. With `jitter` they are then changed as
    `jitter.jittered` says.
    """
    if not mask.any():
        return []
    drawn = _RULES[kind](mask, count, rng)
    return [jittered(prompt, mask, jitter, rng) for prompt in drawn] if jitter else drawn


def boxes_on_slices(mask: Mask, axis: int) -> Iterator[Box]:
    """The tight 2D box on each slice along an axis that crosses the mask, ascending."""
    one, other = (a for a in range(3) if a != axis)
    # Where each slice has the structure, seen along either of its own axes.
    seen = {a: mask.any(axis=b) for a, b in ((one, other), (other, one))}
    ends = {a: _ends(flat if a > axis else flat.T) for a, flat in seen.items()}
    for index in np.flatnonzero(seen[one].any(axis=0 if axis > one else 1)).tolist():
        start, stop = [index] * 3, [index + 1] * 3
        for a, (first, last) in ends.items():
            start[a], stop[a] = first[index], last[index] + 1
        yield Box(tuple(start), tuple(stop))


def scribble_on(mask: Mask, axis: int, index: int, start: int) -> Scribble:
    """The line of a slice's largest part from one of its voxels, number `start` of these.

    The voxel is taken modulo their number. The line runs to the voxel farthest away inside, and
    steps near the rim cost more than those in the middle.
    """
    from skimage.graph import MCP_Geometric  # slow to import, and few need it

    part = _largest_part(mask.take(index, axis))
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    places = np.argwhere(part)
    first = places[start % len(places)]
    ways = MCP_Geometric(np.where(part, 1 / np.maximum(depth, 1) ** 2, np.inf))
    costs, _ = ways.find_costs([tuple(first)])
    reached = np.where(np.isfinite(costs), costs, -1)
    line = ways.traceback(np.unravel_index(reached.argmax(), part.shape))
    return Scribble(tuple(_inserted(place, axis, index) for place in line))


def _points(mask: Mask, count: int, rng: np.random.Generator) -> list[Prompt]:
    voxels = np.flatnonzero(mask)
    chosen = rng.choice(len(voxels), min(count, len(voxels)), replace=False)
    places = np.column_stack(np.unravel_index(voxels[chosen], mask.shape))
    return [Point(*map(float, place)) for place in places]


def _boxes(mask: Mask, count: int, rng: np.random.Generator) -> list[Prompt]:
    # Where the structure is one voxel wide, slices of different axes can have the same box.
    boxes = list(dict.fromkeys(box for axis in range(3) for box in boxes_on_slices(mask, axis)))
    chosen = rng.choice(len(boxes), min(count, len(boxes)), replace=False)
    return [boxes[i] for i in chosen]


def _slices(mask: Mask, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    # Slices of different axes with the same box show the same voxels: one of them is enough.
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
    drawn = [scribble_on(mask, *place, start) for place, start in zip(slices, starts, strict=True)]
    # Of a thin or broken structure, lines on slices of two axes can be one.
    return list(dict.fromkeys(drawn))


def _slice_masks(mask: Mask, count: int, rng: np.random.Generator) -> list[Prompt]:
    return [SliceMask(axis, i, mask.take(i, axis)) for axis, i in _slices(mask, count, rng)]


def _box3d(mask: Mask, count: int, rng: np.random.Generator) -> list[Prompt]:
    box = Box.around(mask)
    return [box] if box else []


def _mask(mask: Mask, count: int, rng: np.random.Generator) -> list[Prompt]:
    return [mask]


_RULES: dict[PromptKind, Callable[[Mask, int, np.random.Generator], list[Prompt]]] = {
    "point": _points,
    "box": _boxes,
    "scribble": _scribbles,
    "mask2d": _slice_masks,
    "box3d": _box3d,
    "mask": _mask,
}


def _ends(filled: np.ndarray) -> tuple[list[int], list[int]]:
    """First and last filled place of each row."""
    last = filled.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    return filled.argmax(axis=1).tolist(), last.tolist()


def _largest_part(flat: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(flat, np.ones((3, 3)))
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax() if count > 1 else flat


def _inserted(place: tuple[int, int], axis: int, index: int) -> tuple[float, float, float]:
    x, y, z = map(float, np.insert(place, axis, index))
    return x, y, z
