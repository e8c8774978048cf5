"""Global intensity non-linear augmentation (GIN; Ouyang et al., arXiv 2111.12525).

A random convolution network changes the appearance of images. Its size is that of the backbone's
training (arXiv 2503.02410).
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
    """Four convolutions, with 1, 10, 10, 10 and 1 channels."""

    kernels: tuple[Float[Array, "*batch 3 3 3 c_in c_out"], ...]
    biases: Float[Array, "*batch 4 10"]
    """The last layer uses only the first."""
    share: Float[Array, "*batch"]
    """Share of the network's output in the augmented image."""

    @classmethod
    def sample(cls, key: PRNGKeyArray, blend: tuple[float, float]) -> "RandomNetwork":
        """The network of a key: kernels have 1 or 27 voxels; `blend` is the range of `share`."""
        size_key, share_key, kernel_key, bias_key = jax.random.split(key, 4)
        is_pointwise = jax.random.bernoulli(size_key, shape=(_LAYERS,))
        centre = jnp.zeros((3, 3, 3, 1, 1)).at[1, 1, 1].set(1)
        # Scaled by the number of summed voxels and channels, so that activations keep their size.
        window = jnp.where(is_pointwise[:, None, None, None, None, None], centre, 1 / math.sqrt(27))
        kernels = window * jax.random.normal(kernel_key, (_LAYERS, 3, 3, 3, _CHANNELS, _CHANNELS))
        first, *others = kernels
        *between, last = (kernel / math.sqrt(_CHANNELS) for kernel in others)
        return cls(
            (first[..., :1, :], *between, last[..., :1]),
            _BIAS_SD * jax.random.normal(bias_key, (_LAYERS, _CHANNELS)),
            jax.random.uniform(share_key, minval=blend[0], maxval=blend[1]),
        )

    def augmented(self, image: Float[Array, "x y z 1"]) -> Float[Array, "x y z 1"]:
        """The network's output blended with the image, with the image's Euclidean norm.

        The output is scaled to the image's norm before blending, so that `share` is exact, and
        the blend is scaled again. An image of zeros stays zero. On a mesh that divides images,
        norms are those of whole images.
        """
        norm = _norm(image)
        output = _scaled(self._output(image[None])[0], norm)
        return _scaled(self.share * output + (1 - self.share) * image, norm)

    def _output(self, x: Float[Array, "1 x y z 1"]) -> Float[Array, "1 x y z 1"]:
        for number, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = conv3d(jax.nn.leaky_relu(x) if number else x, kernel)
            x = x + bias[: x.shape[-1]]
        return x


def through_random_networks(
    networks: RandomNetwork, images: Float[Array, "batch image x y z 1"]
) -> Float[Array, "batch image x y z 1"]:
    """All images of each row, one after another, through the network of that row."""

    def row(inputs: tuple[RandomNetwork, Array]) -> Array:
        network, images = inputs
        return lax.map(network.augmented, images)

    return lax.map(row, (networks, images))


def _norm(x: Array) -> Float[Array, ""]:
    return jnp.sqrt(sum_over(SPACE, jnp.square(x).sum()))


def _scaled(x: Array, norm: Float[Array, ""]) -> Array:
    """`x` scaled to a norm; zeros stay zero."""
    return x * (norm / jnp.maximum(_norm(x), jnp.finfo(x.dtype).tiny))
