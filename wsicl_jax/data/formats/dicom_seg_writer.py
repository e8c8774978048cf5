"""DICOM-SEG files through highdicom: one binary segment for each structure of a label map.

The label map may have its axes in any order and direction: each pixel of the series takes the
voxel at its position.
"""

import io
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from wsicl_jax.data.formats.dicom_file import planes_of, read_object, values_at
from wsicl_jax.errors import DataError
from wsicl_jax.storage.atomic import write_whole

_MAX_NAME = 64
"""Characters of a segment's label in DICOM."""

_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
)
"""Attributes of the study that may be empty; anonymization often removes them."""

_SERIES_NUMBER = 1000
"""Added to the number of the series, so that results sort after a scanner's series."""


def write_segmentation(
    path: Path,
    label: Integer[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    names: Mapping[str, int],
    series: Sequence[Path],
) -> None:
    """Write structures on the grid of a series, with references to its images.

    `names` gives the value of each structure in the label map, `affine` is in mm, `series` are
    all the files of the series. Segments are numbered by value, and have the structures' names.

    Raises:
        DataError: highdicom is not installed, a file cannot be read or lies off the grid, the
            series lacks what DICOM-SEG needs, a name is too long, or the file cannot be written.
    """
    try:
        import highdicom as hd
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise DataError(
            f"{path} needs highdicom to be written: pip install 'wsicl_jax[dicom]'"
        ) from error
    too_long = [name for name in names if len(name) > _MAX_NAME]
    if too_long:
        raise DataError(
            f"{path}: DICOM allows names of {_MAX_NAME} characters, {too_long[0]!r} has "
            f"{len(too_long[0])}; rename the structure"
        )
    ordered = sorted(names, key=lambda name: names[name])
    numbers = np.zeros(int(max(label.max(initial=0), *names.values())) + 1, np.uint16)
    for number, name in enumerate(ordered, start=1):
        numbers[names[name]] = number
    sources, frames = [], []
    for file in series:
        source = read_object(file)
        source.pop("PixelData", None)
        for plane in planes_of(file, source):
            shape = int(source.Rows), int(source.Columns)
            frames.append(numbers[values_at(file, plane, shape, label, affine)])
        sources.append(source)
        for key in _MAY_BE_EMPTY:
            if key not in source:
                setattr(source, key, "")
    package = metadata.metadata("wsicl_jax")
    algorithm = hd.AlgorithmIdentificationSequence(
        name=package["Name"], version=package["Version"], family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(ordered, start=1)
    ]
    masks = np.stack(frames)
    content = io.BytesIO()
    try:
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=masks,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=int(sources[0].get("SeriesNumber") or 0) + _SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=package["Name"],
            manufacturer_model_name=package["Name"],
            software_versions=package["Version"],
            device_serial_number="0",
            omit_empty_frames=bool(masks.any()),
            series_description="Segmentation",
        )
        # Names of structures and of patients may be of any language: UTF-8.
        segmentation.SpecificCharacterSet = "ISO_IR 192"
        segmentation.save_as(content)
    # Incomplete headers make highdicom fail in more ways than it documents.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path} cannot be made as DICOM-SEG of {series[0]} and its series: {reason}; "
            "choose another format"
        ) from error
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error
