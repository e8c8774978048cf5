import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from inference.volumes import VOLUME

from wsicl_jax.config import InferenceConfig, ModelConfig
from wsicl_jax.inference.segmenter import Segmenter
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


@pytest.fixture(scope="session")
def segmenter(model):
    return Segmenter(model, VOLUME)


@pytest.fixture
def close_segmenter(segmenter):
    """It looks a second time, and keeps every tile."""
    # What is compiled is shared: settings of inference change no program.
    close = copy.copy(segmenter)
    close.config = InferenceConfig(refine=True, refine_min_dice=0.0)
    return close
