"""The JSON file that names a context set: images, and what marks the structure on them.

`docs/predict.md` describes the format to its users.
"""

import difflib
import itertools
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from nibabel.orientations import io_orientation
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsicl_jax.axes import Box, Shape3
from wsicl_jax.data.images import Volume, check_same_grid, read_label, read_volume
from wsicl_jax.errors import DataError, PromptError
from wsicl_jax.infer.segmenter import Example, located
from wsicl_jax.prompts import Point, Prompt, Scribble

_VOXEL_DECIMALS = 3
"""Decimals of voxel positions that come from mm: a float32 affine leaves nothing beyond."""

Coordinates = Literal["voxel", "mm"]

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Triple = tuple[_Number, _Number, _Number]
_Range = tuple[_Number, _Number]
_Ranges = tuple[_Range, _Range, _Range]
_Label = Annotated[int, Field(ge=1)]
_RULES = ConfigDict(extra="forbid", strict=True)


class _Entry(BaseModel):
    model_config = _RULES
    image: str
    points: list[_Triple] = []
    scribbles: list[Annotated[list[_Triple], Field(min_length=1)]] = []
    boxes: list[_Ranges] = []
    mask: str | None = None
    labels: Annotated[list[_Label], Field(min_length=1)] | None = None


class _Request(BaseModel):
    model_config = _RULES
    coordinates: Coordinates = "voxel"
    context: Annotated[list[_Entry], Field(min_length=1)]


def read_context(path: str | Path) -> list[Example]:
    """The examples that a JSON file names, prompts in voxels of each image's own grid.

    Raises:
        DataError: the file, an image or a mask cannot be read, or a mask is not on its
            image's grid.
        PromptError: the JSON is not of the documented form, there is no context image, or
            a prompt is missing, not well formed, or outside its image.
        Both name the file, the number of the context entry (from 1) and the key.
    """
    path = Path(path)
    with located(str(path)):
        request = _parse(path)
        examples = []
        for number, entry in enumerate(request.context, 1):
            with located(f"context {number}"):
                examples.append(_example(entry, request.coordinates, path.parent))
        return examples


def example_with_mask(image_path: str | Path, mask_path: str | Path) -> Example:
    """An image whose structure is marked by every non-zero voxel of a mask file.

    Raises:
        DataError: a file cannot be read, or the mask is not on the image's grid.
        PromptError: the mask is empty.
    """
    files = Path(image_path), Path(mask_path)
    volume = read_volume(image_path)
    return Example(volume, [_read_mask(*files, volume, None)], files)


def _parse(path: Path) -> _Request:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    try:
        return _Request.model_validate_json(content)
    except ValidationError as error:
        problems = error.errors()
    # A misspelt key is also a missing one; what was given says more.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    if problem["type"] == "json_invalid":
        raise DataError(f"no JSON: {problem['ctx']['error']}")
    raise PromptError(_explain(problem["type"], problem["loc"], problem["msg"], problem["input"]))


def _explain(kind: str, location: tuple[int | str, ...], message: str, given: Any) -> str:
    if kind == "extra_forbidden":
        model = _Entry if len(location) > 1 else _Request
        nearest = difflib.get_close_matches(
            str(location[-1]), list(model.model_fields), n=1, cutoff=0.0
        )[0]
        message = f"unknown key {location[-1]!r}; nearest is {nearest!r}"
        location = location[:-1]
    elif kind == "missing" and isinstance(location[-1], str):
        message = f"key {location[-1]!r} is missing"
        location = location[:-1]
    else:
        # A number or a range at fault is said with the point or box that it belongs to.
        location = location[:4]
        message = f"{message[0].lower()}{message[1:]}, got {reprlib.repr(given)}"
    where = "".join(f" {p + 1}" if isinstance(p, int) else f": {p}" for p in location)
    return f"{where}: {message}".removeprefix(": ")


