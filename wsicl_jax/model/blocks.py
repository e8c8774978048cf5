"""Layers of the dual-branch network: convolution, residual unit, resampling, fusion."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from wsicl_jax.model import ops


class Conv(nnx.Module):
    """A 3D convolution with bias and zero padding; kernel `(k, k, k, c_in, c_out)`.

    Kernel and bias are initialized uniformly in +-1/sqrt(fan_in), as in PyTorch. Parameters are
    float32; the computation is in the number format of the input.
    """

    def __init__(self, c_in: int, c_out: int, size: int, *, rngs: nnx.Rngs):
        bound = (c_in * size**3) ** -0.5
        self.kernel = nnx.Param(_uniform(rngs.params(), (size, size, size, c_in, c_out), bound))
        self.bias = nnx.Param(_uniform(rngs.params(), (c_out,), bound))

    def __call__(self, x: Float[Array, "batch x y z c_in"]) -> Float[Array, "batch x y z c_out"]:
        return ops.add_bias(ops.conv3d(x, self.kernel[...].astype(x.dtype)), self.bias[...])


_MIN_SAMPLED = 1024


def _uniform(key: PRNGKeyArray, shape: tuple[int, ...], bound: float) -> Array:
    """Uniform values in +-`bound`, the same as `jax.random.uniform` gives for the shape.

    The first values do not depend on the number of samples. The number is rounded up, so that a
    few programs are compiled instead of one for each shape, at a quarter of a second each.
    """
    size = math.prod(shape)
    count = _MIN_SAMPLED
    while count < size:
        count *= 4
    values = jax.random.uniform(key, (count,), minval=-bound, maxval=bound)
    return values[:size].reshape(shape)


class ResidualUnit(nnx.Module):
    """gelu(x + conv3(gelu(conv3(x)))), channels kept."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.first = Conv(channels, channels, 3, rngs=rngs)
        self.second = Conv(channels, channels, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "batch x y z c"]) -> Float[Array, "batch x y z c"]:
        return gelu(x + self.second(gelu(self.first(x))))


class Down(nnx.Module):
    """Halves the size: convolution with kernel 4 and stride 2, or max-pooling if c_in == c_out."""

    def __init__(self, c_in: int, c_out: int, *, rngs: nnx.Rngs):
        self.conv = None if c_in == c_out else Conv(c_in, c_out, 4, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch x y z c_in"]
    ) -> Float[Array, "batch x//2 y//2 z//2 c_out"]:
        if self.conv is None:
            return ops.max_pool2(x)
        kernel = self.conv.kernel[...].astype(x.dtype)
        return ops.add_bias(ops.conv3d_down(x, kernel), self.conv.bias[...])


class Merge(nnx.Module):
    """conv1(concat[left, right]) without building the concatenation.

    The kernel's rows for the left and the right part are applied separately, and the products
    are added. `right` may have a smaller batch than `left`: `left.batch / right.batch`
    consecutive entries (the context images of one target) then share it, and its product is
    computed once.
    """

    def __init__(self, c_left: int, c_right: int, c_out: int, *, rngs: nnx.Rngs):
        self.c_left = c_left
        self.conv = Conv(c_left + c_right, c_out, 1, rngs=rngs)

    def __call__(
        self,
        left: Float[Array, "batch x y z c_left"],
        right: Float[Array, "shared x y z c_right"],
    ) -> Float[Array, "batch x y z c_out"]:
        for_left, for_right = self.split_kernel(left.dtype)
        from_right = ops.add_bias(right @ for_right, self.conv.bias[...])
        return left @ for_left + _repeated(left.shape[0] // right.shape[0], from_right)

    def split_kernel(self, dtype: jnp.dtype) -> tuple[Array, Array]:
        """The kernel's rows for the left and the right part, in a number format."""
        kernel = self.conv.kernel[...].astype(dtype)[0, 0, 0]
        return kernel[: self.c_left], kernel[self.c_left :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _repeated(times: int, x: Array) -> Array:
    """Each entry of the batch `times` times, with a sum of arrays as gradient.

    The gradient of `jnp.repeat` is a reduction, which is ten times slower in XLA's CPU backend.
    """
    return jnp.repeat(x, times, axis=0)


def _repeated_bwd(times: int, _, g: Array) -> tuple[Array]:
    copies = g.reshape(-1, times, *g.shape[1:])
    return (sum(copies[:, i] for i in range(times)),)


_repeated.defvjp(lambda times, x: (_repeated(times, x), None), _repeated_bwd)


class UpMerge(Merge):
    """conv1(concat[upsampled left, right]): left is the coarser map of the stage below.

    A 1x1x1 convolution and an upsampling act on different axes and commute. The convolution
    comes first, on an eighth of the voxels, and reduces the channels to upsample.
    """

    def __call__(
        self,
        left: Float[Array, "batch x y z c_left"],
        right: Float[Array, "batch 2*x 2*y 2*z c_right"],
    ) -> Float[Array, "batch 2*x 2*y 2*z c_out"]:
        for_left, for_right = self.split_kernel(left.dtype)
        return ops.upsample2(left @ for_left) + ops.add_bias(right @ for_right, self.conv.bias[...])


@jax.custom_vjp
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact (erf) Gaussian error linear unit, computed in float32.

    Only `x` is stored for the gradient. `jax.nn.gelu` uses erfc, which is three times slower in
    XLA's CPU backend.
    """
    return (x * _normal_cdf(x)).astype(x.dtype)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + lax.erf(x.astype(jnp.float32) * 0.5**0.5))


def _gelu_bwd(x: Array, g: Array) -> tuple[Array]:
    # Recomputed: reading the forward pass's values from memory takes longer.
    x = lax.optimization_barrier(x)
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide**2) * (2 * jnp.pi) ** -0.5
    return ((g * (_normal_cdf(x) + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_bwd)


def stage(function: Callable[..., Array], *, remat: bool) -> Callable[..., Array]:
    """A stage of the network; with `remat`, the backward pass recomputes its activations."""
    return nnx.remat(function) if remat else function
