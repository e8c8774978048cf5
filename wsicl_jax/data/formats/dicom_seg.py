"""DICOM-SEG files: label maps on the grid of an image.

Frames of a segment are placed by their position, so they may be any of the image's slices, in any
order.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Integer

from wsicl_jax.data.formats.dicom_file import (
    SEGMENTATIONS,
    Plane,
    frames_of,
    is_dicom,
    kind_of,
    of_frame,
    planes_of,
    read_header,
    read_object,
    unreadable,
)
from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Shape3

if TYPE_CHECKING:
    from pydicom import Dataset

_OFF_VOXELS = 0.1
"""Distance, in voxels, by which rounding may move a frame."""

_MAX_SPACING_RATIO = 1.5
"""Largest spacing of segment slices, relative to the image's, on the same grid."""


def segment_names(files: Sequence[Path]) -> tuple[str, ...]:
    """The labels of the segments of DICOM-SEG files, sorted.

    Raises:
        DataError: pydicom is not installed, or a file cannot be read or names no segment.
    """
    names: set[str] = set()
    for path in files:
        names |= set(_segments(path, read_header(path)).values())
    return tuple(sorted(names))


def is_segmentation(path: Path) -> bool:
    """Whether a file is DICOM-SEG. Raises `DataError` if it is DICOM that cannot be read."""
    return is_dicom(path) and kind_of(read_header(path)) in SEGMENTATIONS


def segment_numbers(path: Path) -> dict[str, int]:
    """The number of each segment of a DICOM-SEG file by its label; of several with one label, the
    first.

    Raises:
        DataError: as `segment_names`.
    """
    numbers: dict[str, int] = {}
    for number, name in sorted(_segments(path, read_header(path)).items()):
        numbers.setdefault(name, number)
    return numbers


def read_segmentation(
    files: Sequence[Path],
    values: Mapping[str, int],
    shape: Shape3,
    affine: Float[np.ndarray, "4 4"],
) -> Integer[np.ndarray, "x y z"]:
    """The label map of all segments of DICOM-SEG files, on the grid of an image.

    `values` gives the value of each segment label, `affine` is the image's, in mm.

    Raises:
        DataError: pydicom is not installed, a file cannot be read, a segment has no value or
            holds fractions, lies off the grid, or overlaps another.
    """
    label = np.zeros(shape, np.min_scalar_type(max(values.values(), default=0)))
    name_of = {value: name for name, value in values.items()}
    for path in files:
        dataset = read_object(path)
        segments = _segments(path, dataset)
        if unknown := sorted(set(segments.values()) - set(values)):
            raise DataError(f"{path} has segments {unknown} that have no value")
        for plane, number, mask in _segment_frames(path, dataset, affine):
            name = segments.get(number)
            if name is None:
                raise DataError(f"{path} has a frame of segment {number}, which it does not list")
            voxels = _on_grid(path, name, plane, mask, shape, affine)
            if clash := np.setdiff1d(label[voxels], (0, values[name])).tolist():
                raise DataError(
                    f"{path}: segments {name_of[clash[0]]!r} and {name!r} overlap; a label map "
                    "holds one label for each voxel"
                )
            label[voxels] = values[name]
    return label


def _segments(path: Path, dataset: "Dataset") -> dict[int, str]:
    """The label of each segment by its number, without background."""
    try:
        segments = {
            int(segment.SegmentNumber): str(segment.SegmentLabel).strip()
            for segment in dataset.SegmentSequence
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise unreadable(path, error) from error
    segments.pop(0, None)
    if not segments or not all(segments.values()):
        raise DataError(f"{path} has segments without a label: {segments}; give them names")
    return segments


def _segment_frames(
    path: Path, dataset: "Dataset", affine: np.ndarray
) -> Iterator[tuple[Plane, int, np.ndarray]]:
    """For each segment of each frame: its plane, the segment's number and mask."""
    kind = dataset.get("SegmentationType")
    frames = frames_of(path, dataset)
    if kind == "FRACTIONAL":
        maximum = dataset.get("MaximumFractionalValue")
        if not np.isin(frames, (0, maximum)).all():
            raise DataError(
                f"{path} holds fractional segments, such as probabilities; threshold them to masks"
            )
    for index, plane in enumerate(planes_of(path, dataset)):
        frame = frames[index]
        _check_spacing(path, dataset, index, plane, affine)
        if kind == "LABELMAP":
            for number in np.setdiff1d(frame, 0).tolist():
                yield plane, number, frame == number
        else:
            number = of_frame(
                dataset, index, "SegmentIdentificationSequence", "ReferencedSegmentNumber"
            )
            if not isinstance(number, int):
                raise DataError(f"{path} does not say which segment its frame {index + 1} shows")
            yield plane, number, frame != 0


def _check_spacing(
    path: Path, dataset: "Dataset", index: int, plane: Plane, affine: np.ndarray
) -> None:
    """Refuse a larger slice spacing than the image's, which would leave slices empty."""
    declared = of_frame(dataset, index, "PixelMeasuresSequence", "SpacingBetweenSlices")
    if not isinstance(declared, float):
        return
    normal = np.cross(plane.steps[:, 0], plane.steps[:, 1])
    spacing = np.abs(normal @ affine[:3, :3]).max() / max(np.linalg.norm(normal), 1e-9)
    if declared > _MAX_SPACING_RATIO * spacing:
        raise DataError(
            f"{path} has slices {declared:.4g} mm apart but the image's are {spacing:.4g} mm "
            "apart, so it is not on the image's grid; resample it"
        )


def _on_grid(
    path: Path,
    name: str,
    plane: Plane,
    mask: np.ndarray,
    shape: Shape3,
    affine: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image's voxels of a frame's mask, as an index."""
    into = np.linalg.inv(affine)
    start = into[:3, :3] @ plane.position + into[:3, 3]
    steps = into[:3, :3] @ plane.steps
    whole_start, whole_steps = np.rint(start), np.rint(steps)
    rows, columns = mask.shape
    corners = np.array([(0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)]).T
    off = np.linalg.norm(
        (start - whole_start)[:, None] + (steps - whole_steps) @ corners, axis=0
    ).max()
    if off > _OFF_VOXELS or (np.abs(whole_steps).sum(axis=0) != 1).any():
        raise DataError(
            f"{path}: segment {name!r} is not on the image's grid, up to {off:.2f} voxels off; "
            "resample it"
        )
    row, column = np.nonzero(mask)
    places = (whole_start[:, None] + whole_steps @ np.array([column, row])).astype(int)
    if ((places < 0) | (places >= np.array(shape)[:, None])).any():
        raise DataError(f"{path}: segment {name!r} reaches outside of the image")
    x, y, z = places
    return x, y, z
