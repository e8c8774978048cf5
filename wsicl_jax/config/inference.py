"""Settings of segmentation with a trained network."""

from typing import Annotated

from pydantic import (
    Field,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import _RULES, Amount, Positive, Share
from wsicl_jax.config.reading import ReadingConfig


@dataclass(frozen=True, kw_only=True, config=_RULES)
class InferenceConfig(ReadingConfig):
    """How a trained network segments images of any size; a `Segmenter` takes these settings."""

    refine: bool | None = None
    """Look a second time, at the target's own resolution, in tiles around what was found in the
    whole; None: if the network was trained on such views (`episode.crop_share`) and
    `refine_min_downsampling` says so."""
    refine_min_downsampling: Amount = 1.5
    """With `fine` left open, a second look is taken where a voxel of the working grid holds at
    least this many of the target's along an axis."""
    refine_margin: Amount = 0.25
    """Tiles reach this far beyond what was found, as a share of its extent."""
    refine_overlap: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of a tile's side in which neighbouring tiles overlap and fade into each other."""
    refine_max_tiles: Positive = 32
    """Most tiles for one structure; where more would be needed, they cover coarser voxels."""
    refine_min_dice: Share = 0.7
    """Dice with the first look below which a tile is not taken: a second look moves borders, and
    one that overturns what was found shows that the network does not know so close a view."""
