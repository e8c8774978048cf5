"""Settings of training episodes."""

from dataclasses import field
from typing import Literal

from pydantic import (
    model_validator,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import _RULES, Amount, Count, Positive, Share, Task


@dataclass(frozen=True, kw_only=True, config=_RULES)
class EpisodeConfig:
    """What one episode of training shows."""

    contexts: tuple[Positive, Positive] = (4, 4)
    """Fewest and most context images; the number is drawn once per step."""
    common_contexts: Count = 0
    """Context images of the steps whose number is not drawn, at most the above; 0: it always is."""
    common_contexts_share: Share = 0.5
    """Share of the steps that have `common_contexts`; the published second stage: 3 in half."""
    context_multiple: Positive = 1
    """Context sets are filled to a multiple of this with images of weight 0, which change no
    result, so that fewer sizes are compiled."""
    structures: Literal["random", "named"] = "random"
    """What is asked for: `random` unions of labels, the published way, or the structures that the
    data set names, by its `structure_weights`."""
    sampling: Literal["dataset", "structure"] = "dataset"
    """`dataset`: data sets are drawn by weight, then one of their structures. `structure`: the
    structures of all data sets alike, times the weights, so that data sets of many are shown
    more; a synthetic data set counts as one structure."""
    max_labels: Positive = 5
    """Most labels that are united into one random structure."""
    min_voxels: Positive = 8
    """Voxels on the working grid below which a structure is not shown: nobody could see it."""
    self_context_share: Share = 0.0
    """Share of the episodes of segmentation whose first context image is the target itself, as in
    interactive use."""
    absent_share: Share = 0.0
    """Share of the episodes of segmentation whose target is of another anatomy, a synthetic one of
    shapes, so that the answer is an empty mask: a network that does not look cannot know."""
    crop_share: Share = 0.0
    """Share of the episodes that are seen from close by, at most at the cases' own resolution, as
    the second look of inference sees a target. Cases are then read on their own grid."""
    tasks: dict[Task, Amount] = field(default_factory=lambda: {"segmentation": 1.0})
    """Relative frequency of each task. Of image-to-image tasks, context images come with what
    they should become in the place of prompts."""
    shuffled_prompts_share: Share = 0.0
    """Share of the episodes whose context images exchange their prompts at random; after
    `shuffled_prompts_from` of the steps."""
    shuffled_prompts_from: Share = 0.5
    """Share of the run's steps in which no prompts are exchanged."""
    validation_share: Share = 0.1
    """Share of each store's subjects that is kept for validation."""
    held_out_share: Share = 0.0
    """Share of each store's subjects that is kept out of training and validation."""

    @model_validator(mode="after")
    def _check(self):
        kept = self.validation_share + self.held_out_share
        if kept > 1 + 1e-9:
            raise ValueError(
                f"validation_share and held_out_share are {kept:g} together; at most 1"
            )
        if not sum(self.tasks.values()) > 0:
            raise ValueError("at least one task needs a frequency above 0")
        return self
