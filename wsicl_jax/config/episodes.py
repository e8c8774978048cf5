"""Settings of training episodes."""

from dataclasses import field
from typing import Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import RULES, Amount, Count, Positive, Range, Share, Task


@dataclass(frozen=True, kw_only=True, config=RULES)
class EpisodeConfig:
    """Content of a training episode."""

    contexts: Range = (4, 4)
    """Fewest and most context images; the number is sampled once per step."""
    common_contexts: Count = 0
    """Number of context images in the steps that do not sample it; at most the largest of
    `contexts`. 0: every step samples it."""
    common_contexts_share: Share = 0.5
    """Share of the steps with `common_contexts`; the published second stage has 3 in half."""
    context_multiple: Positive = 1
    """Context sets are filled to a multiple of this with images of weight 0. They change no
    result, and fewer sizes are compiled."""
    structures: Literal["random", "named"] = "random"
    """`random`: random unions of labels, as published. `named`: the data set's `structures`, by
    `structure_weights`."""
    sampling: Literal["dataset", "structure", "sqrt_cases"] = "dataset"
    """`dataset`: sample a data set by weight, then one of its structures. `structure`: sample
    from the structures of all data sets, times the weights; a synthetic data set counts as one
    structure. `sqrt_cases`: as `dataset`, with weights times the square root of the number of
    training cases; a synthetic data set counts as one case."""
    max_labels: Positive = 5
    """Most labels in one random structure."""
    min_voxels: Positive = 8
    """Fewest voxels of a structure on the working grid; smaller structures are not used."""
    self_context_share: Share = 0.0
    """Share of the segmentation episodes whose first context image is the target itself."""
    absent_share: Share = 0.0
    """Share of the segmentation episodes whose target is of another, synthetic anatomy without
    the structure, so that the true mask is empty."""
    blank_share: Share = 0.0
    """Share of the segmentation episodes whose target is noise around a constant, so that the true
    mask is empty."""
    excluded_share: Share = 0.0
    """Share of the synthetic segmentation episodes whose context images show a larger structure,
    of which negative points on the target exclude a part. Their first context image is the
    target."""
    crop_share: Share = 0.0
    """Share of the episodes that show a crop, at most at the cases' own resolution, as refinement
    does. Cases are then read at full resolution."""
    tasks: dict[Task, Amount] = field(default_factory=lambda: {"segmentation": 1.0})
    """Relative frequency of each task. In image-to-image tasks the expected images take the place
    of prompts."""
    shuffled_prompts_share: Share = 0.0
    """Share of the episodes whose context images exchange their prompts at random."""
    shuffled_prompts_from: Share = 0.5
    """Prompts are exchanged only after this share of the run's steps."""
    validation_share: Share = 0.1
    """Share of each store's subjects in the validation part."""
    held_out_share: Share = 0.0
    """Share of each store's subjects in neither the training nor the validation part."""

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
