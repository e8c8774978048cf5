"""The state of training and its optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int32
from optax.contrib import MuonDimensionNumbers

from wsicl_jax.config import TrainConfig
from wsicl_jax.storage.checkpoints import EMA, OPTIMIZER, PARAMETERS


class TrainState(NamedTuple):
    """Parameters, optimizer state and counters of steps."""

    parameters: nnx.State
    optimizer: Any
    step: Int32[Array, ""]
    """Steps made, including skipped ones."""
    skipped: Int32[Array, ""]
    """Steps without an update, because loss or gradient was not finite."""
    skipped_in_row: Int32[Array, ""]
    """Skipped steps since the last update."""
    ema: nnx.State | None = None
    """Exponential moving average of the parameters; None: no average (`train.ema` is 0)."""
    rate_scale: Float[Array, ""] | None = None
    """Share of the schedule's learning rate, for the schedule `plateau`; None: all of it."""

    @property
    def weights(self) -> nnx.State:
        """The parameters of the network that the run has trained: averaged ones, if there are."""
        return self.parameters if self.ema is None else self.ema

    @property
    def items(self) -> dict[str, Any]:
        """The trees of arrays in a checkpoint, by item."""
        trees = {PARAMETERS: self.parameters, OPTIMIZER: self.optimizer, EMA: self.ema}
        return {item: tree for item, tree in trees.items() if tree is not None}


_ADAM_RMS = 0.2
"""Root mean square of updates, in learning rates, to which Muon's are scaled; as Adam's, so that
one learning rate suits both (Liu et al. 2025, arXiv 2502.16982)."""

COUNTERS = ("step", "skipped", "skipped_in_row")
"""The counters of `TrainState`."""


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Linear warm-up from 0, then as `schedule` says; a function of the updates made."""
    warmup = min(config.warmup_steps, config.steps)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, config.learning_rate, warmup, max(config.steps, warmup + 1)
        )
    if warmup:
        stable = optax.warmup_constant_schedule(0.0, config.learning_rate, warmup)
    else:
        stable = optax.constant_schedule(config.learning_rate)
    if not config.decay_steps:
        return stable
    decay = optax.linear_schedule(config.learning_rate, 0.0, config.decay_steps)
    return optax.join_schedules([stable, decay], [config.stable_until])


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """The configured optimizer and schedule, after clipping by the global norm."""
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    schedule = learning_rate(config)
    if config.optimizer == "adam":
        return optax.chain(clip, optax.adamw(schedule, weight_decay=config.weight_decay))
    # For Muon a kernel (x, y, z, in, out) is a matrix from (x, y, z, in) to out.
    kernel = MuonDimensionNumbers(reduction_axis=(0, 1, 2, 3), output_axis=4)

    def matrices(parameters: Any) -> Any:
        return jax.tree.map(lambda x: kernel if x.ndim == 5 else None, parameters)

    muon = optax.contrib.muon(
        schedule,
        weight_decay=config.weight_decay,
        adam_weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=_ADAM_RMS,
    )
    return optax.chain(clip, muon)


def init_state(
    parameters: nnx.State, optimizer: optax.GradientTransformation, config: TrainConfig
) -> TrainState:
    """The state before the first step."""
    zeros = (jnp.zeros((), jnp.int32) for _ in COUNTERS)
    # Copies, because a step reuses the buffers of both.
    ema = jax.tree.map(jnp.copy, parameters) if config.ema else None
    scale = jnp.ones(()) if config.schedule == "plateau" else None
    optimizer_state = jax.jit(optimizer.init)(parameters)
    return TrainState(parameters, optimizer_state, *zeros, ema=ema, rate_scale=scale)


def averaged(
    ema: nnx.State | None, parameters: nnx.State, updates: Int32[Array, ""], decay: float
) -> nnx.State | None:
    """The average after so many updates, of which the last one led to `parameters`.

    The first averages have a smaller decay, because they would remember the initial weights.
    """
    if ema is None:
        return None
    decay = jnp.minimum(decay, (1 + updates) / (10 + updates))
    return optax.incremental_update(parameters, ema, 1 - decay)
