"""Registration of images on one grid, so that context images fit the target.

It increases the squared local correlation of two images (`ascent`) step by step, from coarse to
fine. This measure depends neither on brightness and contrast nor on the sign of the contrast. First
the image is moved as a whole (`affine`), then it is deformed (`deformation`).
"""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wsicl_jax.geometry.registration.affine import best_affine
from wsicl_jax.geometry.registration.deformation import deformed
from wsicl_jax.geometry.registration.resampling import warped

VERSION = 3
"""Of the method and of what is done with registered prompts: another number means other predictions
of networks that use it."""

_CACHED = 32
"""Pairs of images whose displacement is kept, for targets that are segmented repeatedly."""


def registered(
    target: Float[np.ndarray, "x y z"],
    images: Sequence[Float[np.ndarray, "x y z"]] | Float[np.ndarray, "context x y z"],
    *others: Float[np.ndarray, "context x y z"],
) -> list[Float[np.ndarray, "context x y z"]]:
    """Context images and what belongs to them, moved and deformed so that they fit the target.

    `others` are arrays with one volume for each image, such as prompt channels.

    An image that equals the target does not change. If the target is constant, none changes.
    """
    fields = [displacement(target, image) for image in images]
    return [
        np.stack([warped(*pair) for pair in zip(volumes, fields, strict=True)])
        for volumes in (images, *others)
    ]


def displacement(
    target: Float[np.ndarray, "x y z"], image: Float[np.ndarray, "x y z"]
) -> Float[np.ndarray, "3 x y z"]:
    """Where each voxel of the target lies in the image, minus its own index; in voxels.

    The results of the last calls are kept.
    """
    pair = _Pair(target, image)
    field = _displacement(pair)
    pair.forget()  # it may be a key of the cache from now on
    return field


class _Pair:
    """Two images as a key: it equals other keys with the same content."""

    def __init__(self, target: np.ndarray, image: np.ndarray):
        self.target, self.image = target, image
        digest = hashlib.blake2b(repr((target.shape, image.shape)).encode(), digest_size=16)
        for volume in (target, image):
            digest.update(np.ascontiguousarray(volume, np.float32))
        self._digest = digest.digest()

    def forget(self) -> None:
        """Free the images: the cache needs no more than the key."""
        del self.target, self.image

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pair) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)


@functools.lru_cache(_CACHED)
def _displacement(pair: _Pair) -> Float[np.ndarray, "3 x y z"]:
    shape = pair.target.shape
    if np.array_equal(pair.target, pair.image):
        return np.zeros((3, *shape), np.float16)
    affine = best_affine(pair.target, pair.image)
    # Half precision: a thousandth of a voxel, and half the memory of the cache.
    kept = deformed(pair.target, pair.image, affine).astype(np.float16)
    kept.setflags(write=False)  # all calls with these images share it
    return kept
