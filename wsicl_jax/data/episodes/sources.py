"""Where episodes get their subjects: stores of real cases, and synthetic cohorts.

A source draws a group of subjects that share one structure: the structure first, then cases
that have it, so that rare structures are shown as well.
"""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import cachetools
import numpy as np
from cachetools.keys import hashkey
from jaxtyping import Bool, Float, Integer

from wsicl_jax.config import EpisodeConfig, SynthConfig, VolumeConfig
from wsicl_jax.data.catalogue import SourceGrid
from wsicl_jax.data.datasets import DataSet
from wsicl_jax.data.episodes.crops import FullResolutionCase, random_crops
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.data.store import Store
from wsicl_jax.data.synthesis.cohort import draw_cohort
from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import WorkingGrid, content_box
from wsicl_jax.geometry.intensity import normalise

_TRIES = 100
"""Draws before a source is given up as unable to show a structure on the working grid."""

_COMPARED_LABELS = 16
"""Up to so many labels it is faster to compare with each than to look voxels up in a table."""

_CLOSE_TRIES = 4
"""Close views that are drawn before the whole is shown instead."""

_CLOSE_SYNTHETIC = 2
"""Synthetic cohorts that are seen from close by have so many times the voxels along an axis."""

_HIDDEN = 16
"""Cases passed over, since they do not show a structure there, before another one is drawn."""


class Group(NamedTuple):
    """Subjects on the working grid with one structure: the target first, then its contexts."""

    images: list[Float[np.ndarray, "x y z"]]
    masks: list[Bool[np.ndarray, "x y z"]]


Subject = tuple[Float[np.ndarray, "x y z"], Integer[np.ndarray, "x y z"]]
"""Image in [0, 1] and label map of one subject, on the working grid."""


class Source(Protocol):
    """Draws groups of subjects that share a structure."""

    @property
    def structure_weight(self) -> float:
        """How many structures it has, each counted by its weight."""
        ...

    def group(self, index: int, count: int, rng: np.random.Generator) -> Group:
        """`count` subjects for episode `index`, with one structure."""
        ...


class SyntheticSource:
    """A new cohort for every episode, with a random union of its labels, or with one of them."""

    structure_weight = 1.0
    """Its structures are never the same twice; they count as one."""

    def __init__(
        self,
        seed: int,
        volume: VolumeConfig,
        episode: EpisodeConfig,
        settings: SynthConfig = SynthConfig(),  # noqa: B008 - frozen
    ):
        self.seed = seed
        self.volume = volume
        self.max_labels = episode.max_labels if episode.structures == "random" else 1
        self.min_voxels = episode.min_voxels
        self.crop_share = episode.crop_share
        self.settings = settings

    def group(self, index: int, count: int, rng: np.random.Generator) -> Group:
        seed = (self.seed, RandomStream.TRAINING_COHORT, index)
        if self.crop_share and rng.random() < self.crop_share:
            return self._cropped_group(seed, count, rng)
        subjects, labels = synthetic_subjects(
            seed,
            self.volume,
            count,
            structures=1,
            min_voxels=self.min_voxels,
            settings=self.settings,
        )
        return group_of(subjects, _draw_labels(labels, self.max_labels, rng))

    def _cropped_group(self, seed: tuple[int, ...], count: int, rng: np.random.Generator) -> Group:
        """A part of a cohort that is drawn twice as finely."""
        x, y, z = (_CLOSE_SYNTHETIC * side for side in self.volume.grid)
        subjects, labels = synthetic_subjects(
            seed,
            replace(self.volume, grid=(x, y, z)),
            count,
            structures=1,
            min_voxels=self.min_voxels * _CLOSE_SYNTHETIC**3,
            settings=self.settings,
        )
        images, masks = group_of(subjects, _draw_labels(labels, self.max_labels, rng))
        grid = WorkingGrid.of((x, y, z), np.eye(4), self.volume.grid)
        own = [
            FullResolutionCase(i, m, np.eye(4), grid) for i, m in zip(images, masks, strict=True)
        ]
        if (group := _cropped_group(own, self.min_voxels, rng)) is not None:
            return group
        return Group([grid.image(image) for image in images], [grid.label(mask) for mask in masks])


