"""Anatomies from the cases of stores instead of random shapes: their label maps, and with
`synth.prior_image` their images."""

import functools
import itertools
import threading
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import cachetools
import numpy as np
from jaxtyping import Float, Integer

from wsicl_jax.config import PriorConfig, SynthConfig, VolumeConfig
from wsicl_jax.data.store import Store
from wsicl_jax.data.synthesis.anatomy import paint_body, paint_distractors
from wsicl_jax.data.synthesis.canvas import Anatomy, Canvas
from wsicl_jax.data.synthesis.fields import linear, nearest, sample_deformation
from wsicl_jax.data.synthesis.shapes import Region
from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.geometry.grids import WorkingGrid, resize, resize_nearest
from wsicl_jax.geometry.intensity import normalise

_CACHE_BYTES = 512 * 1024**2
"""Memory for cases, per process."""

_MAX_OVERSAMPLING = 2
"""Largest resolution of cached cases, relative to an anatomy, along an axis; crops need no more."""

_MAX_LABELS = 200
"""Most labels of a case that are painted; a canvas has 255 tissues."""

_CROP_SHARE = (0.35, 0.9)
"""Range of a crop's share of a side."""


def sample_prior(rng: np.random.Generator, settings: SynthConfig) -> PriorConfig | None:
    """The prior of a cohort; None: its anatomy has random shapes. A single choice uses no random
    number."""
    choices: list[PriorConfig | None] = [*settings.priors]
    weights = [prior.weight for prior in settings.priors]
    if settings.shapes_weight or not choices:
        choices.append(None)
        weights.append(settings.shapes_weight or 1.0)
    if len(choices) == 1:
        return choices[0]
    return choices[rng.choice(len(choices), p=np.array(weights) / sum(weights))]


def prior_anatomy(
    rng: np.random.Generator,
    shape: Shape3,
    settings: SynthConfig,
    prior: PriorConfig,
    deformation: float,
) -> Anatomy:
    """A random case of a prior, or a part of it, mirrored, with labels dropped and united, and
    deformed by a typical displacement that is a share of half the volume.

    With its image by the probability `synth.prior_image`. It has no label where those of the case
    are too small for this shape.

    Raises:
        DataError: the store cannot be read, has no case, or a case has no label.
    """
    store = open_prior(prior.store)
    if not store.cases:
        raise DataError(f"synth.priors: {prior.store} has no case")
    name = store.cases[rng.integers(len(store.cases))]
    keeps = bool(settings.prior_image) and rng.random() < settings.prior_image
    channel = int(rng.integers(len(store.channel_names))) if keeps else None
    case = _read(prior.store, name, channel, shape)
    if settings.prior_crop and rng.random() < settings.prior_crop:
        case = _cropped(rng, case)
    mirror = tuple(slice(None, None, rng.choice([-1, 1])) for _ in range(3))
    positions = sample_deformation(rng, shape, shape, bend=deformation, pose=deformation)
    labels = nearest(resize_nearest(case.labels, shape)[mirror], positions)
    labels, names = _united(rng, labels, store.label_names)
    if not store.case(name).voxel_counts:
        raise DataError(f"synth.priors: case {name} of {prior.store} has no label")
    canvas = Canvas(shape)
    if case.image is None:
        paint_body(canvas, rng, settings)
        paint_distractors(canvas, rng, settings)
    everywhere = (slice(None),) * 3
    for group, kept in _groups(rng, [*names], settings):
        label = 0
        if kept:
            label = len(canvas.names) + 1
            canvas.names[label] = " + ".join(names[value] for value in group)
        for value in group:
            canvas.paint(Region(everywhere, labels == value), label)
    image = None if case.image is None else linear(resize(case.image, shape)[mirror], positions)
    return replace(canvas.finished(), image=image)


@functools.lru_cache(maxsize=64)
def open_prior(path: str) -> Store:
    """The store of a prior, opened once per process.

    Raises:
        DataError: it cannot be read.
    """
    return Store.open(path)


