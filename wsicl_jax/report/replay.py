"""Cases to look at: which ones, and what the network was shown and found in them."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.data.episodes.sources import mask_of
from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.episode_list import read_list
from wsicl_jax.evaluate.planning import Planned, cases_of
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.prompted_episodes import prompted
from wsicl_jax.evaluate.records import Score, read_about
from wsicl_jax.geometry.axes import spacing_of
from wsicl_jax.model.dual_branch import THRESHOLD
from wsicl_jax.prompts import box_around
from wsicl_jax.weights.networks import find_network

Rank = Literal["best", "median", "worst"]


@dataclass(frozen=True, eq=False)
class GalleryContext:
    """A context image as the network saw it, and the structure, which it did not see."""

    name: str
    image: Float[np.ndarray, "x y z"]
    prompts: Float[np.ndarray, "x y z"]
    """The prompt channel."""
    truth: Bool[np.ndarray, "x y z"]


@dataclass(frozen=True, eq=False)
class GalleryCase:
    """A target with its context set, all on the working grid (axes in RAS+ order)."""

    rank: Rank
    score: Score
    spacing_mm: tuple[float, float, float]
    """Of the working grid, for this target."""
    image: Float[np.ndarray, "x y z"]
    truth: Bool[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    """What the network found."""
    contexts: tuple[GalleryContext, ...]


def replay(directories: Sequence[Path], scores: Sequence[Score]) -> list[GalleryCase]:
    """In-context scores of sweeps, run again to be looked at: ranked best, median, worst in turn.

    `scores` are of one data set after another, three of each: the best, the median and the worst.

    Raises:
        WsiclError: a checkpoint, an episode list or a store is no longer where it was, or has
            changed since.
    """
    network, data = cache(_network), cache(_planned)
    ranks: tuple[Rank, ...] = get_args(Rank)
    found = []
    for score, rank in zip(scores, itertools.cycle(ranks), strict=False):
        for model, listed in _sources(directories, score):
            planned = data(*listed)
            if any(e.name == score.episode for e in planned.episodes.episodes):
                found.append(_shown(network(*model), planned, score, rank))
                break
        else:
            raise DataError(
                f"no sweep has a checkpoint of {score.model} and the list of {score.data_set} with "
                f"{score.episode}: its masks came from elsewhere"
            )
    return found


def _sources(
    directories: Sequence[Path], score: Score
) -> Iterator[tuple[tuple[str, str], tuple[Path, str]]]:
    """Path and digest of the checkpoint and of the list in every sweep that has both."""
    # A data set's name in a score may end with a channel.
    names = (score.data_set, score.data_set.rpartition(", ")[0])
    for directory in directories:
        about = read_about(directory)
        model = about.get("models", {}).get(score.model, {})
        sets = about.get("data_sets", {})
        if "path" in model and (name := next((n for n in names if n in sets), None)):
            place = directory / str(sets[name]["episodes"])
            yield (str(model["path"]), str(model["digest"])), (place, str(sets[name]["digest"]))


def _network(path: str, digest: str) -> Predictor:
    stored = find_network(path)
    if stored.digest != digest:
        raise DataError(f"{path} is another checkpoint than the one that was scored")
    return Predictor(stored.load(), stored.experiment.volume)


def _planned(path: Path, digest: str) -> Planned:
    listed = read_list(path)
    if listed.digest != digest:
        raise DataError(f"{path} is another list of episodes than the one that was scored")
    return Planned(listed, cases_of(listed))


def _shown(network: Predictor, planned: Planned, score: Score, rank: Rank) -> GalleryCase:
    listed, cases = planned
    (episode,) = (e for e in listed.episodes if e.name == score.episode)
    kind, count, contexts = score.kind, score.prompts, score.contexts
    shown = prompted(network.volume, listed, cases, episode, kind, count, contexts)
    output = network.outputs([shown.episode], [contexts])[0, 0]
    labels = listed.structures[episode.structure].labels
    grid = cases.grid(episode.target, episode.channel, network.volume)
    names = episode.contexts[:contexts]
    subjects = [
        cases.subject(
            name,
            episode.channel,
            network.volume,
            box_around(prompts, cases.label(name).shape),
        )
        for name, prompts in zip(names, shown.prompts, strict=True)
    ]
    # The working grid in RAS+: as many mm as what it covers has, over its own voxels.
    spacing = [spacing_of(cases.affine(episode.target))[axis] for axis in grid.order]
    sides = zip(spacing, grid.covered.extent, grid.grid, strict=True)
    x, y, z = (mm * old / new for mm, old, new in sides)
    return GalleryCase(
        rank,
        score,
        (x, y, z),
        shown.episode.target[..., 0],
        shown.episode.truth[..., 0] > 0,
        output > THRESHOLD,
        tuple(
            GalleryContext(
                name,
                shown.episode.context_images[i, ..., 0],
                shown.episode.context_prompts[i, ..., 0],
                mask_of(context[1], labels),
            )
            for i, (name, context) in enumerate(zip(names, subjects, strict=True))
        ),
    )
