"""Where episodes get their subjects: stores of real cases, and synthetic cohorts.

A source draws a group of subjects that share one structure. A store's cases are
split into training and validation by the run's seed alone, so that training and
evaluation agree without a file between them.
"""

import math
import threading
import zlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import cachetools
import numpy as np
from cachetools.keys import hashkey
from jaxtyping import Bool, Float, Integer

from wsicl_jax.config import DatasetConfig, EpisodeConfig, VolumeConfig
from wsicl_jax.data.store import Store
from wsicl_jax.data.synth import draw_cohort
from wsicl_jax.errors import DataError
from wsicl_jax.geometry import WorkingGrid
from wsicl_jax.intensity import normalise
from wsicl_jax.streams import Stream

_CACHE_BYTES = 2 * 1024**3
"""Memory for cases that are ready on the working grid, per process."""

_TRIES = 100
"""Draws before a source is given up as unable to show a structure on the working grid."""

SMALLEST_STRUCTURE = 8
"""Voxels on the working grid below which a structure is not shown: nobody could see it."""

SMALLEST_SYNTHETIC_SHARE = 0.01
"""Share of the working grid that a synthetic structure has at least: 328 voxels at 32^3."""


class Group(NamedTuple):
    """Subjects on the working grid with one structure: the target first, then its contexts."""

    images: list[Float[np.ndarray, "x y z"]]
    masks: list[Bool[np.ndarray, "x y z"]]


Subject = tuple[Float[np.ndarray, "x y z"], Integer[np.ndarray, "x y z"]]
"""Image in [0, 1] and label map of one subject, on the working grid."""


class Source(Protocol):
    """Draws groups of subjects that share a structure."""

    @property
    def fingerprint(self) -> int:
        """A number that changes with the cases to draw from."""
        ...

    def group(self, index: int, count: int, rng: np.random.Generator) -> Group:
        """`count` subjects for episode `index`, with one structure."""
        ...


class SyntheticSource:
    """A new cohort for every episode, with a random union of its structures."""

    def __init__(self, seed: int, volume: VolumeConfig, episode: EpisodeConfig):
        self.seed = seed
        self.volume = volume
        self.max_labels = episode.max_labels
        self.fingerprint = 0

    def group(self, index: int, count: int, rng: np.random.Generator) -> Group:
        seed = (self.seed, Stream.TRAINING_COHORT, index)
        subjects, labels = synthetic_subjects(seed, self.volume, count, structures=1)
        return group_of(subjects, _draw_labels(labels, self.max_labels, rng))


def synthetic_subjects(
    seed: tuple[int, ...], volume: VolumeConfig, count: int, *, structures: int
) -> tuple[list[Subject], Integer[np.ndarray, "label"]]:
    """Subjects of a seed's cohort, and the labels that are large enough in all of them.

    Cohorts with fewer than `structures` such labels are passed over.

    Raises:
        DataError: the working grid is too small for any.
    """
    smallest = SMALLEST_SYNTHETIC_SHARE * math.prod(volume.grid)
    for attempt in range(_TRIES):
        cohort = draw_cohort((*seed, attempt), volume.grid)
        drawn = [cohort.subject(i) for i in range(count)]
        sizes = [np.bincount(label.ravel(), minlength=cohort.structures + 1) for _, label in drawn]
        labels = 1 + np.flatnonzero(np.min(sizes, axis=0)[1:] >= smallest)
        if labels.size >= structures:
            return [(normalise(i, volume.percentiles), label) for i, label in drawn], labels
    raise DataError(f"no synthetic cohort shows {structures} structures at {volume.grid} voxels")


def group_of(subjects: Sequence[Subject], labels: Sequence[int] | np.ndarray) -> Group:
    """The subjects with the union of these labels as their structure."""
    return Group([image for image, _ in subjects], [np.isin(mask, labels) for _, mask in subjects])


class StoreSource:
    """Training cases of a store, with a random union of the labels that they have."""

    def __init__(
        self, dataset: DatasetConfig, volume: VolumeConfig, episode: EpisodeConfig, seed: int
    ):
        self.store = Store.open(dataset.store)
        self.volume = volume
        self.max_labels = episode.max_labels
        training, _ = split(self.store, episode.validation_share, seed)
        counts = {name: self.store.case(name).voxel_counts for name in self.store.cases}
        self.fingerprint = zlib.crc32(repr(sorted(counts.items())).encode())
        self.cases_with = {
            label: [name for name in training if label in counts[name]]
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
            group = group_of(subjects, labels)
            if all(m.sum() >= SMALLEST_STRUCTURE and not m.all() for m in group.masks):
                return group
        raise DataError(
            f"{self.store.path}: {_TRIES} draws showed no structure of {SMALLEST_STRUCTURE} "
            f"voxels at {self.volume.grid} in {count} cases; use a larger volume.grid"
        )


def split(store: Store, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Training and validation cases, each sorted: at least one of each where there are two.

    Which cases are kept for validation follows from the seed and the names alone: the
    data set's and its cases'.
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
    """A case's image in [0, 1] and its label map on the working grid; read-only and cached."""
    case = store.case(name)
    grid = WorkingGrid.of(case.shape, case.affine, volume.grid)
    image = grid.image(normalise(store.read_image(name, channel), volume.percentiles))
    label = grid.label(store.read_label(name))
    for shared in (image, label):
        shared.setflags(write=False)
    return image, label


def _draw_labels(labels: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(1, min(most, len(labels)) + 1))
    return rng.choice(labels, count, replace=False)
