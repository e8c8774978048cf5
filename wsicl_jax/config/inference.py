"""Settings of segmentation with a trained network."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import RULES, Amount, Positive, Share
from wsicl_jax.config.reading import ReadingConfig


@dataclass(frozen=True, kw_only=True, config=RULES)
class InferenceConfig(ReadingConfig):
    """How a trained network segments images of any size; a `Segmenter` takes these settings."""

    refine: bool | None = None
    """Refine the coarse prediction in tiles at full resolution. None: if the network was trained
    with crops (`episode.crop_share`) and the target's downsampling reaches
    `refine_min_downsampling`."""
    refine_min_downsampling: Amount = 1.5
    """With `refine` None, the least downsampling for refinement: the target's voxels per voxel of
    the working grid, along any axis."""
    refine_margin: Amount = 0.25
    """Tiles reach beyond the coarse prediction by this share of its extent."""
    refine_overlap: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Overlap of neighbouring tiles, as a share of a tile's side; they are blended there."""
    refine_max_tiles: Positive = 32
    """Most tiles for one structure; if more are needed, tiles cover larger voxels."""
    refine_min_dice: Share = 0.7
    """A tile whose Dice with the coarse prediction is lower is not used."""
    enforce_prompts: bool = True
    """Move scores near points and scribbles on the target so that the mask contains or excludes
    them. False: the network alone decides, as published."""
    largest_component: bool = False
    """Keep only the largest connected component of each structure in label maps."""
    fill_holes: bool = False
    """Fill the holes of each structure in label maps: background that it encloses in 3D."""
