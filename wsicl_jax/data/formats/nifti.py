"""NIfTI files through nibabel, read and written."""

import gzip
import math
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float, Num

from wsicl_jax.data.formats.decoded import Decoded
from wsicl_jax.errors import DataError, ShapeError
from wsicl_jax.files import write_whole

ENDINGS = (".nii.gz", ".nii")

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
"""Millimetres in NIfTI's spatial units metre (1) and micron (3); all other codes mean mm."""

_SNIFFED = 540
"""Bytes of the longer of NIfTI's two headers."""

_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def read(path: Path) -> Decoded:
    """A file's voxels, scaled as its header says, and its affine in mm.

    Raises:
        DataError: the file is missing, empty, damaged, no NIfTI, or of less than 3 or more
            than 4 dimensions.
    """
    image = _decode(path)
    shape = image.shape
    frames = [length for length in shape[3:] if length != 1]
    if len(shape) < 3 or len(frames) > 1:
        raise DataError(f"{path} has shape {shape}; expected a 3D volume, or one with channels")
    if not math.prod(shape):
        raise DataError(f"{path} has shape {shape}, so it has no voxels")
    remarks = []
    if len(shape) > 3 and not frames:
        remarks.append("4D with one frame, taken as 3D")
    if not image.header["sform_code"] and not image.header["qform_code"]:
        remarks.append("no orientation in its header, taken as nibabel does")
    affine = affine_in_mm(image.affine, image.header)
    try:
        array = np.asanyarray(image.dataobj)
    except Exception as error:
        raise _unreadable(path, error) from error
    native = array.dtype.newbyteorder("=")
    voxels = np.ascontiguousarray(array.reshape((*shape[:3], *frames)), native)
    return Decoded(voxels, affine, tuple(remarks))


def read_shape(path: Path) -> tuple[int, ...]:
    """The shape of a file's voxels, from its header. Raises as `read`."""
    return _header(path).get_data_shape()


def write(
    path: Path,
    voxels: Bool[np.ndarray, "x y z"] | Num[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    like: Path | None = None,
) -> None:
    """Write voxels in their own type; truth values become uint8.

    The affine, in mm, is written as sform, and as qform too where one can hold it. With the
    NIfTI file `like`, which lies on the same grid, both forms, their codes and the spatial unit
    are taken from that file as they stand there, so that no reader finds a difference. The file
    appears under its name only when it is whole.

    Raises:
        DataError: `like` cannot be read or has another affine, or `path` cannot be written or is
            named as no NIfTI file.
        ShapeError: `like` is of another shape.
    """
    _check_ending(path)
    voxels = voxels.astype(np.uint8) if voxels.dtype == bool else voxels
    if like is None:
        header = nib.Nifti1Header()
        kind = nib.Nifti1Image
        header.set_data_shape(voxels.shape)
        _place(header, affine)
    else:
        source = _header(like)
        kind = nib.Nifti2Image if isinstance(source, nib.Nifti2Header) else nib.Nifti1Image
        _check_grid(path, voxels.shape, affine, like, source)
        header = kind.header_class()
        for field in _GEOMETRY:
            header[field] = source[field]
        header["pixdim"][:4] = source["pixdim"][:4]
    header.set_data_dtype(voxels.dtype)
    # Without an affine nibabel leaves the header's two affines and their codes alone.
    content = kind(voxels, None, header).to_bytes()
    if path.name.lower().endswith(".gz"):
        # What is no label map hardly shrinks, and costs a minute at a higher level.
        level = 1 if voxels.dtype.kind == "f" else 6
        content = gzip.compress(content, compresslevel=level, mtime=0)
    try:
        write_whole(path, content)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def _place(header: nib.Nifti1Header, affine: np.ndarray) -> None:
    header.set_xyzt_units("mm")
    header.set_sform(affine, code="scanner")
    # A quaternion holds no shear: readers that prefer it would place voxels elsewhere.
    header.set_qform(affine, code="scanner", strip_shears=True)
    if not np.allclose(header.get_qform(), affine, atol=1e-3):
        header.set_qform(None)


def _check_grid(
    path: Path, shape: tuple[int, ...], affine: np.ndarray, like: Path, source: nib.Nifti1Header
) -> None:
    if shape != source.get_data_shape()[:3]:
        raise ShapeError(
            f"{path} would be {shape} but {like} is {source.get_data_shape()[:3]}; "
            "bring it to that image's grid first"
        )
    if not np.allclose(
        affine, affine_in_mm(source.get_best_affine(), source), rtol=1e-4, atol=1e-3
    ):
        raise DataError(f"{path} would have another affine than {like}, whose grid it is to take")


def affine_in_mm(
    affine: Float[np.ndarray, "4 4"], header: nib.Nifti1Header
) -> Float[np.ndarray, "4 4"]:
    """The affine of an image in its header's spatial unit, to RAS+ mm; float64."""
    scaled = np.array(affine, np.float64)
    scaled[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) % 8, 1.0)
    return scaled


def _header(path: Path) -> nib.Nifti1Header:
    """A file's header alone."""
    _check_ending(path)
    if not path.is_file():
        raise DataError(f"{path} is missing")
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            is_second = nib.Nifti2Header.may_contain_header(file.read(_SNIFFED))
            file.seek(0)
            kind = nib.Nifti2Header if is_second else nib.Nifti1Header
            return kind.from_fileobj(file)
    except Exception as error:
        raise _unreadable(path, error) from error


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


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} cannot be read as NIfTI, it may be damaged or cut off: {reason}")


def _check_ending(path: Path) -> None:
    if not path.name.lower().endswith(ENDINGS):
        raise DataError(f"{path} is not named as a NIfTI file; expected .nii or .nii.gz")
