"""The data sets of an experiment: their subjects, parts and structures.

Everything here follows from catalogues; no voxel is read.
"""

import gc
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from wsicl_jax.config import SYNTHETIC, DatasetConfig, EpisodeConfig, ExperimentConfig, VolumeConfig
from wsicl_jax.data.split import Part, split
from wsicl_jax.data.store import Store
from wsicl_jax.errors import DataError


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set of the configuration: a store with its split, or synthetic cohorts."""

    settings: DatasetConfig
    store: Store | None
    """None: synthetic cohorts."""
    subjects: Mapping[str, str]
    """The subject of each case."""
    parts: Mapping[str, Part]
    """The part of each case."""

    @property
    def name(self) -> str:
        """The store's name, or `synthetic`."""
        return self.store.name if self.store else SYNTHETIC

    @property
    def channels(self) -> list[int]:
        """Positions of the channels that training uses."""
        names = self.store.channel_names
        return [i for i, n in enumerate(names) if n in (self.settings.channels or names)]

    @property
    def labels(self) -> list[int]:
        """Label values that training may use, sorted."""
        return sorted(self.settings.labels or self.store.label_names)

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """Labels of each structure: those of the settings, else every label by its name.

        Labels of equal names are one structure.
        """
        if self.settings.structures:
            return dict(self.settings.structures)
        structures: dict[str, tuple[int, ...]] = {}
        for value, name in self.store.label_names.items():
            structures[name] = (*structures.get(name, ()), value)
        return structures

    def cases(self, part: Part) -> list[str]:
        """Names of a part's cases, sorted."""
        return list(self._cases[part])

    def having(self, labels: Sequence[int], part: Part) -> list[str]:
        """Cases of a part that have one of these labels with `min_voxels`."""
        catalogue, min_voxels = self.store.catalogue, self.settings.min_voxels
        return [
            name
            for name in self._cases[part]
            if any(catalogue[name].voxel_counts.get(label, 0) >= min_voxels for label in labels)
        ]

    def subjects_of(self, cases: Iterable[str]) -> set[str]:
        """The subjects of these cases."""
        return {self.subjects[name] for name in cases}

    @cached_property
    def _cases(self) -> dict[Part, list[str]]:
        cases: dict[Part, list[str]] = {"train": [], "validation": [], "held_out": []}
        for name in sorted(self.parts):
            cases[self.parts[name]].append(name)
        return cases


def open_datasets(config: ExperimentConfig) -> list[DataSet]:
    """The data sets of an experiment in its order, split by its seed; reads the catalogues.

    Raises:
        DataError: a store is missing, two data sets have one name, or a setting names a channel,
            label or structure that does not exist.
    """
    with without_collections():
        datasets = [
            DataSet(settings, None, {}, {})
            if settings.store == SYNTHETIC
            else dataset_of(
                open_store(settings.store, config.volume), settings, config.episode, config.seed
            )
            for settings in config.data
        ]
    names = [dataset.name for dataset in datasets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"two data sets are called {twice[0]!r}; their splits and scores could not be told "
            "apart: rename one"
        )
    return datasets


@contextmanager
def without_collections() -> Iterator[None]:
    """Pause Python's garbage collector, while catalogues and manifests are made.

    They have no cycles. The collector would walk over all cases again and again: of 100 stores of
    1,000 cases each, that takes longer than reading them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def dataset_of(store: Store, settings: DatasetConfig, episode: EpisodeConfig, seed: int) -> DataSet:
    """A store with the split that follows from the seed and the names.

    Raises:
        DataError: a setting names a channel, label or structure that does not exist, or a case has
            no subject by `subject_pattern`.
    """
    subjects = _subjects(store, settings.subject_pattern)
    part_of = split(subjects.values(), episode, seed=seed, name=store.name)
    parts = {name: part_of[subject] for name, subject in subjects.items()}
    dataset = DataSet(settings, store, subjects, parts)
    _check_names(dataset)
    return dataset


def open_store(path: str, volume: VolumeConfig) -> Store:
    """A store that fits the settings of `volume`.

    Raises:
        DataError: there is no such store, or its intensities were scaled by other percentiles.
    """
    store = Store.open(path)
    percentiles = store.root.preparation.percentiles
    if percentiles not in (None, volume.percentiles):
        raise DataError(
            f"{path} was converted with percentiles {percentiles}, but volume.percentiles is "
            f"{volume.percentiles}; set it alike, or convert the data again"
        )
    return store


def _subjects(store: Store, pattern: str) -> dict[str, str]:
    if not pattern:
        return {name: case.subject for name, case in store.catalogue.items()}
    compiled = re.compile(pattern)
    subjects = {}
    for name in store.catalogue:
        match = compiled.search(name)
        subject = match and match[1 if compiled.groups else 0]
        if not subject:
            raise DataError(
                f"{store.path}: subject_pattern {pattern!r} finds no subject in case {name!r}"
            )
        subjects[name] = subject
    return subjects


def _check_names(dataset: DataSet) -> None:
    store, settings = dataset.store, dataset.settings
    structures, known = dataset.structures, set(store.label_names)
    requested = {
        "channels": (set(settings.channels), set(store.channel_names)),
        "labels": (set(settings.labels), known),
        **{f"structure {name!r}": (set(labels), known) for name, labels in structures.items()},
        "structure_weights": (set(settings.structure_weights), set(structures)),
    }
    for setting, (values, existing) in requested.items():
        if unknown := sorted(values - existing):
            raise DataError(
                f"{store.path}: {setting} has {unknown}, which the data set lacks; it has "
                f"{sorted(existing)}"
            )
