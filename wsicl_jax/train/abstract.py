"""A step's arguments as shapes without values, placed on a mesh: to compile without allocating."""

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from wsicl_jax.config import ExperimentConfig
from wsicl_jax.data.episodes import Episode
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.parallel import PLACEMENT, state_placement
from wsicl_jax.train.state import TrainState, init_state, make_optimizer


def abstract_state(config: ExperimentConfig, mesh: Mesh) -> tuple[TrainState, TrainState]:
    """Shapes of the state that training carries, placed; and the placement by itself."""
    _, parameters = nnx.split(DualBranch.abstract(config.model), nnx.Param)
    optimizer = make_optimizer(config.train)
    state = jax.eval_shape(lambda parameters: init_state(parameters, optimizer), parameters)
    placement = state_placement(state, mesh, config.parallel)
    return jax.tree.map(_placed, state, placement), placement


def abstract_batch(config: ExperimentConfig, mesh: Mesh, contexts: int) -> Episode:
    """Shapes of a step's batch with so many contexts, placed as training places it."""
    batch, volume = config.train.batch, (*config.volume.grid, 1)
    shapes = Episode(
        target=(batch, *volume),
        truth=(batch, *volume),
        context_images=(batch, contexts, *volume),
        context_prompts=(batch, contexts, *volume),
        context_weights=(batch, contexts),
    )
    return Episode(
        *(
            jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(mesh, PLACEMENT[name]))
            for name, shape in shapes._asdict().items()
        )
    )


def _placed(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
