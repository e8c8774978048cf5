"""3D convolution, strided convolution and x2 upsampling, lowered per platform.

XLA's own 3D convolution is slow on a CPU. There, oneDNN makes it where it can (`onednn`).
Elsewhere the copies of the input that are shifted along the first spatial axis are
stacked on the channels, and the rest is a 2D convolution over (batch x first axis): the
same sums, several times faster than XLA's. Accelerators keep the native 3D convolution.
Which platform it is is asked when the program is lowered, so that one exported program
can hold several.

Where volumes are cut along their first axis over several devices, the planes that lie
beside a part are fetched from its neighbours first.
"""

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from wsicl_jax import onednn
from wsicl_jax.mesh import SPACE, shards, with_neighbours

_DIMENSIONS_3D = ("NXYZC", "XYZIO", "NXYZC")
_DIMENSIONS_2D = ("NYZC", "YZIO", "NYZC")

# Part of the keys of JAX's caches, so that no program traced with another choice is reused.
_lowering = jax.make_user_context(default_value="fastest")


def native_lowering() -> AbstractContextManager[None]:
    """Within the block, programs are lowered as for accelerators, also on CPU.

    For what is compiled on a machine without one to learn about those that have.
    """
    return _lowering("native")


def portable_lowering() -> AbstractContextManager[None]:
    """Within the block, programs hold nothing that only this version of XLA knows.

    For programs that are written to a file.
    """
    return _lowering("portable")


def cpu_convolution() -> str:
    """What makes float32 convolutions on this process's CPU, in words."""
    return "oneDNN" if _in_onednn(np.dtype(np.float32)) else "stacked planes"


def _in_onednn(dtype: np.dtype) -> bool:
    return _lowering.value == "fastest" and onednn.usable(dtype)


def _by_platform(*inputs: Array, cpu: Callable, default: Callable):
    if _lowering.value == "native":
        return default(*inputs)
    return lax.platform_dependent(*inputs, cpu=cpu, default=default)


def conv3d(
    x: Float[Array, "batch x y z c_in"], kernel: Float[Array, "k k k c_in c_out"]
) -> Float[Array, "batch x y z c_out"]:
    """3D convolution of odd kernel size with zero padding that keeps the size, no bias."""
    if kernel.shape[0] == 1:
        return x @ kernel[0, 0, 0]
    return _padded_convolve(x, kernel, 1, kernel.shape[0] // 2)


def conv3d_down(
    x: Float[Array, "batch x y z c_in"], kernel: Float[Array, "4 4 4 c_in c_out"]
) -> Float[Array, "batch x//2 y//2 z//2 c_out"]:
    """3D convolution with kernel 4, stride 2 and padding 1: halves even sizes, no bias."""
    return _padded_convolve(x, kernel, 2, 1)


@jax.custom_vjp
def add_bias(
    x: Float[Array, "batch x y z c"], bias: Float[Array, " c"]
) -> Float[Array, "batch x y z c"]:
    """A float32 bias on each channel, in the number format of `x`.

    Its gradient, a sum over all voxels, is made in float32: in bfloat16 it would be lost.
    """
    return x + bias.astype(x.dtype)


def _add_bias_bwd(_, g: Array) -> tuple[Array, Array]:
    return g, g.astype(jnp.float32).sum(axis=(0, 1, 2, 3))


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _add_bias_bwd)


def max_pool2(x: Float[Array, "batch x y z c"]) -> Float[Array, "batch x//2 y//2 z//2 c"]:
    """The maximum over blocks of 2 x 2 x 2 voxels."""
    # Pairs, one axis after another: the gradient of `max` over a block divides by the number
    # of entries that equal the maximum, which is 0 where XLA recomputes them differently.
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
    return _upsample2(with_neighbours(x, 1, clamp=True))[:, 2:-2]


@jax.custom_vjp
def _upsample2(x: Array) -> Array:
    return _upsample2_shifted(x)


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
    return _upsample2_shifted(x), None


def _upsample2_bwd(_, cotangent):
    def transposed_shifts(g):
        # Linear, so that where it is differentiated only lends its shape.
        anywhere = g[:, ::2, ::2, ::2]
        return jax.vjp(_upsample2_shifted, anywhere)[1](g)[0]

    # On CPU the pads and adds of transposed shifts are many times slower than small products.
    return (_by_platform(cotangent, cpu=_downsample_matrices, default=transposed_shifts),)


