"""Scores that obey the points and scribbles on the target.

A network takes the target's own prompts as those of one context image among several, so it may
leave out a voxel that a user marked, or keep one that a user excluded. Scores are therefore moved
near such marks, as far as needed and less with the distance.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float

from wsicl_jax.geometry.axes import Index3
from wsicl_jax.prompts.kinds import Negative, Point, Prompt, Scribble
from wsicl_jax.prompts.paint import ball_radius, voxels_of

_MARGIN = 0.1
"""Marked voxels exceed the threshold, or fall below it, by at least this much."""

_WIDTH = 2.0
"""Standard deviation of the decrease with the distance, in radii of a point's ball."""


def enforced(
    scores: Float[np.ndarray, "x y z"], prompts: Iterable[Prompt], threshold: float
) -> Float[np.ndarray, "x y z"]:
    """Scores that are above the threshold at positive points and scribbles, below at negative ones.

    `prompts` are in voxels of the scores; other kinds change nothing. Scores of marked voxels that
    are right by a margin do not change.
    """
    raised = np.zeros_like(scores)
    lowered = np.zeros_like(scores)
    width = _WIDTH * ball_radius(scores.shape)
    for voxel, is_inside in _marks(prompts):
        missing = threshold - scores[voxel] if is_inside else scores[voxel] - threshold
        if missing + _MARGIN > 0:
            shift = (missing + _MARGIN) * _decrease(scores.shape, voxel, width)
            changed = raised if is_inside else lowered
            np.maximum(changed, shift, out=changed)
    return scores + raised - lowered


def _marks(prompts: Iterable[Prompt]) -> Iterator[tuple[Index3, bool]]:
    """The marked voxels, and whether each is inside the structure."""
    for prompt in prompts:
        is_inside = not isinstance(prompt, Negative)
        mark = prompt if is_inside else prompt.prompt
        if isinstance(mark, Point | Scribble):
            for voxel in voxels_of(mark):
                yield voxel, is_inside


def _decrease(shape: tuple[int, ...], centre: Index3, width: float) -> Float[np.ndarray, "x y z"]:
    """A Gaussian of the distance to a voxel: 1 there."""
    x, y, z = (
        np.exp(-(((np.arange(side) - place) / width) ** 2) / 2).astype(np.float32)
        for side, place in zip(shape, centre, strict=True)
    )
    return x[:, None, None] * y[:, None] * z
