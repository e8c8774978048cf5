"""Label maps drawn by hand, with any tool: each separate part is the prompt that it looks like."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.images import Volume, check_same_grid, read_label
from wsicl_jax.errors import PromptError
from wsicl_jax.geometry.axes import Box, Index3
from wsicl_jax.prompts import Point, Prompt, Scribble, SliceMask

DAB = 3
"""A part of at most so many voxels along each axis is a point."""

PEN = 3
"""A part that is at most so many voxels wide may be a line: a larger square does not fit in."""

BENDS = 0.4
"""A larger square may fit into this share of a line, where it bends."""

LINE_LENGTH = 2.0
"""A line is at least this many times as long as wide."""

FULL = 0.9
"""A part that fills at least this share of the box around it is a box. An ellipse fills 0.79."""

MOST_PARTS = 1000
"""A map of more parts was not drawn as prompts."""

_NEIGHBOURS = np.ones((3, 3, 3))
_STEP = 1.8
"""Neighbours, diagonal ones too, are closer than this."""


def as_prompts(path: Path, volume: Volume, reading: ReadingConfig | None = None) -> list[Prompt]:
    """Each part of a label map, of voxels that touch and are not zero, as a prompt.

    By the first rule that fits: small parts (`DAB`) are points, thin ones (`PEN`) scribbles along
    their middle, full ones (`FULL`) boxes, on a slice or in 3D; others are masks on their slice,
    and in 3D all together one mask.

    Raises:
        DataError: the file cannot be read, or is not on the image's grid.
        PromptError: it marks nothing, or has more than `MOST_PARTS` parts.
    """
    label, affine, _ = read_label(path, reading)
    check_same_grid(
        (Path("the image"), path), (volume.image.shape, label.shape), (volume.affine, affine)
    )
    parts, count = ndimage.label(label != 0, _NEIGHBOURS)
    if not count:
        raise PromptError(f"{path} marks no voxel")
    if count > MOST_PARTS:
        raise PromptError(
            f"{path} has {count} separate parts; prompts have {MOST_PARTS} at most, give it as mask"
        )
    prompts: list[Prompt] = []
    rest = np.zeros(label.shape, bool)
    for number, region in enumerate(ndimage.find_objects(parts), 1):
        part = parts[region] == number
        prompt = _looks_like(part, tuple(s.start for s in region), label.shape)
        if prompt is None:
            rest[region] |= part
        else:
            prompts.append(prompt)
    return [*prompts, rest] if rest.any() else prompts


def _looks_like(
    part: Bool[np.ndarray, "x y z"], start: Index3, shape: tuple[int, ...]
) -> Point | Scribble | Box | SliceMask | None:
    """The prompt that a part is, or None if it is a mask in 3D."""
    if max(part.shape) <= DAB:
        return _dab(part, start)
    if (line := _line(part)) is not None:
        return Scribble(tuple((x, y, z) for x, y, z in (line + start).astype(float).tolist()))
    box = Box(start, tuple(np.add(start, part.shape).tolist()))
    if part.mean() >= FULL:
        return box
    if 1 not in part.shape:
        return None
    axis = part.shape.index(1)
    whole = np.zeros(np.delete(shape, axis), bool)
    whole[tuple(np.delete(np.array(box.slices, object), axis))] = part.squeeze(axis)
    return SliceMask(axis, start[axis], whole)


def _dab(part: np.ndarray, start: Index3) -> Point:
    places = np.argwhere(part)
    nearest = np.linalg.norm(places - places.mean(axis=0), axis=1).argmin()
    return Point(*(places[nearest] + start).astype(float).tolist())


def _line(part: Bool[np.ndarray, "x y z"]) -> Int[np.ndarray, "n 3"] | None:
    """The way along the middle of a thin part, all its branches included; None if it is wider."""
    if _wide(part).sum() > BENDS * part.sum():
        return None
    from skimage.morphology import skeletonize  # slow to import, and few need it

    flat = part.shape.index(1) if 1 in part.shape else None
    places = np.argwhere(skeletonize(part if flat is None else part.squeeze(flat)))
    pairs = cKDTree(places).query_pairs(_STEP, output_type="ndarray") if len(places) else []
    # Of a closed surface the middle is a surface too, whose voxels have many neighbours.
    if not len(pairs) or len(pairs) > 2 * len(places):
        return None
    steps = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
    graph = sparse.coo_matrix((steps, tuple(pairs.T)), (len(places), len(places)))
    if sparse.csgraph.connected_components(graph)[0] > 1:
        return None
    length = float(sparse.csgraph.minimum_spanning_tree(graph).sum())
    width = _mean_width(int(part.sum()), length, places.shape[1])
    if length < LINE_LENGTH * width:
        return None
    way = places[list(_walk(graph + graph.T))]
    return way if flat is None else np.insert(way, flat, 0, axis=1)


def _wide(part: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """Where a square wider than the pen fits in, along any two axes."""
    found = np.zeros_like(part)
    for axis in range(3):
        square = np.ones(np.insert([PEN + 1, PEN + 1], axis, 1))
        found |= ndimage.binary_opening(part, square)
    return found


def _mean_width(voxels: int, length: float, dimensions: int) -> float:
    """Width of a straight line of so many voxels, from the length between the ends' middles."""
    # w^(d-1) (length + w) = voxels, which has one positive root.
    roots = np.roots([1, length, *[0] * (dimensions - 2), -voxels])
    return float(roots[np.isreal(roots)].real.max())


def _walk(graph: sparse.spmatrix) -> Iterator[int]:
    """A way over all nodes, along edges, near ones first; branches are walked there and back."""
    rows = sparse.csr_matrix(graph)
    near = []
    for start, stop in itertools.pairwise(rows.indptr):
        by_length = np.argsort(rows.data[start:stop], kind="stable")
        near.append(rows.indices[start:stop][by_length].tolist())
    stack = [min(range(len(near)), key=lambda i: len(near[i]))]
    seen = set(stack)
    yield stack[-1]
    while len(seen) < len(near) and stack:
        onward = next((i for i in near[stack[-1]] if i not in seen), None)
        if onward is None:
            stack.pop()
        else:
            stack.append(onward)
            seen.add(onward)
        if stack:
            yield stack[-1]
