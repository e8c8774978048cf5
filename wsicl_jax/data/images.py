"""Images and labels from NIfTI files, and masks back into them, through nibabel."""

import gzip
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float, Integer, Num

from wsicl_jax.axes import Shape3, spacing_of
from wsicl_jax.errors import DataError, ShapeError
from wsicl_jax.files import write_whole

ENDINGS = (".nii.gz", ".nii")
"""File names that can be read and written."""

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
"""Millimetres in NIfTI's spatial units metre (1) and micron (3); all other codes mean mm."""

_SAME_GRID_VOXELS = 0.1
"""Affines that place every voxel within this distance, in voxels, differ by rounding only."""

_LABEL_ROUNDING = 1e-4
"""A label this close to an integer is one: a file's scale factor leaves such differences."""

_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


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


def read_volume(path: str | Path) -> Volume:
    """A grey image in float32.

    Raises:
        DataError: as `read_intensities`.
    """
    array, affine = read_intensities(path)
    return Volume(array.astype(np.float32, copy=False), affine)


def read_intensities(
    path: str | Path,
) -> tuple[Num[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """An image in the file's integer type, or else in float32, and its affine in mm (float64).

    Raises:
        DataError: the file is missing, damaged, no NIfTI, not 3D, or has a useless affine
            or voxels that are no finite number.
    """
    array, affine = _read(Path(path))
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        _check_finite(Path(path), array)
    return array, affine


def read_label(
    path: str | Path,
) -> tuple[Integer[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """A label map in an integer type, and its affine in mm (float64).

    Raises:
        DataError: as `read_intensities`, or a label is no integer.
    """
    array, affine = _read(Path(path))
    if array.dtype.kind == "f":
        _check_finite(Path(path), array)
        rounded = np.rint(array)
        wrong = np.abs(array - rounded) > _LABEL_ROUNDING
        if wrong.any():
            raise DataError(
                f"{path} is no label map: {wrong.sum()} voxels are no integers, such as "
                f"{array[wrong][0]:.6g}; resample labels with nearest neighbour"
            )
        array = rounded.astype(np.int64)
    return array, affine


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


def write_mask(
    path: str | Path,
    mask: Bool[np.ndarray, "x y z"] | Integer[np.ndarray, "x y z"],
    affine_source: str | Path,
) -> None:
    """Write a mask as uint8 on the grid of the image file `affine_source`.

    Affine, sform and qform codes and spatial unit are those of that file; nothing else of
    it is copied. The file appears under its name only when it is whole.

    Raises:
        DataError: `affine_source` cannot be read, `path` cannot be written or is named as no
            NIfTI file, or the mask has values that uint8 cannot hold.
        ShapeError: the mask is not of the image's shape.
    """
    path = Path(path)
    _check_ending(path)
    source = _decode(Path(affine_source))
    if mask.shape != source.shape[:3]:
        raise ShapeError(
            f"the mask is {mask.shape} but {affine_source} is {source.shape[:3]}; "
            "bring the mask to the image's grid first"
        )
    voxels = mask.astype(np.uint8)
    if not np.array_equal(voxels, mask):
        raise DataError(f"{path}: a mask needs whole numbers from 0 to 255, got {mask.dtype}")
    header = type(source).header_class()
    header.set_data_dtype(np.uint8)
    for field in _GEOMETRY:
        header[field] = source.header[field]
    header["pixdim"][:4] = source.header["pixdim"][:4]
    # Without an affine nibabel leaves the header's two affines and their codes alone.
    content = type(source)(voxels, None, header).to_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)
    try:
        write_whole(path, content)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = _decode(path)
    shape = image.shape
    if len(shape) < 3 or math.prod(shape[3:]) != 1:
        raise DataError(f"{path} has shape {shape}; expected one 3D volume")
    if not math.prod(shape):
        raise DataError(f"{path} has shape {shape}, so it has no voxels")
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _MM_PER_UNIT.get(int(image.header["xyzt_units"]) % 8, 1.0)
    if not np.isfinite(affine).all():
        raise DataError(f"{path} has an affine with NaN or infinity; repair its header")
    if np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise DataError(f"{path} has a singular affine (an axis without extent); repair its header")
    array = _voxels(path, image)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{path} has voxels of type {array.dtype}; expected grey values or labels")
    native = array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array.reshape(shape[:3]), native), affine


def _decode(path: Path) -> nib.Nifti1Image:
    _check_ending(path)
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        content = path.read_bytes()
        if not content:
            raise DataError(f"{path} is empty (0 bytes); copy it again")
        # To the end, so that gzip compares its checksum: nibabel stops at the last voxel.
        if path.name.lower().endswith(".gz"):
            content = gzip.decompress(content)
        kind = nib.Nifti2Image if nib.Nifti2Header.may_contain_header(content) else nib.Nifti1Image
        return kind.from_bytes(content)
    except DataError:
        raise
    # Bytes of unknown origin make gzip and nibabel fail in more ways than they document.
    except Exception as error:
        raise _unreadable(path, error) from error


def _voxels(path: Path, image: nib.Nifti1Image) -> np.ndarray:
    try:
        return np.asanyarray(image.dataobj)
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} cannot be read as NIfTI, it may be damaged or cut off: {reason}")


def _check_ending(path: Path) -> None:
    if not path.name.lower().endswith(ENDINGS):
        raise DataError(f"{path} is not named as a NIfTI file; expected .nii or .nii.gz")


def _check_finite(path: Path, array: np.ndarray) -> None:
    bad = array.size - np.isfinite(array).sum()
    if bad:
        raise DataError(f"{path} has {bad} voxels that are NaN or infinite; replace them first")
