"""Images in memory between requests: as read, and prepared for the network."""

import threading
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from cachetools import LRUCache
from jaxtyping import UInt16

from wsicl_jax.config import InferenceConfig, VolumeConfig
from wsicl_jax.data.images import Volume, read_volume
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference.prepared_images import PreparedImage, content_of, prepare_image
from wsicl_jax.serve.folder import ImageFile

_SHARE_OF_VOLUMES = 0.6
"""Of the memory; the rest is for prepared images."""

_STEPS = np.iinfo(np.uint16).max


class KeptImages:
    """Reads and prepares images, and keeps those that were used last. For several threads."""

    def __init__(self, volume: VolumeConfig, reading: InferenceConfig, cache_gb: float):
        self._config, self._reading = volume, reading
        size = cache_gb * 10**9
        self._volumes = Kept(int(_SHARE_OF_VOLUMES * size), lambda v: v[0].image.nbytes)
        self.prepared_bytes = int((1 - _SHARE_OF_VOLUMES) * size)
        """Most memory of prepared images."""
        self._prepared = Kept(self.prepared_bytes, bytes_of)

    def volume(self, file: ImageFile) -> Volume:
        """An image as it was read; raises `DataError` if it cannot be."""
        return self._read(file)[0]

    def glance(self, file: ImageFile) -> Volume:
        """An image that takes no place of others; raises `DataError` if it cannot be read."""
        kept = self._volumes.peek(file.state)
        return read_volume(file.path, self._reading) if kept is None else kept[0]

    def content(self, file: ImageFile) -> Box:
        """The box of an image without its margins."""
        return self._read(file)[1]

    def prepared(self, file: ImageFile, *, full: bool, crop: Box | None = None) -> PreparedImage:
        """An image on the working grid, in a box (default: its content)."""
        volume, content = self._read(file)
        crop = crop or content
        return self._prepared.get(
            (file.state, full, crop),
            lambda: prepare_image(volume, self._config, full=full, crop=crop),
        )

    def _read(self, file: ImageFile) -> tuple[Volume, Box]:
        def read() -> tuple[Volume, Box]:
            volume = read_volume(file.path, self._reading)
            return volume, content_of(volume, self._config)

        return self._volumes.get(file.state, read)


def for_display(volume: Volume) -> UInt16[np.ndarray, "x y z"]:
    """An image in 65,536 steps from its smallest to its largest value."""
    low, high = volume.image.min(), volume.image.max()
    scale = np.float32(_STEPS) / (high - low) if high > low else np.float32(0)
    return np.clip(np.rint((volume.image - low) * scale), 0, _STEPS).astype(np.uint16)


class Kept:
    """Values by key, made once, that share an amount of memory; a larger one is not kept."""

    def __init__(self, most_bytes: int, size: Callable[[Any], int]):
        self._cache: LRUCache = LRUCache(most_bytes, size)
        # One value is made at a time, so that two requests do not read one image twice.
        self._lock = threading.Lock()

    def peek(self, key: Hashable) -> Any:
        """A value that is kept, or None."""
        with self._lock:
            return self._cache.get(key)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._cache:
                return self._cache[key]
            value = make()
            if self._cache.getsizeof(value) <= self._cache.maxsize:
                self._cache[key] = value
            return value


def bytes_of(image: PreparedImage) -> int:
    """Memory of a prepared image."""
    return image.image.nbytes + (0 if image.full is None else image.full.nbytes)
