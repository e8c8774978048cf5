"""Markups of 3D Slicer: `.mrk.json`, and the older `.fcsv`.

Fields and defaults follow Slicer's markups schema 1.0. Matrices are stored row by row, so the
columns of a region's orientation are its axes.
"""

import itertools
import reprlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float
from nibabel.orientations import io_orientation

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, PromptError, located
from wsicl_jax.inference.inputs.external.text import position_of, read_text
from wsicl_jax.inference.inputs.positions import (
    MOST_POSITIONS,
    box_around,
    check_count,
    numbers,
    point_in,
    to_voxels,
)
from wsicl_jax.prompts import Prompt, Scribble
from wsicl_jax.storage.documents import DocumentError, parse_csv, parse_json

_TO_RAS = {
    **dict.fromkeys(("LPS", "1"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("RAS", "0"), (1.0, 1.0, 1.0)),
}
"""Signs that convert each coordinate system to RAS+; older Slicer versions wrote numbers."""

_PLACED = ("defined",)
_NOT_PLACED = ("undefined", "preview", "missing")

_FIDUCIAL_COLUMNS = ("id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock")

_LISTS = ("Fiducial", "PointList")
"""Types of markups in which each control point is a prompt."""


_Kind = TypeVar("_Kind")


class _Prompts(NamedTuple):
    prompts: list[Prompt]
    skipped: int
    """Number of control points that are not used."""


def markups(path: Path, volume: Volume) -> list[Prompt]:
    """The prompts of a `.mrk.json` file.

    Points of a list become points, lines and curves scribbles through their control points, and
    regions of interest boxes. Control points without a position, or not selected, are skipped
    with a warning.

    Raises:
        DataError: the file cannot be read, or is no JSON.
        PromptError: it holds no markup, one that is not well formed, of another type, in another
            unit than mm, or outside the image. The message says which, counted from 1.
    """
    markups = _checked(_parsed(read_text(path)).get("markups"), list, "markups")
    check_count(len(markups))
    parts: list[_Prompts] = []
    for number, markup in enumerate(markups, 1):
        with located(f"markup {number}"):
            parts.append(_of_markup(_checked(markup, dict, "it"), volume))
            check_count(sum(len(each.prompts) for each in parts))
    return _all_of(parts, path)


def fiducials(path: Path, volume: Volume) -> list[Prompt]:
    """The points of a `.fcsv` file; those that are not selected are skipped with a warning.

    Raises:
        DataError: the file cannot be read.
        PromptError: a point is not well formed or outside the image, or the coordinate system is
            missing. The message says which point, counted from 1.
    """
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    header = [line[1:].partition("=") for line in lines if line.startswith("#")]
    header_values = {key.strip(): value.strip() for key, _, value in header}
    if "CoordinateSystem" not in header_values:
        raise PromptError("has no line '# CoordinateSystem = LPS' (or RAS); save it as .mrk.json")
    to_ras = _to_ras(header_values["CoordinateSystem"])
    columns = [
        c.strip() for c in header_values.get("columns", ",".join(_FIDUCIAL_COLUMNS)).split(",")
    ]
    if missing := {"x", "y", "z"} - set(columns):
        raise PromptError(f"its columns are {columns}; {sorted(missing)} are missing")
    prompts: list[Prompt] = []
    skipped = 0
    text = "\n".join(line for line in lines if not line.startswith("#"))
    try:
        rows = [*parse_csv(text)]
    except DocumentError as error:
        raise DataError(f"no table, it may be damaged: {error}") from None
    check_count(len(rows))
    for number, row in enumerate(rows, 1):
        # A row may end early.
        cells = dict(zip(columns, row, strict=False))
        with located(f"point {number}"):
            position = position_of([cells.get(axis, "") for axis in "xyz"])
            if cells.get("sel", "1").strip() == "0":
                skipped += 1
            else:
                prompts.append(point_in(volume, (position * to_ras).tolist(), "mm"))
    return _all_of([_Prompts(prompts, skipped)], path)


def _parsed(text: str) -> dict:
    try:
        document = parse_json(text, nan=True)
    except DocumentError as error:
        raise DataError(f"no JSON, it may be damaged or cut off: {error}") from error
    if isinstance(document, dict) and "context" in document:
        raise PromptError("names a context set; here a file of 3D Slicer's markups is expected")
    return _checked(document, dict, "it")


def _all_of(parts: Sequence[_Prompts], path: Path) -> list[Prompt]:
    prompts = [prompt for each in parts for prompt in each.prompts]
    skipped = sum(each.skipped for each in parts)
    why = f"{skipped} control points are not selected or have no position"
    if not prompts:
        raise PromptError(f"holds no prompt{f': {why}' if skipped else ''}")
    if skipped:
        warnings.warn(f"{path}: {why}; they are skipped", stacklevel=2)
    return prompts


def _of_markup(markup: dict, volume: Volume) -> _Prompts:
    kind = markup.get("type")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise PromptError(f"type is {reprlib.repr(kind)}; expected one of {', '.join(_KINDS)}")
    units = markup.get("coordinateUnits", "mm")
    if (units[:1] if isinstance(units, list) else [units]) != ["mm"]:
        raise PromptError(f"coordinateUnits are {reprlib.repr(units)}; expected mm")
    to_ras = _to_ras(markup.get("coordinateSystem", "LPS"))
    return _KINDS[kind](markup, to_ras, volume)


def _points(markup: dict, to_ras: np.ndarray, volume: Volume) -> _Prompts:
    placed, skipped = _control_points(markup, to_ras)
    if markup["type"] in _LISTS:
        check_count(len(placed))
    prompts = []
    for number, position in placed.items():
        with located(f"control point {number}"):
            prompts.append(point_in(volume, position, "mm"))
    return _Prompts(prompts, skipped)


def _line(markup: dict, to_ras: np.ndarray, volume: Volume) -> _Prompts:
    points, skipped = _points(markup, to_ras, volume)
    path = [tuple(point) for point in points]
    if markup["type"] == "ClosedCurve":
        path += path[:1]
    return _Prompts([Scribble(tuple(path))] if path else [], skipped)


def _region(markup: dict, to_ras: np.ndarray, volume: Volume) -> _Prompts:
    if markup.get("insideOut"):
        raise PromptError("the region is inside out; clear 'Inside out' in Slicer")
    size = numbers(markup.get("size"), (3,), "size of a region is three numbers in mm")
    if (size < 0).any():
        raise PromptError(f"size is {size.tolist()}; expected no negative numbers")
    centre = to_ras * _centre(markup)
    axes = to_ras[:, None] * _axes(markup)
    half = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    corners = centre + (half * size) @ axes.T
    text = "a region of {:g} x {:g} x {:g} mm".format(*size)
    flat = _thin(size, axes, volume)
    return _Prompts([box_around(to_voxels(corners, volume), volume, text, flat)], 0)


def _centre(markup: dict) -> np.ndarray:
    """The centre; if it is missing, the only control point, which Slicer accepts too."""
    centre = markup.get("center")
    if centre is None:
        placed, _ = _control_points(markup, np.ones(3))
        centre = next(iter(placed.values())) if len(placed) == 1 else None
    return numbers(centre, (3,), "center of a region is three numbers in mm")


def _axes(markup: dict) -> Float[np.ndarray, "3 3"]:
    stored = markup.get("orientation", np.eye(3).ravel().tolist())
    axes = numbers(stored, (9,), "orientation of a region is nine numbers").reshape(3, 3)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise PromptError(f"orientation {axes.ravel().tolist()} is no rotation")
    return axes


def _thin(size: np.ndarray, axes: np.ndarray, volume: Volume) -> list[int]:
    """Axes of the image along which a region is thinner than a voxel."""
    turned = np.eye(4)
    turned[:3, :3] = np.linalg.solve(volume.affine[:3, :3], axes)
    main = io_orientation(turned)[:, 0].astype(int)
    axes_of = zip(main.tolist(), size.tolist(), strict=True)
    return [axis for axis, mm in axes_of if mm < volume.spacing_mm[axis]]


def _control_points(markup: dict, to_ras: np.ndarray) -> tuple[dict[int, list[float]], int]:
    """Positions in RAS+ mm by the number of their control point, and the number of skipped ones."""
    placed: dict[int, list[float]] = {}
    points = _checked(markup.get("controlPoints", []), list, "controlPoints")
    check_count(len(points), "control points", MOST_POSITIONS)
    for number, point in enumerate(points, 1):
        with located(f"control point {number}"):
            _checked(point, dict, "it")
            status = point.get("positionStatus", "defined")
            if status not in (*_PLACED, *_NOT_PLACED):
                known = ", ".join((*_PLACED, *_NOT_PLACED))
                raise PromptError(
                    f"positionStatus is {reprlib.repr(status)}; expected one of {known}"
                )
            # As in Slicer: only selected points are used.
            if status in _PLACED and _checked(point.get("selected", True), bool, "selected"):
                position = numbers(point.get("position"), (3,), "a position is three numbers")
                placed[number] = (position * to_ras).tolist()
    return placed, len(points) - len(placed)


def _to_ras(system: object) -> np.ndarray:
    if str(system) not in _TO_RAS:
        raise PromptError(f"coordinate system is {reprlib.repr(system)}; expected LPS or RAS")
    return np.array(_TO_RAS[str(system)])


_JSON_NAMES = {dict: "an object", list: "a list", bool: "true or false"}


def _checked(value: Any, kind: type[_Kind], what: str) -> _Kind:
    if not isinstance(value, kind):
        raise PromptError(f"{what} is {reprlib.repr(value)}; expected {_JSON_NAMES[kind]}")
    return value


_KINDS: dict[str, Callable[[dict, np.ndarray, Volume], _Prompts]] = {
    "Fiducial": _points,
    "PointList": _points,
    "Line": _line,
    "Curve": _line,
    "ClosedCurve": _line,
    "ROI": _region,
}
