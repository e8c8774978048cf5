"""The lowerings of CPUs and TPUs against XLA's native ones, derived by plain automatic
differentiation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from wsicl_jax.model import ops
from wsicl_jax.model.ops import convolution

PLATFORMS = ["cpu", "cuda", "tpu"]


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def value_and_gradients(function, *inputs):
    """The value, and the gradients along a fixed random cotangent."""

    @jax.jit
    def run(*inputs):
        value, pull_back = jax.vjp(function, *inputs)
        return value, *pull_back(normal(7, *value.shape))

    return run(*inputs)


def assert_equal_to_rounding(given, expected):
    for a, b in zip(given, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(2, 5, 4, 7, 3), (1, 1, 2, 3, 1)])
def test_convolution_and_its_gradients_are_the_native_ones(size, shape):
    x, kernel = normal(0, *shape), normal(1, size, size, size, shape[-1], 4)
    given = value_and_gradients(ops.conv3d, x, kernel)
    assert given[0].shape == (*shape[:4], 4)
    padding = (size // 2, size // 2)
    expected = value_and_gradients(lambda x, k: convolution._native(x, k, 1, padding), x, kernel)
    assert_equal_to_rounding(given, expected)


@pytest.mark.parametrize("shape", [(2, 4, 6, 10, 3), (1, 2, 2, 2, 1), (1, 8, 2, 4, 2)])
def test_halving_convolution_and_its_gradients_are_the_native_ones(shape):
    x, kernel = normal(0, *shape), normal(1, 4, 4, 4, shape[-1], 5)
    given = value_and_gradients(ops.conv3d_down, x, kernel)
    assert given[0].shape == (shape[0], *(side // 2 for side in shape[1:4]), 5)
    expected = value_and_gradients(lambda x, k: convolution._native(x, k, 2, (1, 1)), x, kernel)
    assert_equal_to_rounding(given, expected)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 2), (1, 1, 2, 1, 3)])
def test_upsampling_and_its_gradient_are_linear_interpolation(shape):
    x = normal(0, *shape)
    larger = (shape[0], *(2 * side for side in shape[1:4]), shape[4])
    given = value_and_gradients(ops.upsample2, x)
    expected = value_and_gradients(
        lambda x: jax.image.resize(x, larger, "linear", antialias=False), x
    )
    assert_equal_to_rounding(given, expected)


def test_pooling_takes_the_maximum_of_each_block_and_its_gradient_goes_there():
    x = normal(0, 2, 4, 2, 6, 3)
    blocks = np.asarray(x).reshape(2, 2, 2, 1, 2, 3, 2, 3)
    maxima = blocks.max((2, 4, 6))
    pooled, gradient = value_and_gradients(ops.max_pool2, x)
    np.testing.assert_array_equal(pooled, maxima)
    chosen = blocks == maxima[:, :, None, :, None, :, None]
    cotangent = normal(7, *pooled.shape)[:, :, None, :, None, :, None]
    np.testing.assert_array_equal(gradient, (chosen * cotangent).reshape(x.shape))


def test_the_gradient_of_pooling_is_finite_and_complete_with_ties():
    x = jnp.zeros((1, 4, 4, 4, 2))
    gradient = jax.jit(jax.grad(lambda x: ops.max_pool2(x).sum()))(x)
    blocks = gradient.reshape(1, 2, 2, 2, 2, 2, 2, 2)
    np.testing.assert_allclose(blocks.sum((2, 4, 6)), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (ops.conv3d, [(1, 4, 6, 8, 2), (3, 3, 3, 2, 4)]),
        (ops.conv3d_down, [(1, 4, 6, 8, 2), (4, 4, 4, 2, 4)]),
        (ops.upsample2, [(1, 4, 6, 8, 2)]),
        (ops.max_pool2, [(1, 4, 6, 8, 2)]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_one_exported_program_holds_value_and_gradient_for_every_platform(function, shapes):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    total = jax.value_and_grad(lambda *x: (function(*x) ** 2).sum(), tuple(range(len(inputs))))
    exported = export.export(jax.jit(total), platforms=PLATFORMS)(*inputs)
    assert exported.platforms == tuple(PLATFORMS)


@pytest.mark.parametrize(
    ("function", "native", "shapes"),
    [
        (
            ops.conv3d,
            lambda x, k: convolution._native(x, k, 1, (1, 1)),
            [(2, 5, 4, 7, 3), (3, 3, 3, 3, 4)],
        ),
        (
            ops.conv3d_down,
            lambda x, k: convolution._native(x, k, 2, (1, 1)),
            [(2, 4, 6, 10, 3), (4, 4, 4, 3, 5)],
        ),
        (
            ops.upsample2,
            lambda x: jax.image.resize(x, (2, 6, 8, 10, 2), "linear", antialias=False),
            [(2, 3, 4, 5, 2)],
        ),
    ],
    ids=["convolution", "halving", "upsampling"],
)
def test_programs_for_tpus_give_the_native_values_and_gradients(function, native, shapes):
    inputs = [normal(number, *shape) for number, shape in enumerate(shapes)]
    with ops.native_lowering("tpu"):
        given = value_and_gradients(function, *inputs)
    assert_equal_to_rounding(given, value_and_gradients(native, *inputs))


def test_gpus_and_wide_layers_on_tpus_keep_the_native_convolution_and_a_setting_all_layers():
    def total(x, kernel, halving):
        return (ops.conv3d_down(ops.conv3d(x, kernel), halving) ** 2).sum()

    def dimensions(platform: str, channels: int) -> set[int]:
        kernels = [(size,) * 3 + (channels,) * 2 for size in (3, 4)]
        shapes = [(1, 4, 6, 8, channels), *kernels]
        inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        run = jax.jit(jax.grad(total, (0, 1, 2)))
        text = export.export(run, platforms=[platform])(*inputs).mlir_module()
        axes = re.findall(r"dim_numbers = \[(.*?)\]", text)
        assert axes
        return {sum(axis.strip().isdigit() for axis in order.split(",")) for order in axes}

    assert dimensions("cuda", 64) == dimensions("tpu", 128) == {3}
    assert dimensions("tpu", 64) == dimensions("cpu", 128) == {2}
    with ops.tpu_convolutions("volumes"):
        assert dimensions("tpu", 64) == {3}
        assert dimensions("cpu", 64) == {2}


def test_the_gradient_of_a_bias_is_summed_in_float32():
    ones = jnp.ones((1, 16, 16, 16, 2), jnp.bfloat16)
    gradient = jax.grad(lambda bias: ops.add_bias(ones, bias).sum(dtype=jnp.float32))(jnp.zeros(2))
    np.testing.assert_array_equal(gradient, [16**3] * 2)
