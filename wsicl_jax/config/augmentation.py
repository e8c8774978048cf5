"""Settings of augmentation."""

from dataclasses import replace
from typing import Annotated

from pydantic import (
    Field,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import _RULES, Amount, Positive, Share


@dataclass(frozen=True, kw_only=True, config=_RULES)
class AugmentConfig:
    """Random changes of an episode, each drawn once for all its images, as often as published.
    docs/how-to/augment.md shows them."""

    flip: Share = 0.1
    """Probability of mirroring, for each axis."""
    rotate90: Share = 0.1
    """Probability of a turn by 1 to 3 quarters, for each plane; by 2 if its sides differ."""
    rotate90_each: Share = 0.25
    """Probability that each image is turned by itself, in every plane; synthetic cohorts only."""
    elastic: Share = 0.05
    """Probability of a smooth deformation, one for the whole group."""
    elastic_displacement: Annotated[float, Field(gt=0, le=0.1)] = 0.1
    """Largest displacement as a share of each side; the field cannot fold up to 0.1."""
    subsample: Share = 0.15
    """Probability that images lose planes of one axis, which are interpolated again."""
    subsample_factor: tuple[Positive, Positive] = (2, 4)
    """Fewest and most planes of which one is kept."""
    resize_mask: Share = 0.05
    """Probability of dilating or eroding the masks by one voxel, either with half of it."""
    edge_mask: Share = 0.05
    """Probability of replacing the masks by their Sobel edges."""
    invert_mask: Share = 0.05
    """Probability of exchanging structure and background; with mask prompts only."""
    gin: Share = 0.05
    """Probability that images pass a random convolution network, drawn once per step."""
    gin_blend: tuple[Share, Share] = (0.7, 1.0)
    """Smallest and largest share of that network's output in the changed image."""
    invert_image: Share = 0.05
    """Probability of turning bright into dark."""
    scale: Share = 0.2
    """Probability of multiplying the intensities by one factor."""
    max_scale: Share = 0.1
    """Largest deviation of that factor from 1."""
    shift: Share = 0.2
    """Probability of adding one constant to the intensities."""
    max_shift: Amount = 0.2
    """Largest magnitude of that constant, for intensities in [0, 1]."""
    noise: Share = 0.1
    """Probability of adding Gaussian noise, new for each image."""
    noise_sd: Amount = 0.02
    """Its standard deviation, for intensities in [0, 1]."""

    def only(self, **probabilities: float) -> "AugmentConfig":
        """These changes alone, at the same amounts; without any, nothing is changed."""
        return replace(self, **dict.fromkeys(AUGMENTATIONS, 0.0) | probabilities)


INTENSITY_AUGMENTATIONS = ("gin", "invert_image", "scale", "shift", "noise")
"""The settings of `AugmentConfig` that are probabilities of changes of intensities alone."""

AUGMENTATIONS = (
    "flip",
    "rotate90",
    "rotate90_each",
    "elastic",
    "subsample",
    "resize_mask",
    "edge_mask",
)

AUGMENTATIONS += ("invert_mask", *INTENSITY_AUGMENTATIONS)
"""The settings of `AugmentConfig` that are probabilities."""
