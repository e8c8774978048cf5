"""The result of a target: a label map on the target's own grid."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float16, Integer, UInt8, UInt16

from wsicl_jax.data.formats.writing import write_label_map
from wsicl_jax.errors import DataError, reason
from wsicl_jax.geometry.axes import Box

_MM3_PER_ML = 1000


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The structures of a task in one target."""

    label_map: UInt8[np.ndarray, "x y z"] | UInt16[np.ndarray, "x y z"]
    """Value of the structure at each voxel, 0 for none; in an overlap, the higher score wins."""
    structures: Mapping[str, int]
    """Value of each structure."""
    affine: Float[np.ndarray, "4 4"]
    """From the target's voxels to RAS+ mm."""
    probabilities: Mapping[str, Float16[np.ndarray, "x y z"]]
    """The network's output for each structure, clipped to [0, 1]; empty unless asked for."""
    remarks: tuple[str, ...] = ()
    """Unusual choices, and likely mistakes."""
    crop: Box | None = None
    """The box of the target without margins, in its voxels: the network's input."""

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.label_map.shape))
        volumes = ", ".join(f"{name} {volume:.4g} ml" for name, volume in self.volumes_ml.items())
        kept = ", with probabilities" if self.probabilities else ""
        count = len(self.remarks)
        remarks = f", {count} remark{'s' * (count > 1)}" if count else ""
        return f"Segmentation({shape} voxels: {volumes}{kept}{remarks})"

    @property
    def mask(self) -> Bool[np.ndarray, "x y z"]:
        """The union of all structures; of a task with one structure, its mask."""
        return self.label_map != 0

    def mask_of(self, name: str) -> Bool[np.ndarray, "x y z"]:
        """The mask of one structure.

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

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Volume of each structure in ml."""
        voxel_ml = abs(float(np.linalg.det(self.affine[:3, :3]))) / _MM3_PER_ML
        counts = count_voxels(self.label_map, self.structures)
        return {name: count * voxel_ml for name, count in counts.items()}

    def save(self, path: str | os.PathLike, source: Sequence[str | os.PathLike] = ()) -> None:
        """Write the label map in the format of the file's ending; missing folders are made.

        NIfTI (.nii.gz, .nii), NRRD (.nrrd, .seg.nrrd), MetaImage (.mha), DICOM-SEG (.dcm),
        RTSTRUCT (.rtstruct.dcm). Of the target's `source` files, the result takes over NIfTI's
        geometry as it was written, or DICOM's patient and study.

        Raises:
            DataError: as `data.formats.writing.write_label_map`, or the folder cannot be made.
        """
        path, files = Path(path), [Path(file) for file in source]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{path.parent} cannot be made: {reason(error)}") from error
        write_label_map(path, self.label_map, self.affine, self.structures, files)


def count_voxels(
    label_map: Integer[np.ndarray, "x y z"], structures: Mapping[str, int]
) -> dict[str, int]:
    """Number of voxels of each structure; `structures` gives the value of each."""
    length = max(structures.values()) + 1
    # Plane by plane: counting takes eight bytes for each voxel.
    counts = sum(np.bincount(plane.ravel(), minlength=length) for plane in label_map)
    return {name: int(counts[value]) for name, value in structures.items()}
