"""Max-pooling and trilinear x2 upsampling, lowered per platform."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from wsicl_jax.distributed.mesh import SPACE, exchange_halo, shards
from wsicl_jax.model.ops.lowering import by_platform


def max_pool2(x: Float[Array, "batch x y z c"]) -> Float[Array, "batch x//2 y//2 z//2 c"]:
    """The maximum over blocks of 2 x 2 x 2 voxels."""
    # Pairs, one axis after another: the gradient of `max` over a block divides by the number of
    # entries equal to the maximum, which is 0 if XLA recomputes them with other rounding.
    for axis in (1, 2, 3):
        pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
        first, second = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
        x = jnp.maximum(first, second)
    return x


def upsample2(x: Float[Array, "batch x y z c"]) -> Float[Array, "batch 2*x 2*y 2*z c"]:
    """Trilinear x2 upsampling with half-pixel centres, clamped at the edges.

    Each new voxel lies a quarter of a voxel from an old one: 0.75 of it and 0.25 of
    the neighbour on that side. PyTorch's `align_corners=False`.
    """
    if shards(SPACE) == 1:
        return _upsample2(x)
    return _upsample2(exchange_halo(x, 1, clamp=True))[:, 2:-2]


@jax.custom_vjp
def _upsample2(x: Array) -> Array:
    # On TPUs, shifts within a tile are slow and take long to compile.
    return by_platform(
        x, cpu=_upsample2_shifted, tpu=_upsample_matrices, default=_upsample2_shifted
    )


def _upsample2_shifted(x: Array) -> Array:
    for axis in (1, 2, 3):
        first = lax.slice_in_dim(x, 0, 1, axis=axis)
        last = lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis)
        before = lax.concatenate([first, lax.slice_in_dim(x, 0, -1, axis=axis)], axis)
        after = lax.concatenate([lax.slice_in_dim(x, 1, None, axis=axis), last], axis)
        pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x


def _upsample2_fwd(x):
    return _upsample2(x), None


def _upsample2_bwd(_, cotangent):
    def transposed_shifts(g):
        # Linear: the point of differentiation only provides the shape.
        anywhere = g[:, ::2, ::2, ::2]
        return jax.vjp(_upsample2_shifted, anywhere)[1](g)[0]

    # On CPU and TPU, transposed shifts are many times slower than small matrix products.
    return (
        by_platform(
            cotangent,
            cpu=_downsample_matrices,
            tpu=_downsample_matrices,
            default=transposed_shifts,
        ),
    )


def _upsample_matrices(x: Array) -> Array:
    return _along_each_axis("Nn,bnc->bNc", x, _upsample_matrix)


def _downsample_matrices(g: Array) -> Array:
    return _along_each_axis("Nn,bNc->bnc", g, lambda size: _upsample_matrix(size // 2))


def _along_each_axis(product: str, x: Array, matrix_of: Callable[[int], np.ndarray]) -> Array:
    for axis in (1, 2, 3):
        matrix = matrix_of(x.shape[axis]).astype(x.dtype)
        lines = x.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1)
        # TPUs would otherwise round float32 to bfloat16.
        out = jnp.einsum(product, matrix, lines, precision=lax.Precision.HIGHEST)
        x = out.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    return x


def _upsample_matrix(size: int) -> np.ndarray:
    old = np.arange(size)
    matrix = np.zeros((2 * size, size), np.float32)
    matrix[2 * old, old] = matrix[2 * old + 1, old] = 0.75
    matrix[2 * old, np.maximum(old - 1, 0)] += 0.25
    matrix[2 * old + 1, np.minimum(old + 1, size - 1)] += 0.25
    return matrix


_upsample2.defvjp(_upsample2_fwd, _upsample2_bwd)
