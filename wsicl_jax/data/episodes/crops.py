"""Episodes that are seen from close by, as the second look of inference sees a target.

All images of a group show the same part of the structure, at the same extent in mm.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.geometry.axes import Box, spacing_of
from wsicl_jax.geometry.grids import WorkingGrid

_MARGIN = 0.25
"""Views reach this far beyond the structure, as a share of its extent."""

_WANDER = 0.1
"""Views of a structure that fits into one lie off its middle by at most this share of theirs."""


class FullResolutionCase(NamedTuple):
    """A case on its own grid, with the way to the working grid."""

    image: Float[np.ndarray, "x y z"]
    """In [0, 1]."""
    mask: Bool[np.ndarray, "x y z"]
    """The structure, not empty."""
    affine: Float[np.ndarray, "4 4"]
    grid: WorkingGrid

    @property
    def spacing_mm(self) -> Float[np.ndarray, "3"]:
        """Spacing of the case turned to RAS+."""
        return np.array(spacing_of(self.affine))[list(self.grid.order)]


def random_crops(
    cases: Sequence[FullResolutionCase], rng: np.random.Generator
) -> list[tuple[Float[np.ndarray, "X Y Z"], Bool[np.ndarray, "X Y Z"]]] | None:
    """Image and mask of each case, the target's first, in a view that is drawn for all of them.

    How close it is, is drawn between the target's own resolution and that of the working grid
    over the whole; None where the working grid shows the target's own already.
    """
    target = cases[0]
    cells = np.array(target.grid.turned_shape) / target.grid.grid
    if cells.max() <= 1:
        return None
    wider = np.exp(rng.uniform(0, np.log(cells.max())))
    extent = np.minimum(wider * np.array(target.grid.grid), target.grid.turned_shape)
    boxes = [Box.around(case.grid.turned(case.mask)) for case in cases]
    low, high = np.array(boxes[0].start), np.array(boxes[0].stop)
    reach = np.maximum(((1 + 2 * _MARGIN) * (high - low) - extent) / 2, _WANDER * extent)
    offset_mm = rng.uniform(-reach, reach) * target.spacing_mm
    extent_mm = extent * target.spacing_mm
    views = []
    for case, box in zip(cases, boxes, strict=True):
        middle = np.add(box.start, box.stop) / 2 + offset_mm / case.spacing_mm
        view = case.grid.view(middle, extent_mm / case.spacing_mm)
        views.append((view.image(case.image), view.label(case.mask)))
    return views