def _cropped_group(
    cases: Sequence[FullResolutionCase], min_voxels: int, rng: np.random.Generator
) -> Group | None:
    """A close view of these cases that shows the structure in all of them, if one is found."""
    for _ in range(_CLOSE_TRIES):
        views = random_crops(cases, rng)
        if views is None:
            return None
        if all(is_visible(mask, min_voxels) for _, mask in views):
            return Group([image for image, _ in views], [mask for _, mask in views])
    return None


def synthetic_subjects(
    seed: tuple[int, ...],
    volume: VolumeConfig,
    count: int,
    *,
    structures: int,
    min_voxels: int,
    settings: SynthConfig = SynthConfig(),  # noqa: B008 - frozen
) -> tuple[list[Subject], Integer[np.ndarray, "label"]]:
    """Subjects of a seed's cohort, and the labels that are large enough in all of them.

    Large enough are `min_voxels`, and the smallest share of the settings. Cohorts with fewer than
    `structures` such labels are passed over.

    Raises:
        DataError: the working grid is too small for any.
    """
    smallest = max(min_voxels, settings.min_structure_share * math.prod(volume.grid))
    for attempt in range(_TRIES):
        cohort = draw_cohort((*seed, attempt), volume.grid, settings)
        drawn = [cohort.subject(i) for i in range(count)]
        sizes = [np.bincount(label.ravel(), minlength=cohort.structures + 1) for _, label in drawn]
        labels = 1 + np.flatnonzero(np.min(sizes, axis=0)[1:] >= smallest)
        if labels.size >= structures:
            return [(normalise(i, volume.percentiles), label) for i, label in drawn], labels
    raise DataError(f"no synthetic cohort shows {structures} structures at {volume.grid} voxels")


def group_of(subjects: Sequence[Subject], labels: Sequence[int] | np.ndarray) -> Group:
    """The subjects with the union of these labels as their structure."""
    return Group(
        [image for image, _ in subjects], [mask_of(label, labels) for _, label in subjects]
    )


def mask_of(
    label: Integer[np.ndarray, "x y z"], labels: Sequence[int] | np.ndarray
) -> Bool[np.ndarray, "x y z"]:
    """Where a label map has any of these labels."""
    if len(labels) > _COMPARED_LABELS:
        return np.isin(label, labels)
    mask = label == labels[0]
    for value in labels[1:]:
        mask |= label == value
    return mask


def is_visible(mask: Bool[np.ndarray, "x y z"], min_voxels: int) -> bool:
    """Whether a structure can be seen: it has enough voxels, and something lies around it."""
    return bool(np.count_nonzero(mask) >= min_voxels and not mask.all())


