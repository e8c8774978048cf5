"""The beginning that answers with the mean of the context prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wsicl_jax.config import ModelConfig
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.model.initialization import initialize_prompt_mean

SHAPE = (16, 24, 16)


@pytest.fixture(scope="module")
def model() -> DualBranch:
    model = DualBranch(ModelConfig(channels=(8, 16, 32)), rngs=nnx.Rngs(0))
    initialize_prompt_mean(model)
    return model


@pytest.fixture(scope="module")
def episode():
    """Four context images of noise; planes of x are marked by none, by two, or by all of them."""
    rng = np.random.default_rng(0)
    prompts = np.zeros((1, 4, *SHAPE, 1), np.float32)
    prompts[:, :2, 5:10] = 1
    prompts[:, :, 10:] = 1
    images = rng.random((1, 4, *SHAPE, 1), np.float32)
    return rng.random((1, *SHAPE, 1), np.float32), images, prompts


def test_it_outputs_the_mean_of_the_prompts_whatever_the_images(model, episode):
    target, images, prompts = episode
    graph, parameters = nnx.split(model, nnx.Param)
    predict = jax.jit(lambda *inputs: nnx.merge(graph, parameters)(*inputs))
    for target_shown, images_shown in ((target, images), (0 * target, 0 * images)):
        found = np.asarray(predict(target_shown, images_shown, prompts))[0, ..., 0]
        for planes, expected in ((slice(0, 5), 0.0), (slice(5, 10), 0.4), (slice(10, 16), 1.0)):
            np.testing.assert_allclose(found[planes], expected, atol=0.12)


def test_every_parameter_that_matters_later_gets_a_gradient(model, episode):
    graph, parameters = nnx.split(model, nnx.Param)

    def loss(parameters):
        return jnp.mean((nnx.merge(graph, parameters)(*episode) - 0.3) ** 2)

    for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(parameters)):
        assert np.abs(gradient).max() > 0


def test_only_drawn_values_differ_from_the_usual_beginning(model):
    usual = DualBranch(ModelConfig(channels=(8, 16, 32)), rngs=nnx.Rngs(0))
    before, after = (nnx.state(m, nnx.Param) for m in (usual, model))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    changed = sum(
        int((x != y).sum())
        for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    )
    assert 0 < changed < 0.1 * sum(x.size for x in jax.tree.leaves(before))
