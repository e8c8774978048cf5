"""NRRD and MetaImage files through SimpleITK, read and written."""

import gzip
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from wsicl_jax.data.formats.decoded import Decoded
from wsicl_jax.errors import DataError

if TYPE_CHECKING:
    import SimpleITK

ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_COLOURS = (3, 4)
"""Values in each voxel of colours, with or without opacity, if they are of 8 bits."""


def read(path: Path) -> Decoded:
    """A file's voxels and its affine in mm; several values in each voxel become channels.

    Raises:
        DataError: SimpleITK is not installed, or the file is missing, empty, damaged, of
            colours, has a singular affine, or is not of 3 dimensions, or of 4 with frames.
    """
    sitk = _simple_itk(f"{path} needs SimpleITK to be read")
    is_nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    _check_there(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    # Named, or else ITK asks every format it knows, and reads what merely looks like another.
    reader.SetImageIO("NrrdImageIO" if is_nrrd else "MetaImageIO")
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, str(error)) from error
    _check_compressed(path, _NRRD if is_nrrd else _META_IMAGE)
    array = sitk.GetArrayViewFromImage(image)
    values = image.GetNumberOfComponentsPerPixel()
    if values in _COLOURS and array.dtype == np.uint8:
        raise DataError(f"{path} has voxels of colours; expected grey values or labels")
    voxels, remarks = _spatial_first(path, array, image.GetDimension())
    space = image.GetMetaData("NRRD_space") if image.HasMetaDataKey("NRRD_space") else None
    if is_nrrd and image.GetDimension() == 3 and space != "left-posterior-superior":
        remarks = (*remarks, f"{space or 'no'} space in its header, axes taken as LPS")
    return Decoded(voxels, _affine(image), remarks)


def read_shape(path: Path) -> tuple[int, ...]:
    """The shape of a file's voxels, from its header. Raises as `read`."""
    sitk = _simple_itk(f"{path} needs SimpleITK to be read")
    _check_there(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, str(error)) from error
    return reader.GetSize()


def write(
    path: Path,
    voxels: Num[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write voxels in their own type, compressed, in the format of the name: .nrrd or .mha.

    `affine` is in mm; `metadata` are further keys of the header. The file appears under its
    name only when it is whole.

    Raises:
        DataError: SimpleITK is not installed, or the file cannot be written.
    """
    sitk = _simple_itk(f"{path} needs SimpleITK to be written")
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    lps = _LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    for key, value in (metadata or {}).items():
        image.SetMetaData(key, value)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".wsicl-") as folder:
            # Under its own name, which tells ITK the format.
            whole = Path(folder) / path.name
            sitk.WriteImage(image, str(whole), useCompression=True)
            with whole.open("rb") as file:
                os.fsync(file.fileno())
            whole.replace(path)
    except (OSError, RuntimeError) as error:
        lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
        raise DataError(f"{path} cannot be written: {lines[-1].strip()}") from error


def _simple_itk(need: str) -> ModuleType:
    try:
        import SimpleITK as sitk  # noqa: N813
    except ImportError as error:
        raise DataError(f"{need}: pip install 'wsicl_jax[itk]'") from error
    return sitk


def decoded(image: "SimpleITK.Image") -> tuple[np.ndarray, Float[np.ndarray, "4 4"]]:
    """Voxels and affine (mm) of an image of three dimensions that SimpleITK holds.

    Raises:
        DataError: it has other dimensions.
    """
    import SimpleITK as sitk  # noqa: N813

    voxels, _ = _spatial_first("image", sitk.GetArrayViewFromImage(image), image.GetDimension())
    return voxels, _affine(image)


def _spatial_first(
    path: Path | str, array: np.ndarray, dimension: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Axes (x, y, z) or (x, y, z, channel) from SimpleITK's ([frame,] z, y, x [, value])."""
    many_values = array.ndim > dimension
    frames = array.shape[0] if dimension == 4 else 1
    if dimension not in (3, 4) or (many_values and frames > 1):
        shape = (*reversed(array.shape[:dimension]), *array.shape[dimension:])
        raise DataError(f"{path} has shape {shape}; expected a 3D volume, or one with channels")
    remarks = ("4D with one frame, taken as 3D",) if dimension == 4 and frames == 1 else ()
    if dimension == 4:
        array = array[0] if frames == 1 else np.moveaxis(array, 0, -1)
    turned = array.transpose(2, 1, 0, *range(3, array.ndim))
    # Copied in any case: the array is a view of memory that ITK frees with its image.
    return np.array(turned, array.dtype.newbyteorder("="), order="C"), remarks


def _affine(image) -> np.ndarray:
    dimension = image.GetDimension()
    directions = np.array(image.GetDirection()).reshape(dimension, dimension)
    affine = np.eye(4)
    affine[:3, :3] = directions[:3, :3] * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return _LPS_TO_RAS @ affine


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} is missing")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty (0 bytes); copy it again")


class _Compression(NamedTuple):
    """How the files of a format say that voxels are compressed, and where they are."""

    used: re.Pattern[bytes]
    data_file: re.Pattern[bytes]
    """The name of the file of the voxels; LOCAL, or no such line: they follow the header."""
    header_end: re.Pattern[bytes]
    decompress: Callable[[bytes], bytes]


_NRRD = _Compression(
    re.compile(rb"^encoding: *gz", re.MULTILINE | re.IGNORECASE),
    re.compile(rb"^data ?file: *(.+?)\r?$", re.MULTILINE | re.IGNORECASE),
    re.compile(rb"\r?\n\r?\n"),
    gzip.decompress,
)
_META_IMAGE = _Compression(
    re.compile(rb"^CompressedData *= *True", re.MULTILINE | re.IGNORECASE),
    re.compile(rb"^ElementDataFile *= *(.+?)\r?$", re.MULTILINE),
    re.compile(rb"^ElementDataFile.*\n", re.MULTILINE),
    zlib.decompress,
)


def _check_compressed(path: Path, form: _Compression) -> None:
    """Compare the checksum of compressed voxels, which ITK does not."""
    content = path.read_bytes()
    end = form.header_end.search(content)
    header = content[: end.end()] if end else content
    if not form.used.search(header):
        return
    named = form.data_file.search(header)
    voxels = content[len(header) :]
    try:
        if named and named[1].upper() != b"LOCAL":
            voxels = (path.parent / os.fsdecode(named[1])).read_bytes()
        form.decompress(voxels)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, message: str) -> DataError:
    if "determinant is 0" in message or "Refusing to change spacing" in message:
        return DataError(
            f"{path} has a singular affine (an axis without extent); repair its header"
        )
    # The last line is the cause; those before it say where in ITK it came up.
    lines = [line for line in message.splitlines() if line.strip()]
    cause = re.sub(r"^\[nrrd\] \w+: ", "", lines[-1]).strip() if lines else ""
    cause = "" if cause.endswith("Success") else f": {cause}"
    kind = "NRRD" if path.suffix.lower() in (".nrrd", ".nhdr") else "MetaImage"
    return DataError(f"{path} cannot be read as {kind}, it may be damaged or cut off{cause}")
