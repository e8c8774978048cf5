"""Models of a sweep that need no network, for a trained one to be compared with.

Both are shown what a network is shown. The prompt mean looks at no image: it says how far the
places of the prompts alone go. The intensity model knows how bright the structure is, and about
where it lies.

Their maps are cut where the mean Dice of the very targets that are scored is best, which no method
could know beforehand: generous to the baselines, and never to the networks.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from wsicl_jax.config import BaselineName, EvaluatedKind, SweepConfig, VolumeConfig
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.evaluate.cases import Cases, mask
from wsicl_jax.evaluate.episode_list import EpisodeList, ListedEpisode
from wsicl_jax.evaluate.in_context import fewer, scored, show
from wsicl_jax.evaluate.records import Score
from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.prompts import ONCE_PER_IMAGE, annotation_seconds
from wsicl_jax.storage.digests import digest_of
from wsicl_jax.terminal.progress import track

_VERSION = 1
"""Of both methods: with another number, they are scored anew."""

SHARES = np.arange(1, 20, dtype=np.float32) / 20
"""Where a map may be cut, as shares of its maximum."""

_LEAST_SPREAD = 0.01
"""Standard deviation of the intensities, in [0, 1], that a single voxel is given."""

_METHODS: dict[BaselineName, str] = {
    "prompt_mean": "mean of the context images' prompt channels",
    "intensity": "Gaussian of the intensities below the prompts, within their mean bounding box",
}


class Baseline(NamedTuple):
    """In the place of a network: a map in [0, 1] for every episode, from plain arithmetic."""

    name: BaselineName
    volume: VolumeConfig
    manifest: None = None
    """It was trained on nothing."""

    @property
    def digest(self) -> str:
        """Hash of all that its maps depend on besides the episode."""
        volume = self.volume
        return digest_of([self.name, _VERSION, volume.grid, volume.percentiles, volume.crop])

    @property
    def about(self) -> dict[str, Any]:
        """What a sweep says of it."""
        return {
            "baseline": _METHODS[self.name],
            "cut": "where the mean Dice of the scored targets themselves is best",
            "grid": self.volume.grid,
            "percentiles": self.volume.percentiles,
            "crop": self.volume.crop,
            "version": _VERSION,
            "digest": self.digest,
        }

    def maps(self, episode: Episode, sizes: Sequence[int]) -> Float[np.ndarray, "size x y z"]:
        """One map for each size of the context set, of its first contexts."""
        answer = prompt_means if self.name == "prompt_mean" else intensity_maps
        return answer(episode, sizes)


def baselines_of(config: SweepConfig, volumes: Sequence[VolumeConfig]) -> list[Baseline]:
    """The baselines of a sweep, on the first of its networks' working grids.

    Without a network, on the sweep's `synthetic_grid`, with intensities scaled by default. They see
    prompts as they are, whatever smoothing a network gives them.
    """
    volume = volumes[0] if volumes else VolumeConfig(grid=config.synthetic_grid)
    volume = replace(volume, prompt_smoothing=0.0)
    return [Baseline(name, volume) for name in dict.fromkeys(config.baselines)]


def prompt_means(episode: Episode, sizes: Sequence[int]) -> Float[np.ndarray, "size x y z"]:
    """The mean of the first contexts' prompt channels, for each size of the context set."""
    sums = np.cumsum(episode.context_prompts[..., 0], axis=0)
    return np.stack([sums[size - 1] / np.float32(size) for size in sizes])


