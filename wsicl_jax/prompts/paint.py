"""Rasterization: the prompts of one image as its prompt channel, as in the published method."""

import functools
import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from wsicl_jax.errors import PromptError
from wsicl_jax.geometry.axes import Box, Index3, Shape3
from wsicl_jax.prompts.kinds import Negative, Point, Prompt, Scribble, SliceMask

_PUBLISHED_RADIUS = 6.0
_PUBLISHED_SIDE = 128
_THICKNESS = 3
_SCRIBBLE_SHARE = 0.5
"""Radius of a scribble, as a share of a point's radius."""


def to_channel(prompts: Iterable[Prompt], shape: Shape3) -> Float[np.ndarray, "x y z"]:
    """All prompts of one image as its prompt channel: float32 in [-1, 1], the maximum of all.

    - Point: a ball of radius 6 voxels at 128^3, scaled with the grid. Its values fall from the
      centre to the rim; it is clipped at the image's border.
    - Scribble: a ball of half the radius at every step of its path.
    - Box: filled with 1. An extent of 1 along an axis is thickened to 3 voxels, moved inward at
      the border.
    - Mask on a slice: itself, thickened like a box.
    - Mask: itself.
    - Negative point or scribble: the same ball with negative values, in place of all others there.

    Raises:
        PromptError: a prompt lies outside the image, is empty, or a mask has another shape.
    """
    prompts = list(prompts)
    channel = np.zeros(shape, np.float32)
    _paint(channel, (prompt for prompt in prompts if not isinstance(prompt, Negative)))
    if negative := [prompt.prompt for prompt in prompts if isinstance(prompt, Negative)]:
        excluded = np.zeros(shape, np.float32)
        _paint(excluded, negative)
        channel = np.where(excluded > 0, -excluded, channel)
    return channel


def _paint(channel: Float[np.ndarray, "_ _ _"], prompts: Iterable[Prompt]) -> None:
    for prompt in prompts:
        if isinstance(prompt, Box):
            channel[_thickened(prompt, channel.shape).slices] = 1
        elif isinstance(prompt, Point):
            _paint_ball(channel, prompt, ball_radius(channel.shape))
        elif isinstance(prompt, Scribble):
            _paint_scribble(channel, prompt)
        elif isinstance(prompt, SliceMask):
            _paint_slice(channel, prompt)
        else:
            _paint_mask(channel, prompt)


def ball_radius(shape: Shape3) -> float:
    """Radius of a point's ball in voxels: 6 at 128^3, in proportion to the mean side."""
    return _PUBLISHED_RADIUS * float(np.cbrt(np.prod(shape))) / _PUBLISHED_SIDE


@functools.lru_cache(maxsize=64)
def ball(radius: float) -> Float[np.ndarray, "d d d"]:
    """A ball with its normalised distance transform as values: 1 at the centre.

    The array is shared between calls, and therefore read-only.
    """
    reach = int(radius)
    offsets = np.arange(-reach - 1, reach + 2)
    squares = offsets[:, None, None] ** 2 + offsets[:, None] ** 2 + offsets**2
    distance = ndimage.distance_transform_edt(squares <= radius**2)[1:-1, 1:-1, 1:-1]
    values = (distance / distance.max()).astype(np.float32)
    values.setflags(write=False)
    return values


def _paint_ball(channel: np.ndarray, position: Point, radius: float) -> None:
    centre = np.rint(np.asarray(position)).astype(int)
    if (centre < 0).any() or (centre >= channel.shape).any():
        raise PromptError(
            f"point {tuple(position)} lies outside the image of {channel.shape} voxels"
        )
    values = ball(radius)
    low = centre - values.shape[0] // 2
    start = np.maximum(low, 0)
    stop = np.minimum(low + values.shape[0], channel.shape)
    here = Box(tuple(start), tuple(stop)).slices
    in_ball = Box(tuple(start - low), tuple(stop - low)).slices
    channel[here] = np.maximum(channel[here], values[in_ball])


def _paint_scribble(channel: np.ndarray, scribble: Scribble) -> None:
    if not scribble.path:
        raise PromptError("scribble has no position; give one or more")
    radius = _SCRIBBLE_SHARE * ball_radius(channel.shape)
    for position in voxels_of(scribble):
        _paint_ball(channel, Point(*map(float, position)), radius)


def voxels_of(prompt: Point | Scribble) -> list[Index3]:
    """The voxels that a point or a scribble passes, in order, each once."""
    scribble = prompt if isinstance(prompt, Scribble) else Scribble((prompt,))
    return list(dict.fromkeys(_steps(scribble)))


def _steps(scribble: Scribble) -> Iterator[Index3]:
    """The voxels along a scribble, in order."""
    path = [np.asarray(position) for position in scribble.path]
    yield _voxel(path[0])
    for a, b in itertools.pairwise(path):
        # A step of one voxel is one piece, despite rounding errors.
        pieces = max(int(np.ceil(np.abs(b - a).max() - 1e-9)), 1)
        for share in np.arange(1, pieces + 1) / pieces:
            yield _voxel(a + share * (b - a))


def _voxel(position: np.ndarray) -> Index3:
    # `rint` rounds 0.5 and 1.5 to voxels that do not touch.
    x, y, z = np.floor(position + 0.5).astype(int).tolist()
    return x, y, z


def _paint_slice(channel: np.ndarray, prompt: SliceMask) -> None:
    flat = tuple(size for axis, size in enumerate(channel.shape) if axis != prompt.axis)
    if prompt.mask.shape != flat:
        raise PromptError(
            f"mask on a slice across axis {prompt.axis} is {prompt.mask.shape} but its image "
            f"{tuple(channel.shape)}"
        )
    if not prompt.mask.any():
        raise PromptError(f"mask on slice {prompt.index} across axis {prompt.axis} marks no voxel")
    here = _thickened(prompt.box, channel.shape).slices
    channel[here] = np.maximum(channel[here], np.expand_dims(prompt.mask, prompt.axis))


def _paint_mask(channel: np.ndarray, mask: np.ndarray) -> None:
    if mask.shape != tuple(channel.shape):
        raise PromptError(f"mask is {mask.shape} but its image {tuple(channel.shape)}")
    if not mask.any():
        raise PromptError(
            f"mask marks no voxel at {tuple(mask.shape)}; a structure that is too small for this "
            "grid needs a point or a box"
        )
    np.maximum(channel, mask, out=channel)


def _thickened(box: Box, shape: Shape3) -> Box:
    start, stop = [], []
    for low, high, size in zip(box.start, box.stop, shape, strict=True):
        if not 0 <= low < high <= size:
            raise PromptError(
                f"box {box.start} to {box.stop} is empty or leaves the image of {tuple(shape)} "
                "voxels"
            )
        if high - low == 1:
            thickness = min(_THICKNESS, size)
            low = min(max(low - thickness // 2, 0), size - thickness)
            high = low + thickness
        start.append(low)
        stop.append(high)
    return Box(tuple(start), tuple(stop))
