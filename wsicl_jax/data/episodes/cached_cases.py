"""Cases of a store as episodes and evaluations use them, in a cache of `volume.cache_gb`."""

import contextlib
import functools
import threading
from typing import Literal

import cachetools
import numpy as np
from cachetools.keys import hashkey

from wsicl_jax.config import VolumeConfig
from wsicl_jax.data.store import Store
from wsicl_jax.data.subject_group import Subject
from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import WorkingGrid, content_box
from wsicl_jax.geometry.intensity import normalise

_LOCK = threading.Lock()

_CONTENT: cachetools.LRUCache = cachetools.LRUCache(100_000)
"""Box of each channel of a case without its margins."""


def working_grid_case(
    store: Store, name: str, channel: int, volume: VolumeConfig, keep: Box | None = None
) -> Subject:
    """A case's image in [0, 1] and its label map on the working grid; read-only and cached.

    Cropping margins never removes voxels of the box `keep`.
    """
    return _cached("working grid", store, name, channel, volume, keep)


def full_resolution_case(store: Store, name: str, channel: int, volume: VolumeConfig) -> Subject:
    """A case's image in [0, 1] and its label map as stored, without the margins that
    `volume.crop` removes; read-only and cached."""
    return _cached("full resolution", store, name, channel, volume, None)


def case_crop(
    store: Store, name: str, channel: int, volume: VolumeConfig, keep: Box | None = None
) -> Box:
    """The part of a case that is used, in its own voxels: all but margins, and the box `keep`.

    A store whose preparation crops is not cropped again.
    """
    case = store.case(name)
    if not volume.crop or store.root.preparation.crop:
        return Box((0, 0, 0), case.shape)
    key = hashkey(store.path, name, case.digest, channel)
    with _LOCK:
        content = _CONTENT.get(key)
    if content is None:
        content = content_box(store.read_image(name, channel))
        with _LOCK:
            _CONTENT[key] = content
    return content if keep is None else content.joined(keep)


def _cached(
    grid: Literal["working grid", "full resolution"],
    store: Store,
    name: str,
    channel: int,
    volume: VolumeConfig,
    keep: Box | None,
) -> Subject:
    crop = case_crop(store, name, channel, volume, keep)
    case = store.case(name)
    key = hashkey(grid, store.path, name, case.digest, channel, volume, crop)
    with _LOCK:
        cache = _cache(volume.cache_gb)
        if (subject := cache.get(key)) is not None:
            return subject
    image, label = (np.ascontiguousarray(x[crop.slices]) for x in store.read(name, channel))
    if store.root.preparation.percentiles is None:
        image = normalise(image, volume.percentiles)
    if grid == "working grid":
        resampling = WorkingGrid.of(crop.extent, case.affine, volume.grid)
        image, label = resampling.image(image), resampling.label(label)
    for shared in (image, label):
        shared.setflags(write=False)
    with _LOCK, contextlib.suppress(ValueError):  # larger than the whole cache
        cache[key] = image, label
    return image, label


@functools.cache
def _cache(gigabytes: float) -> cachetools.LRUCache:
    return cachetools.LRUCache(gigabytes * 1e9, getsizeof=lambda case: sum(x.nbytes for x in case))
