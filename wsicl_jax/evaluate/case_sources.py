"""Where evaluation reads images and label maps: from a store, or from synthetic cohorts."""

import functools
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cachetools
import numpy as np
from jaxtyping import Bool, Float, Integer

from wsicl_jax.config import (
    SYNTHETIC,
    SynthConfig,
    VolumeConfig,
    config_from_stored,
    config_to_dict,
)
from wsicl_jax.data.datasets import DataSet
from wsicl_jax.data.episodes.cached_cases import case_crop, working_grid_case
from wsicl_jax.data.episodes.sources import synthetic_subjects
from wsicl_jax.data.subject_group import Subject, mask_of
from wsicl_jax.data.synthesis.prior import priors_fingerprint
from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.storage.digests import digest_of

_LABEL_CACHE_BYTES = 1e9


@runtime_checkable
class Cases(Protocol):
    """Cases of one data set, by name, on their own grids and on a network's working grid."""

    @property
    def name(self) -> str:
        """The data set's name."""
        ...

    def subject(
        self, case: str, channel: str, volume: VolumeConfig, keep: Box | None = None
    ) -> Subject:
        """Image in [0, 1] and label map on the working grid.

        The preparation may cut margins off, but nothing inside the box `keep`.
        """
        ...

    def label(self, case: str) -> Integer[np.ndarray, "X Y Z"]:
        """The label map on the case's own grid."""
        ...

    def grid(
        self, case: str, channel: str, volume: VolumeConfig, keep: Box | None = None
    ) -> WorkingGrid:
        """Maps between the case's own grid and the working grid of `subject`."""
        ...

    def affine(self, case: str) -> Float[np.ndarray, "4 4"]:
        """Voxel to RAS (mm) of the case's own grid."""
        ...

    def digest(self, case: str) -> str:
        """Hash of the case's content."""
        ...


def structure_mask(cases: Cases, case: str, labels: tuple[int, ...]) -> Bool[np.ndarray, "X Y Z"]:
    """A structure on a case's own grid."""
    return mask_of(cases.label(case), labels)


class StoreCases:
    """The cases of a store."""

    def __init__(self, dataset: DataSet):
        self.dataset = dataset
        self.name = dataset.name
        self._labels = cachetools.LRUCache(_LABEL_CACHE_BYTES, getsizeof=lambda x: x.nbytes)

    def subject(
        self, case: str, channel: str, volume: VolumeConfig, keep: Box | None = None
    ) -> Subject:
        store = self.dataset.store
        return working_grid_case(store, case, store.channel_names.index(channel), volume, keep)

    @cachetools.cachedmethod(lambda self: self._labels)
    def label(self, case: str) -> np.ndarray:
        return self.dataset.store.read_label(case)

    def grid(
        self, case: str, channel: str, volume: VolumeConfig, keep: Box | None = None
    ) -> WorkingGrid:
        store = self.dataset.store
        entry = store.case(case)
        grid = WorkingGrid.of(entry.shape, entry.affine, volume.grid)
        crop = case_crop(store, case, store.channel_names.index(channel), volume, keep)
        return grid if crop.extent == entry.shape else replace(grid, crop=grid.turned_box(crop))

    def affine(self, case: str) -> np.ndarray:
        return self.dataset.store.case(case).affine

    def digest(self, case: str) -> str:
        return self.dataset.store.case(case).digest


class Cohorts(NamedTuple):
    """All settings that determine synthetic cohorts, one cohort for each unseen structure."""

    seed: tuple[int, ...]
    """Seed of all cohorts; the number of the cohort is appended."""
    grid: Shape3
    synth: SynthConfig
    min_voxels: int
    subjects: int
    """Subjects of each cohort."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, as an episode list keeps them."""
        seed, grid = list(self.seed), list(self.grid)
        return {**self._asdict(), "seed": seed, "grid": grid, "synth": config_to_dict(self.synth)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Cohorts":
        """Cohorts from plain values: the inverse of `to_json`."""
        settings = config_from_stored({"synth": content["synth"]})
        seed, grid = tuple(content["seed"]), tuple(content["grid"])
        return cls(**{**content, "seed": seed, "grid": grid, "synth": settings.synth})


# The episodes of a cohort are consecutive, so few cohorts are needed at a time.
@functools.lru_cache(maxsize=4)
def cohort_of(cohorts: Cohorts, number: int) -> tuple[list[Subject], Integer[np.ndarray, "label"]]:
    """The subjects of a cohort, and the labels that are large enough in all of them."""
    return synthetic_subjects(
        (*cohorts.seed, number),
        VolumeConfig(grid=cohorts.grid),
        cohorts.subjects,
        structures=2,
        min_voxels=cohorts.min_voxels,
        settings=cohorts.synth,
    )


class CohortCases:
    """The subjects of synthetic cohorts, named `cohort 3/subject 1`; voxels of 1 mm."""

    name = SYNTHETIC

    def __init__(self, cohorts: Cohorts):
        self.cohorts = cohorts

    def subject(
        self, case: str, channel: str, volume: VolumeConfig, keep: Box | None = None
    ) -> Subject:
        image, label = self._subject(case)
        grid = self.grid(case, channel, volume)
        return grid.image(image), grid.label(label)

    def label(self, case: str) -> np.ndarray:
        return self._subject(case)[1]

    def grid(
        self, case: str, channel: str, volume: VolumeConfig, keep: Box | None = None
    ) -> WorkingGrid:
        return WorkingGrid(self.cohorts.grid, volume.grid)

    def affine(self, case: str) -> np.ndarray:
        return np.eye(4)

    def digest(self, case: str) -> str:
        return digest_of([self._origin, case])

    @functools.cached_property
    def _origin(self) -> list[Any]:
        return [self.cohorts.to_json(), priors_fingerprint(self.cohorts.synth)]

    def _subject(self, case: str) -> Subject:
        cohort, subject = (int(part.split()[-1]) for part in case.split("/"))
        return cohort_of(self.cohorts, cohort - 1)[0][subject - 1]