class StoreSource:
    """Training cases of a store, with one of their structures.

    Raises:
        DataError: too few subjects have a structure that is named, or any structure at all.
    """

    def __init__(self, dataset: DataSet, volume: VolumeConfig, episode: EpisodeConfig):
        self.volume = volume
        self.max_labels = episode.max_labels
        self.min_voxels = episode.min_voxels
        self.crop_share = episode.crop_share
        self.channels = np.array(dataset.channels)
        self.cases = dataset.cases("train")
        """Names of the cases; structures have theirs by position."""
        numbers: dict[str, int] = {}
        self.subjects = np.array(
            [numbers.setdefault(dataset.subjects[name], len(numbers)) for name in self.cases],
            np.int32,
        )
        """The number of each case's subject."""
        self.store = _for_reading(dataset.store, self.cases)
        self.are_united = episode.structures == "random"
        self.structures: list[_Structure] = []
        weights: list[float] = []
        position = {name: i for i, name in enumerate(self.cases)}
        group, most = episode.contexts[1] + 1, 0
        for name, labels, weight in _drawn(dataset, episode):
            names = dataset.having(labels, "train")
            having = np.array([position[case] for case in names], np.int32)
            subjects = len(np.unique(self.subjects[having]))
            most = max(most, subjects)
            if subjects >= group:
                self.structures.append(_Structure(labels, having))
                weights.append(weight)
            elif episode.structures == "named" and dataset.settings.structures:
                raise DataError(
                    f"structure {name!r} of {dataset.store.path} is in the training cases of "
                    f"{subjects} subjects; a target with {group - 1} contexts needs {group}: lower "
                    "episode.contexts, or give it the weight 0"
                )
        if not self.structures:
            raise DataError(
                f"{dataset.store.path} has no label in {group} training cases (at most {most}), of "
                f"a subject each, as a target with {group - 1} contexts needs; lower "
                "episode.contexts"
            )
        self.structure_weight = float(np.sum(weights))
        self._shares = np.array(weights) / self.structure_weight

    def group(self, index: int, count: int, rng: np.random.Generator) -> Group:
        channel = int(rng.choice(self.channels))
        for _ in range(_TRIES):
            labels, cases = self._draw_structure(rng)
            images, masks, taken = [], [], []
            hidden, shown = 0, set()
            for case in rng.permutation(cases):
                if self.subjects[case] in shown:
                    continue
                image, label = prepared_case(self.store, self.cases[case], channel, self.volume)
                mask = mask_of(label, labels)
                if is_visible(mask, self.min_voxels):
                    shown.add(self.subjects[case])
                    images.append(image)
                    masks.append(mask)
                    taken.append(self.cases[case])
                    if len(images) == count:
                        close = self._cropped_group(taken, channel, labels, rng)
                        return close or Group(images, masks)
                elif (hidden := hidden + 1) == _HIDDEN:
                    break
        raise DataError(
            f"{self.store.path}: {_TRIES} draws showed no structure of {self.min_voxels} voxels "
            f"at {self.volume.grid} in {count} cases; use a larger volume.grid"
        )

    def _cropped_group(
        self, cases: Sequence[str], channel: int, labels: Sequence[int], rng: np.random.Generator
    ) -> Group | None:
        if not self.crop_share or rng.random() >= self.crop_share:
            return None
        own = []
        for name in cases:
            image, label = full_resolution_case(self.store, name, channel, self.volume)
            affine = self.store.case(name).affine
            grid = WorkingGrid.of(label.shape, affine, self.volume.grid)
            own.append(FullResolutionCase(image, mask_of(label, labels), affine, grid))
        return _cropped_group(own, self.min_voxels, rng)

    def _draw_structure(self, rng: np.random.Generator) -> "_Structure":
        if not self.are_united:
            return self.structures[rng.choice(len(self.structures), p=self._shares)]
        # One of the drawn labels picks the cases, the others join where they are.
        numbers = _draw_labels(np.arange(len(self.structures)), self.max_labels, rng)
        labels = tuple(label for i in numbers for label in self.structures[i].labels)
        return _Structure(labels, self.structures[rng.choice(numbers)].cases)


class _Structure(NamedTuple):
    labels: tuple[int, ...]
    """Labels that it unites."""
    cases: Integer[np.ndarray, "case"]
    """Positions of the cases that have it."""


def _drawn(dataset: DataSet, episode: EpisodeConfig) -> list[tuple[str, tuple[int, ...], float]]:
    """Name, labels and weight of each structure that training may draw."""
    if episode.structures == "random":
        return [(str(label), (label,), 1.0) for label in dataset.labels]
    allowed, weights = set(dataset.labels), dataset.settings.structure_weights
    drawn = [
        (name, labels, weights.get(name, 1.0))
        for name, labels in dataset.structures.items()
        if allowed.issuperset(labels)
    ]
    found = [(name, labels, weight) for name, labels, weight in drawn if weight]
    if not found:
        raise DataError(
            f"{dataset.store.path}: labels and structure_weights leave none of the structures "
            f"{list(dataset.structures)} to train on; change them, or give the data set weight 0"
        )
    return found


