import jax
import numpy as np
from scipy import ndimage

from wsicl_jax.data.augmentation.gin import RandomNetwork

QUICKLY = {"xla_backend_optimization_level": 0}


def reference(network: RandomNetwork, image: np.ndarray) -> np.ndarray:
    """Each layer by scipy, then both scalings."""
    x = image[None]
    for number, (kernel, bias) in enumerate(zip(network.kernels, network.biases, strict=True)):
        x = np.where(x > 0, x, 0.01 * x) if number else x
        x = np.stack(
            [
                bias[out]
                + sum(
                    ndimage.correlate(part, kernel[..., i, out], mode="constant")
                    for i, part in enumerate(x)
                )
                for out in range(kernel.shape[-1])
            ]
        )
    norm = np.linalg.norm(image)
    mixed = network.share * x[0] * norm / np.linalg.norm(x[0]) + (1 - network.share) * image
    return mixed * norm / np.linalg.norm(mixed)


def drawn(count: int) -> RandomNetwork:
    """Networks of as many keys, along a first axis."""
    keys = jax.random.split(jax.random.key(0), count)
    draw = jax.vmap(lambda key: RandomNetwork.sample(key, (0.7, 1.0)))
    return jax.device_get(jax.jit(draw, compiler_options=QUICKLY)(keys))


def test_an_image_is_changed_as_by_a_network_of_four_convolutions():
    image = np.random.default_rng(0).random((5, 6, 4)).astype(np.float32)
    change = jax.jit(RandomNetwork.augmented, compiler_options=QUICKLY)
    networks = drawn(3)
    for parts in zip(*jax.tree.leaves(networks), strict=True):
        network = jax.tree.unflatten(jax.tree.structure(networks), parts)
        given = change(network, image[..., None])[..., 0]
        np.testing.assert_allclose(given, reference(network, image), atol=1e-5)
        same = change(network._replace(share=np.float32(0)), image[..., None])[..., 0]
        np.testing.assert_allclose(same, image, atol=1e-6)


def test_networks_are_of_the_published_size_with_layers_of_1_or_27_voxels():
    networks = drawn(200)
    channels = [kernel.shape[-2:] for kernel in networks.kernels]
    assert channels == [(1, 10), (10, 10), (10, 10), (10, 1)]
    for kernel in networks.kernels:
        seen = (kernel != 0).any((4, 5)).sum((1, 2, 3))
        assert set(seen) == {1, 27}
        assert 70 < (seen == 1).sum() < 130
        # What is summed has the scale of its inputs.
        np.testing.assert_allclose((kernel**2).sum((1, 2, 3, 4)).mean(), 1, rtol=0.15)
    assert 0.7 <= networks.share.min() < 0.75
    assert 0.95 < networks.share.max() <= 1
