"""Where episodes get their subjects: stores of real cases, and synthetic cohorts.

A source samples a structure first, then cases that have it. So rare structures are sampled as
often as common ones.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Integer

from wsicl_jax.config import EpisodeConfig, SynthConfig, VolumeConfig
from wsicl_jax.data.catalogue import SourceGrid
from wsicl_jax.data.datasets import DataSet
from wsicl_jax.data.episodes.cached_cases import full_resolution_case, working_grid_case
from wsicl_jax.data.episodes.crops import FullResolutionCase, cropped_group
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.data.store import Store
from wsicl_jax.data.subject_group import Group, Subject, group_of, is_visible, mask_of
from wsicl_jax.data.synthesis.cohort import sample_cohort
from wsicl_jax.errors import DataError
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.geometry.intensity import normalise

_TRIES = 100
"""Samples after which a source gives up: the working grid shows no structure."""

_SYNTHETIC_CROP_ZOOM = 2
"""Synthetic cohorts to crop have this many times the voxels of the working grid along an axis."""

_MAX_INVISIBLE = 16
"""Cases in which a structure is not visible, before another structure is sampled."""


class Sampled(NamedTuple):
    """Subjects that a source has sampled."""

    group: Group
    structures: tuple[int, ...] = ()
    """Positions of the target's structures in `StoreSource.structures`; synthetic cohorts have
    none."""


class Source(Protocol):
    """Samples groups of subjects that share a structure."""

    cases: Sequence[str]
    """Names of its training cases; empty for synthetic cohorts."""

    @property
    def structure_weight(self) -> float:
        """The sum of its structures' weights."""
        ...

    def sample(self, index: int, count: int, rng: np.random.Generator) -> Sampled:
        """`count` subjects for episode `index`, with one structure."""
        ...


