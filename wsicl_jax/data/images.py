"""Images and label maps from files of any known format, checked."""

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import nibabel as nib
import numpy as np
import psutil
from jaxtyping import Float, Integer, Num

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.formats import dicom, meta_image, nifti, nrrd
from wsicl_jax.data.formats.decoded import Declared, Decoded
from wsicl_jax.data.formats.payload import opened
from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Shape3, spacing_of

_HEADER_OF_PAIR, VOXELS_OF_PAIR = nifti.PAIR

READ_ENDINGS = (*nifti.ENDINGS, *nrrd.ENDINGS, *meta_image.ENDINGS, _HEADER_OF_PAIR)
"""Endings of files with one volume each; DICOM files are recognized by their content."""

_FORMATS = {
    (*nifti.ENDINGS, *nifti.PAIR): nifti,
    nrrd.ENDINGS: nrrd,
    meta_image.ENDINGS: meta_image,
}

_SAME_GRID_VOXELS = 0.1
"""Distance, in voxels, by which rounding may move a voxel."""

_LABEL_ROUNDING = 1e-4
"""Distance of a label from an integer that a file's scale factor may cause."""

_MAX_LABEL = 2**53
"""Floating-point numbers represent all integers up to this."""

_OPPOSITE = {"L": "R", "P": "A", "I": "S"}

_PLAUSIBLE_SPACING_MM = (0.001, 100.0)
_MAX_EXTENT_MM = 4000.0

_MAX_SHEAR_DEGREES = 45.0
"""A tilted gantry shears by less; an affine with more is damaged."""

_GB = 10**9

_BYTES_PER_VALUE = 20
"""Least memory per value to read and prepare an image."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A grey image with its affine."""

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
    """In the file's integer type, else float32."""
    affine: Float[np.ndarray, "4 4"]
    """From voxel indices to RAS+ millimetres, float64."""
    remarks: tuple[str, ...]
    """Unusual properties of its files."""


