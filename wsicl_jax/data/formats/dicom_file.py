"""One DICOM file through pydicom: its header, its frames, and their positions."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from wsicl_jax.data.formats.payload import beginning
from wsicl_jax.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

_PREAMBLE = 128
_MARK = b"DICM"

LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])

_OFF_VOXELS = 0.1
"""Distance, in voxels, by which rounding may move a pixel."""

_DIRECTORY = "1.2.840.10008.1.3.10"

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of DICOM-SEG: of binary or fractional segments, and of label maps."""

_HEADER = (
    *("SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "PatientID", "Modality", "Rows"),
    "SegmentSequence",
)
"""Kind, series and patient of an object."""

_NEEDED_GROUPS = (0x0002, 0x0020, 0x0028, 0x0062, 0x5200, 0x7FE0)
"""Groups of the header with storage, position and meaning of pixels."""

_SOP_CLASS = 0x00080016


class Plane(NamedTuple):
    """Position of a slice; its axes are those of the volume's x and y."""

    position: Float[np.ndarray, "3"]
    """Centre of its first voxel in RAS+ mm."""
    steps: Float[np.ndarray, "3 2"]
    """From a voxel to the next one along x and along y, in RAS+ mm."""


def is_dicom(path: Path) -> bool:
    """Whether a file exists and has DICOM's mark."""
    try:
        return beginning(path, _PREAMBLE + len(_MARK))[_PREAMBLE:] == _MARK
    except DataError:
        return False


def read_header(path: Path) -> "Dataset":
    """Kind, series and patient of an object. Raises as `read_object`."""
    return _read(path, stop_before_pixels=True, specific_tags=list(_HEADER))


def kind_of(dataset: "Dataset") -> "UID":
    """The object's kind (SOP class); empty if its header has none."""
    from pydicom.uid import UID

    return UID(str(dataset.get("SOPClassUID") or ""))


def is_directory(header: "Dataset") -> bool:
    """Whether it is a DICOMDIR, the only kind of file without an object."""
    return header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY


def read_object(path: Path) -> "Dataset":
    """All of a file.

    Raises:
        DataError: pydicom is not installed, or the file is missing, empty or damaged.
    """
    return _read(path)


def read_without_pixels(path: Path) -> "Dataset":
    """All of a file but its pixels. Raises as `read_object`."""
    return _read(path, stop_before_pixels=True)


def pydicom_for(path: Path) -> ModuleType:
    """The package pydicom. Raises `DataError` if it is not installed."""
    try:
        import pydicom
    except ImportError as error:
        raise DataError(
            f"{path} needs pydicom to be read: pip install 'wsicl_jax[dicom]'"
        ) from error
    return pydicom


def _read(path: Path, **part: Any) -> "Dataset":
    pydicom = pydicom_for(path)
    if not path.is_file():
        raise DataError(f"{path} is missing")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty (0 bytes); copy it again")
    # Scanners write many values that break the standard; pydicom would warn of each.
    with pydicom.config.disable_value_validation():
        try:
            dataset = pydicom.dcmread(path, **part)
        # Bytes of unknown origin make pydicom fail in more ways than it documents.
        except Exception as error:
            raise unreadable(path, error) from error
        _check_elements(path, dataset.file_meta)
        _check_elements(path, dataset)
    return dataset


def _check_elements(path: Path, dataset: "Dataset") -> None:
    """Decode every element now; pydicom does it only on access.

    Elements that cannot be decoded and are not needed, such as notes of a vendor, are dropped.

    Raises:
        DataError: a needed element cannot be decoded, or has not the form that DICOM prescribes.
    """
    from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR

    for tag in list(dataset.keys()):
        is_needed = tag.group in _NEEDED_GROUPS or tag == _SOP_CLASS
        try:
            element = dataset[tag]
        # Unknown types, and values that do not fit their type: as above.
        except Exception as error:
            if is_needed:
                raise unreadable(path, error) from error
            del dataset[tag]
            continue
        if is_needed and dictionary_has_tag(tag):
            is_sequence = dictionary_VR(tag) == "SQ"
            if is_sequence != (element.VR == "SQ"):
                raise DataError(
                    f"{path} has {element.keyword} of type {element.VR} in its header; repair it"
                )
            if not is_sequence and dictionary_VM(tag) == "1" and element.VM > 1:
                raise DataError(
                    f"{path} has {element.VM} values of {element.keyword} in its header; expected "
                    "one: repair it"
                )
        if element.VR == "SQ":
            for item in element.value:
                _check_elements(path, item)


def frames_of(path: Path, dataset: "Dataset") -> np.ndarray:
    """Stored values by (frame, row, column). Raises `DataError` if they cannot be decoded."""
    try:
        array = dataset.pixel_array
    except Exception as error:
        from pydicom.pixels import get_decoder

        syntax = dataset.file_meta.get("TransferSyntaxUID")
        # If it is missing or unknown to pydicom, the first error reports it.
        with contextlib.suppress(AttributeError, NotImplementedError, ValueError):
            if syntax.is_compressed and not get_decoder(syntax).is_available:
                raise DataError(
                    f"{path} is compressed as {syntax.name}, which needs another package: "
                    "pip install 'wsicl_jax[dicom]'"
                ) from error
        raise unreadable(path, error) from error
    return array if array.ndim > 2 else array[None]


def unreadable(path: Path, error: Exception) -> DataError:
    """The error for a file that pydicom cannot read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} cannot be read as DICOM, it may be damaged or cut off: {reason}")


def _groups(dataset: "Dataset", number: int) -> Iterator["Dataset"]:
    """The groups that may hold a frame's attributes, in files of many frames."""
    if per_frame := dataset.get("PerFrameFunctionalGroupsSequence"):
        yield per_frame[number]
    if shared := dataset.get("SharedFunctionalGroupsSequence"):
        yield shared[0]


def of_frame(dataset: "Dataset", number: int, sequence: str, attribute: str) -> Any:
    """An attribute of a frame, else of all frames, else of the file; None without any."""
    for group in _groups(dataset, number):
        if item := group.get(sequence):
            return item[0].get(attribute)
    return dataset.get(attribute)


def planes_of(path: Path, dataset: "Dataset") -> Iterator[Plane]:
    """The position of each frame. Raises `DataError` if its header does not have it."""
    count = dataset.get("NumberOfFrames") or 1
    if not isinstance(count, int):
        raise DataError(f"{path} has {count!r} frames; expected a number")
    for number in range(count):
        try:
            position, turn, spacing = (
                np.array(of_frame(dataset, number, *where), np.float64).reshape(size)
                for where, size in (
                    (("PlanePositionSequence", "ImagePositionPatient"), 3),
                    (("PlaneOrientationSequence", "ImageOrientationPatient"), (2, 3)),
                    (("PixelMeasuresSequence", "PixelSpacing"), 2),
                )
            )
        except (TypeError, ValueError, IndexError):
            raise DataError(
                f"{path} does not say where its slices lie: position, orientation or pixel "
                "spacing is missing in its header"
            ) from None
        # Orientation begins with the direction along a row, spacing with the distance of rows.
        steps = (turn * spacing[::-1, None]).T
        yield Plane(position * LPS_TO_RAS, steps * LPS_TO_RAS[:, None])


def values_at(
    file: Path,
    plane: Plane,
    shape: tuple[int, int],
    label: Integer[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
) -> Integer[np.ndarray, "rows columns"]:
    """The label map's values at the pixels of a file's plane, of `shape` rows and columns.

    The axes of the label map may have any order and direction; `affine` maps it to RAS+ mm.

    Raises:
        DataError: the plane does not lie on the label map's grid.
    """
    into = np.linalg.inv(affine)
    start = into[:3, :3] @ plane.position + into[:3, 3]
    steps = into[:3, :3] @ plane.steps
    whole_start, whole_steps = np.rint(start), np.rint(steps)
    rows, columns = shape
    last = np.array([columns - 1, rows - 1])
    off = np.linalg.norm(start - whole_start) + np.abs((steps - whole_steps) @ last).max()
    end = whole_start + whole_steps @ last
    outside = (np.minimum(whole_start, end) < 0).any()
    outside |= (np.maximum(whole_start, end) >= label.shape).any()
    if off > _OFF_VOXELS or outside or (np.abs(whole_steps).sum(axis=0) != 1).any():
        raise DataError(
            f"{file} does not lie on the grid of the label map, of {label.shape} voxels; give the "
            "files of the series that was segmented"
        )
    row, column = np.indices(shape)
    places = whole_start[:, None, None] + np.tensordot(whole_steps, [column, row], axes=1)
    x, y, z = places.astype(int)
    return label[x, y, z]
