"""Episodes: a target and its context set with prompts, a pure function of (seed, index)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int32, Num

from wsicl_jax.config import EpisodeConfig, ExperimentConfig, PromptKind, VolumeConfig
from wsicl_jax.data.augmentation.group import augment_group
from wsicl_jax.data.datasets import DataSet, open_datasets
from wsicl_jax.data.episodes.degradation import Degradation
from wsicl_jax.data.episodes.sources import Source, StoreSource, SyntheticSource
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.data.subject_group import Group
from wsicl_jax.prompts import (
    ONCE_PER_IMAGE,
    Negative,
    Prompt,
    context_inputs,
    draw,
    draw_negative,
)


class Episode(NamedTuple):
    """Input of the network and the truth; float32, with leading batch axes if stacked."""

    target: Float[np.ndarray, "*batch x y z 1"]
    truth: Float[np.ndarray, "*batch x y z 1"]
    context_images: Float[np.ndarray, "*batch context x y z 1"]
    context_prompts: Float[np.ndarray, "*batch context x y z 1"]
    context_weights: Float[np.ndarray, "*batch context"]
    """Relative weights in the mean over the context set; 0 for images that only fill it."""
    structures: Int32[np.ndarray, "*batch united"]
    """In training, the target's structures by position in `EpisodeSource.structures`, filled with
    -1. An image-to-image task and an anatomy that is sampled once have none."""


class EpisodeSource:
    """Random access to the episodes of a run: `source[index]` is the same in every process.

    Episodes `batch * step` to `batch * (step + 1) - 1` make a step and have the same number of
    contexts. Without `datasets`, those of the configuration are opened and split by its seed.

    Raises:
        DataError: a store is missing, or has too few training cases.
    """

    def __init__(self, config: ExperimentConfig, datasets: Sequence[DataSet] | None = None):
        self.config = config
        datasets = open_datasets(config) if datasets is None else datasets
        training = [dataset for dataset in datasets if dataset.settings.weight]
        self.sources: list[Source] = [
            StoreSource(dataset, config.volume, config.episode)
            if dataset.store
            else SyntheticSource(config.seed, config.volume, config.episode, config.synth)
            for dataset in training
        ]
        self._absent_source = SyntheticSource(
            config.seed,
            config.volume,
            replace(config.episode, crop_share=0.0),
            replace(config.synth, priors=()),
        )
        self.names = [dataset.name for dataset in training]
        """The data set of each source."""
        self.structures: list[str] = []
        """The structures of all stores, as `SET/STRUCTURE`; labels may share a name."""
        self._first: list[int] = []
        for name, source in zip(self.names, self.sources, strict=True):
            self._first.append(len(self.structures))
            if isinstance(source, StoreSource):
                self.structures += [f"{name}/{one.name}" for one in source.structures]
        weights = np.array([dataset.settings.weight for dataset in training], float)
        if config.episode.sampling == "structure":
            weights *= [source.structure_weight for source in self.sources]
        elif config.episode.sampling == "sqrt_cases":
            weights *= np.sqrt([len(source.cases) or 1 for source in self.sources])
        self.source_shares = weights / weights.sum()
        """Share of the episodes of each source."""
        self._tasks = _WeightedNames(config.episode.tasks)
        self._kinds = _WeightedNames(config.prompts.kinds)

    def contexts(self, step: int) -> int:
        """The number of context images of a step (0, 1, ...), the same in every process."""
        settings = self.config.episode
        fewest, most = settings.contexts
        rng = _rng(self.config.seed, RandomStream.CONTEXT_COUNT, step)
        count = int(rng.integers(fewest, most + 1))
        is_common = settings.common_contexts and rng.random() < settings.common_contexts_share
        return settings.common_contexts if is_common else count

    def data_set_of(self, index: int) -> str:
        """The name of the data set of episode `index`, without making the episode."""
        return self.names[self._source_of(_rng(self.config.seed, RandomStream.EPISODE, index))]

    def _source_of(self, rng: np.random.Generator) -> int:
        """The position of an episode's source: the first draw of its random stream."""
        return int(rng.choice(len(self.sources), p=self.source_shares))

    def __len__(self) -> int:
        return self.config.train.steps * self.config.train.batch

    def __getitem__(self, index: int) -> Episode:
        config, settings = self.config, self.config.episode
        contexts = self.contexts(index // config.train.batch)
        rng = _rng(config.seed, RandomStream.EPISODE, index)
        source_number = self._source_of(rng)
        source = self.sources[source_number]
        task = self._tasks.sample(_rng(config.seed, RandomStream.TASK, index))
        kinds = self._sample_kinds(contexts, rng)
        is_synthetic = isinstance(source, SyntheticSource)
        may_exclude = is_synthetic and task == "segmentation" and settings.excluded_share > 0
        excludes = may_exclude and rng.random() < settings.excluded_share
        only_masks = {kind for image in kinds for kind in image} == {"mask"}
        group, shown = (
            source.sample_partial(index, contexts, rng)
            if excludes
            else source.sample(index, contexts + 1, rng)
        )
        group = augment_group(
            group,
            config.augment,
            rng,
            may_invert_mask=only_masks and not excludes,
            may_rotate90_each=is_synthetic and not excludes,
            min_voxels=settings.min_voxels,
        )
        if task != "segmentation":
            degradation = Degradation.sample(task, rng)
            episode = paired_episode(degradation.apply_each(group.images, rng), group.images)
            return episode._replace(structures=_filled_up((), settings))
        if not excludes:
            group = self._with_other_target(index, group, rng)
        prompts = [
            draw_mixed(image_kinds, mask, rng, jitter=config.prompts.jitter)
            for image_kinds, mask in zip(kinds, group.masks[1:], strict=True)
        ]
        self._add_negative(prompts, group, rng)
        if excludes:
            prompts[0] = self._excluding(kinds[0], group, rng)
        if self._has_shuffled_prompts(index, rng):
            prompts = [prompts[place] for place in rng.permutation(contexts)]
        episode = prompted_episode(group.images, group.masks[0], prompts, config.volume)
        numbers = [self._first[source_number] + number for number in shown]
        return episode._replace(structures=_filled_up(numbers, settings))

    def _with_other_target(self, index: int, group: Group, rng: np.random.Generator) -> Group:
        """In shares of the episodes: a target without the structure, or among its contexts."""
        settings = self.config.episode
        if settings.absent_share and rng.random() < settings.absent_share:
            return self._without_structure_in_target(index, group, rng)
        if settings.blank_share and rng.random() < settings.blank_share:
            blank = _noise(group.images[0].shape, rng)
            return _with_empty_target(group, blank)
        if settings.self_context_share and rng.random() < settings.self_context_share:
            return Group(*([x[0], x[0], *x[2:]] for x in group))
        return group

    def _without_structure_in_target(
        self, index: int, group: Group, rng: np.random.Generator
    ) -> Group:
        """The group with a target of another cohort and an empty mask."""
        # Indices after the last episode, so that this is no cohort of any context set.
        (image,), _ = self._absent_source.sample(len(self) + index, 1, rng).group
        return _with_empty_target(group, image)

    def _add_negative(
        self, prompts: list[list[Prompt]], group: Group, rng: np.random.Generator
    ) -> None:
        """Add negative points to a share of the context images that have other prompts."""
        settings = self.config.prompts
        if not settings.negative_share:
            return
        for drawn, image, mask in zip(prompts, group.images[1:], group.masks[1:], strict=True):
            if drawn and rng.random() < settings.negative_share:
                drawn += draw_negative(mask, image, self._negative_count(rng), rng)

    def _negative_count(self, rng: np.random.Generator) -> int:
        fewest, most = self.config.prompts.negative_count
        return int(rng.integers(fewest, most + 1))

    def _excluding(
        self, kinds: Sequence[PromptKind], group: Group, rng: np.random.Generator
    ) -> list[Prompt]:
        """Negative points on the part of the structure that the target's mask lacks.

        Half of the targets have prompts on what remains as well, and so has a target that is the
        only context image. A mask of what remains would be the answer.
        """
        remaining, excess = group.masks[0], group.masks[1] & ~group.masks[0]
        points = draw("point", excess, self._negative_count(rng), rng)
        is_marked = rng.random() < 0.5 or len(group.images) == 2
        kinds = ["point" if kind == "mask" else kind for kind in kinds]
        return [
            *(draw_mixed(kinds, remaining, rng) if is_marked else ()),
            *(Negative(point) for point in points),
        ]

    def _has_shuffled_prompts(self, index: int, rng: np.random.Generator) -> bool:
        settings = self.config.episode
        first = settings.shuffled_prompts_from * len(self)
        if not settings.shuffled_prompts_share or index < first:
            return False
        return rng.random() < settings.shuffled_prompts_share

    def _sample_kinds(self, contexts: int, rng: np.random.Generator) -> list[list[PromptKind]]:
        """The kinds of the prompts of each context image."""
        settings, kind = self.config.prompts, self._kinds.sample(rng)
        count = int(rng.integers(settings.count[0], settings.count[1] + 1))
        if settings.mixing == "episode":
            return [[kind] * count] * contexts
        if settings.mixing == "image":
            return [[self._kinds.sample(rng)] * count for _ in range(contexts)]
        return [[self._kinds.sample(rng) for _ in range(count)] for _ in range(contexts)]


def _with_empty_target(group: Group, image: Float[np.ndarray, "x y z"]) -> Group:
    return Group([image, *group.images[1:]], [np.zeros_like(group.masks[0]), *group.masks[1:]])


def _noise(shape: Sequence[int], rng: np.random.Generator) -> Float[np.ndarray, "x y z"]:
    """Noise of random strength and smoothness around a constant, in [0, 1]; float32."""
    constant, strength = rng.uniform(0, 1), rng.uniform(0, 0.3) * (rng.random() < 0.75)
    noise = rng.standard_normal(shape, np.float32)
    if smoothness := rng.uniform(0, 3) * (rng.random() < 0.5):
        noise = scipy.ndimage.gaussian_filter(noise, smoothness)
        noise /= noise.std()
    return np.clip(constant + strength * noise, 0, 1, dtype=np.float32)


class _WeightedNames:
    """Samples names by their relative frequencies."""

    def __init__(self, frequencies: Mapping[str, float]):
        # Sorted: the same frequencies in another order are the same configuration.
        self._names = sorted(frequencies)
        shares = np.array([frequencies[name] for name in self._names], float)
        self._shares = shares / shares.sum()

    def sample(self, rng: np.random.Generator) -> Any:
        return self._names[rng.choice(len(self._names), p=self._shares)]


def draw_mixed(
    kinds: Sequence[PromptKind],
    mask: Bool[np.ndarray, "x y z"],
    rng: np.random.Generator,
    *,
    jitter: float = 0.0,
) -> list[Prompt]:
    """A prompt of each of these kinds on a structure; prompts of one kind are distinct.

    Kinds that describe the whole structure are drawn once. Small structures may get fewer prompts.
    """
    return [
        prompt
        for kind, count in Counter(kinds).items()
        for prompt in draw(kind, mask, 1 if kind in ONCE_PER_IMAGE else count, rng, jitter=jitter)
    ]


def prompted_episode(
    images: Sequence[Float[np.ndarray, "x y z"]],
    truth: Num[np.ndarray, "x y z"] | Bool[np.ndarray, "x y z"],
    prompts: Sequence[Sequence[Prompt]],
    volume: VolumeConfig,
) -> Episode:
    """Images, the target's first, with the target's mask and the prompts of each context.

    `volume` sets the smoothing of the prompts and the registration of the context images.
    """
    target, contexts = images[0], images[1:]
    contexts, channels = context_inputs(target, contexts, prompts, volume)
    return _episode([target, *contexts], truth, channels[..., None])


def paired_episode(
    images: Sequence[Float[np.ndarray, "x y z"]], outputs: Sequence[Float[np.ndarray, "x y z"]]
) -> Episode:
    """An image-to-image task: images, the target's first, and the output for each of them."""
    return _episode(images, outputs[0], _with_channel(outputs[1:]))


def _episode(
    images: Sequence[np.ndarray],
    truth: np.ndarray,
    context_prompts: Float[np.ndarray, "context x y z 1"],
) -> Episode:
    return Episode(
        _with_channel(images[:1])[0],
        _with_channel([truth])[0],
        _with_channel(images[1:]),
        context_prompts,
        np.ones(len(context_prompts), np.float32),
        np.zeros(0, np.int32),
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


def most_united(settings: EpisodeConfig) -> int:
    """The length of `Episode.structures` in training."""
    return settings.max_labels if settings.structures == "random" else 1


def _filled_up(numbers: Sequence[int], settings: EpisodeConfig) -> Int32[np.ndarray, " united"]:
    filled_up = np.full(most_united(settings), -1, np.int32)
    filled_up[: len(numbers)] = numbers
    return filled_up


def context_sizes(settings: EpisodeConfig, multiple: int) -> list[int]:
    """The sizes of the context sets of a run, filled to a multiple: each is compiled once."""
    fewest, most = settings.contexts
    sizes = {*range(fewest, most + 1), settings.common_contexts or most}
    return sorted({size + -size % multiple for size in sizes})


def _with_channel(volumes: Sequence[np.ndarray]) -> Float[np.ndarray, "n x y z 1"]:
    stacked = np.empty((len(volumes), *volumes[0].shape, 1), np.float32)
    for place, volume in zip(stacked, volumes, strict=True):
        place[..., 0] = volume
    return stacked


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
