"""Model FLOPs against what JAX traces and what XLA counts."""

import math

import jax
import jax.extend
import jax.numpy as jnp
import pytest
from flax import nnx

from wsicl_jax.config import ModelConfig
from wsicl_jax.model.cost import forward_flops, training_flops
from wsicl_jax.model.dual_branch import DualBranch


def forward(config: ModelConfig, grid: tuple[int, int, int], contexts: int):
    """The forward pass as a function, and the shapes of its inputs."""
    graph, parameters = nnx.split(DualBranch.abstract(config), nnx.Param)
    target = jax.ShapeDtypeStruct((1, *grid, 1), jnp.float32)
    context = jax.ShapeDtypeStruct((1, contexts, *grid, 1), jnp.float32)

    def apply(parameters, target, images, prompts):
        return nnx.merge(graph, parameters)(target, images, prompts)

    return apply, (parameters, target, context, context)


def products(jaxpr) -> float:
    """Operations of the products and convolutions of a traced program, accelerators' branch."""
    total = 0.0
    for equation in jaxpr.eqns:
        out = equation.outvars[0].aval
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(out.shape) * math.prod(left[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            channels = equation.params["dimension_numbers"].rhs_spec[0]
            total += 2 * math.prod(out.shape) * math.prod(kernel) / kernel[channels]
        elif equation.primitive.name == "cond":
            total += products(equation.params["branches"][-1].jaxpr)
        else:
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                total += products(inner)
    return total


@pytest.mark.parametrize(
    ("channels", "grid", "contexts"),
    [
        ((4, 8, 16), (8, 8, 8), 1),
        ((4, 8, 16), (16, 8, 24), 5),
        ((8, 8, 16), (8, 8, 8), 2),
        ((2, 4), (8, 8, 8), 3),
    ],
)
def test_model_flops_are_the_products_that_are_traced(channels, grid, contexts):
    config = ModelConfig(channels=channels)
    apply, inputs = forward(config, grid, contexts)
    traced = products(jax.make_jaxpr(apply)(*inputs).jaxpr)
    assert forward_flops(config, grid, contexts) == pytest.approx(traced, rel=1e-3)


def test_model_flops_are_what_xla_counts():
    # XLA counts activations as well, and no products with padding: both are little here.
    config, grid, contexts = ModelConfig(channels=(32, 64)), (32, 32, 32), 2
    apply, inputs = forward(config, grid, contexts)
    counted = jax.jit(apply).lower(*inputs).compile().cost_analysis()["flops"]
    assert forward_flops(config, grid, contexts) == pytest.approx(counted, rel=0.05)


def test_training_is_three_forward_passes():
    config = ModelConfig()
    assert training_flops(config, (32,) * 3, 4) == 3 * forward_flops(config, (32,) * 3, 4)
