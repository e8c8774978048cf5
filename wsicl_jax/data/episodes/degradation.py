"""Degraded images for image-to-image tasks: the network restores them.

The network is the same. In place of prompts, every context image comes with its restored image
(Neuroverse3D, arXiv 2503.02410).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wsicl_jax.config import RestorationTask
from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import resize

_HOLES = 3
_HOLE_SIDES = (1 / 6, 1 / 3)
"""Smallest and largest side of a hole as a share of the image's side."""


class Degradation(NamedTuple):
    """How to degrade the images of an episode, the same for all of them."""

    task: RestorationTask
    noise_sd: float
    """Of denoising: standard deviation of Gaussian noise, for intensities in [0, 1]."""
    factor: int
    """Of super-resolution: voxels along each axis that become one."""

    @classmethod
    def sample(cls, task: RestorationTask, rng: np.random.Generator) -> "Degradation":
        """For training: noise of 0.05 to 0.2, a factor of 2 or 3."""
        return cls(task, float(rng.uniform(0.05, 0.2)), int(rng.integers(2, 4)))

    @classmethod
    def standard(cls, task: RestorationTask) -> "Degradation":
        """For evaluation: noise of 0.1, a factor of 2."""
        return cls(task, 0.1, 2)

    def apply(
        self, image: Float[np.ndarray, "x y z"], rng: np.random.Generator
    ) -> Float[np.ndarray, "x y z"]:
        """The image with noise, with three holes of value 0, or at a lower resolution; float32."""
        if self.task == "denoising":
            return image + rng.normal(0, self.noise_sd, image.shape).astype(np.float32)
        if self.task == "inpainting":
            return _with_holes(image, rng)
        x, y, z = (max(side // self.factor, 1) for side in image.shape)
        return resize(resize(image, (x, y, z)), image.shape)

    def apply_each(
        self, images: Sequence[Float[np.ndarray, "x y z"]], rng: np.random.Generator
    ) -> list[Float[np.ndarray, "x y z"]]:
        """`apply` to every image, each with its own noise or holes."""
        return [self.apply(image, rng) for image in images]


def _with_holes(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    holed = image.copy()
    for _ in range(_HOLES):
        sides = [max(round(rng.uniform(*_HOLE_SIDES) * side), 1) for side in image.shape]
        low = [int(rng.integers(s - side + 1)) for s, side in zip(image.shape, sides, strict=True)]
        high = [start + side for start, side in zip(low, sides, strict=True)]
        holed[Box(tuple(low), tuple(high)).slices] = 0
    return holed