def _for_reading(store: Store, names: Collection[str]) -> Store:
    """The store with what reading these cases takes alone: each worker is sent it."""
    catalogue = {}
    for name in names:
        case = store.catalogue[name]
        own = SourceGrid((), case.affine, WorkingGrid(case.shape, case.shape))
        catalogue[name] = replace(case, voxel_counts={}, boxes={}, source=own, remarks=())
    return replace(store, catalogue=catalogue)


def prepared_case(
    store: Store, name: str, channel: int, volume: VolumeConfig, keep: Box | None = None
) -> Subject:
    """A case's image in [0, 1] and its label map on the working grid; read-only and cached.

    Where margins are cut off, what lies in the box `keep` stays.
    """
    return _cached("on the working grid", _prepared, store, name, channel, volume, keep)


def full_resolution_case(store: Store, name: str, channel: int, volume: VolumeConfig) -> Subject:
    """A case's image in [0, 1] and its label map as they are stored, without the margins that
    are cut off; read-only and cached."""
    return _cached("on its own grid", _normalised, store, name, channel, volume, None)


def case_crop(
    store: Store, name: str, channel: int, volume: VolumeConfig, keep: Box | None = None
) -> Box:
    """What is taken of a case, in its own voxels: all but margins, and what lies in `keep`.

    A store that was cropped as it was made is not cropped again.
    """
    case = store.case(name)
    if not volume.crop or store.root.preparation.crop:
        return Box((0, 0, 0), case.shape)
    key = hashkey(store.path, name, case.digest, channel)
    with _CACHE_LOCK:
        content = _CONTENT.get(key)
    if content is None:
        content = content_box(store.read(name, channel)[0])
        with _CACHE_LOCK:
            _CONTENT[key] = content
    return content if keep is None else content.joined(keep)


def _cached(
    how: str,
    read: Callable[[Store, str, int, VolumeConfig, Box], Subject],
    store: Store,
    name: str,
    channel: int,
    volume: VolumeConfig,
    keep: Box | None,
) -> Subject:
    crop = case_crop(store, name, channel, volume, keep)
    key = hashkey(how, store.path, name, store.case(name).digest, channel, volume, crop)
    with _CACHE_LOCK:
        cache = _cache(volume.cache_gb)
        if (found := cache.get(key)) is not None:
            return found
    subject = read(store, name, channel, volume, crop)
    for shared in subject:
        shared.setflags(write=False)
    with _CACHE_LOCK, contextlib.suppress(ValueError):  # larger than the whole cache
        cache[key] = subject
    return subject


_CACHE_LOCK = threading.Lock()

_CONTENT: cachetools.LRUCache = cachetools.LRUCache(100_000)
"""What is left of a case's channel without its margins."""


@functools.cache
def _cache(gigabytes: float) -> cachetools.LRUCache:
    return cachetools.LRUCache(gigabytes * 1e9, getsizeof=lambda case: sum(x.nbytes for x in case))


def _normalised(store: Store, name: str, channel: int, volume: VolumeConfig, crop: Box) -> Subject:
    image, label = (np.ascontiguousarray(x[crop.slices]) for x in store.read(name, channel))
    if store.root.preparation.percentiles is None:
        image = normalise(image, volume.percentiles)
    return image, label


def _prepared(store: Store, name: str, channel: int, volume: VolumeConfig, crop: Box) -> Subject:
    grid = WorkingGrid.of(crop.extent, store.case(name).affine, volume.grid)
    image, label = _normalised(store, name, channel, volume, crop)
    return grid.image(image), grid.label(label)


def _draw_labels(labels: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(1, min(most, len(labels)) + 1))
    return rng.choice(labels, count, replace=False)
