"""Memory and program size of value and gradient, as XLA reports them for the whole network."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wsicl_jax.config import ContextConfig, ModelConfig
from wsicl_jax.model.dual_branch import DualBranch

SIDE = 32


def arguments(contexts: int):
    volume = jax.ShapeDtypeStruct((1, SIDE, SIDE, SIDE, 1), jnp.float32)
    context = jax.ShapeDtypeStruct((1, contexts, SIDE, SIDE, SIDE, 1), jnp.float32)
    return volume, context, context


def lowered(contexts: int, **processing):
    config = ModelConfig(channels=(8, 16, 32, 64), context=ContextConfig(**processing))
    graph, parameters = nnx.split(DualBranch.abstract(config), nnx.Param)

    def loss(parameters, *inputs):
        return (nnx.merge(graph, parameters)(*inputs) ** 2).mean()

    return jax.jit(jax.value_and_grad(loss)).lower(parameters, *arguments(contexts))


def temporary_bytes(*cases: tuple[int, str]) -> list[int]:
    """Temporary memory for numbers of contexts and levels of remat."""
    programs = [lowered(contexts, mini_context=1, remat=remat) for contexts, remat in cases]
    # The plan of the memory is made before the steps that are left out here.
    options = {"xla_backend_optimization_level": 0}
    with ThreadPoolExecutor() as pool:
        compiled = pool.map(lambda program: program.compile(compiler_options=options), programs)
        return [program.memory_analysis().temp_size_in_bytes for program in compiled]


def test_memory_does_not_grow_with_the_context_set():
    few, many = temporary_bytes((2, "context"), (32, "context"))
    assert many <= 1.10 * few


@pytest.mark.slow
def test_remat_needs_a_fraction_of_the_memory_and_by_stages_no_more():
    none, context, stage = temporary_bytes((8, "none"), (32, "context"), (32, "stage"))
    assert none > 2.5 * context
    assert context >= stage


def test_the_program_does_not_grow_with_the_context_set():
    sizes = [lowered(n, mini_context=1).as_text().count("\n") for n in (2, 32)]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_the_gradient_over_256_contexts_is_computed():
    config = ModelConfig(channels=(8, 16, 32, 64), context=ContextConfig(mini_context=1))
    graph, parameters = nnx.split(DualBranch(config, rngs=nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(0)
    inputs = [rng.random(x.shape, np.float32) for x in arguments(256)]

    @jax.jit
    def gradient(parameters, *inputs):
        return jax.grad(lambda p: (nnx.merge(graph, p)(*inputs) ** 2).mean())(parameters)

    for leaf in jax.tree.leaves(gradient(parameters, *inputs)):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0
