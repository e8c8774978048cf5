"""DICOM RT structure sets through pydicom: contours of the structures on the slices of a series."""

import datetime
import io
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Integer

from wsicl_jax.data.formats.colours import colour_of
from wsicl_jax.data.formats.contours import outlines
from wsicl_jax.data.formats.dicom_file import (
    LPS_TO_RAS,
    Plane,
    planes_of,
    pydicom_for,
    read_without_pixels,
    values_at,
)
from wsicl_jax.errors import DataError
from wsicl_jax.storage.atomic import write_whole

if TYPE_CHECKING:
    from pydicom import Dataset

_MAX_NAME = 64
"""Characters of a structure's name in DICOM."""

_NEEDED = (
    *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("SOPClassUID", "SOPInstanceUID", "Rows", "Columns"),
)
"""Attributes of an image without which no contour can refer to it."""

_OF_STUDY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""Attributes of patient and study that the result takes over; they may be empty."""

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""The SOP class by which structure sets refer to a study."""

_SERIES_NUMBER = 2000
"""Added to the number of the series, so that results sort after a scanner's series."""


def write_structure_set(
    path: Path,
    label: Integer[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    names: Mapping[str, int],
    series: Sequence[Path],
) -> None:
    """Write the structures' contours on each slice of a series, with references to its images.

    `names` gives the value of each structure in the label map, `affine` is in mm, `series` are
    all the files of the series. Structures are numbered by value; one without voxels has no
    contours. Holes are joined to their outline by keyholes.

    Raises:
        DataError: pydicom is not installed, a file cannot be read or lies off the grid, the
            series lacks what contours refer to, DICOM cannot hold a name, or the file cannot be
            written.
    """
    pydicom = pydicom_for(series[0])
    for name in names:
        if len(name) > _MAX_NAME or "\\" in name:
            raise DataError(
                f"{path}: DICOM allows names of {_MAX_NAME} characters without backslash, got "
                f"{name!r}, of {len(name)}; rename the structure"
            )
    content = io.BytesIO()
    # Values of the series that break the standard are passed on as they are.
    with pydicom.config.disable_value_validation():
        _structure_set(label, affine, names, series).save_as(content, enforce_file_format=True)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def _structure_set(
    label: np.ndarray, affine: np.ndarray, names: Mapping[str, int], series: Sequence[Path]
) -> "Dataset":
    from pydicom import Dataset

    ordered = sorted(names, key=lambda name: names[name])
    contours: dict[str, list[Dataset]] = {name: [] for name in ordered}
    images = []
    for file in series:
        source = read_without_pixels(file)
        missing = [key for key in _NEEDED if not source.get(key)]
        if missing:
            raise DataError(
                f"{file} has no {missing[0]} in its header, which RTSTRUCT needs; choose another "
                "format"
            )
        shape = int(source.Rows), int(source.Columns)
        for number, plane in enumerate(planes_of(file, source), start=1):
            image = _reference(source)
            if "NumberOfFrames" in source:
                image.ReferencedFrameNumber = number
            values = values_at(file, plane, shape, label, affine)
            for name in (name for name in ordered if (values == names[name]).any()):
                contours[name] += _contours(values == names[name], plane, image)
        images.append(source)
    if len({source.SeriesInstanceUID for source in images}) > 1:
        raise DataError(
            f"{series[0]} and {series[-1]}: files of several series; give those of the series that "
            "was segmented"
        )
    first = images[0]
    result = _header(first)
    result.ReferencedFrameOfReferenceSequence = [_references(images)]
    result.StructureSetROISequence, result.ROIContourSequence = [], []
    result.RTROIObservationsSequence = []
    for number, name in enumerate(ordered, start=1):
        structure, drawn, observed = (Dataset() for _ in range(3))
        structure.ROINumber, structure.ROIName = number, name
        structure.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
        structure.ROIGenerationAlgorithm = "AUTOMATIC"
        drawn.ReferencedROINumber = number
        drawn.ROIDisplayColor = [round(255 * part) for part in colour_of(number - 1)]
        if contours[name]:
            drawn.ContourSequence = contours[name]
        observed.ObservationNumber = observed.ReferencedROINumber = number
        observed.RTROIInterpretedType = observed.ROIInterpreter = ""
        result.StructureSetROISequence.append(structure)
        result.ROIContourSequence.append(drawn)
        result.RTROIObservationsSequence.append(observed)
    return result


def _contours(mask: np.ndarray, plane: Plane, image: "Dataset") -> "Iterator[Dataset]":
    """The contours of a mask (row, column) on a plane, in LPS mm."""
    from pydicom import Dataset

    for outline in outlines(mask):
        points = (plane.position + outline[:, ::-1] @ plane.steps.T) * LPS_TO_RAS
        contour = Dataset()
        contour.ContourImageSequence = [image]
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = len(points)
        # Adding 0 makes -0 plain 0. DICOM has 16 characters for a number.
        contour.ContourData = [f"{value:.5f}" for value in (points.round(5) + 0).ravel()]
        yield contour


def _header(source: "Dataset") -> "Dataset":
    """All but the structures; patient and study are those of an image."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    package, now = metadata.metadata("wsicl_jax"), datetime.datetime.now()
    day, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    result = Dataset()
    result.file_meta = FileMetaDataset()
    # With explicit types, a contour could have no more than 64 kB.
    result.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID = RTStructureSetStorage
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    # Names of structures and of patients may be of any language: UTF-8.
    result.SpecificCharacterSet = "ISO_IR 192"
    result.InstanceCreationDate, result.InstanceCreationTime = day, time
    for key in _OF_STUDY:
        setattr(result, key, source.get(key, ""))
    result.StudyInstanceUID = source.StudyInstanceUID
    result.SeriesInstanceUID, result.Modality = generate_uid(), "RTSTRUCT"
    result.SeriesNumber = int(source.get("SeriesNumber") or 0) + _SERIES_NUMBER
    result.SeriesDescription, result.OperatorsName = "Segmentation", ""
    result.FrameOfReferenceUID = source.FrameOfReferenceUID
    result.PositionReferenceIndicator = source.get("PositionReferenceIndicator", "")
    result.Manufacturer = result.ManufacturerModelName = package["Name"]
    result.SoftwareVersions = package["Version"]
    result.StructureSetLabel, result.InstanceNumber = "Segmentation", 1
    result.StructureSetDate, result.StructureSetTime = day, time
    result.ApprovalStatus = "UNAPPROVED"
    return result


def _reference(source: "Dataset") -> "Dataset":
    """A reference to an image."""
    from pydicom import Dataset

    image = Dataset()
    image.ReferencedSOPClassUID = source.SOPClassUID
    image.ReferencedSOPInstanceUID = source.SOPInstanceUID
    return image


def _references(images: "Sequence[Dataset]") -> "Dataset":
    """A reference to the frame of reference, its study, its series and all its images."""
    from pydicom import Dataset

    series, study, place = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ContourImageSequence = [_reference(image) for image in images]
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = images[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    place.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    place.RTReferencedStudySequence = [study]
    return place
