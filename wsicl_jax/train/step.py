"""One optimiser step, compiled once per shape of its batch."""

from collections.abc import Callable

import jax
import optax
from flax import nnx
from jaxtyping import Array, Float

from wsicl_jax.data.episodes import Episode
from wsicl_jax.losses import Loss
from wsicl_jax.train.state import TrainState

Metrics = dict[str, Float[Array, ""]]
Step = Callable[[TrainState, Episode], tuple[TrainState, Metrics]]


def make_step(graph: nnx.GraphDef, optimizer: optax.GradientTransformation, loss: Loss) -> Step:
    """The compiled step: state and a batch of episodes to the next state and its metrics.

    Metrics are the mean `loss` over the batch and the `gradient_norm` before clipping.
    The state given is used up: its buffers are reused for the new one.
    """

    def episode_loss(parameters: nnx.State, batch: Episode) -> Float[Array, ""]:
        model = nnx.merge(graph, parameters)
        prediction = model(batch.target, batch.context_images, batch.context_prompts)
        return loss(prediction, batch.truth)

    def step(state: TrainState, batch: Episode) -> tuple[TrainState, Metrics]:
        value, gradients = jax.value_and_grad(episode_loss)(state.parameters, batch)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(parameters, optimizer_state), metrics

    return jax.jit(step, donate_argnums=0)