def _example(entry: _Entry, coordinates: Coordinates, folder: Path) -> Example:
    files = [folder / entry.image]
    with located("image"):
        volume = read_volume(files[0])
    prompts: list[Prompt] = []
    for number, position in enumerate(entry.points, 1):
        with located(f"points {number}"):
            prompts.append(_point(position, coordinates, volume))
    for number, path in enumerate(entry.scribbles, 1):
        with located(f"scribbles {number}"):
            positions = (tuple(_point(position, coordinates, volume)) for position in path)
            prompts.append(Scribble(tuple(positions)))
    for number, ranges in enumerate(entry.boxes, 1):
        with located(f"boxes {number}"):
            prompts.append(_box(ranges, coordinates, volume))
    if entry.mask is not None:
        files.append(folder / entry.mask)
        with located("mask"):
            prompts.append(_read_mask(*files, volume, entry.labels))
    elif entry.labels is not None:
        raise PromptError("labels: they choose among the labels of a mask, but mask is missing")
    if not prompts:
        raise PromptError("image has no prompt; give points, scribbles, boxes or mask")
    return Example(volume, prompts, files)


def _point(position: _Triple, coordinates: Coordinates, volume: Volume) -> Point:
    point = Point(*position)
    if coordinates == "mm":
        point = Point(*_to_voxels(np.array([position]), volume.affine)[0].tolist())
    shape = volume.image.shape
    if not all(-0.5 <= value <= size - 0.5 for value, size in zip(point, shape, strict=True)):
        raise PromptError(
            f"{list(position)} {coordinates} is at voxel {_brief(point)}, outside the image of "
            f"{shape} voxels"
        )
    return point


def _box(ranges: _Ranges, coordinates: Coordinates, volume: Volume) -> Box:
    given = f"{[list(r) for r in ranges]} {coordinates}"
    if any(low > high for low, high in ranges):
        raise PromptError(f"{given} has a reversed range; give the smaller end first")
    if coordinates == "mm":
        box = _box_around(ranges, volume.affine)
    else:
        if any(low == high for low, high in ranges):
            raise PromptError(
                f"{given} is empty; voxel ranges are half-open, [7, 8] is the slice of index 7"
            )
        if not all(end.is_integer() for ends in ranges for end in ends):
            raise PromptError(f"{given} has ends that are no whole numbers of voxels")
        box = _as_box(*np.array(ranges).T)
    shape: Shape3 = volume.image.shape
    if min(box.start) < 0 or any(np.greater(box.stop, shape)):
        raise PromptError(
            f"{given} is voxels {box.start} to {box.stop}, which leaves the image of {shape} voxels"
        )
    return box


def _box_around(ranges: _Ranges, affine: np.ndarray) -> Box:
    """The voxels whose cells meet a box in mm; along an axis of no extent, one slice."""
    corners = _to_voxels(np.array(list(itertools.product(*ranges))), affine)
    low, high = corners.min(axis=0), corners.max(axis=0)
    start = np.floor(low + 0.5)
    stop = np.maximum(np.ceil(high + 0.5), start + 1)
    for voxel_axis, world_axis in enumerate(io_orientation(affine)[:, 0].astype(int)):
        # On a turned grid the corners of a flat box lie on many slices.
        if ranges[world_axis][0] == ranges[world_axis][1]:
            start[voxel_axis] = np.floor((low + high)[voxel_axis] / 2 + 0.5)
            stop[voxel_axis] = start[voxel_axis] + 1
    return _as_box(start, stop)


def _to_voxels(
    positions_mm: Float[np.ndarray, "n 3"], affine: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "n 3"]:
    offsets = (positions_mm - affine[:3, 3]).T
    return np.round(np.linalg.solve(affine[:3, :3], offsets).T, _VOXEL_DECIMALS)


def _as_box(start: np.ndarray, stop: np.ndarray) -> Box:
    return Box(tuple(map(int, start)), tuple(map(int, stop)))


def _brief(point: Point) -> str:
    return "({:.4g}, {:.4g}, {:.4g})".format(*point)


def _read_mask(
    image_path: Path, path: Path, volume: Volume, labels: list[int] | None
) -> Bool[np.ndarray, "x y z"]:
    label, affine, _ = read_label(path)
    check_same_grid((image_path, path), (volume.image.shape, label.shape), (volume.affine, affine))
    mask = label != 0 if labels is None else np.isin(label, labels)
    if not mask.any():
        present = np.setdiff1d(label, 0).tolist()
        wanted = "non-zero" if labels is None else f"of labels {labels}"
        raise PromptError(f"{path} has no voxel {wanted}; it has labels {present[:20]}")
    return mask
