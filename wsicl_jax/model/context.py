"""Averaging the context branch over the context set: exact, at the memory of a few contexts.

Contexts meet nowhere but in the mean of their feature maps. So they are processed a few
at a time (a mini-context), on one device or on several, and only sums are kept.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from wsicl_jax.config import ContextConfig
from wsicl_jax.distributed.mesh import (
    CONTEXT,
    DATA,
    SPACE,
    differing_over,
    part_of,
    shards,
    sum_over,
)

Features = tuple[Float[Array, "..."], ...]


def mean_over_contexts(
    branch: Callable[[Array, Features], Features],
    images: Float[Array, "batch context x y z 1"],
    prompts: Float[Array, "batch context x y z 1"],
    weights: Float[Array, "batch all_contexts"] | None,
    target_shortcuts: Features,
    config: ContextConfig,
    key: PRNGKeyArray | None = None,
) -> Features:
    """Weighted mean of the branch's feature maps over the context axis, in float32.

    Where the context set is spread over devices, `images` and `prompts` are this device's
    part of it and `weights` are those of the whole set.

    With `config.gradient = exact`, value and gradient are those of all contexts at once,
    whatever `mini_context` and `remat` are. `truncated` is the gradient that the authors
    train with (Neuroverse3D, mini-context): that of one mini-context, drawn with `key`
    (without a key, the last), times the number of mini-contexts. Its mean over the draws
    is the exact gradient.
    """
    batch, count = images.shape[:2]
    shares = _shares(weights, batch, count)
    graph, parameters = nnx.split(branch)
    parameters, shortcuts = differing_over((CONTEXT,), (parameters, target_shortcuts))

    def weighted_sum(parameters, images, prompts, shares, shortcuts) -> Features:
        inputs = jnp.concatenate([images, prompts], axis=-1).astype(shortcuts[0].dtype)
        features = nnx.merge(graph, parameters)(inputs.reshape(-1, *inputs.shape[2:]), shortcuts)
        return tuple(
            jnp.einsum(
                "bl,blxyzc->bxyzc",
                shares,
                f.reshape(*shares.shape, *f.shape[1:]),
                preferred_element_type=jnp.float32,
            )
            for f in features
        )

    size = config.mini_context or count
    parts = -(-count // size)
    if parts <= 1:
        return sum_over(CONTEXT, weighted_sum(parameters, images, prompts, shares, shortcuts))

    def part(parameters, start, shares, shortcuts) -> Features:
        # Slices of the arrays as they are: cutting them up beforehand would copy the whole set.
        shown = (lax.dynamic_slice_in_dim(x, start, size, axis=1) for x in (images, prompts))
        return weighted_sum(parameters, *shown, shares, shortcuts)

    def sum_of(part, parameters, starts, shares, shortcuts) -> Features:
        def add(total, xs):
            return jax.tree.map(jnp.add, total, part(parameters, *xs, shortcuts)), None

        shapes = jax.eval_shape(part, parameters, starts[0], shares[0], shortcuts)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        zeros = differing_over((DATA, CONTEXT, SPACE), zeros)
        return lax.scan(add, zeros, (starts, shares))[0]

    starts, shares = _cut(shares, size, parts)
    kept = part if config.remat == "none" else jax.checkpoint(part)
    if config.gradient == "exact":
        return sum_over(CONTEXT, sum_of(kept, parameters, starts, shares, shortcuts))

    chosen = parts - 1 if key is None else jax.random.randint(key, (), 0, parts)
    others = (chosen + 1 + jnp.arange(parts - 1)) % parts
    fixed = lax.stop_gradient((parameters, shortcuts))
    without = sum_of(part, fixed[0], starts[others], shares[others], fixed[1])
    shown = kept(parameters, starts[chosen], shares[chosen], shortcuts)
    total = jax.tree.map(lambda a, b: a + _gradient_times(parts, b), without, shown)
    return sum_over(CONTEXT, total)


def _shares(weights: Array | None, batch: int, count: int) -> Float[Array, "batch context"]:
    """What each of this device's contexts counts in the mean."""
    if weights is None:
        return jnp.full((batch, count), 1 / (count * shards(CONTEXT)), jnp.float32)
    shares = weights / weights.sum(axis=1, keepdims=True)
    return part_of(shares.astype(jnp.float32), CONTEXT, dimension=1)


def _cut(shares: Array, size: int, parts: int) -> tuple[Array, Float[Array, "part batch size"]]:
    """Where each mini-context starts, and its shares.

    The last one, if it would be smaller, reaches back; contexts seen before then count 0.
    """
    count = shares.shape[1]
    starts = np.minimum(np.arange(parts) * size, count - size)
    positions = starts[:, None] + np.arange(size)
    new = positions >= np.arange(parts)[:, None] * size
    cut = jnp.where(new, shares[:, positions], 0)
    return jnp.asarray(starts), jnp.moveaxis(cut, 1, 0)


def _gradient_times(factor: int, x: Array) -> Array:
    fixed = lax.stop_gradient(x)
    return fixed + factor * (x - fixed)
