"""The result of every reader of a format."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Declared(NamedTuple):
    """Shape and type of voxels, from a header, before they are read."""

    shape: tuple[int, ...]
    """Values along all axes, channels included."""
    kind: np.dtype

    @property
    def values(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The size of all values."""
        return self.values * self.kind.itemsize


class Decoded(NamedTuple):
    """The content of a file, or of the files of a DICOM series; not checked yet."""

    voxels: np.ndarray
    """Values scaled by the header, in native byte order: (x, y, z), or (x, y, z, c) with
    channels."""
    affine: Float[np.ndarray, "4 4"]
    """From voxel indices to RAS+ millimetres, float64."""
    remarks: tuple[str, ...]
    """Unusual properties that are accepted."""
    oriented: bool = True
    """Whether the header has the directions of the axes; else `affine` has assumed ones."""
