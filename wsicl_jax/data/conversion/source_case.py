"""The voxels of a case from its files, and what is to be said against them."""

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
"""A label map this close to an image's voxels differs by rounding only."""


class SourceCase(NamedTuple):
    """A case as its files have it."""

    image: Num[np.ndarray, "c x y z"]
    label: Integer[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    remarks: tuple[str, ...]
    """What was unusual, but accepted."""


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
    images, remarks = [], []
    grid: tuple[Path, tuple[int, ...], np.ndarray] | None = None
    for parts in files.images:
        image, affine, said = read_channels(parts, reading, replace_nonfinite=replace_nonfinite)
        here = (parts[0], image.shape[1:], affine)
        grid = grid or here
        check_same_grid((here[0], grid[0]), (here[1], grid[1]), (here[2], grid[2]))
        images.append(image)
        remarks += said
    image = np.concatenate(images)
    if len(image) != len(layout.channel_names):
        raise DataError(
            f"has {len(image)} channels; the data set has {', '.join(layout.channel_names)}"
        )
    file, shape, affine = grid
    label, label_affine, said = _label_of(files, label_names, shape, affine, reading)
    check_same_grid((file, files.labels[0]), (shape, label.shape), (affine, label_affine))
    values = np.unique(label).tolist()
    if unknown := sorted(set(values) - {0, *label_names}):
        raise DataError(f"{files.labels[0]} has labels {unknown} that have no name")
    if values == [0]:
        said = (*said, "empty label map")
    return SourceCase(image, label, label_affine, tuple(dict.fromkeys([*remarks, *said])))


def source_files(layout: Layout, files: CaseFiles) -> tuple[SourceFile, ...]:
    """All files of a case as they are now; others if one of them has changed.

    Raises:
        DataError: one is missing.
    """
    found = []
    for file in (*(file for parts in files.images for file in parts), *files.labels):
        for part in (file, *voxel_files(file)):
            try:
                state = part.stat()
            except OSError:
                raise DataError(f"{part} is missing") from None
            # A description may list files outside of its folder.
            name = Path(os.path.relpath(part, layout.source)).as_posix()
            found.append(SourceFile(name, state.st_size, state.st_mtime_ns))
    return tuple(found)


def scan_labels(layout: Layout, reading: ReadingConfig | None = None) -> dict[int, str]:
    """Names such as `label 1` for all values in the label files, which are all read.

    Raises:
        DataError: there is no value but 0.
    """
    values: set[int] = set()
    with track(len(layout.cases), f"looking for labels in {layout.name}") as progress:
        for files in layout.cases:
            with contextlib.suppress(DataError):  # told when the case is converted
                label = read_label(files.labels[0], reading).label
                values |= {int(v) for v in np.unique(label)}
            progress.advance()
    if not (found := sorted(values - {0})):
        raise DataError(f"{layout.source} has no label map with a value but 0")
    if found[0] < 0:
        raise DataError(f"{layout.source} has label {found[0]}; labels are whole numbers from 0")
    return {value: f"label {value}" for value in found}


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
    """A label map in the axis order and directions of an image, and as large as that.

    For a mask that shows a structure. A conversion takes none of another extent: there, what lies
    outside of a label map would be learnt as background.

    Voxels stay as they are. One that lies elsewhere, or between the image's voxels, is given back
    without being placed, for `check_same_grid` to refuse.
    """
    if not np.isfinite(label.affine).all() or np.linalg.matrix_rank(label.affine[:3, :3]) < 3:
        return label
    label = _turned(label, affine)
    start = np.linalg.solve(affine, label.affine)[:3, 3]
    whole = np.rint(start).astype(int)
    if label.label.shape == shape or np.abs(start - whole).max() > _OFF_VOXELS:
        return label
    here = Box((0, 0, 0), shape)
    there = Box(tuple(whole.tolist()), tuple((whole + label.label.shape).tolist()))
    common = here.common(there)
    if common is None:
        return label
    moved = Box(
        tuple(np.subtract(common.start, whole).tolist()),
        tuple(np.subtract(common.stop, whole).tolist()),
    )
    inside = label.label[moved.slices]
    if np.count_nonzero(inside) != np.count_nonzero(label.label):
        return label  # of what lies outside of the image something would be lost
    placed = np.zeros(shape, label.label.dtype)
    placed[common.slices] = inside
    to_whole = np.eye(4)
    to_whole[:3, 3] = -whole
    remark = "the label map has another extent than the image; placed by its affine"
    return LabelMap(placed, label.affine @ to_whole, (*label.remarks, remark))


def _turned(label: LabelMap, affine: np.ndarray) -> LabelMap:
    """The label map with its axes in the image's order and directions; its voxels stay."""
    turn = nib.io_orientation(np.linalg.solve(affine, label.affine))
    if np.array_equal(turn, [[0, 1], [1, 1], [2, 1]]):
        return label
    back = nib.orientations.inv_ornt_aff(turn, label.label.shape)
    voxels = np.ascontiguousarray(nib.apply_orientation(label.label, turn))
    remark = "axes of the label map turned to the image's"
    return LabelMap(voxels, label.affine @ back, (*label.remarks, remark))
