"""Folders of DICOM: one for each case, with one image series and its labels."""

from pathlib import Path

from wsicl_jax.data.formats import dicom, dicom_seg
from wsicl_jax.data.layouts.layout import (
    CaseFiles,
    Layout,
    checked,
    in_order,
    is_volume,
    name_of,
    volumes,
)
from wsicl_jax.errors import DataError
from wsicl_jax.terminal.progress import track


def has_dicom(source: Path) -> bool:
    """Whether there is a DICOM file anywhere below a folder."""
    return any(dicom.is_dicom(file) for file in source.rglob("*") if file.is_file())


def dicom_folders(source: Path) -> Layout:
    """The cases of a folder of folders; a folder that itself has DICOM files is a single case.

    The segments of all DICOM-SEG files name the labels, numbered in the order of names.

    Raises:
        DataError: there are none.
    """
    folders = [f for f in sorted(source.iterdir()) if f.is_dir() and not f.name.startswith(".")]
    if any(dicom.is_dicom(file) for file in source.iterdir() if file.is_file()):
        folders = [source]
    cases, skipped, modalities = {}, {}, set()
    segments: dict[str, tuple[str, ...]] = {}  # of the cases that have DICOM-SEG
    with track(len(folders), "reading DICOM headers") as progress:
        for folder in folders:
            name = name_of(folder)
            try:
                files, modality = _dicom_case(folder)
                if not is_volume(files.labels[0]):
                    segments[name] = dicom_seg.segment_names(files.labels)
                cases[name] = files
                modalities.add(modality)
            except DataError as error:
                skipped[name] = str(error)
            progress.advance()
    names = None
    if segments:
        names = dict(enumerate(sorted({s for case in segments.values() for s in case}), start=1))
        for name in sorted(cases.keys() - segments.keys()):
            skipped[name] = "has a label file, while other cases have DICOM-SEG"
            del cases[name]
    channel = (modalities.pop() if len(modalities) == 1 else "") or "image"
    return checked(
        Layout("dicom", source, name_of(source), (channel,), names, in_order(cases), skipped)
    )


def _dicom_case(folder: Path) -> tuple[CaseFiles, str]:
    series, segmentations, unreadable = dicom.scan(folder)
    if unreadable:
        file, reason = next(iter(unreadable.items()))
        raise DataError(f"{file.relative_to(folder)} cannot be read as DICOM: {reason}")
    if len(series) != 1:
        names = ", ".join(f"{s.description or s.uid} ({len(s.files)} files)" for s in series)
        raise DataError(
            f"has {len(series)} image series ({names}); give each case a folder with one series"
            if series
            else "has no image series"
        )
    labels = segmentations or volumes(folder)
    if not labels:
        raise DataError("has an image but no label: neither DICOM-SEG nor a label file")
    if not segmentations and len(labels) > 1:
        raise DataError(f"has {len(labels)} label files ({', '.join(f.name for f in labels)})")
    (image,) = series
    name = name_of(folder)
    case = CaseFiles(name, image.patient or name, (image.files,), tuple(labels))
    return case, image.modality
