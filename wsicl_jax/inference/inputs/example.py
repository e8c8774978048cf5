"""Context images as users give them: an image, and prompts of several kinds."""

import os
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Num

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.conversion.source_case import label_on_grid
from wsicl_jax.data.images import LabelMap, Volume, check_same_grid
from wsicl_jax.errors import PromptError, located
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference import remarks
from wsicl_jax.inference.inputs.external import read_prompts
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
from wsicl_jax.prompts import Negative, Point, Prompt, Scribble, kind_of

UNNAMED = "structure"
"""Name of a structure that the user did not name."""


class ContextImage(NamedTuple):
    """A context image after reading, and its prompts in its voxels."""

    volume: Volume
    prompts: list[Prompt]
    remarks: tuple[str, ...] = ()
    """Likely mistakes in the image and its mask."""


@dataclass(frozen=True, eq=False, repr=False)
class Example:
    """One context image and its prompts; kinds may mix, and at least one is needed.

        Example("sub1.nii.gz", points_mm=[(12.5, -30.0, 8.0)])
        Example(array, spacing_mm=(1, 1, 3), boxes=[[[30, 52], [25, 41], [18, 19]]])
        Example("sub3.nii.gz", mask="sub3_label.nii.gz", labels=[1, 2])
        Example("sub4.nii.gz", points=[(40, 32, 18)], negative_points=[(55, 32, 18)])

    Files are read by `load`, which a task calls.
    """

    image: ImageLike | np.ndarray
    _: KW_ONLY
    points: Sequence[Position] | np.ndarray = ()
    """Positions inside the structure, in voxels (centres at whole numbers)."""
    points_mm: Sequence[Position] | np.ndarray = ()
    """Positions inside the structure, in RAS+ mm."""
    scribbles: Sequence[Sequence[Position] | np.ndarray] = ()
    """Lines inside the structure: joined positions in voxels."""
    scribbles_mm: Sequence[Sequence[Position] | np.ndarray] = ()
    """Lines inside the structure, in RAS+ mm."""
    boxes: Sequence[Ranges | Box] | np.ndarray = ()
    """Tight boxes around the structure, on a slice or in 3D: three half-open ranges of voxels."""
    boxes_mm: Sequence[Ranges] | np.ndarray = ()
    """Boxes of three ranges in RAS+ mm; a range with equal ends is one slice."""
    negative_points: Sequence[Position] | np.ndarray = ()
    """Positions outside the structure, in voxels."""
    negative_points_mm: Sequence[Position] | np.ndarray = ()
    """Positions outside the structure, in RAS+ mm."""
    negative_scribbles: Sequence[Sequence[Position] | np.ndarray] = ()
    """Lines outside the structure: joined positions in voxels."""
    negative_scribbles_mm: Sequence[Sequence[Position] | np.ndarray] = ()
    """Lines outside the structure, in RAS+ mm."""
    mask: LabelLike | Num[np.ndarray, "..."] | Bool[np.ndarray, "..."] | None = None
    """A label map on the image's grid."""
    labels: Sequence[int] | None = None
    """Labels of `mask` that form the structure; None: all but 0."""
    markups: Sequence[str | os.PathLike] = ()
    """Files of prompts from other tools: 3D Slicer, napari, roughly drawn label maps."""
    negative_markups: Sequence[str | os.PathLike] = ()
    """Files of other tools whose points and scribbles are outside the structure."""
    markup_axes: str = "xyz"
    """Order of the axes in files that count voxels (napari): "xyz" or "zyx"."""
    prompts: Sequence[Prompt] = ()
    """Prompt objects, in voxels of the image's grid."""
    spacing_mm: Sequence[Number] | None = None
    """Voxel size of an array whose axes are in RAS+ order."""
    affine: Num[np.ndarray, "4 4"] | None = None
    """From voxels of an array to RAS+ mm, instead of `spacing_mm`."""
    name: str = ""
    """Its name in errors and remarks."""

    def __repr__(self) -> str:
        image = as_path(self.image) or f"{type(self.image).__name__}"
        kinds = [f"{kind}{suffix}" for kind in _KINDS for suffix in ("", "_mm")]
        kinds += ["markups", "negative_markups", "prompts"]
        parts = [f"{len(getattr(self, kind))} {kind}" for kind in kinds if len(getattr(self, kind))]
        if self.mask is not None:
            labels = f" with labels {list(self.labels)}" if self.labels is not None else ""
            parts.append(f"mask {as_path(self.mask) or type(self.mask).__name__}{labels}")
        return f"Example({image}: {', '.join(parts) or 'no prompt'})"

    @property
    def files(self) -> tuple[Path, ...]:
        """All source files, so that no result replaces one."""
        sources = (self.image, self.mask, *self.markups, *self.negative_markups)
        paths = [as_path(source) for source in sources]
        return tuple(path for path in paths if path is not None)

    def load(
        self,
        read_image: Callable[[ImageLike], Volume] = as_volume,
        read_label: Callable[[LabelLike, Volume], tuple[np.ndarray, np.ndarray]] = as_label_map,
        reading: ReadingConfig | None = None,
    ) -> ContextImage:
        """Read the image, and bring all its prompts to its voxels.

        `read_image` and `read_label` read paths; those of a caller may cache files that several
        examples share. `reading` applies to the files of `markups`.

        Raises:
            DataError: the image or its mask cannot be read, or they are not on one grid.
            PromptError: there is no prompt, or one is not well formed, empty, or outside the
                image. Both begin with the example's name and the prompt's number.
        """
        with located(self.name):
            with located("image"):
                if as_path(self.image) is not None and self.spacing_mm is self.affine is None:
                    volume = read_image(self.image)
                else:
                    volume = as_volume(self.image, self.spacing_mm, self.affine)
            prompts, notes = self._prompts(volume, read_label, reading)
            return ContextImage(volume, prompts, (*remarks.on_image(volume.image), *notes))

    def _prompts(
        self, volume: Volume, read_label: Callable, reading: ReadingConfig | None
    ) -> tuple[list[Prompt], tuple[str, ...]]:
        notes: tuple[str, ...] = ()
        prompts = list(self.prompts)
        listed = [
            (key, coordinates, getattr(self, f"{key}{suffix}"))
            for key in _KINDS
            for coordinates, suffix in _COORDINATES
        ]
        check_count(len(prompts) + sum(len(values) for _, _, values in listed))
        for key, coordinates, values in listed:
            for number, value in enumerate(values, 1):
                with located(f"{key} {number}"):
                    prompts.append(_KINDS[key](volume, value, coordinates))
        for key, files in (("markups", self.markups), ("negative_markups", self.negative_markups)):
            for file in files:
                with located(key):
                    read = read_prompts(file, volume, axes=self.markup_axes, reading=reading)
                    prompts += read if key == "markups" else map(_negative, read)
                    check_count(len(prompts))
        if self.mask is not None:
            with located("mask"):
                mask, notes = self._mask(volume, read_label)
                prompts.append(mask)
        elif self.labels is not None:
            raise PromptError("labels: they choose among the labels of a mask, but mask is missing")
        if not prompts:
            raise PromptError("image has no prompt; give points, scribbles, boxes or a mask")
        return prompts, notes

    def _mask(
        self, volume: Volume, read_label: Callable
    ) -> tuple[Bool[np.ndarray, "x y z"], tuple[str, ...]]:
        if self.labels is not None and 0 in self.labels:
            raise PromptError(f"labels are {list(self.labels)}, but 0 means no structure")
        shape = volume.image.shape
        stored = LabelMap(*read_label(self.mask, volume), ())
        # An array has the image's own grid.
        is_array = isinstance(self.mask, np.ndarray)
        label, affine, notes = stored if is_array else label_on_grid(stored, shape, volume.affine)
        image, mask = (
            as_path(x) or Path(n) for x, n in ((self.image, "image"), (self.mask, "mask"))
        )
        check_same_grid((image, mask), (shape, label.shape), (volume.affine, affine))
        inside = label != 0 if self.labels is None else np.isin(label, self.labels)
        if not inside.any():
            present = np.setdiff1d(label, 0).tolist()
            expected = "non-zero" if self.labels is None else f"of labels {list(self.labels)}"
            raise PromptError(f"{mask} has no voxel {expected}; it has labels {present[:20]}")
        return inside, (*notes, *remarks.on_mask(label, inside, self.labels))


