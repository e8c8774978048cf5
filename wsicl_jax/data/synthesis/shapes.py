"""Shapes on a voxel grid, each computed only in its bounding box."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from wsicl_jax.data.synthesis.fields import along, centres, smooth_field
from wsicl_jax.geometry.axes import Shape3

_MAX_WAVE = 2.0
"""Limit of the field of a wavy surface, in standard deviations."""


class Region(NamedTuple):
    """The voxels of a shape: a mask within a box of the volume."""

    box: tuple[slice, slice, slice]
    mask: Bool[np.ndarray, "x y z"]


def solid(
    rng: np.random.Generator,
    shape: Shape3,
    centre: Float[np.ndarray, "3"],
    radii: Float[np.ndarray, "3"],
    *,
    power: float = 2.0,
    wavy: float = 0.0,
    bend: float = 0.0,
    turn: Float[np.ndarray, "3 3"] | None = None,
) -> Region | None:
    """A superquadric with a wavy surface, bent like a kidney; None if it has no voxel.

    Powers of 1.2, 2 and 6 give an octahedron, an ellipsoid and almost a cuboid. `wavy` is the
    height of the waves and `bend` that of the bend, as shares of the radii. The rows of `turn` are
    the axes; without it, the rotation is random.
    """
    turn = random_turn(rng) if turn is None else turn
    bound = (1 + wavy * _MAX_WAVE) ** (1 / power)
    # The furthest point of a superquadric along an axis follows from the dual norm.
    reach = np.abs(turn) * radii[:, None] * bound
    reach[1] *= 1 + abs(bend) * bound
    dual = power / (power - 1)
    box = _box(shape, centre, (reach**dual).sum(0) ** (1 / dual))
    if box is None:
        return None
    offsets = _offsets(shape, box, centre)
    local = [
        sum(np.float32(w) * o for w, o in zip(row, offsets, strict=True)) / np.float32(radius)
        for row, radius in zip(turn, radii, strict=True)
    ]
    if bend:
        local[1] = local[1] - np.float32(bend) * (local[0] * local[0] - np.float32(0.4))
    total = sum(_power(values, power) for values in local)
    limit = np.float32(1)
    if wavy:
        waves = smooth_field(rng, total.shape, 1, frequency=1.3)[0]
        limit = 1 + np.float32(wavy) * np.clip(waves, -_MAX_WAVE, _MAX_WAVE)
    mask = total < limit
    return Region(box, mask) if mask.any() else None


def tube(
    shape: Shape3, points: Float[np.ndarray, "n 3"], radii: Float[np.ndarray, "n"]
) -> Region | None:
    """Balls of these radii along a line of points; None if they have no voxel."""
    low, high = (points - radii[:, None]).min(0), (points + radii[:, None]).max(0)
    box = _box(shape, (low + high) / 2, (high - low) / 2)
    if box is None:
        return None
    mask = np.zeros([s.stop - s.start for s in box], bool)
    for point, radius in zip(points, radii, strict=True):
        ball = _box(shape, point, np.full(3, radius))
        if ball is None:
            continue
        x, y, z = _offsets(shape, ball, point)
        inside = x * x + y * y + z * z < np.float32(radius * radius)
        view = tuple(
            slice(b.start - o.start, b.stop - o.start) for b, o in zip(ball, box, strict=True)
        )
        mask[view] |= inside
    return Region(box, mask) if mask.any() else None


def walk(
    rng: np.random.Generator,
    start: Float[np.ndarray, "3"],
    heading: Float[np.ndarray, "3"],
    *,
    length: float,
    step: float,
    curl: float,
) -> Float[np.ndarray, "n 3"]:
    """Points of a line with gradual turns of about `curl` radians per unit of length."""
    count = max(int(length / step), 2)
    points = np.empty((count, 3))
    position, drift = start, rng.normal(0, curl, 3)
    for number in range(count):
        points[number] = position
        drift = 0.9 * drift + rng.normal(0, curl * 0.45, 3)
        heading = heading + drift * step
        heading = heading / np.linalg.norm(heading)
        position = position + heading * step
    return points


def cells(rng: np.random.Generator, region: Region, count: int) -> list[Region]:
    """The region in `count` parts with curved borders; parts without voxels are dropped."""
    voxels = np.argwhere(region.mask)
    # Of a few samples the one with the largest distance of seeds: no part is a sliver.
    samples = [voxels[rng.choice(len(voxels), count)] for _ in range(6)]
    seeds = max(samples, key=_smallest_gap)
    nearest = np.full(region.mask.shape, np.inf, np.float32)
    owner = np.zeros(region.mask.shape, np.uint8)
    sides = region.mask.shape
    curved = smooth_field(rng, sides, count, frequency=1.0) * np.float32(0.15 * max(sides))
    for number, seed in enumerate(seeds):
        x, y, z = (
            along(axis, (np.arange(side, dtype=np.float32) - s) ** 2)
            for axis, (side, s) in enumerate(zip(sides, seed, strict=True))
        )
        distance = np.sqrt(x + y + z) + curved[number]
        closer = distance < nearest
        nearest[closer] = distance[closer]
        owner[closer] = number
    parts = [Region(region.box, region.mask & (owner == number)) for number in range(count)]
    return [part for part in parts if part.mask.any()]


def depth(mask: Bool[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """Distance of a mask's voxels to the outside, in voxels; beyond the volume is outside."""
    return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1].astype(np.float32)


def largest_piece(mask: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """The connected part of a mask with the most voxels."""
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    return pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()


def random_turn(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """A random rotation, possibly with a reflection."""
    return np.linalg.qr(rng.normal(size=(3, 3)))[0]


def _box(
    shape: Shape3, centre: Float[np.ndarray, "3"], reach: Float[np.ndarray, "3"]
) -> tuple[slice, slice, slice] | None:
    """The box of voxels within reach of a centre; None without voxels."""
    slices = []
    for side, middle, extent in zip(shape, centre, reach, strict=True):
        low = max(int(np.floor((middle - extent + 1) * side / 2)), 0)
        high = min(int(np.ceil((middle + extent + 1) * side / 2)), side)
        if low >= high:
            return None
        slices.append(slice(low, high))
    return tuple(slices)


def _offsets(shape: Shape3, box, centre: Float[np.ndarray, "3"]) -> list[np.ndarray]:
    """Positions in a box relative to a centre, one array per axis."""
    return [
        along(axis, centres(side)[part] - np.float32(middle))
        for axis, (side, part, middle) in enumerate(zip(shape, box, centre, strict=True))
    ]


def _power(values: np.ndarray, power: float) -> np.ndarray:
    return values * values if power == 2 else np.abs(values) ** np.float32(power)


def _smallest_gap(seeds: np.ndarray) -> float:
    gaps = ((seeds[:, None] - seeds[None]) ** 2).sum(-1)
    return float(gaps[np.triu_indices(len(seeds), 1)].min())
