"""Prompts on images: their kinds, sampling, jitter, placement on a grid, and rasterization.

A prompt is a `Point`, a `Box` (on a slice, its extent along one axis is one voxel), a `Scribble`,
a `SliceMask` or a binary mask. A `Negative` point or scribble marks what does not belong to the
structure. All prompts of an image become one float channel of its size.
Nothing here reads files or knows the network.
"""

from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts.correction import correct, false_positive
from wsicl_jax.prompts.draw import draw
from wsicl_jax.prompts.enforcement import enforced
from wsicl_jax.prompts.inputs import context_inputs
from wsicl_jax.prompts.kinds import (
    ONCE_PER_IMAGE,
    SECONDS,
    Mask,
    Negative,
    Point,
    Prompt,
    Scribble,
    SliceMask,
    annotation_seconds,
    has_positive,
    kind_of,
    positions_of,
)
from wsicl_jax.prompts.negative import draw_negative
from wsicl_jax.prompts.paint import ball, ball_radius, to_channel
from wsicl_jax.prompts.painted_prompts import PaintedPrompts, painted
from wsicl_jax.prompts.place import bounds, box_around, on_crop, on_grid, turned_bounds
from wsicl_jax.prompts.smoothing import pooled_prompts, smoothed_prompts

__all__ = [
    "ONCE_PER_IMAGE",
    "SECONDS",
    "Box",
    "Mask",
    "Negative",
    "PaintedPrompts",
    "Point",
    "Prompt",
    "Scribble",
    "SliceMask",
    "annotation_seconds",
    "ball",
    "ball_radius",
    "bounds",
    "box_around",
    "context_inputs",
    "correct",
    "draw",
    "draw_negative",
    "enforced",
    "false_positive",
    "has_positive",
    "kind_of",
    "on_crop",
    "on_grid",
    "painted",
    "pooled_prompts",
    "positions_of",
    "smoothed_prompts",
    "to_channel",
    "turned_bounds",
]
