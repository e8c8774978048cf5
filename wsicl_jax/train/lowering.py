"""Compiling the training step without allocating arrays, from shapes placed on a mesh."""

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Lowered, Traced

from wsicl_jax.config import ExperimentConfig
from wsicl_jax.data.episodes.sampling import Episode, most_united
from wsicl_jax.distributed.placement import PLACEMENT, state_placement
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.train.state import TrainState, init_state, make_optimizer
from wsicl_jax.train.step import make_step


def abstract_state(config: ExperimentConfig, mesh: Mesh) -> tuple[TrainState, TrainState]:
    """Placed shapes of the training state, and their placement."""
    _, parameters = nnx.split(DualBranch.abstract(config.model), nnx.Param)
    optimizer = make_optimizer(config.train)
    state = jax.eval_shape(
        lambda parameters: init_state(parameters, optimizer, config.train), parameters
    )
    placement = state_placement(state, mesh, config.parallel)
    return jax.tree.map(_placed, state, placement), placement


def abstract_batch(config: ExperimentConfig, mesh: Mesh, contexts: int) -> Episode:
    """Placed shapes of a batch with so many context images."""
    batch, volume = config.train.batch, (*config.volume.grid, 1)
    shapes = Episode(
        target=(batch, *volume),
        truth=(batch, *volume),
        context_images=(batch, contexts, *volume),
        context_prompts=(batch, contexts, *volume),
        context_weights=(batch, contexts),
        structures=(batch, most_united(config.episode)),
    )
    types = Episode(*[np.float32] * 5, structures=np.int32)
    placed = (NamedSharding(mesh, PLACEMENT[name]) for name in Episode._fields)
    return Episode(*map(_shape, shapes, types, placed))


def lower_step(config: ExperimentConfig, mesh: Mesh, contexts: int) -> Lowered:
    """The lowered training step for so many context images, ready to compile."""
    return trace_step(config, mesh, contexts).lower()


def trace_step(config: ExperimentConfig, mesh: Mesh, contexts: int) -> Traced:
    """The training step for so many context images as operations on shapes."""
    graph = nnx.graphdef(DualBranch.abstract(config.model))
    state, placement = abstract_state(config, mesh)
    step = make_step(graph, make_optimizer(config.train), config, mesh, placement)
    by_device = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    stop = jax.ShapeDtypeStruct((mesh.size,), np.int32, sharding=by_device)
    return step.trace(state, abstract_batch(config, mesh, contexts), stop)


def _shape(shape: tuple[int, ...], dtype: type, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _placed(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
