"""Baselines: simple methods without a network, which receive the same episodes.

The prompt mean uses no image: it measures what the positions of the prompts alone achieve. The
intensity model uses the intensities below the prompts and the box around them. The registered mean
is the prompt mean after registration of the context images to the target; its prompts are smoothed
as those of the network.

The threshold of their maps is the one with the best mean Dice on the scored targets themselves. No
method could know it beforehand: this favours the baselines over the networks.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from wsicl_jax.config import BaselineName, EvaluatedKind, SweepConfig, VolumeConfig
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.evaluate.case_sources import Cases
from wsicl_jax.evaluate.episode_list import EpisodeList, ListedEpisode
from wsicl_jax.evaluate.prompted_episodes import about_prompts, passes, prompted, score_of, truth_of
from wsicl_jax.evaluate.records import Score
from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.geometry.registration import VERSION as REGISTRATION_VERSION
from wsicl_jax.prompts import ONCE_PER_IMAGE
from wsicl_jax.storage.digests import digest_of
from wsicl_jax.terminal.progress import track

_VERSION = 1
"""Of both methods: a new number makes sweeps score them again."""

SHARES = np.arange(1, 20, dtype=np.float32) / 20
"""Possible thresholds of a map, as shares of its maximum."""

_MIN_SD = 0.01
"""Smallest standard deviation of intensities in [0, 1], for few prompted voxels."""

_METHODS: dict[BaselineName, str] = {
    "prompt_mean": "mean of the context images' prompt channels",
    "registered_mean": "mean of the prompt channels of registered context images",
    "intensity": "Gaussian of the intensities below the prompts, within their mean bounding box",
}


class Baseline(NamedTuple):
    """A method that returns a map in [0, 1] for every episode."""

    name: BaselineName
    volume: VolumeConfig
    manifest: None = None
    """None: it has no training data."""

    @property
    def digest(self) -> str:
        """Hash of all that its maps depend on besides the episode."""
        volume = self.volume
        registration = (
            [REGISTRATION_VERSION, volume.prompt_smoothing] if volume.registration else []
        )
        return digest_of(
            [self.name, _VERSION, volume.grid, volume.percentiles, volume.crop, *registration]
        )

    @property
    def about(self) -> dict[str, Any]:
        """What a sweep records about it."""
        return {
            "baseline": _METHODS[self.name],
            "threshold": "where the mean Dice of the scored targets themselves is best",
            "grid": self.volume.grid,
            "percentiles": self.volume.percentiles,
            "crop": self.volume.crop,
            "version": _VERSION,
            "digest": self.digest,
        }

    def maps(self, episode: Episode, sizes: Sequence[int]) -> Float[np.ndarray, "size x y z"]:
        """One map for each size of the context set, of its first contexts."""
        method = intensity_maps if self.name == "intensity" else prompt_means
        return method(episode, sizes)


def baselines_of(config: SweepConfig, volumes: Sequence[VolumeConfig]) -> list[Baseline]:
    """The baselines of a sweep, on the first of its networks' working grids.

    Without a network, on the sweep's `synthetic_grid`, with the default scaling of intensities.
    Only the registered mean registers context images, and smooths prompts as the network does.
    """
    volume = volumes[0] if volumes else VolumeConfig(grid=config.synthetic_grid)
    plain = replace(volume, prompt_smoothing=0.0, registration=False)
    registering = replace(volume, registration=True)
    return [
        Baseline(name, registering if name == "registered_mean" else plain)
        for name in dict.fromkeys(config.baselines)
    ]


def prompt_means(episode: Episode, sizes: Sequence[int]) -> Float[np.ndarray, "size x y z"]:
    """The mean of the first contexts' prompt channels, for each size of the context set."""
    sums = np.cumsum(episode.context_prompts[..., 0], axis=0)
    return np.stack([sums[size - 1] / np.float32(size) for size in sizes])


def intensity_maps(episode: Episode, sizes: Sequence[int]) -> Float[np.ndarray, "size x y z"]:
    """How well the target's intensities fit those below the first contexts' prompts.

    exp(-z^2 / 2) inside a box and 0 outside of it. z is from the mean and the standard deviation
    of all voxels whose prompt channel is above 0. Each face of the box is the mean of the faces of
    the boxes around the prompts of each context. Contexts without prompts do not count; if no
    context has prompts, the map is 0.
    """
    target, prompted = episode.target[..., 0], episode.context_prompts[..., 0] > 0
    images = episode.context_images[..., 0]
    values = [image[inside] for image, inside in zip(images, prompted, strict=True)]
    boxes = [Box.around(inside) for inside in prompted]
    maps = np.zeros((len(sizes), *target.shape), np.float32)
    for fit, size in zip(maps, sizes, strict=True):
        if not (prompt_boxes := [box for box in boxes[:size] if box]):
            continue
        prompted_values = np.concatenate(values[:size]).astype(np.float64)
        low, high = np.mean(prompt_boxes, axis=0)
        # Voxels with their centres inside.
        sides = [np.arange(side) + 0.5 for side in target.shape]
        within = np.ix_(*((a <= x) & (x < b) for x, a, b in zip(sides, low, high, strict=True)))
        z = (target[within] - prompted_values.mean()) / max(prompted_values.std(), _MIN_SD)
        fit[within] = np.exp(-(z**2) / 2)
    return maps


