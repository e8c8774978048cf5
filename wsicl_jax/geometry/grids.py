"""Conversion between a volume's own grid and another grid, such as the working grid.

A volume is turned to RAS+ by permuting and mirroring its axes and cropped to a box, both exact.
It is then resized to the grid. Voxels are cells: the outer faces of box and grid coincide, and a
voxel's index is the centre of its cell.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped
from scipy import ndimage

from wsicl_jax.errors import PromptError
from wsicl_jax.geometry.axes import Box, Shape3

_MARGINS = 2
"""Number of nested margins that are cut off; a third could cut into an intensity ramp."""


@dataclass(frozen=True)
class WorkingGrid:
    """The conversion between one volume's own grid and a grid of another size.

    `order[a]` is the volume's axis that runs along RAS axis `a`, `flips[a]` whether it
    runs against it; `crop` is a box of the turned volume.
    """

    shape: Shape3
    """Voxels of the volume along its own axes."""
    grid: Shape3
    """Voxels of the working grid, axes in RAS+ order."""
    order: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)
    crop: Box | None = None
    """The box of the turned volume that the grid covers; None: all of it."""

    @classmethod
    def of(
        cls, shape: Sequence[int], affine: Num[np.ndarray, "4 4"], grid: Shape3 | None = None
    ) -> "WorkingGrid":
        """The working grid for a volume of this shape and voxel-to-RAS affine (mm).

        Without a `grid` the volume is only turned.
        """
        from nibabel import orientations  # slow to import, and synthetic data needs none of it

        axis_of = orientations.io_orientation(affine)
        order = np.argsort(axis_of[:, 0])
        x, y, z = (int(side) for side in shape)
        i, j, k = (int(a) for a in order)
        flips = tuple(bool(axis_of[a, 1] < 0) for a in order)
        return cls((x, y, z), grid or ((x, y, z)[i], (x, y, z)[j], (x, y, z)[k]), (i, j, k), flips)

    @functools.cached_property
    def turned_shape(self) -> Shape3:
        """Shape after turning to RAS+, before cropping and resizing."""
        x, y, z = (self.shape[a] for a in self.order)
        return x, y, z

    @functools.cached_property
    def covered(self) -> Box:
        """The box of the turned volume that the working grid covers."""
        return self.crop or Box((0, 0, 0), self.turned_shape)

    def affine(self, affine: Num[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
        """The affine of the working grid, for a volume of this affine; float64."""
        to_volume = np.zeros((4, 4))
        to_volume[3, 3] = 1
        for row, (axis, flip, size, low, extent, cells) in enumerate(self._axes()):
            step = extent / cells
            first = low + (step - 1) / 2
            to_volume[axis, row] = -step if flip else step
            to_volume[axis, 3] = size - 1 - first if flip else first
        return np.asarray(affine, np.float64) @ to_volume

    def image(self, image: Num[np.ndarray, "x y z"]) -> Float[np.ndarray, "X Y Z"]:
        """A grey image on the working grid, linear between voxels; float32."""
        return resize(self.turned(image)[self.covered.slices], self.grid)

    def label(
        self, label: Num[np.ndarray, "x y z"] | Bool[np.ndarray, "x y z"]
    ) -> Num[np.ndarray, "X Y Z"] | Bool[np.ndarray, "X Y Z"]:
        """A label map on the working grid, from the nearest voxel; dtype kept."""
        return resize_nearest(self.turned(label)[self.covered.slices], self.grid)

    def restore(self, values: Float[np.ndarray, "X Y Z"]) -> Float[np.ndarray, "x y z"]:
        """Values on the working grid back on the volume's own grid, linear; float32.

        Voxels outside of the cropped box become 0.
        """
        return self._turn_back(resize(values, self.covered.extent))

    def restore_label(
        self, label: Num[np.ndarray, "X Y Z"] | Bool[np.ndarray, "X Y Z"]
    ) -> Num[np.ndarray, "x y z"] | Bool[np.ndarray, "x y z"]:
        """A label map on the working grid back on the volume's own grid; dtype kept.

        Voxels outside of the cropped box become 0.
        """
        return self._turn_back(resize_nearest(label, self.covered.extent))

    def point(self, position: Sequence[float]) -> tuple[float, float, float]:
        """A voxel position of the volume as a position on the working grid.

        Raises:
            PromptError: the position lies outside the volume, or outside of its cropped box.
        """
        placed = []
        for axis, flip, size, start, extent, cells in self._axes():
            value = float(position[axis])
            value = (size - 1 - value if flip else value) - start
            if not -0.5 <= value <= extent - 0.5:
                raise PromptError(
                    f"point {tuple(map(float, position))} lies outside {self._bounds()}; give "
                    "voxel indices in the file's axis order"
                )
            placed.append(min(max((value + 0.5) * cells / extent - 0.5, 0.0), cells - 1.0))
        x, y, z = placed
        return x, y, z

    def box(self, box: Box) -> Box:
        """A box of the volume as a box of the working grid: the voxels whose centres it contains.

        A box without a centre becomes the voxel around its middle. An extent of one voxel stays
        one voxel, so a box on a slice stays on a slice.

        Raises:
            PromptError: the box is empty or reaches outside the volume, or its cropped box.
        """
        start, stop = [], []
        for axis, flip, size, covered, extent, cells in self._axes():
            low, high = box.start[axis], box.stop[axis]
            if flip:
                low, high = size - high, size - low
            low, high = low - covered, high - covered
            if not 0 <= low < high <= extent:
                raise PromptError(
                    f"box {box.start} to {box.stop} is empty or leaves {self._bounds()}; give "
                    "half-open ranges of voxel indices in the file's axis order"
                )
            first, last = (int(np.ceil(end * cells / extent - 0.5)) for end in (low, high))
            if high - low == 1 or first == last:
                first = min(int((low + high) / 2 * cells / extent), cells - 1)
                last = first + 1
            start.append(first)
            stop.append(last)
        return Box(tuple(start), tuple(stop))

    def turned_box(self, box: Box) -> Box:
        """A box of the volume as one of the turned volume."""
        ends = [
            (size - box.stop[axis], size - box.start[axis])
            if flip
            else (box.start[axis], box.stop[axis])
            for axis, flip, size in zip(self.order, self.flips, self.turned_shape, strict=True)
        ]
        (x, u), (y, v), (z, w) = ends
        return Box((x, y, z), (u, v, w))

    def cropped(self, crop: Box, grid: Shape3) -> "WorkingGrid":
        """A grid over a box of the same turned volume."""
        return replace(self, crop=crop, grid=grid)

    def cropped_around(
        self, centre: Float[np.ndarray, "3"], extent: Num[np.ndarray, "3"]
    ) -> "WorkingGrid":
        """A grid of the same size over a box around a position.

        `centre` and `extent` are in voxels of the turned volume, from its first faces. The box is
        moved as little as needed to lie in the volume; an axis that is shorter is taken whole.
        """
        size = np.clip(np.rint(extent), 1, self.turned_shape).astype(int)
        start = np.clip(np.rint(centre - size / 2), 0, self.turned_shape - size).astype(int)
        crop = Box(tuple(start.tolist()), tuple((start + size).tolist()))
        return self.cropped(crop, self.grid)

    def turned(self, array: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "X Y Z"]:
        """An array of the volume turned to RAS+, uncropped; a view, so writing to it works."""
        if array.shape != self.shape:
            raise ValueError(f"array is {array.shape}; this grid is for volumes of {self.shape}")
        return np.flip(
            array.transpose(self.order), [a for a, flip in enumerate(self.flips) if flip]
        )

    def _axes(self):
        start, extent = self.covered.start, self.covered.extent
        return zip(self.order, self.flips, self.turned_shape, start, extent, self.grid, strict=True)

    def _bounds(self) -> str:
        cropped = f", cropped to {self.crop.start} to {self.crop.stop}" if self.crop else ""
        return f"the image of {self.shape} voxels{cropped}"

    def _turn_back(self, array: np.ndarray) -> np.ndarray:
        if self.crop is not None:
            inside, array = array, np.zeros(self.turned_shape, array.dtype)
            array[self.crop.slices] = inside
        turned = np.flip(array, [a for a, flip in enumerate(self.flips) if flip])
        return np.ascontiguousarray(turned.transpose(np.argsort(self.order)))


def content_box(image: Num[np.ndarray, "x y z"]) -> Box:
    """The box of an image without its margins; the whole image if it has one value.

    A margin consists of outer planes of a single value, such as the padding of a scanner or of a
    resampling. A second margin may follow, such as an empty background.
    """
    start, stop = [0, 0, 0], list(image.shape)

    def plane(axis: int, index: int) -> np.ndarray:
        inside: list[slice | int] = [slice(a, b) for a, b in zip(start, stop, strict=True)]
        inside[axis] = index
        return image[tuple(inside)]

    for _ in range(_MARGINS):
        before = Box(tuple(start), tuple(stop))
        for axis, (ends, step) in itertools.product(range(3), ((start, 1), (stop, -1))):
            value = None
            while start[axis] < stop[axis]:
                outer = plane(axis, ends[axis] - (step < 0))
                value = outer.flat[0] if value is None else value
                if not (outer == value).all():
                    break
                ends[axis] += step
            if start[axis] == stop[axis]:  # the rest has one value, and is kept
                return before
    return Box(tuple(start), tuple(stop))


def resize(image: Num[np.ndarray, "x y z"], shape: Shape3) -> Float[np.ndarray, "X Y Z"]:
    """A grey image resized linearly, after smoothing along axes that shrink; float32."""
    if image.shape == tuple(shape):
        return np.ascontiguousarray(image, np.float32)
    image = smoothed_for(image, shape)
    shrink = np.array(image.shape) / np.array(shape)
    return ndimage.zoom(image, 1 / shrink, order=1, mode="nearest", grid_mode=True)


def smoothed_for(image: Num[np.ndarray, "x y z"], shape: Shape3) -> Float[np.ndarray, "x y z"]:
    """A grey image smoothed along the axes that shrink in a resize to `shape`; float32."""
    image = np.asarray(image, np.float32)
    shrink = np.array(image.shape) / np.array(shape)
    sigma = np.maximum(0, (shrink - 1) / 2)
    return ndimage.gaussian_filter(image, sigma, mode="nearest") if sigma.any() else image


def resize_window(
    smoothed: Float[np.ndarray, "x y z"], shape: Shape3, window: Box
) -> Float[np.ndarray, "a b c"]:
    """The result of `resize` to `shape` within a window, without computing the rest.

    `smoothed` is the output of `smoothed_for` for this shape.
    """
    step = np.array(smoothed.shape) / np.array(shape)
    first = (np.array(window.start) + 0.5) * step - 0.5
    return ndimage.affine_transform(
        smoothed, step, first, window.extent, order=1, mode="nearest", output=np.float32
    )


def resize_nearest(
    label: Num[np.ndarray, "x y z"] | Bool[np.ndarray, "x y z"], shape: Shape3
) -> Num[np.ndarray, "X Y Z"] | Bool[np.ndarray, "X Y Z"]:
    """A label map resized: each new voxel gets the value of the old voxel at its centre."""
    if label.shape == tuple(shape):
        return np.ascontiguousarray(label)
    picks = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for old, new in zip(label.shape, shape, strict=True)
    ]
    return label[np.ix_(*picks)]
