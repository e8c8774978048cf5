"""Augmentation of intensities, within the compiled training step.

The backbone's published augmentation (arXiv 2503.02410), in float32. An episode's target and
contexts have the same changes. `group.py` augments geometry and labels.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from wsicl_jax.config import AugmentConfig
from wsicl_jax.data.augmentation.gin import RandomNetwork, through_random_networks
from wsicl_jax.distributed.mesh import DATA
from wsicl_jax.distributed.placement import PLACEMENT

Batch = TypeVar("Batch")
Images = tuple[Float[Array, "batch 1 x y z 1"], Float[Array, "batch context x y z 1"]]
"""Targets and contexts."""


def augment_intensities(
    batch: Batch, key: PRNGKeyArray, config: AugmentConfig, mesh: Mesh
) -> Batch:
    """A batch of episodes with augmented intensities, a pure function of key and configuration.

    `batch` is a named tuple with arrays of `PLACEMENT`, and keeps this placement. The result is
    the same on every mesh, up to rounding, and does not depend on images that only fill a context
    set. In this order, sampled for each episode:

    - a random convolution network (`gin`) for each episode. The whole batch has them or has none,
      since they cost as much as a small network;
    - inverted, scaled and shifted intensities;
    - noise, another one for each image.

    A change of probability 0 adds nothing to the compiled program.
    """
    images = (batch.target[:, None], batch.context_images)
    rows = batch.target.shape[0]
    gin_key, invert_key, scale_key, shift_key, noise_key = jax.random.split(key, 5)
    if config.gin:
        images = _through_networks(images, gin_key, config, mesh)
    if config.invert_image:
        is_inverted = jax.random.bernoulli(invert_key, config.invert_image, (rows,))
        images = _each(images, lambda x: jnp.where(_for_rows(is_inverted, x), 1 - x, x))
    if config.scale:
        factor = 1 + _amounts(scale_key, config.scale, config.max_scale, rows)
        images = _each(images, lambda x: x * _for_rows(factor, x))
    if config.shift:
        offset = _amounts(shift_key, config.shift, config.max_shift, rows)
        images = _each(images, lambda x: x + _for_rows(offset, x))
    if config.noise:
        images = _with_noise(images, noise_key, config, mesh)
    return batch._replace(target=images[0][:, 0], context_images=images[1])


def _each(images: Images, change: Callable[[Array], Array]) -> Images:
    target, contexts = images
    return change(target), change(contexts)


def _for_rows(values: Array, x: Array) -> Array:
    """One value for each row of `x`."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def _amounts(
    key: PRNGKeyArray, probability: float, max_amount: float, rows: int
) -> Float[Array, " rows"]:
    """Up to `max_amount` in magnitude, with a probability; else 0."""
    change_key, amount_key = jax.random.split(key)
    is_changed = jax.random.bernoulli(change_key, probability, (rows,))
    amount = jax.random.uniform(amount_key, (rows,), minval=-max_amount, maxval=max_amount)
    return jnp.where(is_changed, amount, 0)


def _with_noise(images: Images, key: PRNGKeyArray, config: AugmentConfig, mesh: Mesh) -> Images:
    change_key, noise_key = jax.random.split(key)
    target, contexts = images
    is_noisy = jax.random.bernoulli(change_key, config.noise, target.shape[:1])
    sd = jnp.where(is_noisy, config.noise_sd, 0)

    def noisy(x: Array, first: int, placement: PartitionSpec) -> Array:
        rows, count, *volume = x.shape

        # A key for each image, so that its noise does not depend on the number of images.
        def noise(row: Array, number: Array) -> Array:
            image_key = jax.random.fold_in(jax.random.fold_in(noise_key, row), number)
            return jax.random.normal(image_key, volume, x.dtype)

        of_row = jax.vmap(noise, (None, 0))
        values = jax.vmap(of_row, (0, None))(jnp.arange(rows), first + jnp.arange(count))
        values = lax.with_sharding_constraint(values, NamedSharding(mesh, placement))
        return x + _for_rows(sd, x) * values

    return noisy(target, 0, _TARGETS), noisy(contexts, 1, PLACEMENT["context_images"])


def _through_networks(
    images: Images, key: PRNGKeyArray, config: AugmentConfig, mesh: Mesh
) -> Images:
    change_key, networks_key = jax.random.split(key)
    placed = (_TARGETS, PLACEMENT["context_images"])

    def local(keys: Key[Array, " batch"], images: Images) -> Images:
        networks = jax.vmap(lambda key: RandomNetwork.sample(key, config.gin_blend))(keys)
        return _each(images, lambda x: through_random_networks(networks, x))

    # Each device augments its part of the images, as in the network itself.
    on_devices = jax.shard_map(
        local, mesh=mesh, in_specs=(PartitionSpec(DATA), placed), out_specs=placed
    )
    keys = jax.random.split(networks_key, images[0].shape[0])
    is_used: Bool[Array, ""] = jax.random.bernoulli(change_key, config.gin)
    return lax.cond(is_used, on_devices, lambda _, images: images, keys, images)


_TARGETS = PartitionSpec(PLACEMENT["target"][0], None, *PLACEMENT["target"][1:])
"""Placement of the targets with an axis for the images of an episode."""