def score_baseline(
    baseline: Baseline,
    episodes: EpisodeList,
    cases: Cases,
    *,
    model: str,
    kind: EvaluatedKind,
    prompts: int,
    sizes: Sequence[int],
    tolerance_mm: float,
) -> list[Score]:
    """The scores of a baseline, as `score_in_context` returns those of a network.

    The threshold of a map, on the target's own grid, is a share of its maximum: the one of `SHARES`
    with the best mean Dice over all targets of the structure (and channel) at this size of the
    context set, the lowest of equals.

    Raises:
        DataError: the list lacks the kind, or has fewer contexts or prompts; a case cannot be read.
    """
    sizes = sorted(set(sizes))
    episodes.check(sizes[-1], kind, prompts)
    groups: dict[tuple[str, str], list[ListedEpisode]] = {}
    for episode in episodes.episodes:
        groups.setdefault((episode.structure, episode.channel), []).append(episode)
    scores: list[Score] = []
    count = 1 if kind in ONCE_PER_IMAGE else prompts
    title = f"{episodes.data_set}: {model}, {kind}" + (
        "" if kind in ONCE_PER_IMAGE else f" x {count}"
    )
    with track(len(episodes.episodes), title, show=is_leader()) as bar:
        for group in groups.values():
            maps: list[list[_Map]] = []
            for episode in group:
                maps.append(_maps(baseline, episodes, cases, episode, kind, count, sizes))
                bar.advance()
            per_size = zip(*maps, strict=True)
            best = [np.mean([one.dice for one in same], axis=0).argmax() for same in per_size]
            scores += [
                score_of(
                    one.levels.above(int(threshold)),
                    episodes,
                    cases,
                    episode,
                    tolerance_mm,
                    model=model,
                    protocol="in_context",
                    contexts=size,
                    **one.about_prompts,
                )
                for episode, of_episode in zip(group, maps, strict=True)
                for size, threshold, one in zip(sizes, best, of_episode, strict=True)
            ]
    return scores


class _Levels(NamedTuple):
    """A map on a target's own grid, reduced to how many of `SHARES` each voxel exceeds.

    All maps of a structure stay in memory until their threshold is known; most of a map is 0.
    """

    shape: Shape3
    box: Box
    """Around the voxels that exceed any share of the maximum."""
    counts: UInt8[np.ndarray, "x y z"]
    """How many shares a voxel exceeds, inside the box."""

    @classmethod
    def of(cls, values: Float[np.ndarray, "X Y Z"]) -> "_Levels":
        counts = np.searchsorted(SHARES * values.max(), values).astype(np.uint8)
        box = Box.around(counts) or Box((0, 0, 0), (0, 0, 0))
        return cls(values.shape, box, counts[box.slices].copy())

    def above(self, threshold: int) -> Bool[np.ndarray, "X Y Z"]:
        """The mask above `SHARES[threshold]` of the maximum."""
        mask = np.zeros(self.shape, bool)
        mask[self.box.slices] = self.counts > threshold
        return mask

    def dice(self, truth: Bool[np.ndarray, "X Y Z"]) -> Float[np.ndarray, " share"]:
        """The Dice of each of the masks, from one count of voxels."""
        common = _exceeding(self.counts[truth[self.box.slices]])
        both = _exceeding(self.counts) + np.count_nonzero(truth)
        return np.where(both > 0, 2 * common / np.maximum(both, 1), 1.0)


def _exceeding(counts: UInt8[np.ndarray, "..."]) -> Integer[np.ndarray, " share"]:
    """Voxels above each share."""
    each = np.bincount(counts.ravel(), minlength=len(SHARES) + 1)
    return each[::-1].cumsum()[::-1][1:]


class _Map(NamedTuple):
    """The map of a target with one size of the context set."""

    levels: _Levels
    dice: Float[np.ndarray, " share"]
    about_prompts: dict[str, Any]


def _maps(
    baseline: Baseline,
    episodes: EpisodeList,
    cases: Cases,
    episode: ListedEpisode,
    kind: EvaluatedKind,
    count: int,
    sizes: Sequence[int],
) -> list[_Map]:
    truth = truth_of(episodes, cases, episode)
    grid = cases.grid(episode.target, episode.channel, baseline.volume)
    maps = []
    for sizes_of_pass in passes(baseline.volume, sizes):
        most = sizes_of_pass[-1]
        inputs = prompted(baseline.volume, episodes, cases, episode, kind, count, most)
        of_pass = baseline.maps(inputs.episode, sizes_of_pass)
        for size, values in zip(sizes_of_pass, of_pass, strict=True):
            levels = _Levels.of(grid.restore(values))
            about = about_prompts(inputs.prompts[:size], kind, count)
            maps.append(_Map(levels, levels.dice(truth), about))
    return maps
