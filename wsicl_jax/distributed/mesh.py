"""Exchange between devices, called from inside a program that runs once per device.

`placement.on_mesh` runs the network once per device, on that device's part of the arrays. These
functions exchange data between parts: for the mean over the context set, and for the border planes
of convolutions and upsampling. Outside such a program they return their input unchanged.
"""

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

DATA = "data"
"""Axis that shares the episodes of a batch."""
CONTEXT = "context"
"""Axis that shares the context set of an episode."""
SPACE = "space"
"""Axis that shares every volume, split along its first spatial axis."""


def shards(axis: str) -> int:
    """Number of parts along a mesh axis; 1 outside of a program that runs once per device."""
    return jax.sharding.get_abstract_mesh().shape[axis] if _spread(axis) else 1


def part_of(x: Array, axis: str, *, dimension: int) -> Array:
    """This device's part of an array that is replicated along `axis`."""
    if not _spread(axis):
        return x
    size = x.shape[dimension] // shards(axis)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axis) * size, size, dimension)


def sum_over(axis: str, tree):
    """Every leaf summed over the devices along `axis`; the result is replicated."""
    return lax.psum(tree, axis) if _spread(axis) else tree


def differing_over(axes: tuple[str, ...], tree):
    """Marks values that are replicated along `axes` as possibly differing there.

    Their gradients are then summed over the devices here, once, instead of at each operation with
    differing values, which may be in a loop.
    """
    axes = tuple(axis for axis in axes if _spread(axis))
    return lax.pcast(tree, axes, to="varying") if axes else tree


def exchange_halo(
    x: Float[Array, "batch x y z c"], planes: int, *, clamp: bool = False
) -> Float[Array, "batch x+2*planes y z c"]:
    """This device's part of a volume with `planes` border planes of its two neighbours.

    The outer borders of the volume get zeros, or with `clamp` copies of the outermost plane.
    """
    count = shards(SPACE)
    first, last = x[:, :planes], x[:, -planes:]
    before = lax.ppermute(last, SPACE, [(i, i + 1) for i in range(count - 1)])
    after = lax.ppermute(first, SPACE, [(i + 1, i) for i in range(count - 1)])
    if clamp:
        here = lax.axis_index(SPACE)
        before = jnp.where(here == 0, jnp.broadcast_to(x[:, :1], before.shape), before)
        after = jnp.where(here == count - 1, jnp.broadcast_to(x[:, -1:], after.shape), after)
    return lax.concatenate([before, x, after], 1)


def _spread(axis: str) -> bool:
    return axis in jax.sharding.get_abstract_mesh().manual_axes
