"""Settings of how an image becomes the network's input."""

from pydantic import (
    model_validator,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import _RULES, Amount, Positive, Share, _check_percentiles


@dataclass(frozen=True, kw_only=True, config=_RULES)
class VolumeConfig:
    """How an image of any size, and its prompts, become the network's input."""

    grid: tuple[Positive, Positive, Positive] = (32, 32, 32)
    """Working grid in voxels; every volume is resized to it as a whole."""
    crop: bool = True
    """Cut off margins of one value, such as padding, from every image before anything else; a
    context image keeps what its prompts lie in."""
    percentiles: tuple[Amount, Amount] = (0.5, 99.5)
    """Percentiles (0 to 100) that intensities are clipped to before scaling to [0, 1]; of what
    `crop` leaves."""
    prompt_smoothing: Share = 0.0
    """Width of the Gaussian halo around prompts, as a share of what all prompts of the context set
    cover together along each axis; 0: no halo, as published. Masks of the whole structure have
    none."""
    cache_gb: Amount = 2.0
    """Memory in GB, of each process that makes episodes, for cases that are ready on the working
    grid; 0: every case is read each time."""

    @model_validator(mode="after")
    def _check(self):
        _check_percentiles(self.percentiles)
        return self
