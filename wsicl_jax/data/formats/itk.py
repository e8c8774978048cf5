"""Images of SimpleITK, and writing NRRD and MetaImage through it."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Num

from wsicl_jax.data.formats.text_header import LPS_TO_RAS
from wsicl_jax.errors import DataError

if TYPE_CHECKING:
    import SimpleITK


def write(
    path: Path,
    voxels: Num[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write voxels in their own type, compressed, in the format of the name: .nrrd or .mha.

    `affine` is in mm; `metadata` are further keys of the header. The file appears under its
    name only when it is complete.

    Raises:
        DataError: SimpleITK is not installed, or the file cannot be written.
    """
    try:
        import SimpleITK as sitk  # noqa: N813
    except ImportError as error:
        raise DataError(
            f"{path} needs SimpleITK to be written: pip install 'wsicl_jax[itk]'"
        ) from error
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    for key, value in (metadata or {}).items():
        image.SetMetaData(key, value)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".wsicl-") as folder:
            # ITK takes the format from the name.
            complete = Path(folder) / path.name
            sitk.WriteImage(image, str(complete), useCompression=True)
            with complete.open("rb") as file:
                os.fsync(file.fileno())
            complete.replace(path)
    except (OSError, RuntimeError) as error:
        lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
        raise DataError(f"{path} cannot be written: {lines[-1].strip()}") from error


def decoded(image: "SimpleITK.Image") -> tuple[np.ndarray, Float[np.ndarray, "4 4"]]:
    """Voxels and affine (mm) of a three-dimensional image of SimpleITK.

    Raises:
        DataError: it has other dimensions.
    """
    import SimpleITK as sitk  # noqa: N813

    array = sitk.GetArrayViewFromImage(image)
    frames = array.shape[0] if image.GetDimension() == 4 else 1
    if image.GetDimension() not in (3, 4) or frames > 1:
        shape = image.GetSize()
        raise DataError(f"image has shape {shape}; expected a 3D volume, or one with channels")
    array = array[0] if image.GetDimension() == 4 else array
    turned = array.transpose(2, 1, 0, *range(3, array.ndim))
    # A copy, since ITK frees the memory of the view with its image.
    voxels = np.array(turned, array.dtype.newbyteorder("="), order="C")
    dimension = image.GetDimension()
    directions = np.array(image.GetDirection()).reshape(dimension, dimension)
    affine = np.eye(4)
    affine[:3, :3] = directions[:3, :3] * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return voxels, LPS_TO_RAS @ affine
