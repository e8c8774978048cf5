"""Images and label maps from files of any known format, checked before anything is done."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Num

from wsicl_jax.axes import Shape3, spacing_of
from wsicl_jax.data.formats import dicom, itk, nifti
from wsicl_jax.data.formats.decoded import Decoded
from wsicl_jax.errors import DataError

READ_ENDINGS = (*nifti.ENDINGS, *itk.ENDINGS)
"""Names of the files that hold a volume each; DICOM files are known by their content."""

_SAME_GRID_VOXELS = 0.1
"""Affines that place every voxel within this distance, in voxels, differ by rounding only."""

_LABEL_ROUNDING = 1e-4
"""A label this close to an integer is one: a file's scale factor leaves such differences."""

_PLAUSIBLE_SPACING_MM = (0.001, 100.0)
_LARGEST_EXTENT_MM = 4000.0


@dataclass(frozen=True, eq=False)
class Volume:
    """A grey image with its place in the world."""

    image: Float[np.ndarray, "x y z"]
    """Intensities as in the file, float32."""
    affine: Float[np.ndarray, "4 4"]
    """From voxel indices to RAS+ millimetres, float64."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along each axis."""
        return spacing_of(self.affine)


class Channels(NamedTuple):
    """An image of one or more channels."""

    image: Num[np.ndarray, "c x y z"]
    """In the file's integer type, or else in float32."""
    affine: Float[np.ndarray, "4 4"]
    """From voxel indices to RAS+ millimetres, float64."""
    remarks: tuple[str, ...]
    """What is unusual about its files."""


class LabelMap(NamedTuple):
    """A label map with its place in the world."""

    label: Integer[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    """From voxel indices to RAS+ millimetres, float64."""
    remarks: tuple[str, ...]
    """What is unusual about its file."""


def voxels_in(path: str | Path) -> int | None:
    """How many voxels a file holds, by its header alone; None if only reading it tells.

    Raises:
        DataError: the file is missing, or its header is damaged.
    """
    path = Path(path)
    for endings, read_shape in (
        (nifti.ENDINGS, nifti.read_shape),
        (itk.ENDINGS, itk.read_shape),
    ):
        if path.name.lower().endswith(endings):
            return math.prod(map(int, read_shape(path)))
    return None


def read_volume(path: str | Path) -> Volume:
    """A grey image in float32.

    Raises:
        DataError: the file is missing, damaged, of no known format, not 3D, or has a useless
            affine or voxels that are no finite number.
    """
    voxels, affine, _ = _decoded([Path(path)])
    if voxels.ndim != 3:
        raise DataError(f"{path} has shape {voxels.shape}; expected one 3D volume")
    image = _as_intensities(voxels).astype(np.float32, copy=False)
    if bad := image.size - int(np.isfinite(image).sum()):
        raise DataError(f"{path} has {bad} voxels that are NaN or infinite; replace them first")
    return Volume(image, affine)


def read_channels(
    files: Sequence[Path],
    *,
    replace_nonfinite: float | None = None,
    may_be_constant: bool = False,
) -> Channels:
    """The channels of an image: of one file, or of the files of a DICOM series.

    `replace_nonfinite` takes the place of voxels that are NaN or infinite.

    Raises:
        DataError: as `read_volume`, or a channel is constant and may not be, or its voxels have a
            size that no scanner gives.
    """
    voxels, affine, remarks = _decoded(files)
    _check_plausible(files[0], voxels.shape[:3], affine)
    image = _as_intensities(voxels.reshape(*voxels.shape[:3], -1))
    finite = np.isfinite(image)
    if bad := image.size - int(finite.sum()):
        if replace_nonfinite is None:
            raise DataError(
                f"{files[0]} has {bad} voxels that are NaN or infinite; replace them first"
            )
        image = np.where(finite, image, np.float32(replace_nonfinite))
        remarks = (*remarks, f"NaN or infinite voxels replaced by {replace_nonfinite:g}")
    image = np.ascontiguousarray(np.moveaxis(image, 3, 0))
    for channel in image:
        if not may_be_constant and channel.min() == channel.max():
            raise DataError(f"{files[0]} is {channel.flat[0]:g} everywhere: there is no image")
    return Channels(image, affine, remarks)


def read_label(path: str | Path) -> LabelMap:
    """A label map in an integer type.

    Raises:
        DataError: as `read_volume`, or a label is no integer.
    """
    voxels, affine, remarks = _decoded([Path(path)])
    if voxels.ndim != 3:
        raise DataError(f"{path} has shape {voxels.shape}; expected one 3D volume")
    if voxels.dtype.kind == "f":
        if bad := voxels.size - int(np.isfinite(voxels).sum()):
            raise DataError(f"{path} has {bad} voxels that are NaN or infinite; replace them first")
        rounded = np.rint(voxels)
        wrong = np.abs(voxels - rounded) > _LABEL_ROUNDING
        if wrong.any():
            raise DataError(
                f"{path} is no label map: {wrong.sum()} voxels are no integers, such as "
                f"{voxels[wrong][0]:.6g}; resample labels with nearest neighbour"
            )
        voxels = rounded.astype(np.int64)
        remarks = (*remarks, "floating-point labels, all whole numbers")
    return LabelMap(voxels, affine, remarks)


def check_same_grid(
    files: tuple[Path, Path],
    shapes: tuple[Shape3, Shape3],
    affines: tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "4 4"]],
) -> None:
    """Check that an image (first) and its label map (second) are on one grid, up to rounding.

    Raises:
        DataError: their shapes differ, or their affines by more than a tenth of a voxel at
            any corner.
    """
    (image, label), (shape, label_shape), (affine, label_affine) = files, shapes, affines
    if shape != label_shape:
        raise DataError(f"{label} is {label_shape} but {image} is {shape}")
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in shape))]).T
    moved = np.linalg.solve(affine, label_affine @ corners) - corners
    off = np.linalg.norm(moved, axis=0).max()
    if off > _SAME_GRID_VOXELS:
        raise DataError(
            f"{image} and {label} have different affines: voxels lie up to {off:.2f} voxels "
            "apart; resample the label to the image"
        )


