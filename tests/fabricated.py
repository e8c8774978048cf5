"""Stores that are nothing but a catalogue: what is planned from it needs no file."""

from collections.abc import Mapping

import numpy as np

from wsicl_jax.config import DatasetConfig, EpisodeConfig, PreparationConfig
from wsicl_jax.data.catalogue import Case, SourceGrid
from wsicl_jax.data.datasets import DataSet, dataset_of
from wsicl_jax.data.store import Root, Store
from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.storage.location import Location

SHAPE = (8, 8, 8)


def store_of(
    cases: Mapping[str, Mapping[int, int]],
    *,
    subjects: Mapping[str, str] | None = None,
    name: str = "tiny",
    labels: Mapping[int, str] | None = None,
    channels: tuple[str, ...] = ("T1",),
    path: str = "/none",
) -> Store:
    """A store of cases by name, each with the voxels of its labels."""
    affine = np.eye(4)
    source = SourceGrid((), affine, WorkingGrid(SHAPE, SHAPE))
    subjects = {} if subjects is None else subjects
    catalogue = {
        case: Case(
            case,
            subjects.get(case, case),
            SHAPE,
            affine.copy(),
            dict(voxels),
            {value: Box((0, 0, 0), SHAPE) for value in voxels},
            f"digest of {case}",
            source,
        )
        for case, voxels in sorted(cases.items())
    }
    if labels is None:
        values = {value for voxels in cases.values() for value in voxels} | {1}
        labels = {value: f"label {value}" for value in sorted(values)}
    root = Root(name, channels, dict(labels), PreparationConfig())
    return Store(Location(path), root, catalogue)


def dataset(store: Store, episode: EpisodeConfig | None = None, **settings) -> DataSet:
    """The store as a data set of seed 0."""
    settings = DatasetConfig(store=store.path, **settings)
    return dataset_of(store, settings, episode or EpisodeConfig(), 0)
