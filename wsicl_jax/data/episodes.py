"""Episodes: a target and its context set with prompts, a pure function of (seed, index)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wsicl_jax import prompts
from wsicl_jax.config import EpisodeConfig, ExperimentConfig, PromptKind
from wsicl_jax.data.augment.group import augment_group
from wsicl_jax.data.datasets import DataSet, open_datasets
from wsicl_jax.data.sources import Group, Source, StoreSource, SyntheticSource
from wsicl_jax.streams import Stream


class Episode(NamedTuple):
    """What the network sees and should return; float32, with leading batch axes if stacked."""

    target: Float[np.ndarray, "*batch x y z 1"]
    truth: Float[np.ndarray, "*batch x y z 1"]
    context_images: Float[np.ndarray, "*batch context x y z 1"]
    context_prompts: Float[np.ndarray, "*batch context x y z 1"]
    context_weights: Float[np.ndarray, "*batch context"]
    """Relative weights in the mean over the context set; 0: filled up, counts nothing."""


class EpisodeSource:
    """Random access to the episodes of a run: `source[index]` is the same in every process.

    Episodes `batch * step` to `batch * (step + 1) - 1` make a step and share the number
    of contexts. Without `datasets`, those of the configuration are opened and split by its seed.

    Raises:
        DataError: a store is missing, or has too few training cases.
    """

    def __init__(self, config: ExperimentConfig, datasets: Sequence[DataSet] | None = None):
        self.config = config
        datasets = open_datasets(config) if datasets is None else datasets
        shown = [dataset for dataset in datasets if dataset.settings.weight]
        self.sources: list[Source] = [
            StoreSource(dataset, config.volume, config.episode)
            if dataset.store
            else SyntheticSource(config.seed, config.volume, config.episode, config.synth)
            for dataset in shown
        ]
        weights = np.array([dataset.settings.weight for dataset in shown], float)
        if config.episode.sampling == "structure":
            weights *= [source.structure_weight for source in self.sources]
        self._source_shares = weights / weights.sum()
        # Sorted: the same kinds in another order are the same configuration.
        self._kinds = sorted(config.prompts.kinds)
        frequencies = np.array([config.prompts.kinds[kind] for kind in self._kinds], float)
        self._kind_shares = frequencies / frequencies.sum()

    def contexts(self, step: int) -> int:
        """The number of context images of a step (0, 1, ...): alike in every process."""
        settings = self.config.episode
        fewest, most = settings.contexts
        rng = _rng(self.config.seed, Stream.CONTEXT_COUNT, step)
        drawn = int(rng.integers(fewest, most + 1))
        usual = settings.usual_contexts and rng.random() < settings.usual_share
        return settings.usual_contexts if usual else drawn

    def __len__(self) -> int:
        return self.config.train.steps * self.config.train.batch

    def __getitem__(self, index: int) -> Episode:
        config = self.config
        contexts = self.contexts(index // config.train.batch)
        rng = _rng(config.seed, Stream.EPISODE, index)
        source = self.sources[rng.choice(len(self.sources), p=self._source_shares)]
        kind = self._kinds[rng.choice(len(self._kinds), p=self._kind_shares)]
        count = int(rng.integers(config.prompts.count[0], config.prompts.count[1] + 1))
        group = augment_group(
            source.group(index, contexts + 1, rng),
            config.augment,
            rng,
            may_invert_mask=kind == "mask",
            may_turn_each=isinstance(source, SyntheticSource),
            min_voxels=config.episode.min_voxels,
        )
        return episode(group, kind, count, rng)


def episode(group: Group, kind: PromptKind, count: int, rng: np.random.Generator) -> Episode:
    """The group's first subject as target, the others as contexts with drawn prompts."""
    channels = np.zeros((len(group.images) - 1, *group.images[0].shape, 1), np.float32)
    for channel, drawn in zip(channels, draw_prompts(group, kind, count, rng), strict=True):
        prompts.paint(channel[..., 0], drawn)
    return Episode(
        _with_channel(group.images[:1])[0],
        _with_channel(group.masks[:1])[0],
        _with_channel(group.images[1:]),
        channels,
        np.ones(len(channels), np.float32),
    )


def filled(episode: Episode, multiple: int) -> Episode:
    """The episode with its context set filled to a multiple by empty images of weight 0."""
    missing = -len(episode.context_weights) % multiple
    if not missing:
        return episode
    images, prompts, weights = (
        np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
        for x in (episode.context_images, episode.context_prompts, episode.context_weights)
    )
    return episode._replace(context_images=images, context_prompts=prompts, context_weights=weights)


def context_sizes(settings: EpisodeConfig, multiple: int) -> list[int]:
    """The sizes of context sets that a run may show, filled up: each is compiled once."""
    fewest, most = settings.contexts
    drawn = {*range(fewest, most + 1), settings.usual_contexts or most}
    return sorted({size + -size % multiple for size in drawn})


def draw_prompts(
    group: Group, kind: PromptKind, count: int, rng: np.random.Generator
) -> list[Sequence[prompts.Prompt]]:
    """`count` prompts of one kind for each of the group's contexts."""
    return [prompts.draw(kind, mask, count, rng) for mask in group.masks[1:]]


def _with_channel(volumes: Sequence[np.ndarray]) -> Float[np.ndarray, "n x y z 1"]:
    stacked = np.empty((len(volumes), *volumes[0].shape, 1), np.float32)
    for place, volume in zip(stacked, volumes, strict=True):
        place[..., 0] = volume
    return stacked


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
