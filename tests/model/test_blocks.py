"""Parts of the network that have a derivative or a start of their own making."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from wsicl_jax.model import blocks

WIDE = np.linspace(-12, 12, 2001, dtype=np.float32)


def test_gelu_and_its_gradient_are_those_of_pytorch():
    given = torch.tensor(WIDE, requires_grad=True)
    expected = torch.nn.functional.gelu(given)
    (gradient,) = torch.autograd.grad(expected.sum(), given)
    value, pull_back = jax.vjp(blocks.gelu, jnp.asarray(WIDE))
    np.testing.assert_allclose(value, expected.detach(), atol=1e-6)
    np.testing.assert_allclose(pull_back(jnp.ones_like(value))[0], gradient, atol=1e-6)


def test_gelu_in_bfloat16_is_rounded_once():
    x = jnp.asarray(WIDE, jnp.bfloat16)
    exact = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    value, pull_back = jax.vjp(blocks.gelu, x)
    assert value.dtype == pull_back(value)[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(value.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("times", [1, 3])
def test_the_gradient_of_what_contexts_share_is_the_sum_of_theirs(times):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 2, 3, 4)), jnp.float32)
    g = jnp.asarray(np.random.default_rng(1).normal(size=(2 * times, 1, 2, 3, 4)), jnp.float32)
    value, pull_back = jax.vjp(lambda x: blocks._repeated(times, x), x)
    expected, expected_back = jax.vjp(lambda x: jnp.repeat(x, times, axis=0), x)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(pull_back(g)[0], expected_back(g)[0], rtol=1e-6)


@pytest.mark.parametrize("shape", [(5,), (3, 3, 3, 8, 16), (1, 1, 1, 2, 7), (3, 3, 3, 16, 16)])
def test_parameters_start_with_the_values_that_jax_draws_for_their_shape(shape):
    key = jax.random.key(3)
    expected = jax.random.uniform(key, shape, minval=-0.3, maxval=0.3)
    np.testing.assert_array_equal(blocks._uniform(key, shape, 0.3), expected)
