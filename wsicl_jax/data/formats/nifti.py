"""NIfTI and Analyze files through nibabel, read and written."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float, Num
from nibabel.nifti1 import Nifti1PairHeader
from nibabel.nifti2 import Nifti2PairHeader
from nibabel.volumeutils import apply_read_scaling

from wsicl_jax.data.formats.decoded import Declared, Decoded
from wsicl_jax.data.formats.payload import beginning, excerpt, read_bytes
from wsicl_jax.errors import DataError, ShapeError
from wsicl_jax.storage.atomic import write_whole

ENDINGS = (".nii.gz", ".nii")

PAIR = (".hdr", ".img")
"""Header and voxels in two files: NIfTI, or Analyze 7.5 with SPM's variant."""

_SINGLE = (nib.Nifti2Header, nib.Nifti1Header)
_PAIRS = (Nifti2PairHeader, Nifti1PairHeader, nib.Spm99AnalyzeHeader)

Header = nib.AnalyzeHeader
"""The common base of nibabel's headers of these."""

_MAX_OFFSET = 2**26
"""Extensions between header and voxels are smaller."""

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
"""Millimetres per metre (1) and micron (3), NIfTI's codes of spatial units; all others mean mm."""

_SNIFFED = 540
"""Bytes of the longer of NIfTI's two headers."""

_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def declared(path: Path) -> Declared:
    """Shape and type of a file's voxels, from its header. Raises as `read`."""
    return _declared(path, _header(path))


def read(path: Path) -> Decoded:
    """A file's voxels, scaled by its header, and its affine in mm.

    Raises:
        DataError: the file is missing, empty, damaged, no NIfTI, of less than 3 or more than 4
            dimensions, or holds fewer bytes than its header declares.
    """
    header = _header(path)
    shape, kind = declared = _declared(path, header)
    begin = header.get_data_offset()
    if not _is_pair(path):
        begin = max(begin, header.single_vox_offset)
    files = [voxel_file(path) or path]
    stored = read_bytes(files, declared.bytes, skipped=begin, compressed=_is_compressed(path))
    remarks = []
    if len(header.get_data_shape()) > 3 and len(shape) == 3:
        remarks.append("4D with one frame, taken as 3D")
    try:
        values = apply_read_scaling(stored.view(kind), *header.get_slope_inter())
        affine = affine_in_mm(header.get_best_affine(), header)
    except Exception as error:
        raise _unreadable(path, error) from error
    native = values.dtype.newbyteorder("=")
    voxels = np.ascontiguousarray(values.reshape(shape, order="F"), native)
    return Decoded(voxels, affine, tuple(remarks), has_orientation(header))


def has_orientation(header: Header) -> bool:
    """Whether a header has the directions of its axes."""
    return isinstance(header, nib.Nifti1Header) and bool(
        header["sform_code"] or header["qform_code"]
    )


def write(
    path: Path,
    voxels: Bool[np.ndarray, "x y z"] | Num[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    like: Path | None = None,
) -> None:
    """Write voxels in their own type; truth values become uint8.

    The affine, in mm, is written as sform, and as qform if that can represent it. With the NIfTI
    file `like` on the same grid, both forms, their codes and the spatial unit are copied from that
    file, so that no reader sees a difference. The file appears under its name only when it is
    complete.

    Raises:
        DataError: `like` cannot be read or has another affine, or `path` cannot be written or is
            not named as a NIfTI file.
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
    # Without an affine, nibabel keeps the header's two affines and their codes.
    content = kind(voxels, None, header).to_bytes()
    if path.name.lower().endswith(".gz"):
        # Floats hardly shrink, and take a minute at a higher level.
        level = 1 if voxels.dtype.kind == "f" else 6
        content = gzip.compress(content, compresslevel=level, mtime=0)
    try:
        write_whole(path, content)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def _place(header: nib.Nifti1Header, affine: np.ndarray) -> None:
    header.set_xyzt_units("mm")
    header.set_sform(affine, code="scanner")
    # A quaternion has no shear: readers that prefer it would place voxels elsewhere.
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
    # A header without orientation stays so, whatever was assumed.
    source_affine = affine_in_mm(source.get_best_affine(), source)
    if has_orientation(source) and not np.allclose(affine, source_affine, rtol=1e-4, atol=1e-3):
        raise DataError(f"{path} would have another affine than {like}, whose grid it is to take")


def affine_in_mm(affine: Float[np.ndarray, "4 4"], header: Header) -> Float[np.ndarray, "4 4"]:
    """The affine of an image in its header's spatial unit, to RAS+ mm; float64."""
    scaled = np.array(affine, np.float64)
    if isinstance(header, nib.Nifti1Header):
        scaled[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) % 8, 1.0)
    return scaled


def voxel_file(path: Path) -> Path | None:
    """The file of the voxels of a separate header; None if one file has both."""
    return _pair(path)[1] if _is_pair(path) else None


def _header(path: Path) -> Header:
    """A file's header alone, checked.

    Raises:
        DataError: there is none, or it is damaged.
    """
    _check_ending(path)
    file = _pair(path)[0] if _is_pair(path) else path
    content = beginning(file, _SNIFFED, compressed=_is_compressed(path))
    kinds = _PAIRS if _is_pair(path) else _SINGLE
    kind = next((k for k in kinds if k.may_contain_header(content)), kinds[-1])
    try:
        header = kind(content[: kind.template_dtype.itemsize])
        header.get_slope_inter()
        begin = header.get_data_offset()
    # Bytes of unknown origin make nibabel fail in more ways than it documents.
    except Exception as error:
        raise _unreadable(path, error) from error
    if not 0 <= begin <= _MAX_OFFSET:
        raise _unreadable(path, ValueError(f"voxels would begin at byte {begin}"))
    return header


def _declared(path: Path, header: Header) -> Declared:
    shape = tuple(map(int, header.get_data_shape()))
    frames = tuple(length for length in shape[3:] if length != 1)
    if len(shape) < 3 or len(frames) > 1:
        raise DataError(f"{path} has shape {shape}; expected a 3D volume, or one with channels")
    if min(shape) < 1:
        raise DataError(f"{path} has shape {shape}, so it has no voxels")
    kind = header.get_data_dtype()
    if kind.kind not in "iuf":
        raise DataError(f"{path} has voxels of type {kind}; expected grey values or labels")
    return Declared((*shape[:3], *frames), kind)


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _is_pair(path: Path) -> bool:
    return path.name.lower().endswith(PAIR)


def _pair(path: Path) -> tuple[Path, Path]:
    """The header and the voxels of a pair, from the name of either."""
    header, voxels = PAIR
    if path.suffix.isupper():
        header, voxels = header.upper(), voxels.upper()
    return path.with_suffix(header), path.with_suffix(voxels)


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = excerpt(" ".join(str(error).split())) or type(error).__name__
    return DataError(f"{path} cannot be read as NIfTI, it may be damaged or cut off: {reason}")


def _check_ending(path: Path) -> None:
    if not path.name.lower().endswith((*ENDINGS, *PAIR)):
        raise DataError(f"{path} is not named as a NIfTI file; expected .nii or .nii.gz")