def _downsample_matrices(g: Array) -> Array:
    for axis in (1, 2, 3):
        matrix = _upsample_matrix(g.shape[axis] // 2).astype(g.dtype)
        lines = g.reshape(math.prod(g.shape[:axis]), g.shape[axis], -1)
        summed = jnp.einsum("Nn,bNc->bnc", matrix, lines)
        g = summed.reshape(*g.shape[:axis], g.shape[axis] // 2, *g.shape[axis + 1 :])
    return g


def _upsample_matrix(size: int) -> np.ndarray:
    old = np.arange(size)
    matrix = np.zeros((2 * size, size), np.float32)
    matrix[2 * old, old] = matrix[2 * old + 1, old] = 0.75
    matrix[2 * old, np.maximum(old - 1, 0)] += 0.25
    matrix[2 * old + 1, np.minimum(old + 1, size - 1)] += 0.25
    return matrix


_upsample2.defvjp(_upsample2_fwd, _upsample2_bwd)


def _padded_convolve(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    if shards(SPACE) == 1:
        return _convolve(x, kernel, stride, (padding, padding))
    return _convolve(with_neighbours(x, padding), kernel, stride, (0, padding))


def _native(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    along_x, across = padding
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * 3,
        ((along_x, along_x), (across, across), (across, across)),
        dimension_numbers=_DIMENSIONS_3D,
    )


def _stacked(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    k, c_in, c_out = kernel.shape[0], *kernel.shape[3:]
    stack = _stack_planes(x, k, stride, padding[0])
    out = _convolve_planes(
        stack.reshape(-1, *stack.shape[2:]),
        kernel.transpose(1, 2, 0, 3, 4).reshape(k, k, k * c_in, c_out),
        padding[1],
        strides=(stride, stride),
    )
    return out.reshape(*stack.shape[:2], *out.shape[1:])


def _stack_planes(x: Array, k: int, stride: int, padding: int) -> Array:
    """The `k` planes that each output plane sees, side by side on the channels."""
    size_out = (x.shape[1] + 2 * padding - k) // stride + 1
    padded = jnp.pad(x, ((0, 0), (padding, padding), (0, 0), (0, 0), (0, 0)))
    seen = [padded[:, i : i + stride * (size_out - 1) + 1 : stride] for i in range(k)]
    return jnp.concatenate(seen, -1)


def _convolve_planes(
    x: Array, kernel: Array, padding: int, strides: tuple[int, int] = (1, 1), **dilations
) -> Array:
    """A 2D convolution in the one arrangement of axes that is fast everywhere on CPU.

    XLA rearranges others itself, but not within a loop, where they are 40 times slower.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        ((padding, padding),) * 2,
        dimension_numbers=_DIMENSIONS_2D,
        **dilations,
    )


# A custom derivative, so that the backward pass chooses its own lowering too and the
# stack of shifted copies is made anew there instead of being kept.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """`padding` is that along the first axis, and that along the other two."""

    def in_onednn(x, kernel):
        return onednn.convolve(x, kernel, _each_axis(padding), stride=stride)

    return _by_platform(
        x,
        kernel,
        cpu=in_onednn if _in_onednn(x.dtype) else lambda x, k: _stacked(x, k, stride, padding),
        default=lambda x, k: _native(x, k, stride, padding),
    )


def _convolve_fwd(x, kernel, stride, padding):
    return _convolve(x, kernel, stride, padding), (x, kernel)


def _convolve_bwd(stride, padding, inputs, cotangent):
    def native(x, kernel, g):
        return jax.vjp(lambda x, kernel: _native(x, kernel, stride, padding), x, kernel)[1](g)

    def in_onednn(x, kernel, g):
        pads = _each_axis(padding)
        by_kernel = onednn.by_kernel(x, g, kernel.shape[0], pads, stride)
        return onednn.by_input(kernel, g, pads, stride), by_kernel

    def stacked(x, kernel, g):
        by_input = _stacked_by_input if stride == 1 else _stacked_down_by_input
        return by_input(kernel, g, padding), _stacked_by_kernel(x, g, kernel, stride, padding)

    cpu = in_onednn if _in_onednn(cotangent.dtype) else stacked
    return _by_platform(*inputs, cotangent, cpu=cpu, default=native)


def _each_axis(padding: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    along_x, across = padding
    return (along_x, along_x), (across, across), (across, across)


def _stacked_by_kernel(
    x: Array, g: Array, kernel: Array, stride: int, padding: tuple[int, int]
) -> Array:
    """Gradient of `_stacked` by its kernel: the planes convolved with the gradient's planes."""
    k, c_in, c_out = kernel.shape[0], *kernel.shape[3:]
    stack = _stack_planes(x, k, stride, padding[0])
    out = _convolve_planes(
        stack.reshape(-1, *stack.shape[2:]).transpose(3, 1, 2, 0),
        g.reshape(-1, *g.shape[2:]).transpose(1, 2, 0, 3),
        padding[1],
        rhs_dilation=(stride, stride),
    )
    return out.reshape(k, c_in, k, k, c_out).transpose(0, 2, 3, 1, 4)


def _stacked_by_input(kernel: Array, g: Array, padding: tuple[int, int]) -> Array:
    """Gradient of `_stacked` with stride 1 by its input: a convolution with the kernel turned."""
    along_x, across = (kernel.shape[0] - 1 - p for p in padding)
    return _stacked(g, kernel[::-1, ::-1, ::-1].swapaxes(3, 4), 1, (along_x, across))


def _stacked_down_by_input(kernel: Array, g: Array, padding: tuple[int, int]) -> Array:
    """Gradient of `conv3d_down` by its input: even and odd x planes each from two planes of g."""
    batch, _, size_y, size_z, c_out = g.shape
    c_in = kernel.shape[3]
    padded = jnp.pad(g, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))

    def planes(first, second, kernel_first, kernel_second):
        stack = jnp.concatenate([first, second], -1).reshape(-1, size_y, size_z, 2 * c_out)
        weights = jnp.concatenate([kernel_first, kernel_second], -1)[::-1, ::-1]
        out = _convolve_planes(stack, weights.transpose(0, 1, 3, 2), 2, lhs_dilation=(2, 2))
        return out.reshape(batch, -1, 2 * size_y, 2 * size_z, c_in)

    if padding[0]:
        before, here, after = padded[:, :-2], padded[:, 1:-1], padded[:, 2:]
        even = planes(here, before, kernel[1], kernel[3])
        odd = planes(here, after, kernel[2], kernel[0])
    else:  # the input brings its outer planes itself, and they have a gradient too
        before, here = padded[:, :-1], padded[:, 1:]
        even = planes(here, before, kernel[0], kernel[2])
        odd = planes(here, before, kernel[1], kernel[3])
    return jnp.stack([even, odd], 2).reshape(batch, -1, *even.shape[2:])


_convolve.defvjp(_convolve_fwd, _convolve_bwd)
