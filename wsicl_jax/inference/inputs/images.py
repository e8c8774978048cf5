"""Images and label maps of users: paths, nibabel or SimpleITK images, and arrays."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Union

import nibabel as nib
import numpy as np
from jaxtyping import Float, Integer, Num

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.formats import dicom_seg, itk, nifti
from wsicl_jax.data.images import Volume, check_affine, read_label, read_volume
from wsicl_jax.errors import DataError
from wsicl_jax.inference.inputs.positions import Number

if TYPE_CHECKING:
    import SimpleITK

ImageLike = Union[str, os.PathLike, Volume, "nib.spatialimages.SpatialImage", "SimpleITK.Image"]
"""Types of an image; an array is possible too, with its spacing or affine."""

LabelLike = Union[str, os.PathLike, "nib.spatialimages.SpatialImage", "SimpleITK.Image"]
"""Types of a label map; an array on the grid of its image is possible too."""


def as_path(source: object) -> Path | None:
    """The path of an image; None if it is an object.

    Raises:
        DataError: no file can have this path.
    """
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source)
    if "\0" in str(path):
        raise DataError(f"path {str(path)!r} has a NUL in it, which no path can have")
    return path


def as_volume(
    source: ImageLike | Num[np.ndarray, "..."],
    spacing_mm: Sequence[Number] | None = None,
    affine: Num[np.ndarray, "4 4"] | None = None,
    reading: ReadingConfig | None = None,
) -> Volume:
    """An image as a grey volume in float32, with its affine.

    An array needs either `spacing_mm`, for axes in RAS+ order, or `affine`, from voxels to RAS+
    mm. All other types have their own affine.

    Raises:
        DataError: as `read_volume`; an array comes with neither or both, another type with one.
    """
    if isinstance(source, np.ndarray) or hasattr(source, "__array_interface__"):
        return _checked(np.asarray(source), _affine_of_array(spacing_mm, affine))
    if spacing_mm is not None or affine is not None:
        raise DataError(
            f"spacing_mm and affine belong to an array; a {_kind(source)} has its own, omit them"
        )
    if (path := as_path(source)) is not None:
        return read_volume(path, reading)
    if isinstance(source, Volume):
        return _checked(source.image, source.affine)
    return _checked(*_opened(source))


def as_label_map(
    source: LabelLike | Num[np.ndarray, "..."],
    volume: Volume,
    reading: ReadingConfig | None = None,
) -> tuple[Integer[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """A label map in an integer type with its affine; an array is on the grid of `volume`.

    Labels of DICOM-SEG are the numbers of its segments.

    Raises:
        DataError: as `read_label`.
    """
    if (path := as_path(source)) is not None:
        if dicom_seg.is_segmentation(path):
            shape, affine = volume.image.shape, volume.affine
            numbers = dicom_seg.segment_numbers(path)
            return dicom_seg.read_segmentation([path], numbers, shape, affine), affine
        label = read_label(path, reading)
        return label.label, label.affine
    is_array = isinstance(source, np.ndarray)
    voxels, affine = (source, volume.affine) if is_array else _opened(source)
    if voxels.ndim != 3:
        raise DataError(f"label map has shape {voxels.shape}; expected one 3D volume")
    if voxels.dtype == bool:
        return voxels.astype(np.uint8), affine
    if voxels.dtype.kind not in "iu":
        whole = voxels.dtype.kind == "f" and np.array_equal(np.rint(voxels), voxels)
        if not whole:
            raise DataError(f"label map has {voxels.dtype} values; expected whole numbers")
        voxels = voxels.astype(np.int64)
    return voxels, affine


def _checked(voxels: np.ndarray, affine: np.ndarray) -> Volume:
    if voxels.ndim != 3 or not voxels.size:
        raise DataError(f"image has shape {voxels.shape}; expected a 3D volume")
    if voxels.dtype.kind not in "biuf":
        raise DataError(f"image has voxels of type {voxels.dtype}; expected grey values")
    affine = np.asarray(affine, np.float64)
    check_affine("image", affine)
    with np.errstate(over="ignore"):
        image = voxels.astype(np.float32, copy=False)
    # Percentiles of an image with NaN are NaN, which would look like a constant image.
    if not np.isfinite(image).all():
        raise DataError("image has voxels that are NaN or infinite; replace them first")
    return Volume(image, affine)


def _affine_of_array(spacing_mm: Sequence[Number] | None, affine: np.ndarray | None) -> np.ndarray:
    if (spacing_mm is None) == (affine is None):
        raise DataError(
            "an array needs one of the two: spacing_mm=(x, y, z), the voxel size along its axes, "
            "or affine= (4 x 4, to RAS+ mm)"
        )
    if affine is not None:
        if np.shape(affine) != (4, 4):
            raise DataError(f"affine has shape {np.shape(affine)}; expected (4, 4)")
        return np.asarray(affine, np.float64)
    spacing = np.asarray(spacing_mm, np.float64)
    if spacing.shape != (3,) or not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise DataError(f"spacing_mm is {spacing_mm}; expected three sizes in mm above 0")
    return np.diag([*spacing, 1.0])


def _opened(source: object) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of a nibabel or SimpleITK image, axes x, y, z."""
    if isinstance(source, nib.spatialimages.SpatialImage):
        try:
            voxels = np.asanyarray(source.dataobj)
        # The file is read here; nibabel raises undocumented errors for damaged files.
        except Exception as error:
            raise DataError(f"image cannot be read, its file may be damaged: {error}") from error
        frames = [length for length in voxels.shape[3:] if length != 1]
        affine = np.asarray(source.affine, np.float64)
        if isinstance(source, nib.Nifti1Image):
            affine = nifti.affine_in_mm(affine, source.header)
        return voxels.reshape((*voxels.shape[:3], *frames)), affine
    if _is_simple_itk(source):
        return itk.decoded(source)
    raise DataError(
        f"a {_kind(source)} is no image; expected a path, a nibabel or SimpleITK image, or an array"
    )


def _is_simple_itk(source: object) -> TypeGuard["SimpleITK.Image"]:
    # Such an image exists only if SimpleITK is imported already.
    module = sys.modules.get("SimpleITK")
    return module is not None and isinstance(source, module.Image)


def _kind(source: object) -> str:
    return type(source).__name__
