"""3D convolutions and their gradients in oneDNN, which jaxlib contains for x86 processors.

XLA's CPU backend contains oneDNN's convolution, but does not choose it. A custom call with the
name and configuration of XLA's own passes reaches it, which is no stable interface: see
`onednn_support`. Only the forward convolution is available; both gradients are expressed as
forward convolutions.
"""

import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_TARGET = "__onednn$convolution"
"""Name of the call in XLA."""

_FULL_WIDTH = 32
"""Output channels from which on oneDNN's kernels reach full speed."""

Padding = Sequence[tuple[int, int]]


def convolve(
    x: Float[Array, "batch x y z c_in"],
    kernel: Float[Array, "kx ky kz c_in c_out"],
    padding: Padding,
    *,
    stride: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Float[Array, "batch X Y Z c_out"]:
    """3D convolution with zero `padding` before and after each axis.

    `dilation` is the distance of the kernel's voxels from each other.
    """
    dilations = (dilation,) * 3 if isinstance(dilation, int) else tuple(dilation)
    sizes = tuple(
        (size + sum(pad) - apart * (width - 1) - 1) // stride + 1
        for size, width, pad, apart in zip(
            x.shape[1:4], kernel.shape[:3], padding, dilations, strict=True
        )
    )
    axes = _axes_of_difference(x) | _axes_of_difference(kernel)
    x, kernel = (_differing_over(axes, array) for array in (x, kernel))
    shape = jax.ShapeDtypeStruct((x.shape[0], *sizes, kernel.shape[4]), x.dtype)
    call = jax.ffi.ffi_call(
        _TARGET,
        shape,
        vmap_method="sequential",
        custom_call_api_version=1,
        legacy_backend_config=_configuration(padding, stride, dilations),
    )
    return _differing_over(axes, call(x, kernel))


def _axes_of_difference(x: Array) -> frozenset[str]:
    """The axes of the mesh along which devices may hold different values."""
    return jax.typeof(x).manual_axis_type.varying


def _differing_over(axes: frozenset[str], x: Array) -> Array:
    # A call's inputs must vary over the same axes; its result is declared as not varying.
    missing = tuple(sorted(axes - _axes_of_difference(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def _configuration(padding: Padding, stride: int, dilations: Sequence[int]) -> str:
    """XLA's `BackendConfig` of the call, as JSON."""
    voxels = {"dims": 5, "data": {"batch_dim": 0, "feature_dim": 4, "spatial_dims": [1, 2, 3]}}
    filters = {"input_feature_dim": 3, "output_feature_dim": 4, "spatial_dims": [0, 1, 2]}
    window = {
        "pad_left": [before for before, _ in padding],
        "pad_right": [after for _, after in padding],
        "strides": [stride] * 3,
        "window_dilations": list(dilations),
    }
    config = {
        "dims": 5,
        "input": voxels,
        "kernel": {"dims": 5, "filter": filters},
        "output": voxels,
        "window": window,
        "feature_groups": 1,
    }
    return json.dumps({"onednn_conv_config": config})


def by_input(
    kernel: Float[Array, "kx ky kz c_in c_out"],
    g: Float[Array, "batch X Y Z c_out"],
    padding: Padding,
    stride: int,
) -> Float[Array, "batch x y z c_in"]:
    """Gradient of `convolve` by its input, for stride 1, or 2 with a kernel of even size."""
    if stride == 1:
        turned = kernel[::-1, ::-1, ::-1].swapaxes(3, 4)
        widths = kernel.shape[:3]
        reach = [
            (k - 1 - before, k - 1 - after)
            for k, (before, after) in zip(widths, padding, strict=True)
        ]
        return convolve(g, turned, reach)
    return _by_strided_input(kernel, g, padding)


def _by_strided_input(kernel: Array, g: Array, padding: Padding) -> Array:
    """Even and odd voxels along each axis depend on different halves of the kernel.

    Each of the eight combinations is a convolution of `g` with a kernel of half the size. They
    are computed at once, stacked on the channels, and then interleaved.
    """
    half = kernel.shape[0] // 2
    c_in, c_out = kernel.shape[3:]
    split = kernel.reshape(half, 2, half, 2, half, 2, c_in, c_out)[::-1, :, ::-1, :, ::-1]
    halves = split.transpose(0, 2, 4, 7, 1, 3, 5, 6).reshape(half, half, half, c_out, 8 * c_in)
    out = convolve(g, halves, ((half - 1, half - 1),) * 3)
    batch, *sizes = out.shape[:4]
    apart = out.reshape(batch, *sizes, 2, 2, 2, c_in)
    whole = apart.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, *(2 * n for n in sizes), c_in)
    inner = (slice(before, -after or None) for before, after in padding)
    return whole[:, *inner]


def by_kernel(
    x: Float[Array, "batch x y z c_in"],
    g: Float[Array, "batch X Y Z c_out"],
    width: int,
    padding: Padding,
    stride: int,
) -> Float[Array, "width width width c_in c_out"]:
    """Gradient of `convolve` by its kernel, of `width` voxels along each axis.

    The voxels of `g` are the kernel of this convolution, and its result has few voxels. oneDNN
    sums over channels and over the kernel. So lines along z become channels, and copies of x,
    shifted along z, replace the axis z. If `g` has few channels, several neighbours along z
    become channels too, to fill the registers.
    """
    c_in, c_out = x.shape[4], g.shape[4]
    together = _neighbours_together(g.shape[3], c_out)
    span = stride * (together - 1) + width
    across = (padding[0], padding[1], (0, 0))

    def of_image(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        image, gradient = pair
        stack = _along_channels(image[None], stride * together, span, padding[2][0])
        filters = gradient.reshape(*gradient.shape[:2], 1, -1, together * c_out)
        return total + convolve(stack, filters, across, dilation=(stride, stride, 1))[0], None

    zeros = jnp.zeros((width, width, span * c_in, together * c_out), x.dtype)
    axes = _axes_of_difference(x) | _axes_of_difference(g)
    # A loop, since a call for each image would take long to compile.
    total, _ = lax.scan(of_image, _differing_over(axes, zeros), (x, g))
    sums = total.reshape(width, width, span, c_in, together, c_out)
    offsets = [sum(sums[:, :, stride * s + k, :, s] for s in range(together)) for k in range(width)]
    return jnp.stack(offsets, axis=2)


def _neighbours_together(size_z: int, channels: int) -> int:
    most = max(1, _FULL_WIDTH // channels)
    return max(n for n in range(1, most + 1) if size_z % n == 0)


def _along_channels(
    x: Float[Array, "1 x y z c"], block: int, span: int, before: int
) -> Float[Array, "1 x y rows blocks"]:
    """For each block of voxels along z, the `span` voxels from `before` its first one on."""
    folded = x.reshape(*x.shape[:3], -1, block, x.shape[4]).transpose(0, 1, 2, 4, 5, 3)
    zero = jnp.zeros((), x.dtype)

    def row(offset: int) -> Array:
        blocks, inside = divmod(offset, block)
        return lax.pad(folded[:, :, :, inside], zero, (*[(0, 0, 0)] * 4, (-blocks, blocks, 0)))

    return jnp.concatenate([row(i - before) for i in range(span)], axis=3)