def intensity_maps(episode: Episode, sizes: Sequence[int]) -> Float[np.ndarray, "size x y z"]:
    """How well the target's intensities fit those below the first contexts' prompts.

    exp(-z^2 / 2), z from the mean and the standard deviation of all voxels whose prompt channel
    is above 0, within the box whose faces are the means of those around each context's prompts; 0
    outside of it. Contexts without prompts don't count; with no others the map is 0.
    """
    target, prompted = episode.target[..., 0], episode.context_prompts[..., 0] > 0
    images = episode.context_images[..., 0]
    values = [image[inside] for image, inside in zip(images, prompted, strict=True)]
    boxes = [Box.around(inside) for inside in prompted]
    maps = np.zeros((len(sizes), *target.shape), np.float32)
    for answer, size in zip(maps, sizes, strict=True):
        if not (around := [box for box in boxes[:size] if box]):
            continue
        below = np.concatenate(values[:size]).astype(np.float64)
        low, high = np.mean(around, axis=0)
        # Voxels whose centres are inside.
        sides = [np.arange(side) + 0.5 for side in target.shape]
        within = np.ix_(*((a <= x) & (x < b) for x, a, b in zip(sides, low, high, strict=True)))
        z = (target[within] - below.mean()) / max(below.std(), _LEAST_SPREAD)
        answer[within] = np.exp(-(z**2) / 2)
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
    """The scores of a baseline, as `score_in_context` gives those of a network.

    Each target's map, on its own grid, is cut at a share of its maximum: the one of `SHARES` with
    the best mean Dice over all targets of the structure (and channel) at this size of the context
    set, the lowest of equals. It is chosen on what is scored, in the baseline's favour.

    Raises:
        DataError: the list lacks the kind, or has fewer contexts or prompts; a case cannot be read.
    """
    sizes = sorted(set(sizes))
    episodes.check(sizes[-1], kind, prompts)
    together: dict[tuple[str, str], list[ListedEpisode]] = {}
    for episode in episodes.episodes:
        together.setdefault((episode.structure, episode.channel), []).append(episode)
    scores: list[Score] = []
    count = 1 if kind in ONCE_PER_IMAGE else prompts
    title = f"{episodes.data_set}: {model}, {kind}" + (
        "" if kind in ONCE_PER_IMAGE else f" x {count}"
    )
    with track(len(episodes.episodes), title, show=is_leader()) as bar:
        for group in together.values():
            found: list[list[_Answer]] = []
            for episode in group:
                found.append(_answers(baseline, episodes, cases, episode, kind, count, sizes))
                bar.advance()
            per_size = zip(*found, strict=True)
            best = [np.mean([one.dice for one in same], axis=0).argmax() for same in per_size]
            scores += [
                scored(
                    answer.levels.above(int(cut)),
                    episodes,
                    cases,
                    episode,
                    tolerance_mm,
                    model=model,
                    protocol="in_context",
                    kind=kind,
                    prompts=count,
                    contexts=size,
                    seconds=answer.seconds,
                    fewer=answer.fewer,
                )
                for episode, answers in zip(group, found, strict=True)
                for size, cut, answer in zip(sizes, best, answers, strict=True)
            ]
    return scores


class _Levels(NamedTuple):
    """A map on a target's own grid, as far as `SHARES` can tell its values apart.

    All of a structure are kept until it is known where to cut; most of a map is 0.
    """

    shape: Shape3
    box: Box
    """Where any share of the maximum is exceeded."""
    counts: UInt8[np.ndarray, "x y z"]
    """How many shares a voxel exceeds, inside the box."""

    @classmethod
    def of(cls, values: Float[np.ndarray, "X Y Z"]) -> "_Levels":
        counts = np.searchsorted(SHARES * values.max(), values).astype(np.uint8)
        box = Box.around(counts) or Box((0, 0, 0), (0, 0, 0))
        return cls(values.shape, box, counts[box.slices].copy())

    def above(self, cut: int) -> Bool[np.ndarray, "X Y Z"]:
        """The mask above one of the shares."""
        found = np.zeros(self.shape, bool)
        found[self.box.slices] = self.counts > cut
        return found

    def dice(self, truth: Bool[np.ndarray, "X Y Z"]) -> Float[np.ndarray, " share"]:
        """What `metrics.dice` gives for each of the masks, from one count of voxels."""
        common = _exceeding(self.counts[truth[self.box.slices]])
        both = _exceeding(self.counts) + np.count_nonzero(truth)
        return np.where(both > 0, 2 * common / np.maximum(both, 1), 1.0)


def _exceeding(counts: UInt8[np.ndarray, "..."]) -> Integer[np.ndarray, " share"]:
    """Voxels above each share."""
    each = np.bincount(counts.ravel(), minlength=len(SHARES) + 1)
    return each[::-1].cumsum()[::-1][1:]


class _Answer(NamedTuple):
    """What was found in a target with one size of the context set, and what that cost."""

    levels: _Levels
    dice: Float[np.ndarray, " share"]
    seconds: float
    fewer: int


def _answers(
    baseline: Baseline,
    episodes: EpisodeList,
    cases: Cases,
    episode: ListedEpisode,
    kind: EvaluatedKind,
    count: int,
    sizes: Sequence[int],
) -> list[_Answer]:
    shown = show(baseline.volume, episodes, cases, episode, kind, count, sizes[-1])
    truth = mask(cases, episode.target, episodes.structures[episode.structure].labels)
    grid = cases.grid(episode.target, episode.channel, baseline.volume)
    answers = []
    for size, values in zip(sizes, baseline.maps(shown.episode, sizes), strict=True):
        levels = _Levels.of(grid.restore(values))
        used = shown.prompts[:size]
        seconds = sum(map(annotation_seconds, used))
        answers.append(_Answer(levels, levels.dice(truth), seconds, fewer(used, kind, count)))
    return answers
