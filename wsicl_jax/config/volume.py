"""Settings of how an image becomes the network's input."""

from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import RULES, Amount, Percentiles, Positive, Share


@dataclass(frozen=True, kw_only=True, config=RULES)
class VolumeConfig:
    """How an image of any size, and its prompts, become the network's input."""

    grid: tuple[Positive, Positive, Positive] = (32, 32, 32)
    """Working grid in voxels; every volume is resized to it as a whole."""
    crop: bool = True
    """First crop each image to its content, without constant margins such as padding; a context
    image keeps the region of its prompts."""
    percentiles: Percentiles = (0.5, 99.5)
    """Clip intensities to these percentiles (0 to 100) after `crop`, and scale them to [0, 1]."""
    prompt_smoothing: Share = 0.0
    """Width of the Gaussian smoothing of prompts, as a share of the extent along each axis of all
    prompts of the context set. With `registration`, the prompts of all images are smoothed into one
    map. Masks of the whole structure are not smoothed. 0: no smoothing, as published."""
    registration: bool = False
    """Move and deform each context image, with its prompts, to fit the target; the published method
    does not. Not for image-to-image tasks."""
    cache_gb: Amount = 2.0
    """Memory in GB (10^9 bytes) that each process that prepares episodes may use to cache cases
    on the working grid; 0: every case is read each time."""
