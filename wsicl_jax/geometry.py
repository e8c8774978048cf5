"""From a volume's own grid to the network's working grid and back.

A volume is turned to RAS+ by permuting and mirroring its axes (exact), then resized as
a whole to the working grid. Voxels are cells: the outer faces of both grids coincide,
and a voxel's index names the centre of its cell.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Num
from scipy import ndimage

from wsicl_jax.axes import Box, Shape3
from wsicl_jax.errors import PromptError


@dataclass(frozen=True)
class WorkingGrid:
    """The way between one volume's own grid and a working grid of another size.

    `order[a]` is the volume's axis that runs along RAS axis `a`, `flips[a]` whether it
    runs against it.
    """

    shape: Shape3
    """Voxels of the volume along its own axes."""
    grid: Shape3
    """Voxels of the working grid, axes in RAS+ order."""
    order: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def of(
        cls, shape: Sequence[int], affine: Num[np.ndarray, "4 4"], grid: Shape3
    ) -> "WorkingGrid":
        """The working grid for a volume of this shape and voxel-to-RAS affine (mm)."""
        from nibabel import orientations  # slow to import, and synthetic data needs none of it

        axis_of = orientations.io_orientation(affine)
        order = np.argsort(axis_of[:, 0])
        x, y, z = shape
        return cls(
            (int(x), int(y), int(z)),
            grid,
            tuple(int(a) for a in order),
            tuple(bool(axis_of[a, 1] < 0) for a in order),
        )

    @functools.cached_property
    def turned_shape(self) -> Shape3:
        """Shape after turning to RAS+, before resizing."""
        x, y, z = (self.shape[a] for a in self.order)
        return x, y, z

    def image(self, image: Num[np.ndarray, "x y z"]) -> Float[np.ndarray, "X Y Z"]:
        """A grey image on the working grid, linear between voxels; float32."""
        return resize(self._turn(image), self.grid)

    def label(
        self, label: Integer[np.ndarray, "x y z"] | Bool[np.ndarray, "x y z"]
    ) -> Integer[np.ndarray, "X Y Z"] | Bool[np.ndarray, "X Y Z"]:
        """A label map or mask on the working grid, from the nearest voxel; dtype kept."""
        return resize_nearest(self._turn(label), self.grid)

    def restore(self, values: Float[np.ndarray, "X Y Z"]) -> Float[np.ndarray, "x y z"]:
        """Values on the working grid back on the volume's own grid, linear; float32."""
        return self._turn_back(resize(values, self.turned_shape))

    def point(self, position: Sequence[float]) -> tuple[float, float, float]:
        """A voxel position of the volume as a position on the working grid.

        Raises:
            PromptError: the position lies outside the volume.
        """
        placed = []
        for axis, flip, size, cells in self._axes():
            value = float(position[axis])
            if not -0.5 <= value <= size - 0.5:
                raise PromptError(
                    f"point {tuple(map(float, position))} lies outside the image of "
                    f"{self.shape} voxels; give voxel indices in the file's axis order"
                )
            value = size - 1 - value if flip else value
            placed.append(min(max((value + 0.5) * cells / size - 0.5, 0.0), cells - 1.0))
        x, y, z = placed
        return x, y, z

    def box(self, box: Box) -> Box:
        """A box of the volume as the box of working-grid voxels that it touches.

        An extent of one voxel stays one voxel: a box on a slice stays on a slice.

        Raises:
            PromptError: the box is empty or reaches outside the volume.
        """
        start, stop = [], []
        for axis, flip, size, cells in self._axes():
            low, high = box.start[axis], box.stop[axis]
            if not 0 <= low < high <= size:
                raise PromptError(
                    f"box {box.start} to {box.stop} is empty or leaves the image of {self.shape} "
                    "voxels; give half-open ranges of voxel indices in the file's axis order"
                )
            if flip:
                low, high = size - high, size - low
            if high - low == 1:
                first = min(int((low + 0.5) * cells / size), cells - 1)
                last = first + 1
            else:
                first = int(np.floor(low * cells / size + 1e-6))
                last = max(int(np.ceil(high * cells / size - 1e-6)), first + 1)
            start.append(first)
            stop.append(last)
        return Box(tuple(start), tuple(stop))

    def _axes(self):
        return zip(self.order, self.flips, self.turned_shape, self.grid, strict=True)

    def _turn(self, array: np.ndarray) -> np.ndarray:
        if array.shape != self.shape:
            raise ValueError(f"array is {array.shape}; this grid is for volumes of {self.shape}")
        return np.flip(
            array.transpose(self.order), [a for a, flip in enumerate(self.flips) if flip]
        )

    def _turn_back(self, array: np.ndarray) -> np.ndarray:
        turned = np.flip(array, [a for a, flip in enumerate(self.flips) if flip])
        return np.ascontiguousarray(turned.transpose(np.argsort(self.order)))


def resize(image: Num[np.ndarray, "x y z"], shape: Shape3) -> Float[np.ndarray, "X Y Z"]:
    """A grey image resized as a whole, linear, smoothed first where it shrinks; float32."""
    image = np.asarray(image, np.float32)
    if image.shape == tuple(shape):
        return np.ascontiguousarray(image)
    shrink = np.array(image.shape) / np.array(shape)
    sigma = np.maximum(0, (shrink - 1) / 2)
    if sigma.any():
        image = ndimage.gaussian_filter(image, sigma, mode="nearest")
    return ndimage.zoom(image, 1 / shrink, order=1, mode="nearest", grid_mode=True)


def resize_nearest(
    label: Integer[np.ndarray, "x y z"] | Bool[np.ndarray, "x y z"], shape: Shape3
) -> Integer[np.ndarray, "X Y Z"] | Bool[np.ndarray, "X Y Z"]:
    """A label map resized as a whole: each new voxel takes the old one that holds its centre."""
    picks = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for old, new in zip(label.shape, shape, strict=True)
    ]
    return label[np.ix_(*picks)]
