"""NIfTI files through nibabel: read, and masks written back on an image's grid."""

import gzip
import math
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Integer

from wsicl_jax.data.formats.decoded import Decoded
from wsicl_jax.errors import DataError, ShapeError
from wsicl_jax.files import write_whole

ENDINGS = (".nii.gz", ".nii")

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
"""Millimetres in NIfTI's spatial units metre (1) and micron (3); all other codes mean mm."""

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
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _MM_PER_UNIT.get(int(image.header["xyzt_units"]) % 8, 1.0)
    try:
        array = np.asanyarray(image.dataobj)
    except Exception as error:
        raise _unreadable(path, error) from error
    native = array.dtype.newbyteorder("=")
    voxels = np.ascontiguousarray(array.reshape((*shape[:3], *frames)), native)
    return Decoded(voxels, affine, tuple(remarks))


def write_mask(
    path: str | Path,
    mask: Bool[np.ndarray, "x y z"] | Integer[np.ndarray, "x y z"],
    affine_source: str | Path,
) -> None:
    """Write a mask as uint8 on the grid of the NIfTI file `affine_source`.

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
