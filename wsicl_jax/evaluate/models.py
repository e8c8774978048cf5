"""The models of a sweep before they are loaded, and which data they have seen in training."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from wsicl_jax.config import SYNTHETIC, DatasetConfig, SweepConfig, VolumeConfig
from wsicl_jax.data.datasets import DataSet, dataset_of, open_store
from wsicl_jax.data.manifest import Manifest, bound
from wsicl_jax.data.seen import Seen
from wsicl_jax.data.store import Store
from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.baselines import Baseline
from wsicl_jax.evaluate.episode_list import EpisodeList
from wsicl_jax.storage.object_path import Place
from wsicl_jax.train.binding import manifest_of_checkpoint, seen_by
from wsicl_jax.weights.networks import find_network

_PARTS = ("train", "validation", "held_out")


class EvaluatedModel(NamedTuple):
    """A checkpoint under evaluation, before it is loaded."""

    name: str
    checkpoint: Place
    digest: str
    step: int | None
    volume: VolumeConfig
    manifest: Manifest | None
    """Its training data; None if there is no record."""
    seen: Seen
    """All data that it has seen, also through the networks of its initial weights."""

    @property
    def about(self) -> dict[str, Any]:
        """What a sweep records about it."""
        return {"path": str(self.checkpoint), "digest": self.digest, "step": self.step}


AnyModel = EvaluatedModel | Baseline
"""A model under evaluation: a network or a baseline."""


def model_of(name: str, path: str) -> EvaluatedModel:
    """The model of a run, of one of its checkpoints, of a file of weights, or of a name.

    Raises:
        CheckpointError, DataError: there is none, or its metadata is damaged.
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


def split_for(config: SweepConfig, settings: DatasetConfig, models: Sequence[AnyModel]) -> DataSet:
    """A data set of the sweep, split as its models were trained.

    A case that any model was trained on is a training case. Data that no model has seen is split by
    the sweep's seed.

    Raises:
        DataError: there is no such store, a setting names something that it lacks, or its
            intensities were scaled otherwise than a model expects.
    """
    if settings.store == SYNTHETIC:
        return DataSet(settings, None, {}, {})
    for model in models:
        open_store(settings.store, model.volume)
    dataset = dataset_of(Store.open(settings.store), settings, config.episode, config.seed)
    known = [
        bound(dataset, model.manifest).parts
        for model in models
        if model.manifest and _knows(model.manifest, dataset)
    ]
    if not known:
        return dataset
    parts = {
        case: next(p for p in _PARTS if p in {parts[case] for parts in known})
        for case in dataset.parts
    }
    return replace(dataset, parts=parts)


def _knows(manifest: Manifest, dataset: DataSet) -> bool:
    """Whether it names this data set, or one with the same content."""
    contents = {case.digest for case in dataset.store.catalogue.values()}
    return any(
        record.name == dataset.name or contents & {case.digest for case in record.known.values()}
        for record in manifest.data_sets
    )


def check_targets(listed: EpisodeList, models: Sequence[AnyModel]) -> None:
    """Raises `DataError` if a model was trained on a target, or on another case of its content."""
    targets = {listed.cases[e.target]: e.target for e in listed.episodes}
    for model in models:
        trained = set() if isinstance(model, Baseline) else model.seen.cases
        if seen := sorted(trained & set(targets)):
            raise DataError(
                f"{model.name} was trained on {len(seen)} targets of {listed.data_set}, such "
                f"as {targets[seen[0]]!r}, so its scores would be no test: plan other episodes"
            )


def check_unseen(listed: EpisodeList, models: Sequence[AnyModel]) -> None:
    """Check that no model has seen a data set; warn where a model's training data is unknown.

    Raises:
        DataError: a model, or a network of its initial weights, was trained on the data set, or
            on synthetic cohorts whose anatomies are its label maps.
    """
    for model in models:
        if isinstance(model, Baseline) or listed.store == SYNTHETIC:
            continue
        if seen := model.seen.of(listed.data_set, listed.cases.values()):
            alias = "" if seen.name == listed.data_set else f", there called {seen.name},"
            use = "in training" if seen.use == "training" else "as a prior of synthetic cohorts"
            raise DataError(
                f"{model.name} has seen {listed.data_set}{alias} {use}, but the sweep is for "
                "unseen data (`unseen: true`); remove the data set or the checkpoint"
            )
        if model.seen.unknown:
            warnings.warn(
                f"whether {model.name} has seen {listed.data_set} is not known: there is no "
                f"record of what {', '.join(model.seen.unknown)} has seen",
                stacklevel=2,
            )
