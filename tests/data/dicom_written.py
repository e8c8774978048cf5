"""DICOM files as scanners and annotators write them, from arrays on RAS+ grids."""

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

LPS = np.array([-1.0, -1.0, 1.0])


def headers(array: np.ndarray, affine: np.ndarray, **changed) -> list[pydicom.Dataset]:
    """A header and stored values for each slice along the last axis, the last slice first."""
    series, study, place = generate_uid(), generate_uid(), generate_uid()
    x, y, step = (affine[:3, :3] * LPS[:, None]).T
    made = []
    for number in reversed(range(array.shape[2])):
        slice_ = array[:, :, number].T
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.StudyInstanceUID = series, study
        data.FrameOfReferenceUID = place
        data.PatientID, data.PatientName, data.Modality = "P7", "A^B", "CT"
        data.SeriesDescription, data.SeriesNumber = "thorax", 1
        for empty in (
            *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
            *("AccessionNumber", "ReferringPhysicianName"),
        ):
            setattr(data, empty, "")
        data.InstanceNumber = array.shape[2] - number
        data.ImagePositionPatient = _text((affine[:3] @ [0, 0, number, 1]) * LPS)
        data.ImageOrientationPatient = _text([*(x / np.linalg.norm(x)), *(y / np.linalg.norm(y))])
        data.PixelSpacing = _text([np.linalg.norm(y), np.linalg.norm(x)])
        data.SliceThickness = _text([np.linalg.norm(step)])[0]
        data.Rows, data.Columns = slice_.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = array.dtype.itemsize * 8
        data.HighBit = data.BitsStored - 1
        data.PixelRepresentation = int(array.dtype.kind == "i")
        data.PixelData = np.ascontiguousarray(slice_).tobytes()
        for key, value in changed.items():
            setattr(data, key, value)
        made.append(data)
    return made


def write_series(
    folder: Path, array: np.ndarray, affine: np.ndarray, **changed
) -> tuple[Path, ...]:
    """Files of a series whose names and numbers run against the places of its slices."""
    return write_all(folder, headers(array, affine, **changed))


def write_all(folder: Path, datasets: Sequence[pydicom.Dataset]) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(folder / f"{number:03}.dcm" for number in range(len(datasets)))
    for file, data in zip(files, datasets, strict=True):
        data.save_as(file, enforce_file_format=True)
    return files


def segmentation(
    images: Sequence[Path], masks: dict[str, np.ndarray], kind: str = "BINARY", **options
) -> hd.seg.Segmentation:
    """DICOM-SEG by highdicom of masks (x, y, z) by name, on the grid of a series."""
    sources = sorted((pydicom.dcmread(f) for f in images), key=lambda d: -d.InstanceNumber)
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, start=1)
    ]
    frames = np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], axis=-1)
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=frames.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="0",
        device_serial_number="0",
        **options,
    )


def write_segmentation(
    path: Path,
    images: Sequence[Path],
    masks: dict[str, np.ndarray],
    kind: str = "BINARY",
    **options,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation(images, masks, kind, **options).save_as(path)
    return path


def _text(values) -> list[str]:
    return [f"{value:.10g}" for value in values]
