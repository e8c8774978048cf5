"""Prompts on context images: painted to a channel, drawn from a label, and what they cost.

A prompt is a `Point`, an `axes.Box` (a 2D box has an extent of one voxel along one axis)
or a binary mask. All prompts of an image become one float channel of the image's size,
as the published method paints them (values in [0, 1], several prompts: the larger wins).
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from wsicl_jax.axes import Box, Shape3
from wsicl_jax.config import PromptKind
from wsicl_jax.errors import PromptError

SECONDS: dict[PromptKind, float] = {"point": 5.0, "box": 10.0, "mask": 1600.0}
"""What one prompt costs a person (the paper's approximation)."""

_PUBLISHED_RADIUS = 6.0
_PUBLISHED_SIDE = 128
_BOX_THICKNESS = 3


class Point(NamedTuple):
    """A position inside the structure, in voxels (centres at whole numbers)."""

    x: float
    y: float
    z: float


Mask = Bool[np.ndarray, "x y z"]
Prompt = Point | Box | Mask


def to_channel(prompts: Iterable[Prompt], shape: Shape3) -> Float[np.ndarray, "x y z"]:
    """All prompts of one image as its prompt channel, float32.

    - Point: a ball of radius 6 voxels at 128^3, scaled with the grid, whose values fall
      with the distance to its rim; clipped at the image's border.
    - Box: filled with 1; an axis of extent 1 is thickened to 3 voxels, moved inward at
      the border.
    - Mask: itself.

    Raises:
        PromptError: a prompt lies outside the image, is empty, or a mask has another shape.
    """
    channel = np.zeros(shape, np.float32)
    paint(channel, prompts)
    return channel


def paint(channel: Float[np.ndarray, "_ _ _"], prompts: Iterable[Prompt]) -> None:
    """`to_channel` into a channel of zeros that is there already."""
    shape = channel.shape
    for prompt in prompts:
        if isinstance(prompt, Box):
            channel[_thickened(prompt, shape).slices] = 1
        elif isinstance(prompt, Point):
            _paint_ball(channel, prompt)
        elif prompt.shape != tuple(shape):
            raise PromptError(f"mask is {prompt.shape} but its image {tuple(shape)}")
        elif not prompt.any():
            raise PromptError(
                f"mask marks no voxel at {tuple(shape)}; a structure too small to be seen there "
                "needs a point or a box"
            )
        else:
            np.maximum(channel, prompt, out=channel)


def draw(kind: PromptKind, mask: Mask, count: int, rng: np.random.Generator) -> Sequence[Prompt]:
    """`count` distinct prompts of one kind, as a person would put them on this structure.

    Points are drawn among the structure's voxels; boxes among the tight 2D boxes of the
    structure on the slices that cross it, along any axis; a mask is the structure itself,
    once. A structure with fewer voxels or boxes gets fewer prompts, an absent one none.
    """
    if not mask.any():
        return []
    if kind == "mask":
        return [mask]
    if kind == "point":
        voxels = np.flatnonzero(mask)
        chosen = rng.choice(len(voxels), min(count, len(voxels)), replace=False)
        places = np.column_stack(np.unravel_index(voxels[chosen], mask.shape))
        return [Point(*map(float, place)) for place in places]
    # Where the structure is one voxel wide, slices of different axes can have the same box.
    boxes = list(dict.fromkeys(box for axis in range(3) for box in _boxes_on_slices(mask, axis)))
    chosen = rng.choice(len(boxes), min(count, len(boxes)), replace=False)
    return [boxes[i] for i in chosen]


def ball_radius(shape: Shape3) -> float:
    """Radius of a point's ball in voxels: 6 at 128^3, in proportion to the mean side."""
    return _PUBLISHED_RADIUS * float(np.cbrt(np.prod(shape))) / _PUBLISHED_SIDE


@functools.lru_cache(maxsize=64)
def ball(radius: float) -> Float[np.ndarray, "d d d"]:
    """A ball valued by its distance transform over the transform's maximum: 1 at the centre.

    It is shared between calls, and therefore read-only.
    """
    reach = int(radius)
    offsets = np.arange(-reach - 1, reach + 2)
    squares = offsets[:, None, None] ** 2 + offsets[:, None] ** 2 + offsets**2
    distance = ndimage.distance_transform_edt(squares <= radius**2)[1:-1, 1:-1, 1:-1]
    values = (distance / distance.max()).astype(np.float32)
    values.setflags(write=False)
    return values


def _paint_ball(channel: np.ndarray, point: Point) -> None:
    centre = np.rint(np.asarray(point)).astype(int)
    if (centre < 0).any() or (centre >= channel.shape).any():
        raise PromptError(f"point {tuple(point)} lies outside the image of {channel.shape} voxels")
    values = ball(ball_radius(channel.shape))
    low = centre - values.shape[0] // 2
    start = np.maximum(low, 0)
    stop = np.minimum(low + values.shape[0], channel.shape)
    here = Box(tuple(start), tuple(stop)).slices
    there = Box(tuple(start - low), tuple(stop - low)).slices
    channel[here] = np.maximum(channel[here], values[there])


def _thickened(box: Box, shape: Shape3) -> Box:
    start, stop = [], []
    for low, high, size in zip(box.start, box.stop, shape, strict=True):
        if not 0 <= low < high <= size:
            raise PromptError(
                f"box {box.start} to {box.stop} is empty or leaves the image of {tuple(shape)} "
                "voxels"
            )
        if high - low == 1:
            thickness = min(_BOX_THICKNESS, size)
            low = min(max(low - thickness // 2, 0), size - thickness)
            high = low + thickness
        start.append(low)
        stop.append(high)
    return Box(tuple(start), tuple(stop))


def _boxes_on_slices(mask: np.ndarray, axis: int) -> Iterator[Box]:
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


def _ends(occupied: np.ndarray) -> tuple[list[int], list[int]]:
    """First and last occupied place of each row."""
    last = occupied.shape[1] - 1 - occupied[:, ::-1].argmax(axis=1)
    return occupied.argmax(axis=1).tolist(), last.tolist()
