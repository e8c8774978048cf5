"""Where episodes get their subjects: stores of real cases, and synthetic cohorts.

A source draws a group of subjects that share one structure. A store's cases are
split into training and validation by the run's seed alone, so that training and
evaluation agree without a file between them.
"""

import threading
import zlib
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

import cachetools
import numpy as np
from cachetools.keys import hashkey
from jaxtyping import Bool, Float, Integer

from wsicl_jax.config import DatasetConfig, EpisodeConfig, VolumeConfig
from wsicl_jax.data.store import Store
from wsicl_jax.data.synth import Cohort, draw_cohort
from wsicl_jax.errors import DataError
from wsicl_jax.geometry import WorkingGrid
from wsicl_jax.intensity import normalise

_CACHE_BYTES = 2 * 1024**3
"""Memory for cases that are ready on the working grid, per process."""

_TRIES = 100
"""Draws before a source is given up as unable to show a structure on the working grid."""

SMALLEST_STRUCTURE = 8
"""Voxels on the working grid below which a structure is not shown: nobody could see it."""

TRAINING, UNSEEN = 0, 1
"""Streams of synthetic cohorts: those of training, and those kept for evaluation."""


class Group(NamedTuple):
    """Subjects on the working grid with one structure: the target first, then its contexts."""

    images: list[Float[np.ndarray, "x y z"]]
    masks: list[Bool[np.ndarray, "x y z"]]


Subject = tuple[Float[np.ndarray, "x y z"], Integer[np.ndarray, "x y z"]]
"""Image in [0, 1] and label map of one subject, on the working grid."""


class Source(Protocol):
    """Draws groups of subjects that share a structure."""

    def group(self, index: int, count: int, rng: np.random.Generator) -> Group:
        """`count` subjects for episode `index`, with one structure."""
        ...


class SyntheticSource:
    """A new cohort for every episode."""

    def __init__(self, seed: int, volume: VolumeConfig, episode: EpisodeConfig):
        self.seed = seed
        self.volume = volume
        self.max_labels = episode.max_labels

    def group(self, index: int, count: int, rng: np.random.Generator) -> Group:
        cohort = draw_cohort((self.seed, TRAINING, index), self.volume.grid)
        subjects = synthetic_subjects(cohort, self.volume, count)
        return synthetic_group(subjects, self.max_labels, rng)


def synthetic_subjects(cohort: Cohort, volume: VolumeConfig, count: int) -> list[Subject]:
    """Subjects 0 to `count - 1` of a cohort, intensities as the network expects them."""
    subjects = [cohort.subject(i) for i in range(count)]
    return [(normalise(image, volume.percentiles), label) for image, label in subjects]


def synthetic_group(
    subjects: Sequence[Subject],
    max_labels: int,
    rng: np.random.Generator,
    avoid: Group | None = None,
) -> Group:
    """The subjects with a random union of their structures, none of which is in `avoid`.

    Raises:
        DataError: no such union is visible in every subject.
    """
    images = [image for image, _ in subjects]
    labels = np.setdiff1d(subjects[0][1], 0)
    if avoid is not None:
        taken = np.unique(subjects[0][1][avoid.masks[0]])
        labels = np.setdiff1d(labels, taken)
    for _ in range(_TRIES if labels.size else 0):
        drawn = _draw_labels(labels, max_labels, rng)
        masks = [np.isin(label, drawn) for _, label in subjects]
        if _visible(masks):
            return Group(images, masks)
    raise DataError(
        f"a synthetic cohort shows no structure of {SMALLEST_STRUCTURE} voxels at "
        f"{images[0].shape}; use a larger volume.grid"
    )


class StoreSource:
    """Training cases of a store, with a random union of the labels that they have."""

    def __init__(
        self, dataset: DatasetConfig, volume: VolumeConfig, episode: EpisodeConfig, seed: int
    ):
        self.store = Store.open(dataset.store)
        self.volume = volume
        self.max_labels = episode.max_labels
        training, _ = split(self.store, episode.validation_share, seed)
        present = {name: set(self.store.case(name).voxel_counts) for name in training}
        self.cases_with = {
            label: [name for name in training if label in present[name]]
            for label in sorted(self.store.label_names)
        }
        group = episode.contexts[1] + 1
        self.labels = [k for k, cases in self.cases_with.items() if len(cases) >= group]
        if not self.labels:
            most = max((len(cases) for cases in self.cases_with.values()), default=0)
            raise DataError(
                f"{dataset.store} has no label in {group} training cases (at most {most}), as "
                f"a target with {group - 1} contexts needs; lower episode.contexts"
            )

    def group(self, index: int, count: int, rng: np.random.Generator) -> Group:
        channel = int(rng.integers(len(self.store.channel_names)))
        for _ in range(_TRIES):
            labels = _draw_labels(np.array(self.labels), self.max_labels, rng)
            # One of the drawn labels picks the cases, the others join where they are.
            cases = self.cases_with[int(rng.choice(labels))]
            chosen = rng.choice(len(cases), count, replace=False)
            subjects = [prepared_case(self.store, cases[i], channel, self.volume) for i in chosen]
            masks = [np.isin(label, labels) for _, label in subjects]
            if _visible(masks):
                return Group([image for image, _ in subjects], masks)
        raise DataError(
            f"{self.store.path}: {_TRIES} draws showed no structure of {SMALLEST_STRUCTURE} "
            f"voxels at {self.volume.grid} in {count} cases; use a larger volume.grid"
        )


def split(store: Store, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Training and validation cases, each sorted: at least one of each where there are two.

    Which cases are kept for validation follows from the seed and the case names alone.
    """
    names = list(store.cases)
    kept = min(max(round(share * len(names)), 1 if share else 0), max(len(names) - 1, 0))
    rng = np.random.default_rng([seed, zlib.crc32(store.name.encode())])
    validation = {names[i] for i in rng.permutation(len(names))[:kept]}
    return [n for n in names if n not in validation], sorted(validation)


def _case_key(store: Store, name: str, channel: int, volume: VolumeConfig):
    return hashkey(str(store.path), name, channel, volume)


@cachetools.cached(
    cachetools.LRUCache(_CACHE_BYTES, getsizeof=lambda case: case[0].nbytes + case[1].nbytes),
    key=_case_key,
    lock=threading.Lock(),
)
def prepared_case(store: Store, name: str, channel: int, volume: VolumeConfig) -> Subject:
    """A case's image in [0, 1] and its label map, both on the working grid."""
    case = store.case(name)
    grid = WorkingGrid.of(case.shape, case.affine, volume.grid)
    image = grid.image(normalise(store.read_image(name, channel), volume.percentiles))
    return image, grid.label(store.read_label(name))


def _draw_labels(labels: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(1, min(most, len(labels)) + 1))
    return rng.choice(labels, count, replace=False)


def _visible(masks: Collection[np.ndarray]) -> bool:
    return all(mask.sum() >= SMALLEST_STRUCTURE and not mask.all() for mask in masks)
