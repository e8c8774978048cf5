"""The models of a sweep, before they are loaded: what they are, and what they were trained on."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from wsicl_jax.config import SYNTHETIC, DatasetConfig, SweepConfig, VolumeConfig
from wsicl_jax.data.datasets import DataSet, dataset_of, open_store
from wsicl_jax.data.manifest import Manifest, bound
from wsicl_jax.data.seen import Seen
from wsicl_jax.data.store import Store
from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.baselines import Baseline
from wsicl_jax.evaluate.episode_list import EpisodeList
from wsicl_jax.train.binding import manifest_of_checkpoint, seen_by
from wsicl_jax.weights.networks import find_network

_PARTS = ("train", "validation", "held_out")


class EvaluatedModel(NamedTuple):
    """A checkpoint that takes part, before it is loaded."""

    name: str
    checkpoint: Path
    digest: str
    step: int | None
    volume: VolumeConfig
    manifest: Manifest | None
    """What it was trained on; None if nobody knows."""
    seen: Seen
    """All that it has seen, and the networks that it began from."""

    @property
    def about(self) -> dict[str, Any]:
        """What a sweep says of it."""
        return {"path": str(self.checkpoint), "digest": self.digest, "step": self.step}


AnyModel = EvaluatedModel | Baseline
"""A model that takes part, with a network or without."""


def model_of(name: str, path: str) -> EvaluatedModel:
    """The model of a run, of one of its checkpoints, of a file of weights, or of a name.

    Raises:
        CheckpointError, DataError: there is none, or what it says of itself is damaged.
    """
    stored = find_network(path)
    return EvaluatedModel(
        name,
        stored.path,
        stored.digest,
        stored.metadata.get("step"),
        stored.experiment.volume,
        manifest_of_checkpoint(stored.path, stored.metadata),
        seen_by(stored),
    )


def split_for(
    config: SweepConfig, settings: DatasetConfig, candidates: Sequence[AnyModel]
) -> DataSet:
    """A data set of the sweep, split as the models know it: trained on by one is trained on.

    Data that no model knows are split by the sweep's seed.

    Raises:
        DataError: there is no such store, a setting names what it does not have, or its intensities
            were scaled otherwise than a model expects.
    """
    if settings.store == SYNTHETIC:
        return DataSet(settings, None, {}, {})
    for candidate in candidates:
        open_store(settings.store, candidate.volume)
    dataset = dataset_of(Store.open(settings.store), settings, config.episode, config.seed)
    known = [
        bound(dataset, c.manifest).parts
        for c in candidates
        if c.manifest and _knows(c.manifest, dataset)
    ]
    if not known:
        return dataset
    parts = {
        case: next(p for p in _PARTS if p in {found[case] for found in known})
        for case in dataset.parts
    }
    return replace(dataset, parts=parts)


def _knows(manifest: Manifest, dataset: DataSet) -> bool:
    """Whether it has this data set, or one of another name with the same content."""
    contents = {case.digest for case in dataset.store.catalogue.values()}
    return any(
        record.name == dataset.name or contents & {case.digest for case in record.known.values()}
        for record in manifest.data_sets
    )


def check_targets(listed: EpisodeList, candidates: Sequence[AnyModel]) -> None:
    """Raises `DataError` if a model was trained on a target, or on the same content elsewhere."""
    targets = {listed.cases[e.target]: e.target for e in listed.episodes}
    for candidate in candidates:
        trained = set() if isinstance(candidate, Baseline) else candidate.seen.cases
        if seen := sorted(trained & set(targets)):
            raise DataError(
                f"{candidate.name} was trained on {len(seen)} targets of {listed.data_set}, such "
                f"as {targets[seen[0]]!r}: its scores would mean nothing; plan other episodes"
            )


def check_unseen(listed: EpisodeList, candidates: Sequence[AnyModel]) -> None:
    """That no model has seen a data set; a warning where nobody knows what one has seen.

    Raises:
        DataError: one was trained on it, began from a network that was, or had its label maps as
            anatomies of synthetic cohorts.
    """
    for candidate in candidates:
        if isinstance(candidate, Baseline) or listed.store == SYNTHETIC:
            continue
        if found := candidate.seen.of(listed.data_set, listed.cases.values()):
            called = "" if found.name == listed.data_set else f", there called {found.name},"
            how = "in training" if found.use == "training" else "as a prior of synthetic cohorts"
            raise DataError(
                f"{candidate.name} has seen {listed.data_set}{called} {how}, but the sweep is for "
                "unseen data (`unseen: true`); leave out the one or the other"
            )
        if candidate.seen.unknown:
            warnings.warn(
                f"whether {candidate.name} has seen {listed.data_set} is not known: there is no "
                f"record of what {', '.join(candidate.seen.unknown)} has seen",
                stacklevel=2,
            )
