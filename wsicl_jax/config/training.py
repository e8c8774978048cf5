"""Settings of optimization and of the device mesh."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import _RULES, Amount, Count, LocalPath, Positive, Shards


@dataclass(frozen=True, kw_only=True, config=_RULES)
class TrainConfig:
    """Optimisation."""

    initial_weights: LocalPath = ""
    """Network whose weights the run begins with: a run, a checkpoint, a file of weights, or the
    name of one that comes with this package; empty: weights are drawn."""
    initialization: Literal["random", "prompt_mean"] = "random"
    """How weights are drawn: `prompt_mean` begins with a network that answers with the mean of the
    context prompts, and learns what to change."""
    steps: Positive = 2000
    """Optimiser steps of the whole run."""
    batch: Positive = 4
    """Episodes per step, over all devices."""
    optimizer: Literal["adam", "muon"] = "adam"
    """`muon` moves each convolution's kernel by its gradient made orthogonal, as large as Adam's
    updates are, and biases by NAdam."""
    learning_rate: Amount = 1e-3
    """Peak learning rate."""
    weight_decay: Amount = 0.0
    """Share of each parameter, in learning rates, that a step takes away beside the gradient."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Course of the learning rate after the warm-up; cosine ends at 0."""
    warmup_steps: Count = 100
    """Steps over which the learning rate rises linearly from 0."""
    clip_norm: Amount = 0.25
    """Gradients of a larger global norm are scaled down to it; 0: no clipping."""
    loss: Literal["smooth_l3_l1", "l1", "dice_ce"] = "smooth_l3_l1"
    """Training loss; `smooth_l3_l1` is the published one."""
    loss_weight: Amount = 50.0
    """Factor on the loss."""
    loss_beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Error at which `smooth_l3_l1` turns from cubic to linear."""
    log_every: Positive = 20
    """Steps between entries of the log."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: Positive = 2
    """Newest checkpoints that are kept."""
    keep_best: Count = 1
    """Checkpoints of the highest validation Dice that are kept besides."""
    max_skipped: Positive = 10
    """Updates in a row that may be skipped for a loss or gradient that is not finite; one more
    ends the run."""
    evaluate_every: Count = 0
    """Steps between evaluations on validation cases; 0: only at the end."""
    workers: Count = 0
    """Processes that make episodes ahead of time; 0: threads of the training process."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class ParallelConfig:
    """The devices of all processes as a mesh of three axes; changes no result."""

    data: Shards = -1
    """Devices over which the episodes of a step are spread; -1: all that the others leave."""
    context: Shards = 1
    """Devices over which the context set of an episode is spread."""
    space: Shards = 1
    """Devices over which every volume is cut along its first axis, if too large for one."""
    shard_parameters: bool = False
    """Parameters and optimiser state are spread over `data` as well, instead of repeated."""

    @model_validator(mode="after")
    def _check(self):
        sizes = (self.data, self.context, self.space)
        if 0 in sizes or sizes.count(-1) > 1:
            raise ValueError("data, context and space are 1 or more each; one of them may be -1")
        return self
