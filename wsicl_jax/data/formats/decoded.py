"""What every reader of a format gives back."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Declared(NamedTuple):
    """What a header says of its voxels, before they are read."""

    shape: tuple[int, ...]
    """Values along all axes, channels included."""
    kind: np.dtype

    @property
    def values(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many the values take."""
        return self.values * self.kind.itemsize


class Decoded(NamedTuple):
    """The content of a file, or of the files of a DICOM series; not judged yet."""

    voxels: np.ndarray
    """Values scaled as the header says, in native byte order: (x, y, z), or (x, y, z, c) where
    the file has channels."""
    affine: Float[np.ndarray, "4 4"]
    """From voxel indices to RAS+ millimetres, float64."""
    remarks: tuple[str, ...]
    """What is unusual about it, but clear enough to be accepted."""
    oriented: bool = True
    """Whether the header says where the axes run; else `affine` has what its readers assume."""
