"""The mesh of devices as seen from within a program that is spread over it.

`parallel.on_mesh` runs the network once per device, on that device's part of the arrays.
The few places where parts must meet call what is here: the mean over the context set,
and convolutions and upsampling, which need a plane of their neighbours. Outside such a
program nothing is spread, and all of this leaves its input as it is.
"""

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

DATA = "data"
"""Axis over which the episodes of a batch are spread."""
CONTEXT = "context"
"""Axis over which the context set of an episode is spread."""
SPACE = "space"
"""Axis over which every volume is cut along its first spatial axis."""


def shards(axis: str) -> int:
    """Into how many parts arrays are cut along a mesh axis; 1 outside of a spread program."""
    return jax.sharding.get_abstract_mesh().shape[axis] if _spread(axis) else 1


def part_of(x: Array, axis: str, *, dimension: int) -> Array:
    """This device's part of an array that every device along `axis` holds whole."""
    if not _spread(axis):
        return x
    size = x.shape[dimension] // shards(axis)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axis) * size, size, dimension)


def sum_over(axis: str, tree):
    """Every leaf summed over the devices along `axis`, which then hold the same."""
    return lax.psum(tree, axis) if _spread(axis) else tree


def differing_over(axes: tuple[str, ...], tree):
    """Values that are the same on the devices along `axes`, as ones that may differ there.

    Their gradients are then summed over the devices here, once, and not in each place
    (each turn of a loop) where they meet values that do differ.
    """
    axes = tuple(axis for axis in axes if _spread(axis))
    return lax.pcast(tree, axes, to="varying") if axes else tree


def exchange_halo(
    x: Float[Array, "batch x y z c"], planes: int, *, clamp: bool = False
) -> Float[Array, "batch x+2*planes y z c"]:
    """This device's part of a volume with the nearest planes of the two parts beside it.

    The outer sides of the volume get zeros, or copies of its outermost plane with `clamp`.
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
