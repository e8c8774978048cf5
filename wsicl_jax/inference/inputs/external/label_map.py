"""Prompts from roughly drawn label maps: the shape of each component determines its kind."""

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
"""Largest extent of a point along each axis, in voxels."""

PEN = 3
"""Largest width of a line in voxels: no larger square fits into it."""

BENDS = 0.4
"""Share of a line into which a larger square may fit, at its bends."""

LINE_LENGTH = 2.0
"""Least ratio of length to width of a line."""

FULL = 0.9
"""Least share of its bounding box that a box fills; an ellipse fills 0.79."""

MOST_PARTS = 1000
"""Largest number of components; a map with more was not drawn as prompts."""

_NEIGHBOURS = np.ones((3, 3, 3))
_MAX_STEP = 1.8
"""Distance that is larger than that of diagonal neighbours."""


def as_prompts(path: Path, volume: Volume, reading: ReadingConfig | None = None) -> list[Prompt]:
    """Each connected component of a label map as a prompt.

    The first rule that fits: a small component (`DAB`) is a point, a thin one (`PEN`) a scribble
    along its centre line, a full one (`FULL`) a box, on a slice or in 3D. Others are masks on
    their slice; those in 3D together form one mask.

    Raises:
        DataError: the file cannot be read, or is not on the image's grid.
        PromptError: it marks no voxel, or has more than `MOST_PARTS` components.
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
        prompt = _as_prompt(part, tuple(s.start for s in region), label.shape)
        if prompt is None:
            rest[region] |= part
        else:
            prompts.append(prompt)
    return [*prompts, rest] if rest.any() else prompts


def _as_prompt(
    part: Bool[np.ndarray, "x y z"], start: Index3, shape: tuple[int, ...]
) -> Point | Scribble | Box | SliceMask | None:
    """A component as a prompt; None if it is a mask in 3D."""
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
    """The centre line of a thin component, with all branches; None if it is wider."""
    if _wide(part).sum() > BENDS * part.sum():
        return None
    from skimage.morphology import skeletonize  # slow to import, and few need it

    flat = part.shape.index(1) if 1 in part.shape else None
    places = np.argwhere(skeletonize(part if flat is None else part.squeeze(flat)))
    pairs = cKDTree(places).query_pairs(_MAX_STEP, output_type="ndarray") if len(places) else []
    # The skeleton of a closed surface is a surface too: its voxels have many neighbours.
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
    line = places[list(_walk(graph + graph.T))]
    return line if flat is None else np.insert(line, flat, 0, axis=1)


def _wide(part: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """Voxels of squares wider than the pen, along any two axes."""
    wide = np.zeros_like(part)
    for axis in range(3):
        square = np.ones(np.insert([PEN + 1, PEN + 1], axis, 1))
        wide |= ndimage.binary_opening(part, square)
    return wide


def _mean_width(voxels: int, length: float, dimensions: int) -> float:
    """Width of a straight line of `voxels`, from the length between the centres of its ends."""
    # w^(d-1) (length + w) = voxels, which has one positive root.
    roots = np.roots([1, length, *[0] * (dimensions - 2), -voxels])
    return float(roots[np.isreal(roots)].real.max())


def _walk(graph: sparse.spmatrix) -> Iterator[int]:
    """A depth-first path over all nodes along edges, short edges first; branches go both ways."""
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
