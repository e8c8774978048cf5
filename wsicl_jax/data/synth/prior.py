"""Anatomies from the label maps of a store instead of random shapes."""

import functools
import threading
import zlib

import cachetools
import numpy as np
from jaxtyping import Integer

from wsicl_jax.axes import Shape3
from wsicl_jax.config import SynthConfig
from wsicl_jax.data.store import Store
from wsicl_jax.data.synth.anatomy import paint_body, paint_distractors
from wsicl_jax.data.synth.canvas import Anatomy, Canvas
from wsicl_jax.data.synth.fields import displaced
from wsicl_jax.data.synth.shapes import Region
from wsicl_jax.errors import DataError
from wsicl_jax.geometry import WorkingGrid

_CACHE_BYTES = 512 * 1024**2
"""Memory for label maps on the grid of an anatomy, per process."""

_MOST_LABELS = 200


def prior_anatomy(
    rng: np.random.Generator, shape: Shape3, settings: SynthConfig, deformation: float
) -> Anatomy:
    """A random case's label map, mirrored, with labels dropped and united, and deformed by a
    typical displacement that is a share of half the volume.

    Raises:
        DataError: the store cannot be read, has no case, or a case has no label or too many.
    """
    store = _opened(settings.prior)
    if not store.cases:
        raise DataError(f"synth.prior: {settings.prior} has no case")
    name = store.cases[rng.integers(len(store.cases))]
    labels = _resized(settings.prior, name, shape)
    labels = labels[tuple(slice(None, None, rng.choice([-1, 1])) for _ in range(3))]
    labels = displaced(rng, labels, shape, bend=deformation, pose=deformation)
    values = [int(value) for value in np.unique(labels) if value]
    if not 0 < len(values) <= _MOST_LABELS:
        raise DataError(
            f"synth.prior: case {name} of {settings.prior} has {len(values)} labels at {shape} "
            f"voxels; expected 1 to {_MOST_LABELS}"
        )
    canvas = Canvas(shape)
    paint_body(canvas, rng, settings)
    paint_distractors(canvas, rng, settings)
    everywhere = (slice(None),) * 3
    for group, kept in _groups(rng, values, settings):
        label = 0
        if kept:
            label = len(canvas.names) + 1
            canvas.names[label] = " + ".join(store.label_names[value] for value in group)
        for value in group:
            canvas.paint(Region(everywhere, labels == value), label)
    return canvas.finished()


def prior_fingerprint(path: str) -> int:
    """A number that changes with the cases of a prior.

    Raises:
        DataError: the store cannot be read.
    """
    store = _opened(path)
    digests = [(name, store.case(name).digest) for name in store.cases]
    return zlib.crc32(repr(digests).encode())


def _groups(
    rng: np.random.Generator, values: list[int], settings: SynthConfig
) -> list[tuple[list[int], bool]]:
    """Labels that are united, and whether they keep a label; at least one group does."""
    groups: list[list[int]] = []
    for value in rng.permutation(values).tolist():
        if groups and rng.random() < settings.prior_merge:
            groups[rng.integers(len(groups))].append(value)
        else:
            groups.append([value])
    groups = sorted(sorted(group) for group in groups)
    kept = rng.random(len(groups)) >= settings.prior_drop
    kept[rng.integers(len(groups))] = True
    return list(zip(groups, kept.tolist(), strict=True))


@functools.lru_cache(maxsize=8)
def _opened(path: str) -> Store:
    return Store.open(path)


@cachetools.cached(
    cachetools.LRUCache(_CACHE_BYTES, getsizeof=lambda labels: labels.nbytes),
    lock=threading.Lock(),
)
def _resized(path: str, name: str, shape: Shape3) -> Integer[np.ndarray, "x y z"]:
    store = _opened(path)
    case = store.case(name)
    labels = WorkingGrid.of(case.shape, case.affine, shape).label(store.read_label(name))
    labels.setflags(write=False)
    return labels
