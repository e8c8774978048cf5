"""What training carries from step to step, and the optimiser that moves it."""

from typing import Any, NamedTuple

import jax
import optax
from flax import nnx

from wsicl_jax.config import TrainConfig


class TrainState(NamedTuple):
    """The network's parameters, and the optimiser's state, which counts the steps."""

    parameters: nnx.State
    optimizer: Any


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Linear warm-up from 0, then constant or a cosine that ends at 0."""
    warmup = min(config.warmup_steps, config.steps)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, config.learning_rate, warmup, max(config.steps, warmup + 1)
        )
    return optax.warmup_constant_schedule(0.0, config.learning_rate, warmup)


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam with the configured schedule, after clipping by the global norm."""
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(clip, optax.adam(learning_rate(config)))


def init_state(parameters: nnx.State, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(parameters, jax.jit(optimizer.init)(parameters))