class LabelMap(NamedTuple):
    """A label map with its affine."""

    label: Integer[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    """From voxel indices to RAS+ millimetres, float64."""
    remarks: tuple[str, ...]
    """Unusual properties of its file."""


def read_volume(path: str | Path, reading: ReadingConfig | None = None) -> Volume:
    """A grey image in float32, from a file or a folder with one DICOM series.

    Warns of unusual properties.

    Raises:
        DataError: the file is missing, damaged, of no known format, not 3D, too large for memory,
            or has an invalid affine, or NaN or infinite voxels; or the folder has no series, or
            several.
    """
    voxels, affine, remarks, _ = _decoded([Path(path)], reading)
    _check_3d(path, voxels)
    image = _as_intensities(voxels).astype(np.float32, copy=False)
    _check_finite(path, image)
    for remark in remarks:
        warnings.warn(f"{path}: {remark}", stacklevel=2)
    return Volume(image, affine)


def read_channels(
    files: Sequence[Path],
    reading: ReadingConfig | None = None,
    *,
    replace_nonfinite: float | None = None,
    may_be_constant: bool = False,
) -> Channels:
    """The channels of an image: of one file, or of the files of a DICOM series.

    `replace_nonfinite` replaces NaN and infinite voxels.

    Raises:
        DataError: as `read_volume`, or a channel is constant and may not be.
    """
    voxels, affine, remarks, _ = _decoded(files, reading)
    image = _as_intensities(voxels.reshape(*voxels.shape[:3], -1))
    if replace_nonfinite is None:
        _check_finite(files[0], image)
    elif not (finite := np.isfinite(image)).all():
        image = np.where(finite, image, np.float32(replace_nonfinite))
        remarks = (*remarks, f"NaN or infinite voxels replaced by {replace_nonfinite:g}")
    image = np.ascontiguousarray(np.moveaxis(image, 3, 0))
    for channel in image:
        if not may_be_constant and channel.min() == channel.max():
            raise DataError(f"{files[0]} is {channel.flat[0]:g} everywhere: there is no image")
    return Channels(image, affine, remarks)


def read_label(path: str | Path, reading: ReadingConfig | None = None) -> LabelMap:
    """A label map in an integer type.

    Raises:
        DataError: as `read_volume`, or a label is no integer.
    """
    voxels, affine, remarks, _ = _decoded([Path(path)], reading)
    _check_3d(path, voxels)
    if voxels.dtype.kind == "f":
        _check_finite(path, voxels)
        rounded = np.rint(voxels)
        wrong = np.abs(voxels - rounded) > _LABEL_ROUNDING
        if wrong.any():
            raise DataError(
                f"{path} is no label map: {wrong.sum()} voxels are no integers, such as "
                f"{voxels[wrong][0]:.6g}; resample labels with nearest neighbour"
            )
        if np.abs(rounded).max() > _MAX_LABEL:
            raise DataError(
                f"{path} is no label map: it has values up to {np.abs(rounded).max():.6g}"
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
        DataError: their shapes differ, or their affines place a corner more than a tenth of a
            voxel apart.
    """
    (image, label), (shape, label_shape), (affine, label_affine) = files, shapes, affines
    if shape != label_shape:
        raise DataError(f"{label} is {label_shape} but {image} is {shape}")
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in shape))]).T
    offsets = np.linalg.solve(affine, label_affine @ corners) - corners
    distance = np.linalg.norm(offsets, axis=0).max()
    if distance > _SAME_GRID_VOXELS:
        raise DataError(
            f"{image} and {label} have different affines: voxels lie up to {distance:.2f} voxels "
            "apart; resample the label to the image"
        )


def check_affine(name: str | Path, affine: Float[np.ndarray, "4 4"]) -> None:
    """Check that an affine gives every voxel another position.

    Raises:
        DataError: it has NaN or infinity, an axis without extent, or axes that run nearly
            alongside each other.
    """
    if not np.isfinite(affine).all():
        raise DataError(f"{name} has an affine with NaN or infinity; repair its header")
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(directions).all() or np.linalg.matrix_rank(directions) < 3:
        raise DataError(f"{name} has a singular affine (an axis without extent); repair its header")
    cosines = np.abs(directions.T @ directions)[np.triu_indices(3, 1)]
    shear = 90 - np.degrees(np.arccos(min(cosines.max(), 1)))
    if shear > _MAX_SHEAR_DEGREES:
        raise DataError(
            f"{name} has axes that are {shear:.0f} degrees off a right angle, more than the "
            f"{_MAX_SHEAR_DEGREES:.0f} that any scanner's tilt makes; repair its header"
        )


def _decoded(files: Sequence[Path], reading: ReadingConfig | None) -> Decoded:
    if len(files) == 1 and _is_folder(files[0]):
        files = dicom.series_in(files[0])
    path = files[0]
    reading = reading or ReadingConfig()
    known = _format_of(path)
    try:
        # A header may declare infinite values; the checks below report them.
        with np.errstate(over="ignore", invalid="ignore"):
            declared = dicom.declared(files) if known is dicom else known.declared(path)
            _check_memory(path, declared, reading.max_memory_gb)
            content = dicom.read_series(files) if known is dicom else known.read(path)
    except MemoryError as error:
        raise DataError(f"{path} does not fit into the memory that is left") from error
    kind = content.voxels.dtype
    if kind.kind not in "iuf":
        raise DataError(f"{path} has voxels of type {kind}; expected grey values or labels")
    check_affine(path, content.affine)
    _check_plausible(path, content.voxels.shape[:3], content.affine)
    if content.oriented:
        return content
    return _with_assumed_orientation(content, reading.assume_orientation)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # reported when it is opened
        return False


def _format_of(path: Path) -> ModuleType:
    """The module that reads a file. Raises `DataError` if there is none."""
    name = path.name.lower()
    for endings, known in _FORMATS.items():
        # Some scanners name DICOM slices .img.
        if name.endswith(endings) and not (name.endswith(VOXELS_OF_PAIR) and dicom.is_dicom(path)):
            return known
    if dicom.is_dicom(path):
        return dicom
    with opened(path):  # reports a missing file as such
        raise DataError(
            f"{path} is of no known format; expected DICOM, or a file named "
            f"{', '.join(READ_ENDINGS)}"
        )


def _check_memory(path: Path, declared: Declared, max_memory_gb: float | None) -> None:
    """Refuse an image that its header declares too large for memory."""
    need = declared.values * max(_BYTES_PER_VALUE, 2 * declared.kind.itemsize + 6)
    if max_memory_gb is None:
        limit, used, source = (
            psutil.virtual_memory().total / 2,
            0,
            "half of the machine's memory is",
        )
    else:
        used = psutil.Process().memory_info().rss
        limit, source = max_memory_gb * _GB, "max_memory_gb is"
    if need + used > limit:
        included = " with what the process holds already" if used else ""
        raise DataError(
            f"{path}: reading an image of {declared.values:,} voxels needs "
            f"{(need + used) / _GB:.2f} GB{included}, and {source} {limit / _GB:.4g}; allow more "
            "(max_memory_gb), or give a smaller image"
        )


def _with_assumed_orientation(content: Decoded, orientation: str | None) -> Decoded:
    """An image without orientation in its header, with an assumed one and a remark."""
    if orientation is None:
        letters = "".join(x or "?" for x in nib.aff2axcodes(content.affine))
        remark = (
            f"no orientation in its header, axes taken as {letters}, so that left and right may be "
            "exchanged; set it with assume_orientation"
        )
        return content._replace(remarks=(*content.remarks, remark))
    shape = content.voxels.shape[:3]
    steps = np.zeros((3, 3))
    for axis, (letter, spacing) in enumerate(
        zip(orientation, spacing_of(content.affine), strict=True)
    ):
        steps["RAS".index(_OPPOSITE.get(letter, letter)), axis] = (
            -spacing if letter in _OPPOSITE else spacing
        )
    affine = np.eye(4)
    affine[:3, :3] = steps
    # The position is unknown: the centre is the origin, for an image and its label map.
    affine[:3, 3] = -steps @ (np.array(shape) - 1) / 2
    remark = f"no orientation in its header, axes taken as {orientation}, as requested"
    return content._replace(affine=affine, remarks=(*content.remarks, remark))


def _check_3d(path: str | Path, voxels: np.ndarray) -> None:
    if voxels.ndim != 3:
        raise DataError(f"{path} has shape {voxels.shape}; expected one 3D volume")


def _check_finite(path: str | Path, voxels: np.ndarray) -> None:
    if bad := voxels.size - int(np.isfinite(voxels).sum()):
        raise DataError(f"{path} has {bad} voxels that are NaN or infinite; replace them first")


def _as_intensities(voxels: np.ndarray) -> np.ndarray:
    if voxels.dtype.kind != "f":
        return voxels
    with np.errstate(over="ignore"):
        return voxels.astype(np.float32, copy=False)


def _check_plausible(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> None:
    spacing = np.array(spacing_of(affine))
    low, high = _PLAUSIBLE_SPACING_MM
    extent = spacing * shape
    if (spacing < low).any() or (spacing > high).any() or (extent > _MAX_EXTENT_MM).any():
        sizes = " x ".join(f"{step:.4g}" for step in spacing)
        raise DataError(
            f"{path} has voxels of {sizes} mm; the unit in its header is most likely wrong: "
            "repair its header"
        )