def scribble_in(
    volume: Volume, path: Sequence[Position] | np.ndarray, coordinates: Coordinates
) -> Scribble:
    """Joined positions as a scribble of the image.

    Raises:
        PromptError: there is no position, or too many; or as `point_in`.
    """
    if not len(path):
        raise PromptError("a scribble needs at least one position")
    check_count(len(path), "positions", MOST_POSITIONS)
    return Scribble(tuple(tuple(point_in(volume, p, coordinates)) for p in path))


def _box(volume: Volume, ranges: Ranges | Box, coordinates: Coordinates) -> Box:
    if isinstance(ranges, Box):
        ranges = list(zip(ranges.start, ranges.stop, strict=True))
    return box_in(volume, ranges, coordinates)


def _negative_point(volume: Volume, position: Position, coordinates: Coordinates) -> Negative:
    return Negative(point_in(volume, position, coordinates))


def _negative_scribble(
    volume: Volume, path: Sequence[Position] | np.ndarray, coordinates: Coordinates
) -> Negative:
    return Negative(scribble_in(volume, path, coordinates))


def _negative(prompt: Prompt) -> Negative:
    if not isinstance(prompt, Point | Scribble):
        raise PromptError(
            f"holds a {kind_of(prompt)}; only points and scribbles can be outside the structure"
        )
    return Negative(prompt)


_KINDS: dict[str, Callable[[Volume, Any, Coordinates], Prompt]] = {
    "points": point_in,
    "scribbles": scribble_in,
    "boxes": _box,
    "negative_points": _negative_point,
    "negative_scribbles": _negative_scribble,
}
"""Lists of prompts, each also with the suffix `_mm`."""

_COORDINATES: tuple[tuple[Coordinates, str], ...] = (("voxel", ""), ("mm", "_mm"))
