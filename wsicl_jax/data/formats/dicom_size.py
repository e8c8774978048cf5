"""How many voxels a DICOM series has, by its headers alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsicl_jax.data.formats.decoded import Declared
from wsicl_jax.data.formats.dicom_file import unreadable
from wsicl_jax.data.formats.payload import opened
from wsicl_jax.errors import DataError

_SIZES = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")


def declared(files: Sequence[Path]) -> Declared:
    """What the headers of a series say of its voxels, as they are once rescaled.

    Raises:
        DataError: pydicom is not installed, or a file is missing, empty, no regular file, or
            damaged.
    """
    try:
        import pydicom
    except ImportError as error:
        raise DataError(
            f"{files[0]} needs pydicom to be read: pip install 'wsicl_jax[dicom]'"
        ) from error
    values = 0
    for path in files:
        with opened(path) as file:
            try:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*_SIZES])
                sizes = [int(header.get(name) or 1) for name in _SIZES]
            # Bytes of unknown origin make pydicom fail in more ways than it documents.
            except Exception as error:
                raise unreadable(path, error) from error
        values += int(np.prod([max(size, 1) for size in sizes], dtype=object))
    return Declared((values,), np.dtype(np.float64))
