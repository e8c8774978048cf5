"""Points and shapes layers of napari, from its `.csv` files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, PromptError, located
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference.inputs.external.text import position_of, read_text
from wsicl_jax.inference.inputs.positions import MOST_POSITIONS, box_around, check_count, point_in
from wsicl_jax.prompts import Prompt, Scribble, SliceMask
from wsicl_jax.storage.documents import DocumentError, parse_csv

_AXIS = "axis-"
_SHAPE = "shape-type"


def layer(path: Path, volume: Volume, axes: str) -> list[Prompt]:
    """The prompts of a layer of points or shapes.

    Rectangles become boxes on their slice, lines and paths scribbles, polygons and ellipses masks
    on their slice.

    Positions count voxels, with the image's axes in the order `axes`, "xyz" or "zyx".

    Raises:
        DataError: the file cannot be read.
        PromptError: the columns are not napari's, there is no row, or one is not well formed; a
            layer is not of three axes; a shape lies on no slice, or marks no voxel; something is
            outside the image. The message says which point or shape, counted from 1.
    """
    try:
        header, *rows = parse_csv(read_text(path))
    except DocumentError as error:
        raise DataError(f"no table, it may be damaged: {error}") from None
    names = [name for name in header if name.startswith(_AXIS)]
    if header[:1] != ["index"] or not names:
        raise PromptError(
            f"its first line is {','.join(header)[:100]!r}; expected what napari writes, such as "
            "'index,axis-0,axis-1,axis-2'"
        )
    if len(names) != 3:
        raise PromptError(
            f"the layer has {len(names)} axes; expected 3: draw on a layer of the 3D image"
        )
    expected = [f"{_AXIS}{number}" for number in range(3)]
    if sorted(names) != expected:
        raise PromptError(f"its axes are {', '.join(names)[:100]}; expected {', '.join(expected)}")
    rows = [row for row in rows if row]
    if not rows:
        raise PromptError("the layer is empty: it holds no prompt")
    order = [names.index(f"{_AXIS}{axes.index(axis)}") for axis in "xyz"]
    places = [header.index(names[i]) for i in order]
    if _SHAPE not in header:
        check_count(len(rows))
        return [_point(row, number, header, places, volume) for number, row in enumerate(rows, 1)]
    return _shapes(rows, header, places, volume)


def _point(
    row: Sequence[str], number: int, header: Sequence[str], places: Sequence[int], volume: Volume
) -> Prompt:
    with located(f"point {number}"):
        return point_in(volume, _position(row, header, places), "voxel")


def _shapes(
    rows: Sequence[Sequence[str]], header: Sequence[str], places: Sequence[int], volume: Volume
) -> list[Prompt]:
    check_count(len(rows), "vertices", MOST_POSITIONS)
    kind_at = header.index(_SHAPE)
    shapes: dict[str, list[Sequence[str]]] = {}
    for row in rows:
        shapes.setdefault(row[0], []).append(row)
    check_count(len(shapes))
    prompts = []
    for number, vertices in enumerate(shapes.values(), 1):
        with located(f"shape {number}"):
            positions = []
            for vertex, row in enumerate(vertices, 1):
                with located(f"vertex {vertex}"):
                    positions.append(_position(row, header, places))
            kind = vertices[0][kind_at]
            if kind not in _KINDS:
                raise PromptError(f"its type is {kind!r}; expected one of {', '.join(_KINDS)}")
            prompts.append(_KINDS[kind](np.array(positions), volume))
    return prompts


def _position(
    row: Sequence[str], header: Sequence[str], places: Sequence[int]
) -> Float[np.ndarray, "3"]:
    if len(row) != len(header):
        raise PromptError(
            f"its row has {len(row)} columns, the first line {len(header)}; the file may be cut off"
        )
    return position_of([row[place] for place in places])


def _rectangle(corners: Float[np.ndarray, "n 3"], volume: Volume) -> Box:
    _check_corners(corners)
    _check_inside(corners, volume)
    return box_around(corners, volume, "the rectangle", [_slice_of(corners)[0]])


def _line(path: Float[np.ndarray, "n 3"], volume: Volume) -> Scribble:
    _check_inside(path, volume)
    return Scribble(tuple((x, y, z) for x, y, z in path.tolist()))


def _polygon(vertices: Float[np.ndarray, "n 3"], volume: Volume) -> SliceMask:
    from skimage.draw import polygon2mask  # slow to import, and few need it

    _check_inside(vertices, volume)
    axis, index = _slice_of(vertices)
    shape = np.delete(volume.image.shape, axis)
    return _marked(axis, index, polygon2mask(tuple(shape), np.delete(vertices, axis, axis=1)))


def _ellipse(corners: Float[np.ndarray, "n 3"], volume: Volume) -> SliceMask:
    """The ellipse inscribed in a rectangle, which may be rotated."""
    _check_corners(corners)
    axis, index = _slice_of(corners)
    centre = corners.mean(axis=0)
    halves = np.array([corners[1] - corners[0], corners[3] - corners[0]]) / 2
    reach = np.linalg.norm(halves, axis=0)
    _check_inside(np.array([centre - reach, centre + reach]), volume)
    flat = np.delete(halves, axis, axis=1).T
    if np.linalg.matrix_rank(flat) < 2:
        raise PromptError("the ellipse has no area")
    offsets = np.indices(np.delete(volume.image.shape, axis)).reshape(2, -1).T - np.delete(
        centre, axis
    )
    inside = (np.linalg.solve(flat, offsets.T) ** 2).sum(axis=0) <= 1
    return _marked(axis, index, inside.reshape(np.delete(volume.image.shape, axis)))


_KINDS: Mapping[str, Callable[[np.ndarray, Volume], Prompt]] = {
    "rectangle": _rectangle,
    "ellipse": _ellipse,
    "line": _line,
    "path": _line,
    "polygon": _polygon,
}


def _marked(axis: int, index: int, mask: Bool[np.ndarray, "a b"]) -> SliceMask:
    if not mask.any():
        raise PromptError("it holds no voxel's centre; draw it larger, or as a point")
    return SliceMask(axis, index, mask)


def _slice_of(vertices: Float[np.ndarray, "n 3"]) -> tuple[int, int]:
    """The axis across the slice of vertices, and the slice's index."""
    axis = int(np.ptp(vertices, axis=0).argmin())
    indices = np.unique(np.floor(vertices[:, axis] + 0.5))
    if len(indices) > 1:
        raise PromptError("its vertices lie on no common slice; draw it on one slice, in 2D")
    return axis, int(indices[0])


def _check_corners(corners: Float[np.ndarray, "n 3"]) -> None:
    if len(corners) != 4:
        raise PromptError(f"it has {len(corners)} vertices; expected 4, the file may be cut off")


def _check_inside(vertices: Float[np.ndarray, "n 3"], volume: Volume) -> None:
    for vertex in vertices.tolist():
        point_in(volume, vertex, "voxel")
