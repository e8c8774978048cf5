"""The next prompt of a simulated interactive session, where the last prediction is most wrong.

As in the literature on interactive segmentation: the deepest voxel of the largest wrong region
(e.g. arXiv 1603.04042). Without negative prompts, as in the published method, prompts can only
correct missed parts; a box on a slice also marks the structure's extent.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from wsicl_jax.config import InteractiveKind
from wsicl_jax.geometry.axes import Box, occupied
from wsicl_jax.prompts.draw import boxes_on_slices, scribble_on
from wsicl_jax.prompts.kinds import Mask, Negative, Point, Prompt, Scribble, positions_of

_NEIGHBOURS = np.ones((3, 3, 3))


def correct(
    kind: InteractiveKind,
    truth: Mask,
    mask: Mask,
    prompts: Sequence[Prompt],
    spacing_mm: tuple[float, float, float],
    *,
    negative: bool = False,
) -> Prompt | None:
    """The next prompt on a target, after the prediction `mask` for `prompts`.

    - `point`: the deepest voxel (in mm) of the largest missed region.
    - `scribble`: the line through that region's largest slice, from its first voxel there.
    - `box`: the structure's tight 2D box on the slice with most wrong voxels, missed or in
      excess, among the slices that cross it and have no box yet.

    With `negative`, points and scribbles are put on the largest region that is missed or in
    excess; one in excess gets a negative prompt. None if such a prompt cannot correct anything. An
    empty `mask` gives the first prompt.
    """
    if kind == "box":
        return _next_box(truth, truth ^ mask, prompts)
    missed = _largest_region(truth & ~mask)
    excess = _largest_region(mask & ~truth) if negative else None
    sizes = [0 if region is None else np.count_nonzero(region) for region in (missed, excess)]
    if not any(sizes):
        return None
    region = missed if sizes[0] >= sizes[1] else excess
    prompt = deepest(region, spacing_mm) if kind == "point" else _line_through(region)
    return prompt if region is missed else Negative(prompt)


def _line_through(region: Mask) -> Scribble:
    """The line through a region's largest slice, from its first voxel there."""
    slices = [(axis, index) for axis in range(3) for index in occupied(region, axis).tolist()]
    axis, index = max(slices, key=lambda place: np.count_nonzero(region.take(place[1], place[0])))
    return scribble_on(region, axis, index, 0)


def false_positive(prompt: Negative, truth: Mask, mask: Mask) -> Mask:
    """The connected region in excess that a negative prompt of `correct` marks."""
    parts, _ = ndimage.label(mask & ~truth, _NEIGHBOURS)
    x, y, z = positions_of(prompt.prompt)[0].astype(int)
    return parts == parts[x, y, z]


def deepest(region: Mask, spacing_mm: tuple[float, float, float]) -> Point:
    """The voxel of a region that is farthest from its outside; beyond the image is outside."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1), sampling=spacing_mm)
    return Point(*map(float, np.unravel_index(depth.argmax(), depth.shape) - np.ones(3)))


def _next_box(truth: Mask, wrong: Mask, prompts: Sequence[Prompt]) -> Box | None:
    best, most = None, 0
    boxes = {prompt for prompt in prompts if isinstance(prompt, Box)}
    for axis in range(3):
        errors = np.count_nonzero(wrong, axis=tuple(a for a in range(3) if a != axis))
        for box in boxes_on_slices(truth, axis):
            if errors[box.start[axis]] > most and box not in boxes:
                best, most = box, int(errors[box.start[axis]])
    return best


def _largest_region(missed: Mask) -> Mask | None:
    parts, count = ndimage.label(missed, _NEIGHBOURS)
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax() if count else None
