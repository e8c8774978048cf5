"""Image-to-image tasks: an image made worse, which the network should bring back.

The network is the same; in the place of prompts, every context image comes with what it should
become (Neuroverse3D, arXiv 2503.02410).
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
    """One way of making images worse, the same for all images of an episode."""

    task: RestorationTask
    noise_sd: float
    """Of denoising: standard deviation of Gaussian noise, for intensities in [0, 1]."""
    factor: int
    """Of super-resolution: voxels along each axis that become one."""

    @classmethod
    def draw(cls, task: RestorationTask, rng: np.random.Generator) -> "Degradation":
        """As training shows it: noise of 0.05 to 0.2, a factor of 2 or 3."""
        return cls(task, float(rng.uniform(0.05, 0.2)), int(rng.integers(2, 4)))

    @classmethod
    def usual(cls, task: RestorationTask) -> "Degradation":
        """As evaluation shows it: noise of 0.1, a factor of 2."""
        return cls(task, 0.1, 2)

    def apply(
        self, image: Float[np.ndarray, "x y z"], rng: np.random.Generator
    ) -> Float[np.ndarray, "x y z"]:
        """The image with noise, with three holes of value 0, or at a lower resolution; float32."""
        if self.task == "denoising":
            return image + rng.normal(0, self.noise_sd, image.shape).astype(np.float32)
        if self.task == "inpainting":
            return _with_holes(image, rng)
        small = [max(side // self.factor, 1) for side in image.shape]
        return resize(resize(image, (small[0], small[1], small[2])), image.shape)

    def apply_each(
        self, images: Sequence[Float[np.ndarray, "x y z"]], rng: np.random.Generator
    ) -> list[Float[np.ndarray, "x y z"]]:
        """`apply` to every image, each with noise or holes of its own."""
        return [self.apply(image, rng) for image in images]


def _with_holes(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    holed = image.copy()
    for _ in range(_HOLES):
        sides = [max(round(rng.uniform(*_HOLE_SIDES) * side), 1) for side in image.shape]
        low = [int(rng.integers(s - side + 1)) for s, side in zip(image.shape, sides, strict=True)]
        high = [start + side for start, side in zip(low, sides, strict=True)]
        holed[Box(tuple(low), tuple(high)).slices] = 0
    return holed
