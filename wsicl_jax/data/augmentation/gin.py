"""Images as another scanner might show them: passed through a random convolution network.

Global intensity non-linear augmentation (GIN; Ouyang et al., arXiv 2111.12525), with the
sizes that the backbone was trained with (arXiv 2503.02410).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from wsicl_jax.distributed.mesh import SPACE, sum_over
from wsicl_jax.model.ops.convolution import conv3d

_CHANNELS = 10
_LAYERS = 4
_BIAS_SD = 0.1


class RandomNetwork(NamedTuple):
    """Four convolutions from one channel to one, by way of ten."""

    kernels: tuple[Float[Array, "*batch 3 3 3 c_in c_out"], ...]
    biases: Float[Array, "*batch 4 10"]
    """The last layer has but one."""
    share: Float[Array, "*batch"]
    """Share of the network's output in the changed image."""

    @classmethod
    def draw(cls, key: PRNGKeyArray, blend: tuple[float, float]) -> "RandomNetwork":
        """The network of a key: each layer sees 1 or 27 voxels; `blend` is the range of `share`."""
        size_key, share_key, kernel_key, bias_key = jax.random.split(key, 4)
        alone = jax.random.bernoulli(size_key, shape=(_LAYERS,))
        centre = jnp.zeros((3, 3, 3, 1, 1)).at[1, 1, 1].set(1)
        # Scaled by the voxels and channels that are summed, so that activations keep their size.
        seen = jnp.where(alone[:, None, None, None, None, None], centre, 1 / math.sqrt(27))
        drawn = seen * jax.random.normal(kernel_key, (_LAYERS, 3, 3, 3, _CHANNELS, _CHANNELS))
        first, *others = drawn
        *between, last = (kernel / math.sqrt(_CHANNELS) for kernel in others)
        return cls(
            (first[..., :1, :], *between, last[..., :1]),
            _BIAS_SD * jax.random.normal(bias_key, (_LAYERS, _CHANNELS)),
            jax.random.uniform(share_key, minval=blend[0], maxval=blend[1]),
        )

    def changed(self, image: Float[Array, "x y z 1"]) -> Float[Array, "x y z 1"]:
        """An image through the network, blended with itself, of unchanged Euclidean norm.

        The output is scaled to the image's norm before blending, so that the share is one,
        and the blend again. An image of zeros stays one. Also for a part of an image, on a
        mesh that cuts it.
        """
        norm = _norm(image)
        passed = _scaled(self._passed(image[None])[0], norm)
        return _scaled(self.share * passed + (1 - self.share) * image, norm)

    def _passed(self, x: Float[Array, "1 x y z 1"]) -> Float[Array, "1 x y z 1"]:
        for number, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = conv3d(jax.nn.leaky_relu(x) if number else x, kernel)
            x = x + bias[: x.shape[-1]]
        return x


def through_random_networks(
    networks: RandomNetwork, images: Float[Array, "batch image x y z 1"]
) -> Float[Array, "batch image x y z 1"]:
    """All images of each row through the network of that row, one after another."""

    def row(inputs: tuple[RandomNetwork, Array]) -> Array:
        network, images = inputs
        return lax.map(network.changed, images)

    return lax.map(row, (networks, images))


def _norm(x: Array) -> Float[Array, ""]:
    return jnp.sqrt(sum_over(SPACE, jnp.square(x).sum()))


def _scaled(x: Array, norm: Float[Array, ""]) -> Array:
    """`x` scaled to a norm; zeros stay what they are."""
    return x * (norm / jnp.maximum(_norm(x), jnp.finfo(x.dtype).tiny))