def priors_fingerprint(settings: SynthConfig) -> int:
    """A number that changes with the cases of the priors; 0 without priors.

    Raises:
        DataError: a store cannot be read.
    """
    if not settings.priors:
        return 0
    stores = [open_prior(prior.store) for prior in settings.priors]
    digests = [(name, store.case(name).digest) for store in stores for name in store.cases]
    return zlib.crc32(repr(digests).encode())


def _united(
    rng: np.random.Generator, labels: Integer[np.ndarray, "x y z"], names: Mapping[int, str]
) -> tuple[Integer[np.ndarray, "x y z"], dict[int, str]]:
    """Labels, and the names of those that occur; above `_MAX_LABELS`, random ones become one."""
    found = {int(value): names[value] for value in np.unique(labels) if value}
    if len(found) <= _MAX_LABELS:
        return labels, found
    labels = labels.copy()
    kept, others = np.split(rng.permutation([*found]), [_MAX_LABELS])
    for value, other in zip(itertools.cycle(kept.tolist()), others.tolist()):
        labels[labels == other] = value
        found[value] += f" + {found.pop(other)}"
    return labels, found


def _groups(
    rng: np.random.Generator, values: list[int], settings: SynthConfig
) -> list[tuple[list[int], bool]]:
    """Groups of united labels, and whether each keeps a label; at least one does."""
    groups: list[list[int]] = []
    for value in rng.permutation(values).tolist():
        if groups and rng.random() < settings.prior_merge:
            groups[rng.integers(len(groups))].append(value)
        else:
            groups.append([value])
    groups = sorted(sorted(group) for group in groups)
    kept = rng.random(len(groups)) >= settings.prior_drop
    if groups:
        kept[rng.integers(len(groups))] = True
    return list(zip(groups, kept.tolist(), strict=True))


class _Case(NamedTuple):
    """A case turned to RAS+."""

    labels: Integer[np.ndarray, "x y z"]
    image: Float[np.ndarray, "x y z"] | None
    """In [0, 1]; None: not requested."""


def _cropped(rng: np.random.Generator, case: _Case) -> _Case:
    """A random crop of a case that contains a voxel of one of its labels."""
    values = np.unique(case.labels)
    values = values[values > 0]
    if not values.size:
        return case
    inside = np.flatnonzero(case.labels == rng.choice(values))
    sides = np.array(case.labels.shape)
    voxel = np.unravel_index(rng.choice(inside), case.labels.shape)
    size = np.clip(sides * rng.uniform(*_CROP_SHARE) * rng.uniform(0.85, 1.15, 3), 1, sides).astype(
        int
    )
    start = np.clip(np.array(voxel) - rng.integers(0, size), 0, sides - size)
    box = Box(tuple(start.tolist()), tuple((start + size).tolist()))
    image = None if case.image is None else case.image[box.slices]
    return _Case(case.labels[box.slices], image)


@cachetools.cached(
    cachetools.LRUCache(
        _CACHE_BYTES, getsizeof=lambda case: sum(x.nbytes for x in case if x is not None)
    ),
    lock=threading.Lock(),
)
def _read(path: str, name: str, channel: int | None, shape: Shape3) -> _Case:
    """A case, resampled for anatomies of this shape."""
    store = open_prior(path)
    entry = store.case(name)
    turned = WorkingGrid.of(entry.shape, entry.affine).turned_shape
    x, y, z = (
        min(size, _MAX_OVERSAMPLING * side) for size, side in zip(turned, shape, strict=True)
    )
    grid = WorkingGrid.of(entry.shape, entry.affine, (x, y, z))
    if channel is None:
        case = _Case(grid.label(store.read_label(name)), None)
    else:
        image, label = store.read(name, channel)
        if store.root.preparation.percentiles is None:
            image = normalise(image, VolumeConfig().percentiles)
        case = _Case(grid.label(label), grid.image(image))
    for array in case:
        if array is not None:
            array.setflags(write=False)
    return case
