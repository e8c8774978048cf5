import pytest
from flax import nnx

from wsicl_jax.config import ModelConfig
from wsicl_jax.model.dual_branch import DualBranch


@pytest.fixture(scope="session")
def model():
    """A tiny random network whose scores lie on both sides of 0.5."""
    model = DualBranch(ModelConfig(channels=(4, 8)), rngs=nnx.Rngs(3))
    head = model.target_decoder.head
    head.kernel[...] = head.kernel[...] * 50
    head.bias[...] = head.bias[...] + 3.35
    return model
