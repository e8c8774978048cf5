"""Training losses: regression of predictions to {0, 1}, averaged over voxels and batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from wsicl_jax.config import TrainConfig

Volumes = Float[Array, "batch x y z 1"]
Loss = Callable[[Volumes, Volumes], Float[Array, ""]]

_LOGIT_PER_UNIT = 8.0
"""`dice_ce` takes an output y as the logit 8 (y - 0.5): probability 0.5 at 0.5, 0.98 at 1."""


def make_loss(config: TrainConfig) -> Loss:
    """The configured loss of (prediction, truth), times `loss_weight`."""
    losses: dict[str, Loss] = {
        "smooth_l3_l1": lambda p, t: smooth_l3_l1(p, t, config.loss_beta),
        "l1": lambda p, t: jnp.abs(p - t).mean(),
        "dice_ce": lambda p, t: dice_cross_entropy(p, t, config.loss_cross_entropy),
    }
    loss = losses[config.loss]
    return lambda prediction, truth: config.loss_weight * loss(prediction, truth)


def smooth_l3_l1(prediction: Volumes, truth: Volumes, beta: float = 1.0) -> Float[Array, ""]:
    """The published loss: cubic in errors below `beta`, linear above, mean over voxels."""
    error = jnp.abs(prediction - truth)
    cubic = 0.333 * error**3 / beta**2
    return jnp.where(error < beta, cubic, error + 0.333 * beta**3 - beta).mean()


def dice_cross_entropy(
    prediction: Volumes, truth: Volumes, cross_entropy_weight: float = 1.0
) -> Float[Array, ""]:
    """1 - soft Dice of each volume, plus weighted cross-entropy of voxels; 0.5 is undecided."""
    logits = _LOGIT_PER_UNIT * (prediction - 0.5)
    probability = jax.nn.sigmoid(logits)
    space = (1, 2, 3, 4)
    overlap = (probability * truth).sum(space)
    dice = (2 * overlap + 1) / (probability.sum(space) + truth.sum(space) + 1)
    cross_entropy = optax.sigmoid_binary_cross_entropy(logits, truth).mean()
    return (1 - dice).mean() + cross_entropy_weight * cross_entropy
