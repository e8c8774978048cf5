"""3D convolution, strided convolution and x2 upsampling, lowered per platform.

XLA's own 3D convolution is slow on a CPU. There, oneDNN computes it if possible (`onednn`).
Otherwise, shifted copies of the input along the first spatial axis are stacked on the channels,
and the rest is a 2D convolution over (batch x first axis): the same sums, several times faster
than XLA's. So do TPUs for few channels, where a 3D convolution also takes much longer to compile:
docs/scaling.md has figures. GPUs use the native 3D convolution. The platform is determined when
the program is lowered, so that one exported program can contain several.

If volumes are split along their first axis over several devices, a halo exchange comes first.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from wsicl_jax.distributed.mesh import SPACE, exchange_halo, shards
from wsicl_jax.model.ops import onednn
from wsicl_jax.model.ops.lowering import (
    by_platform,
    convolves_planes_on_tpu,
    uses_onednn,
)

_DIMENSIONS_3D = ("NXYZC", "XYZIO", "NXYZC")

_DIMENSIONS_2D = ("NYZC", "YZIO", "NYZC")

_TPU_LANES = 128
"""Values in a row of a TPU's registers. Fewer channels leave a part of each row empty, and the
copies of `_stacked` fill it."""


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

    Its gradient, a sum over all voxels, is computed in float32; bfloat16 is too imprecise.
    """
    return x + bias.astype(x.dtype)


def _add_bias_bwd(_, g: Array) -> tuple[Array, Array]:
    return g, g.astype(jnp.float32).sum(axis=(0, 1, 2, 3))


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _add_bias_bwd)


def _padded_convolve(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    if shards(SPACE) == 1:
        return _convolve(x, kernel, stride, (padding, padding))
    return _convolve(exchange_halo(x, padding), kernel, stride, (0, padding))


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
    """The `k` input planes of each output plane, stacked on the channels."""
    size_out = (x.shape[1] + 2 * padding - k) // stride + 1
    padded = jnp.pad(x, ((0, 0), (padding, padding), (0, 0), (0, 0), (0, 0)))
    planes = [padded[:, i : i + stride * (size_out - 1) + 1 : stride] for i in range(k)]
    return jnp.concatenate(planes, -1)


def _convolve_planes(
    x: Array, kernel: Array, padding: int, strides: tuple[int, int] = (1, 1), **dilations
) -> Array:
    """A 2D convolution in the order of axes that is fast on CPU.

    XLA rearranges other orders itself, but not within a loop, where they are 40 times slower.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        ((padding, padding),) * 2,
        dimension_numbers=_DIMENSIONS_2D,
        **dilations,
    )


# A custom derivative: the backward pass chooses its own lowering, and recomputes the stack of
# shifted copies instead of storing it.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """`padding` is that along the first axis, and that along the other two."""

    def in_onednn(x, kernel):
        return onednn.convolve(x, kernel, _each_axis(padding), stride=stride)

    def stacked(x, kernel):
        return _stacked(x, kernel, stride, padding)

    def native(x, kernel):
        return _native(x, kernel, stride, padding)

    return by_platform(
        x,
        kernel,
        cpu=in_onednn if uses_onednn(x.dtype) else stacked,
        tpu=stacked if _stacked_on_tpu(kernel) else native,
        default=native,
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

    cpu = in_onednn if uses_onednn(cotangent.dtype) else stacked
    tpu = stacked if _stacked_on_tpu(inputs[1]) else native
    return by_platform(*inputs, cotangent, cpu=cpu, tpu=tpu, default=native)


def _stacked_on_tpu(kernel: Array) -> bool:
    return kernel.shape[3] < _TPU_LANES and convolves_planes_on_tpu()


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
    else:  # the input contains the outer planes, which have a gradient too
        before, here = padded[:, :-1], padded[:, 1:]
        even = planes(here, before, kernel[0], kernel[2])
        odd = planes(here, before, kernel[1], kernel[3])
    return jnp.stack([even, odd], 2).reshape(batch, -1, *even.shape[2:])


_convolve.defvjp(_convolve_fwd, _convolve_bwd)
