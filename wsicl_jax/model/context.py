"""Averaging the context branch over the context set: exact, at the memory of a few contexts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

Features = tuple[Float[Array, "..."], ...]


def mean_over_contexts(
    branch: Callable[[Array, Features], Features],
    images: Float[Array, "batch context x y z 1"],
    prompts: Float[Array, "batch context x y z 1"],
    weights: Float[Array, "batch context"] | None,
    target_shortcuts: Features,
    *,
    mini_context: int,
) -> Features:
    """Weighted mean of the branch's feature maps over the context axis.

    With `mini_context = 0` all contexts run at once. With `mini_context = l` they run l at
    a time in a loop whose backward pass computes each part anew, so that activations of
    only l contexts are held; value and gradient are those of all at once.
    """
    batch, count = images.shape[:2]
    if weights is None:
        weights = jnp.ones((batch, count), images.dtype)
    weights = weights / weights.sum(axis=1, keepdims=True)
    inputs = jnp.concatenate([images, prompts], axis=-1)

    def weighted_sum(branch, inputs, weights, shortcuts) -> Features:
        features = branch(inputs.reshape(-1, *inputs.shape[2:]), shortcuts)
        return tuple(
            jnp.einsum("bl,blxyzc->bxyzc", weights, f.reshape(*weights.shape, *f.shape[1:]))
            for f in features
        )

    if mini_context == 0 or mini_context >= count:
        return weighted_sum(branch, inputs, weights, target_shortcuts)

    # A last, smaller part is filled with contexts of weight 0.
    parts = -(-count // mini_context)
    filler = parts * mini_context - count
    inputs = jnp.pad(inputs, ((0, 0), (0, filler)) + ((0, 0),) * 4)
    weights = jnp.pad(weights, ((0, 0), (0, filler)))

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(batch, parts, mini_context, *x.shape[2:]), 1, 0)

    graph, parameters = nnx.split(branch)

    @jax.checkpoint
    def part(parameters, inputs, weights, shortcuts):
        return weighted_sum(nnx.merge(graph, parameters), inputs, weights, shortcuts)

    def add_part(total, xs):
        return jax.tree.map(jnp.add, total, part(parameters, *xs, target_shortcuts)), None

    xs = (split(inputs), split(weights))
    shapes = jax.eval_shape(part, parameters, *jax.tree.map(lambda x: x[0], xs), target_shortcuts)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = lax.scan(add_part, zeros, xs)
    return total