class SyntheticSource:
    """A new cohort for every episode, with one of its labels or a random union of them."""

    structure_weight = 1.0
    """Its structures are never the same twice; they count as one."""
    cases = ()

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

    def sample(self, index: int, count: int, rng: np.random.Generator) -> Sampled:
        seed = (self.seed, RandomStream.TRAINING_COHORT, index)
        is_cropped = bool(self.crop_share) and rng.random() < self.crop_share
        zoom = _SYNTHETIC_CROP_ZOOM if is_cropped else 1
        x, y, z = (zoom * side for side in self.volume.grid)
        subjects, labels = synthetic_subjects(
            seed,
            replace(self.volume, grid=(x, y, z)),
            count,
            structures=1,
            min_voxels=self.min_voxels * zoom**3,
            settings=self.settings,
        )
        group = group_of(subjects, _sample_labels(labels, self.max_labels, rng))
        if not is_cropped:
            return Sampled(group)
        affine = np.eye(4)
        grid = WorkingGrid.of((x, y, z), affine, self.volume.grid)
        cases = [FullResolutionCase(*pair, affine, grid) for pair in zip(*group, strict=True)]
        whole = [grid.image(image) for image in group.images]
        masks = [grid.label(mask) for mask in group.masks]
        return Sampled(cropped_group(cases, self.min_voxels, rng) or Group(whole, masks))

    def sample_partial(self, index: int, count: int, rng: np.random.Generator) -> Sampled:
        """`count` subjects, the target's mask only a part of their structure.

        The target follows again, as the first context image, with its mask of the whole structure.
        """
        subjects, labels = synthetic_subjects(
            (self.seed, RandomStream.TRAINING_COHORT, index),
            self.volume,
            count,
            structures=2,
            min_voxels=self.min_voxels,
            settings=self.settings,
        )
        size = int(rng.integers(2, max(2, min(self.max_labels, len(labels))) + 1))
        united = rng.choice(labels, size, replace=False)
        part = mask_of(subjects[0][1], united[: int(rng.integers(1, size))])
        whole = group_of(subjects, united)
        return Sampled(Group([whole.images[0], *whole.images], [part, *whole.masks]))


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

    A label needs `min_voxels` and `settings.min_structure_share`. Cohorts with fewer than
    `structures` such labels are skipped.

    Raises:
        DataError: the working grid is too small for any.
    """
    smallest = max(min_voxels, settings.min_structure_share * math.prod(volume.grid))
    for attempt in range(_TRIES):
        cohort = sample_cohort((*seed, attempt), volume.grid, settings)
        subjects = [cohort.subject(i) for i in range(count)]
        sizes = [
            np.bincount(label.ravel(), minlength=cohort.structures + 1) for _, label in subjects
        ]
        labels = 1 + np.flatnonzero(np.min(sizes, axis=0)[1:] >= smallest)
        if labels.size >= structures:
            return [(normalise(i, volume.percentiles), label) for i, label in subjects], labels
    raise DataError(f"no synthetic cohort shows {structures} structures at {volume.grid} voxels")


class StoreSource:
    """Training cases of a store, with one of their structures.

    Raises:
        DataError: too few subjects have a named structure, or any structure.
    """

    def __init__(self, dataset: DataSet, volume: VolumeConfig, episode: EpisodeConfig):
        self.volume = volume
        self.max_labels = episode.max_labels
        self.min_voxels = episode.min_voxels
        self.crop_share = episode.crop_share
        self.channels = np.array(dataset.channels)
        self.cases = dataset.cases("train")
        """Names of the cases; structures refer to them by position."""
        numbers: dict[str, int] = {}
        self.subjects = np.array(
            [numbers.setdefault(dataset.subjects[name], len(numbers)) for name in self.cases],
            np.int32,
        )
        """The number of each case's subject."""
        self.store = _for_reading(dataset.store, self.cases)
        self.are_united = episode.structures == "random"
        self.structures: list[Structure] = []
        weights: list[float] = []
        position = {name: i for i, name in enumerate(self.cases)}
        group_size, max_subjects = episode.contexts[1] + 1, 0
        for name, labels, weight in _structures(dataset, episode):
            cases = np.array([position[c] for c in dataset.having(labels, "train")], np.int32)
            subjects = len(np.unique(self.subjects[cases]))
            max_subjects = max(max_subjects, subjects)
            if subjects >= group_size:
                self.structures.append(Structure(name, labels, cases))
                weights.append(weight)
            elif episode.structures == "named" and dataset.settings.structures:
                raise DataError(
                    f"structure {name!r} of {dataset.store.path} is in the training cases of "
                    f"{subjects} subjects; a target with {group_size - 1} contexts needs "
                    f"{group_size}: lower episode.contexts, or give it the weight 0"
                )
        if not self.structures:
            raise DataError(
                f"{dataset.store.path} has no label in {group_size} training cases (at most "
                f"{max_subjects}), of a subject each, as a target with {group_size - 1} contexts "
                "needs; lower episode.contexts"
            )
        self.structure_weight = float(np.sum(weights))
        self._shares = np.array(weights) / self.structure_weight

    @property
    def structure_shares(self) -> list[float]:
        """Share of this source's episodes that show each of its structures.

        The sum is above 1 if episodes unite several.
        """
        if not self.are_united:
            return self._shares.tolist()
        count = len(self.structures)
        mean_united = (1 + min(self.max_labels, count)) / 2
        return [mean_united / count] * count

    def sample(self, index: int, count: int, rng: np.random.Generator) -> Sampled:
        channel = int(rng.choice(self.channels))
        for _ in range(_TRIES):
            numbers, cases = self._sample_structures(rng)
            labels = tuple(label for i in numbers for label in self.structures[i].labels)
            group, names = Group([], []), []
            invisible, subjects, target = 0, set(), -1
            for case in rng.permutation(cases):
                if self.subjects[case] in subjects:
                    continue
                name = self.cases[case]
                image, label = working_grid_case(self.store, name, channel, self.volume)
                mask = mask_of(label, labels)
                if is_visible(mask, self.min_voxels):
                    subjects.add(self.subjects[case])
                    group.images.append(image)
                    group.masks.append(mask)
                    names.append(name)
                    target = case if len(names) == 1 else target
                    if len(names) == count:
                        group = self._cropped(names, channel, labels, rng) or group
                        shown = (int(i) for i in numbers if target in self.structures[i].cases)
                        return Sampled(group, tuple(shown))
                elif (invisible := invisible + 1) == _MAX_INVISIBLE:
                    break
        raise DataError(
            f"{self.store.path}: {_TRIES} draws showed no structure of {self.min_voxels} voxels "
            f"at {self.volume.grid} in {count} cases; use a larger volume.grid"
        )

    def _cropped(
        self, names: Sequence[str], channel: int, labels: Sequence[int], rng: np.random.Generator
    ) -> Group | None:
        if not self.crop_share or rng.random() >= self.crop_share:
            return None
        cases = []
        for name in names:
            image, label = full_resolution_case(self.store, name, channel, self.volume)
            affine = self.store.case(name).affine
            grid = WorkingGrid.of(label.shape, affine, self.volume.grid)
            cases.append(FullResolutionCase(image, mask_of(label, labels), affine, grid))
        return cropped_group(cases, self.min_voxels, rng)

    def _sample_structures(
        self, rng: np.random.Generator
    ) -> tuple[Sequence[int] | np.ndarray, np.ndarray]:
        """Positions of the structures to unite, and cases to sample from."""
        if not self.are_united:
            number = rng.choice(len(self.structures), p=self._shares)
            return (number,), self.structures[number].cases
        # One of the sampled labels picks the cases; the others join where a case has them.
        numbers = _sample_labels(np.arange(len(self.structures)), self.max_labels, rng)
        return numbers, self.structures[rng.choice(numbers)].cases


class Structure(NamedTuple):
    """A structure that training samples."""

    name: str
    labels: tuple[int, ...]
    """Labels that it unites."""
    cases: Integer[np.ndarray, "case"]
    """Positions of the cases that have it."""


def _structures(
    dataset: DataSet, episode: EpisodeConfig
) -> list[tuple[str, tuple[int, ...], float]]:
    """Name, labels and weight of each structure that training may sample."""
    if episode.structures == "random":
        return [(dataset.store.label_names[n], (n,), 1.0) for n in dataset.labels]
    allowed, weights = set(dataset.labels), dataset.settings.structure_weights
    structures = [
        (name, labels, weight)
        for name, labels in dataset.structures.items()
        if allowed.issuperset(labels) and (weight := weights.get(name, 1.0))
    ]
    if not structures:
        raise DataError(
            f"{dataset.store.path}: labels and structure_weights leave none of the structures "
            f"{list(dataset.structures)} to train on; change them, or give the data set weight 0"
        )
    return structures


def _for_reading(store: Store, names: Collection[str]) -> Store:
    """The store with only what reading these cases needs: every worker gets a copy."""
    catalogue = {}
    for name in names:
        case = store.catalogue[name]
        source = SourceGrid((), case.affine, WorkingGrid(case.shape, case.shape))
        catalogue[name] = replace(case, voxel_counts={}, boxes={}, source=source, remarks=())
    return replace(store, catalogue=catalogue)


def _sample_labels(
    labels: np.ndarray, max_count: int, rng: np.random.Generator
) -> Integer[np.ndarray, "label"]:
    count = int(rng.integers(1, min(max_count, len(labels)) + 1))
    return rng.choice(labels, count, replace=False)