def _decoded(files: Sequence[Path]) -> Decoded:
    if len(files) == 1 and files[0].is_dir():
        files = dicom.series_in(files[0])
    path = files[0]
    name = path.name.lower()
    if name.endswith(itk.ENDINGS):
        found = itk.read(path)
    elif not name.endswith(nifti.ENDINGS) and dicom.is_dicom(path):
        found = dicom.read_series(files)
    elif name.endswith(nifti.ENDINGS):
        found = nifti.read(path)
    else:
        raise DataError(
            f"{path} is of no known format; expected DICOM, or a file named "
            f"{', '.join(READ_ENDINGS)}"
        )
    if not np.isfinite(found.affine).all():
        raise DataError(f"{path} has an affine with NaN or infinity; repair its header")
    if np.linalg.matrix_rank(found.affine[:3, :3]) < 3:
        raise DataError(f"{path} has a singular affine (an axis without extent); repair its header")
    kind = found.voxels.dtype
    if kind.kind not in "iuf":
        raise DataError(f"{path} has voxels of type {kind}; expected grey values or labels")
    return found


def _as_intensities(voxels: np.ndarray) -> np.ndarray:
    if voxels.dtype.kind != "f":
        return voxels
    with np.errstate(over="ignore"):
        return voxels.astype(np.float32, copy=False)


def _check_plausible(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> None:
    spacing = np.array(spacing_of(affine))
    low, high = _PLAUSIBLE_SPACING_MM
    extent = spacing * shape
    if (spacing < low).any() or (spacing > high).any() or (extent > _LARGEST_EXTENT_MM).any():
        sizes = " x ".join(f"{step:.4g}" for step in spacing)
        raise DataError(
            f"{path} has voxels of {sizes} mm; the unit in its header is most likely wrong: "
            "repair its header"
        )
