"""Writing label maps and probabilities, in the format of the file's ending."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from wsicl_jax.data.formats import itk, nifti
from wsicl_jax.data.formats.colours import colour_of
from wsicl_jax.data.formats.dicom_file import is_dicom
from wsicl_jax.data.formats.dicom_rtstruct_writer import write_structure_set
from wsicl_jax.data.formats.dicom_seg_writer import write_segmentation
from wsicl_jax.errors import DataError

FORMATS = ("nii.gz", "nii", "nrrd", "seg.nrrd", "mha", "dcm", "rtstruct.dcm")
"""Endings of label maps that can be written."""

HAVE_NAMES = ("seg.nrrd", "dcm", "rtstruct.dcm")
"""Formats that name the structures."""

REFER_TO_SERIES = {"dcm": "DICOM-SEG", "rtstruct.dcm": "RTSTRUCT"}
"""Formats that refer to the DICOM series that was segmented, by their names in DICOM."""

_MAX_VALUES = {np.uint8: 255, np.uint16: 65535}


def format_of(path: Path) -> str:
    """The format of a file's ending; the longest that fits.

    Raises:
        DataError: no such format can be written.
    """
    name = path.name.lower()
    matches = [ending for ending in FORMATS if name.endswith(f".{ending}")]
    if not matches:
        raise DataError(
            f"{path} ends in no format that can be written; expected "
            f"{', '.join(f'.{ending}' for ending in FORMATS)}"
        )
    return max(matches, key=len)


def check_installed(ending: str) -> None:
    """Raises `DataError` if the package that writes a format is missing."""
    package, extra = {
        **{form: ("SimpleITK", "itk") for form in ("nrrd", "seg.nrrd", "mha")},
        "dcm": ("highdicom", "dicom"),
        "rtstruct.dcm": ("pydicom", "dicom"),
    }.get(ending, ("nibabel", ""))
    if importlib.util.find_spec(package) is None:
        raise DataError(
            f"{package}, which writes .{ending}, is not installed: pip install 'wsicl_jax[{extra}]'"
        )


def write_label_map(
    path: Path,
    label_map: Integer[np.ndarray, "x y z"] | Bool[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    names: Mapping[str, int],
    source: Sequence[Path] = (),
) -> None:
    """Write a label map in the format of the path's ending; uint8, or uint16 for values above 255.

    `affine` maps to RAS+ mm, `names` gives the value of each structure, `source` are the files of
    the segmented image, whose geometry and references the result takes over. The file appears
    under its name only when it is complete.

    Raises:
        DataError: the ending is unknown, a value is negative, above 65535, or has no name where
            the format needs one, a format refers to a DICOM series and `source` is none or lacks
            attributes, a package is missing, or writing fails.
        ShapeError: `source` is NIfTI of another shape.
    """
    ending = format_of(path)
    voxels = _in_smallest_type(path, label_map, names)
    if ending in HAVE_NAMES:
        nameless = np.setdiff1d(voxels, [0, *names.values()]).tolist()
        if nameless or not names:
            raise DataError(f"{path}: label values {nameless[:5]} have no name; name all of them")
    if ending in REFER_TO_SERIES:
        if not source or not is_dicom(source[0]):
            fault = f"{source[0]} is no DICOM file" if source else "no files of one are given"
            raise DataError(
                f"{path}: {REFER_TO_SERIES[ending]} refers to the DICOM series that was "
                f"segmented, and {fault}; choose another format"
            )
        write = write_segmentation if ending == "dcm" else write_structure_set
        write(path, voxels, affine, names, source)
    elif ending in ("nii.gz", "nii"):
        nifti.write(path, voxels, affine, _nifti_among(source))
    else:
        extra = _for_slicer(voxels, names) if ending == "seg.nrrd" else None
        itk.write(path, voxels, affine, extra)


def write_probabilities(
    path: Path,
    probabilities: Float[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    source: Sequence[Path] = (),
) -> None:
    """Write probabilities as float32, as NIfTI, NRRD or MetaImage.

    Raises:
        DataError: the ending is none of these, or as `write_label_map`.
        ShapeError: `source` is NIfTI of another shape.
    """
    ending = format_of(path)
    if ending in HAVE_NAMES:
        raise DataError(f"{path}: .{ending} holds no probabilities; use .nii.gz, .nrrd or .mha")
    voxels = probabilities.astype(np.float32)
    if ending in ("nii.gz", "nii"):
        nifti.write(path, voxels, affine, _nifti_among(source))
    else:
        itk.write(path, voxels, affine)


def _nifti_among(source: Sequence[Path]) -> Path | None:
    is_nifti = len(source) == 1 and source[0].name.lower().endswith(nifti.ENDINGS)
    return source[0] if is_nifti else None


def _in_smallest_type(path: Path, label_map: np.ndarray, names: Mapping[str, int]) -> np.ndarray:
    low = int(min([label_map.min(initial=0), *names.values()]))
    high = int(max([label_map.max(initial=0), *names.values()]))
    if low < 0 or (names and min(names.values()) < 1):
        raise DataError(f"{path}: a label map needs values from 1 for its structures, 0 outside")
    for kind, most in _MAX_VALUES.items():
        if high <= most:
            return label_map.astype(kind, copy=False)
    raise DataError(f"{path}: a label map has values up to 65535, got {high}")


def _for_slicer(voxels: np.ndarray, names: Mapping[str, int]) -> dict[str, str]:
    """The keys that let 3D Slicer open a label map as a segmentation.

    Source: "Segmentation labelmap file format", 3D Slicer's developer guide.
    """
    keys = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_SourceRepresentation": "Binary labelmap",
        # Slicer before 5 has this older name.
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    ordered = sorted(names.items(), key=lambda item: item[1])
    boxes = ndimage.find_objects(voxels, max(names.values()))
    for number, (name, value) in enumerate(ordered):
        colour = colour_of(number)
        segment = {
            "ID": f"Segment_{value}",
            "Name": " ".join(name.split()),
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{part:.6f}" for part in colour),
            "ColorAutoGenerated": "1",
            "LabelValue": str(value),
            "Layer": "0",
            "Extent": _extent(boxes[value - 1]),
            "Tags": "|",
        }
        keys |= {f"Segment{number}_{key}": text for key, text in segment.items()}
    return keys


def _extent(box: tuple[slice, ...] | None) -> str:
    """First and last voxel along each axis; without a box, the last before the first."""
    return " ".join(f"{s.start} {s.stop - 1}" for s in box or [slice(0, 0)] * 3)
