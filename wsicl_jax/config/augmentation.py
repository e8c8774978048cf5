"""Settings of augmentation."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import ASCENDING, RULES, Amount, Range, Share


@dataclass(frozen=True, kw_only=True, config=RULES)
class AugmentConfig:
    """Random changes of an episode. Unless stated otherwise, each is sampled once for all images
    of the episode. The defaults are the published ones; docs/how-to/augment.md shows them."""

    flip: Share = 0.1
    """Probability of mirroring, for each axis."""
    rotate90: Share = 0.1
    """Probability of rotating by 90, 180 or 270 degrees, for each plane; by 180 if its sides
    differ."""
    rotate90_each: Share = 0.25
    """Probability of rotating each image on its own, in every plane; synthetic cohorts only."""
    elastic: Share = 0.05
    """Probability of a smooth deformation."""
    elastic_displacement: Annotated[float, Field(gt=0, le=0.1)] = 0.1
    """Largest displacement, as a share of each side; up to 0.1 the deformation cannot fold."""
    subsample: Share = 0.15
    """Probability of dropping planes along one axis and interpolating them again."""
    subsample_factor: Range = (2, 4)
    """Smallest and largest factor; of so many planes one is kept."""
    resize_mask: Share = 0.05
    """Probability of changing the masks by one voxel; dilation and erosion are equally likely."""
    edge_mask: Share = 0.05
    """Probability of replacing the masks by their Sobel edges."""
    invert_mask: Share = 0.05
    """Probability of exchanging structure and background; with mask prompts only."""
    gin: Share = 0.05
    """Probability of passing the images through a random convolution network (GIN), one per
    step."""
    gin_blend: Annotated[tuple[Share, Share], ASCENDING] = (0.7, 1.0)
    """Smallest and largest share of that network's output in the changed image."""
    invert_image: Share = 0.05
    """Probability of inverting the intensities."""
    scale: Share = 0.2
    """Probability of multiplying the intensities by one factor."""
    max_scale: Share = 0.1
    """Largest deviation of that factor from 1."""
    shift: Share = 0.2
    """Probability of adding one constant to the intensities."""
    max_shift: Amount = 0.2
    """Largest magnitude of that constant, for intensities in [0, 1]."""
    noise: Share = 0.1
    """Probability of adding Gaussian noise, sampled for each image."""
    noise_sd: Amount = 0.02
    """Standard deviation of that noise, for intensities in [0, 1]."""

    def only(self, **probabilities: float) -> "AugmentConfig":
        """The same settings with all probabilities 0, except those that are passed."""
        return replace(self, **dict.fromkeys(AUGMENTATIONS, 0.0) | probabilities)


INTENSITY_AUGMENTATIONS = ("gin", "invert_image", "scale", "shift", "noise")
"""The settings of `AugmentConfig` that are probabilities of changes of intensities alone."""

AUGMENTATIONS = (
    *("flip", "rotate90", "rotate90_each", "elastic", "subsample"),
    *("resize_mask", "edge_mask", "invert_mask"),
    *INTENSITY_AUGMENTATIONS,
)
"""The settings of `AugmentConfig` that are probabilities."""
