import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wsicl_jax.config import ModelConfig
from wsicl_jax.model.dual_branch import DualBranch


@pytest.fixture(scope="session")
def model():
    """A tiny random network whose scores lie on both sides of 0.5."""
    # Numbers from numpy: nothing to compile.
    rng = np.random.default_rng(0)
    shapes = DualBranch.abstract(ModelConfig(channels=(4, 8)))
    graph, parameters = nnx.split(shapes)
    model = nnx.merge(
        graph,
        jax.tree.map(lambda x: jnp.asarray(0.2 * rng.normal(size=x.shape), x.dtype), parameters),
    )
    # Random weights give scores that hardly differ from voxel to voxel: spread them.
    head = model.target_decoder.head
    head.kernel[...] = head.kernel[...] * 50
    return model
