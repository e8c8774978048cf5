"""Context images as people give them, with what marks the structure on them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Num

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.conversion.source_case import label_on_grid
from wsicl_jax.data.images import LabelMap, Volume, check_same_grid
from wsicl_jax.errors import PromptError, located
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference import remarks
from wsicl_jax.inference.inputs.images import ImageLike, LabelLike, as_label_map, as_path, as_volume
from wsicl_jax.inference.inputs.positions import (
    MOST_POSITIONS,
    Coordinates,
    Number,
    Position,
    Ranges,
    box_in,
    check_count,
    point_in,
)
from wsicl_jax.prompts import Prompt, Scribble

UNNAMED = "structure"
"""Name of the structure where nobody names it."""


class ContextImage(NamedTuple):
    """A context image that has been read, and its prompts in voxels of its own grid."""

    volume: Volume
    prompts: list[Prompt]
    remarks: tuple[str, ...] = ()
    """What looks like a mistake in it."""


@dataclass(frozen=True, eq=False)
class Example:
    """One context image and its prompts; kinds may mix, and at least one is needed.

        Example("sub1.nii.gz", points_mm=[(12.5, -30.0, 8.0)])
        Example(array, spacing_mm=(1, 1, 3), boxes=[[[30, 52], [25, 41], [18, 19]]])
        Example("sub3.nii.gz", mask="sub3_label.nii.gz", labels=[1, 2])

    Nothing is read before `load`, which a task does.
    """

    image: ImageLike | np.ndarray
    _: KW_ONLY
    points: Sequence[Position] | np.ndarray = ()
    """Positions inside the structure, in voxels (centres at whole numbers)."""
    points_mm: Sequence[Position] | np.ndarray = ()
    """Positions inside the structure, in RAS+ mm."""
    scribbles: Sequence[Sequence[Position] | np.ndarray] = ()
    """Lines inside the structure: positions in voxels that are joined."""
    scribbles_mm: Sequence[Sequence[Position] | np.ndarray] = ()
    """Lines inside the structure, in RAS+ mm."""
    boxes: Sequence[Ranges | Box] | np.ndarray = ()
    """Tight around the structure, on a slice or in 3D: half-open ranges of voxels, three each."""
    boxes_mm: Sequence[Ranges] | np.ndarray = ()
    """Ranges of RAS+ mm, three each; both ends alike for one slice."""
    mask: LabelLike | Num[np.ndarray, "..."] | Bool[np.ndarray, "..."] | None = None
    """A label map on the image's grid."""
    labels: Sequence[int] | None = None
    """Labels of `mask` that make up the structure; None: all that are not zero."""
    markups: Sequence[str | os.PathLike] = ()
    """Files of prompts that other tools wrote: 3D Slicer, napari, roughly drawn label maps."""
    markup_axes: str = "xyz"
    """Order of the axes in files that count voxels (napari): "xyz" or "zyx"."""
    prompts: Sequence[Prompt] = ()
    """Prompts that are made already, in voxels of the image's grid."""
    spacing_mm: Sequence[Number] | None = None
    """Size of the voxels of an array whose axes run to the right, to the front and up."""
    affine: Num[np.ndarray, "4 4"] | None = None
    """From voxels of an array to RAS+ mm, instead of `spacing_mm`."""
    name: str = ""
    """What errors call it."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that it comes from, so that no result replaces one."""
        found = [as_path(given) for given in (self.image, self.mask, *self.markups)]
        return tuple(path for path in found if path is not None)

    def load(
        self,
        read_image: Callable[[ImageLike], Volume] = as_volume,
        read_label: Callable[[LabelLike, Volume], tuple[np.ndarray, np.ndarray]] = as_label_map,
        reading: ReadingConfig | None = None,
    ) -> ContextImage:
        """Read the image and bring all its prompts to its voxels.

        `read_image` and `read_label` read what is given as a path; those of a caller may keep
        what several examples share. `reading` goes for the files of `markups`.

        Raises:
            DataError: the image or its mask cannot be read, or they are not on one grid.
            PromptError: there is no prompt, or one is not well formed, empty, or outside the
                image. Both begin with the example's name, and with which prompt it was.
        """
        with located(self.name):
            with located("image"):
                if as_path(self.image) is not None and self.spacing_mm is self.affine is None:
                    volume = read_image(self.image)
                else:
                    volume = as_volume(self.image, self.spacing_mm, self.affine)
            prompts, said = self._prompts(volume, read_label, reading)
            return ContextImage(volume, prompts, (*remarks.on_image(volume.image), *said))

    def _prompts(
        self, volume: Volume, read_label: Callable, reading: ReadingConfig | None
    ) -> tuple[list[Prompt], tuple[str, ...]]:
        said: tuple[str, ...] = ()
        prompts = list(self.prompts)
        given = (self.points, self.points_mm, self.scribbles, self.scribbles_mm)
        check_count(sum(map(len, (prompts, *given, self.boxes, self.boxes_mm))))
        for points, coordinates in _both(self.points, self.points_mm):
            for number, position in enumerate(points, 1):
                with located(f"points {number}"):
                    prompts.append(point_in(volume, position, coordinates))
        for scribbles, coordinates in _both(self.scribbles, self.scribbles_mm):
            for number, path in enumerate(scribbles, 1):
                with located(f"scribbles {number}"):
                    if not len(path):
                        raise PromptError("a scribble needs at least one position")
                    check_count(len(path), "positions", MOST_POSITIONS)
                    along = (tuple(point_in(volume, p, coordinates)) for p in path)
                    prompts.append(Scribble(tuple(along)))
        for boxes, coordinates in _both(self.boxes, self.boxes_mm):
            for number, ranges in enumerate(boxes, 1):
                if isinstance(ranges, Box):
                    ranges = list(zip(ranges.start, ranges.stop, strict=True))
                with located(f"boxes {number}"):
                    prompts.append(box_in(volume, ranges, coordinates))
        for file in self.markups:
            from wsicl_jax.inference.inputs.external import read_prompts

            with located("markups"):
                prompts += read_prompts(file, volume, axes=self.markup_axes, reading=reading)
                check_count(len(prompts))
        if self.mask is not None:
            with located("mask"):
                mask, said = self._mask(volume, read_label)
                prompts.append(mask)
        elif self.labels is not None:
            raise PromptError("labels: they choose among the labels of a mask, but mask is missing")
        if not prompts:
            raise PromptError("image has no prompt; give points, scribbles, boxes or a mask")
        return prompts, said

    def _mask(
        self, volume: Volume, read_label: Callable
    ) -> tuple[Bool[np.ndarray, "x y z"], tuple[str, ...]]:
        if self.labels is not None and 0 in self.labels:
            raise PromptError(f"labels are {list(self.labels)}, but 0 is what no structure has")
        shape = volume.image.shape
        given = LabelMap(*read_label(self.mask, volume), ())
        # An array has no place of its own.
        is_array = isinstance(self.mask, np.ndarray)
        label, affine, said = given if is_array else label_on_grid(given, shape, volume.affine)
        image, mask = (
            as_path(x) or Path(n) for x, n in ((self.image, "image"), (self.mask, "mask"))
        )
        check_same_grid((image, mask), (shape, label.shape), (volume.affine, affine))
        found = label != 0 if self.labels is None else np.isin(label, self.labels)
        if not found.any():
            present = np.setdiff1d(label, 0).tolist()
            wanted = "non-zero" if self.labels is None else f"of labels {list(self.labels)}"
            raise PromptError(f"{mask} has no voxel {wanted}; it has labels {present[:20]}")
        return found, (*said, *remarks.on_mask(label, found, self.labels))


def _both(
    voxel: Sequence | np.ndarray, mm: Sequence | np.ndarray
) -> tuple[tuple[Sequence | np.ndarray, Coordinates], ...]:
    return (voxel, "voxel"), (mm, "mm")
