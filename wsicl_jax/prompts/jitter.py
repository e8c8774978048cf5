"""Inexact prompts: moved, stretched, or with another outline than the structure."""

import numpy as np
from scipy import ndimage

from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts.kinds import Mask, Point, Prompt, Scribble, SliceMask


def jittered(prompt: Prompt, mask: Mask, amount: float, rng: np.random.Generator) -> Prompt:
    """A prompt on a structure with the errors of an inexact person.

    `amount` is the standard deviation of the error, as a share of the size:

    - points and scribbles move as a whole, by a share of half the structure's extent along each
      axis (a scribble within its slice); they may leave the structure;
    - each end of a box moves by a share of its side, to whole voxels;
    - the outline of a mask moves in and out smoothly, by a share of the radius of a ball or disc
      of the mask's size.

    Prompts stay in the image, and boxes and masks keep at least one voxel.
    """
    if isinstance(prompt, Point):
        return Point(*_moved(np.array([prompt]), mask, amount, rng)[0].tolist())
    if isinstance(prompt, Scribble):
        return _moved_scribble(prompt, mask, amount, rng)
    if isinstance(prompt, Box):
        return _stretched(prompt, mask.shape, amount, rng)
    if isinstance(prompt, SliceMask):
        return prompt._replace(mask=_deformed(prompt.mask, amount, rng))
    return _deformed(prompt, amount, rng)


def _moved(
    places: np.ndarray,
    mask: Mask,
    amount: float,
    rng: np.random.Generator,
    fixed_axis: int | None = None,
) -> np.ndarray:
    box = Box.around(mask)
    shift = rng.normal(0, 1, 3) * amount * np.array(box.extent if box else mask.shape) / 2
    if fixed_axis is not None:
        shift[fixed_axis] = 0
    return np.clip(places + shift, 0, np.array(mask.shape) - 1.0)


def _moved_scribble(
    scribble: Scribble, mask: Mask, amount: float, rng: np.random.Generator
) -> Scribble:
    path = np.array(scribble.path)
    flat = np.flatnonzero(np.ptp(path, axis=0) == 0)
    moved = _moved(path, mask, amount, rng, fixed_axis=int(flat[0]) if flat.size else None)
    return Scribble(tuple((x, y, z) for x, y, z in moved.tolist()))


def _stretched(box: Box, shape: tuple[int, ...], amount: float, rng: np.random.Generator) -> Box:
    start, stop = list(box.start), list(box.stop)
    for axis, (extent, size) in enumerate(zip(box.extent, shape, strict=True)):
        if extent == 1:
            continue
        low, high = np.rint(
            np.array([start[axis], stop[axis]]) + rng.normal(0, amount * extent, 2)
        ).astype(int)
        # At least two voxels: with one, it would become a box on a slice.
        low = int(np.clip(low, 0, size - 2))
        start[axis], stop[axis] = low, int(np.clip(high, low + 2, size))
    return Box(tuple(start), tuple(stop))


def _deformed(mask: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """The mask after a smooth random field is added to its signed distance."""
    dimensions = mask.ndim
    ball = np.pi if dimensions == 2 else 4 / 3 * np.pi
    radius = (np.count_nonzero(mask) / ball) ** (1 / dimensions)
    field = ndimage.gaussian_filter(rng.normal(size=mask.shape), max(radius / 2, 0.5))
    field /= np.sqrt(np.mean(field**2))
    distance = _signed_distance(mask)
    deformed = distance + amount * radius * field > 0
    return deformed if deformed.any() else mask


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance in voxels to the outline, which lies between voxels; positive inside."""
    if mask.all():
        return np.full(mask.shape, float(max(mask.shape)))
    inside = ndimage.distance_transform_edt(mask)
    return np.where(mask, inside - 0.5, 0.5 - ndimage.distance_transform_edt(~mask))
