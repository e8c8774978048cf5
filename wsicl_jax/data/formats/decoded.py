"""What every reader of a format gives back."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Decoded(NamedTuple):
    """The content of a file, or of the files of a DICOM series; not judged yet."""

    voxels: np.ndarray
    """Values scaled as the header says, in native byte order: (x, y, z), or (x, y, z, c) where
    the file has channels."""
    affine: Float[np.ndarray, "4 4"]
    """From voxel indices to RAS+ millimetres, float64."""
    remarks: tuple[str, ...]
    """What is unusual about it, but clear enough to be accepted."""
