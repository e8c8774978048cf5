"""The voxels of a case from its original files, checked."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from jaxtyping import Float, Integer, Num

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.catalogue import SourceFile
from wsicl_jax.data.formats import dicom_seg
from wsicl_jax.data.images import LabelMap, check_same_grid, read_channels, read_label
from wsicl_jax.data.layouts.layout import CaseFiles, Layout, is_volume, voxel_files
from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.terminal.progress import track

_OFF_VOXELS = 0.1
"""Distance, in voxels, that rounding may place a label map from an image's voxels."""


class SourceCase(NamedTuple):
    """A case with the voxels of its files."""

    image: Num[np.ndarray, "c x y z"]
    label: Integer[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    remarks: tuple[str, ...]
    """What is unusual, but accepted."""


def read_source_case(
    layout: Layout,
    files: CaseFiles,
    label_names: Mapping[int, str],
    reading: ReadingConfig | None = None,
    *,
    replace_nonfinite: float | None = None,
) -> SourceCase:
    """The voxels of a case.

    `replace_nonfinite` takes the place of voxels that are NaN or infinite.

    Raises:
        DataError: the case cannot be used, with the reason.
    """
    channels = [
        read_channels(parts, reading, replace_nonfinite=replace_nonfinite) for parts in files.images
    ]
    file, (first, affine, _) = files.images[0][0], channels[0]
    shape = first.shape[1:]
    for (other, *_), (image, other_affine, _) in zip(files.images, channels, strict=True):
        check_same_grid((other, file), (image.shape[1:], shape), (other_affine, affine))
    image = np.concatenate([image for image, _, _ in channels])
    if len(image) != len(layout.channel_names):
        raise DataError(
            f"has {len(image)} channels; the data set has {', '.join(layout.channel_names)}"
        )
    label, label_affine, label_remarks = _label_of(files, label_names, shape, affine, reading)
    check_same_grid((file, files.labels[0]), (shape, label.shape), (affine, label_affine))
    values = np.unique(label).tolist()
    if unknown := sorted(set(values) - {0, *label_names}):
        raise DataError(f"{files.labels[0]} has labels {unknown} that have no name")
    if values == [0]:
        label_remarks = (*label_remarks, "empty label map")
    remarks = [remark for part in channels for remark in part.remarks]
    return SourceCase(image, label, label_affine, tuple(dict.fromkeys([*remarks, *label_remarks])))


def source_files(layout: Layout, files: CaseFiles) -> tuple[SourceFile, ...]:
    """All files of a case with size and time; a changed file gives another result.

    Raises:
        DataError: one is missing.
    """
    sources = []
    for file in (*(file for parts in files.images for file in parts), *files.labels):
        for part in (file, *voxel_files(file)):
            try:
                state = part.stat()
            except OSError:
                raise DataError(f"{part} is missing") from None
            # A description may list files outside of its folder.
            name = Path(os.path.relpath(part, layout.source)).as_posix()
            sources.append(SourceFile(name, state.st_size, state.st_mtime_ns))
    return tuple(sources)


def scan_labels(layout: Layout, reading: ReadingConfig | None = None) -> dict[int, str]:
    """Names such as `label 1` for all values in the label files; reads all of them.

    Raises:
        DataError: there is no value but 0.
    """
    values: set[int] = set()
    with track(len(layout.cases), f"looking for labels in {layout.name}") as progress:
        for files in layout.cases:
            with contextlib.suppress(DataError):  # reported when the case is converted
                label = read_label(files.labels[0], reading).label
                values |= {int(v) for v in np.unique(label)}
            progress.advance()
    if not (labels := sorted(values - {0})):
        raise DataError(f"{layout.source} has no label map with a value but 0")
    if labels[0] < 0:
        raise DataError(f"{layout.source} has label {labels[0]}; labels are whole numbers from 0")
    return {value: f"label {value}" for value in labels}


def _label_of(
    files: CaseFiles,
    label_names: Mapping[int, str],
    shape: tuple[int, ...],
    affine: np.ndarray,
    reading: ReadingConfig | None,
) -> LabelMap:
    if is_volume(files.labels[0]):
        return _turned(read_label(files.labels[0], reading), affine)
    values = {name: value for value, name in label_names.items()}
    label = dicom_seg.read_segmentation(files.labels, values, shape, affine)
    return LabelMap(label, affine, ())


def label_on_grid(
    label: LabelMap, shape: tuple[int, ...], affine: Float[np.ndarray, "4 4"]
) -> LabelMap:
    """A label map with the axes and the extent of an image; for masks that show a structure.

    A conversion does not use this: training would learn the voxels outside of the label map as
    background. Voxels keep their values. A label map that lies outside of the image, or between
    its voxels, stays as it is, and `check_same_grid` refuses it.
    """
    if not np.isfinite(label.affine).all() or np.linalg.matrix_rank(label.affine[:3, :3]) < 3:
        return label
    label = _turned(label, affine)
    start = np.linalg.solve(affine, label.affine)[:3, 3]
    offset = np.rint(start).astype(int)
    if label.label.shape == shape or np.abs(start - offset).max() > _OFF_VOXELS:
        return label
    extent = Box(tuple(offset.tolist()), tuple((offset + label.label.shape).tolist()))
    common = Box((0, 0, 0), shape).common(extent)
    if common is None:
        return label
    inside = label.label[
        tuple(slice(a - o, b - o) for a, b, o in zip(*common, offset, strict=True))
    ]
    if np.count_nonzero(inside) != np.count_nonzero(label.label):
        return label  # the image does not cover all labels
    placed = np.zeros(shape, label.label.dtype)
    placed[common.slices] = inside
    shift = np.eye(4)
    shift[:3, 3] = -offset
    remark = "the label map has another extent than the image; placed by its affine"
    return LabelMap(placed, label.affine @ shift, (*label.remarks, remark))


def _turned(label: LabelMap, affine: np.ndarray) -> LabelMap:
    """The label map with its axes in the image's order and directions."""
    turn = nib.io_orientation(np.linalg.solve(affine, label.affine))
    if np.array_equal(turn, [[0, 1], [1, 1], [2, 1]]):
        return label
    back = nib.orientations.inv_ornt_aff(turn, label.label.shape)
    voxels = np.ascontiguousarray(nib.apply_orientation(label.label, turn))
    remark = "axes of the label map turned to the image's"
    return LabelMap(voxels, label.affine @ back, (*label.remarks, remark))
