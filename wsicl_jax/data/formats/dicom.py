"""DICOM series: one volume from many files.

The positions of slices determine their order, never their names or numbers.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wsicl_jax.data.formats.decoded import Declared, Decoded
from wsicl_jax.data.formats.dicom_file import (
    SEGMENTATIONS,
    Plane,
    frames_of,
    is_dicom,
    is_directory,
    kind_of,
    of_frame,
    planes_of,
    pydicom_for,
    read_header,
    read_object,
    unreadable,
)
from wsicl_jax.data.formats.payload import opened
from wsicl_jax.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

_ENDINGS = (".dcm", ".ima", ".dicom")
"""Endings of DICOM files. Many have none, so their content is checked instead."""

_SIZES = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")

_CONTOURS = "1.2.840.10008.5.1.4.1.1.481.3"
"""SOP class of RTSTRUCT."""

_OFF_VOXELS = 0.1
"""Distance, in slices, by which rounding may move a slice."""

_SAME_STEPS_MM = 1e-3
"""Slices whose steps from voxel to voxel differ by at most this are parallel, with one spacing."""

_TILT_DEGREES = 0.5
"""Slices stacked this far from their normal are sheared, such as by a tilted gantry."""


class Series(NamedTuple):
    """An image series, from its headers."""

    uid: str
    description: str
    modality: str
    patient: str
    """PatientID; empty if there is none."""
    files: tuple[Path, ...]


def scan(folder: Path) -> tuple[list[Series], list[Path], dict[Path, str]]:
    """DICOM below a folder: image series, DICOM-SEG files, and unreadable files with reasons.

    Other objects, such as reports and DICOMDIR, are skipped. Only headers are read.

    Raises:
        DataError: pydicom is not installed.
    """
    members: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    segmentations, damaged = [], {}
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or not path.is_file():
            continue
        if not is_dicom(path):
            if path.name.lower().endswith(_ENDINGS):
                damaged[path] = "no DICOM header; copy it again"
            continue
        try:
            header = read_header(path)
        except DataError as error:
            damaged[path] = str(error.__cause__ or error)
            continue
        kind = kind_of(header)
        if kind in SEGMENTATIONS:
            segmentations.append(path)
        elif not kind and not is_directory(header):
            damaged[path] = "its header is cut off; copy it again"
        elif "Rows" not in header and "Image Storage" in kind.name:
            damaged[path] = "no image size in its header, it may be cut off; copy it again"
        elif "Rows" in header:
            members[str(header.get("SeriesInstanceUID", ""))].append((path, header))
    series = []
    for uid, pairs in sorted(members.items()):
        _, first = pairs[0]
        description, modality, patient = (
            str(first.get(key) or "").strip()
            for key in ("SeriesDescription", "Modality", "PatientID")
        )
        files = tuple(path for path, _ in pairs)
        series.append(Series(uid, description, modality, patient, files))
    return series, segmentations, damaged


def read_series(files: Sequence[Path]) -> Decoded:
    """The volume of a series, with slices ordered by position, and its affine in mm.

    Each slice's header rescales its values; whole numbers stay integers.

    Raises:
        DataError: pydicom is not installed, a file is missing or damaged, or the slices make no
            volume: of colours, not parallel, of unlike sizes, two at one place, not evenly
            spaced, such as where one is missing, or only one.
    """
    planes: list[tuple[Plane, Path]] = []
    slices: list[np.ndarray] = []
    is_inverted = False
    for path in files:
        dataset = read_object(path)
        _check_image(path, dataset)
        photometric = dataset.get("PhotometricInterpretation")
        is_inverted |= photometric == "MONOCHROME1"
        if photometric == "PALETTE COLOR" or dataset.get("SamplesPerPixel", 1) != 1:
            raise DataError(f"{path} has voxels of colours; expected grey values")
        frames = frames_of(path, dataset)
        for number, plane in enumerate(planes_of(path, dataset)):
            planes.append((plane, path))
            slices.append(_rescaled(path, dataset, number, frames[number]))
    order, affine = _stack([plane for plane, _ in planes], [p for _, p in planes], slices)
    x, y, step = affine[:3, :3].T
    normal = np.cross(x, y)
    upright = abs(step @ normal) / max(np.linalg.norm(step) * np.linalg.norm(normal), 1e-9)
    tilt = np.degrees(np.arccos(min(upright, 1)))
    remarks = (f"slices sheared by {tilt:.1f} degrees",) if tilt > _TILT_DEGREES else ()
    if is_inverted:
        remarks = (*remarks, "low values are bright, as the header says (MONOCHROME1)")
    # Each slice has (row, column), which are y and x.
    voxels = np.stack([slices[i].T for i in order], axis=-1)
    if voxels.dtype == np.int32 and _fits(voxels, np.int16):
        voxels = voxels.astype(np.int16)
    voxels = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("="))
    return Decoded(voxels, affine, remarks)


def series_in(folder: Path) -> tuple[Path, ...]:
    """The files of the one image series in a folder and below.

    Raises:
        DataError: pydicom is not installed, there is no series or several, or a file is damaged.
    """
    series, _, damaged = scan(folder)
    for file, reason in damaged.items():
        raise DataError(f"{file} cannot be read as DICOM: {reason}")
    if len(series) != 1:
        names = ", ".join(f"{s.description or s.uid} ({len(s.files)} files)" for s in series)
        raise DataError(
            f"{folder} has {len(series)} DICOM series ({names}); give the folder of one"
            if series
            else f"{folder} is a folder without DICOM images; give a file, or a folder of a series"
        )
    return series[0].files


def declared(files: Sequence[Path]) -> Declared:
    """Size and type of a series' rescaled voxels, from its headers alone.

    Raises:
        DataError: pydicom is not installed, or a file is missing, empty, no regular file, or
            damaged.
    """
    pydicom = pydicom_for(files[0])
    values = 0
    for path in files:
        with opened(path) as file:
            try:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*_SIZES])
                sizes = [int(header.get(name) or 1) for name in _SIZES]
            # Bytes of unknown origin make pydicom fail in more ways than it documents.
            except Exception as error:
                raise unreadable(path, error) from error
        values += int(np.prod([max(size, 1) for size in sizes], dtype=object))
    return Declared((values,), np.dtype(np.float64))


def _check_image(path: Path, dataset: "Dataset") -> None:
    kind = kind_of(dataset)
    if kind == _CONTOURS:
        raise DataError(
            f"{path} holds contours (RTSTRUCT), no voxels; convert them to a label map first, such "
            "as with 3D Slicer and its extension SlicerRT"
        )
    if kind in SEGMENTATIONS:
        raise DataError(
            f"{path} is a segmentation (DICOM-SEG), no image; it may be the mask of an image"
        )
    if "Rows" not in dataset:
        is_image = not kind or "Image Storage" in kind.name
        content = "its header has no image size, it may be damaged" if is_image else kind.name
        raise DataError(f"{path} holds no image: {content}")


def _rescaled(path: Path, dataset: "Dataset", number: int, stored: np.ndarray) -> np.ndarray:
    """The values of a frame: as stored, or int32 if the scale has whole numbers, or float32."""
    from pydicom.pixels import apply_modality_lut

    slope, intercept = (
        of_frame(dataset, number, "PixelValueTransformationSequence", key)
        for key in ("RescaleSlope", "RescaleIntercept")
    )
    if slope is not None or intercept is not None:
        try:
            slope, intercept = float(slope), float(intercept)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path} has rescale slope {slope} and intercept {intercept}; expected two numbers"
            ) from error
        if (slope, intercept) == (1, 0):
            return stored
        values = stored * slope + intercept
        whole = slope.is_integer() and intercept.is_integer()
        return values.astype(np.int32 if whole and _fits(values, np.int32) else np.float32)
    try:
        return apply_modality_lut(stored, dataset)
    except Exception as error:
        raise unreadable(path, error) from error


def _fits(values: np.ndarray, kind: type[np.integer]) -> bool:
    return bool(np.iinfo(kind).min <= values.min() and values.max() <= np.iinfo(kind).max)


def _stack(
    planes: Sequence[Plane], files: Sequence[Path], slices: Sequence[np.ndarray]
) -> tuple[list[int], np.ndarray]:
    """The order of the planes, and the affine of the volume that they make."""
    first = planes[0]
    if len(planes) < 2:
        raise DataError(f"{files[0]} is the only slice of its series; expected a volume")
    for plane, array, path in zip(planes, slices, files, strict=True):
        if array.shape != slices[0].shape:
            raise DataError(
                f"{path} has {array.shape} rows and columns but {files[0]} has {slices[0].shape}"
            )
        if not np.allclose(plane.steps, first.steps, rtol=0, atol=_SAME_STEPS_MM):
            raise DataError(
                f"{path} and {files[0]} have slices of unlike orientation or pixel spacing; "
                "split the series"
            )
    # Along x times y in LPS, as DICOM and other readers order slices; RAS mirrors two axes, so
    # that the product keeps its sign.
    normal = np.cross(first.steps[:, 0], first.steps[:, 1])
    positions = np.array([plane.position for plane in planes])
    order = np.argsort(positions @ normal, kind="stable").tolist()
    positions = positions[order]
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    _check_even(positions, step, [files[i] for i in order])
    affine = np.eye(4)
    affine[:3] = np.column_stack([first.steps, step, positions[0]])
    return order, affine


def _check_even(positions: np.ndarray, step: np.ndarray, files: Sequence[Path]) -> None:
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    usual = float(np.median(gaps))
    narrow, wide = int(gaps.argmin()), int(gaps.argmax())
    if gaps[narrow] <= _OFF_VOXELS * usual or not usual:
        raise DataError(
            f"{files[narrow]} and {files[narrow + 1].name} lie at one place; the series has more "
            "than one volume, or a slice twice: split it"
        )
    line = positions[0] + np.arange(len(positions))[:, None] * step
    if np.linalg.norm(positions - line, axis=1).max() > _OFF_VOXELS * usual:
        missing = round(gaps[wide] / usual) - 1
        raise DataError(
            f"slices are not evenly spaced: {gaps.min():.4g} to {gaps.max():.4g} mm, the widest "
            f"gap between {files[wide]} and {files[wide + 1].name}"
            + (f"; most likely {missing} are missing there" if missing > 0 else "")
        )
