"""One optimizer step, compiled once per shape of the batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from wsicl_jax.config import SYNTHETIC, ExperimentConfig
from wsicl_jax.data.augmentation.intensity import augment_intensities
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.distributed.placement import (
    compiler_options,
    in_order,
    in_parts,
    on_mesh,
    replicated,
)
from wsicl_jax.model.losses import make_loss
from wsicl_jax.model.ops import tpu_convolutions
from wsicl_jax.train.state import COUNTERS, TrainState, averaged, learning_rate
from wsicl_jax.train.stop import Stop

Metrics = dict[str, Array]
Predict = Callable[[nnx.State, Episode, PRNGKeyArray], Float[Array, "batch x y z 1"]]
Step = Callable[[TrainState, Episode, Int32[Array, "devices"]], tuple[TrainState, Metrics]]


def make_predict(graph: nnx.GraphDef, config: ExperimentConfig, mesh: Mesh) -> Predict:
    """The network on a mesh: from parameters and a batch of episodes to predictions.

    The key selects the mini-context of a truncated gradient.
    """

    def predict(parameters: nnx.State, batch: Episode, key: PRNGKeyArray) -> Array:
        model = nnx.merge(graph, parameters)
        return model(
            batch.target,
            batch.context_images,
            batch.context_prompts,
            batch.context_weights,
            key=key,
        )

    return on_mesh(predict, mesh, config.parallel)


def make_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    config: ExperimentConfig,
    mesh: Mesh,
    placement: TrainState,
) -> Step:
    """The compiled step: from state and a batch of episodes to the next state and metrics.

    The step first augments the batch's intensities (`config.augment`), seeded by the seed and the
    step's number. Gradients of `train.accumulate` parts of the batch are computed one after
    another; each loss is a mean over episodes, so their mean is that of the batch. If loss or
    gradient is not finite, the update is skipped: parameters, optimizer state, average and learning
    rate stay unchanged.

    Metrics are the mean `loss` over the batch, the `gradient_norm` before clipping, the
    `learning_rate` of this step, the counters `skipped` and `skipped_in_row`, and `stop`, the
    maximum of the third input (`stop.Stop`); with stores or several data sets also the `losses` of
    the episodes and their `structures`. From `Stop.NO_DATA` on, part of the batch is invalid and
    the whole state stays unchanged.
    The input state is donated: its buffers are reused for the next state, at the same `placement`.
    """
    loss, schedule = make_loss(config.train), learning_rate(config.train)
    seed = jax.random.key(config.seed)
    parts, intensities = (
        jax.random.fold_in(seed, stream)
        for stream in (RandomStream.TRUNCATED_GRADIENT, RandomStream.INTENSITIES)
    )

    predict = make_predict(graph, config, mesh)
    training = [dataset for dataset in config.data if dataset.weight > 0]
    by_episode = len(training) > 1 or training[0].store != SYNTHETIC

    def batch_loss(
        parameters: nnx.State, batch: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Float[Array, "episode"]]:
        """The loss, and that of each episode if they are told apart."""
        prediction = predict(parameters, batch, key)
        with jax.named_scope("loss"):
            losses = jnp.zeros(0)
            if by_episode:
                losses = jax.vmap(lambda p, t: loss(p[None], t[None]))(prediction, batch.truth)
            return loss(prediction, batch.truth), losses

    def loss_and_gradients(
        parameters: nnx.State, batch: Episode, key: PRNGKeyArray
    ) -> tuple[tuple[Float[Array, ""], Float[Array, "episode"]], nnx.State]:
        of_part = jax.value_and_grad(batch_loss, has_aux=True)
        if (parts := config.train.accumulate) == 1:
            return of_part(parameters, batch, key)

        def add(total, part: Episode):
            (value, losses), gradients = of_part(parameters, part, key)
            return jax.tree.map(jnp.add, total, (value, gradients)), losses

        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters))
        zeros = lax.with_sharding_constraint(zeros, (replicated(mesh), placement.parameters))
        total, losses = lax.scan(add, zeros, in_parts(batch, parts, mesh))
        value, gradients = jax.tree.map(lambda x: x / parts, total)
        return (value, in_order(losses, mesh)), gradients

    def step(
        state: TrainState, batch: Episode, stop: Int32[Array, "devices"]
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(intensities, state.step)
        with jax.named_scope("augmentation"):
            batch = augment_intensities(batch, key, config.augment, mesh)
        key = jax.random.fold_in(parts, state.step)
        with tpu_convolutions(config.parallel.tpu_convolutions):
            (value, losses), gradients = loss_and_gradients(state.parameters, batch, key)
        gradient_norm = optax.tree.norm(gradients)
        reason = stop.max()
        counts = reason < Stop.NO_DATA
        finite = jnp.isfinite(value) & jnp.isfinite(gradient_norm)
        with jax.named_scope("optimizer"):
            new = updated(state, gradients, finite & counts, optimizer, config.train.ema)
        new = new._replace(
            **{n: jnp.where(counts, getattr(new, n), getattr(state, n)) for n in COUNTERS}
        )
        metrics = {
            "loss": value,
            "gradient_norm": gradient_norm,
            "learning_rate": schedule(state.step - state.skipped) * _share(state),
            "skipped": new.skipped,
            "skipped_in_row": new.skipped_in_row,
            "stop": reason,
        }
        if by_episode:
            metrics |= {"losses": losses, "structures": batch.structures}
        return new, metrics

    platform = mesh.devices.flat[0].platform
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(placement, replicated(mesh)),
        compiler_options=compiler_options(platform, mesh.shape, config.parallel),
    )


def updated(
    state: TrainState,
    gradients: nnx.State,
    finite: Array,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> TrainState:
    """The next state: with an update if `finite`, otherwise only with new counters."""
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.parameters)
    # Updates are proportional to the learning rate.
    updates = jax.tree.map(lambda x: x * _share(state), updates)
    parameters = optax.apply_updates(state.parameters, updates)
    ema = averaged(state.ema, parameters, state.step - state.skipped + 1, ema_decay)
    parameters, optimizer_state, ema = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (parameters, optimizer_state, ema),
        (state.parameters, state.optimizer, state.ema),
    )
    skip = (~finite).astype(jnp.int32)
    return TrainState(
        parameters,
        optimizer_state,
        step=state.step + 1,
        skipped=state.skipped + skip,
        skipped_in_row=(state.skipped_in_row + 1) * skip,
        ema=ema,
        rate_scale=state.rate_scale,
    )


def _share(state: TrainState) -> Array | float:
    """The share of the schedule's learning rate that counts."""
    return 1.0 if state.rate_scale is None else state.rate_scale
