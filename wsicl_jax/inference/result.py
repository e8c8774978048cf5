"""What was found in a target, on its own grid."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float16, UInt8, UInt16

from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Box


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The structures of a task in one target."""

    label_map: UInt8[np.ndarray, "x y z"] | UInt16[np.ndarray, "x y z"]
    """Each structure's value, 0 outside; where structures overlap, that of the higher score."""
    structures: Mapping[str, int]
    """Value of each structure."""
    affine: Float[np.ndarray, "4 4"]
    """From the target's voxels to RAS+ mm."""
    probabilities: Mapping[str, Float16[np.ndarray, "x y z"]]
    """The network's output for each structure, clipped to [0, 1]; empty unless asked for."""
    remarks: tuple[str, ...] = ()
    """What was done otherwise than usual, and what looks like a mistake."""
    crop: Box | None = None
    """What of the target the network was shown, in its voxels: all but margins of one value."""

    @property
    def mask(self) -> Bool[np.ndarray, "x y z"]:
        """Where any structure is; of a task with one structure, its mask."""
        return self.label_map != 0

    def mask_of(self, name: str) -> Bool[np.ndarray, "x y z"]:
        """Where a structure is.

        Raises:
            DataError: the task has no such structure.
        """
        if name not in self.structures:
            raise DataError(f"no structure {name!r}; there are {', '.join(self.structures)}")
        return self.label_map == self.structures[name]

    @property
    def probability(self) -> Float16[np.ndarray, "x y z"]:
        """The probabilities of a task with one structure.

        Raises:
            DataError: they were not asked for, or there are several structures.
        """
        if not self.probabilities:
            raise DataError("probabilities were not kept; segment with probabilities=True")
        if len(self.probabilities) > 1:
            names = ", ".join(self.probabilities)
            raise DataError(f"there are several structures, {names}; take one of `probabilities`")
        return next(iter(self.probabilities.values()))

    def save(self, path: str | os.PathLike, source: Sequence[str | os.PathLike] = ()) -> None:
        """Write the label map in the format of the file's ending.

        NIfTI (.nii.gz, .nii), NRRD (.nrrd, .seg.nrrd), MetaImage (.mha), DICOM-SEG (.dcm). What
        of the target's `source` files belongs to a result is taken over: NIfTI's geometry as it
        was written, DICOM's patient and study.

        Raises:
            DataError: as `data.results.write_label_map`.
        """
        from wsicl_jax.data.label_maps import write_label_map

        files = [Path(file) for file in source]
        write_label_map(Path(path), self.label_map, self.affine, self.structures, files)
