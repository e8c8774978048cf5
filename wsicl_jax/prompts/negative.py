"""Negative prompts sampled for training, where a person would have to correct a prediction."""

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from wsicl_jax.prompts.kinds import Mask, Negative, Point

_NEAR_SHARE = 0.5
"""Share of the points beside the structure; the others look like it."""

_BAND = 0.5
"""Width of the neighbourhood of a structure, as a share of its mean side."""

_MOST_DISTANCE = 0.3
"""Largest distance that a point has to keep, as a share of the structure's mean side."""

_SAMPLES = 64
"""Random voxels, of which the one with the most similar intensity becomes a point."""


def draw_negative(
    mask: Mask, image: Float[np.ndarray, "x y z"], count: int, rng: np.random.Generator
) -> list[Negative]:
    """Sample up to `count` distinct negative points outside a structure that is not empty.

    A network's false positives lie beside the structure or look like it. So about half of the
    points are beside it; the others are the voxels whose intensity is closest to the structure's
    among random ones of the whole image. Each keeps a random distance from the structure.
    """
    distance = ndimage.distance_transform_edt(~mask)
    side = float(np.cbrt(np.count_nonzero(mask)))
    typical = np.median(image[mask])
    points: list[Negative] = []
    for _ in range(count):
        least = max(1.5, rng.uniform(0, _MOST_DISTANCE) * side)
        is_near = rng.random() < _NEAR_SHARE
        most = least + max(_BAND * side, 2.0) if is_near else np.inf
        voxels = np.flatnonzero((distance >= least) & (distance <= most))
        if not voxels.size:
            continue
        sampled = rng.choice(voxels, 1 if is_near else _SAMPLES)
        chosen = sampled[np.abs(image.flat[sampled] - typical).argmin()]
        points.append(Negative(Point(*map(float, np.unravel_index(chosen, mask.shape)))))
    return list(dict.fromkeys(points))
