"""The mean of the context branch over the context set, exact, with the memory of a few contexts.

Context images interact only in the mean of their feature maps. They are processed a few at a
time (a mini-context), on one device or on several, and only sums are stored.
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

    With `config.gradient = exact`, value and gradient do not depend on `mini_context` and
    `remat`. `truncated` is the authors' gradient (Neuroverse3D, mini-context): that of one
    mini-context, sampled with `key` (without a key, the last), times the number of
    mini-contexts. Its expectation is the exact gradient.
    """
    batch, count = images.shape[:2]
    shares = _shares(weights, batch, count)
    graph, parameters = nnx.split(branch)
    parameters, shortcuts = differing_over((CONTEXT,), (parameters, target_shortcuts))

    def weighted_sum(parameters, images, prompts, shares, shortcuts) -> Features:
        inputs = jnp.concatenate([images, prompts], axis=-1).astype(shortcuts[0].dtype)
        inputs = inputs.reshape(-1, *inputs.shape[2:])
        with jax.named_scope("context_branch"):
            features = nnx.merge(graph, parameters)(inputs, shortcuts)
        with jax.named_scope("aggregation"):
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
        # Slices on demand: splitting the arrays beforehand would copy the whole set.
        contexts = (lax.dynamic_slice_in_dim(x, start, size, axis=1) for x in (images, prompts))
        return weighted_sum(parameters, *contexts, shares, shortcuts)

    def sum_of(part, parameters, starts, shares, shortcuts) -> Features:
        def add(total, xs):
            return jax.tree.map(jnp.add, total, part(parameters, *xs, shortcuts)), None

        shapes = jax.eval_shape(part, parameters, starts[0], shares[0], shortcuts)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        zeros = differing_over((DATA, CONTEXT, SPACE), zeros)
        return lax.scan(add, zeros, (starts, shares))[0]

    starts, shares = _split(shares, size, parts)
    with_remat = part if config.remat == "none" else jax.checkpoint(part)
    if config.gradient == "exact":
        return sum_over(CONTEXT, sum_of(with_remat, parameters, starts, shares, shortcuts))

    sampled = parts - 1 if key is None else jax.random.randint(key, (), 0, parts)
    others = (sampled + 1 + jnp.arange(parts - 1)) % parts
    fixed = lax.stop_gradient((parameters, shortcuts))
    constant = sum_of(part, fixed[0], starts[others], shares[others], fixed[1])
    differentiated = with_remat(parameters, starts[sampled], shares[sampled], shortcuts)
    total = jax.tree.map(lambda a, b: a + _gradient_times(parts, b), constant, differentiated)
    return sum_over(CONTEXT, total)


def _shares(weights: Array | None, batch: int, count: int) -> Float[Array, "batch context"]:
    """The share of each of this device's context images in the mean."""
    if weights is None:
        return jnp.full((batch, count), 1 / (count * shards(CONTEXT)), jnp.float32)
    shares = weights / weights.sum(axis=1, keepdims=True)
    return part_of(shares.astype(jnp.float32), CONTEXT, dimension=1)


def _split(shares: Array, size: int, parts: int) -> tuple[Array, Float[Array, "part batch size"]]:
    """The start of each mini-context, and its shares.

    If the last mini-context would be smaller, it starts earlier, and repeated contexts have
    share 0.
    """
    count = shares.shape[1]
    starts = np.minimum(np.arange(parts) * size, count - size)
    positions = starts[:, None] + np.arange(size)
    new = positions >= np.arange(parts)[:, None] * size
    split = jnp.where(new, shares[:, positions], 0)
    return jnp.asarray(starts), jnp.moveaxis(split, 1, 0)


def _gradient_times(factor: int, x: Array) -> Array:
    fixed = lax.stop_gradient(x)
    return fixed + factor * (x - fixed)
